"""Permits for workers: who may work, who is parked, and what waits for them. It knows no threads.

A worker needs a *place* to take jobs, and there are ``max_workers`` max_workers. It keeps its place
while it is parked among the ready. It gives it up while the body of its job is away, so that
another worker may begin in its stead; when it comes back, it takes one whether there is a free one
or not. The next worker that ends a job then finds a place too many taken, and parks in the
reserve, without a place.

Putting a job and parking are the hot path. They take no lock, only steps that are atomic on every
build: a deque's ``append``, ``pop``, ``popleft`` and ``remove``. No wake-up gets lost, because each
side first leaves its mark and then looks for the other's:

- Who puts a job appends it; then it looks for a ready worker, then for a free place.
- A worker enters the ready; then it looks for a job once more before it sleeps.
- Who frees a place (``leave_place``, a worker that ends) looks for a job after that.

So a job that found neither a ready worker nor a free place is seen by all those who had the permits.
Who wakes takes the worker off the deque, so that each is woken once, and by one only. That settles
the race between "idle for too long" and "being woken", too: who can take the worker off the deque
has it; a worker that cannot find itself there is about to be woken.

All else is done under the lock. That is an RLock, because a signal handler or a finalizer may come
in the middle of it, in the same thread, and put a job here. So counts are the lengths of
collections, which cannot be torn, and each step allows for that what it saw just now is gone. What
the intruder may cause at worst is a worker too many, which then steps back.

A KeyboardInterrupt can hit a thread that puts, never a worker. So who wakes only wakes, in one step
of the interpreter, and each worker counts itself; and those who are not workers get the lock by
``holding``, since from Python 3.14 on ``with lock:`` may be hit after the lock was acquired, and
not release it.
"""

from __future__ import annotations

import threading
from _thread import LockType
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from ._work_item import Job

T = TypeVar("T")
#: Where a worker is parked: closed until somebody wakes it.
Gate = LockType


class Permits:
    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers
        #: Replaced in the child of a fork, so nobody may keep it.
        self._lock = threading.RLock()

        # The steps of these two are atomic: no lock.
        #: The oldest first.
        self.waiting: deque[Job] = deque()
        #: Parked workers that have a place, by their gates, the newest last.
        self._idle: deque[Gate] = deque()

        # The collections below change under the lock. Their lengths may be read without it.
        #: One entry for each place that is taken.
        self._held: deque[None] = deque()
        #: One entry for each worker whose body is away.
        self._away: deque[None] = deque()
        #: Parked workers without a place.
        self._spare: deque[Gate] = deque()
        #: Those in the reserve, and those woken from it that have not yet taken a place.
        self._without_permit: set[Gate] = set()

        #: Wake the newest one, or raise IndexError. In any thread, without the lock.
        self._wake_idle = _pop_and_call(self._idle)
        self._wake_spare = _pop_and_call(self._spare)

    def _wake_all(self) -> None:
        for wake in (self._wake_idle, self._wake_spare):
            try:
                while True:
                    wake()
            except IndexError:
                pass

    def _clear(self) -> None:
        """In the child of a fork: nobody is here, and nothing waits."""
        self._lock = threading.RLock()
        for collection in (self.waiting, self._idle, self._held, self._away, self._spare):
            collection.clear()
        self._without_permit.clear()

    # In a worker, from within its job.

    def _release(self) -> None:
        """The body goes away. Who calls this looks for a job after it."""
        with self._lock:
            self._away.append(None)
            self._held.pop()

    def back(self) -> None:
        """The body has come back. It goes on at once, and somebody else steps back for it."""
        with self._lock:
            self._away.pop()
            self._held.append(None)
            if len(self._held) > self.max_workers:
                try:
                    gate = self._idle.pop()
                except IndexError:
                    return  # The next one that ends a job steps back.
                self._without_permit.add(gate)
                self._spare.append(gate)
                self._held.pop()

    # In a worker, between two jobs.

    def _yield_permit(self, gate: Gate) -> bool:
        """Park without a place, as too many are taken. False if they are not any more."""
        with self._lock:
            if len(self._held) <= self.max_workers:
                return False
            self._held.pop()
            self._without_permit.add(gate)
            self._spare.append(gate)
            return True

    def _cancel_park(self, gate: Gate) -> bool:
        """Be parked no more, and have a place. False if somebody wakes this worker just now."""
        with self._lock:
            try:
                self._idle.remove(gate)
            except ValueError:
                try:
                    self._spare.remove(gate)
                except ValueError:
                    return False
                self._acquire(gate)
            return True

    def _acquire(self, gate: Gate) -> None:
        """In a worker that was in the reserve."""
        with self._lock:
            self._held.append(None)
            self._without_permit.discard(gate)


def holding(lock: Any, func: Callable[..., T], /, *args: Any) -> T:
    """``with lock: return func(*args)``, safe from a KeyboardInterrupt."""
    held: list[bool] = []
    try:
        # All in one step of C.
        held.extend(map(lock.acquire, (True,)))
        return func(*args)
    finally:
        if held:
            lock.release()


def drain(waiting: deque[Job]) -> list[Job]:
    """Take away what waits, while others may take some of it, too."""
    jobs: list[Job] = []
    while True:
        try:
            jobs.append(waiting.popleft())
        except IndexError:
            return jobs


def _pop_and_call(gates: deque[Gate]) -> Callable[[], object]:
    # One step for the interpreter, on PyPy as well: a KeyboardInterrupt cannot come between.
    return map(LockType.release, iter(gates.pop, None)).__next__
