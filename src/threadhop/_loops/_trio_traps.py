"""What a coroutine yields to trio, and what trio runs in the place of one.

The only file that imports trio. It is loaded by name, when trio runs.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import trio

from .. import _driver
from .._outcome import Outcome

__all__ = (
    "end_with",
    "is_cancelled",
    "lowlevel",
    "message_to_trio",
    "pause",
    "run_instead",
    "trio",
    "trio_cancelled",
)

lowlevel: Any = trio.lowlevel

_driver.plumbing += (os.path.dirname(trio.__file__) + os.sep,)


@types.coroutine
def pause(message: object = None) -> Generator[object, object, object]:
    """In a coroutine of a trio task: yield *message* to trio."""
    return (yield message)


def _by_detaching(abort: Callable[[Callable[[], Any]], Any]) -> object:
    message: object = lowlevel.temporarily_detach_coroutine_object(abort).send(None)
    return message


def _message_kind() -> Callable[[Callable[[Callable[[], Any]], Any]], object]:
    """The class of such messages, if it makes the same. Cheaper than a coroutine for each."""
    message = _by_detaching(repr)
    kind = type(message)
    try:
        made = kind(repr)  # type: ignore[call-arg]
        return kind if made == message and vars(made) == vars(message) else _by_detaching
    except Exception:  # Another trio.
        return _by_detaching


#: What a coroutine yields to trio, to be suspended until somebody reschedules its task. Called with
#: the abort function.
message_to_trio = _message_kind()


def run_instead(task: Any, coro: Coroutine[Any, Any, Any]) -> None:
    """In the thread of the run: wake *task*, which is suspended, with *coro* in it."""
    coro.send(None)  # To its first ``pause``, for trio sends something in.
    task.coro = coro
    lowlevel.reschedule(task)


async def end_with(ended: Outcome) -> Any:
    """For ``run_instead``: the task ends so."""
    try:
        await pause()
        return ended.result()
    finally:
        del ended  # The error refers to this frame.


def is_cancelled() -> bool:
    """In a task of trio."""
    return bool(trio.current_effective_deadline() == -float("inf"))


def trio_cancelled() -> BaseException:
    """A Cancelled that no scope has asked for: the one that is cancelled will take it.

    trio offers no constructor. Its metaclass hides that of the class, no more.
    """
    made: BaseException = type.__call__(trio.Cancelled)
    return made
