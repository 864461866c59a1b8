"""A task is brought into one state of its way, and held there: then a fault may come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from helpers.steps import LIMIT, Gate, busy, until

from threadhop import AsyncExecutor, eventloop, iterate_in_executor, threadpool
from threadhop._loops._asyncio import AsyncioSuspension
from threadhop._strand import Strand

VALUE = "value"
State = Callable[["Way"], Coroutine[Any, Any, str]]


class Way:
    """The way of one task, on *pool*; it stops in its state until ``go`` is called.

    Attributes:
        gate: Where a thread of the pool stops.
        workers: The threads in which something of the task ran.
        ends: What ran to its end: "body", "call", "source".
    """

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self.gate = Gate()
        self.workers: list[int] = []
        self.ends: list[str] = []
        self.has_stopped: Callable[[], object] = self.gate.reached.is_set
        self._stack = ExitStack()
        self._is_queue_held = False
        self._go: list[Callable[[], object]] = [self.gate.open]

    def go(self) -> None:
        """In any thread, also without a loop."""
        for go in self._go:
            go()

    def close(self) -> None:
        self.go()
        self._stack.close()

    # For the states.

    def hold_queue(self) -> None:
        """What comes to the pool has to wait."""
        if not self._is_queue_held:
            self._is_queue_held = True
            self._go.append(self._stack.enter_context(busy(self.pool)))

    def hold(self, owner: Any, name: str, times: int = 1) -> None:
        """Stop in that method of *owner*, before it does something, for the *times*-th time."""
        plain, count, thread = getattr(owner, name), [times], threading.get_ident()

        def held(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                count[0] -= 1
                if not count[0]:
                    self.workers.append(threading.get_ident())
                    self.gate.stop_here()
            return plain(*args, **kwargs)

        self._stack.enter_context(mock.patch.object(owner, name, held))

    def body(self, what: str = "body", *, stops: bool = False) -> None:
        """On a worker."""
        self.workers.append(threading.get_ident())
        try:
            if stops:
                self.gate.stop_here()
                for _ in range(100):  # An exception from outside comes in here.
                    pass
        finally:
            self.ends.append(what)

    async def pause(self) -> None:
        """On the loop."""
        future = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()
        self.gate.reached.set()

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        def go() -> None:
            if not loop.is_closed():
                type(loop).call_soon_threadsafe(loop, wake)  # Not that of a fault.

        self._go.append(go)
        if self.gate.is_open():
            go()
        await future

    def source(self, *, stops_at: str) -> Iterator[str]:
        self.workers.append(threading.get_ident())
        try:
            if stops_at == "reading":
                self.gate.stop_here()
            for _ in range(8):
                yield VALUE
        finally:
            if stops_at == "closing":
                self.gate.stop_here()
            self.ends.append("source")


async def block(way: Way, *, stops: bool = False) -> str:
    async with threadpool(way.pool):
        way.body(stops=stops)
    return VALUE


async def queued(way: Way) -> str:
    way.hold_queue()
    way.gate.reached.set()
    return await block(way)


async def entering(way: Way) -> str:
    way.hold(Strand, "drive")
    return await block(way)


async def in_body(way: Way) -> str:
    return await block(way, stops=True)


async def in_part(way: Way) -> str:
    async with threadpool(way.pool):
        way.workers.append(threading.get_ident())
        try:
            async with eventloop():
                await way.pause()
        finally:
            way.ends.append("body")
    return VALUE


async def coming_back(way: Way) -> str:
    way.hold(Strand, "drive", 2)
    async with threadpool(way.pool):
        try:
            async with eventloop():
                pass
        finally:
            way.ends.append("body")
    return VALUE


async def leaving(way: Way) -> str:
    way.hold(AsyncioSuspension, "resume")
    return await block(way)


async def call_queued(way: Way) -> str:
    way.hold_queue()
    way.gate.reached.set()
    await AsyncExecutor(way.pool).run(way.body, "call")
    return VALUE


async def call_running(way: Way) -> str:
    def function() -> None:
        way.body("call", stops=True)

    await AsyncExecutor(way.pool).run(function)
    return VALUE


async def reading(way: Way) -> str:
    async with iterate_in_executor(way.pool, way.source, stops_at="reading") as items:
        async for item in items:
            assert item == VALUE
    return VALUE


async def full(way: Way) -> str:
    async with iterate_in_executor(way.pool, way.source, stops_at="", buffersize=1) as items:
        await anext(items)
        await way.pause()
    return VALUE


async def closing(way: Way) -> str:
    read = iterate_in_executor(way.pool, way.source, stops_at="closing", buffersize=1)
    async with read as items:
        await anext(items)
    return VALUE


#: By name.
STATES: dict[str, State] = {
    "queued": queued,
    "entering": entering,
    "body": in_body,
    "loop part": in_part,
    "coming back": coming_back,
    "leaving": leaving,
    "call queued": call_queued,
    "call running": call_running,
    "iterator reading": reading,
    "iterator full": full,
    "iterator closing": closing,
}


@contextmanager
def on_its_way(pool: Executor) -> Iterator[Way]:
    """Whatever happens, nobody is held any more after the block."""
    way = Way(pool)
    try:
        yield way
    finally:
        way.close()


async def bring(way: Way, state: str) -> asyncio.Task[str]:
    """On the loop: a task in that state."""
    task = asyncio.get_running_loop().create_task(STATES[state](way))
    await until(lambda: way.has_stopped() or task.done())
    # What is on the loop is done; a worker that the task has left waits.
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def are_whole(*pools: Any) -> None:
    """In any thread but a loop's: all workers are there."""
    for pool in pools:
        size = pool._max_workers
        barrier = threading.Barrier(size, timeout=LIMIT)
        for future in [pool.submit(barrier.wait) for _ in range(size)]:
            future.result(LIMIT)
