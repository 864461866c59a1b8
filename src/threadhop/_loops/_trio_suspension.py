"""How a trio task leaves its run, and how a thread wakes it again.

All that it rests on is public: the task detaches its coroutine, and is woken by
``TrioToken.run_sync_soon`` and ``reschedule``. One private name tells that the coroutine is really
suspended, and has a stand-in: docs/explanation/private-names.md.

trio tells nobody when a task has suspended itself; only then may a worker have the coroutine. An
*instrument* looks after each step of a task, and hands those over that wait here. So the way out
costs no turn of the loop. Where trio cancels a task that has just suspended itself, it calls the
abort function before the instrument, and that does the same.

The run protects what is called here from Ctrl+C.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from .._driver import links
from .._errors import report
from .._interface import AnyStrand, LoopSuspension
from .._outcome import Outcome
from .._strand import Strand
from .._traps import enter, leave
from ._trio_traps import end_with, lowlevel, run_instead

#: After so many steps of tasks without a departure the instrument that looks for them is removed.
IDLE_STEPS = 1000

#: Whether a task shows the abort function of what it waits for.
_SHOWS_ABORT_FUNCTION = hasattr(lowlevel.Task, "_abort_func")
#: The generators in which a task that leaves is suspended.
_TRAPS = (enter.__code__, leave.__code__)


class Departures:
    """An instrument, there while tasks leave: it hands them over once they are suspended."""

    def __init__(self, strands: dict[Any, Strand]) -> None:
        self._strands = strands
        self._is_on = False
        self._idle_steps = 0

    def switch_on(self) -> None:
        """In a task of trio."""
        self._idle_steps = 0
        if not self._is_on:
            lowlevel.add_instrument(self)
            self._is_on = True

    def after_task_step(self, task: Any) -> None:
        if _SHOWS_ABORT_FUNCTION:
            suspension = task._abort_func
            if type(suspension) is TrioSuspension:
                if not suspension.has_left:
                    suspension.leave()
                return
        elif (suspension := self._waits_in_trap(task)) is not None:
            suspension.leave()
            return
        self._idle_steps += 1
        if self._idle_steps > IDLE_STEPS:
            self._is_on = False
            lowlevel.remove_instrument(self)

    def _waits_in_trap(self, task: Any) -> TrioSuspension | None:
        """The suspension of *task*, if it waits to leave. For a trio that does not show it."""
        strand = self._strands.get(task)
        suspension: Any = None if strand is None else strand.suspension
        if suspension is None or suspension.has_left:
            return None
        innermost: object = None
        for innermost in links(task.coro):  # noqa: B007 - the last one
            pass
        return suspension if getattr(innermost, "gi_code", None) in _TRAPS else None


class TrioSuspension(LoopSuspension):
    """A task that is away: the abort function of what it waits for. One for each departure."""

    __slots__ = ("_strand", "has_left", "hosted", "task")

    def __init__(self, strand: AnyStrand, task: Any) -> None:
        self._strand = strand
        #: Taken by ``deliver``, ``finish`` or ``forget_task``.
        self.task: Any | None = task
        #: Whether the coroutine was handed over.
        self.has_left = False
        #: The ``TrioCall`` that has the task meanwhile: what comes for the task waits for its end.
        self.hosted: Any = None

    def __repr__(self) -> str:
        return repr(self._strand)

    # All in the thread of the run.

    def __call__(self, raise_cancel: Callable[[], Any]) -> Any:
        """trio cancels the task: note it. A queued job is given up, a body comes to its end first.

        The task is suspended here.
        """
        token = self._strand.token
        try:
            if isinstance(token.why, BaseException):  # Rather a new error than one that was raised.
                token.why = None
            self.note_cancel(self._strand, raise_cancel)
        except BaseException:  # trio bears none.
            report("Exception in an abort function of trio")
        if not self.has_left:
            self.leave()
        return lowlevel.Abort.FAILED

    def leave(self) -> None:
        """The coroutine is suspended now: off it goes."""
        strand = self._strand
        self.has_left = True
        try:
            assert self.task is not None, "it is taken after this"
            strand.coro = self.task.coro
            strand.leave_loop()
        except BaseException as exc:
            if not strand.leaving_failed(exc):
                report("Exception while a task left its trio run")

    def resume(self) -> None:
        self._strand.loop.deliver_soon(self)

    def deliver(self) -> None:
        if self.hosted is not None:
            self.hosted.waiting.append(self)
            return
        task, strand = self.task, self._strand
        if task is None:
            return
        strand.coro = None
        strand.arrive(None)
        if strand.departures:
            strand.serve_departures()
        self.task = strand.suspension = None
        lowlevel.reschedule(task)

    # In a worker.

    def finish(self, ended: Outcome) -> None:
        self._strand.loop.deliver_soon(_FinishedTask(self, ended, self._strand))

    def abandon(self) -> None:
        self._strand.abandon()

    def forget_task(self) -> None:
        self.task = None

    def watch_task(self) -> Callable[[], bool]:
        loop: Any = self._strand.loop
        assert self.task is not None, "the task is away"
        return partial(_has_ended, weakref.ref(self.task), loop.strands)

    def count_cancels(self) -> int:
        return 0  # What came while the task was away the token knows.


def _has_ended(task_ref: weakref.ref[Any], strands: dict[Any, Strand]) -> bool:
    task = task_ref()
    return task is None or task not in strands


class _FinishedTask:
    """A task whose coroutine came to its end in a worker, and how."""

    def __init__(self, suspension: TrioSuspension, ended: Outcome, strand: AnyStrand) -> None:
        self._suspension = suspension
        self._ended = ended
        self._strand = strand

    def deliver(self) -> None:
        suspension, strand = self._suspension, self._strand
        if suspension.hosted is not None:
            suspension.hosted.waiting.append(self)
            return
        task, suspension.task = suspension.task, None
        strand.suspension = strand.job = None
        strand.serve_departures()
        if task is not None:
            # trio takes the outcome from the coroutine of the task, so it gets another one.
            run_instead(task, end_with(self._ended))

    def abandon(self) -> None:
        """A warning has said that the task ended in the block."""
