"""Adoption: a task that leaves a loop part which another task has entered.

An async generator that yields in a loop part of its block is suspended there, and its worker waits.
Another task than the *owner*, which entered, may go on with the generator: the loop's hook closes
it after a ``break``, a framework closes it in a task of its own, or asks for each item in one. The
task that leaves the loop part, the *leaver*, takes the generator's entries over. The worker that
waits then drives the leaver through the rest of the body and every ``finally``, and the leaver
returns to the loop at the end of the block. The owner has these entries no more.

Entries move in a callback of the loop, when the leaver is suspended and the owner is on the loop.
So no thread drives either of them meanwhile, and no field needs a lock. The leaver waits for an
owner that is away: back on the loop the owner serves its departures before it goes on. Two tasks
may then need one worker; it drives the one that comes.

A coroutine that the garbage collector closes must not suspend. So a GeneratorExit moves a task only
if the task awaits: every coroutine from here to its outermost one stands at an await. Otherwise the
worker is let go, with a warning.
"""

from __future__ import annotations

import dis
import gc
import inspect
from collections.abc import Coroutine
from types import FrameType
from typing import Any

from ._entries import Entries, Leaving, LoopPart, frames_up, innermost_job, jobs_of, split
from ._errors import (
    LEFT_BY_COLLECTOR,
    LEFT_ELSEWHERE,
    NOT_ENTERED,
    WAITS_FOR_LEAVER,
    WORKER_GONE,
    warn,
)
from ._interface import Suspension, WorkerSuspension
from ._loops import current_coroutine, current_strand
from ._strand import Strand
from ._traps import leave

_COROUTINES = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_ITERABLE_COROUTINE
_AWAITS = {dis.opmap[name] for name in ("SEND", "YIELD_FROM") if name in dis.opmap}
_YIELD, _RESUME = dis.opmap["YIELD_VALUE"], dis.opmap.get("RESUME")  # PyPy has no RESUME,
_CACHE = dis.opmap.get("CACHE")  # and no CACHE.


def leave_for_owner(
    owner: Strand, left: Leaving, error: BaseException | None
) -> Coroutine[Any, Any, None]:
    """Outside of the strand of *owner*, which has entered that: leave it with *error*."""
    try:
        leaver: Strand | None = current_strand()
    except RuntimeError:
        leaver = None
    if leaver is None or leaver.loop is not owner.loop:
        text = LEFT_ELSEWHERE.format(where=owner.where())
        warn(text)
        _Departure(owner, left).resume()
        raise refused(text)
    return _leave_for(leaver, _Departure(owner, left, leaver), owner, error)


def let_go(owner: Strand, left: Leaving) -> None:
    """In any thread: the garbage collector closes what *owner* has entered."""
    if not owner.loop.is_gone():  # Else its worker says that it is lost.
        if not owner.is_said_to_be_left:  # Once for all that it closes in one go.
            owner.is_said_to_be_left = True
            warn(LEFT_BY_COLLECTOR, owner.where())
        _Departure(owner, left).resume()


def refused(text: str) -> RuntimeError:
    """An error that passes the exits of the blocks around: they are not entered, either."""
    error = RuntimeError(text)
    error._threadhop_refused = True  # type: ignore[attr-defined]
    return error


def is_awaited(frame: FrameType) -> bool:
    """Whether a task waits for what happens in *frame*, so that it may be suspended there.

    If not, the garbage collector closes a coroutine that everybody forgot, in any thread, in the
    middle of anything: some frame further up the stack does not stand at an await.
    """
    coro = current_coroutine()
    if coro is None:
        return False
    outermost = _frame_of(coro)  # None: a task made of something compiled.
    for inner in frames_up(frame):
        if inner is outermost:
            return True
        outer = inner.f_back
        if (
            outer is not None
            and outer.f_code.co_flags & _COROUTINES
            and not _stands_at_await(outer)
        ):
            return False
    return outermost is None


def _frame_of(coro: Any) -> FrameType | None:
    """The outermost frame of a task made of *coro*, perhaps of ``agen.aclose()`` itself.

    A task that starts eagerly has frames of another one further up, which stand at a call.
    """
    frame: FrameType | None = getattr(coro, "cr_frame", None)
    if frame is None:  # It shows the generator to the garbage collector only.
        frame = next((r.ag_frame for r in gc.get_referents(coro) if hasattr(r, "ag_frame")), None)
    return frame


def _stands_at_await(frame: FrameType) -> bool:
    """Whether *frame* runs what it awaits, also if an error was thrown in."""
    code, at = frame.f_code.co_code, frame.f_lasti
    while code[at] == _CACHE:  # Of the instruction: on 3.12 an await stands within its SEND.
        at -= 2
    if code[at] in _AWAITS:
        return True
    if code[at] == _YIELD:
        at += 2
    return code[at] == _RESUME and code[at + 1] & 3 >= 2


class _Departure(Suspension):
    """The leaver waits to go on in the worker of the owner.

    Without a *leaver* no task could go on there: then the worker is let go.
    """

    __slots__ = ("_is_over", "_leaver", "_left", "_manager", "_owner", "_way")

    def __init__(self, owner: Strand, left: Leaving, leaver: Strand | None = None) -> None:
        self._owner = owner
        self._left = left
        part: Any = left.entry.manager
        #: As long as it is there, the worker waits for the leaver.
        self._manager = None if leaver is None else part.manager()
        self._leaver = leaver
        #: Resumes the leaver; None until that is decided.
        self._way: Suspension | None = None
        self._is_over = False

    def resume(self) -> None:
        """In the thread that has the leaver, which is suspended; without one, in any thread."""
        if self._leaver is not None:
            self._leaver.is_departing = True
        self._owner.loop.deliver_soon(self)

    def deliver(self) -> None:
        """In a callback of the loop. May be repeated."""
        if self._is_over:
            return
        owner, leaver = self._owner, self._leaver
        if self._way is None:
            if not owner.is_on_loop():
                self._wait()
                return
            group, rest = split(owner.entries, self._left)
            if leaver is None:
                _let_go(owner, group, rest)
            elif group:
                self._way = _adopt(leaver, owner, group, rest)
            else:
                self._way = _refuse(leaver, refused(NOT_ENTERED))
        self._go_on()
        self._is_over = True
        self._manager = None

    def _go_on(self) -> None:
        if self._leaver is not None:
            self._leaver.is_departing = False
        if self._way is not None:
            self._way.resume()

    def _wait(self) -> None:
        """The owner is away: wait until it is on the loop, unless it waits there for the leaver."""
        owner, leaver = self._owner, self._leaver
        calling = owner.calling
        if leaver is not None and calling is not None and calling.is_made_by(leaver):
            warn(WAITS_FOR_LEAVER, owner.where())
            self._way = _refuse(leaver, refused(WAITS_FOR_LEAVER % owner.where()))
            self._go_on()
            # The rest of the body runs on the loop, so its worker is not needed any more.
            self._leaver = self._way = None
        if self not in owner.departures:
            owner.departures += (self,)

    def abandon(self) -> None:
        """In any thread: the loop is closed. The worker finds out by itself."""


def _let_go(owner: Strand, group: Entries, rest: Entries) -> None:
    """On the loop: no task will leave *group*. Its workers are free."""
    owner.entries = rest
    owner.is_said_to_be_left = False
    for entry in group:
        if isinstance(entry.manager, LoopPart):
            entry.manager.leave(entry)
    for job in jobs_of(group) - jobs_of(rest):
        job.release_worker(owner)


def _leave_for(
    leaver: Strand, departure: Suspension, owner: Strand, error: BaseException | None
) -> Coroutine[Any, Any, None]:
    """In the coroutine of *leaver*: return what leaves a loop part of *owner*, by *departure*."""
    if not owner.entries:  # Its workers were sent away in the meantime.
        raise RuntimeError(WORKER_GONE)
    leaver.entering = None
    leaver.new_entries = leaver.entries
    # A guess: the target is known when the entries have moved. None if the block around the loop
    # part is left already: what comes after the part is on the loop, too.
    leaver.target = innermost_job(owner.entries) or leaver.job
    leaver.worker_suspension = departure
    if leaver.job is not None:
        return leave(leaver, leaver, error)
    if (
        error is not None
        and leaver.token.why is None
        and leaver.loop.is_cancellation(error)
        # (Nobody knows how often it had been cancelled when it came into the loop part.)
        and leaver.loop.count_cancels()
    ):
        leaver.token.why = leaver.loop.why(error)
    return leave(leaver, leaver.suspend_on_loop(), error)


def _adopt(leaver: Strand, owner: Strand, group: Entries, rest: Entries) -> Suspension:
    """On the loop: *leaver* takes over *group* from *owner*. Return how it goes on."""
    entries = (*leaver.entries, *group)
    target = entries[-2].job if len(entries) > 1 else None
    way = leaver.suspension if target is None else WorkerSuspension(target, leaver)
    assert way is not None, "a task that waits is suspended"
    suspension = leaver.suspension
    assert suspension is not None, "a task that waits is suspended"
    # One that it has still to raise comes within the loop part around, if there is one.
    cancels = suspension.count_cancels() - (leaver.token.why is not None)
    theirs = jobs_of(rest)
    for job in jobs_of(group):
        if job.holders is None:
            job.holders = {owner}
        job.holders.add(leaver)
        if job not in theirs:
            job.holders.discard(owner)
    for entry in group:
        if isinstance(entry.manager, LoopPart):
            if entry is group[-1]:  # The leaver is just leaving it.
                entry.manager.leave(entry)
            else:
                entry.manager.enter(entry, leaver)
                entry.cancels = cancels
    owner.token.hand_over(jobs_of(group), rest, leaver)
    leaver.task_has_ended = suspension.watch_task()
    # In one step: nothing comes in between.
    (
        (owner.entries, owner.new_entries),
        (leaver.entries, leaver.new_entries, leaver.target, leaver.worker_suspension),
    ) = ((rest, rest), (entries, entries[:-1], target, way))
    return way


def _refuse(leaver: Strand, error: BaseException) -> Suspension:
    """On the loop: *leaver* is to go on where it came from, with *error*. Return how."""
    job = leaver.job
    if leaver.target is not None:  # Else it needs no worker.
        leaver.refusal = error
    way = leaver.suspension if job is None else WorkerSuspension(job, leaver)
    assert way is not None, "a task that waits is suspended"
    if job is not None:
        leaver.target = None
    return way
