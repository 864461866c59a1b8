"""Workers whose task is elsewhere: they wait, and do no work.

All workers of an executor may be away at once. Then nothing that their tasks wait for may need one
of them. Nobody can tell whether it does; but a warning can say which blocks hold the workers.

A worker of a ``WorkerPool`` that waits for a future of that pool is away, too: ``result`` puts such
a wait into ``WaitForOwnPool``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from ._errors import ALL_PARKED, warn
from ._job import RunningJob, current

T = TypeVar("T")

#: They start another worker in the place of one that is away: the pools add themselves. Their
#: subclasses do not count: nobody knows where the jobs of those run.
COMPENSATES: set[type] = set()

_AWAY = "_threadhop_parked"
_WARNED = "_threadhop_warned"


class Parked(Protocol):
    """What a worker does that is away."""

    def where(self) -> str:
        """The ``file:line`` of its block, or the name of the function."""
        ...


class Place(Protocol):
    """A pool or a view, as its workers see it."""

    def away(self, parked: Parked) -> None: ...
    def back(self, parked: Parked) -> None: ...


def mark_away(job: RunningJob, towards: Executor | None) -> None:
    """In the worker, which is about to wait: its task is away on the loop, or in *towards*."""
    mark_away_quietly(job)
    # A task that went to another pool comes back by itself, unless all of that is away, too.
    if _are_all_away(job.executor) and (towards is None or _are_all_away(towards)):
        _warn_if_all_are_away(job.executor)


def mark_away_quietly(job: RunningJob) -> None:
    """In the worker, which is about to wait for somebody who usually comes soon."""
    executor = job.executor
    if type(executor) in COMPENSATES:
        executor.away(job)
    elif type(executor) is ThreadPoolExecutor:
        executor.__dict__.setdefault(_AWAY, set()).add(job)


def warn_if_needed(job: RunningJob) -> None:
    """In the worker, which has waited for long: it may be that a job waits for this very worker."""
    executor = job.executor
    if _are_all_away(executor) and _has_queued_jobs(_owner(executor)):
        _warn_if_all_are_away(executor)


def _warn_if_all_are_away(executor: Executor) -> None:
    _warn(_owner(executor))


def mark_back(job: RunningJob) -> None:
    """In the worker, which goes on. May be repeated, and come before ``mark_away`` was through."""
    executor = job.executor
    if type(executor) in COMPENSATES:
        executor.back(job)
    elif type(executor) is ThreadPoolExecutor:
        all_away_of(executor).discard(job)


def while_away(leave: Callable[[], object], wait: Callable[[], T], come: Callable[[], object]) -> T:
    """In the worker: return ``wait()``, away between *leave* and *come*, which may be repeated."""
    try:
        leave()
        return wait()
    finally:
        try:
            come()
        except BaseException:  # Another thread has raised it here.
            come()
            raise
        finally:
            del wait  # It may keep the error, and that a traceback with this frame.


class WaitForOwnPool:
    """In a worker of *pool*, which waits for a future of that pool."""

    def __init__(self, pool: Executor | None, place: Place) -> None:
        #: None if nobody has the pool any more; its threads go on.
        self._pool = pool
        #: The pool, or the view whose job the worker does.
        self._place = place
        job = current.slot.job
        self._where = _line_of_user() if job is None else job.where()

    def leave(self) -> None:
        self._place.away(self)
        if self._pool is not None and self._pool.is_exhausted():  # type: ignore[attr-defined]
            _warn(self._pool)

    def come(self) -> None:
        """May be repeated, and come before ``leave`` was through."""
        self._place.back(self)

    def where(self) -> str:
        return self._where


def _line_of_user() -> str:
    """The line that waits: the first one up the stack that is not the library's, nor Python's."""
    frame: Any = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INNER):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


_INNER = (__name__.partition(".")[0] + ".", "concurrent.futures")


def all_away_of(owner: Any) -> set[Parked]:
    """What the workers of *owner* do that are away."""
    if type(owner) is not ThreadPoolExecutor:
        all_away: set[Parked] = owner.all_away
        return all_away
    return owner.__dict__.get(_AWAY) or set()


def _warn(owner: Any) -> None:
    """All workers of *owner* are away, or were just now."""
    others = all_away_of(owner).copy()
    if len(others) < _threads_of(owner):  # One has come back meanwhile.
        return
    lines = tuple(sorted({other.where() for other in others}))
    # Once for each set of lines: it may be just how the program works.
    warned: set[tuple[str, ...]] = owner.__dict__.setdefault(_WARNED, set())
    if lines not in warned:
        warned.add(lines)
        warn(ALL_PARKED, len(others), owner, ", ".join(lines))


def _owner(executor: Any) -> Any:
    """The executor that has the threads: those of a view are its pool's."""
    return getattr(executor, "_pool", executor)


def _threads_of(owner: Any) -> int:
    """How many threads there may be. If an executor does not tell, nobody is ever warned."""
    if type(owner) is not ThreadPoolExecutor:
        threads: int = owner._max_threads
        return threads
    return getattr(owner, "_max_workers", sys.maxsize)


def _has_queued_jobs(owner: Any) -> bool:
    if type(owner) in COMPENSATES:
        queued: int = owner.statistics().queued
        return queued > 0
    waiting = getattr(owner, "_work_queue", None)
    return waiting is None or waiting.qsize() > 0


def _are_all_away(executor: Any) -> bool:
    if type(executor) in COMPENSATES:
        exhausted: bool = executor.is_exhausted()
        return exhausted
    if type(executor) is not ThreadPoolExecutor:
        return False
    return len(all_away_of(executor)) >= _threads_of(executor)
