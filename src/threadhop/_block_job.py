"""The job of a block: one worker thread, reserved for one task until the block ends.

The task asks its executor for a worker by submitting the job. An executor may never run it, so a
request ends in one of several ways, each in a thread of its own:

- a worker runs the job                        (the worker)
- the task is cancelled while the job waits    (the loop thread)
- the executor drops the job                   (the thread that shuts it down, or a worker)
- ``submit`` raises, or runs the job inline    (the thread that the task is leaving)

All may come at the same time. Each claims the job by one ``setdefault``, a single step on every
build, and the first one decides. A worker that has the claim drives the task. After a failure the
task goes on where it came from: every thread that sees the failure may resume it, for a suspension
is resumed at most once. So ``fail`` has no moment at which an interruption would lose the task: the
next thread that calls it finishes what the interrupted one began.

An executor that neither runs the job nor finishes it keeps the task waiting, until it is cancelled.
"""

from __future__ import annotations

import queue
import sys
from _thread import get_ident
from concurrent.futures import Executor, Future
from time import monotonic
from types import CodeType
from typing import NoReturn

from . import _away, _patience
from ._callables import name_of_executor
from ._driver import where_suspended
from ._errors import DROPPED, INLINE, NOT_RUN, PICKLED, STRAY, WORKER_GONE, report
from ._executors import submit, withdraw
from ._interface import AnyStrand, Suspension, WorkerSuspension
from ._job import current, name_of_thread
from ._thread_loop import withdraw_thread_event_loop

#: Seconds after which a parked worker looks whether its loop is still there.
POLL = 1.0

#: At most this many exceptions from outside does a parked worker bear.
STRAYS = 100

#: The claim of ``fail`` if the task was cancelled.
_CANCELLED = "the task was cancelled"


class BlockJob:
    """One request for one worker of *executor*, and the job that it runs."""

    # As in a strand: what many of them need at once is in slots, the rest in the ``__dict__``.
    __slots__ = (
        "__dict__",
        "_suspension",
        "executor",
        "since",
        "strand",
    )

    #: What ``hops()`` calls it.
    what = "block"

    #: The end of the request: the ident of the worker's thread, or an error or its text.
    #: Decided once, by ``setdefault``: a job that waits has no ``__dict__`` yet. (``take_failure``
    #: lets go of an error.)
    claimed: int | BaseException | str | None = None
    #: Where the block stands: cheaper to keep than its line, which is rarely wanted. Written by the
    #: coroutine when it is there.
    code: CodeType | None = None
    instruction = 0
    #: The thread that submits the job to an executor that might run it right there.
    _submitter = 0
    #: The tasks that want to go on in this worker while it is parked; None releases it. Made by the
    #: worker before it lets go of the task: every thread that has the task finds it.
    _inbox: Inbox | None = None
    #: Raised by another thread in the parked worker (``PyThreadState_SetAsyncExc``): the body gets
    #: it when it goes on; without a body it is logged. Touched by the worker.
    stray: BaseException | None = None
    #: Where the task is while the worker is parked; None is the loop.
    _towards: Executor | None = None
    #: When the worker parked. Written by it.
    parked_at = 0.0
    #: Whether the worker has said, since then, that the loop does not answer.
    has_complained = False
    #: Whether the parked worker has given up. Written by it before it looks into the inbox for the
    #: last time, read by ``unpark`` after it put something there.
    has_given_up = False
    #: The tasks that need this worker, if one of them has adopted it; see ``_adoption``. Made and
    #: added to on the loop thread; each task is taken out by the thread that has it. The steps of a
    #: set are atomic.
    holders: set[AnyStrand] | None = None

    def __init__(self, executor: Executor, strand: AnyStrand, suspension: Suspension) -> None:
        self.executor = executor
        #: 0 before it is requested. Then when that was; then when the worker began. By
        #: ``time.monotonic()``. Written by the thread that the task leaves, and by the worker.
        self.since = 0.0
        #: None when the job has no more to do with the task: the executor may keep the job for
        #: long. Written by the thread that ends the request, or that releases the worker.
        self.strand: AnyStrand | None = strand
        #: Where the task waits, and goes on if the request fails.
        self._suspension: Suspension | None = suspension

    # In the thread that the task is leaving.

    def request_worker(self) -> None:
        """Submit the job. The task hears of whatever goes wrong."""
        strand = self.strand
        assert strand is not None, "a worker is requested once"
        self.since = monotonic()
        try:
            submit(self)
        except BaseException as exc:
            # An executor may raise although a worker has the job already: then the task is on
            # its way, and the error is not for it.
            if not self.fail(exc) and not isinstance(exc, Exception):
                raise
        # A cancel may have come before it could see the job, see ``_cancel_token``.
        if strand.token.why is not None:
            self.fail(None)

    def call_submit(self) -> None:
        self._submitter = get_ident()
        future: Future[None] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            future.add_done_callback(self.is_done)

    # In any thread.

    def fail(self, error: BaseException | str | None) -> bool:
        """End the request, unless a worker was faster. True if this is what the task hears of.

        The task goes on where it came from, with *error*; None if it was cancelled. May be
        repeated, and be called by several threads at once.
        """
        failure = _CANCELLED if error is None else error
        first = self.__dict__.setdefault("claimed", failure)
        if type(first) is int:
            return False
        withdraw(self)
        suspension = self._suspension
        if suspension is not None:
            suspension.resume()
        self._suspension = self.strand = None
        return first is failure

    def is_done(self, future: Future[None]) -> None:
        """The executor has finished with the job; perhaps without ever running it.

        The executor may call this under its own lock, so nothing here calls the executor.
        """
        if self.claimed is not None:  # The usual case. Not a decision: fail() takes that.
            return
        if future.cancelled():
            self.fail(DROPPED)
        else:
            self.fail(future.exception() or NOT_RUN)

    def is_here(self) -> bool:
        """Whether the task is here, or on its way. Its worker may not know that it has left."""
        strand = self.strand
        return strand is not None and (strand.job is self or strand.target is self)

    def is_over(self) -> bool:
        """Whether the task has left the block: nothing comes back to its worker."""
        strand = self.strand
        return not self.holders and (
            strand is None
            or not (self.is_here() or any(entry.job is self for entry in strand.entries))
        )

    # In the coroutine, which did not get there.

    def take_failure(self) -> BaseException | str | None:
        """Why the task cannot go on here; None if it was cancelled, or if nobody knows."""
        if self.has_given_up:
            return WORKER_GONE
        failure = self.claimed
        if failure is _CANCELLED or failure is None or isinstance(failure, int):
            return None
        self.claimed = _CANCELLED  # The executor may keep the job for long.
        return failure

    # In the worker.

    def __call__(self) -> None:
        """The job: drive the task for as long as it has this worker."""
        thread = get_ident()
        if self._submitter == thread:
            self.fail(INLINE)
            return
        if self.claimed is not None or self.__dict__.setdefault("claimed", thread) is not thread:
            return
        strand = self.strand
        assert strand is not None, "only a failure takes the strand away"
        self.since = monotonic()
        if strand.loop.is_closed():
            strand.abandon()
            return
        # An executor that helps out while it waits may run a job inside another one.
        slot = current.slot
        outer, slot.job = slot.job, self
        if slot.has_loop:
            withdraw_thread_event_loop()
            slot.has_loop = False
        # Hooks are a matter of the thread. Without the loop's own, an async generator that is
        # first iterated in the body would never be finalized.
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(*strand.loop.asyncgen_hooks)
        try:
            while True:
                if not (strand.drive(self) or self.holders):
                    break
                next_one = self._park(strand)
                if next_one is None:
                    self._drop_stray()
                    break
                self.strand = strand = next_one
        finally:
            sys.set_asyncgen_hooks(*hooks)
            slot.job = outer

    def prepare_to_park(self, towards: Executor | None) -> None:
        """Get ready to wait while the task is away on the loop, or on a worker of *towards*.

        Called while the task is still here.
        """
        self._towards = towards
        if self._inbox is None:
            self._inbox = queue.SimpleQueue()

    def _park(self, strand: AnyStrand) -> AnyStrand | None:
        """Wait for a task that wants to go on here. None if there never will be one.

        No frame of this thread refers to the coroutine now: the garbage collector may close it.
        """
        inbox = self._inbox
        assert inbox is not None, "made before the task left"
        self.parked_at, self.has_complained = monotonic(), False
        arrived: list[WorkerSuspension | None] = []
        taker = object()  # Another one for each parking.
        is_away = False
        for _ in range(STRAYS):
            try:  # Each step may be repeated.
                if not is_away:
                    _away.mark_away(self, self._towards)
                    is_away = True
                found = self._wait(strand, inbox, arrived, taker)
                _away.mark_back(self)
                return found
            except BaseException as exc:
                self.stray = exc  # From outside: the task must find its worker all the same.
        raise self.stray  # type: ignore[misc]

    def _drop_stray(self) -> None:
        """No body will get it."""
        stray, self.stray = self.stray, None
        if stray is not None:
            try:
                raise stray
            except BaseException:
                report(STRAY.format(where=self.where()))
            finally:
                del stray  # Its traceback has this frame.

    def _wait(
        self,
        strand: AnyStrand,
        inbox: Inbox,
        arrived: list[WorkerSuspension | None],
        taker: object,
    ) -> AnyStrand | None:
        """Interrupted by an exception, it may be repeated, with the same arguments."""
        while True:
            if not arrived:
                try:
                    # Taken out and kept in one step of C: an exception that was raised here
                    # meanwhile comes after that.
                    arrived.extend(map(inbox.get, (True,), (POLL,)))
                except queue.Empty:
                    if all(holder.is_gone() for holder in self._tasks(strand)):
                        return self._give_up(strand, inbox, taker)
                    self._complain(strand)
                    continue
            suspension = arrived[0]
            if suspension is None:
                if not self.holders:
                    return None
            elif (found := suspension.take(taker)) is not None:
                return found
            arrived.clear()

    def _complain(self, strand: AnyStrand) -> None:
        """Say so, once, if the loop has not looked at the task that was posted to it for long."""
        seconds = monotonic() - self.parked_at
        if self._towards is not None or self.has_complained or seconds < _patience.LIMIT:
            return
        # Until the loop has looked, the task is where it was. (So its coroutine is suspended.)
        if strand.job is self:
            self.has_complained = True
            asked_at = where_suspended(strand.loop.coroutine_of(strand))
            _patience.warn_no_answer(strand.loop, asked_at, seconds)

    def _tasks(self, strand: AnyStrand) -> list[AnyStrand]:
        """The tasks that may come back here."""
        return list(self.holders or (strand,))

    def _give_up(self, strand: AnyStrand, inbox: Inbox, taker: object) -> AnyStrand | None:
        """Every task is gone: park no more. Returns one that came just now."""
        self.has_given_up = True
        # ``unpark`` puts, then reads that; this wrote it, then looks. So one of the two sees the
        # other; if both do, the one that takes the task has it.
        try:
            suspension = inbox.get_nowait()
        except queue.Empty:
            for holder in self._tasks(strand):
                if holder.is_in_loop_part_of(self):
                    holder.abandon()
            return None
        found = None if suspension is None else suspension.take(taker)
        if found is not None:
            self.has_given_up = False
        return found

    # In the thread that has the task.

    def unpark(self, suspension: WorkerSuspension) -> None:
        """Have the parked worker go on with the task."""
        assert self._inbox is not None, "made before the worker parked"
        self._inbox.put(suspension)
        if self.has_given_up and (strand := suspension.take(object())) is not None:
            strand.worker_is_gone()

    def release_worker(self, strand: AnyStrand) -> None:
        """Send the worker away, if it is parked: *strand* will not come back, and no other task."""
        if self.holders is not None:
            self.holders.discard(strand)
        if not self.holders:
            self.strand = None
        if self._inbox is not None:
            self._inbox.put(None)

    # In any thread.

    @property
    def caller(self) -> AnyStrand | None:
        """The task for which the worker works."""
        return self.strand

    def where(self) -> str:
        """The ``file:line`` of the block that asked for the worker."""
        code, strand = self.code, self.strand
        if code is None:  # The body has not begun, so the block stands where its task waits.
            return where_suspended(None if strand is None else strand.coro)
        line = code.co_firstlineno
        for start, end, number in code.co_lines():
            if start <= self.instruction < end and number is not None:
                line = number
        return f"{code.co_filename}:{line}"

    def title(self) -> str:
        """The name of the task."""
        strand = self.strand
        return "a task" if strand is None else strand.loop.name_of(strand)

    def __repr__(self) -> str:
        """As the ``repr`` of the task shows it."""
        now = monotonic()
        seconds = f"for {now - (self.since or now):.1f} s"
        on = name_of_executor(self.executor)
        thread = self.claimed
        if type(thread) is not int:
            return f"the block at {self.where()}, waits {seconds} for a worker of {on}"
        return f"the block at {self.where()}, {seconds} on {name_of_thread(thread)} of {on}"

    def __reduce__(self) -> NoReturn:
        raise TypeError(PICKLED.format(executor=type(self.executor).__qualname__))


Inbox = queue.SimpleQueue["WorkerSuspension | None"]
