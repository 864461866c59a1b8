"""The jobs of a view, ``WorkerPool.limited(n)``, on their way to the threads of its pool.

The jobs of a view wait in its own queue. The pool gets *turns*, at most n at a time: a worker that
has a turn does the oldest job of the view, and then ends the turn, or queues up with it again,
behind the pool's other jobs. So a full view leaves the pool's other workers alone.

No job is left waiting, by the same rule as in ``_permits``: ``put`` first appends the job and then
looks for a free turn; a worker that ends a turn looks for a job after that. It does so under the
lock, and ends none that a job needs: ``shutdown`` waits for the turns, and so for the jobs.
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

from .._away import Parked
from .._errors import DROPPED, NO_JOIN, POOL_SHUT_DOWN
from ._limits import Busy, Counting, CountingThreads, Counts, Entry, make_entry, raise_busy
from ._permits import do_again, drain, fail_all, holding
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
        #: What the workers do that have a turn and are away.
        self._away: set[Parked] = set()
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
        turn, is_for_new_job = _Turn(self), job is not None
        try:
            if not holding(self._lock, self._begin, turn, is_for_new_job):
                return
            self._put(put, turn)
        except BaseException as exc:
            # After a KeyboardInterrupt a worker may come all the same, and find the turn ended.
            self.end(turn)
            try:
                if job is not None:
                    self._waiting.remove(job)
            except ValueError:
                job = None
            # Other jobs may have relied on this turn. They are done, even if the pool refuses it.
            is_refused = is_for_new_job and self.threads.make_refusal is not None
            if is_refused or not isinstance(exc, Exception):
                self._take_turn(self.threads.requeue)
            else:
                self.drop_if_alone(exc)
            if job is not None or not isinstance(exc, Exception):
                raise

    def _put(self, put: Callable[[Job], None], turn: _Turn) -> None:
        put(turn)
        # Whoever has ended it before that could not tell the pool.
        if turn not in self._active:
            self.threads.withdraw(turn)

    def _begin(self, turn: _Turn, is_for_new_job: bool) -> bool:
        """Under the lock."""
        if not self._waiting or not self._has_room():
            return False
        if is_for_new_job and self.is_closed:
            return False  # ``put`` takes it back: ``shutdown`` may have returned.
        self._active.add(turn)
        return True

    def withdraw(self, key: object) -> None:
        """In any thread: the job was cancelled before a worker had it."""

    def serves(self, thread: int) -> bool:
        return any(turn.thread == thread for turn in self._active.copy())

    def drop_if_alone(self, error: BaseException | str | None) -> None:
        """The pool has refused, or dropped, a turn."""
        fail_all(partial(holding, self._lock, self._drain_if_alone), partial(copy.copy, error))

    def _drain_if_alone(self, into: list[Job]) -> None:
        """Under the lock."""
        # (A body that is away may wait for these very jobs.)
        if len(self._active) <= len(self._away):
            self.drain(into)

    def drain(self, into: list[Job]) -> None:
        """Take all jobs away."""
        drain(self._waiting, into)

    def close(self, *, drop: bool) -> None:
        ended: set[_Turn] = set()
        try:
            fail_all(partial(holding, self._lock, self._close, drop, ended), lambda: DROPPED)
        finally:
            for turn in ended:
                self.threads.withdraw(turn)

    def _close(self, drop: bool, ended: set[_Turn], dropped: list[Job]) -> None:
        """Under the lock."""
        self.is_closed = True
        if drop:
            # First the jobs, for Ctrl+C may come between: a job without a turn is never done.
            self.drain(dropped)
            # Turns that have not begun are for nothing: ``join`` need not wait for them.
            ended.update(turn for turn in self._active.copy() if not turn.thread)
            self._active -= ended
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
        return holding(self._lock, self._begin_to_serve, turn)

    def _begin_to_serve(self, turn: _Turn) -> bool:
        """Under the lock."""
        # (One that queues again may be in the queue and in the hands of ``do_again``.)
        if turn.thread or turn not in self._active:
            return False
        turn.thread = get_ident()
        return True

    def serve(self, turn: _Turn) -> None:
        threads, waiting = self.threads, self._waiting
        jobs = iter(waiting.popleft, None)
        while True:
            # (Too many after a body has come back: this worker gives way.)
            while len(self._active) - len(self._away) <= self.limit:
                try:
                    for job in jobs:  # noqa: B007 - as in ``Threads``
                        break
                except IndexError:
                    break
                try:
                    job()
                except BaseException as exc:  # It must not cost the view a turn.
                    do_again(job, exc)
                del job
                if waiting and threads.waiting:
                    # Other jobs wait for this worker, too. It looks for them next.
                    turn.thread = 0
                    self._put(threads.queue_again, turn)
                    return
            if self.end_unless_needed(turn):
                return

    def end_unless_needed(self, turn: _Turn) -> bool:
        return holding(self._lock, self._end_unless_needed, turn)

    def end(self, turn: _Turn) -> None:
        holding(self._lock, self._end_unless_served, turn)

    def replace(self, turn: _Turn) -> None:
        """End *turn*, which was interrupted. Jobs that wait may have relied on it."""
        self.end(turn)
        self._take_turn(self.threads.requeue)

    def _end_unless_served(self, turn: _Turn) -> None:
        """Under the lock. Whoever was interrupted as it queued *turn* may come after a worker."""
        if turn.thread in (0, get_ident()):
            self._end(turn)

    def _end(self, turn: _Turn) -> None:
        """Under the lock."""
        self._active.discard(turn)
        if self.is_closed and not self._active:
            self._over.set()

    def _end_unless_needed(self, turn: _Turn) -> bool:
        """Under the lock. False if a job relies on *turn*: it came when the worker had looked."""
        # First that: ``put`` first appends the job, then looks for room, and takes no lock for it.
        self._active.discard(turn)
        if self._waiting and self._has_room():
            self._active.add(turn)
            return False
        self._end(turn)
        return True

    def away(self, parked: Parked) -> None:
        holding(self._lock, self._away.add, parked)
        if self._waiting:
            self._take_turn(self.threads.requeue)
        self.threads.away(parked)

    def back(self, parked: Parked) -> None:
        holding(self._lock, self._away.discard, parked)
        self.threads.back(parked)


class CountingViewLimiter(ViewLimiter, Counting):
    """That of a view of ``CountingThreads``. Its own counts are those of its jobs."""

    threads: CountingThreads

    def __init__(self, threads: CountingThreads, limit: int, max_queued: int | None) -> None:
        self.counts = Counts(max_queued, threads.counts.lock)
        super().__init__(threads, limit)
        views = threads.counting_views
        views.append(ref(self, views.remove))

    def put(self, job: Job) -> None:
        entry = make_entry(self, job)
        try:
            self._check()
            holding(self.counts.lock, self._admit, entry)
            super().put(entry)
        except BaseException:
            self.counts.withdraw(entry.key)
            raise

    def _admit(self, entry: Entry) -> None:
        """Under the lock of the counts: count *entry*, or raise PoolBusy."""
        counts, limit = self.counts, self.counts.max_queued
        if limit is not None and counts.waiting() >= limit:
            free = self._count_free()
            waiting = counts.waiting() - free
            if waiting >= limit:
                busy = Busy(len(counts.running()) + free, waiting)
                raise_busy("limited", self.threads.name, self.limit, busy, counts)
        counts.add(entry)
        # (In a full view it waits for another job of the view, and not for a worker.)
        if counts.waiting() <= self.limit - len(counts.running()):
            self.threads.refuse_if_busy(1)

    def _count_free(self) -> int:
        """Under the lock of the counts: how many workers would begin with a job of this at once."""
        pool, counts = self.threads, self.counts
        others = pool.load(without=self)
        running = len(counts.running())
        free = min(
            self.limit - running,
            pool.max_workers - others.running - others.waiting - running,
            pool.max_threads - others.occupied - others.waiting - len(counts.occupied()),
        )
        return max(0, free)

    def turns(self) -> set[Any]:
        return self._active.copy()

    def withdraw(self, key: object) -> None:
        entry = self.counts.withdraw(key)
        if entry is None:
            return
        with contextlib.suppress(ValueError, IndexError):  # A worker has it, and passes it.
            self._waiting.remove(entry)
        turn = holding(self._lock, self._end_turn_for_nothing)
        if turn is not None:
            self.threads.withdraw(turn)

    def _end_turn_for_nothing(self) -> _Turn | None:
        """Under the lock: there may be a turn more than jobs. The worker that gets it passes it."""
        # (Of a copy: a signal handler may put a job here.)
        turns = [turn for turn in self._active.copy() if not turn.thread]
        if len(turns) <= len(self._waiting):
            return None
        turn = turns[0]
        self._active.discard(turn)
        if len(turns) <= len(self._waiting):  # A job that came just now relies on it.
            self._active.add(turn)
            return None
        self._end(turn)
        return turn

    def away(self, parked: Parked) -> None:
        self.counts.mark_away(True)
        super().away(parked)

    def back(self, parked: Parked) -> None:
        super().back(parked)
        self.counts.mark_away(False)

    def _take_turn(self, put: Callable[[Job], None], job: Job | None = None) -> None:
        super()._take_turn(put if job is None else self.threads.put_turn, job)

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
        limiter = self._limiter
        try:
            if limiter.begin(self):
                limiter.serve(self)
        except BaseException:  # Another thread has raised it here, between two jobs.
            limiter.replace(self)
            raise

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
