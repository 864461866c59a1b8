"""A worker thread that is reserved for one task, from the entry of a block to its exit.

A seat is booked by submitting it to the executor as a job. It may happen that the job is never
run, so the booking ends in one of several ways, each in a thread of its own:

- a worker runs the job                        (the worker)
- the task is cancelled while the job waits    (the loop thread)
- the executor drops the job                   (whoever shuts it down, or a worker)
- ``submit`` raises, or runs the job inline    (the thread that the task is leaving)

They may all happen at once. A lock is the claim on the booking: whoever acquires it first acts,
and the others see that they came too late and do nothing. It is never released.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident
from concurrent.futures import Executor, Future
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from . import _parking
from ._driver import where_suspended
from ._errors import DROPPED, INLINE, NOT_RUN, PICKLED
from ._executors import book
from ._whereabouts import here

if TYPE_CHECKING:
    from ._strand import Strand

#: Seconds after which a parked worker looks whether its loop is still there.
POLL = 1.0


class Seat:
    """One booking of one worker of *executor*, and the job that it runs."""

    # As in a strand: what many of them need at once is in slots, the rest in the ``__dict__``.
    __slots__ = ("__dict__", "_claim", "_code", "_instruction", "executor", "strand")

    #: Where the task goes if the booking fails; None is the loop.
    _origin: Seat | None = None
    #: The thread that submits the job to an executor that might run it right there.
    _submitter = 0
    #: Closed while the worker is parked; opening it hands the task over. Made before the worker
    #: lets go of the task, so whoever has the task finds it.
    _gate: Any = None
    #: Where the task is while the worker is parked; None is the loop.
    _towards: Executor | None = None
    #: Whether the parked worker has given up. Written by it before it looks at the gate for the
    #: last time, read after the gate was opened.
    _vacant = False

    def __init__(self, executor: Executor, strand: Strand, origin: Seat | None) -> None:
        self.executor = executor
        #: None when the seat has no more to do with the task: the executor may keep the job for
        #: long. Written by the winner of a claim that ends the booking, and by who abandons it.
        self.strand: Strand | None = strand
        self._claim = allocate_lock()
        #: Where the block stands: cheaper to keep than its line, which is rarely wanted.
        self._code: CodeType | None = None
        self._instruction = 0
        if origin is not None:
            self._origin = origin

    # In the coroutine.

    def note_line(self, frame: FrameType) -> None:
        """The block that booked it begins there."""
        if self._code is None:
            self._code = frame.f_code
            self._instruction = frame.f_lasti

    # In the thread that the task is leaving.

    def book(self) -> None:
        """Ask the executor for a worker. Whatever goes wrong is told to the task."""
        strand = self.strand
        assert strand is not None, "a seat is booked once"
        strand.booking = self
        try:
            book(self)
        except BaseException as exc:
            # An executor may raise although a worker has the job already: then the task is on
            # its way, and what we know of the error is not for it.
            if not self.fail(exc) and not isinstance(exc, Exception):
                raise
        # A cancel may have come before it could see the booking. The loop thread writes
        # `cancelled`, then reads `booking`; we did it the other way round, so one of the two
        # sees the other, and the claim decides between them. (The locks of the executor order our
        # write and our read on builds without a GIL, the one in cancel() those of the loop.)
        if strand.cancelled is not None:
            self.fail(None)

    def submit(self) -> None:
        self._submitter = get_ident()
        future: Future[None] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            future.add_done_callback(self.is_done)

    # In any thread.

    def fail(self, error: BaseException | str | None) -> bool:
        """End the booking, unless a worker or somebody else was faster.

        The task goes on where it came from, with *error*; None if it was cancelled.
        """
        if not self._claim.acquire(False):
            return False
        strand, self.strand = self.strand, None
        assert strand is not None, "only the winner of the claim takes the strand"
        strand.failure = error
        strand.booking = None
        strand.resume_at(self._origin)
        return True

    def is_done(self, future: Future[None]) -> None:
        """The executor has finished with the job; perhaps without ever running it.

        It may call this under its own lock, so nothing here calls the executor.
        """
        if self._claim.locked():  # The usual case. Not a decision: fail() takes that.
            return
        if future.cancelled():
            self.fail(DROPPED)
        else:
            self.fail(future.exception() or NOT_RUN)

    # In the worker.

    def __call__(self) -> None:
        """The job: drive the task for as long as it has this seat."""
        if self._submitter == get_ident():
            self.fail(INLINE)
            return
        if not self._claim.acquire(False):
            return
        strand = self.strand
        assert strand is not None, "only the winner of the claim takes the strand"
        strand.booking = None
        if self._origin is not None:
            self._origin = None
        if strand.home_is_closed():
            strand.lose()
            return
        # An executor that helps out while it waits may run a job inside another one.
        outer, here.seat = here.seat, self
        # Hooks are a matter of the thread. Without the loop's own, an async generator that is
        # first iterated in the body would never be finalized.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*strand.asyncgen_hooks)
        try:
            while strand.drive_in_worker(self) and self._park(strand):
                pass
        finally:
            sys.set_asyncgen_hooks(*hooks)
            here.seat = outer

    def close_gate(self, towards: Executor | None) -> None:
        """Get ready to be parked while the task is away on the loop, or on a worker of *towards*.

        Called while the task is still here.
        """
        self._towards = towards
        if self._gate is None:
            self._gate = allocate_lock()
            self._gate.acquire()

    def _park(self, strand: Strand) -> bool:
        """Wait for the task to come back. False if it never will.

        No frame of this thread refers to the coroutine now, so one that is forgotten by everybody
        can still be closed by the garbage collector.
        """
        _parking.leave(self, self._towards)
        try:
            while not self._gate.acquire(timeout=POLL):
                if strand.home_is_gone():
                    self._vacant = True
                    # The task may come just now. One of the two gets the gate.
                    if self._gate.acquire(False):
                        self._vacant = False
                        break
                    if strand.left_for_home(self):
                        strand.lose()
                    return False
        finally:
            _parking.come_back(self)
        return self.strand is not None

    # In the thread that has the task.

    def is_taken(self) -> bool:
        """Whether a worker sits here. (A seat that is not yet booked, nobody else can claim.)"""
        return self._claim.locked()

    def open_gate(self) -> bool:
        """Hand the task over to the parked worker. False if that has gone, and nobody has it."""
        gate = self._gate
        gate.release()
        return not self._vacant or not gate.acquire(False)

    def abandon(self) -> None:
        """Send the worker away, if it is parked: the task will not come back."""
        self.strand = None
        if self._gate is not None:
            self._gate.release()

    # In any thread.

    @property
    def caller(self) -> Strand | None:
        """For whom the worker works."""
        return self.strand

    def where(self) -> str:
        """The ``file:line`` of the block that booked it."""
        code, strand = self._code, self.strand
        if code is None:  # Nobody has entered it yet, so it is where its task waits.
            return where_suspended(None if strand is None else strand.coro)
        line = code.co_firstlineno
        for start, end, number in code.co_lines():
            if start <= self._instruction < end and number is not None:
                line = number
        return f"{code.co_filename}:{line}"

    def __reduce__(self) -> NoReturn:
        raise TypeError(PICKLED.format(executor=type(self.executor).__qualname__))
