"""A call that a worker makes on an asyncio loop, and waits for."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import queue
import sys
from asyncio import Task
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from time import monotonic
from typing import Any

from .. import _patience
from .._callables import async_kind
from .._errors import LOOP_IS_CLOSED, LOOP_WENT_AWAY
from .._job import Caller, events
from .._outcome import Outcome
from .._variables import Tokens, merge_changes, name_library
from ._attributes import LOOP, STRAND

#: Seconds after which a waiting worker looks whether the loop is still there.
POLL = 1.0

#: ``EntryQueue.post`` of the loop.
Post = Callable[[Any, Any], None]


class FromThreadCall:
    """One call of a function or coroutine function."""

    #: As sniffio names it.
    library = "asyncio"

    __slots__ = ("_caller", "_context", "_ended", "_func", "_loop", "_task", "since", "target")

    def __init__(
        self, loop: Any, caller: Caller, func: Callable[[], Any], context: Context
    ) -> None:
        self._loop = loop
        self._caller = caller
        #: None when it was called, or need not be.
        self._func: Callable[[], Any] | None = func
        #: The same, and since when it waits or is called: for ``hops()``.
        self.target: Callable[[], Any] | None = func
        self.since = monotonic()
        self._context = context
        #: Gets one object with a ``result()``, from the loop thread. (The task of a coroutine puts
        #: itself there by a callback in C: Ctrl+C cannot keep it from that.)
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._task: Task[Any] | None = None

    # In the worker.

    def run(self, post: Post) -> Any:
        """Have it made, wait, return its result."""
        caller, ended, has_complained = self._caller, None, False
        token = caller.token
        token.register(self.cancel_soon)
        caller.calling = self
        try:
            post(self, self._loop)
            while ended is None:
                try:
                    ended = self._ended.get(True, POLL)
                except queue.Empty:
                    if not caller.is_gone():
                        has_complained = has_complained or self._complain()
                        continue
                    # Once more: the result may have come just before the loop was closed.
                    try:
                        ended = self._ended.get_nowait()
                    except queue.Empty:
                        raise RuntimeError(LOOP_WENT_AWAY) from None
        finally:
            self._func = self.target = self._task = caller.calling = None
            token.unregister(self.cancel_soon)
        try:
            return ended.result()
        finally:
            # A traceback of its error refers to this frame.
            del ended

    def _complain(self) -> bool:
        """Say so if the loop has not looked at the call for long. True if it was said."""
        seconds = monotonic() - self.since
        if self._func is None or seconds < _patience.LIMIT:
            return False
        asked_at = _patience.users_line(sys._getframe()) or "an unknown line"
        _patience.warn_no_answer(getattr(self._loop, LOOP, None), asked_at, seconds)
        return True

    # In the loop thread.

    def deliver(self) -> None:
        """Make the call. (Not in the step of a task: a function that blocks holds up them all.)"""
        try:
            func, self._func = self._func, None
            if func is None:
                return
            result = self._context.run(func)
            if not inspect.isawaitable(result):
                self._end(result, None)
                return
            token = self._caller.token
            if not inspect.iscoroutine(result):
                result = _await(result)
            if token.why is not None:
                result.close()
                raise asyncio.CancelledError(*token.why)
            task = self._task = self._loop.create_task(result, context=self._context)
            task.add_done_callback(self._ended.put)
            if token.why is not None:  # Just now: by a signal handler.
                self._cancel(token.why)
        except BaseException as exc:
            self._end(None, exc)
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise

    def abandon(self) -> None:
        """In any thread: the loop is closed."""
        self._end(None, RuntimeError(LOOP_IS_CLOSED))

    def _cancel(self, why: tuple[Any, ...]) -> None:
        """The caller was cancelled. A call that has not begun finds out by itself."""
        task = self._task  # Read once: the worker forgets it when the call has ended.
        if task is not None:
            task.cancel(*why)

    def _end(self, value: Any, error: BaseException | None) -> None:
        self._ended.put(Outcome(value, error))

    def is_made_by(self, strand: object) -> bool:
        """In the loop thread: whether the coroutine of the call runs in the task of *strand*."""
        return getattr(self._task, STRAND, None) is strand

    # In any thread.

    def has_begun(self) -> bool:
        """Whether the loop has looked."""
        return self._func is None

    def coroutine(self) -> Any:
        """The coroutine that the loop runs, if it does."""
        task = self._task
        return None if task is None else task.get_coro()

    def cancel_soon(self, why: tuple[Any, ...]) -> None:
        """The caller is cancelled."""
        if events._get_running_loop() is self._loop:
            self._cancel(why)
        else:
            with contextlib.suppress(RuntimeError):  # Closed: the worker finds out by itself.
                self._loop.call_soon_threadsafe(self._cancel, why)


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def from_thread_run(
    post: Post,
    loop: Any,
    caller: Caller,
    func: Callable[[], Any],
    tokens: Tokens,
    kind: type[FromThreadCall] = FromThreadCall,
) -> Any:
    """In a worker of *caller*: call *func* on its loop, and wait.

    *func* sees the variables of the current Context, to which *tokens* belongs; those that it sets
    hold here afterwards.
    """
    if caller.token.why is not None and async_kind(func) == "a coroutine function":
        raise caller.cancellation()  # At once. Another function is called all the same.
    values = copy_context()
    name_library(values, kind.library)
    context = values.copy()
    try:
        return kind(loop, caller, func, context).run(post)
    finally:
        merge_changes(context, values, tokens)
