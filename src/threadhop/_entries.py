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
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from types import FrameType
from typing import Any, Generic, NamedTuple, TypeVar

from ._block_job import BlockJob

CONTEXTLIB = contextlib.__file__

#: Functions by these names enter for their caller: managers of the user, and exit stacks.
ENTER = ("__aenter__", "enter_async_context")

_MANAGE = ("__aexit__", *ENTER)

_SUSPENDS = CO_COROUTINE | CO_ASYNC_GENERATOR | CO_GENERATOR

#: The stack of a task, innermost last. Replaced as a whole, as few tasks have more than one entry.
Entries = tuple["Entry", ...]

#: See ``key_of``.
FrameKey = tuple[int, int] | None


class Leaving(NamedTuple):
    """What is left, and from where. Asked for on the spot: a suspended frame has no caller."""

    entry: Entry
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
    frame_key: FrameKey = None
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


#: A strand.
OwnerT = TypeVar("OwnerT")


class LoopPart(Generic[OwnerT]):
    """Stands for an ``eventloop()`` object in entries, and does not keep it alive.

    Many may have the object entered at once: frames of one task, tasks, tasks of several loops,
    some of them outside of any block. So the exit has to find the entry that it is of.
    """

    __slots__ = ("_by_key", "_was_left", "entered", "is_used_again", "manager")

    def __init__(self, manager: object) -> None:
        #: As long as it is there, some code may leave it.
        self.manager: weakref.ref[Any] = weakref.ref(manager)
        #: What is entered, the latest last, and the strand that has it; None: outside of any block.
        #: Loops in several threads write to it, so each step is one of C.
        self.entered: dict[Entry, OwnerT | None] = {}
        #: The same by the frame that entered, as thousands may have it entered. A frame runs in one
        #: thread at a time, so nobody else writes to its key.
        self._by_key: dict[FrameKey, Entries] = {}
        #: Whether it was entered more than once. Only set, by each that might be the second one.
        self.is_used_again = False
        self._was_left = False

    def enter(self, entry: Entry, owner: OwnerT | None) -> None:
        """Or give *entry* to another owner."""
        key = entry.frame_key
        if key is not None and entry not in self.entered:
            self._by_key[key] = (*self._by_key.get(key, ()), entry)
        self.entered[entry] = owner
        if self._was_left or len(self.entered) > 1:
            self.is_used_again = True

    def enter_outside(self, frame: FrameType) -> None:
        """In *frame*, which runs in no block."""
        entry = Entry()
        entry.manager, entry.job, entry.frame_key = self, None, key_of(frame)
        self.enter(entry, None)

    def leave(self, entry: Entry) -> None:
        """May be repeated."""
        self._was_left = True
        self.entered.pop(entry, None)
        key = entry.frame_key
        others = tuple(other for other in self._by_key.get(key, ()) if other is not entry)
        if others:
            self._by_key[key] = others
        else:
            self._by_key.pop(key, None)

    def left_in(self, frame: FrameType, own: Entries | None) -> Entry | None:
        """What is left in *frame*, by a task with the entries *own*; None: by none.

        None if it is left already.
        """
        if not self.is_used_again:
            return next(iter(list(self.entered)), None)
        by_frame = self._by_key.get(key_of(frame), ())
        is_passed_on = _home_of(frame).f_code.co_flags & CO_ASYNC_GENERATOR
        for entry in reversed(by_frame):
            # Only a generator leaves what another task has entered. Another frame had that key, if
            # a wrapper around ``__aenter__`` has returned, and ``__aexit__`` has such a one, too.
            is_mine = entry in own if own else self.entered.get(entry) is None
            if is_mine or is_passed_on or own is None:
                return entry
        return None if own is None else next(self._guesses(frame, own, by_frame), None)

    def _guesses(self, frame: FrameType, own: Entries, by_frame: Entries) -> Iterator[Entry]:
        """A function that has returned has entered it, or a compiled one. The likeliest first."""
        here = {key_of(caller) for caller in frames_up(frame)} - {None}
        mine = [entry for entry in reversed(own) if entry.manager is self]
        yield from (entry for entry in mine if entry.frame_key not in here)
        yield from mine
        entered = list(self.entered)
        others = (entry for entry in reversed(entered) if entry.frame_key not in here)
        yield from (entry for entry in others if self.entered.get(entry) is None)
        yield from reversed(by_frame)
        yield from (entry for entry in reversed(entered) if entry.frame_key not in here)


def key_of(frame: FrameType) -> FrameKey:
    """Tells the frame for which *frame* enters or leaves something, without keeping it.

    None if there is none: a compiled function has no frame, and *frame* is somebody else's. A dead
    frame's address is soon that of another frame, but hardly ever of one with that code.
    """
    home = _home_of(frame)
    code = home.f_code
    return (id(home), id(code)) if code.co_flags & _SUSPENDS else None


def _home_of(frame: FrameType) -> FrameType:
    """*frame*; if it is that of a helper, the one that called this."""
    home = frame
    while _is_helper(home) and home.f_back is not None:
        home = home.f_back
    return home


def _is_helper(frame: FrameType) -> bool:
    code = frame.f_code
    # That of a decorator of contextlib's stays until the exit, as the user's own do.
    is_theirs = code.co_filename == CONTEXTLIB and not code.co_name.endswith("inner")
    return is_theirs or code.co_name in _MANAGE


def frames_up(frame: FrameType | None) -> Iterator[FrameType]:
    """*frame*, its caller, and so on."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def generators_at(frame: FrameType | None) -> frozenset[FrameKey]:
    """The keys of the async generators that run in *frame*, and in those that await it.

    Up to the first coroutine of the user that is no helper: what that enters belongs to no other
    frame.
    """
    keys = set()
    for caller in frames_up(frame):
        if caller.f_code.co_flags & CO_ASYNC_GENERATOR:
            keys.add(key_of(caller))
        elif not _is_helper(caller):
            break
    return frozenset(keys)


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


def leaving(entries: Entries, block: object, frame: FrameType) -> Leaving:
    """In *frame*, where *block* is left, which is entered, and more is on top of it.

    It may be there more than once, if the task has adopted a worker.
    """
    key, generators = key_of(frame), generators_at(frame)

    def likeness(entry: Entry) -> int:
        if key is not None and entry.frame_key == key:
            return 2
        return bool(entry.generators & generators or not (entry.generators or generators))

    entered = [entry for entry in reversed(entries) if entry.manager is block]
    return Leaving(max(entered, key=likeness), generators)


def split(entries: Entries, left: Leaving) -> tuple[Entries, Entries]:
    """The group of entries that must be left with that one; and the rest.

    The group is the entry that is left, of a loop part also the block right below it, and all
    further below that one of the same generators has entered. Empty if it is not in *entries*.
    """
    if left.entry not in entries:
        return (), entries
    low = top = entries.index(left.entry)
    if low > 0 and entries[low].job is None and entries[low - 1].job is not None:
        low -= 1
    below = (at for at in range(low) if left.generators & entries[at].generators)
    low = next(below, low)
    return entries[low : top + 1], entries[:low] + entries[top + 1 :]
