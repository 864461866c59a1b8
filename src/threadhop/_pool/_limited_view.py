"""``WorkerPool.limited(n)``: an executor with a limit of its own over the threads of a pool.

The jobs of a view wait in its own queue. The pool gets *turns*, at most n at a time: a worker that
has a turn does the oldest job of the view, and then ends the turn, or queues up with it again,
behind the pool's other jobs. So a full view leaves the pool's other workers alone.

No job is left waiting, by the same rule as in ``_permits``: ``put`` first appends the job and then
looks for a free turn; a worker that ends a turn looks for a job after that.
"""

from __future__ import annotations

import copy
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

from .._errors import DROPPED, NO_JOIN, POOL_SHUT_DOWN, report
from ._permits import drain, fail_all, holding, log
from ._threads import Threads
from ._work_item import Job, WorkItem

P = ParamSpec("P")
T = TypeVar("T")


class LimitedView(Executor):
    """At most *n* jobs at once on the threads of a ``WorkerPool``: made by ``pool.limited(n)``.

    A view is an executor like any other: for ``threadpool()``, ``submit()``, ``map()`` and
    ``loop.run_in_executor()``. Its jobs begin in the order in which they came. A view needs no
    ``shutdown()``, keeps its pool alive, and ends with it. A worker whose body is away does not
    count, here as in the pool. The view's own ``shutdown()`` concerns its own jobs only; the
    threads go on. There is no ``limited()``: a view of a view would be one of the pool.

    .. versionadded:: 0.1
    """

    def __init__(self, pool: Executor, threads: Threads, limit: int) -> None:
        # A worker that has a turn keeps the limiter, and nothing of the pool.
        self._pool = pool
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
            BrokenThreadPool: The initializer of the pool has failed.
        """
        future: Future[T] = Future()
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

    def away(self) -> None:
        """In the worker of a job, whose body goes elsewhere: it does not count until it is back."""
        self._limiter.away()

    def back(self) -> None:
        """In the same worker: the body has come back. It goes on at once."""
        self._limiter.back()

    def is_exhausted(self) -> bool:
        """Whether all threads that the pool may have are away."""
        return self._limiter.threads.is_exhausted()


class ViewLimiter:
    """The jobs of a view, and the turns that it has taken in the pool."""

    def __init__(self, threads: Threads, limit: int) -> None:
        self.threads = threads
        self.limit = limit
        #: An RLock for the same reasons as that of ``Permits``. Under it, no other lock is taken.
        self._lock = threading.RLock()
        #: Its steps are atomic: no lock.
        self._waiting: deque[Job] = deque()
        # These change under the lock. Their lengths may be read without it.
        self._active: set[_Turn] = set()
        #: One entry for each turn whose body is away.
        self._away: deque[None] = deque()
        #: Written under the lock, once.
        self.is_closed = False
        #: Set when it is closed, and the last turn has ended.
        self._over = threading.Event()
        threads.add_view(self)

    # In any thread.

    def put(self, job: Job) -> None:
        self._check()
        self._waiting.append(job)
        if self._has_room():
            self._take_turn(self.threads.put, job)
        if self.is_closed or self.threads.make_refusal is not None:
            # ``close`` may have dropped the jobs before this one was there.
            try:
                self._waiting.remove(job)
            except ValueError:
                return
            self._check()

    def _check(self) -> None:
        if self.threads.make_refusal is not None:
            raise self.threads.make_refusal()
        if self.is_closed:
            raise RuntimeError(POOL_SHUT_DOWN)

    def _has_room(self) -> bool:
        return len(self._active) - len(self._away) < self.limit

    def _take_turn(self, put: Callable[[Job], None], job: Job | None = None) -> None:
        """Ask the pool for one more worker, if a job waits and there is room."""
        turn = _Turn(self)
        try:
            if not holding(self._lock, self._begin, turn):
                return
            put(turn)
        except BaseException as exc:
            # After a KeyboardInterrupt a worker may come all the same, and find the turn ended.
            self.end(turn)
            try:
                if job is not None:
                    self._waiting.remove(job)
            except ValueError:
                job = None
            if isinstance(exc, Exception):
                self.drop_if_alone(exc)
            elif job is not None or put is not self.threads.requeue:
                self._take_turn(self.threads.requeue)  # Other jobs may have relied on this turn.
            if job is not None or not isinstance(exc, Exception):
                raise

    def _begin(self, turn: _Turn) -> bool:
        """Under the lock."""
        if not self._waiting or not self._has_room():
            return False
        self._active.add(turn)
        return True

    def drop_if_alone(self, error: BaseException | str | None) -> None:
        """The pool has refused, or dropped, a turn."""
        fail_all(partial(holding, self._lock, self._drain_if_alone), partial(copy.copy, error))

    def _drain_if_alone(self, into: list[Job]) -> None:
        """Under the lock."""
        if not self._active:
            self.drain(into)

    def drain(self, into: list[Job]) -> None:
        """Take all jobs away."""
        drain(self._waiting, into)

    def close(self, *, drop: bool) -> None:
        fail_all(partial(holding, self._lock, self._close, drop), lambda: DROPPED)

    def _close(self, drop: bool, dropped: list[Job]) -> None:
        """Under the lock."""
        self.is_closed = True
        if drop:
            # First the jobs, for Ctrl+C may come between: a job without a turn is never done.
            self.drain(dropped)
            # Turns that have not begun are for nothing: ``join`` need not wait for them.
            self._active = {turn for turn in self._active if turn.thread}
        if not self._active:
            self._over.set()

    def join(self) -> None:
        here = get_ident()
        if any(turn.thread == here for turn in self._active.copy()):
            raise RuntimeError(NO_JOIN)
        self._over.wait()

    def start_afresh(self) -> None:
        """In the child of a fork, as ``Threads`` does."""
        self._lock = threading.RLock()
        self._waiting.clear()
        self._away.clear()
        here = get_ident()
        self._active = {turn for turn in self._active if turn.thread == here}
        self._over = threading.Event()
        if self.is_closed and not self._active:
            self._over.set()

    # In a worker, with a turn.

    def begin(self, turn: _Turn) -> bool:
        with self._lock:
            if turn not in self._active:
                return False
            turn.thread = get_ident()
            return True

    def serve(self, turn: _Turn) -> None:
        threads, waiting = self.threads, self._waiting
        while len(self._active) - len(self._away) <= self.limit:
            try:
                job = waiting.popleft()
            except IndexError:
                break
            try:
                job()
            except BaseException:  # A mistake of ours, or of a done callback, costs no turn.
                report("Exception in worker", log)
            del job
            if waiting and threads.waiting:
                # Other jobs wait for this worker, too. It looks for them next.
                turn.thread = 0
                threads.waiting.append(turn)
                return
        self.end(turn)
        if self._waiting and self._has_room():
            self._take_turn(self.threads.requeue)

    def end(self, turn: _Turn) -> None:
        holding(self._lock, self._end, turn)

    def _end(self, turn: _Turn) -> None:
        """Under the lock."""
        self._active.discard(turn)
        if self.is_closed and not self._active:
            self._over.set()

    def away(self) -> None:
        with self._lock:
            self._away.append(None)
        if self._waiting:
            self._take_turn(self.threads.requeue)
        self.threads.away()

    def back(self) -> None:
        with self._lock:
            self._away.pop()
        self.threads.back()


class _Turn:
    """The pool's job: to do a job of the view."""

    __slots__ = ("_limiter", "thread")

    def __init__(self, limiter: ViewLimiter) -> None:
        self._limiter = limiter
        #: The worker's ident; 0 while the turn waits. Written by the worker.
        self.thread = 0

    def __call__(self) -> None:
        if self._limiter.begin(self):
            self._limiter.serve(self)

    def fail(self, error: BaseException | str | None) -> bool:
        self._limiter.end(self)
        self._limiter.drop_if_alone(error)
        return True
