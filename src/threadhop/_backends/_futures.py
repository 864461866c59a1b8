"""The futures that wait for a call. They end when it does, or when they are cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from _thread import allocate_lock
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from .._cancel_token import CancelToken


class Awaited(Protocol):
    """What a future waits for."""

    def withdraw(self) -> bool:
        """In any thread: take it back, if nobody has begun with it."""

    @property
    def token(self) -> CancelToken:
        """Where it is noted that nobody wants it any more, although it has begun."""
        ...


class AwaitedByThreads(Awaited, Protocol):
    def has_begun(self) -> bool: ...


class LoopFuture(asyncio.Future[Any]):
    """Cancelled at once, whatever becomes of the call.

    The task that awaits it is resumed by the very callback that brings the result. (A plain future
    tells it by a callback of its own, one turn of the loop later.) All in the loop thread.
    """

    # No defaults: who makes one sets ``call`` and the two of the waiter. A ``__dict__`` is dearer.
    __slots__ = ("call", "waiter", "waiter_context")

    #: None when it has ended.
    call: Awaited | None
    #: What resumes the task that awaits this, and the Context to run it in.
    waiter: Callable[[Any], object] | None
    waiter_context: Context | None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        # A task that awaits this adds a method of its own.
        if self.waiter is None and isinstance(getattr(fn, "__self__", None), asyncio.Task):
            self.waiter_context = context
            self.waiter = fn
            if self.done():  # A signal handler has cancelled it just now, and saw no waiter.
                self._wake_soon()
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        if self.waiter is not None and self.waiter == fn:
            self.waiter = self.waiter_context = None
            return 1
        return super().remove_done_callback(fn)

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if call is not None and not self.done() and not call.withdraw():
            call.token.request(() if msg is None else (msg,))
        self.call = None
        return self._cancel(msg)

    def _cancel(self, *msg: Any) -> bool:
        cancelled = super().cancel(*msg)
        # Also if it was done before: Ctrl+C may have kept it from waking the task.
        self._wake_soon()
        return cancelled

    def set_result(self, result: Any, /) -> None:
        """For others, who may end it as any future. The call uses ``settle``."""
        super().set_result(result)
        self._wake_soon()

    def set_exception(self, exception: Any, /) -> None:
        super().set_exception(exception)
        self._wake_soon()

    def _wake_soon(self) -> None:
        """In the step of some task, from which no other task can be resumed."""
        waiter = None
        try:
            waiter, self.waiter = self.waiter, None
            if waiter is not None:
                self.get_loop().call_soon(waiter, self, context=self.waiter_context)
                self.waiter_context = None
        except BaseException:
            self.waiter = waiter  # Ctrl+C. Whoever cancels wakes the task.
            raise

    def forget(self) -> None:
        """In the loop thread, while it is made: nobody will ever see it."""
        self.call = None
        super().cancel()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """In a callback of the loop: the call has ended. May be repeated."""
        waiter = context = None
        try:
            # Whoever takes the waiter, wakes it: this, or a signal handler that cancels.
            waiter, self.waiter = self.waiter, None
            context, self.waiter_context, self.call = self.waiter_context, None, None
            # To ask first would cost a call, and say nothing about a signal handler's cancel().
            try:
                if error is None:
                    _set_result(self, value)
                else:
                    _set_exception(self, error)
            except asyncio.InvalidStateError:  # Cancelled before.
                pass
            if waiter is None:
                return
            if context is None:
                waiter(self)
            else:
                context.run(waiter, self)
        except BaseException:
            # Ctrl+C. If it came before the task went on, that still waits for this.
            if getattr(getattr(waiter, "__self__", None), "_fut_waiter", None) is self:
                self.waiter, self.waiter_context = waiter, context
            raise
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, value, error, waiter, context


# What ``super()`` would find, and look for each time.
_set_result = asyncio.Future.set_result
_set_exception = asyncio.Future.set_exception


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
        call.token.request(args)
        return True

    def settle(self, value: Any, error: BaseException | None) -> None:
        # From here on a signal handler's cancel() is one of a future without a call.
        self.call = None
        if self._cancel_args is None or self.done():
            try:
                super().settle(value, error)
            finally:
                del self, value, error
            return
        self.late_error = error
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
            call.token.request(())
        self._call = None
        return True

    def forget(self) -> None:
        """In the thread that makes the call."""
        self._call = None

    def settle(self, value: Any, error: BaseException | None) -> None:
        """In any thread."""
        self._call = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # Cancelled just before.
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
