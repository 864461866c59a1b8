"""What a task has entered: a stack of blocks and loop parts, and whose they are.

An entry belongs to the frame that made it, not to the task that entered. As a rule that is one and
the same. But an async generator that yields in a loop part may be closed, or resumed, by another
task: then its entries move to that one, see ``_adoption``. And a task may leave the entries of a
generator while its own are above them: then they move to the top.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._seat import Seat
    from ._strand import Strand


class Entry:
    """A context manager that is entered, and where its body runs."""

    # No __init__: it is made on the way of every block.
    __slots__ = ("cancels", "frame_key", "job", "manager")

    #: A block, or the ``LoopPart`` of an ``eventloop()`` object.
    manager: object
    #: None: the loop.
    job: Seat | None
    #: The ``key_of`` the frame that entered it; 0 if that is not known.
    frame_key: int
    #: Of a loop part: how often the task had been cancelled when it was entered.
    cancels: int


class LoopPart:
    """Stands for an ``eventloop()`` object in entries, and does not keep it alive."""

    __slots__ = ("manager", "owners")

    def __init__(self, manager: object) -> None:
        #: As long as it is there, somebody may leave it.
        self.manager: weakref.ref[Any] = weakref.ref(manager)
        #: The strands that have it entered. Written on the loop thread.
        self.owners: tuple[Strand, ...] = ()

    def disown(self, strand: Strand) -> None:
        owners = list(self.owners)
        if strand in owners:
            owners.remove(strand)
        self.owners = tuple(owners)


def key_of(frame: FrameType) -> int:
    """What tells a frame, without keeping it.

    A dead frame's address is soon that of another frame, but hardly ever of one with that code.
    """
    return id(frame) ^ id(frame.f_code)


def frames_up(frame: FrameType | None) -> Iterator[FrameType]:
    """*frame*, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def generators_up(frame: FrameType | None) -> set[int]:
    """The keys of the async generators that run in this thread, from *frame* up."""
    asynchronous = inspect.CO_ASYNC_GENERATOR
    return {key_of(f) for f in frames_up(frame) if f.f_code.co_flags & asynchronous}


def jobs_of(entries: tuple[Entry, ...]) -> set[Seat]:
    """The jobs of the workers that *entries* need."""
    return {entry.job for entry in entries if entry.job is not None}


def split(
    entries: tuple[Entry, ...], manager: object, generators: set[int]
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """What belongs to *manager* and must be left with it, and the rest.

    That is the entry of *manager*, of a loop part also the block right below it, and all that one
    of the *generators* has entered further below. Nothing if *manager* is not entered.
    """
    top = next((at for at in reversed(range(len(entries))) if entries[at].manager is manager), None)
    if top is None:
        return (), entries
    low = top
    while low > 0 and entries[low].job is None:
        low -= 1
    low = next((at for at in range(low) if entries[at].frame_key in generators), low)
    return entries[low : top + 1], entries[:low] + entries[top + 1 :]
