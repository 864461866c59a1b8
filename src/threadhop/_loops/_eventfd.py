"""A wake-up that costs less than ``call_soon_threadsafe``.

``call_soon_threadsafe`` makes a Handle and writes to a socket, which the loop reads twice, and only
after it has run the Handle. By then the task has often asked for its next worker, which wakes up
during these reads and takes the GIL, so the loop waits for it. An eventfd of the library's own is
read once, when the tasks have gone on.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from typing import Any

#: Only on Linux.
write: Any = getattr(os, "eventfd_write", None)
read: Any = getattr(os, "eventfd_read", None)


class Eventfd:
    """The descriptor. Only what the loop watches keeps it: so it is closed when the loop is."""

    #: -1: there is none, for Ctrl+C came first; or no more, in the child of a fork.
    number = -1
    #: (At the end of the process the names of modules are None.)
    _close = staticmethod(os.close)

    def __init__(self) -> None:
        self.number = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __del__(self) -> None:
        if self.number >= 0:
            self._close(self.number)


#: ``select`` fails if a descriptor is too high; what others do nobody knows.
_SELECTORS = tuple(
    getattr(selectors, name)
    for name in ("EpollSelector", "PollSelector")
    if hasattr(selectors, name)
)

#: Read in the child of a fork only, where there is one thread.
_all: weakref.WeakSet[Eventfd] = weakref.WeakSet()


def open_for(
    loop: AbstractEventLoop, answer: Callable[[Eventfd], None]
) -> Callable[[], Eventfd | None]:
    """In the loop thread: have *answer* called on *loop* for as long as the eventfd has a count.

    Return what gives the eventfd: None when the loop is closed, or if it cannot have one.
    """
    if not _is_possible(loop):
        return type(None)
    try:
        eventfd = Eventfd()
        # The Handle keeps a Context for as long as the loop lives: not that of this task.
        Context().run(loop.add_reader, eventfd.number, answer, eventfd)
    except Exception:  # Too many files are open; or ``add_reader`` is somebody's own.
        return type(None)
    _all.add(eventfd)
    return weakref.ref(eventfd)


def _is_possible(loop: AbstractEventLoop) -> bool:
    """Whether *loop* is known to watch each descriptor that it is given."""
    if read is None or sys.implementation.name != "cpython":  # PyPy would close it late.
        return False
    if isinstance(loop, asyncio.SelectorEventLoop):
        return type(getattr(loop, "_selector", None)) in _SELECTORS
    return type(loop).__module__ == "uvloop"


def _after_fork() -> None:
    """In the child: the count is the parent's. To read it there would lose a wake-up here."""
    for eventfd in list(_all):
        eventfd.number = -1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
