"""The default executor of an asyncio loop: the one that ``run_in_executor(None, ...)`` uses."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from .._job import events
from ._attributes import RUN_IN_EXECUTOR


class RunInExecutor(Executor):
    """The default executor of a loop that does not show it."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        #: An attribute of the loop, so not a reference to it.
        self._loop = weakref.ref(loop)

    def submit(self, fn: Callable[[], Any], /, *args: Any, **kwargs: Any) -> Any:
        """In the loop thread, or in a worker that the task is leaving."""
        loop = self._loop()
        assert loop is not None, "a task of it runs"
        if events._get_running_loop() is loop:
            # Of a foreign loop anything awaitable (trio-asyncio's returns a coroutine).
            return asyncio.ensure_future(loop.run_in_executor(None, fn))
        return asyncio.run_coroutine_threadsafe(_run(fn), loop)


async def _run(fn: Callable[[], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, fn)


#: Classes of loops that keep their executor in a field of C, and where it was among the referents.
_positions: dict[type, int] = {}
#: On a free-threaded build ``gc.get_referents`` would stop all threads; elsewhere it may not tell.
_MAY_ASK = sys.implementation.name == "cpython" and "t" not in getattr(sys, "abiflags", "")


def shown_default_executor(loop: AbstractEventLoop) -> Executor | None:
    """In any thread: None if there is none yet, or if the loop does not show it."""
    kind = type(loop)
    at = _positions.get(kind)
    if at is None:
        if kind.run_in_executor is asyncio.BaseEventLoop.run_in_executor:
            return getattr(loop, "_default_executor", None)
        return _find_in_uvloop(loop)
    referents = gc.get_referents(loop)
    if at < len(referents) and isinstance(referents[at], Executor):
        found: Executor = referents[at]
        return found
    return _find_in_uvloop(loop)


def _find_in_uvloop(loop: AbstractEventLoop) -> Executor | None:
    if _is_uvloop(loop):
        for at, referent in enumerate(gc.get_referents(loop)):
            if isinstance(referent, Executor):
                _positions[type(loop)] = at
                return referent
    return None


def _is_uvloop(loop: AbstractEventLoop) -> bool:
    """Whether its executor can be found, and is used in uvloop's own way."""
    uvloop = sys.modules.get("uvloop")
    if uvloop is None or not _MAY_ASK:
        return False
    return type(loop).run_in_executor is uvloop.Loop.run_in_executor


def default_executor_of(loop: AbstractEventLoop) -> Executor:
    """In the loop thread: made, if there is none yet, as the loop itself would make it."""
    executor = shown_default_executor(loop)
    if executor is not None:
        return executor
    if (
        type(loop).run_in_executor is asyncio.BaseEventLoop.run_in_executor
        and hasattr(loop, "_default_executor")  # It is asked again, and must show this one.
        and getattr(loop, "_executor_shutdown_called", None) is False
    ):
        # Without a job that keeps the first worker busy.
        executor = ThreadPoolExecutor(thread_name_prefix="asyncio")
        loop.set_default_executor(executor)
        return executor
    run_in_executor: Executor | None = getattr(loop, RUN_IN_EXECUTOR, None)
    if run_in_executor is None:
        if type(loop).run_in_executor is asyncio.BaseEventLoop.run_in_executor or _is_uvloop(loop):
            # The loop makes its executor, or says by itself that it was shut down.
            loop.run_in_executor(None, _nothing)
            executor = shown_default_executor(loop)
            if executor is not None:
                return executor
        run_in_executor = RunInExecutor(loop)
        setattr(loop, RUN_IN_EXECUTOR, run_in_executor)
    return run_in_executor


def _nothing() -> None:
    """The first job of a default executor."""
