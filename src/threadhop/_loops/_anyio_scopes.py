"""anyio's cancel scopes on asyncio: a task that is away within one.

anyio cancels by level: as long as a scope is cancelled, it calls ``Task.cancel()`` on each turn of
the loop. A task whose body runs cannot answer before that has ended, and the loop would do nothing
else meanwhile. So a task that is within a scope opens another one when it leaves the loop. The
first cancel that finds the task away is noted, and shields that scope: anyio looks no further.

The scope lives exactly as long as the suspension that has opened it. It is opened in the step of
the task that suspends it, and closed by ``deliver``, before the task goes on: so a loop part is
cancelled by level again, and whoever leaves a generator closes no scope of another task.

A call that is waited for to its end has a scope of the same kind: see ``_shielded``.

Only public names of anyio are used, if its asyncio side is loaded: the program has imported it.
``is_in_scope`` has the one exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from asyncio import Task
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from .._callables import begins_unseen
from .._interface import AnyStrand
from .._libraries import when_loaded
from .._outcome import Outcome
from . import _asyncio
from ._asyncio import NO_CONTEXT, AsyncioSuspension
from ._asyncio_futures import WaitingFuture

#: anyio's asyncio side. A program may have imported anyio, and not have used it yet.
_BACKEND = "anyio._backends._asyncio"


def is_in_scope() -> bool:
    """In the coroutine, on the loop: whether the running task is within a cancel scope.

    True if it cannot be told.
    """
    if _BACKEND not in sys.modules:
        return False
    task = asyncio.current_task()
    if task is None:  # One in pure Python, which anyio does not know either.
        return False
    try:
        state = sys.modules[_BACKEND]._task_states.get(task)
        return state is not None and state.cancel_scope is not None
    except AttributeError:
        return True


def _new_suspension() -> AsyncioSuspension:
    if not is_in_scope():
        return AsyncioSuspension()
    suspension = ScopedSuspension()
    suspension._scope = None
    return suspension


class ScopedSuspension(AsyncioSuspension):
    """The future that a Task awaits which is away, and within a cancel scope."""

    __slots__ = ("_scope",)

    #: A ``CancelScope``, from the departure to the return. Touched in the loop thread.
    _scope: Any

    # In the loop thread.

    def add_done_callback(
        self, wakeup: Callable[[object], None], *, context: Context = NO_CONTEXT
    ) -> None:
        """The same, with a scope, which is opened before a worker may have the task."""
        strand = self._strand
        try:
            self._wakeup = wakeup
            self._context = context
            task: Task[Any] = wakeup.__self__  # type: ignore[attr-defined]
            strand.coro = task.get_coro()  # type: ignore[assignment]
            # (Another driver than a Task may have come in between.)
            is_cancelled = asyncio.current_task() is task and self._open_scope()
            if getattr(task, "_must_cancel", False):
                self.cancel(getattr(task, "_cancel_message", None))
            if is_cancelled and strand.entering is not None and strand.token.why is None:
                strand.loop.post(_Held(self), self._loop)  # type: ignore[attr-defined]
            else:
                strand.leave_loop()
        except BaseException as exc:
            self.leaving_failed(exc, wakeup, context)

    def _open_scope(self) -> bool:
        """In the step of the task. Return whether the task is in a scope that is cancelled."""
        try:
            anyio: Any = sys.modules["anyio"]
            # Kept first: what was interrupted is closed all the same.
            self._scope = scope = anyio.CancelScope()
            scope.__enter__()
            # A cancellation that leaves a loop part has been noted already.
            scope.shield = self._strand.token.why is not None
            return bool(anyio.current_effective_deadline() == -math.inf)
        except Exception:  # Another anyio than the one that we know: then as without a scope.
            return False

    def cancel(self, msg: object = None) -> bool:
        super().cancel(msg)
        # Noted: the queued job was given up, the body comes to its end, and more would do nothing.
        scope = self._scope
        if scope is not None:
            scope.shield = True
        return True

    def deliver(self) -> None:
        wakeup = self._wakeup
        try:
            # (With a scope there is a task: another driver opens none.)
            if wakeup is not None and self._scope is not None:
                self.close_scope(wakeup.__self__)  # type: ignore[attr-defined]
            super().deliver()
        finally:
            del self, wakeup  # As there.

    def close_scope(self, task: Task[Any]) -> None:
        """In a callback of the loop, by no step of a task. May be repeated.

        anyio insists that *task* runs, and it may not run yet. "The loop runs this task now" is
        what every Task of asyncio, and of others, says by these two functions.
        """
        scope, loop = self._scope, self._loop
        if scope is None:
            return
        try:
            try:
                asyncio._enter_task(loop, task)
                # It may be closed already, or was never opened. And whatever anyio finds to be
                # wrong: the task goes on.
                with contextlib.suppress(Exception):
                    scope.__exit__(None, None, None)
            finally:
                asyncio._leave_task(loop, task)
        except BaseException:
            # Ctrl+C came even before that: no other task could ever run.
            if asyncio.current_task(loop) is task:
                asyncio._leave_task(loop, task)
            raise
        finally:
            del task
        self._scope = None

    # In a worker.

    def finish(self, ended: Outcome) -> None:
        """The coroutine came to its end there. The scope is closed before the task is finished."""
        task: Task[Any] = self._wakeup.__self__  # type: ignore[union-attr]
        self._strand.loop.deliver_soon(_ToClose(self, task))
        super().finish(ended)


# As there.
begins_unseen(ScopedSuspension.add_done_callback)


def _within_scopes(future: WaitingFuture) -> Awaitable[Any]:
    return _shielded(future) if is_in_scope() else future


async def _shielded(future: WaitingFuture) -> Any:
    """Await *future*, within a scope. A cancel that does not end the wait shields that."""
    anyio: Any = sys.modules["anyio"]
    try:
        with anyio.CancelScope() as future.scope:
            return await future
    finally:
        del future


class _Held:
    """A departure into a scope that is cancelled already: the body must not run.

    anyio cancels the task within a turn of the loop, as if it slept for none. Then the task goes
    home. If anyio does not, the task goes on its way: so do anyio's own calls of threads.
    """

    __slots__ = ("_has_waited", "_suspension")

    def __init__(self, suspension: ScopedSuspension) -> None:
        #: None when it is over.
        self._suspension: ScopedSuspension | None = suspension
        self._has_waited = False

    def deliver(self) -> None:
        """In a callback of the loop. May be repeated."""
        suspension = self._suspension
        if suspension is None:
            return
        strand: AnyStrand = suspension._strand
        if strand.token.why is None and not self._has_waited:
            # This one may come in the same turn of the loop. The next one has a turn in between.
            strand.loop.post(self, suspension._loop)  # type: ignore[attr-defined]
            self._has_waited = True
            return
        try:
            self._suspension = None
            strand.leave_loop()
        except BaseException as exc:
            self._suspension = None
            if not strand.leaving_failed(exc):
                raise

    def abandon(self) -> None:
        """In any thread: the loop is closed."""
        if self._suspension is not None:
            self._suspension.abandon()


class _ToClose:
    """A scope whose task has ended while it was away."""

    __slots__ = ("_suspension", "_task")

    def __init__(self, suspension: ScopedSuspension, task: Task[Any]) -> None:
        self._suspension = suspension
        self._task = task

    def deliver(self) -> None:
        self._suspension.close_scope(self._task)

    def abandon(self) -> None:
        """A warning says that the task ended in a block."""


def _begin() -> None:
    _asyncio.new_suspension = _new_suspension


WaitingFuture.within_scopes = _within_scopes  # type: ignore[assignment, method-assign]


if hasattr(asyncio, "_enter_task") and hasattr(asyncio, "_leave_task"):
    when_loaded("anyio", _begin)
