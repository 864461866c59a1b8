"""The threads of a ``WorkerPool``: they start as needed, take jobs, park, and leave.

``_permits`` tells who may work, and why no worker sleeps while there is something to do. Here are
the threads themselves, and how they end:

- A worker leaves when it was parked for ``idle_timeout`` seconds, unless there may be one only;
  after ``close``, as soon as nothing waits. It decides and gives up its permit under the lock, and
  then looks for a job once more: a ``put`` from then on finds the permit free.
- A thread is started under the lock, and begins without it. It counts from before that. If it could
  not start, jobs that relied on it wait for the other workers; without any, they fail.
- ``put`` checks ``make_refusal`` twice: before it appends the job and after. If the pool was closed
  in between, no worker may be left to see the job, so ``put`` takes it back and raises.
- Jobs fail after the lock was released, never under it.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from functools import partial
from itertools import count
from weakref import WeakSet

from .. import _lifetime
from .._away import Parked, Place
from .._errors import DROPPED, NO_JOIN, POOL_ENDED, report
from ._permits import Gate, Permits, do_again, drain, fail_all, holding, log
from ._thread import WorkerThread
from ._work_item import Job, View

#: Makes the error that ``put`` raises: a new one each time, for its traceback grows.
Refusal = Callable[[], BaseException]


class Threads(Permits):
    """The threads of one pool. They do not keep the pool."""

    def __init__(
        self,
        max_workers: int,
        max_threads: int,
        idle_timeout: float | None,
        name: str,
        initialize: Callable[[], object] | None,
        broken: Refusal,
    ) -> None:
        super().__init__(max_workers)
        self.max_threads = max_threads
        # Users of a pool of one may keep objects that belong to its thread.
        is_patient = idle_timeout is None or idle_timeout > threading.TIMEOUT_MAX
        #: Seconds after which a parked worker leaves; -1: it does not.
        self._patience = -1 if max_threads == 1 or is_patient else idle_timeout or 0
        self.name = name
        self._initialize = initialize
        self._broken = broken
        #: Makes the error of ``put``; None while jobs are taken. Written under the lock.
        self.make_refusal: Refusal | None = None
        #: Whether ``close`` was called; also of a pool that was broken before.
        self.is_shut_down: bool = False
        #: Whether workers leave when nothing waits. Written before all are woken.
        self._closing = False

        # Guarded by the lock.
        #: Threads that have yet to begin. (They hold a permit from before their start.)
        self._starting: set[threading.Thread] = set()
        #: Threads that have left, and may not quite have ended.
        self._ended: list[threading.Thread] = []
        self._views: WeakSet[View] = WeakSet()
        _lifetime.survive_forks(self)

    # In any thread.

    def put(self, job: Job) -> None:
        """Have a worker do *job*. Raises the refusal, or what the start of a thread raises."""
        if self.make_refusal is not None:
            raise self.make_refusal()
        self.waiting.append(job)
        if self._idle:
            try:
                self._wake_idle()
            except IndexError:  # Other threads were faster.
                self._add_worker(job)
        elif self._count_held() < self.max_workers:
            self._add_worker(job)
        if self.make_refusal is not None:
            try:
                self.waiting.remove(job)
            except ValueError:  # A worker does it, or ``close`` has dropped it.
                return
            raise self.make_refusal()

    def requeue(self, job: Job) -> None:
        """In a worker, for a job that was accepted: have it done, even if ``close`` came since."""
        self.waiting.append(job)
        self._add_worker()

    def queue_again(self, job: Job) -> None:
        """In the worker that has begun *job*, and looks for a job next: do it later."""
        self.waiting.append(job)

    def withdraw(self, key: object) -> None:
        """In any thread: the job was cancelled. A worker passes it, for it has been claimed."""

    def _add_worker(self, job: Job | None = None) -> None:
        """Get one more worker for the jobs that wait, if a permit is free.

        Raises what the start of a thread raises, if *job*, which is new, is taken back for that.
        """
        error = None
        try:
            error = holding(self._lock, self._wake_or_start, job)
            if error is not None:
                self._could_not_start(job, error)
        except BaseException as exc:
            if not isinstance(exc, Exception):
                # Interrupted at any step. Other jobs may have relied on this start.
                self._see_to_waiting()
            raise
        finally:
            del error  # Its traceback has this frame.

    def _wake_or_start(self, job: Job | None) -> BaseException | None:
        """Under the lock. Returns what the start of a thread raised."""
        if not self.waiting or self._woke(self._wake_idle):
            return None
        if self._count_held() >= self.max_workers or self._woke(self._wake_spare):
            return None
        if len(self._threads) >= self.max_threads:
            return None  # All are away, or look for a job before they park.
        if _lifetime.is_ending() and not self._threads:
            self.end_with_the_process()
        if job is not None and self.make_refusal is not None:
            return None  # ``put`` takes it back.
        self._ended = [thread for thread in self._ended if thread.is_alive()]
        numbers = set(self._threads.values())
        number = next(number for number in count() if number not in numbers)
        thread = WorkerThread(
            target=self._work, name=f"{self.name}_{number}", daemon=_lifetime.DAEMON
        )
        taken: list[None] = []
        take_back = map(self._starting.remove, (thread,))  # Later, in one step.
        try:
            self._starting.add(thread)
            self._threads[thread] = number
            # A signal handler, in the middle of this, may have started the last one.
            if len(self._threads) <= self.max_threads:
                thread.start()
            else:
                del self._threads[thread]
                self._starting.discard(thread)
        except BaseException as exc:
            # After a KeyboardInterrupt the thread may be under way all the same.
            try:
                taken.extend(take_back)
            except KeyError:  # It has begun, or was not even noted.
                pass
            finally:
                if taken:  # Should it begin, it ends at once.
                    self._threads.pop(thread, None)
            return exc
        return None

    def _woke(self, wake: Callable[[], object]) -> bool:
        with contextlib.suppress(IndexError):
            wake()
            return True
        return False

    def _could_not_start(self, job: Job | None, error: BaseException) -> None:
        is_interrupt = not isinstance(error, Exception)
        if len(self._threads) > len(self.all_away) and not is_interrupt:
            # A worker looks for a job before it leaves. (One that is away may wait for this job.)
            return
        try:
            if job is not None:
                try:
                    self.waiting.remove(job)
                except ValueError:
                    job = None
            if not is_interrupt:  # Other jobs may have relied on this start.
                fail_all(partial(drain, self.waiting), partial(copy.copy, error))
            if job is not None or is_interrupt:
                raise error
        finally:
            del error

    def close(self, make_refusal: Refusal, *, drop: bool = False) -> None:
        """Take no more jobs, and let the workers leave when nothing waits."""
        fail_all(partial(holding, self._lock, self._close, make_refusal, drop), lambda: DROPPED)

    def _close(self, make_refusal: Refusal, drop: bool, dropped: list[Job]) -> None:
        """Under the lock."""
        self.make_refusal = self.make_refusal or make_refusal
        self.is_shut_down = True
        # Interrupted here, it may be called again.
        self.let_idle_exit()
        if drop:
            self._drain_all(dropped)

    def let_idle_exit(self) -> None:
        """Let the workers leave when nothing waits.

        Without the lock: the garbage collector may call it, in the middle of anything.
        """
        self._closing = True
        self._wake_all()

    def end_with_the_process(self) -> None:
        self.close(_process_has_ended)

    def join(self) -> None:
        """Wait for all threads to end, when it is closed."""
        if threading.current_thread() in self._threads:
            raise RuntimeError(NO_JOIN)
        # Workers may start meanwhile, in the place of those that are away.
        while True:
            threads = holding(self._lock, lambda: [*self._threads, *self._ended])
            alive = [thread for thread in threads if thread.is_alive()]
            if not alive:
                return
            for thread in alive:
                thread.join()

    def threads(self) -> set[threading.Thread]:
        return holding(self._lock, lambda: set(self._threads))

    def count(self) -> tuple[int, int, int]:
        """How many are busy, away and idle: a glimpse, for parking takes no lock."""

        def count() -> tuple[int, int, int]:
            away = len(self.all_away)
            idle = len(self._idle) + len(self._spare)
            return max(0, len(self._threads) - away - idle), away, idle

        return holding(self._lock, count)

    def is_exhausted(self) -> bool:
        """Whether all threads that there may be are away."""
        return len(self.all_away) >= self.max_threads

    def place_here(self) -> Place | None:
        """The view whose job this thread does, or these threads; None if it is no worker."""
        if threading.current_thread() not in self._threads:
            return None
        here = get_ident()
        views = holding(self._lock, lambda: [*self._views])
        return next((view for view in views if view.serves(here)), self)

    def add_view(self, view: View) -> None:
        holding(self._lock, self._views.add, view)

    def _drain_all(self, into: list[Job]) -> None:
        """Under the lock: take away the jobs that wait, here and in the views."""
        drain(self.waiting, into)
        for view in self._views:
            view.drain(into)

    # In a worker.

    def _work(self) -> None:
        # Each step may be repeated: another thread may raise something here (stopit, for one).
        begun: list[None] = []
        is_initialized, gate = False, None
        while True:
            try:
                if not begun:
                    # Without the lock, which the thread that started this one still has: it would
                    # go on first. Both take it out of the set; the first one decides.
                    begun.extend(map(self._starting.remove, (threading.current_thread(),)))
                if threading.current_thread() not in self._threads:  # Interrupted as it left.
                    holding(self._lock, self._unregister)
                    self._see_to_waiting()
                    return
                if gate is not None:
                    self._cancel_park(gate)
                _lifetime.join_at_exit(self)
                if not is_initialized and not self._was_initialized():
                    return
                is_initialized = True
                gate = allocate_lock()  # A new one: another thread may just be about to open it.
                gate.acquire()
                self._serve(gate)
                return
            except BaseException as exc:
                if not begun and isinstance(exc, KeyError):
                    return
                report("Exception in an idle worker", log)

    def _was_initialized(self) -> bool:
        """False if the initializer has failed, and the pool with it."""

        def leave(dropped: list[Job]) -> None:
            self.make_refusal = self._broken
            self._closing = True
            self._drain_all(dropped)
            self._unregister()

        try:
            if self._initialize is not None:
                self._initialize()
            return True
        except BaseException:
            report("Exception in initializer:", log)
            fail_all(partial(holding, self._lock, leave), self._broken)
            return False

    def _serve(self, gate: Gate) -> None:
        waiting, idle, max_workers = self.waiting, self._idle, self.max_workers
        jobs, threads, patience = iter(waiting.popleft, None), self._threads, self._patience
        while True:
            # Here the worker has a permit.
            while waiting and (len(threads) <= max_workers or self._count_held() <= max_workers):
                try:
                    # Taken and kept in one step: an exception from outside loses no job.
                    for job in jobs:  # noqa: B007 - it is, below
                        break
                except IndexError:
                    break
                try:
                    job()
                except BaseException as exc:  # It must not cost the pool a worker.
                    do_again(job, exc)
                # A worker that sleeps keeps nothing of its last job.
                del job
            if len(threads) > max_workers and self._count_held() > max_workers:
                if not self._yield_permit(gate):
                    continue
            else:
                idle.append(gate)
                # A ``put`` before that line has not seen this worker.
                if (waiting or self._closing) and self._cancel_park(gate):
                    if not waiting and self._leave():
                        return
                    continue
            if not gate.acquire(True, patience):
                if self._cancel_park(gate):
                    if self._leave():
                        return
                    continue
                gate.acquire()

    def _leave(self) -> bool:
        """Give up the permit and end. False if there is something to do after all."""
        if not holding(self._lock, self._leave_unless_needed):
            return False
        # A job that came meanwhile has found no permit free, and no thread missing.
        self._see_to_waiting()
        return True

    def _leave_unless_needed(self) -> bool:
        """Under the lock."""
        # (If it was among the spare, the workers with permits see to the jobs.)
        if self.waiting and self._count_held() <= self.max_workers:
            return False
        self._unregister()
        return True

    def _unregister(self) -> None:
        """Under the lock, in the worker that leaves. May be repeated."""
        thread = threading.current_thread()
        self._ended.append(thread)  # First that: ``join`` knows it at each moment.
        self._threads.pop(thread, None)
        _lifetime.join_no_more()
        if self._closing:
            # The spare had to stay while there were others.
            self._wake_all()

    def away(self, parked: Parked) -> None:
        """From within a job, whose body goes elsewhere: this worker does not count meanwhile."""
        self._release(parked)
        self._see_to_waiting()

    def _see_to_waiting(self) -> None:
        if self.waiting:
            with contextlib.suppress(Exception):  # The jobs that wait have failed with it.
                self._add_worker()

    # In the child of a fork.

    def start_afresh(self) -> None:
        """Only the thread that forked is there. The jobs that waited are done in the parent."""
        self._clear()
        self._starting.clear()
        self._ended.clear()
        here = get_ident()
        for thread in [thread for thread in self._threads if thread.ident != here]:
            del self._threads[thread]
        for view in self._views:
            view.start_afresh()


def _process_has_ended() -> RuntimeError:
    return RuntimeError(POOL_ENDED)
