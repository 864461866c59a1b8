"""The event loops, one file for each library. Here: which task runs in this thread?

Trust the strand of a task rather than the thread's running loop, which other code sets (a started
sync Playwright, gevent). So a worker's job is asked first. A task that ``asyncio.run()`` or
``trio.run()`` runs in the body of a block is of that other loop, and not the one that the worker
drives.

Then asyncio's current task, then trio's. In guest mode trio runs its tasks in callbacks of an
asyncio loop, where asyncio has no current task; trio-asyncio runs asyncio's in steps of a trio
task, where it has one.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from asyncio import AbstractEventLoop
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from .._entries import frames_up
from .._errors import NO_LOOP, NO_RUNNING_LOOP, NO_TRIO_RUN
from .._executors import shared_pool
from .._job import RunningJob, current, events
from .._strand import Strand
from . import _anyio_scopes as _anyio_scopes  # It waits for anyio.
from ._asyncio import (
    current_task,
    existing_strand_of_current_task,
    loop_of,
    raise_pending_cancellation_of,
    strand_of_current_task,
)
from ._asyncio_futures import WaitingFuture
from ._attributes import LOOP, STRAND
from ._default_executor import default_executor_of

_modules = sys.modules
#: The module ``_trio``, once it is needed.
_loaded: list[Any] = []


def running_loop() -> AbstractEventLoop | None:
    """asyncio's that runs in this thread. (Looked up each time: trio-asyncio replaces it.)"""
    return events._get_running_loop()


def trio_here() -> Any:
    """The module ``_trio``, if trio's task is the innermost that runs in this thread; else None."""
    if "trio" not in _modules or not _is_in_trio_task():
        return None
    loop = events._get_running_loop()
    if loop is not None and current_task(loop) is not None:
        return None
    if not _loaded:
        _loaded.append(importlib.import_module("._trio", __name__))
    return _loaded[0]


def _look_for_trio_task() -> bool:
    """Whether trio, which somebody has loaded, runs a task in this thread."""
    # While another thread imports trio it may lack this, and runs nothing yet.
    ask = getattr(getattr(_modules.get("trio"), "lowlevel", None), "in_trio_task", None)
    if ask is None:
        return False
    global _is_in_trio_task  # noqa: PLW0603
    _is_in_trio_task = ask
    is_in_task: bool = ask()
    return is_in_task


#: trio's own function, as soon as it is there.
_is_in_trio_task: Callable[[], bool] = _look_for_trio_task


def is_on_loop() -> bool:
    """Whether an event loop of either library runs in this thread."""
    return events._get_running_loop() is not None or ("trio" in _modules and _is_in_trio_task())


def job_here() -> RunningJob | None:
    """The job of this worker, if it runs the code that asks, and no task of another loop does."""
    job = current.slot.job
    if job is not None:
        loop = events._get_running_loop()
        if loop is not None and _is_in_task_of(loop):
            return None
        if "trio" in _modules and _is_in_trio_task():
            return None
    return job


def _is_in_task_of(loop: AbstractEventLoop) -> bool:
    """Whether a task of *loop* runs the code that asks, and *loop* is not only set here."""
    task = current_task(loop)
    if task is None:
        return False
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is None or any(caller is frame for caller in frames_up(sys._getframe(1)))


def current_strand(name: str = "'async with threadpool()'") -> Strand:
    """The strand of the running task, wherever it runs; made if this is its first block.

    *name* is what the error calls the one that asks.
    """
    job = job_here()
    if job is not None and job.strand is not None:
        strand: Strand = job.strand
        return strand
    loop = events._get_running_loop()
    if loop is None:
        return _strand_without_asyncio(name)
    # The usual case first, by the shortest way.
    found: Strand | None = getattr(asyncio.current_task(loop), STRAND, None)
    return _strand_of_current_task(loop) if found is None else found


def _strand_without_asyncio(name: str) -> Strand:
    trio = trio_here()
    if trio is None:
        raise RuntimeError(NO_LOOP.format(name=name))
    strand: Strand = trio.strand_of_current_task()
    return strand


def _strand_of_current_task(loop: AbstractEventLoop) -> Strand:
    trio = trio_here()
    strand: Strand = strand_of_current_task(loop) if trio is None else trio.strand_of_current_task()
    return strand


def current_strand_or_none() -> Strand | None:
    """The strand of the running task, if it has one already."""
    job = job_here()
    if job is not None and job.strand is not None:
        strand: Strand = job.strand
        return strand
    loop = events._get_running_loop()
    found = None if loop is None else existing_strand_of_current_task(loop)
    if found is None and (trio := trio_here()) is not None:
        found = trio.existing_strand_of_current_task()
    return found


def current_coroutine() -> Any:
    """The outermost coroutine of the running task; None if no task runs."""
    job = job_here()
    if job is not None and job.strand is not None:
        return job.strand.coro
    trio = trio_here()
    if trio is not None:
        return trio.current_coroutine()
    loop = events._get_running_loop()
    task = None if loop is None else current_task(loop)
    return None if task is None else task.get_coro()


def raise_pending_cancellation() -> None:
    """In a thread without a job: if a task runs here, what its next ``await`` would raise."""
    loop = events._get_running_loop()
    task = None if loop is None else current_task(loop)
    if task is not None:
        raise_pending_cancellation_of(task)
    elif (trio := trio_here()) is not None:
        trio.raise_pending_cancellation()


def library_here(library: str | None) -> str | None:
    """The name of the library whose loop runs here; None if none does. *library*, if it is given.

    Not that a loop of *library* runs here.
    """
    if library is not None:
        return library
    if trio_here() is not None:
        return "trio"
    return None if events._get_running_loop() is None else "asyncio"


def caller_here(library: str | None, name: str) -> tuple[Any, Any]:
    """The loop that runs here, and the kind of future by which its tasks wait for calls.

    For a function of that *name*; *library* as the user has given it.
    """
    if library != "trio":
        loop = events._get_running_loop()
        if loop is not None and (library is not None or "trio" not in _modules or not trio_here()):
            return loop, WaitingFuture
        if library is not None:
            raise RuntimeError(NO_RUNNING_LOOP.format(name=name))
    trio = trio_here()
    if trio is None:
        raise RuntimeError((NO_TRIO_RUN if library else NO_RUNNING_LOOP).format(name=name))
    return trio.loop_here(), trio.Future


def home_of(loop: Any) -> Any:
    """In the thread of *loop*, which ``caller_here`` has returned: its ``Loop``."""
    return getattr(loop, LOOP, None) or loop_of(loop)


def loop_here() -> Any:
    """The ``Loop`` that runs here; None if none does."""
    trio = trio_here()
    if trio is not None:
        return trio.loop_here()
    loop = events._get_running_loop()
    return None if loop is None else home_of(loop)


def default_executor_here() -> Executor:
    """The default executor of the loop that runs here; the library's own without one."""
    loop = events._get_running_loop()
    if loop is None or trio_here() is not None:
        return shared_pool()
    return default_executor_of(loop)
