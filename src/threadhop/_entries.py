"""The entries of a task: the stack of its blocks and loop parts, and whose they are.

An entry belongs to the frame that made it, not to the task that entered. Usually that is one and
the same. But another task may close, or resume, an async generator that yields in a loop part: then
the entries of the generator move to that task, see ``_adoption``. And a task may leave the entries
of a generator while its own are above them: then they move to the top.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor
from inspect import CO_ASYNC_GENERATOR
from types import FrameType
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from ._block_job import BlockJob

CONTEXTLIB = contextlib.__file__

#: The stack of a task, innermost last. Replaced as a whole, as few tasks have more than one entry.
Entries = tuple["Entry", ...]

#: See ``key_of``.
FrameKey = tuple[int, int]


class Leaving(NamedTuple):
    """From where a manager is left. Asked for on the spot: a suspended frame has no caller."""

    frame_key: FrameKey
    generators: frozenset[FrameKey]


class Entry:
    """A context manager that is entered, and where its body runs."""

    # No __init__: one is made on the way of every block. Fields of few are in the ``__dict__``.
    __slots__ = ("__dict__", "job", "manager")

    #: A block, or the ``LoopPart`` of an ``eventloop()`` object.
    manager: object
    #: None: the loop.
    job: BlockJob | None
    #: The async generators that have entered it, see ``generators_at``.
    generators: frozenset[FrameKey] = frozenset()
    #: Of a loop part: the ``key_of`` the frame that entered it,
    frame_key: FrameKey | None = None
    #: and how often the task had been cancelled by then.
    cancels = 0


def entered_in(frame: FrameType, manager: object, job: BlockJob | None) -> Entry:
    """The entry of *manager*, entered in *frame* without a switch."""
    entry = Entry()
    entry.manager = manager
    entry.job = job
    entry.generators = generators_at(frame)
    entry.frame_key = key_of(frame)
    return entry


class _Owner(Protocol):
    entries: Entries


#: A strand.
OwnerT = TypeVar("OwnerT", bound=_Owner)


class LoopPart(Generic[OwnerT]):
    """Stands for an ``eventloop()`` object in entries, and does not keep it alive."""

    __slots__ = ("manager", "owners")

    def __init__(self, manager: object) -> None:
        #: As long as it is there, some code may leave it.
        self.manager: weakref.ref[Any] = weakref.ref(manager)
        #: The strands that have it entered. Written on the loop thread.
        self.owners: tuple[OwnerT, ...] = ()

    def owner_in(self, frame: FrameType) -> OwnerT | None:
        """The strand that has it entered in *frame*; if a helper entered it, any that has."""
        key = key_of(frame)
        for owner in self.owners:
            if any(e.manager is self and e.frame_key == key for e in owner.entries):
                return owner
        return self.owners[-1] if self.owners else None

    def disown(self, strand: OwnerT) -> None:
        owners = list(self.owners)
        if strand in owners:
            owners.remove(strand)
        self.owners = tuple(owners)


def key_of(frame: FrameType) -> FrameKey:
    """Tells a frame, without keeping it.

    A dead frame's address is soon that of another frame, but hardly ever of one with that code.
    """
    return id(frame), id(frame.f_code)


def frames_up(frame: FrameType | None) -> Iterator[FrameType]:
    """*frame*, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def generators_at(frame: FrameType | None) -> frozenset[FrameKey]:
    """The keys of the async generators that run in *frame*, and in those that await it.

    Up to the first coroutine of the user: what that enters belongs to no other frame. Helpers of
    contextlib pass what they enter on to their caller.
    """
    keys = set()
    for caller in frames_up(frame):
        code = caller.f_code
        if code.co_flags & CO_ASYNC_GENERATOR:
            keys.add(key_of(caller))
        elif code.co_filename != CONTEXTLIB:
            break
    return frozenset(keys)


def leaving(frame: FrameType) -> Leaving:
    return Leaving(key_of(frame), generators_at(frame))


# Questions about a stack.


def is_entered(entries: Entries, manager: object) -> bool:
    if not entries:
        return False
    return entries[-1].manager is manager or any(entry.manager is manager for entry in entries)


def jobs_of(entries: Entries) -> set[BlockJob]:
    """The jobs of the workers that *entries* need."""
    return {entry.job for entry in entries if entry.job is not None}


def innermost_job(entries: Entries) -> BlockJob | None:
    return next((entry.job for entry in reversed(entries) if entry.job is not None), None)


def job_on(entries: Entries, executor: Executor) -> BlockJob | None:
    """The job by which the task holds a worker of *executor* already, parked or not.

    The task may have adopted another one. The innermost is its own, if it has one.
    """
    for entry in reversed(entries):
        job = entry.job
        if job is not None and job.executor is executor:
            return job
    return None


def may_be_left(entries: Entries) -> bool:
    """Whether some code still has the ``eventloop()`` object of a loop part in there."""
    parts = [entry.manager for entry in entries if isinstance(entry.manager, LoopPart)]
    return any(part.manager() is not None for part in parts)


def split(entries: Entries, manager: object, leaving: Leaving) -> tuple[Entries, Entries]:
    """The group of entries that must be left with *manager*; and the rest.

    The group is the entry of *manager*, of a loop part also the block right below it, and all
    further below that one of the same generators has entered. Empty if *manager* is not entered.
    """
    top = _find(entries, manager, leaving.frame_key)
    if top is None:
        return (), entries
    low = top
    if low > 0 and entries[low].job is None and entries[low - 1].job is not None:
        low -= 1
    below = (at for at in range(low) if leaving.generators & entries[at].generators)
    low = next(below, low)
    return entries[low : top + 1], entries[:low] + entries[top + 1 :]


def _find(entries: Entries, manager: object, key: FrameKey) -> int | None:
    """The innermost entry of *manager*; if it was entered more than once, that of the frame."""
    found = [at for at, entry in enumerate(entries) if entry.manager is manager]
    mine = [at for at in found if entries[at].frame_key == key]
    return max(mine or found, default=None)
