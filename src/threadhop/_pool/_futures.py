"""The futures of a ``WorkerPool``, and a worker that waits for one of its own pool.

Such a worker is away: another thread starts in its place, so the job that it waits for gets done.
``wait_for_own`` is that wait, for ``PoolFuture`` and for the futures of calls.

The one thread of a pool of one cannot be replaced. It would wait for itself, so ``wait_for_own``
raises. It does not run the job on the spot: that would put a job into the middle of another one, on
a thread whose objects (an open transaction, a thread-local) belong to the outer job, and before
jobs that came earlier. With a timeout it waits: the caller asked for a TimeoutError, and gets it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import ref

from .._away import Place, WaitForOwnPool, while_away
from .._errors import WAITS_FOR_ITSELF

T = TypeVar("T")


class Home(Protocol):
    """The threads of a pool."""

    max_threads: int

    def place_here(self) -> Place | None:
        """The pool, or the view, whose job this thread does; None if it is no worker."""
        ...


class Withdrawable(Protocol):
    """An entry in the counts of a pool that limits its queue."""

    def withdraw(self) -> None: ...


def wait_for_own(
    home: Home, pool: Executor | None, wait: Callable[[float | None], T], timeout: float | None
) -> T:
    """``wait(timeout)`` for a future of *pool*; a worker of that pool is away meanwhile."""
    try:
        # Nothing is gained by going away for no time at all.
        place = None if timeout is not None and timeout <= 0 else home.place_here()
        if place is None:
            return wait(timeout)
        if home.max_threads == 1 and timeout is None:
            raise RuntimeError(WAITS_FOR_ITSELF)
        parked = WaitForOwnPool(pool, place)
        return while_away(parked.leave, partial(wait, timeout), parked.come)
    finally:
        del wait  # The future has the error, and that a traceback with this frame.


class PoolFuture(Future[T]):
    """What ``submit`` of a pool, or of a view, returns."""

    #: Set by ``submit``. The future keeps the threads, not the pool.
    home: Home
    pool: ref[Any]
    #: Set if the pool counts what waits.
    entry: ref[Withdrawable] | None = None

    def result(self, timeout: float | None = None) -> T:
        try:
            if self.done():
                return super().result(timeout)
            return wait_for_own(self.home, self.pool(), super().result, timeout)
        finally:
            del self

    def exception(self, timeout: float | None = None) -> BaseException | None:
        try:
            if self.done():
                return super().exception(timeout)
            return wait_for_own(self.home, self.pool(), super().exception, timeout)
        finally:
            del self

    def cancel(self) -> bool:
        is_cancelled = super().cancel()
        if is_cancelled and self.entry is not None and (entry := self.entry()) is not None:
            entry.withdraw()
        return is_cancelled
