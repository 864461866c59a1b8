"""Permits for workers: who may work, who is parked, and what waits for them. It knows no threads.

A worker needs a *permit* to take jobs, and there are ``max_workers`` of them. It keeps its permit
while it is parked among the idle. It releases the permit while the body of its job is away, so that
another worker may begin in its place; coming back, it acquires one whether any is free or not. Then
too many are held, and the next worker that ends a job yields its permit and parks among the spare.

Putting a job and parking are the hot path. They take no lock, only steps that are atomic on every
build: a deque's ``append``, ``pop``, ``popleft`` and ``remove``. No wake-up gets lost, because each
side first leaves its mark and then looks for the other's:

- ``put`` appends the job; then it looks for an idle worker, then for a free permit.
- A worker enters the idle; then it looks for a job once more before it sleeps.
- A worker that gives up its permit (``away``, or its end) looks for a job after that.

So a job that found neither an idle worker nor a free permit is seen by all workers that held one.
Waking takes the gate of the worker off the deque, so each worker is woken once, and by one thread
only. The same settles the race between "idle for too long" and "being woken": the thread that can
take the gate off the deque has the worker; a worker that cannot find its gate there is about to be
woken.

All else is done under the lock. The lock is an RLock, because a signal handler or a finalizer may
come in the middle of it, in the same thread, and put a job here. So counts are the lengths of
collections, which cannot be torn, and each step expects that what it just saw may be gone. The
intruder causes a worker too many at worst, which then yields its permit.

An exception from outside may come between any two steps: Ctrl+C in the thread that puts, what
another thread raises in a worker. So a permit is acquired or released in one step of the
interpreter: no number says who has one, only the collection in which a worker is. A step that was
interrupted may be repeated. The lock is taken by ``holding``: from Python 3.14 on ``with lock:``
may be hit after the lock was acquired, and not release it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from _thread import LockType
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, TypeVar

from .._away import Parked
from .._errors import report
from ._work_item import Job

T = TypeVar("T")
#: A worker is parked at one: a lock that is held until another thread wakes the worker.
Gate = LockType

#: The standard library's logger: users look there.
log = logging.getLogger("concurrent.futures")


class Permits:
    """The permits of one pool, and its parked workers."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        #: Replaced in the child of a fork: always asked for anew.
        self._lock = threading.RLock()

        # The steps of these two are atomic: no lock.
        #: The oldest first.
        self.waiting: deque[Job] = deque()
        #: Parked workers that have a permit, by their gates, the newest last.
        self._idle: deque[Gate] = deque()

        # The collections below change under the lock. Their lengths may be read without it.
        #: All workers, also those that have yet to begin, with their numbers.
        self._threads: dict[threading.Thread, int] = {}
        #: What those do that are away: they have no permit.
        self.all_away: set[Parked] = set()
        #: Parked workers without a permit. (Whoever wakes one needs no lock.)
        self._spare: deque[Gate] = deque()

        #: Wake the newest one, or raise IndexError. In any thread, without the lock.
        self._wake_idle = _pop_and_call(self._idle)
        self._wake_spare = _pop_and_call(self._spare)

    def _count_held(self) -> int:
        """How many permits are held."""
        return len(self._threads) - len(self.all_away) - len(self._spare)

    def _wake_all(self) -> None:
        for wake in (self._wake_idle, self._wake_spare):
            try:
                while True:
                    wake()
            except IndexError:
                pass

    def _clear(self) -> None:
        """In the child of a fork: no worker is here, and nothing waits."""
        self._lock = threading.RLock()
        for collection in (self.waiting, self._idle, self.all_away, self._spare):
            collection.clear()

    # In a worker, from within its job. Both may be repeated.

    def _release(self, parked: Parked) -> None:
        """The body goes away. The caller looks for a job after this."""
        holding(self._lock, self.all_away.add, parked)

    def back(self, parked: Parked) -> None:
        """The body has come back, and goes on at once. Another worker yields its permit for it."""
        holding(self._lock, self._note_back, parked)

    def _note_back(self, parked: Parked) -> None:
        """Under the lock."""
        self.all_away.discard(parked)
        if self._count_held() > self.max_workers:
            # Without any that is idle, the next worker that ends a job yields.
            with contextlib.suppress(IndexError):
                self._spare.extend(islice(iter(self._idle.pop, None), 1))

    # In a worker, between two jobs.

    def _yield_permit(self, gate: Gate) -> bool:
        """Park without a permit, as too many are held. False if they are not any more."""
        return holding(self._lock, self._park_among_the_spare, gate)

    def _park_among_the_spare(self, gate: Gate) -> bool:
        """Under the lock."""
        if self._count_held() <= self.max_workers:
            return False
        self._spare.append(gate)
        return True

    def _cancel_park(self, gate: Gate) -> bool:
        """Be parked no more, with a permit. False if another thread wakes this worker just now."""
        return holding(self._lock, self._take_gate_back, gate)

    def _take_gate_back(self, gate: Gate) -> bool:
        """Under the lock."""
        try:
            self._idle.remove(gate)
        except ValueError:
            try:
                self._spare.remove(gate)
            except ValueError:
                return False
        return True


def holding(lock: Any, func: Callable[..., T], /, *args: Any) -> T:
    """``with lock: return func(*args)``, safe from what is raised here from outside."""
    held: list[bool] = []
    try:
        # All in one step of C.
        held.extend(map(lock.acquire, (True,)))
        return func(*args)
    finally:
        if held:
            lock.release()


def do_again(job: Job, error: BaseException) -> None:
    """In the worker that has called *job*, which raised *error*.

    Raised from outside, *error* may have come before the job had begun. One that had begun does
    nothing the second time, or raises. *error* may be a mistake of ours as well, or of a done
    callback.
    """
    report("Exception in worker", log)
    try:
        job()
    except BaseException:
        job.fail(error)


def drain(waiting: deque[Job], into: list[Job]) -> None:
    """Take all jobs away, while other threads may take some, too."""
    with contextlib.suppress(IndexError):
        # All in one step of C.
        into.extend(iter(waiting.popleft, None))


def fail_all(
    take: Callable[[list[Job]], object], make_error: Callable[[], BaseException | str | None]
) -> None:
    """Fail the jobs that *take* puts into the list. Without the lock, in any thread.

    What one job raises costs the others nothing. Nor does Ctrl+C, which is raised at the end.
    """
    jobs: list[Job] = []
    interrupt: BaseException | None = None
    done = 0
    try:
        take(jobs)
    except BaseException as exc:
        interrupt = exc
    while True:
        try:
            for job in islice(jobs, done, None):
                job.fail(make_error())
                done += 1
            break
        except Exception:  # A mistake of ours.
            report("Exception while a job was dropped", log)
            done += 1
        except BaseException as exc:
            # The job may have failed, or half of it: once more. Only once, so this ends.
            done += interrupt is not None
            interrupt = exc
    try:
        if interrupt is not None:
            raise interrupt
    finally:
        del interrupt  # Its traceback has this frame.


def _pop_and_call(gates: deque[Gate]) -> Callable[[], object]:
    # One step for the interpreter, on PyPy as well: a KeyboardInterrupt cannot come between.
    return map(LockType.release, iter(gates.pop, None)).__next__
