"""``WorkerPool``: a lean ``ThreadPoolExecutor``. This folder knows no task and no event loop."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from itertools import count
from typing import Any, NamedTuple, ParamSpec, TypeVar

from .._away import COMPENSATES, Parked
from .._errors import (
    NEGATIVE,
    NOT_A_NUMBER,
    NOT_SECONDS,
    POOL_BROKEN,
    POOL_SHUT_DOWN,
    TOO_FEW_THREADS,
    TOO_SMALL,
)
from ._futures import PoolFuture, wait_for_own
from ._limited_view import LimitedView
from ._limits import CountingThreads
from ._threads import Threads
from ._work_item import Job, WorkItem

P = ParamSpec("P")
T = TypeVar("T")

#: How many threads there may be for each worker that counts, unless it is said.
THREADS_FOR_EACH_WORKER = 8

# New in Python 3.13, and what the standard library asks from then on.
_processors: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
_numbers = count()


class Statistics(NamedTuple):
    """A glimpse at a ``WorkerPool``, whose threads do not stop for it."""

    #: As many jobs may run at once.
    max_workers: int
    #: Threads that have a job.
    busy: int
    #: Threads whose job is elsewhere (in a loop part, or in a block of another executor), or waits
    #: for a future of the pool.
    away: int
    #: Threads that wait for a job.
    idle: int
    #: Jobs that wait for a thread. Those that wait for their turn in a full view are not counted.
    queued: int


class WorkerPool(ThreadPoolExecutor):
    """A lean thread pool, which takes the place of a ``ThreadPoolExecutor`` anywhere. ::

        with WorkerPool(4) as pool:
            future = pool.submit(func)      # as with ThreadPoolExecutor(4)
            async with threadpool(pool):    # cheaper than with ThreadPoolExecutor(4)
                func()

        loop.set_default_executor(WorkerPool())

    The differences to the standard library's pool:

    - A worker whose body is away (in an ``eventloop()`` part, in ``exec_in_eventloop``, in a block
      of another executor) does not count against *max_workers*: another thread may start in its
      place, up to *max_threads*. So blocks that wait on the loop for blocks of their own pool do
      not block each other. A body that comes back goes on at once, so for a moment more than
      *max_workers* may run; no new job begins until fewer do.
    - A worker that waits in ``result()`` or ``exception()`` for a future of its own pool is away,
      too. So a job may fan out into its pool, by ``submit`` or ``map``, and wait.
    - *max_queued* limits how many jobs wait. One more is refused: ``PoolBusy``.
    - Idle threads leave after *idle_timeout*. The one of a pool of one stays, so things that belong
      to one thread (a connection of sqlite3) may live there until it is shut down.
    - Parked workers wait last-in, first-out: the one with the warmest caches goes on.
    - ``limited(n)`` and ``statistics()``.

    Args:
        max_workers: As many jobs may run at once. By default as in the standard library: the
            number of processors and 4, at most 32.
        thread_name_prefix: Threads are named ``prefix_0``, ``prefix_1`` and so on; by default the
            prefix is ``WorkerPool-`` and a number.
        initializer: Called in each thread before its first job. If it raises, the pool is broken.
        initargs: The arguments of *initializer*.
        max_threads: As many threads may there be in all, with those that are away. By default
            ``8 * max_workers``; of a pool of one, 1: it stays one thread.
        max_queued: As many jobs may wait for a worker. By default without a limit. 0: a job is
            taken only if a worker is free at once, or a thread may be started for it. Not counted
            are jobs that were cancelled while they waited, and those that wait for their turn in a
            full view: ``limited()`` has a *max_queued* for these.
        idle_timeout: For as many seconds is a thread kept that has nothing to do; None: for ever.

    Cancellation: a future, or a block, that is cancelled before a worker takes it is never run.
    ``shutdown(cancel_futures=True)`` cancels all those.

    Threads: everything may be called in any thread, ``put`` and ``submit`` also in signal handlers
    and finalizers. Threads start when they are needed, and are joined when the process ends, after
    what waits is done. A pool that is thrown away lets its threads go once they have done what
    waits. In the child of a fork a pool has no threads and nothing waits: jobs of the parent are
    done in the parent.

    Raises:
        TypeError: A number is not an int (*idle_timeout*: neither int nor float), or *initializer*
            not callable.
        ValueError: *max_workers* is less than 1, *max_threads* less than *max_workers*,
            *max_queued* or *idle_timeout* less than 0.

    .. versionadded:: 0.1
    .. versionadded:: 0.2
       *max_queued*, *idle_timeout*; a worker that waits for a future of its own pool is away.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_threads: int | None = None,
        max_queued: int | None = None,
        idle_timeout: float | None = 30.0,
    ) -> None:
        # Not super().__init__(): nothing of it is used.
        if max_workers is None:
            max_workers = min(32, (_processors() or 1) + 4)
        _check_number("max_workers", max_workers)
        if max_threads is None:
            max_threads = max_workers * THREADS_FOR_EACH_WORKER if max_workers > 1 else 1
        _check_number("max_threads", max_threads)
        if max_threads < max_workers:
            raise ValueError(TOO_FEW_THREADS.format(threads=max_threads, workers=max_workers))
        _check_max_queued(max_queued)
        _check_seconds(idle_timeout)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._thread_name_prefix = thread_name_prefix or f"WorkerPool-{next(_numbers)}"
        self._workers = Threads(
            max_workers,
            max_threads,
            idle_timeout,
            self._thread_name_prefix,
            None if initializer is None else partial(initializer, *initargs),
            _broken,
        )
        if max_queued is not None:
            CountingThreads.of(self._workers, max_queued)
        #: For the blocks and calls of this library: no future is made. Raises what submit raises.
        self.put: Callable[[Job], None] = self._workers.put
        self._ref = weakref.ref(self)
        # The threads do not keep the pool.
        weakref.finalize(self, self._workers.let_idle_exit).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)`` and return the future of its result.

        Raises:
            RuntimeError: The pool was shut down, or the process ends, or no thread can start.
            PoolBusy: As many jobs wait as *max_queued* allows.
            BrokenThreadPool: The initializer has failed.

        ``result()`` and ``exception()`` of the future, called in a worker of this pool: that worker
        is away while it waits. In a pool of one thread they raise RuntimeError, if no timeout ends
        the wait, and do not wait for themselves for ever.
        """
        future: PoolFuture[T] = PoolFuture()
        future.home, future.pool = self._workers, self._ref
        self.put(WorkItem(future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs, and let the threads end when nothing waits.

        It may be called several times, and in several threads at once.

        Args:
            wait: Return when all jobs are done and all threads have ended.
            cancel_futures: Cancel those that have not begun.

        Raises:
            RuntimeError: A worker of the pool waits for its own end. The pool is shut down all the
                same.
        """
        self._workers.close(_shut_down, drop=cancel_futures)
        if wait:
            self._workers.join()

    def limited(self, n: int, *, max_queued: int | None = None) -> LimitedView:
        """An executor that runs at most *n* jobs at once on the threads of this pool. ::

            database = pool.limited(5)
            async with threadpool(database): ...

        Further jobs wait in a queue of their own and leave the other workers alone.

        Args:
            n: As many jobs of the view may run at once.
            max_queued: As many of them may wait for a worker, be it because the view is full or
                because the pool is; one more is refused with ``PoolBusy``. By default without a
                limit of its own. (New in 0.2.)

        Raises:
            TypeError: A number is not an int.
            ValueError: *n* is less than 1, or *max_queued* less than 0.
        """
        _check_number("limited", n)
        _check_max_queued(max_queued)
        if max_queued is not None:
            self.put = CountingThreads.of(self._workers, None).put
        return LimitedView(self, self._workers, n, max_queued)

    def statistics(self) -> Statistics:
        """A glimpse at what the threads do now."""
        threads = self._workers
        busy, away, idle = threads.count()
        return Statistics(threads.max_workers, busy, away, idle, len(threads.waiting))

    # For the blocks and calls of this library.

    @property
    def all_away(self) -> set[Parked]:
        """What the workers do that are away. Not to be changed."""
        return self._workers.all_away

    def away(self, parked: Parked) -> None:
        """In the worker of a job, whose body goes elsewhere: it does not count until it is back."""
        self._workers.away(parked)

    def back(self, parked: Parked) -> None:
        """In the same worker: the body has come back. It goes on at once."""
        self._workers.back(parked)

    def is_exhausted(self) -> bool:
        """Whether all threads that there may be are away."""
        return self._workers.is_exhausted()

    def withdraw(self, job: Job) -> None:
        """In any thread: *job* was cancelled before a worker had it."""
        self._workers.withdraw(job)

    def wait_for(self, wait: Callable[[float | None], T], timeout: float | None) -> T:
        """``wait(timeout)`` for a future of the pool: as with ``PoolFuture``."""
        try:
            return wait_for_own(self._workers, self, wait, timeout)
        finally:
            del wait  # As in there.

    @property
    def _max_threads(self) -> int:
        return self._workers.max_threads

    # Private names of the standard library's pool that other libraries read.

    @property
    def _max_workers(self) -> int:  # type: ignore[override]
        return self._workers.max_workers

    @property
    def _threads(self) -> set[threading.Thread]:  # type: ignore[override]
        return self._workers.threads()

    @property
    def _shutdown(self) -> bool:  # type: ignore[override]
        return self._workers.is_shut_down

    @property
    def _broken(self) -> str | bool:  # type: ignore[override]
        return POOL_BROKEN if self._workers.make_refusal is _broken else False

    @property
    def _work_queue(self) -> _Queue:  # type: ignore[override]
        return _Queue(self._workers)


COMPENSATES.add(WorkerPool)


class _Queue:
    """``pool._work_queue``, for libraries that look how much waits."""

    def __init__(self, threads: Threads) -> None:
        self._workers = threads

    def qsize(self) -> int:
        return len(self._workers.waiting)

    def empty(self) -> bool:
        return not self._workers.waiting


def _check_number(name: str, number: object) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(NOT_A_NUMBER.format(name=name, got=type(number).__name__))
    if number < 1:
        raise ValueError(TOO_SMALL.format(name=name))


def _check_max_queued(number: object) -> None:
    if number is None:
        return
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(NOT_A_NUMBER.format(name="max_queued", got=type(number).__name__))
    if number < 0:
        raise ValueError(NEGATIVE.format(name="max_queued", got=number))


def _check_seconds(seconds: object) -> None:
    if seconds is None:
        return
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        raise TypeError(NOT_SECONDS.format(name="idle_timeout", got=type(seconds).__name__))
    if not seconds >= 0:  # Not a number, too.
        raise ValueError(NEGATIVE.format(name="idle_timeout", got=seconds))


def _shut_down() -> RuntimeError:
    return RuntimeError(POOL_SHUT_DOWN)


def _broken() -> BrokenThreadPool:
    return BrokenThreadPool(POOL_BROKEN)
