"""``WorkerPool.limited(n)``: an executor with a limit of its own over the threads of a pool."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar
from weakref import ref

from .._away import COMPENSATES, Parked
from ._futures import PoolFuture, wait_for_own
from ._limits import CountingThreads
from ._threads import Threads
from ._view_limiter import CountingViewLimiter, ViewLimiter
from ._work_item import Job, WorkItem

P = ParamSpec("P")
T = TypeVar("T")


class LimitedView(Executor):
    """At most *n* jobs at once on the threads of a ``WorkerPool``: made by ``pool.limited(n)``.

    ``pool.limited(n, max_queued=m)`` lets *m* more wait for a worker, and refuses others with
    ``PoolBusy``.

    A view is an executor like any other: for ``threadpool()``, ``submit()``, ``map()`` and
    ``loop.run_in_executor()``. Its jobs begin in the order in which they came. A view needs no
    ``shutdown()``, keeps its pool alive, and ends with it. A worker whose body is away does not
    count, here as in the pool. The view's own ``shutdown()`` concerns its own jobs only; the
    threads go on. There is no ``limited()``: a view of a view would be one of the pool.

    .. versionadded:: 0.1
    """

    def __init__(
        self, pool: Executor, threads: Threads, limit: int, max_queued: int | None
    ) -> None:
        # A worker that has a turn keeps the limiter, and nothing of the pool.
        self._pool = pool
        self._pool_ref: ref[Any] = ref(pool)
        if isinstance(threads, CountingThreads):
            self._limiter: ViewLimiter = CountingViewLimiter(threads, limit, max_queued)
        else:
            self._limiter = ViewLimiter(threads, limit)
        #: For the blocks and calls of this library: no future is made.
        self.put: Callable[[Job], None] = self._limiter.put

    @property
    def _max_workers(self) -> int:
        return self._limiter.limit

    @property
    def _shutdown(self) -> bool:
        return self._limiter.is_closed or self._limiter.threads.make_refusal is not None

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``fn(*args, **kwargs)`` and return the future of its result.

        Raises:
            RuntimeError: The view, the pool or the process was shut down.
            PoolBusy: The queue of the view, or of the pool, is full.
            BrokenThreadPool: The initializer of the pool has failed.
        """
        future: PoolFuture[T] = PoolFuture()
        future.home, future.pool = self._limiter.threads, self._pool_ref
        self.put(WorkItem(future, fn, args, kwargs))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more jobs. The pool and its threads go on.

        Args:
            wait: Return when the view's own jobs are done.
            cancel_futures: Cancel those that have not begun.

        Raises:
            RuntimeError: A job of the view waits for its own end.
        """
        self._limiter.close(drop=cancel_futures)
        if wait:
            self._limiter.join()

    # For the blocks and calls of this library, as in the pool.

    def away(self, parked: Parked) -> None:
        """In the worker of a job, whose body goes elsewhere: it does not count until it is back."""
        self._limiter.away(parked)

    def back(self, parked: Parked) -> None:
        """In the same worker: the body has come back. It goes on at once."""
        self._limiter.back(parked)

    def is_exhausted(self) -> bool:
        """Whether all threads that the pool may have are away."""
        return self._limiter.threads.is_exhausted()

    def withdraw(self, job: Job) -> None:
        """In any thread: *job* was cancelled before a worker had it."""
        self._limiter.withdraw(job)

    def wait_for(self, wait: Callable[[float | None], T], timeout: float | None) -> T:
        """``wait(timeout)`` for a future of the view: as with ``PoolFuture``."""
        try:
            return wait_for_own(self._limiter.threads, self._pool, wait, timeout)
        finally:
            del wait  # As in there.


COMPENSATES.add(LimitedView)
