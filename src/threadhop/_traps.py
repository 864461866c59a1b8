"""Every bare ``yield`` of the library: where a coroutine leaves the thread that runs it.

Each of these generators is awaited by a block in the user's frame. It yields *mark*, and so
suspends the whole task; whoever drives that receives *mark*: the loop's Task, for which it is a
future to wait for, or a worker's ``step``, which knows it by identity. The next line runs in the
thread that resumes the task. The driver in that thread has made the move already
(``Strand.arrive``): entries are pushed and popped before the coroutine goes on, by code that
nothing can interrupt. Here it only looks where it is.

A generator that may be awaited is a frame less than a coroutine that awaits one, on each way.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from ._strand import Strand


def _enter(strand: Strand, mark: object) -> Generator[Any, None, None]:
    """Go to where the body of a block or of a loop part runs, and be in it."""
    # (Few locals: many may wait for a worker at once, each in such a frame.)
    try:
        yield mark
        strand.note_arrival()
    except BaseException as error:
        if strand.has_to_turn_back(error):
            # It is entered, but ``async with`` will not leave it.
            yield from strand.turn_back(error)
        raise


def _leave(strand: Strand, mark: object, error: BaseException | None) -> Generator[Any, None, None]:
    """Go from the end of a body, which ended with *error*, to where it was entered."""
    yield mark
    target = strand.target
    if strand.job is not target:
        raise strand.why_not_moved()
    if target is None:
        strand.variables.write_back()
    if strand.token.why is not None:
        strand.raise_cancellation(error)


# For type checkers these are coroutines: nothing else may be awaited by ``async with``.
enter = cast("Callable[[Strand, object], Coroutine[Any, Any, None]]", types.coroutine(_enter))
leave = cast(
    "Callable[[Strand, object, BaseException | None], Coroutine[Any, Any, None]]",
    types.coroutine(_leave),
)


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """On an asyncio loop: suspend the task for a turn of the loop, as ``sleep(0)`` does."""
    yield


async def stay() -> None:
    """Go nowhere: what is awaited where the task is in the right thread already."""


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
