"""Which worker is this thread? Asked only after "does a loop run here?" has been answered no.

The loop comes first because ``asyncio.run()`` in the body of a block is legal: its tasks are on
that loop, although the thread is a worker of ours.

Each thread that asks has one slot for its current job, and all slots are listed: whoever wants to
see what runs where looks through them.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

if TYPE_CHECKING:
    from ._backends._call import Call
    from ._seat import Seat


class Slot:
    """What a thread does at the moment. Written by that thread only, read by all."""

    __slots__ = ("__weakref__", "job", "thread")

    def __init__(self) -> None:
        #: The job that runs here: the seat of a block, or a call. None outside of jobs.
        self.job: Seat | Call | None = None
        self.thread = threading.get_ident()


class _Slots:
    #: Replaced in the child of a fork: another thread may have held it.
    lock = threading.Lock()
    #: Guarded by the lock. A slot goes when its thread does.
    all: ClassVar[WeakSet[Slot]] = WeakSet()


class _Here(threading.local):
    """The slot of this thread."""

    def __init__(self) -> None:
        """Called once in each thread that asks."""
        self.slot = Slot()
        with _Slots.lock:
            _Slots.all.add(self.slot)


here = _Here()


def all_slots() -> list[Slot]:
    """In any thread: the slots of all threads that have asked and live."""
    with _Slots.lock:
        return list(_Slots.all)


def _after_fork() -> None:
    """In the child."""
    _Slots.lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
