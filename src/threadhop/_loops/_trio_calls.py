"""A call that a worker makes on trio, and waits for.

A call from a worker runs in the task that it works for, as ``trio.from_thread.run`` does it: so it
is cancelled with that, and may use its nurseries. The task of a block waits while its coroutine is
on the worker. It gets the coroutine of the call for a while, and the context of the call, and then
its own ones back. A task that awaits the result of a call makes the call on its way. For a call
that no task awaits a system task stands in.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

from .._errors import LOOP_IS_CLOSED
from .._job import Caller
from .._outcome import Outcome
from .._strand import Strand
from .._variables import Tokens
from ._from_thread import FromThreadCall, from_thread_run
from ._trio_futures import TrioFuture
from ._trio_traps import (
    is_cancelled,
    lowlevel,
    message_to_trio,
    pause,
    run_instead,
    trio,
    trio_cancelled,
)


def _call(func: Callable[[], Any]) -> Any:
    return func()


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _raise_cancelled() -> None:
    raise trio_cancelled()


# The code of the user may be interrupted by Ctrl+C, what surrounds it may not.
lowlevel.disable_ki_protection(_call)
lowlevel.disable_ki_protection(_await)


class TrioCall(FromThreadCall):
    """One call of a function that a worker makes on trio. ``_loop`` is the ``TrioLoop``."""

    library = "trio"

    __slots__ = ("_scope", "_strand", "waiting")

    #: In a system task: what cancels it.
    _scope: Any
    #: While it has the task of a block: the strand of that task,
    _strand: Strand | None
    #: and what came for the task.
    waiting: list[Any]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._scope = self._strand = None  # A departure may ask before this is delivered.

    def deliver(self) -> None:
        """In a callback of the run."""
        caller: Any = self._caller
        if self._func is None:
            return
        if isinstance(caller, Strand):
            self._run_in_task_of_block(caller)
        elif not isinstance(caller.future, TrioFuture) or not caller.future.make(self):
            self._run_in_system_task()

    # In the task of a block.

    def _run_in_task_of_block(self, strand: Any) -> None:
        suspension = strand.suspension
        task = None if suspension is None else suspension.task
        if task is None:
            self._end(None, RuntimeError(LOOP_IS_CLOSED))
        elif suspension.hosted is not None:
            suspension.hosted.waiting.append(self)
        else:
            self.waiting = []
            suspension.hosted = self
            coro = self._in_task_of_block(task, suspension, task.coro, task.context, strand)
            # Where the call enters a block it is like another task.
            self._strand = self._loop.strands[task] = Strand(self._loop)
            task.context = self._context
            run_instead(task, coro)

    async def _in_task_of_block(
        self, task: Any, suspension: Any, coro: Any, context: Context, strand: Strand
    ) -> None:
        """The coroutine that *task* gets for a while; it never ends."""
        await pause()
        ended = await self._make()
        task.coro, task.context, self._loop.strands[task] = coro, context, strand
        suspension.hosted = self._strand = None
        # What was cancelled meanwhile trio tells when this task waits again: the worker may be
        # further by then.
        if is_cancelled():
            suspension.note_cancel(self._caller, _raise_cancelled)
        for entry in self.waiting:
            self._loop.deliver_soon(entry)
        message = message_to_trio(suspension)
        self._ended.put(ended)
        del ended, coro, context, strand  # For the worker goes on now, and this frame stays.
        await pause(message)

    # In the task that awaits the call.

    async def make_here(self) -> None:
        task = lowlevel.current_task()
        context, task.context = task.context, self._context
        await lowlevel.cancel_shielded_checkpoint()  # Into the other context,
        ended = await self._make()
        task.context = context
        await lowlevel.cancel_shielded_checkpoint()  # and back.
        self._ended.put(ended)

    # In a task of its own.

    def _run_in_system_task(self) -> None:
        try:
            lowlevel.spawn_system_task(
                self._in_system_task, name="exec_in_eventloop", context=self._context
            )
        except RuntimeError:  # It is too late: the run ends.
            self.abandon()

    async def _in_system_task(self) -> None:
        with trio.CancelScope() as self._scope:
            if self._caller.token.why is not None:
                self._scope.cancel()
            ended = await self._make()
        self._ended.put(ended)

    async def _make(self) -> Outcome:
        """Call the function, await what it returns; how that ended."""
        func, self._func = self._func, None
        result = None
        try:
            if func is not None:
                result = _call(func)
            if inspect.isawaitable(result):
                if self._caller.token.why is not None:
                    if inspect.iscoroutine(result):
                        result.close()
                    raise self._caller.cancellation()
                result = await _await(result)
            return Outcome(result, None)
        except BaseException as exc:
            return Outcome(None, exc)
        finally:
            del func, result

    def is_made_by(self, strand: object) -> bool:
        return self._strand is strand

    # In any thread.

    def cancel_soon(self, why: Any) -> None:
        """The caller is cancelled. The task of a block, and one that waits, is so itself."""
        self._loop.deliver_soon(_Cancel(self))

    def cancel_scope(self) -> None:
        if self._scope is not None:
            self._scope.cancel()


class _Cancel:
    def __init__(self, call: TrioCall) -> None:
        self._call = call

    def deliver(self) -> None:
        self._call.cancel_scope()

    def abandon(self) -> None:
        """The run is over."""


def from_thread_run_on_trio(
    loop: Any, caller: Caller, func: Callable[[], Any], tokens: Tokens
) -> Any:
    """In a worker of *caller*: call *func* in the run, and wait."""
    return from_thread_run(loop.post, loop, caller, func, tokens, TrioCall)


for _function in (
    TrioCall._in_task_of_block,
    TrioCall.make_here,
    TrioCall._make,
):
    lowlevel.enable_ki_protection(_function)
