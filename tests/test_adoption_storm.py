"""Tasks take generators over from each other at random, and all of them share a part object.

Each line of a generator runs where it belongs, and an ``on_cancel`` is told of the task that is in
its body, and of no other.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any

import pytest
from helpers.loops import IS_SHORT, LoopKind
from helpers.places import here
from helpers.steps import until

from threadhop import (
    WorkerPool,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    on_cancel,
    threadpool,
)

SEEDS = range(5 if IS_SHORT else 20)
TASKS = 6
#: Seconds within which a task is cancelled.
SOON = 0.02


class Managed:
    """Enters another manager by hand."""

    def __init__(self, manager: Any) -> None:
        self.manager = manager

    async def __aenter__(self) -> None:
        await self.manager.__aenter__()

    async def __aexit__(self, *exc_info: Any) -> Any:
        return await self.manager.__aexit__(*exc_info)


class Stacked(Managed):
    """Has an exit stack enter it."""

    async def __aenter__(self) -> None:
        self.stack = AsyncExitStack()
        await self.stack.enter_async_context(self.manager)

    async def __aexit__(self, *exc_info: Any) -> Any:
        return await self.stack.__aexit__(*exc_info)


def is_cancelled() -> bool:
    try:
        check_cancelled()
    except asyncio.CancelledError:
        return True
    return False


class Storm:
    def __init__(self, seed: int, *, has_timeouts: bool = True) -> None:
        self.has_timeouts = has_timeouts
        self.chance = random.Random(seed)
        self.pools = [WorkerPool(6, max_threads=200) for _ in range(2)]
        self.shared = eventloop()
        self.loop_thread = here()
        self.sources: list[Any] = []
        self.broken: list[str] = []

    def check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(f"{text}, in {threading.current_thread().name}")

    def happens(self, share: float) -> bool:
        return self.chance.random() < share

    def block(self) -> Any:
        manager = threadpool(self.chance.choice(self.pools))
        return self.chance.choice([manager, Managed(manager)])

    def part(self) -> Any:
        manager = self.chance.choice([self.shared, eventloop()])
        return self.chance.choice([manager, Managed(manager), Stacked(manager)])

    @contextmanager
    def watched(self) -> Iterator[threading.Event]:
        """On a worker."""
        worker, told, was_cancelled = here(), threading.Event(), False
        with on_cancel(told.set):
            try:
                yield told
            finally:
                was_cancelled = here() == worker and is_cancelled()
        if here() == worker:
            self.check(told.is_set() or not was_cancelled, "not told")
            self.check(is_cancelled() or not told.is_set(), "told of nothing")

    def work(self) -> None:
        with self.watched() as told:
            told.wait(self.chance.random() / 500)

    async def rows(self) -> AsyncIterator[int]:
        async with self.block():
            worker = here()
            self.check(worker != self.loop_thread, "the body begins")
            try:
                with self.watched():
                    async with AsyncExitStack() as stack:
                        if self.happens(0.4):
                            await stack.enter_async_context(self.block())
                        inner = here()
                        for number in range(self.chance.randrange(1, 4)):
                            async with self.part(), AsyncExitStack() as parts:
                                if self.happens(0.3):
                                    await parts.enter_async_context(self.part())
                                self.check(here() == self.loop_thread, "the part begins")
                                yield number
                                if self.happens(0.3):
                                    await asyncio.sleep(0)
                                self.check(here() == self.loop_thread, "the part goes on")
                            self.check(here() == inner, "the body goes on after a part")
                            if self.happens(0.5):
                                self.work()
                            if self.happens(0.2):
                                exec_in_eventloop(asyncio.sleep, 0)
                    self.check(here() == worker, "the body goes on")
            finally:
                self.check(here() == worker, "the body ends")

    async def go_on(self, source: Any) -> None:
        way = self.chance.choice(["next"] * 5 + ["close"] * 3 + ["throw"])
        with suppress(StopAsyncIteration, LookupError):
            if way == "next":
                await anext(source)
            elif way == "close":
                await source.aclose()
            else:
                await source.athrow(LookupError("thrown"))

    async def task(self) -> None:
        for _ in range(self.chance.randrange(3, 10)):
            is_new = not self.sources or self.happens(0.4)
            at = self.chance.randrange(len(self.sources) or 1)
            source: Any = self.rows() if is_new else self.sources.pop(at)
            try:
                await self.trip(source)
            finally:
                self.check(here() == self.loop_thread, "the task is not at home")
                # What is forgotten the loop's hook closes.
                if source.ag_frame is not None and not source.ag_running and self.happens(0.8):
                    self.sources.append(source)
                del source
            async with self.shared:
                await asyncio.sleep(0)
            self.check(here() == self.loop_thread, "a part outside of any block")

    async def trip(self, source: Any) -> None:
        ways = ["itself", "block", "another task", "limit"]
        way = self.chance.choice(ways if self.has_timeouts else ways[:3])
        if way == "itself":
            await self.go_on(source)
        elif way == "block":
            async with self.block():
                self.work()
                async with self.part():
                    await self.go_on(source)
        elif way == "another task":
            await asyncio.get_running_loop().create_task(self.go_on(source))
        else:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.go_on(source), self.chance.random() / 300)

    def is_idle(self) -> bool:
        return not any(s.busy or s.away for s in (pool.statistics() for pool in self.pools))

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self.task()) for _ in range(TASKS)]
        for task in tasks[: TASKS // 2]:
            loop.call_later(self.chance.random() * SOON, task.cancel)
        await until(lambda: all(task.done() for task in tasks))
        for task in tasks:
            if not task.cancelled():
                task.result()
        await loop.shutdown_asyncgens()  # (Some are kept by the errors of the tasks.)
        await until(self.is_idle)
        for pool in self.pools:
            pool.shutdown()
        assert not self.broken
        assert not self.shared._part.entered


@pytest.mark.parametrize("seed", SEEDS)
def test_generators_that_tasks_take_over_from_each_other_stay_on_their_workers(
    loops: LoopKind, seed: int
) -> None:
    loops.run(lambda: Storm(seed, has_timeouts=loops.has_current_task).run())
