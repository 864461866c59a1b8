"""The jobs of a view, ``WorkerPool.limited(n)``, on their way to the threads of its pool.

The jobs of a view wait in its own queue. The pool gets *turns*, at most n at a time: a worker that
has a turn does the oldest job of the view, and then ends the turn, or queues up with it again,
behind the pool's other jobs. So a full view leaves the pool's other workers alone.

No job is left waiting, by the same rule as in ``_permits``: ``put`` first appends the job and then
looks for a free turn; a worker that ends a turn looks for a job after that.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from _thread import get_ident
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from .._errors import DROPPED, NO_JOIN, POOL_SHUT_DOWN, report
from ._limits import Counting, CountingThreads, Counts, PoolBusy, make_entry, raise_busy
from ._permits import drain, fail_all, holding, log
from ._threads import Threads
from ._work_item import Job


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
            if isinstance(exc, Exception) and not isinstance(exc, PoolBusy):
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

    def withdraw(self, job: Job) -> None:
        """In any thread: *job* was cancelled before a worker had it."""

    def serves(self, thread: int) -> bool:
        return any(turn.thread == thread for turn in self._active.copy())

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
        if self.serves(here):
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
                threads.queue_again(turn)
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
        holding(self._lock, self._away.append, None)
        if self._waiting:
            self._take_turn(self.threads.requeue)
        self.threads.away()

    def back(self) -> None:
        holding(self._lock, self._away.pop)
        self.threads.back()


class CountingViewLimiter(ViewLimiter, Counting):
    """That of a view of ``CountingThreads``. Its own counts are those of its jobs."""

    threads: CountingThreads

    def __init__(self, threads: CountingThreads, limit: int, max_queued: int | None) -> None:
        self.counts = Counts(max_queued, threads.counts.lock)
        super().__init__(threads, limit)
        views = threads.counting_views
        views[:] = [view for view in views if view() is not None] + [ref(self)]

    def put(self, job: Job) -> None:
        entry = make_entry(self, job)
        try:
            self._check()
            busy = self.counts.admit(entry, self._look_closer)
            if busy is not None:
                raise_busy("limited", self.threads.name, self.limit, busy, self.counts)
            super().put(entry)
        except BaseException:
            self.counts.withdraw(job)
            raise

    def _look_closer(self) -> tuple[int, int]:
        """Under the lock of the counts."""
        pool, counts = self.threads, self.counts
        others = pool.load(without=self)
        running = len(counts.running())
        free = min(
            self.limit - running,
            pool.max_workers - others.running - others.waiting - running,
            pool.max_threads - others.occupied - others.waiting - len(counts.occupied()),
        )
        return counts.waiting(), max(0, free)

    def turns(self) -> set[Any]:
        return self._active.copy()

    def close(self, *, drop: bool) -> None:
        turns = self._active.copy()
        super().close(drop=drop)
        for turn in turns - self._active:
            self.threads.withdraw(turn)

    def withdraw(self, job: Job) -> None:
        entry = self.counts.withdraw(job)
        if entry is None:
            return
        with contextlib.suppress(ValueError, IndexError):  # A worker has it, and passes it.
            self._waiting.remove(entry)
        turn = holding(self._lock, self._end_turn_for_nothing)
        if turn is not None:
            self.threads.withdraw(turn)
            # A job that came meanwhile may have relied on it.
            if self._waiting and self._has_room():
                self._take_turn(self.threads.requeue)

    def _end_turn_for_nothing(self) -> _Turn | None:
        """Under the lock: there may be a turn more than jobs. The worker that gets it passes it."""
        turns = [turn for turn in self._active if not turn.thread]
        if len(turns) <= len(self._waiting):
            return None
        self._end(turns[0])
        return turns[0]

    def away(self) -> None:
        self.counts.mark_away(True)
        super().away()

    def back(self) -> None:
        super().back()
        self.counts.mark_away(False)

    def _take_turn(self, put: Callable[[Job], None], job: Job | None = None) -> None:
        if job is not None:
            is_entitled = holding(self.counts.lock, self._has_turn_to_spare)
            put = self.threads.put_entitled if is_entitled else self.threads.put_turn
        super()._take_turn(put, job)

    def _has_turn_to_spare(self) -> bool:
        """Whether turns look for a job just now, or do so before they end: for all that waits."""
        turns = [turn for turn in self._active.copy() if turn.thread]
        return len(turns) - sum(self._has_job(turn) for turn in turns) >= len(self._waiting)

    def _has_job(self, turn: _Turn) -> bool:
        """Under the lock of the counts."""
        entry = self.counts.begun.get(turn.thread)
        return entry is not None and not entry.is_over()

    def start_afresh(self) -> None:
        self.counts.lock = self.threads.counts.lock
        self.counts.start_afresh()
        super().start_afresh()


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

    def is_here(self) -> bool:
        # Here that is a turn that has ended: a view counts as its jobs. (One that is older than the
        # limits of its pool does not know them.)
        return not isinstance(self._limiter, CountingViewLimiter)

    def is_over(self) -> bool:
        return not self.is_here()

    def fail(self, error: BaseException | str | None) -> bool:
        self._limiter.end(self)
        self._limiter.drop_if_alone(error)
        return True
