"""Many tasks of trio in random trouble. Each one ends, on its thread, with its own variables.

The short form always runs; the long one is behind ``-m storm``.
"""

from __future__ import annotations

import contextlib
import contextvars
import random
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.places import OopsError, here

from threadhop import (
    AsyncExecutor,
    WorkerPool,
    cancellation_guard,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    threadpool,
)

trio: Any = pytest.importorskip("trio")

number_of_this = contextvars.ContextVar[int]("number_of_this")


class Storm:
    """*tasks* tasks make *trips* trips each; most trips are cancelled by a time limit."""

    def __init__(self, seed: int, tasks: int, trips: int, pools: list[ThreadPoolExecutor]) -> None:
        self.random = random.Random(seed)
        self.tasks = tasks
        self.trips = trips
        self.pools = pools
        self.home = here()
        self.ended = 0
        self.cancelled = 0
        self.broken: list[str] = []
        #: By the thread that runs it: which task is in a body there.
        self.inside: dict[int, int] = {}

    def check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(text)

    def work(self, number: int, chance: random.Random) -> None:
        """In a body."""
        me = here()
        self.check(me != self.home, "a body on the loop")
        self.check(self.inside.setdefault(me, number) == number, "two tasks in one worker")
        self.check(number_of_this.get() == number, "the variables of another task")
        if chance.random() < 0.1:
            threading.Event().wait(0.001)
        self.inside.pop(me, None)
        if chance.random() < 0.3:
            check_cancelled()

    async def run(self) -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(self.tasks):
                    chance = random.Random(self.random.random())
                    nursery.start_soon(self.task, number, chance)

    async def task(self, number: int, chance: random.Random) -> None:
        number_of_this.set(number)
        kinds: list[Callable[[int, random.Random], Awaitable[None]]] = [
            self.plain,
            self.nested,
            self.part,
            self.call_home,
            self.call,
            self.generator,
            self.guarded,
            self.nursery,
        ]
        for _ in range(self.trips):
            limit = chance.choice([0, 0.0005, 0.005, 60, 60])
            kind = chance.choice(kinds)
            with trio.move_on_after(limit) as scope:
                with contextlib.suppress(OopsError):
                    await kind(number, chance)
            self.cancelled += scope.cancelled_caught
            self.check(limit < 60 or not scope.cancelled_caught, "cancelled by nobody")
            self.check(here() == self.home, f"not on the loop after {kind.__name__}")
            self.check(number_of_this.get() == number, "the variables of another task")
        self.ended += 1

    async def plain(self, number: int, chance: random.Random) -> None:
        async with threadpool(chance.choice(self.pools)):
            self.work(number, chance)
            if chance.random() < 0.2:
                raise OopsError

    async def nested(self, number: int, chance: random.Random) -> None:
        # Always in this order: the other one, in another task, would be a deadlock by design.
        first, second = self.pools
        async with threadpool(first):
            outer = here()
            try:
                async with threadpool(second):
                    self.work(number, chance)
            finally:
                self.check(here() == outer, "another outer thread")
            self.work(number, chance)

    async def part(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[0]):
            worker = here()
            self.work(number, chance)
            try:
                async with eventloop():
                    self.check(here() == self.home, "a loop part on a worker")
                    await trio.sleep(chance.choice([0, 0.001]))
                    if chance.random() < 0.3:
                        async with threadpool(self.pools[0]):
                            self.check(here() == worker, "not the worker that it holds")
                            self.work(number, chance)
            finally:
                self.check(here() == worker, "another worker after a loop part")

    async def visit(self, number: int, chance: random.Random) -> int:
        self.check(here() == self.home, "a call that is not on the loop")
        self.check(number_of_this.get() == number, "the variables of another task")
        await trio.sleep(chance.choice([0, 0.001]))
        if chance.random() < 0.3:
            async with threadpool(self.pools[1]):
                self.work(number, chance)
        return number

    async def call_home(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[0]):
            worker = here()
            try:
                self.check(exec_in_eventloop(self.visit, number, chance) == number, "the result")
            finally:
                self.check(here() == worker, "another worker after a call")
                self.check(exec_in_eventloop(here) == self.home, "a plain function elsewhere")

    async def call(self, number: int, chance: random.Random) -> None:
        executor = AsyncExecutor(self.pools[0])
        await executor.run(self.work, number, chance)
        if chance.random() < 0.3:
            self.check(
                await executor.run(exec_in_eventloop, self.visit, number, chance) == number, "x"
            )
        async with contextlib.aclosing(
            executor.map(pow, range(5), [2] * 5, buffersize=2)
        ) as results:
            async for _ in results:
                if chance.random() < 0.1:
                    break

    async def items(self, number: int, chance: random.Random) -> AsyncGenerator[int, None]:
        async with threadpool(self.pools[0]):
            worker = here()
            try:
                for item in range(3):
                    async with eventloop():
                        yield item
                    self.work(number, chance)
            finally:
                self.check(here() == worker, "a generator ended elsewhere")

    async def generator(self, number: int, chance: random.Random) -> None:
        async with contextlib.aclosing(self.items(number, chance)) as items:
            async for _ in items:
                self.check(here() == self.home, "a consumer on a worker")
                await trio.sleep(0)
                if chance.random() < 0.2:
                    break

    async def guarded(self, number: int, chance: random.Random) -> None:
        async with cancellation_guard():
            with contextlib.suppress(BaseException):
                async with threadpool(self.pools[1]):
                    self.work(number, chance)

    async def nursery(self, number: int, chance: random.Random) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.plain_quietly, number, random.Random(chance.random()))
            async with threadpool(self.pools[1]):
                self.work(number, chance)

    async def plain_quietly(self, number: int, chance: random.Random) -> None:
        with contextlib.suppress(OopsError):
            await self.plain(number, chance)


LONG = [pytest.param(seed, 200, 30, marks=pytest.mark.storm) for seed in range(1000, 1020)]


@pytest.mark.timeout(90)
@pytest.mark.parametrize(("seed", "tasks", "trips"), [(1, 40, 10), (2, 40, 10), *LONG])
@pytest.mark.parametrize("kind", [ThreadPoolExecutor, WorkerPool])
def test_every_task_of_a_storm_over_trio_ends(
    kind: type[ThreadPoolExecutor], seed: int, tasks: int, trips: int
) -> None:
    with kind(3) as first, kind(2) as second:
        storm = Storm(seed, tasks, trips, [first, second])
        trio.run(storm.run)
        assert not storm.broken, set(storm.broken)
        assert storm.ended == tasks
        assert storm.cancelled, "nothing was looked at"
        for pool, workers in ((first, 3), (second, 2)):  # They are whole.
            barrier = threading.Barrier(workers)
            for future in [pool.submit(barrier.wait, 8) for _ in range(workers)]:
                future.result(8)
