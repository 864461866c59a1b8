"""How a job gets to a worker of its executor: the cheapest way that is known, else ``submit``.

``ThreadPoolExecutor.submit`` is half of what a trip to a worker costs: it makes a future with a
condition variable that nobody here will wait for. So a job goes into the executor's queue as an
item of its own, under the locks and after the checks of ``submit``, and without that future. The
executor's queue is the only order there is: jobs begin as they came, whoever put them.

The queue is known on the versions of Python that the tests run on, and only while ``submit`` is
the standard library's own: tools that trace replace it. Otherwise the job is submitted, like any
function.
"""

from __future__ import annotations

import sys
import threading
from _thread import LockType
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures import thread as _standard
from itertools import compress
from types import FunctionType
from typing import Any, Protocol

from ._errors import DROPPED, report
from ._pool import WorkerPool
from ._pool._limited_view import LimitedView
from ._pool._permits import holding
from ._pool._work_item import Job as WorkerJob

#: Set by ``configure()``: the executor of blocks and calls that name none.
configured: Executor | None = None

_shared_pool_lock = threading.Lock()
#: Made by the first who needs it, guarded by the lock; ends with the process.
_shared: list[WorkerPool] = []


def shared_pool() -> Executor:
    """The library's own, for those that have no other: it ends with the process."""
    return holding(_shared_pool_lock, _make_shared_pool)


def _make_shared_pool() -> Executor:
    """Under the lock."""
    if not _shared:
        _shared.append(WorkerPool(thread_name_prefix="threadhop"))
    return _shared[0]


#: Executors of the standard library whose jobs leave this process, or its interpreter. They are
#: looked up where somebody has loaded them already: importing them takes long.
_REMOTE = (
    ("concurrent.futures.process", "ProcessPoolExecutor"),
    ("concurrent.futures.interpreter", "InterpreterPoolExecutor"),
)


def name_of_remote(executor: Executor) -> str | None:
    """In words; None if it may run threads of this process."""
    for module, name in _REMOTE:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(executor, kind):
            return name
    return None


_OF_MODULE = ("_global_shutdown_lock", "_shutdown")
_OF_EXECUTOR = (
    "_adjust_thread_count",
    "_broken",
    "_max_workers",
    "_shutdown",
    "_shutdown_lock",
    "_threads",
    "_work_queue",
)


def _has_all_names(executor: ThreadPoolExecutor) -> bool:
    """Whether this Python has the private names that ``_put`` uses."""
    return all(hasattr(_standard, name) for name in _OF_MODULE) and all(
        hasattr(executor, name) for name in _OF_EXECUTOR
    )


#: By kind: the ``submit`` that is known, for which there is a cheaper way in. Not one that somebody
#: has put in its place, on the class or in an instance, to trace or to count.
_KNOWN: dict[type, object] = {kind: kind.submit for kind in (WorkerPool, LimitedView)}
if (
    sys.version_info < (3, 16)  # From then on nobody has looked who uses the executor's queue.
    and isinstance(ThreadPoolExecutor.submit, FunctionType)
    and ThreadPoolExecutor.submit.__globals__ is vars(_standard)
    and _has_all_names(ThreadPoolExecutor(1, "threadhop"))  # Unnamed it would take a number.
):
    _KNOWN[ThreadPoolExecutor] = ThreadPoolExecutor.submit


class Job(WorkerJob, Protocol):
    """A job, as an executor gets it."""

    executor: Executor

    def call_submit(self) -> None:
        """In the thread that asks for the worker: by the executor's public method."""


def submit(job: Job) -> None:
    """Ask the job's executor for a worker. Raises what ``submit`` raises."""
    executor: Any = job.executor
    kind = type(executor)
    if kind not in _KNOWN or kind.submit is not _KNOWN[kind] or "submit" in executor.__dict__:
        job.call_submit()
    elif kind is not ThreadPoolExecutor:
        executor.put(job)
    elif not _put(executor, _QueueItem(job)):
        # The executor refuses: ``submit`` says it in the executor's own words.
        job.call_submit()


def withdraw(job: Job) -> None:
    """In any thread: no worker will do *job*, which was submitted. May be repeated.

    A pool that limits how many jobs wait need not wait for a worker to pass this one.
    """
    executor = job.executor
    if isinstance(executor, (WorkerPool, LimitedView)):  # A subclass, too.
        executor.withdraw(job)


def _put(executor: Any, item: _QueueItem) -> bool:
    """Queue *item* as ``submit`` would, under its two locks. False if ``submit`` would raise."""
    locks = (executor._shutdown_lock, _standard._global_shutdown_lock)
    # Taken and noted in one step of C, and given back in one: Ctrl+C keeps none.
    held: list[bool] = []
    give_back = map(_release, compress(locks, held))
    try:
        held.extend(map(_acquire, locks))
        if executor._broken or executor._shutdown or _standard._shutdown:
            return False
        # When all threads are there, nobody needs to know any more whether one of them is idle.
        may_grow = len(executor._threads) < executor._max_workers
        try:
            executor._work_queue.put(item)
        finally:
            # Also after Ctrl+C: an item without its thread would be served by one of another. If
            # no thread can start, the item stays in the queue. The claim of its job is taken then.
            if may_grow:
                executor._adjust_thread_count()
        return True
    finally:
        any(give_back)


_acquire: Any = LockType.acquire
_release: Any = LockType.release


class _QueueItem:
    """A job in the queue of a ``ThreadPoolExecutor``: the work item, and the future of that item.

    The executor asks an item for ``run`` and ``future``, and that future for ``cancel`` and
    ``set_exception``, perhaps under a lock of its own. Nothing else is ever asked of it.
    """

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job = job

    def run(self, _: object = None) -> None:
        """In a worker. (From Python 3.14 on an item is told what the worker was set up with.)"""
        try:
            self._job()
        except BaseException:  # A mistake of ours must not cost the executor a worker.
            report("Exception in worker")

    @property
    def future(self) -> _QueueItem:
        return self

    def cancel(self) -> None:
        """The executor drops the item: ``shutdown(cancel_futures=True)``."""
        self._job.fail(DROPPED)

    def set_exception(self, error: BaseException) -> None:
        """The executor is broken: its initializer has failed."""
        self._job.fail(error)
