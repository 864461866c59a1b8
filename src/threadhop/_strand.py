"""A strand: one task's chain of awaits, and the threads that it runs on.

The whole technique is one act, a *switch*: the coroutine names the place where it wants to go on
and suspends itself, chain and all. Whoever drives it at that moment (the loop's Task, or a worker
in ``drive``) hands it over to that place, which drives it from then on::

    loop    Task.step() ──> yield ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─> Task.step()
                              │ leave_loop                   ▲
    worker                    └──> drive() ──> yield ────────┘ suspension.resume()

A place is the job of a worker (a ``BlockJob``) or None, the loop. The entries are a stack: a block
pushes one with a job; leaving it pops, and goes to the place of the entry below. A worker whose
executor is wanted again is used again, so a task holds one worker of an executor at most.

Push and pop cannot come apart from the move: the coroutine prepares the new stack, and the driver
at the target puts it in place (``arrive``) before it resumes the coroutine. If the switch fails,
the coroutine goes on where it was, with the stack that it had.

Who may touch a strand: the one thread that drives the coroutine. The hand-over (a lock, a queue,
``call_soon_threadsafe``) passes everything on, so no field needs a lock; the few that others touch
say so. After a hand-over a driver does not look at the strand again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from inspect import CO_ASYNC_GENERATOR
from types import FrameType
from typing import Any, NamedTuple, cast

from ._block_job import BlockJob, WorkerSuspension
from ._cancel_token import CancelToken
from ._driver import step, where_suspended
from ._entries import (
    CONTEXTLIB,
    Entry,
    LoopPart,
    generators_at,
    jobs_of,
    key_of,
    leaving,
    split,
)
from ._errors import LOOP_CLOSED, LOOP_STOPPED, NOT_DRIVEN, TASK_LEFT, log
from ._interface import Loop, LoopSuspension, Suspension
from ._outcome import Outcome
from ._traps import enter, leave, need_frames, stay
from ._variables import TaskVariables

#: Win over a cancellation when they leave the body of a block.
OUTRANKS_CANCELLATION = (KeyboardInterrupt, SystemExit)


class Guarded(NamedTuple):
    """A guard that is entered, and what had been cancelled by then."""

    guard: object
    #: How often the task had been cancelled,
    cancels: int
    #: how often while it was away from the loop,
    seen_cancels: int
    #: and whether one of these was still to be raised.
    was_cancelled: bool


class Strand:
    """One task, wherever it is."""

    # Many may wait for a worker at once, so what each one has is in slots. What few of them ever
    # write is in the ``__dict__``, which does not exist before that.
    __slots__ = (
        "__dict__",
        "coro",
        "entering",
        "entries",
        "job",
        "loop",
        "new_entries",
        "suspension",
        "target",
        "token",
        "variables",
        "worker_suspension",
    )

    loop: Loop
    #: What the task waits for on its loop, from its departure to its return; else None.
    suspension: LoopSuspension | None
    #: The job of the worker that drives the coroutine; None: the loop does. Written by the driver.
    job: BlockJob | None
    #: None while the task is on the loop: a parked worker must not keep it alive.
    coro: Coroutine[Any, Any, Any] | None
    #: What is entered, innermost last. Replaced as a whole, as few have more than one.
    entries: tuple[Entry, ...]
    #: Its cancellations. The loop thread writes to it at any time.
    token: CancelToken
    variables: TaskVariables

    # The switch, from the coroutine that wants it to the driver that makes it.
    #: Where to go on,
    target: BlockJob | None
    #: what to enter there; None to leave something,
    entering: object
    #: the stack there; None if the driver at the target has yet to push what is entered,
    new_entries: tuple[Entry, ...] | None
    #: and the way to the target if that is parked.
    worker_suspension: Suspension | None

    #: Whether the workers were sent away while the task was in a block.
    is_abandoned = False
    #: The guards that are entered, in order.
    guards: tuple[Guarded, ...] = ()
    #: For the workers that are parked: whether the task has ended.
    task_has_ended: Callable[[], bool] | None = None

    # Adoption, see there.
    #: Who waits to leave a loop part of this task until it is at home. On the loop thread only.
    departures: tuple[Any, ...] = ()
    #: Whether a warning has said that nobody will leave its loop part.
    is_said_to_be_left = False
    #: Whether it waits to leave a loop part of another task. Nobody drives it then.
    is_departing = False
    #: Why it could not.
    refusal: BaseException | None = None
    #: The call of ``exec_in_eventloop`` that its worker waits for. Written by the worker.
    calling: Any = None

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.token = CancelToken()
        self.variables = TaskVariables()
        self.entries = ()
        self.suspension = self.job = self.coro = None
        self.target = self.entering = self.new_entries = self.worker_suspension = None

    def __repr__(self) -> str:
        place = f"in the block at {self.where()}" if self.entries else "on its way"
        return f"<threadhop: {place}>"

    # In the coroutine.

    def enter(self, manager: object, executor: Executor) -> Coroutine[Any, Any, None]:
        """Return what goes to a worker of *executor* and enters the block there."""
        origin, job = self.job, None
        if self.entries:
            job = self._job_on(executor)
            if job is not None and job is origin:
                self._push(manager, sys._getframe(2))
                return stay()
        self.entering = manager
        self.new_entries = None
        if origin is None:
            waiting: Suspension = self.suspend_on_loop()
            mark: object = waiting
        elif self.token.why is None:
            waiting = WorkerSuspension(origin, self)
            mark = self
        else:
            raise self.cancellation()
        if job is None:
            self.target = BlockJob(executor, self, waiting)
            self.worker_suspension = None
        else:
            self.target = job
            self.worker_suspension = WorkerSuspension(job, self)
        return enter(self, mark)

    def enter_loop_part(self, manager: object, frame: FrameType) -> Coroutine[Any, Any, None]:
        """Return what goes to the loop and enters the loop part there."""
        if self.job is None:
            entry = self._push(manager, frame)
            entry.frame_key = key_of(frame)
            entry.cancels = self.loop.count_cancels()
            if isinstance(manager, LoopPart):
                manager.owners += (self,)
            return stay()
        if self.token.why is not None:
            raise self.cancellation()
        need_frames()
        self.entering = manager
        self.new_entries = None
        self.target = None
        return enter(self, self)

    def leave(
        self, manager: object, error: BaseException | None, frame: FrameType | None = None
    ) -> Coroutine[Any, Any, None]:
        """Return what pops the entry of *manager*, whose body ended with *error*.

        It goes to where that entry was made. May be repeated before it is awaited. *frame* is where
        it is left, if it may be entered more than once.
        """
        entries, here = self.entries, self.job
        if entries[-1].manager is not manager or frame is not None:
            # Left in the wrong order, or a generator of the task is closed within later blocks.
            group, rest = split(entries, manager, leaving(frame or sys._getframe(2)))
            entries = self.entries = rest + group
        target = entries[-2].job if len(entries) > 1 else None
        if here is None and isinstance(manager, LoopPart):
            manager.disown(self)
        if target is here:
            self.entries = entries[:-1]
            job = entries[-1].job
            if job is not here and job is not None and job not in jobs_of(self.entries):
                job.release_worker(self)  # It waits for this task elsewhere.
            return stay()
        self.entering = None
        self.new_entries = entries[:-1]
        self.target = target
        self.worker_suspension = None if target is None else WorkerSuspension(target, self)
        if here is not None:
            return leave(self, self, error)
        if error is not None and self._must_meet_again(error, entries[-1]):
            self.token.why = self.loop.why(error)
        return leave(self, self.suspend_on_loop(), error)

    def suspend_on_loop(self) -> LoopSuspension:
        self.variables.leave_loop()
        self.suspension = suspension = self.loop.suspend(self)
        return suspension

    def _push(self, manager: object, frame: FrameType) -> Entry:
        """Enter something in *frame*, where the task is."""
        entry = Entry()
        entry.manager = manager
        entry.job = self.job
        entry.generators = generators_at(frame)
        self.entries += (entry,)
        return entry

    def _must_meet_again(self, error: BaseException, entry: Entry) -> bool:
        """Whether *error*, which leaves a loop part, is the task's own cancellation.

        Swallowed on the worker, it is raised again at the exit of the block. (One that is swallowed
        within the loop part belongs to the await that raised it: it does not come here.)
        """
        return (
            self.loop.is_cancellation(error)
            and self.token.why is None
            and self.loop.count_cancels() > entry.cancels
        )

    def has_entered(self, manager: object) -> bool:
        entries = self.entries
        if not entries:
            return False
        return entries[-1].manager is manager or any(e.manager is manager for e in entries)

    def _job_on(self, executor: Executor) -> BlockJob | None:
        """The job by which this task holds a worker of *executor* already, parked or not.

        It may have adopted another one. The innermost is the one that it has, if it has one.
        """
        for entry in reversed(self.entries):
            job = entry.job
            if job is not None and job.executor is executor:
                return job
        return None

    # In the coroutine, resumed after a switch.

    def note_arrival(self) -> None:
        """What is entered begins in the frame that awaits the trap. If not, raise why.

        Only now: who has asked for its frame keeps it, and many may wait for a worker.
        """
        frame = sys._getframe(2)
        target, code = self.target, frame.f_code
        if target is not None and target.code is None:
            target.code = code
            target.instruction = frame.f_lasti
        if self.job is not target:
            raise self.why_not_moved()
        entry = self.entries[-1]
        if code.co_flags & CO_ASYNC_GENERATOR or code.co_filename == CONTEXTLIB:
            entry.generators = generators_at(frame)
        if target is None:
            entry.frame_key = key_of(frame)
            if isinstance(entry.manager, LoopPart):
                entry.manager.owners += (self,)
            self.variables.write_back()
            if self.token.why is not None:
                # It came on the way. Raised here, it would run the ``finally`` of the body, which
                # belongs to the worker, on the loop: see ``has_to_turn_back``.
                raise self.cancellation()
            entry.cancels = self.loop.count_cancels()

    def has_to_turn_back(self, error: BaseException) -> bool:
        """Whether the switch was made, and *error* must be raised where the task came from."""
        return self.job is self.target and not isinstance(error, GeneratorExit)

    def turn_back(self, error: BaseException) -> Generator[Any, None, None]:
        """Return what leaves what was just entered, to be awaited by ``yield from``."""
        return cast("Generator[Any, None, None]", self.leave(self.entries[-1].manager, error))

    def why_not_moved(self) -> BaseException:
        """The switch failed; the task goes on where it was."""
        target, token = self.target, self.token
        failure = None if target is None else target.take_failure()
        if self.refusal is not None:
            failure, self.refusal = self.refusal, None
        on_loop = self.job is None
        if on_loop:
            self.variables.stay_on_loop()
        if token.why is not None and not isinstance(failure, OUTRANKS_CANCELLATION):
            error = self.cancellation()
            if on_loop:
                token.why = None
            return error
        if isinstance(failure, BaseException):
            return failure
        job = self.job if self.entering is None else target
        block = "the block" if job is None else f"the block at {job.where()}"
        return RuntimeError(f"{block} cannot go on: {failure or NOT_DRIVEN}")

    def cancellation(self, why: Any = None) -> BaseException:
        """A new error of the task's cancellation, or of *why*."""
        return self.loop.cancellation(self.token.why if why is None else why)

    def raise_cancellation(self, error: BaseException | None) -> None:
        """At the exit of a block that ended with *error*: the task was cancelled meanwhile.

        On the loop this delivers the cancellation. In a worker, at the exit of a block that was
        nested in one of another executor, it stays: swallowed there, it is met again.
        """
        cancellation = self.cancellation()
        if self.job is None:
            self.token.why = None
        same = type(error) is type(cancellation) and error.args == cancellation.args
        if same or isinstance(error, OUTRANKS_CANCELLATION):
            return
        try:
            raise cancellation
        finally:
            # The error refers to this frame, which must not refer to the error.
            del cancellation, error

    def count_cancels(self) -> int:
        """How often the task has been cancelled, and that was not undone."""
        if self.job is None:
            return self.loop.count_cancels()
        assert self.suspension is not None, "a task on a worker is suspended on its loop"
        return self.suspension.count_cancels()

    # In the thread that drives the coroutine, which is suspended by a trap.

    def leave_loop(self) -> None:
        """In the loop thread: hand the task over to the place where it wants to go."""
        target: Any = self.target
        suspension: Any = self.suspension
        if self.entering is not None and self.token.why is not None:
            # Cancelled before it could leave. A worker might be fast enough to begin the body.
            suspension.resume()
        elif self.worker_suspension is not None:
            self.worker_suspension.resume()
        else:
            target.request_worker()

    def leaving_failed(self, error: BaseException) -> bool:
        """In the loop thread: *error* came out of ``leave_loop``, perhaps Ctrl+C.

        True if the task is told. If not, it is on its way, and *error* is for the loop.
        """
        target, worker_suspension = self.target, self.worker_suspension
        if target is None:
            return False
        if worker_suspension is None:
            return target.fail(error)
        # Back to a worker that waits: the rest of the body belongs there, whatever has happened.
        worker_suspension.resume()
        return False

    def arrive(self, job: BlockJob | None) -> None:
        """By the driver at *job*, before it resumes the coroutine: the move is made.

        Nothing in it can fail half-way, and it may be repeated. If the switch failed, *job* is
        where the task was, and nothing is pushed or popped.
        """
        if self.target is job:
            entries = self.new_entries
            if entries is None:
                entry = Entry()
                entry.manager = self.entering
                entry.job = job
                self.new_entries = entries = (*self.entries, entry)
            self.entries = entries
        self.job = job

    def drive(self, job: BlockJob) -> bool:
        """In the worker: resume the task, until it leaves. True if the worker gets it back."""
        variables = self.variables
        problem = variables.load()
        self.arrive(job)
        # (No asserts here: the coroutine of a task that is away is known, the Context was made when
        # the variables were loaded for the first time.)
        coro: Any = self.coro
        context: Any = variables.worker_context
        ended = context.run(step, coro, self, problem)
        del coro
        if ended is not None:
            self._end_in_worker(ended)
            return False
        target, entries = self.target, self.new_entries
        waits = entries is None  # It enters something, and comes back after that.
        if entries:
            waits = job in jobs_of(entries)
        if waits:
            job.prepare_to_park(None if target is None else target.executor)
        elif job.holders is not None:
            job.holders.discard(self)
        # From here on the task is not ours: the next driver may have it before the call returns.
        if target is None:
            suspension: Any = self.suspension
            self.coro = None
            if waits:
                self.task_has_ended = suspension.watch_task()
            suspension.resume()
        elif self.worker_suspension is not None:
            self.worker_suspension.resume()
        else:
            target.request_worker()
        return waits

    def _end_in_worker(self, ended: Outcome) -> None:
        """The coroutine came to its end, and was still inside of blocks."""
        suspension = self.suspension
        assert suspension is not None, "the task waits on its loop"
        log.warning(
            "a task ended inside the block at %s, and is finished from there. Did an async "
            "generator yield inside of it, and was it not closed? Iterate it under "
            "contextlib.aclosing()",
            self.where(),
        )
        self._release_workers()
        suspension.finish(ended)

    def run_on_loop(self, func: Callable[[], Any]) -> Any:
        """In the worker: call *func* on the loop, and wait."""
        return self.loop.run(self, func, self.variables.worker_tokens)

    # For adoption, see there.

    def is_on_loop(self) -> bool:
        """In the loop thread: whether the task runs, or waits, on the loop."""
        return self.is_departing or (self.coro is None and self.job is None)

    def serve_departures(self) -> None:
        """In the loop thread, by the driver: the task is at home, and does not go on yet."""
        while self.departures:
            self.departures[0].deliver()
            self.departures = self.departures[1:]

    # In any thread.

    def is_gone(self) -> bool:
        """Whether the task can never come back from the loop any more, nor anybody in its place."""
        has_ended = self.task_has_ended
        return self.loop.is_gone() or (
            has_ended is not None
            and has_ended()
            and not any(
                isinstance(entry.manager, LoopPart) and entry.manager.manager() is not None
                for entry in self.entries
            )
        )

    def is_in_loop_part_of(self, job: BlockJob) -> bool:
        """In a parked worker: whether the task went from *job* to the loop."""
        entries = self.entries
        innermost = next((e.job for e in reversed(entries) if e.job is not None), None)
        return bool(entries) and entries[-1].job is None and innermost is job

    def where(self) -> str:
        """The ``file:line`` of the innermost block."""
        for entry in reversed(self.entries):
            if entry.job is not None:
                return entry.job.where()
        return where_suspended(self.coro)

    def worker_is_gone(self) -> None:
        """By the one that has the task: the parked worker that should go on with it has ended."""
        if self.job is None and self.suspension is not None:
            self.suspension.resume()  # Raised there: see ``why_not_moved``.
        else:
            self.abandon()

    def abandon(self) -> None:
        """The task will never go on: send its workers away, and say so."""
        if self.loop.is_closed():
            what = LOOP_CLOSED
        elif self.task_has_ended is not None and self.task_has_ended():
            what = TASK_LEFT
        else:
            what = LOOP_STOPPED
        if not self.is_said_to_be_left:
            log.warning(what, self.where())
        self._release_workers()
        suspension, self.suspension = self.suspension, None
        if suspension is not None:
            suspension.forget_task()

    def _release_workers(self) -> None:
        """Let go of the coroutine and of all workers: this task has no way back to them."""
        self.is_abandoned = True
        jobs = {entry.job for entry in self.entries}
        for entry in self.entries:
            if isinstance(entry.manager, LoopPart):
                entry.manager.disown(self)
        self.entries = ()
        self.coro = None
        self.variables.forget()
        for job in jobs:
            if job is not None:
                job.release_worker(self)
