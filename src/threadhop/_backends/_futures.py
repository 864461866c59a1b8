"""The futures that wait for a call. They end when it does, or when they are cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from _thread import allocate_lock
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Protocol

from .._outcome import Ended


class Awaited(Protocol):
    """What a future waits for."""

    def withdraw(self) -> bool:
        """In any thread: take it back, if nobody has begun with it."""

    def tell_cancelled(self, args: tuple[Any, ...], /) -> None:
        """In any thread: nobody wants it any more, although it has begun."""


class AwaitedByThreads(Awaited, Protocol):
    def has_begun(self) -> bool: ...


class LoopFuture(asyncio.Future[Any]):
    """Cancelled at once, whatever becomes of the call.

    The task that awaits it is resumed by the very callback that brings the result. (A plain future
    tells it by a callback of its own, one turn of the loop later.) All in the loop thread.
    """

    #: None when it has ended.
    call: Awaited | None = None
    #: Whether the next callback comes from the task that awaits this,
    _is_awaited = False
    #: and that callback, with the Context to run it in.
    _waiter: tuple[Callable[[Any], object], Context | None] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            if not self.done():
                self._is_awaited = self._waiter is None
                self._asyncio_future_blocking = True
                yield self
                if not self.done():
                    raise RuntimeError("await wasn't used with future")
            return self.result()
        finally:
            del self  # A traceback of the error refers to this frame.

    __iter__ = __await__

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._waiter = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        if self._waiter is not None and self._waiter[0] == fn:
            self._waiter = None
            return 1
        return super().remove_done_callback(fn)

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if call is not None and not self.done() and not call.withdraw():
            call.tell_cancelled(() if msg is None else (msg,))
        self.call = None
        return self._cancel(msg)

    def _cancel(self, *msg: Any) -> bool:
        if not super().cancel(*msg):
            return False
        self._wake_soon()
        return True

    def set_result(self, result: Any, /) -> None:
        """For others, who may end it as any future. The call uses ``settle``."""
        super().set_result(result)
        self._wake_soon()

    def set_exception(self, exception: Any, /) -> None:
        super().set_exception(exception)
        self._wake_soon()

    def _wake_soon(self) -> None:
        """In the step of some task, from which no other task can be resumed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self.get_loop().call_soon(waiter[0], self, context=waiter[1])

    def _wake(self) -> None:
        """In a callback of the loop."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        wakeup, context = waiter
        try:
            if context is None:
                wakeup(self)
            else:
                context.run(wakeup, self)
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, waiter, wakeup, context

    def settle(self, ended: Ended) -> None:
        """In the loop thread."""
        self.call = None
        if self.done():
            return
        if ended.error is None:
            super().set_result(ended.value)
        else:
            super().set_exception(ended.error)
        try:
            self._wake()
        finally:
            del self, ended


class PatientFuture(LoopFuture):
    """Cancelled at once if nobody has begun with the call; else when that has ended."""

    #: What the call raised although it was cancelled.
    late_error: BaseException | None = None
    _cancel_args: tuple[Any, ...] | None = None
    #: Called when it is asked to cancel, at once.
    when_asked: Callable[[], None] | None = None

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if self.when_asked is not None:
            self.when_asked()
        if call is None or self.done() or call.withdraw():
            return self._cancel(msg)
        args = () if msg is None else (msg,)
        if self._cancel_args is None:
            self._cancel_args = args
        call.tell_cancelled(args)
        return True

    def settle(self, ended: Ended) -> None:
        if self._cancel_args is None or self.done():
            super().settle(ended)
            return
        self.call = None
        self.late_error = ended.error
        self._cancel(*self._cancel_args)


class ThreadingFuture(concurrent.futures.Future[Any]):
    """Cancelled at once, whatever becomes of the call."""

    def __init__(self, call: AwaitedByThreads) -> None:
        super().__init__()
        self._call: AwaitedByThreads | None = call
        #: Taken once, by who tells the others that it is cancelled.
        self._telling = allocate_lock()

    def running(self) -> bool:
        call = self._call
        return call is not None and call.has_begun() and not self.done()

    def cancel(self) -> bool:
        call = self._call
        withdrawn = call is None or call.withdraw()
        if not super().cancel():
            return False
        if self._telling.acquire(False):
            self.set_running_or_notify_cancel()  # Tells those that are in wait().
        # Only now: a coroutine may end at once, and would be faster than we are.
        if call is not None and not withdrawn:
            call.tell_cancelled(())
        self._call = None
        return True

    def settle(self, ended: Ended) -> None:
        """In any thread."""
        self._call = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # Cancelled just before.
            if ended.error is None:
                self.set_result(ended.value)
            else:
                self.set_exception(ended.error)
