"""The default executor of an asyncio loop: the one that ``run_in_executor(None, ...)`` uses."""

from __future__ import annotations

import asyncio
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any


class RunInExecutor(Executor):
    """The default executor of a loop that does not show it (uvloop keeps it in a field of C)."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        #: An attribute of the loop, so not a reference to it.
        self._loop = weakref.ref(loop)

    def submit(self, fn: Callable[[], Any], /, *args: Any, **kwargs: Any) -> Any:
        """In the loop thread, or in a worker that the task is leaving."""
        loop = self._loop()
        assert loop is not None, "a task of it runs"
        if asyncio._get_running_loop() is loop:
            return loop.run_in_executor(None, fn)
        return asyncio.run_coroutine_threadsafe(_run(fn), loop)


async def _run(fn: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, fn)


def shown_default_executor(loop: AbstractEventLoop) -> Executor | None:
    """In any thread: None if there is none yet, or if the loop does not show it."""
    return getattr(loop, "_default_executor", None)


def default_executor_of(loop: AbstractEventLoop) -> Executor:
    """In the loop thread: made, if there is none yet, as the loop itself would make it."""
    executor = shown_default_executor(loop)
    if executor is None:
        if (
            type(loop).run_in_executor is not asyncio.BaseEventLoop.run_in_executor
            or getattr(loop, "_executor_shutdown_called", None) is not False
        ):
            # The loop says by itself if its executor was shut down.
            try:
                executor = loop._threadhop_run_in_executor  # type: ignore[attr-defined]
            except AttributeError:
                executor = RunInExecutor(loop)
                loop._threadhop_run_in_executor = executor  # type: ignore[attr-defined]
            return executor
        # Without a job that keeps the first worker busy.
        executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
        loop.set_default_executor(executor)
    return executor
