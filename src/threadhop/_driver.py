"""Step a suspended coroutine from a thread that is not its own.

This module knows coroutines and nothing else: no threads, no event loops.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from types import FrameType
from typing import Any

from ._outcome import Outcome

# The links of an await chain: the frame of a coroutine, generator or async generator, and the
# object that it waits for.
_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED = ("cr_await", "gi_yieldfrom", "ag_await")

#: Frames of these folders only pass an await on; the user did not write it there.
_PLUMBING = (os.path.dirname(os.__file__) + os.sep + "asyncio" + os.sep, os.path.dirname(__file__))


def step(
    coro: Coroutine[Any, Any, Any], marker: object, error: BaseException | None = None
) -> Outcome | None:
    """Run *coro* until it yields *marker* (None) or ends (how it ended).

    *error*, if one is given, is raised at the point of suspension. Anything else that *coro* yields
    is an await that needs an event loop. There is none in this thread, so each one is refused where
    it stands, and the coroutine goes on from there.
    """
    try:
        yielded = coro.send(None) if error is None else coro.throw(error)
        while yielded is not marker:
            # Not within an ``except``: the handled exception would become the __context__ of
            # everything that the coroutine raises from here on.
            yielded = coro.throw(_refusal(coro, yielded))
    except StopIteration as stop:
        return Outcome(stop.value, None)
    except BaseException as exc:
        return Outcome(None, exc)
    finally:
        # An exception kept by the outcome refers to this frame.
        del coro, error
    return None


def _refusal(coro: Coroutine[Any, Any, Any], awaited: Any) -> RuntimeError:
    """The error for an await of *awaited* by *coro*, which is suspended at it."""
    if getattr(awaited, "_asyncio_future_blocking", None):
        # The future believes that a task has taken note of it, and would refuse the next await,
        # a legal one, with "await wasn't used with future".
        awaited._asyncio_future_blocking = False
    return RuntimeError(
        f"cannot await at {where_suspended(coro)}: the body of 'async with threadpool()' runs on "
        "a worker thread, where no event loop can resume it. Await in a part of the body that goes "
        "back to the loop: async with eventloop():"
    )


def where_suspended(coro: object) -> str:
    """The ``file:line`` at which the user's innermost frame of this await chain is suspended."""
    found = None
    for frame in _frames(coro):
        if found is None or not frame.f_code.co_filename.startswith(_PLUMBING):
            found = frame
    return "an unknown line" if found is None else f"{found.f_code.co_filename}:{found.f_lineno}"


def _frames(awaitable: object) -> Iterator[FrameType]:
    """The frames of an await chain, outermost first."""
    while awaitable is not None:
        for name in _FRAMES:
            frame = getattr(awaitable, name, None)
            if frame is not None:
                yield frame
        for name in _AWAITED:
            if hasattr(awaitable, name):
                awaitable = getattr(awaitable, name)
                break
        else:
            return
