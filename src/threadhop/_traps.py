"""Every bare ``yield`` of the library: where a coroutine leaves the thread that runs it.

A block in the user's frame awaits one of these generators. The generator yields *mark*, and so
suspends the whole task. The driver of the coroutine receives *mark*: the loop's Task, for which it
is a future to wait for, or a worker's ``step``, which knows it by identity. The next line runs in
the thread that resumes the task. The driver in that thread has made the move already
(``Strand.arrive``): it pushes and pops entries before the coroutine goes on, by code that nothing
can interrupt. The coroutine only looks where it is: ``_note_arrival``, ``_why_not_moved``.

A generator that may be awaited saves a frame on each way, compared with a coroutine around it.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Coroutine, Generator, Iterable
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from typing import Any, cast

from ._callables import begins_unseen
from ._entries import ENTER, LoopPart, generators_at, key_of
from ._errors import NOT_DRIVEN
from ._interface import AnyStrand
from ._yields import refuse_yield

#: A frame without these is not the user's: a compiled function has no frame.
_AWAITING = CO_COROUTINE | CO_ASYNC_GENERATOR | CO_GENERATOR

#: Win over a cancellation when they leave the body of a block.
OUTRANKS_CANCELLATION = (KeyboardInterrupt, SystemExit)


def _enter(strand: AnyStrand, mark: object) -> Generator[Any, None, None]:
    """Go to where the body of a block or of a loop part runs, and be in it."""
    # (Few locals: many may wait for a worker at once, each in such a frame.)
    try:
        yield mark
        _note_arrival(strand)
    except BaseException:
        yield from _way_out(strand)
        raise


def _way_out(strand: AnyStrand) -> Iterable[Any]:
    """In the handler of an error at the entry: leave the body, if that is entered.

    ``async with`` will not leave it.
    """
    error = sys.exc_info()[1]
    # GeneratorExit is the collector's, or a driver's that gives up: neither may suspend again.
    if error is None or strand.job is not strand.target or isinstance(error, GeneratorExit):
        return ()
    return strand.turn_back(error)


def _leave(
    strand: AnyStrand, mark: object, error: BaseException | None
) -> Generator[Any, None, None]:
    """Go from the end of a body, which ended with *error*, to where it was entered."""
    try:
        yield mark
    except BaseException:  # Another thread raised it in the parked worker.
        # (Or the process ends, and the names of this module are None.)
        strand.token.tell_if_away(strand.job)
        raise
    target = strand.target
    if strand.job is not target:
        raise _why_not_moved(strand)
    if target is None:
        strand.variables.write_back()
    if strand.token.why is not None:
        _raise_cancellation(strand, error)
    if error is not None and sys.exc_info()[1] is None:
        # A coroutine of mypyc's keeps what it handles in the thread, and has left that: it would
        # raise nothing, and lose the task.
        try:
            raise error
        finally:
            del error  # Its traceback has this frame.


# Ctrl+C before its first line would leave the rest of the body where it is.
begins_unseen(_leave)

# For type checkers these are coroutines: nothing else may be awaited by ``async with``.
enter = cast("Callable[[AnyStrand, object], Coroutine[Any, Any, None]]", types.coroutine(_enter))
leave = cast(
    "Callable[[AnyStrand, object, BaseException | None], Coroutine[Any, Any, None]]",
    types.coroutine(_leave),
)


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """On an asyncio loop: suspend the task for a turn of the loop, as ``sleep(0)`` does."""
    yield


async def stay() -> None:
    """Go nowhere: to be awaited where the task is in the right thread already."""


async def then_raise(switch: Coroutine[Any, Any, None], error: BaseException) -> None:
    """Await *switch*, and raise *error* where that leads."""
    try:
        await switch
        raise error
    finally:
        del error  # Its traceback has this frame.


def need_frames(count: int = 20) -> None:
    """Raise RecursionError now, before anything has begun, rather than half-way there or back."""
    if count:
        need_frames(count - 1)


# In the coroutine, resumed after a switch.


def _note_arrival(strand: AnyStrand) -> None:
    """The body begins in the frame that awaits the trap. If the task did not get there, raise why.

    Only now: code that has asked for its frame keeps it, and many may wait for a worker.
    """
    frame = sys._getframe(2)
    target, code = strand.target, frame.f_code
    if target is not None and target.code is None and code.co_flags & _AWAITING:
        target.code = code
        target.instruction = frame.f_lasti
    if strand.job is not target:
        raise _why_not_moved(strand)
    entry = strand.entries[-1]
    if code.co_flags & CO_ASYNC_GENERATOR or code.co_name in ENTER:
        entry.generators = generators_at(frame)
        if target is not None:
            refuse_yield(frame)
    if target is None:
        entry.frame_key = key_of(frame)
        if isinstance(entry.manager, LoopPart):
            entry.manager.enter(entry, strand)
        strand.variables.write_back()
        if strand.token.why is not None:
            # A cancel came on the way. Raised here, it would run the ``finally`` of the body, which
            # belongs to the worker, on the loop: so ``_enter`` turns back.
            raise strand.cancellation()
        entry.cancels = strand.seen_cancels


def _why_not_moved(strand: AnyStrand) -> BaseException:
    """The switch failed; the task goes on where it was."""
    target, token = strand.target, strand.token
    failure = None if target is None else target.take_failure()
    if strand.refusal is not None:
        failure, strand.refusal = strand.refusal, None
    on_loop = strand.job is None
    if on_loop:
        strand.variables.stay_on_loop()
    if token.why is not None and not isinstance(failure, OUTRANKS_CANCELLATION):
        error = strand.cancellation()
        if on_loop:
            token.why = None
        return error
    if isinstance(failure, BaseException):
        return failure
    job = strand.job if strand.entering is None else target
    block = "the block" if job is None else f"the block at {job.where()}"
    return RuntimeError(f"{block} cannot go on: {failure or NOT_DRIVEN}")


def _raise_cancellation(strand: AnyStrand, error: BaseException | None) -> None:
    """At the exit of a block that ended with *error*: the task was cancelled meanwhile.

    On the loop this delivers the cancellation. In a worker, at the exit of a block that was nested
    in one of another executor, it stays: swallowed there, it is met again.
    """
    cancellation = strand.cancellation()
    if strand.job is None:
        strand.token.why = None
    else:
        strand.token.tell_if_away(strand.job)
    same = type(error) is type(cancellation) and error.args == cancellation.args
    if same or isinstance(error, OUTRANKS_CANCELLATION):
        return
    try:
        raise cancellation
    finally:
        # The error refers to this frame, which must not refer to the error.
        del cancellation, error
