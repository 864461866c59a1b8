"""Which worker is this thread? Asked only after "does a loop run here?" has been answered no.

The loop comes first because ``asyncio.run()`` in the body of a block is legal: its tasks are on
that loop, although the thread is a worker of ours.

Each thread that asks has one slot for its current job, and all slots are listed: whoever wants to
see what runs where looks through them.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._block_job import BlockJob
    from ._call_job import CallJob


class Slot:
    """What a thread does at the moment. Written by that thread only, read by all."""

    __slots__ = ("__weakref__", "job", "thread")

    def __init__(self) -> None:
        #: The job that runs here: the seat of a block, or a call. None outside of jobs.
        self.job: BlockJob | CallJob | None = None
        self.thread = threading.get_ident()


#: Each step is one of C: a finalizer may ask for a slot in the middle of anything, so there is no
#: lock.
_slots: set[weakref.ref[Slot]] = set()


class _Current(threading.local):
    """The slot of this thread."""

    def __init__(self) -> None:
        """Called once in each thread that asks."""
        self.slot = Slot()
        _slots.add(weakref.ref(self.slot, _slots.discard))


current = _Current()


def all_slots() -> list[Slot]:
    """In any thread: the slots of all threads that have asked and live."""
    return [slot for ref in _slots.copy() if (slot := ref()) is not None]
