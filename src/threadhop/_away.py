"""Workers whose task is elsewhere: they wait, and do no work.

All workers of an executor may be away at once. Then nothing that their tasks wait for may need one
of them. Nobody can tell whether it does; but a warning can say which blocks hold the workers.
"""

from __future__ import annotations

import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

from ._errors import ALL_PARKED, warn
from ._job import RunningJob
from ._pool import WorkerPool
from ._pool._limited_view import LimitedView

#: They start another worker in the place of one that is away. Their subclasses do not count: nobody
#: knows where the jobs of those run.
COMPENSATES = frozenset((WorkerPool, LimitedView))

_AWAY = "_threadhop_parked"
_WARNED = "_threadhop_warned"


def mark_away(job: RunningJob, towards: Executor | None) -> None:
    """In the worker, which is about to wait: its task is away on the loop, or in *towards*."""
    executor = job.executor
    compensates = type(executor) in COMPENSATES
    if not compensates and type(executor) is not ThreadPoolExecutor:
        return
    owner = _owner(executor)
    away: set[RunningJob] = owner.__dict__.setdefault(_AWAY, set())
    # Noted for at least as long as it counts: a thread that finds all of them away knows their
    # lines.
    away.add(job)
    if compensates:
        executor.away()
    # A task that went to another pool comes back by itself, unless all of that is away, too.
    if _are_all_away(executor) and (towards is None or _are_all_away(towards)):
        others = away.copy()
        if len(others) < _threads_of(owner):  # One has come back meanwhile.
            return
        lines = tuple(sorted({other.where() for other in others}))
        # Once for each set of lines: it may be just how the program works.
        warned: set[tuple[str, ...]] = owner.__dict__.setdefault(_WARNED, set())
        if lines not in warned:
            warned.add(lines)
            warn(ALL_PARKED, len(others), owner, ", ".join(lines))


def mark_back(job: RunningJob) -> None:
    """In the worker, which goes on."""
    executor = job.executor
    if type(executor) in COMPENSATES:
        executor.back()
    away = _owner(executor).__dict__.get(_AWAY)
    if away is not None:
        away.discard(job)


def _owner(executor: Any) -> Any:
    """The executor that has the threads: those of a view are its pool's."""
    return executor._pool if type(executor) is LimitedView else executor


def _threads_of(owner: Any) -> int:
    """How many threads there may be. If an executor does not tell, nobody is ever warned."""
    if type(owner) is WorkerPool:
        threads: int = owner._workers.max_threads
        return threads
    return getattr(owner, "_max_workers", sys.maxsize)


def _are_all_away(executor: Any) -> bool:
    if type(executor) in COMPENSATES:
        exhausted: bool = executor.is_exhausted()
        return exhausted
    if type(executor) is not ThreadPoolExecutor:
        return False
    return len(executor.__dict__.get(_AWAY, ())) >= _threads_of(executor)
