"""Workers whose task is elsewhere: they wait, and do no work.

Here is noted which they are. All workers of an executor may be parked at once, and then nothing
that the parked tasks wait for may need one of them. Nobody can tell whether it does; but it can be
said which blocks hold the workers.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ._errors import ALL_PARKED, log
from ._pool import WorkerPool
from ._pool._limited_view import LimitedView

if TYPE_CHECKING:
    from ._block_job import BlockJob
    from ._call_job import CallJob

#: They start another worker for one that is away. Not a subclass: who knows where its jobs run.
COMPENSATES = frozenset((WorkerPool, LimitedView))

_PARKED = "_threadhop_parked"
_WARNED = "_threadhop_warned"


def mark_away(job: BlockJob | CallJob, towards: Executor | None) -> None:
    """In the worker, which is about to wait: its task is away on the loop, or in *towards*."""
    executor: Any = job.executor
    counts_itself = type(executor) in COMPENSATES
    if not counts_itself and type(executor) is not ThreadPoolExecutor:
        return
    owner = _owner(executor)
    parked: set[BlockJob | CallJob] = owner.__dict__.setdefault(_PARKED, set())
    # Noted for at least as long as it counts: whoever finds all of them away knows their lines.
    parked.add(job)
    if counts_itself:
        executor.away()
    # A task that went to another pool comes back by itself, unless all of that is parked, too.
    if _all_parked(executor) and (towards is None or _all_parked(towards)):
        others = parked.copy()
        if len(others) < _threads_of(owner):  # One has come back meanwhile.
            return
        places = tuple(sorted(other.where() for other in others))
        # Once for each set of lines: it may be just how the program works.
        warned: set[tuple[str, ...]] = owner.__dict__.setdefault(_WARNED, set())
        if places not in warned:
            warned.add(places)
            log.warning(ALL_PARKED, len(places), owner, ", ".join(places))


def _owner(executor: Executor) -> Executor:
    """Whose threads they are: a pool and its views park together."""
    return executor._pool if type(executor) is LimitedView else executor


def _threads_of(owner: Any) -> int:
    """How many there may be."""
    threads: int = owner._workers.max_threads if type(owner) is WorkerPool else owner._max_workers
    return threads


def _all_parked(executor: Executor) -> bool:
    if type(executor) in COMPENSATES:
        return executor.is_exhausted()  # type: ignore[attr-defined, no-any-return]
    if type(executor) is not ThreadPoolExecutor:
        return False
    return len(executor.__dict__.get(_PARKED, ())) >= executor._max_workers


def mark_back(job: BlockJob | CallJob) -> None:
    """In the worker, which goes on."""
    executor: Any = job.executor
    if type(executor) in COMPENSATES:
        executor.back()
    parked = _owner(executor).__dict__.get(_PARKED)
    if parked is not None:
        parked.discard(job)
