"""Many tasks in random trouble. Every one must end, cancelled or with its value, on its thread.

The seeds are fixed, the interleavings are not. The short form always runs; the long one, which
runs it 20 times in a row on a larger scale, is behind ``-m storm``; ``-m soak`` looks at memory.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from _loops import LoopKind

from threadhop import threadpool

here = threading.get_ident
number_of_this = contextvars.ContextVar[int]("number_of_this")


class OopsError(Exception):
    """What a body raises on purpose."""


class Storm:
    """*tasks* tasks go through *blocks* blocks each, while others cancel some of them."""

    def __init__(self, seed: int, tasks: int, blocks: int, *, has_timeouts: bool) -> None:
        self.random = random.Random(seed)
        self.tasks = tasks
        self.blocks = blocks
        self.has_timeouts = has_timeouts
        self.values = 0
        self.cancelled = 0
        #: Bodies that are inside, by the thread that runs them: a thread runs one at a time.
        self.inside: dict[int, int] = {}
        self.broken: list[str] = []

    def check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(text)

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop_thread = here()
        with (
            ThreadPoolExecutor(3, thread_name_prefix="A") as self.a,
            ThreadPoolExecutor(2, thread_name_prefix="B") as self.b,
        ):
            seeds = [self.random.random() for _ in range(self.tasks)]
            tasks = [self.loop.create_task(self._task(n, seed)) for n, seed in enumerate(seeds)]
            # The others are never cancelled, so they must end with their value.
            victims = self.random.sample(tasks, self.tasks // 2)
            stop = self.loop.create_task(self._cancel_some(victims))
            _, pending = await asyncio.wait(tasks, timeout=15)
            stop.cancel()
            await asyncio.wait({stop})
            assert not pending, f"{len(pending)} tasks hang: {list(pending)[:3]}"
            for number, task in enumerate(tasks):
                if task.cancelled():
                    assert task in victims, "cancelled by nobody"
                    self.cancelled += 1
                else:
                    assert task.result() == number
                    self.values += 1
            # The pools are alive, with all their workers.
            for pool, workers in ((self.a, 3), (self.b, 2)):
                barrier = threading.Barrier(workers)
                futures = [pool.submit(barrier.wait, 5) for _ in range(workers)]
                await asyncio.gather(*map(asyncio.wrap_future, futures))
        assert not self.broken, self.broken[:5]

    async def _cancel_some(self, victims: list[asyncio.Task[Any]]) -> None:
        """Until all are done: now a few of them, now nobody, and sometimes one twice."""
        while True:
            for _ in range(self.random.randrange(3)):
                task = self.random.choice(victims)
                for _ in range(self.random.choice([1, 1, 1, 2])):
                    task.cancel("storm")
            await asyncio.sleep(self.random.choice([0, 0, 0.0005]))

    async def _task(self, number: int, seed: float) -> int:
        chance = random.Random(seed)
        number_of_this.set(number)
        for _ in range(self.blocks):
            await self._one(number, chance)
            self.check(here() == self.loop_thread, "not on the loop after a block")
            self.check(number_of_this.get() == number, "the Context of another task")
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        return number

    async def _one(self, number: int, chance: random.Random) -> None:
        kinds: list[Callable[[int, random.Random], Awaitable[None]]] = [
            self._plain,
            self._plain,
            self._nested,
            self._raising,
            self._refused,
            self._swallowing,
        ]
        if self.has_timeouts:
            kinds.append(self._timeout)
        try:
            await chance.choice(kinds)(number, chance)
        finally:
            self.check(here() == self.loop_thread, "a block was not left")

    def _body(self, number: int, prefix: str, chance: random.Random) -> None:
        me = here()
        self.check(threading.current_thread().name.startswith(prefix), f"not in {prefix}")
        self.check(me not in self.inside, "two bodies in one thread")
        self.inside[me] = number
        self.check(number_of_this.get() == number, "the Context of another task, in a body")
        for _ in range(chance.randrange(50)):
            pass
        self.check(self.inside.pop(me) == number, "another body came between")
        self.check(here() == me, "the thread changed within a body")

    async def _plain(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.a):
            self._body(number, "A", chance)

    async def _nested(self, number: int, chance: random.Random) -> None:
        # Always A before B: the other order, in another task, would be a deadlock by design.
        async with threadpool(self.a):
            outer = here()
            self._body(number, "A", chance)
            try:
                async with threadpool(self.b):
                    self._body(number, "B", chance)
                    if chance.random() < 0.3:
                        async with threadpool(self.a):
                            self.check(here() == outer, "not the worker that it holds")
                            self._body(number, "A", chance)
                    if chance.random() < 0.2:
                        raise OopsError
            except OopsError:
                pass
            except asyncio.CancelledError:
                self.check(here() == outer, "cancelled in another thread than the outer one")
                if chance.random() < 0.5:
                    raise
            self.check(here() == outer, "another outer thread")

    async def _raising(self, number: int, chance: random.Random) -> None:
        try:
            async with threadpool(self.a):
                self._body(number, "A", chance)
                raise OopsError(number)
        except OopsError as error:
            self.check(error.args == (number,), "the error of another task")

    async def _refused(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.b):
            self._body(number, "B", chance)
            try:
                await asyncio.sleep(0)
            except RuntimeError:
                self._body(number, "B", chance)
            else:
                self.check(False, "an await in a body was not refused")

    async def _swallowing(self, number: int, chance: random.Random) -> None:
        """A task that does not want to be cancelled this time."""
        try:
            async with threadpool(self.a):
                self._body(number, "A", chance)
        except asyncio.CancelledError as error:
            self.check(error.args == ("storm",), "not the message")

    async def _timeout(self, number: int, chance: random.Random) -> None:
        try:
            async with asyncio.timeout(chance.choice([0, 0.0005, 0.005])):
                async with threadpool(self.b):
                    self._body(number, "B", chance)
        except TimeoutError:
            pass


def run_storm(loops: LoopKind, seed: int, tasks: int, blocks: int = 5) -> Storm:
    storm = Storm(seed, tasks, blocks, has_timeouts=loops.has_current_task)
    interval = sys.getswitchinterval()
    # PyPy has no such thing, and says so by ignoring it.
    sys.setswitchinterval(1e-4)
    try:
        loops.run(storm.run, timeout=18)
    finally:
        sys.setswitchinterval(interval)
    return storm


@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_of_a_storm_ends(loops: LoopKind, seed: int) -> None:
    storm = run_storm(loops, seed, tasks=100)
    assert storm.values >= 50
    assert storm.cancelled, "nothing was looked at"


@pytest.mark.storm
@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", range(20))
def test_every_task_of_a_long_storm_ends(loops: LoopKind, run: int) -> None:
    storm = run_storm(loops, 1000 + run, tasks=400)
    assert storm.values >= 200
    assert storm.cancelled, "nothing was looked at"


def _resident_kib() -> int:
    """The memory of this process; its peak where there is no /proc, which can only grow too."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1])
    except OSError:
        pass
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["plain", "nested", "raising", "cancelled"])
def test_a_hundred_thousand_blocks_do_not_grow_the_process(kind: str) -> None:
    """After a warm-up of a fifth, the rest adds less than 8 MiB, which is 100 bytes a block."""
    import gc

    async def one(a: ThreadPoolExecutor, b: ThreadPoolExecutor) -> None:
        if kind == "plain":
            async with threadpool(a):
                pass
        elif kind == "nested":
            async with threadpool(a), threadpool(b):
                pass
        elif kind == "raising":
            try:
                async with threadpool(a):
                    raise OopsError
            except OopsError:
                pass
        else:
            task = asyncio.get_running_loop().create_task(one_cancelled(a))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    async def one_cancelled(pool: ThreadPoolExecutor) -> None:
        async with threadpool(pool):
            pass

    async def main() -> int:
        with ThreadPoolExecutor(2) as a, ThreadPoolExecutor(2) as b:
            for _ in range(20_000):
                await one(a, b)
            gc.collect()
            before = _resident_kib()
            for _ in range(80_000):
                await one(a, b)
            gc.collect()
            return _resident_kib() - before

    grown = asyncio.run(main())
    # PyPy's arenas and compiled code reach their plateau late.
    bound = 100_000 if sys.implementation.name == "pypy" else 8_192
    assert grown < bound, f"{grown} KiB"
