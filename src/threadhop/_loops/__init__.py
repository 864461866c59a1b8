"""The event loops, one file for each library. Here: which task runs in this thread?

Trust the strand of a task rather than the thread's running loop, which other code sets (a started
sync Playwright, gevent). So a worker's job is asked first. A task that ``asyncio.run()``
runs in the body of a block is of that other loop, and not the one that the worker drives.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import AbstractEventLoop
from typing import Any

from .._entries import frames_up
from .._errors import NO_LOOP
from .._job import RunningJob, current, events
from .._strand import Strand
from . import _anyio_scopes as _anyio_scopes  # It waits for anyio.
from ._asyncio import current_task, existing_strand_of_current_task, strand_of_current_task
from ._asyncio import raise_pending_cancellation as raise_pending_cancellation
from ._attributes import STRAND


def running_loop() -> AbstractEventLoop | None:
    """The loop that runs in this thread. (Looked up each time: trio-asyncio replaces it.)"""
    return events._get_running_loop()


def job_here() -> RunningJob | None:
    """The job of this worker, if it runs the code that asks, and no task of another loop does."""
    job = current.slot.job
    if job is not None:
        loop = events._get_running_loop()
        if loop is not None and _is_in_task_of(loop):
            return None
    return job


def _is_in_task_of(loop: AbstractEventLoop) -> bool:
    """Whether a task of *loop* runs the code that asks, and *loop* is not only set here."""
    task = current_task(loop)
    if task is None:
        return False
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is None or any(caller is frame for caller in frames_up(sys._getframe(1)))


def current_strand() -> Strand:
    """The strand of the running task, wherever it runs; made if this is its first block."""
    job = job_here()
    if job is not None and job.strand is not None:
        strand: Strand = job.strand
        return strand
    loop = events._get_running_loop()
    if loop is None:
        raise RuntimeError(NO_LOOP)
    # The usual case first, by the shortest way.
    found: Strand | None = getattr(asyncio.current_task(loop), STRAND, None)
    return strand_of_current_task(loop) if found is None else found


def current_strand_or_none() -> Strand | None:
    """The strand of the running task, if it has one already."""
    job = job_here()
    if job is not None and job.strand is not None:
        strand: Strand = job.strand
        return strand
    loop = events._get_running_loop()
    return None if loop is None else existing_strand_of_current_task(loop)


def current_coroutine() -> Any:
    """The outermost coroutine of the running task; None if no task runs."""
    job = job_here()
    if job is not None and job.strand is not None:
        return job.strand.coro
    loop = events._get_running_loop()
    task = None if loop is None else current_task(loop)
    return None if task is None else task.get_coro()
