"""The way of a result from the worker to the future that waits for it.

A future of a loop may only be touched in the thread of the loop, so the result goes there in the
loop's own queue, see ``_home``. A future of threads is told by the worker itself.
"""

from __future__ import annotations

import concurrent.futures
from asyncio import AbstractEventLoop
from typing import Any

from .._errors import RESULT_LOST, log
from .._executors import book
from ._call import Call
from ._futures import LoopFuture, PatientFuture, ThreadingFuture
from ._home import Home, home_of


class CallForLoop(Call):
    """A call whose result goes to a future of its loop."""

    __slots__ = ("_error", "_future", "_home", "_value")

    _future: LoopFuture | None
    #: How it ended. Written before it is posted to the loop.
    _value: Any
    _error: BaseException | None

    def start_with(self, kind: type[LoopFuture]) -> LoopFuture:
        """In the loop thread: hand it to the executor. Raises what that raises."""
        loop: Any = self._loop
        try:  # home_of(), without the call.
            self._home: Home = loop._threadhop_home
        except AttributeError:
            self._home = home_of(loop)
        future = self._future = kind(loop=loop)
        future.call = self
        future.waiter = future.waiter_context = None
        try:
            book(self)
        except BaseException as exc:
            self.could_not_be_booked(exc, future)
        return future

    @classmethod
    def of_future(
        cls, theirs: concurrent.futures.Future[Any], loop: AbstractEventLoop
    ) -> PatientFuture:
        """In the loop thread: somebody has started the call, and *theirs* tells how it ends."""
        call = cls(None, loop, None, (), {}, False)
        call._home = home_of(loop)
        call._future_of_executor = theirs
        future = call._future = PatientFuture(loop=loop)
        future.call = call
        future.waiter = future.waiter_context = None
        theirs.add_done_callback(call.is_done)
        return future

    def withdraw(self) -> bool:
        if not super().withdraw():
            return False
        # The executor may keep the job for long.
        self._future = None
        return True

    def deliver(self, value: Any, error: BaseException | None) -> None:
        # Not the future itself: if a worker were the last to have it, it would be finalized there.
        self._value = value
        self._error = error
        loop: Any = self._loop
        self._home.post(self, loop)

    def arrive_home(self) -> None:
        """In a callback of the loop."""
        future, value, error = self._future, self._value, self._error
        self._future = self._value = self._error = None
        assert future is not None, "it arrives once"
        try:
            future.settle(value, error)
        finally:
            del self, future, value, error

    def lose(self) -> None:
        """In any thread."""
        self._value = self._error = None
        log.warning(RESULT_LOST)


class CallForThreads(Call):
    """A call whose result goes to a future that threads can wait for."""

    __slots__ = ("_future",)

    _future: ThreadingFuture | None

    def start_with_future(self) -> ThreadingFuture:
        """Hand it to the executor. Raises what that raises."""
        future = self._future = ThreadingFuture(self)
        try:
            book(self)
        except BaseException as exc:
            self.could_not_be_booked(exc, future)
        return future

    def has_begun(self) -> bool:
        return self._claim.locked()

    def deliver(self, value: Any, error: BaseException | None) -> None:
        future, self._future = self._future, None
        assert future is not None, "it is delivered once"
        try:
            future.settle(value, error)
        finally:
            del future, error  # A traceback of the error refers to the worker's frames.
