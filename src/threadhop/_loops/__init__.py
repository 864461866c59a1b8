"""Which kind of loop drives this code? Answers with the strand of the task at hand."""

from __future__ import annotations

from asyncio import _get_running_loop, current_task
from typing import Any

from .._errors import NO_LOOP
from .._job import current
from .._strand import Strand
from ._asyncio import (
    coroutine_of_current_task,
    existing_strand_of_current_task,
    strand_of_current_task,
)
from ._asyncio import raise_pending_cancellation as raise_pending_cancellation


def current_strand() -> Strand:
    """The strand of the running task, wherever it runs; made if this is its first block."""
    loop = _get_running_loop()
    if loop is not None:
        # The usual case first, by the shortest way.
        strand: Strand | None = getattr(current_task(loop), "_threadhop_strand", None)
        return strand_of_current_task(loop) if strand is None else strand
    job = current.slot.job
    if job is not None and job.strand is not None:
        found: Strand = job.strand
        return found
    raise RuntimeError(NO_LOOP)


def current_strand_or_none() -> Strand | None:
    """The strand of the running task, if it has one already."""
    loop = _get_running_loop()
    if loop is not None:
        return existing_strand_of_current_task(loop)
    job = current.slot.job
    return None if job is None else job.strand


def current_coroutine() -> Any:
    """The outermost coroutine of the running task; None if no task runs."""
    loop = _get_running_loop()
    if loop is not None:
        return coroutine_of_current_task(loop)
    job = current.slot.job
    return None if job is None or job.strand is None else job.strand.coro
