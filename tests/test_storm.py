"""Many tasks in random trouble. Every one must end, cancelled or with its value, on its thread.

The seeds are fixed, the interleavings are not. The short form always runs; the long one, which
runs it 20 times in a row on a larger scale, is behind ``-m storm``; ``-m soak`` looks at memory.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.loops import LoopKind
from helpers.storm import OopsError, Storm, here, number_of_this, run_storm

from threadhop import threadpool

#: The pools.
A, B = 0, 1


class StormOfBlocks(Storm):
    """Each trip is a block, or one in another."""

    sizes = ((3, "A"), (2, "B"))

    async def task(self, number: int, chance: random.Random) -> int:
        number_of_this.set(number)
        for _ in range(self.trips):
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

    async def _plain(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[A]):
            self.work(number, A, chance)

    async def _nested(self, number: int, chance: random.Random) -> None:
        # Always A before B: the other order, in another task, would be a deadlock by design.
        async with threadpool(self.pools[A]):
            outer = here()
            self.work(number, A, chance)
            try:
                async with threadpool(self.pools[B]):
                    self.work(number, B, chance)
                    if chance.random() < 0.3:
                        async with threadpool(self.pools[A]):
                            self.check(here() == outer, "not the worker that it holds")
                            self.work(number, A, chance)
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
            async with threadpool(self.pools[A]):
                self.work(number, A, chance)
                raise OopsError(number)
        except OopsError as error:
            self.check(error.args == (number,), "the error of another task")

    async def _refused(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[B]):
            self.work(number, B, chance)
            try:
                await asyncio.sleep(0)
            except RuntimeError:
                self.work(number, B, chance)
            else:
                self.check(False, "an await in a body was not refused")

    async def _swallowing(self, number: int, chance: random.Random) -> None:
        """A task that does not want to be cancelled this time."""
        try:
            async with threadpool(self.pools[A]):
                self.work(number, A, chance)
        except asyncio.CancelledError as error:
            self.check(error.args == ("storm",), "not the message")

    async def _timeout(self, number: int, chance: random.Random) -> None:
        try:
            async with asyncio.timeout(chance.choice([0, 0.0005, 0.005])):
                async with threadpool(self.pools[B]):
                    self.work(number, B, chance)
        except TimeoutError:
            pass


LONG = [pytest.param(seed, 400, marks=pytest.mark.storm) for seed in range(1000, 1020)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("seed", "tasks"), [(1, 100), (2, 100), *LONG])
def test_every_task_of_a_storm_ends(loops: LoopKind, seed: int, tasks: int) -> None:
    storm = run_storm(StormOfBlocks, loops, seed, tasks, trips=5)
    assert storm.values >= tasks // 2
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
