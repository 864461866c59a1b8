"""Step a suspended coroutine in a worker.

This module knows coroutines and no threads. Of event loops it knows how asyncio's futures look.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Coroutine, Iterator
from typing import Any

from ._callables import name_of
from ._errors import CANNOT_AWAIT
from ._outcome import Outcome

# The links of an await chain: the frame of a coroutine, generator or async generator, and the
# object that it waits for.
_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")

#: As often may an awaitable into which nothing can be thrown go on by itself.
BY_ITSELF = 100

#: Frames of these folders only pass an await on; the user did not write it there. Replaced as a
#: whole, by the side of another library.
plumbing: tuple[str, ...] = (
    os.path.dirname(os.__file__) + os.sep + "asyncio" + os.sep,
    os.path.dirname(__file__),
)


def step(
    coro: Coroutine[Any, Any, Any], marker: object, error: BaseException | None = None
) -> Outcome | None:
    """Run *coro* until it yields *marker* (None) or ends (how it ended).

    *error*, if one is given, is raised at the point of suspension. Anything else that *coro* yields
    is an await that needs an event loop. There is none in this thread, so each one is refused where
    it stands, and the coroutine goes on from there.
    """
    refused = 0
    try:
        yielded = coro.send(None) if error is None else coro.throw(error)
        while True:
            if yielded is marker:
                return None
            # Not within an ``except``: the handled exception would become the __context__ of
            # everything that the coroutine raises from here on.
            refused += 1
            yielded = _refuse(coro, yielded, refused)
    except StopIteration as stop:
        return Outcome(stop.value, None)
    except BaseException as exc:
        return Outcome(None, exc)
    finally:
        # An exception kept by the outcome refers to this frame.
        del coro, error


def _refuse(coro: Coroutine[Any, Any, Any], awaited: Any, count: int) -> Any:
    """Have the await of *awaited* raise where it stands. Returns what *coro* yields next."""
    error = RuntimeError(CANNOT_AWAIT.format(where=where_suspended(coro)))
    try:
        if _can_throw(coro) or count > BY_ITSELF:
            _take_back(awaited)
            return coro.throw(error)
        # Thrown in, it would come out around the awaitable, and leave the block behind. So the
        # await goes on: a future that is not done, and that no task has taken, says so in there.
        try:
            return coro.send(None)
        finally:
            _take_back(awaited)
    finally:
        del coro, error  # The error refers to this frame.


def _take_back(awaited: Any) -> None:
    """The future believes that a task has taken note of it, and would refuse the next await."""
    if getattr(awaited, "_asyncio_future_blocking", None):
        awaited._asyncio_future_blocking = False


def _can_throw(coro: object) -> bool:
    """Whether an error gets to the innermost await: each link of the chain has a ``throw``."""
    return all(hasattr(link, "throw") for link in links(coro) if hasattr(link, "__next__"))


def where_suspended(coro: object) -> str:
    """The ``file:line`` at which the user's innermost frame of this await chain is suspended.

    Or the name of the function, if that is compiled and has no frame.
    """
    found = "an unknown line"
    for link in links(coro):
        frame = next((f for name in _FRAMES if (f := getattr(link, name, None)) is not None), None)
        if frame is not None and frame.f_lineno is not None:
            if found == "an unknown line" or not frame.f_code.co_filename.startswith(plumbing):
                found = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        elif any(hasattr(link, name) for name in _AWAITED):
            found = f"an unknown line of {name_of(link)}"
    return found


def links(awaitable: Any) -> Iterator[Any]:
    """An await chain, the outermost coroutine first."""
    while awaitable is not None:
        yield awaitable
        for name in _AWAITED:
            if hasattr(awaitable, name):
                awaitable = getattr(awaitable, name)
                break
        else:
            # The iterator of a compiled coroutine shows it to the garbage collector only.
            hidden = (r for r in gc.get_referents(awaitable) if hasattr(r, "cr_await"))
            awaitable = next(hidden, None)
