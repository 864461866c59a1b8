"""Where the steps of a test run, and what it lets run there."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any

from helpers.steps import LIMIT, sleep, until

from threadhop import threadpool

here = threading.get_ident


class OopsError(Exception):
    """A test raises this one on purpose."""


def place() -> str:
    """The name of the worker that runs this, or "loop": tests run loops in the main thread."""
    thread = threading.current_thread()
    return "loop" if thread is threading.main_thread() else thread.name


def on_loop_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def on_thread_of(prefix: str) -> bool:
    return threading.current_thread().name.startswith(prefix)


def on_worker() -> bool:
    """Whether this is a thread of the fixture ``executor``."""
    return on_thread_of("worker")


class Trail:
    """The steps of a test, each with its place."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        #: The cancellations that were watched, each time one was.
        self.errors: list[BaseException] = []

    def note(self, what: str) -> None:
        self.steps.append((what, place()))

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Note where a CancelledError leaves the block. Its message must be "stop"."""
        try:
            yield
        except asyncio.CancelledError as error:
            assert error.args == ("stop",), error.args
            self.note(what)
            self.errors.append(error)
            raise


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def ended(*tasks: asyncio.Task[Any]) -> list[Any]:
    """Wait until all have ended, and return their results."""
    await until(lambda: all(task.done() for task in tasks))
    return [task.result() for task in tasks]


async def suspend() -> None:
    """Really leave the loop to others for a moment."""
    await sleep(0.001)


async def forever() -> None:
    await sleep(float("inf"))


async def assert_is_whole(executor: Executor, workers: int) -> None:
    """As many bodies run at once as there are workers."""
    barrier = threading.Barrier(workers, timeout=LIMIT)

    async def block() -> None:
        async with threadpool(executor):
            barrier.wait()

    await asyncio.gather(*(block() for _ in range(workers)))


async def in_block_of(*executors: Executor) -> None:
    """Each of them has a free worker that runs a body; the task comes back from it."""
    for executor in executors:
        async with threadpool(executor):
            assert not on_loop_thread()
        assert on_loop_thread()
