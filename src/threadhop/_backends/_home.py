"""What there is once for each asyncio loop: the way back to it, and its default executor."""

from __future__ import annotations

import asyncio
import sys
import threading
from _thread import allocate_lock
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol


class Arrival(Protocol):
    """What a thread posts to the loop."""

    def arrive_home(self) -> None:
        """In a callback of the loop, never within the step of a task."""

    def lose(self) -> None:
        """In any thread: the loop is closed, so it never arrives."""

    def get_loop(self) -> AbstractEventLoop: ...


def home_of(loop: AbstractEventLoop) -> Home:
    """In the loop thread."""
    try:
        home: Home = loop._threadhop_home  # type: ignore[attr-defined]
    except AttributeError:
        home = Home()
        loop._threadhop_home = home  # type: ignore[attr-defined]
    return home


class Home:
    """The tasks and results that are ready to come home.

    The threads append to ``_ready``; only the one that finds nobody else doing so wakes the loop,
    and one callback of the loop then takes in all.
    """

    __slots__ = ("_armed", "_ready", "asyncgen_hooks", "run_in_executor", "thread")

    def __init__(self) -> None:
        self._ready: deque[Arrival] = deque()
        #: Held from the moment at which somebody wakes the loop to the one at which it looks.
        self._armed = allocate_lock()
        #: Stands for a default executor that the loop does not show; made when one is asked for.
        self.run_in_executor: RunInExecutor | None = None
        #: The loop's own: it has set them when it began to run. (What sys returns is unknown to
        #: the garbage collector, and they refer to the loop.)
        self.asyncgen_hooks = tuple(sys.get_asyncgen_hooks())
        #: The thread that runs the loop.
        self.thread = threading.current_thread()

    def post(self, arrival: Arrival, loop: AbstractEventLoop) -> None:
        """In any thread."""
        self._ready.append(arrival)
        # Who fails to arm leaves it to another one, whose callback has not begun yet. That one
        # releases the flag before it counts what is ready, so it counts this.
        if not self._armed.acquire(False):
            if loop.is_closed():
                self._lose_all()
            return
        try:
            loop.call_soon_threadsafe(self._resume_all)
        except Exception:  # The loop is closed.
            self._armed.release()
            self._lose_all()

    def _resume_all(self) -> None:
        """In the loop thread."""
        ready = self._ready
        try:
            self._armed.release()
            # Not those that come in meanwhile: the loop's other callbacks have a turn in between.
            for _ in range(len(ready)):
                if not ready:  # A loop that runs nested in one of the steps took the rest.
                    return
                # Not by a name: this frame may stay in a traceback, which must not keep the task.
                ready.popleft().arrive_home()
        except BaseException:
            # KeyboardInterrupt or SystemExit out of a step. The loop will stop; whoever runs it
            # again finds the others.
            if ready and self._armed.acquire(False):
                ready[0].get_loop().call_soon(self._resume_all)
            raise

    def _lose_all(self) -> None:
        while True:
            try:
                strand = self._ready.popleft()
            except IndexError:
                return
            strand.lose()


class RunInExecutor(Executor):
    """The default executor of a loop that does not show it (uvloop keeps it in a field of C)."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def submit(self, fn: Callable[[], Any], /, *args: Any, **kwargs: Any) -> Any:
        """In the loop thread, or in a worker that the task is leaving."""
        if asyncio._get_running_loop() is self._loop:
            return self._loop.run_in_executor(None, fn)
        return asyncio.run_coroutine_threadsafe(self._run(fn), self._loop)

    async def _run(self, fn: Callable[[], Any]) -> None:
        await self._loop.run_in_executor(None, fn)


def shown_default_executor(loop: AbstractEventLoop) -> Executor | None:
    """In any thread: None if there is none yet, or if the loop does not show it."""
    return getattr(loop, "_default_executor", None)


def default_executor_of(loop: AbstractEventLoop) -> Executor:
    """In the loop thread: made, if there is none yet, as the loop itself would make it."""
    executor = shown_default_executor(loop)
    if executor is None:
        if (
            type(loop).run_in_executor is asyncio.BaseEventLoop.run_in_executor
            and getattr(loop, "_executor_shutdown_called", None) is False
        ):
            # Without a job that keeps the first worker busy.
            executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
            loop.set_default_executor(executor)
            return executor
        home = home_of(loop)
        executor = home.run_in_executor
        if executor is None:
            # It says by itself that it was shut down.
            executor = home.run_in_executor = RunInExecutor(loop)
    return executor
