"""The futures that wait for a call, and end with it or when they are cancelled."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from _thread import allocate_lock
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from .._away import COMPENSATES
from .._cancel_token import CancelToken
from ._attributes import LOOP

T = TypeVar("T")


class Awaited(Protocol):
    """A call, as its future sees it."""

    def try_cancel(self) -> bool:
        """In any thread: take the call back, unless a worker has begun with it."""

    @property
    def token(self) -> CancelToken:
        """Notes that the call is not wanted any more, although a worker has begun with it."""
        ...

    def deliver_again(self) -> None:
        """In the loop thread: have the loop look once more, in case Ctrl+C kept it from that."""


class AwaitedByThreads(Awaited, Protocol):
    executor: Any

    def has_begun(self) -> bool: ...


class AbandoningFuture(asyncio.Future[Any]):
    """Cancelled at once, whatever becomes of the call: trio's ``abandon_on_cancel``.

    All in the loop thread.
    """

    # No default: ``CallJob`` sets it. A ``__dict__`` is dearer.
    __slots__ = ("call",)

    #: None when the call has ended.
    call: Awaited | None

    # ``settle`` asks for these, which a later Python may not have. (A future in pure Python has
    # callbacks of its own, so it hides those of the class.)
    if not hasattr(asyncio.Future, "_callbacks"):
        _callbacks: Any = ()
    if not hasattr(asyncio.Future, "_loop"):
        _loop: Any = property(asyncio.Future.get_loop)

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if call is not None and not self.done() and not call.try_cancel():
            call.token.request(() if msg is None else (msg,))
            call.deliver_again()
        self.call = None
        return super().cancel(msg)

    def discard(self) -> None:
        """In the loop thread, by the call that could not start: no user has seen this future."""
        self.call = None
        super().cancel()

    def settle(self, value: Any, error: BaseException | None) -> None:
        """In a callback of the loop: the call has ended. May be repeated.

        The task that awaits this is resumed right here. (The future would tell it by a callback of
        its own, one turn of the loop later. Only for speed.)
        """
        wakeup: Any = None
        context: Any = None
        self.call = None
        try:
            # (A copy: where the future is in pure Python, a signal handler may empty the list.)
            waiting = [*(self._callbacks or ())]
            if len(waiting) == 1 and not self._loop.get_debug():
                wakeup, context = waiting[0]
                # Taken out once: by this, or by a signal handler that cancels.
                if not isinstance(getattr(wakeup, "__self__", None), asyncio.Task) or not (
                    _remove_done_callback(self, wakeup)
                ):
                    wakeup = None
            # (To ask first would cost a call, and say nothing about a signal handler's cancel().)
            try:
                if error is None:
                    _set_result(self, value)
                else:
                    _set_exception(self, error)
            except asyncio.InvalidStateError:  # Cancelled before.
                pass
            if wakeup is not None:
                context.run(wakeup, self)
        except BaseException:
            # Ctrl+C. If it came before the task went on, that still waits for this.
            if getattr(getattr(wakeup, "__self__", None), "_fut_waiter", None) is self:
                _remove_done_callback(self, wakeup)
                self.add_done_callback(wakeup, context=context)
            raise
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, value, error, wakeup, context


# ``super()`` would look for them each time.
_cancel = asyncio.Future.cancel
_remove_done_callback: Any = asyncio.Future.remove_done_callback
_set_result = asyncio.Future.set_result
_set_exception = asyncio.Future.set_exception


class WaitingFuture(AbandoningFuture):
    """Cancelled at once unless a worker has begun with the call; then when that has ended."""

    #: Awaited before a call is started that will be awaited: nothing.
    checkpoint: Any = None
    #: For ``AsyncExecutor.shutdown``.
    run_in_thread: Any
    #: The error of the call, although that was cancelled.
    late_error: BaseException | None = None
    _cancel_args: tuple[Any, ...] | None = None
    #: Called by ``cancel``, at once.
    on_cancel_request: Callable[[], None] | None = None
    #: The cancel scope of anyio's in which it is awaited.
    scope: Any = None

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if self.on_cancel_request is not None:
            self.on_cancel_request()
        if call is None or self.done() or call.try_cancel():
            return _cancel(self, msg)
        args = () if msg is None else (msg,)
        if self._cancel_args is None:
            self._cancel_args = args
        if self.scope is not None:
            self.scope.shield = True
        call.token.request(args)
        call.deliver_again()
        return True

    def within_scopes(self) -> Awaitable[Any]:
        """Return what is awaited: itself. ``_anyio_scopes`` has another one."""
        return self

    async def wait(self) -> Any:
        """Await it; what a cancelled call raised becomes the context of the cancellation."""
        try:
            return await self.within_scopes()
        except asyncio.CancelledError as exc:
            if self.late_error not in (None, exc):
                exc.__context__ = self.late_error
            raise
        finally:
            del self

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
        _cancel(self, *self._cancel_args)


async def run_in_thread(loop: AbstractEventLoop, func: Callable[[], None], name: str) -> None:
    """Run *func* in a thread of its own. A task that is cancelled does not wait for it."""
    ended = _Ended(loop)

    def run() -> None:
        try:
            func()
        except BaseException as exc:
            ended.error = exc
        home = getattr(loop, LOOP, None)
        if home is not None:
            home.deliver_soon(ended)  # After the results that came before.
        else:
            with contextlib.suppress(RuntimeError):  # Nobody waited for it: the loop is closed.
                loop.call_soon_threadsafe(ended.deliver)

    threading.Thread(target=run, name=name).start()
    await ended.future


class _Ended:
    """A function that ran in a thread of its own, as the task knows it that waits for it."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self.future: asyncio.Future[None] = loop.create_future()
        self.error: BaseException | None = None

    def deliver(self) -> None:
        """In a callback of the loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(self.error)

    def abandon(self) -> None:
        """Nobody waited for it: the loop is closed."""


WaitingFuture.run_in_thread = staticmethod(run_in_thread)


class ThreadFuture(concurrent.futures.Future[Any]):
    """Cancelled at once, whatever becomes of the call."""

    def __init__(self, call: AwaitedByThreads) -> None:
        super().__init__()
        self._call: AwaitedByThreads | None = call
        #: Taken once, by the ``cancel`` that tells those in ``wait()``.
        self._telling = allocate_lock()

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._wait(super().result, timeout)
        finally:
            del self  # The error has a traceback with this frame.

    def exception(self, timeout: float | None = None) -> BaseException | None:
        try:
            return self._wait(super().exception, timeout)
        finally:
            del self

    def _wait(self, wait: Callable[[float | None], T], timeout: float | None) -> T:
        """``wait(timeout)``; a worker that waits for its own pool is away meanwhile."""
        call = self._call
        executor: Any = None if call is None else call.executor
        del self, call
        try:
            if type(executor) not in COMPENSATES:
                return wait(timeout)
            result: T = executor.wait_for(wait, timeout)
            return result
        finally:
            del wait

    def running(self) -> bool:
        call = self._call
        return call is not None and call.has_begun() and not self.done()

    def cancel(self) -> bool:
        call = self._call
        withdrawn = call is None or call.try_cancel()
        if not super().cancel():
            return False
        if self._telling.acquire(False):
            self.set_running_or_notify_cancel()  # Tells those that are in wait().
        # Only now: a coroutine may end at once, and would be faster than we are.
        if call is not None and not withdrawn:
            call.token.request(())
        self._call = None
        return True

    def take_back(self) -> bool:
        """For who waits for it: cancel it, unless a worker has begun with the call. That is told.

        In any thread. May be repeated.
        """
        call = self._call
        if call is None or call.try_cancel():
            return self.cancel()
        call.token.request(())
        return False

    def discard(self) -> None:
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
