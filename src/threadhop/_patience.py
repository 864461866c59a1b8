"""Somebody has waited for long, and says so: here, for a loop that does not even look.

Usually the loop thread waits for a lock that the worker holds, or blocks in some call. The lock may
be that of a handler of logging, so the warning is logged by a thread of its own. If that does not
come back, or if the worker itself is in the middle of logging, the warning goes to ``sys.stderr``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import Any

from ._errors import NO_ANSWER, log

#: Seconds after which somebody who waits says so.
LIMIT = 5.0

#: Seconds that logging gets to take the warning.
LOGGING_TAKES = 1.0

_LIBRARY = os.path.dirname(os.__file__) + os.sep
_PACKAGE = os.path.dirname(__file__) + os.sep
_LOGGING = os.path.dirname(logging.__file__) + os.sep


def warn_no_answer(loop: Any, asked_at: str, seconds: float) -> None:
    """In the worker: say that *loop* has not looked. Once for each pair of lines."""
    stands_at = _where_it_stands(loop)
    said: set[tuple[str, str]] = getattr(loop, "said", set())
    if (asked_at, stands_at) in said:
        return
    said.add((asked_at, stands_at))
    _say(NO_ANSWER % (seconds, asked_at, stands_at))


def _where_it_stands(loop: Any) -> str:
    """The line at which the thread of *loop* stands, and the user's line that led there."""
    if not loop.is_running():
        return "no line: the loop does not run"
    thread = getattr(loop, "thread", None)
    frame = None if thread is None else frames_of_threads().get(thread.ident)
    if frame is None:
        return "an unknown line"
    inner, outer = f"{frame.f_code.co_filename}:{frame.f_lineno}", users_line(frame)
    return inner if outer in (inner, None) else f"{inner}, called from {outer}"


def frames_of_threads() -> Mapping[int, FrameType]:
    """In any thread: the innermost frame of each, by its ident. Empty where Python hides them."""
    current_frames: Any = getattr(sys, "_current_frames", dict)
    found: Mapping[int, FrameType] = current_frames()
    return found


def users_line(frame: FrameType | None) -> str | None:
    """The ``file:line`` of the innermost frame that is the user's."""
    while frame is not None:
        name = frame.f_code.co_filename
        of_library = name.startswith(_LIBRARY) and "site-packages" not in name
        if not (of_library or name.startswith((_PACKAGE, "<frozen"))):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return None


def _say(text: str) -> None:
    """In a worker: log *text*, or write it to ``sys.stderr`` if logging cannot be entered."""
    if not _is_in_logging(sys._getframe()):
        taken: list[bool] = []
        with contextlib.suppress(RuntimeError):  # No more threads.
            thread = threading.Thread(
                target=_log, args=(text, taken), name="threadhop-no-answer", daemon=True
            )
            thread.start()
            thread.join(LOGGING_TAKES)
        if taken:
            return
    with contextlib.suppress(Exception):
        sys.stderr.write(f"WARNING:threadhop:{text}\n")
        sys.stderr.flush()


def _log(text: str, taken: list[bool]) -> None:
    """In a thread of its own."""
    with contextlib.suppress(Exception):
        log.warning(text)
        taken.append(True)


def _is_in_logging(frame: FrameType | None) -> bool:
    """Whether this thread may hold a lock of logging, or would come here once more."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_LOGGING):
            return True
        frame = frame.f_back
    return False
