"""The way of a result from the worker to the future that waits for it.

A future of a loop may only be touched in the thread of the loop, so the result goes there in the
loop's own queue, see ``_home``. A future of threads is told by the worker itself.
"""

from __future__ import annotations

import concurrent.futures
from asyncio import AbstractEventLoop
from typing import Any

from .._errors import DROPPED, RESULT_LOST, log
from .._outcome import Ended
from ._call import Call, without_stop_iteration
from ._futures import LoopFuture, PatientFuture, ThreadingFuture
from ._home import home_of


class CallForLoop(Call):
    """A call whose result goes to a future of its loop."""

    __slots__ = ("_ended", "_future", "_home")

    _ended: Ended | None
    _future: LoopFuture | None

    def start_with(self, kind: type[LoopFuture]) -> LoopFuture:
        """In the loop thread."""
        loop = self.get_loop()
        self._home = home_of(loop)
        future = self._future = kind(loop=loop)
        future.call = self
        try:
            self.start()
        except BaseException:
            self._future = future.call = None
            raise
        return future

    def withdraw(self) -> bool:
        if not super().withdraw():
            return False
        # The executor may keep the job for long.
        self._future = None
        return True

    def deliver(self, ended: Ended) -> None:
        self._ended = ended
        assert self._loop is not None, "it was called from one"
        self._home.post(self, self._loop)

    def arrive_home(self) -> None:
        """In the loop thread."""
        future, ended = self._future, self._ended
        self._future = self._ended = None
        assert future is not None, "it arrives once"
        assert ended is not None, "written before it is posted"
        try:
            future.settle(ended)
        finally:
            del self, future, ended

    def lose(self) -> None:
        """In any thread."""
        self._ended = None
        log.warning(RESULT_LOST)


class WaitingCall:
    """No call of ours, but somebody's future, for a ``PatientFuture`` of the loop."""

    def __init__(self, loop: AbstractEventLoop, future: concurrent.futures.Future[Any]) -> None:
        self._loop = loop
        self._theirs = future
        self._home = home_of(loop)
        self._ours: PatientFuture | None = None
        self._ended: Ended | None = None
        self._withdrawn = False

    def start(self) -> PatientFuture:
        ours = self._ours = PatientFuture(loop=self._loop)
        ours.call = self
        self._theirs.add_done_callback(self._is_done)
        return ours

    def withdraw(self) -> bool:
        self._withdrawn = True
        if self._theirs.cancel():
            return True
        self._withdrawn = False
        return False

    def tell_cancelled(self, args: tuple[Any, ...]) -> None:
        """Nobody listens."""

    def _is_done(self, future: concurrent.futures.Future[Any]) -> None:
        """In any thread."""
        if future.cancelled():
            if self._withdrawn:
                return
            self._ended = Ended(None, concurrent.futures.CancelledError(DROPPED))
        else:
            error = future.exception()
            self._ended = without_stop_iteration(
                Ended(None if error is not None else future.result(), error)
            )
        self._home.post(self, self._loop)

    def get_loop(self) -> AbstractEventLoop:
        return self._loop

    def arrive_home(self) -> None:
        ours, ended = self._ours, self._ended
        self._ours = self._ended = None
        assert ours is not None, "it arrives once"
        assert ended is not None, "written before it is posted"
        try:
            ours.settle(ended)
        finally:
            del ours, ended

    def lose(self) -> None:
        log.warning(RESULT_LOST)


class CallForThreads(Call):
    """A call whose result goes to a future that threads can wait for."""

    __slots__ = ("_future",)

    _future: ThreadingFuture | None

    def start_with_future(self) -> ThreadingFuture:
        future = self._future = ThreadingFuture(self)
        try:
            self.start()
        except BaseException:
            self._future = future._call = None
            raise
        return future

    def has_begun(self) -> bool:
        return self._claim.locked()

    def deliver(self, ended: Ended) -> None:
        future, self._future = self._future, None
        assert future is not None, "it is delivered once"
        try:
            future.settle(ended)
        finally:
            del future  # A traceback of the error refers to the worker's frames.
