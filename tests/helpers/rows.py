"""An async generator that yields in a loop part of its block."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any

from helpers.places import here

from threadhop import eventloop, threadpool


class Rows:
    """Items from a worker, and where the body and its ``finally`` ran."""

    def __init__(
        self,
        executor: Executor,
        count: int = 3,
        *,
        part: Callable[[], Any] = eventloop,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.executor = executor
        self.count = count
        self.part = part
        #: Called within the ``finally``.
        self.at_end = at_end
        self.loop_thread = here()
        self.workers: list[int] = []
        self.closed: list[int] = []

    async def __call__(self) -> AsyncIterator[int]:
        async with threadpool(self.executor):
            try:
                for number in range(self.count):
                    self.workers.append(here())
                    async with self.part():
                        assert here() == self.loop_thread
                        yield number
            finally:
                self.closed.append(here())
                self.at_end()
        assert here() == self.loop_thread

    def assert_closed_on_its_worker(self) -> None:
        assert len(set(self.workers)) == 1
        assert self.closed == self.workers[:1]
        assert self.loop_thread not in self.workers


async def take(rows: AsyncIterator[int]) -> int:
    return await anext(rows)


async def close(rows: Any) -> None:
    await rows.aclose()
