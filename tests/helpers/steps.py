"""Putting threads and tasks into an order without sleeping. Every wait here has a limit."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

#: In seconds: far more than any step of a test takes, and less than the time limit of a test.
LIMIT = 8.0


class Gate:
    """A place where a body waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._opened = threading.Event()

    def stop_here(self) -> None:
        """In the body."""
        self.reached.set()
        assert self._opened.wait(LIMIT), "nobody opened the gate"

    def open(self) -> None:
        """In the test."""
        self._opened.set()

    def is_open(self) -> bool:
        return self._opened.is_set()


@contextmanager
def busy(executor: Executor, workers: int = 1) -> Iterator[Callable[[], None]]:
    """Keep that many workers busy within the block, or until the yielded function is called."""
    gates = [Gate() for _ in range(workers)]

    def release() -> None:
        for gate in gates:
            gate.open()

    futures = [executor.submit(gate.stop_here) for gate in gates]
    try:
        for gate in gates:
            assert gate.reached.wait(LIMIT), "the executor has fewer workers than that"
        yield release
    finally:
        release()
    for future in futures:
        future.result(LIMIT)


def wait_until(condition: Callable[[], object]) -> None:
    """In any thread but the loop's."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.001)


async def sleep(seconds: float) -> None:
    """On a loop of any kind. (Children import this module: it must not load trio.)"""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        await trio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


async def until(condition: Callable[[], object]) -> None:
    """On the loop, which goes on meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        await sleep(0.001)  # less would be nothing on uvloop, and busy waiting


async def turns(count: int = 5) -> None:
    """Let the loop run what is ready: a task that was just made goes up to its first await."""
    for _ in range(count):
        await sleep(0)


class HeldExecutor(Executor):
    """Does nothing by itself: the test says which job runs when, in a thread of its own.

    Attributes:
        jobs: What was submitted, with the futures that were returned.
        before_submit: Called in the thread that submits, before the job is known.
        after_submit: Called there when the job is known; what it raises leaves ``submit``.
    """

    def __init__(
        self,
        before_submit: Callable[[], object] = lambda: None,
        after_submit: Callable[[], object] = lambda: None,
    ) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []
        self.threads: list[threading.Thread] = []
        self.before_submit = before_submit
        self.after_submit = after_submit

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.before_submit()
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        self.after_submit()
        return future

    def run(self, index: int = -1) -> None:
        """Run a job here, as a worker would."""
        future, job = self.jobs[index]
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(job())
            except BaseException as error:  # as ThreadPoolExecutor does
                future.set_exception(error)

    def start(self, index: int = -1) -> None:
        """Run a job in a thread of its own."""
        thread = threading.Thread(target=self.run, args=(index,))
        self.threads.append(thread)
        thread.start()

    def drop(self, index: int = -1) -> None:
        """What ``shutdown(cancel_futures=True)`` does to a queued job."""
        future, _ = self.jobs[index]
        if future.cancel():
            future.set_running_or_notify_cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for thread in self.threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), "a worker never ended"
