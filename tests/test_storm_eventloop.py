"""Many tasks nest blocks and loop parts, in random trouble. Every one must end, on its thread.

The seeds are fixed, the interleavings are not. The short form always runs; the long one, 20 times
in a row on a larger scale, is behind ``-m storm``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import random
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from _loops import LoopKind

from threadhop import eventloop, exec_in_eventloop, threadpool

here = threading.get_ident
number_of_this = contextvars.ContextVar[int]("number_of_this")
#: How deep a block and its part nest in one another.
DEPTH = 3


class OopsError(Exception):
    """What a body or a part raises on purpose."""


class Storm:
    """*tasks* tasks go there and back, each *trips* times, while others cancel half of them."""

    def __init__(self, seed: int, tasks: int, trips: int, *, has_timeouts: bool) -> None:
        self.random = random.Random(seed)
        self.tasks = tasks
        self.trips = trips
        self.has_timeouts = has_timeouts
        self.values = 0
        self.cancelled = 0
        #: By the thread that runs it: which task is in a body there, not counting parked ones.
        self.inside: dict[int, int] = {}
        self.broken: list[str] = []

    def check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(text)

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop_thread = here()
        # A task goes from a pool to itself or to one further right, or it might wait in a circle.
        self.pools = [ThreadPoolExecutor(size, thread_name_prefix=name) for size, name in SIZES]
        try:
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
            for pool, (workers, _) in zip(self.pools, SIZES, strict=True):
                barrier = threading.Barrier(workers)
                futures = [pool.submit(barrier.wait, 5) for _ in range(workers)]
                await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for pool in self.pools:
                pool.shutdown()
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
        for _ in range(self.trips):
            try:
                await self._trip(number, chance)
            except OopsError as error:
                self.check(error.args == (number,), "the error of another task")
            finally:
                self.check(here() == self.loop_thread, "not on the loop after a trip")
            self.check(number_of_this.get() == number, "the Context of another task")
        return number

    async def _trip(self, number: int, chance: random.Random) -> None:
        kind = chance.choice(["block", "block", "generator", "timeout"])
        if kind == "generator":
            async with aclosing(self._rows(number, chance)) as rows:
                async for _ in rows:
                    self.check(here() == self.loop_thread, "a consumer off the loop")
                    await asyncio.sleep(0)
                    if chance.random() < 0.3:
                        break
        elif kind == "timeout" and self.has_timeouts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0, 0.0005, 0.005])):
                    await self._block(number, chance, 0, DEPTH)
        else:
            await self._block(number, chance, 0, DEPTH)

    def _work(self, number: int, pool: int, chance: random.Random) -> None:
        """In a body, with nothing of another task in the same thread at the same time."""
        me = here()
        name = threading.current_thread().name
        self.check(name.startswith(SIZES[pool][1]), f"{name} is not of pool {pool}")
        self.check(me not in self.inside, "two bodies in one thread")
        self.inside[me] = number
        self.check(number_of_this.get() == number, "the Context of another task, in a body")
        for _ in range(chance.randrange(50)):
            pass
        self.check(self.inside.pop(me) == number, "another body came between")
        if chance.random() < 0.05:
            raise OopsError(number)

    async def _block(self, number: int, chance: random.Random, least: int, depth: int) -> None:
        """A block in one of the pools from *least* on, with parts in it that may nest more."""
        # Not to the left of the pools that the task holds; to the same one it goes back.
        pool = chance.randrange(least, len(self.pools))
        origin = here()
        try:
            async with threadpool(self.pools[pool]):
                worker = here()
                try:
                    self._work(number, pool, chance)
                    for _ in range(chance.randrange(1, 3)):
                        await self._from_body(number, chance, pool, depth)
                        self.check(here() == worker, "another worker after a part")
                        self._work(number, pool, chance)
                finally:
                    self.check(here() == worker, "the finally of a body in another thread")
        finally:
            self.check(here() == origin, "a block was not left")

    async def _from_body(self, number: int, chance: random.Random, pool: int, depth: int) -> None:
        worker = here()
        kind = chance.choice(["part", "part", "swallowing part", "call", "block"])
        try:
            if kind == "call":
                got = exec_in_eventloop(self._called, number)
                self.check(got == number, "the result of another call")
            elif kind == "block":
                if depth > 1:
                    await self._block(number, chance, pool, depth - 1)
            else:
                await self._part(number, chance, pool, depth)
        except asyncio.CancelledError:
            self.check(here() == worker, "cancelled in another thread than that of the body")
            if kind != "swallowing part":
                raise

    async def _called(self, number: int) -> int:
        self.check(here() == self.loop_thread, "a call off the loop")
        self.check(number_of_this.get() == number, "the Context of another task, in a call")
        await asyncio.sleep(0)
        return number

    async def _part(self, number: int, chance: random.Random, pool: int, depth: int) -> None:
        async with eventloop():
            try:
                self.check(here() == self.loop_thread, "a part off the loop")
                self.check(number_of_this.get() == number, "the Context of another task, in a part")
                if chance.random() < 0.7:
                    await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                if depth > 1 and chance.random() < 0.6:
                    await self._block(number, chance, pool, depth - 1)
                if chance.random() < 0.05:
                    raise OopsError(number)
            finally:
                self.check(here() == self.loop_thread, "the finally of a part off the loop")

    async def _rows(self, number: int, chance: random.Random) -> AsyncIterator[int]:
        async with threadpool(self.pools[0]):
            worker = here()
            try:
                for row in range(3):
                    self._work(number, 0, chance)
                    async with eventloop():
                        yield row
                    self.check(here() == worker, "another worker after a row")
            finally:
                self.check(here() == worker, "the finally of a generator in another thread")


#: Of each pool: how many workers, and how their names begin.
SIZES = ((4, "A"), (3, "B"), (2, "C"))


def run_storm(loops: LoopKind, seed: int, tasks: int, trips: int) -> Storm:
    storm = Storm(seed, tasks, trips, has_timeouts=loops.has_current_task)
    interval = sys.getswitchinterval()
    # PyPy has no such thing, and says so by ignoring it.
    sys.setswitchinterval(1e-4)
    try:
        loops.run(storm.run, timeout=18)
    finally:
        sys.setswitchinterval(interval)
    return storm


def test_every_task_of_a_storm_ends(loops: LoopKind) -> None:
    storm = run_storm(loops, seed=1, tasks=200, trips=2)
    assert storm.values >= 100
    assert storm.cancelled, "nothing was looked at"


@pytest.mark.storm
@pytest.mark.timeout(60)
@pytest.mark.parametrize("run", range(20))
def test_every_task_of_a_long_storm_ends(loops: LoopKind, run: int) -> None:
    storm = run_storm(loops, 1000 + run, tasks=200, trips=8)
    assert storm.values >= 100
    assert storm.cancelled, "nothing was looked at"
