"""Cancellation that legacy code cannot lose."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ._callables import async_kind, name_of
from ._errors import GUARD_LEFT_ELSEWHERE, GUARDED, NOT_ASYNC
from ._interface import Loop
from ._loops import (
    current_strand,
    current_strand_or_none,
    job_here,
    raise_pending_cancellation,
)
from ._traps import OUTRANKS_CANCELLATION

P = ParamSpec("P")
T = TypeVar("T")


def check_cancelled() -> None:
    """Raise the cancellation that this code has yet to see, if there is one.

    For long-running code on a worker: in the body of a block, in anything that it calls, and in
    functions that ``exec_in_executor`` or ``AsyncExecutor.run`` run on a thread of this process.
    A checkpoint for code that cannot await::

        for row in rows:
            check_cancelled()
            convert(row)

    Raises:
        asyncio.CancelledError: with the cancel message, once the task (of a block) or the future
            (of a call) has been cancelled; on trio ``trio.Cancelled``. Swallowing it does not help:
            the next check raises it again, and so does the exit of the block.

    On the loop it raises if a cancellation is pending, which the next ``await`` would raise, too.
    In a thread that works for no task ``check_cancelled()`` does nothing. It never waits.

    .. versionadded:: 0.1
    """
    job = job_here()
    if job is None:
        raise_pending_cancellation()
        return
    caller = job.caller
    if caller is not None and caller.token.why is not None:
        raise caller.cancellation()


class _Guarded(NamedTuple):
    """A guard that is entered, and what had been cancelled by then."""

    guard: object
    #: How often the task had been cancelled,
    cancels: int
    #: how often while it was away from the loop,
    seen_cancels: int
    #: and whether one of these was still to be raised.
    was_cancelled: bool


class cancellation_guard:  # noqa: N801 - reads like a keyword
    """See to it that no ``except:`` in the body swallows a cancellation.

    ``async with cancellation_guard():`` around legacy code, or ``@cancellation_guard()`` on an
    async function. If the task was cancelled inside, and that CancelledError did not come out
    (somebody swallowed it, or raised something else instead), the guard raises CancelledError at
    its exit; the error that came out is its ``__context__``. ::

        async with cancellation_guard():
            async with threadpool():
                legacy_report()               # try: ... except: pass

    The guard may stand on the loop or in the body of a block, and be used again and nested.

    Quiet when nothing was cancelled, about what was cancelled before it, when ``Task.uncancel()``
    dealt with the cancellation (``asyncio.timeout`` does), and when KeyboardInterrupt or SystemExit
    come out.

    The message is that of the cancellation where it is known: if it passed through a block, or is
    in the context chain of the error that came out. Otherwise the message says that the guard
    raised it.

    A cancellation that came while the body was on a worker it knows for certain. One that came at
    a plain ``await`` it knows by ``Task.cancelling()``. On Python 3.11 and 3.12 a TaskGroup leaves
    that one too high if a child failed while the group waited at its end: a guard around such a
    group raises although nobody cancelled. Put the guard inside of the group.

    On trio the guard raises if a scope around it was cancelled after it began, and still is at its
    exit.

    Raises:
        asyncio.CancelledError: as told above, in the thread where the guard ends. On trio
            ``trio.Cancelled``.
        RuntimeError: at entry, if no task runs here.
        TypeError: as a decorator, if the function is not a coroutine function.

    .. versionadded:: 0.1
    """

    __slots__ = ()

    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        if not callable(func) or async_kind(func) != "a coroutine function":
            raise TypeError(NOT_ASYNC.format(name=name_of(func)))

        @functools.wraps(func)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
            async with self:
                return await func(*args, **kwargs)

        return guarded

    async def __aenter__(self) -> None:
        strand = current_strand("cancellation_guard()")
        strand.guards += (
            _Guarded(
                self, strand.count_cancels(), strand.token.count, strand.token.why is not None
            ),
        )

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        strand = current_strand_or_none()
        if strand is None or all(guarded.guard is not self for guarded in strand.guards):
            if exc is not None and not isinstance(exc, Exception):
                return  # A cancellation passes; GeneratorExit is the collector's, or a closer's.
            raise RuntimeError(GUARD_LEFT_ELSEWHERE)
        guards = strand.guards
        at = max(at for at, guarded in enumerate(guards) if guarded.guard is self)
        guarded = guards[at]
        strand.guards = guards[:at] + guards[at + 1 :]
        if isinstance(exc, (GeneratorExit, *OUTRANKS_CANCELLATION)) or strand.loop.is_cancellation(
            exc
        ):
            return
        known = strand.token.why is not None and not guarded.was_cancelled
        if not known and strand.count_cancels() <= guarded.cancels:
            return
        if strand.job is None:
            # If the task has not even been told, its next await is where it learns it.
            await strand.loop.let_pending_cancellation_out()
        args = _why_in_chain(exc, strand.loop)
        if args is None and strand.token.count > guarded.seen_cancels:
            args = strand.token.last_why
        try:
            raise strand.cancellation(GUARDED if args is None else args)
        finally:
            del exc, traceback  # They refer to this frame.


def _why_in_chain(error: BaseException | None, loop: Loop) -> Any:
    """The *why* of a cancellation that *error* was raised from, or while it was handled."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        if loop.is_cancellation(error):
            return loop.why(error)
        seen.add(id(error))
        waiting += (error.__context__, error.__cause__)
    return None
