"""The future of a call to a worker that a trio task awaits; and coroutines that a worker runs."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from .._cancel_token import CancelToken
from .._outcome import Outcome
from .._traps import OUTRANKS_CANCELLATION
from ._asyncio_futures import Awaited
from ._trio_traps import lowlevel, trio, trio_cancelled


class TrioFuture:
    """The outcome of a call, for the one task that awaits it. All in the thread of the run.

    Cancelled at once unless a worker has begun with the call; then when that has ended.
    """

    def __init__(self, loop: Any) -> None:
        #: None when the call has ended.
        self.call: Awaited | None = None
        #: Called if the task that waits is cancelled.
        self.on_cancel_request: Callable[[], None] | None = None
        #: The outcome, until it is taken: an error of it refers to the frame of ``wait``.
        self._ended: Outcome | None = None
        self._is_settled = False
        self._raise_cancel: Callable[[], Any] | None = None
        #: The task, while it is suspended here,
        self._task: Any = None
        #: and whether it waits at all.
        self._is_awaited = False
        #: What workers want it to call.
        self._calls: deque[Any] = deque()

    # By the call.

    def discard(self) -> None:
        self.call = None

    def settle(self, value: Any, error: BaseException | None) -> None:
        """May be repeated."""
        self.call = None
        if not self._is_settled:
            self._ended = Outcome(value, error)
            self._is_settled = True
            self._wake()
        del self, value, error

    def make(self, call: Any) -> bool:
        """Have the task that waits make *call*. False if none does."""
        if not self._is_awaited or self._is_settled:
            return False
        self._calls.append(call)
        self._wake()
        return True

    def _wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            lowlevel.reschedule(task)

    # By those who wait.

    #: Before a call is started that will be awaited.
    checkpoint = staticmethod(lowlevel.checkpoint_if_cancelled)
    #: For ``AsyncExecutor.shutdown``.
    run_in_thread: Any

    async def wait(self) -> Any:
        """Return the result, or raise the error."""
        self._is_awaited = True
        try:
            if self._is_settled:
                await lowlevel.checkpoint()
            while True:
                if self._is_settled:
                    break
                self._task = lowlevel.current_task()
                await lowlevel.wait_task_rescheduled(self._abort)
                await self._make_calls()
        except BaseException:
            self.cancel()
            raise
        finally:
            self._is_awaited = False
        return self._result()

    async def _make_calls(self) -> None:
        while self._calls:
            await self._calls.popleft().make_here()

    def _result(self) -> Any:
        ended, self._ended = self._ended, None
        assert ended is not None, "it is awaited once"
        raise_cancel, error = self._raise_cancel, ended.error
        try:
            if raise_cancel is None or isinstance(error, OUTRANKS_CANCELLATION):
                return ended.result()
            if error is None:
                return raise_cancel()
            try:
                raise error
            except BaseException:
                # Ctrl+C, which cancels the call, comes out as Cancelled there, and must not here.
                return raise_cancel()  # The error is its context.
        finally:
            del ended, error  # A traceback refers to this frame.

    def _abort(self, raise_cancel: Callable[[], Any]) -> Any:
        """trio cancels the task that waits."""
        if self.on_cancel_request is not None:
            self.on_cancel_request()
        call = self.call
        if call is None or call.try_cancel():
            self.call = self._task = None
            return lowlevel.Abort.SUCCEEDED
        if self._raise_cancel is None:
            self._raise_cancel = raise_cancel
        call.token.request(raise_cancel)
        return lowlevel.Abort.FAILED

    def cancel(self) -> bool:
        """Nobody will wait for it: take the call back, or tell it."""
        call, self.call = self.call, None
        if call is not None and not call.try_cancel():
            call.token.request(())
        return True

    def done(self) -> bool:
        return self._is_settled

    def cancelled(self) -> bool:
        return True  # Its error needs no one to ask for it.


lowlevel.enable_ki_protection(TrioFuture.wait)


async def run_in_thread(loop: Any, func: Callable[[], None], name: str) -> None:
    """Run *func* in a thread of its own. A task that is cancelled does not wait for it."""
    future = TrioFuture(loop)
    threading.Thread(target=partial(_run, loop, future, func), name=name).start()
    await future.wait()


TrioFuture.run_in_thread = staticmethod(run_in_thread)


def _run(loop: Any, future: TrioFuture, func: Callable[[], None]) -> None:
    error = None
    try:
        func()
    except BaseException as exc:
        error = exc
    loop.deliver_soon(_Ended(future, error))


class _Ended:
    def __init__(self, future: TrioFuture, error: BaseException | None) -> None:
        self._future = future
        self._error = error

    def deliver(self) -> None:
        self._future.settle(None, self._error)

    def abandon(self) -> None:
        """Nobody waited for it."""


def run_on_own_trio(token: CancelToken, coro: Coroutine[Any, Any, Any]) -> Any:
    """In a worker, for a call: run *coro* in a run of trio, which is cancelled with the call."""
    try:
        return trio.run(_cancellable, token, coro)
    finally:
        coro.close()  # If that could not begin.


async def _cancellable(token: CancelToken, coro: Coroutine[Any, Any, Any]) -> Any:
    with trio.CancelScope() as scope:
        cancel = partial(_cancel_soon, lowlevel.current_trio_token(), scope)
        token.register(cancel)
        try:
            return await coro
        finally:
            token.unregister(cancel)
    raise trio_cancelled()


def _cancel_soon(run: Any, scope: Any, why: object) -> None:
    """In any thread."""
    with contextlib.suppress(trio.RunFinishedError):
        run.run_sync_soon(scope.cancel)
