"""A call that a worker makes on an asyncio loop, and waits for."""

from __future__ import annotations

import asyncio
import inspect
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any, Protocol

from .._contexts import Tokens, carry_over
from .._errors import LOOP_IS_CLOSED, LOOP_WENT_AWAY
from .._outcome import Ended

#: Seconds after which a waiting worker looks whether the loop is still there.
POLL = 1.0


class Caller(Protocol):
    """For whom the worker works: the task of a block, or a call."""

    #: The arguments of its cancellation. Written by the loop thread.
    cancelled: tuple[Any, ...] | None
    #: The call that its worker waits for. Written by the worker before it asks the loop to make
    #: the call, so the loop thread finds it there from then on.
    inner: LoopCall | None

    def get_loop(self) -> AbstractEventLoop: ...

    def home_is_gone(self) -> bool: ...


class LoopCall:
    """One call of a function or coroutine function."""

    __slots__ = ("_caller", "_context", "_ended", "_func", "_gate", "_task")

    def __init__(self, caller: Caller, func: Callable[[], Any], context: Context) -> None:
        self._caller = caller
        self._func: Callable[[], Any] | None = func
        self._context = context
        #: Opened by the loop thread when ``_ended`` is written.
        self._gate = allocate_lock()
        self._gate.acquire()
        self._ended: Ended | None = None
        self._task: Task[Any] | None = None

    # In the worker.

    def run(self) -> Any:
        """Have it made, wait, return its result. It is the caller's only one at a time."""
        caller = self._caller
        loop = caller.get_loop()
        caller.inner = self
        try:
            try:
                loop.call_soon_threadsafe(self._start)
            except RuntimeError:
                raise RuntimeError(LOOP_IS_CLOSED) from None
            while not self._gate.acquire(timeout=POLL):
                if caller.home_is_gone():
                    # Once more: the result may have come just before the loop was closed.
                    if self._gate.acquire(False):
                        break
                    raise RuntimeError(LOOP_WENT_AWAY)
        finally:
            caller.inner = None
        ended, self._ended = self._ended, None
        assert ended is not None, "written before the gate is opened"
        if ended.error is None:
            return ended.value
        try:
            raise ended.error
        finally:
            # The error refers to this frame.
            del ended

    # In the loop thread.

    def _start(self) -> None:
        caller, func, self._func = self._caller, self._func, None
        assert func is not None, "started once"
        if caller.cancelled is not None:
            self._end(None, asyncio.CancelledError(*caller.cancelled))
            return
        try:
            result = self._context.run(func)
        except BaseException as exc:
            self._end(None, exc)
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise
            return
        if not inspect.iscoroutine(result):
            self._end(result, None)
            return
        self._task = caller.get_loop().create_task(result, context=self._context)
        self._task.add_done_callback(self._task_is_done)
        if caller.cancelled is not None:  # While func made the coroutine: func itself, or Ctrl+C.
            self.cancel(caller.cancelled)

    def cancel(self, args: tuple[Any, ...]) -> None:
        """The caller was cancelled. A call that has not started finds out by itself."""
        if self._task is not None:
            self._task.cancel(*args)

    def _task_is_done(self, task: Task[Any]) -> None:
        self._task = None
        try:
            value = task.result()
        except BaseException as exc:
            self._end(None, exc)
        else:
            self._end(value, None)
        finally:
            del task  # A traceback of its error refers to this frame.

    def _end(self, value: Any, error: BaseException | None) -> None:
        self._ended = Ended(value, error)
        self._gate.release()


def call_in_loop(caller: Caller, func: Callable[[], Any], tokens: Tokens) -> Any:
    """In a worker of *caller*: call *func* on its loop, and wait.

    It sees the variables of the current Context, to which *tokens* belongs, and what it sets holds
    here afterwards.
    """
    if caller.cancelled is not None:
        raise asyncio.CancelledError(*caller.cancelled)
    values = copy_context()
    context = values.copy()
    try:
        return LoopCall(caller, func, context).run()
    finally:
        carry_over(context, values, tokens)
