"""A strand: one task's chain of awaits, and the threads that it runs on.

The whole technique is one act, a *switch*: the coroutine names the place where it wants to go on
and suspends itself. Its driver at that moment (the loop's Task, or a worker in ``drive``) hands it
over to that place, which drives it from then on::

    loop    Task.step() ──> yield ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─> Task.step()
                              │ leave_loop                   ▲
    worker                    └──> drive() ──> yield ────────┘ suspension.resume()

A place is the job of a worker (a ``BlockJob``) or None, the loop. The entries are a stack: a block
pushes one with a job; leaving it pops, and goes to the place of the entry below. A block whose
executor is in the stack already uses the worker that is there, so a task holds one worker of an
executor at most.

Push and pop cannot come apart from the move: the coroutine prepares the new stack, and the driver
at the target puts it in place (``arrive``) before it resumes the coroutine. If the switch fails,
the coroutine goes on where it was, with the stack that it had (``_traps``).

One thread touches a strand: the one that drives the coroutine. The hand-over (a lock, a queue,
``call_soon_threadsafe``) passes everything on, so no field needs a lock; a field that other threads
touch says so. After a hand-over a driver does not look at the strand again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from types import FrameType
from typing import Any, cast

from ._block_job import BlockJob
from ._cancel_token import CancelToken
from ._driver import step, where_suspended
from ._entries import (
    Entries,
    Entry,
    Leaving,
    LoopPart,
    entered_in,
    innermost_job,
    job_on,
    jobs_of,
    leaving,
    may_be_left,
    split,
)
from ._errors import ENDED_INSIDE, LOOP_CLOSED, LOOP_STOPPED, TASK_LEFT, report, warn
from ._interface import Loop, LoopSuspension, Suspension, WorkerSuspension
from ._outcome import Outcome
from ._traps import enter, leave, need_frames, stay
from ._variables import TaskVariables


class Strand:
    """One task, whatever thread it is on."""

    # Many may wait for a worker at once, so the fields of all are in slots. The fields that few
    # ever write are in the ``__dict__``, which does not exist before that.
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
    #: What the loop resumes the task by, from its departure to its return; else None.
    suspension: LoopSuspension | None
    #: The job of the worker that drives the coroutine; None: the loop does. Written by the driver.
    job: BlockJob | None
    #: None while the task is on the loop: a parked worker must not keep it alive.
    coro: Coroutine[Any, Any, Any] | None
    #: The stack, innermost last. Replaced as a whole.
    entries: Entries
    #: Its cancellations. The loop thread writes to it at any time.
    token: CancelToken
    variables: TaskVariables

    #: The switch, from the coroutine to the driver that makes it: where to go on,
    target: BlockJob | None
    #: what to enter there; None to leave something,
    entering: object
    #: the stack there; None if the driver at the target has yet to push what is entered,
    new_entries: Entries | None
    #: and the way to the target if that is parked.
    worker_suspension: Suspension | None

    #: Whether the workers were sent away while the task was in a block.
    is_abandoned = False
    #: The guards that are entered, in order.
    guards: tuple[Any, ...] = ()
    #: How often the task had been cancelled when it left its worker for a loop part.
    seen_cancels = 0
    #: For the workers that are parked: whether the task has ended.
    task_has_ended: Callable[[], bool] | None = None

    # See ``_adoption``.
    #: The tasks that wait until this one is on the loop, to leave its loop part. On the loop only.
    departures: tuple[Any, ...] = ()
    #: Whether a warning has said that nobody will leave its loop part.
    is_said_to_be_left = False
    #: Whether it waits to leave a loop part of another task. No thread drives it then.
    is_departing = False
    #: Why it could not leave that.
    refusal: BaseException | None = None
    #: The ``FromThreadCall`` that its worker waits for. Written by the worker.
    calling: Any = None

    def __init__(self, loop: Loop) -> None:
        self.loop, self.entries = loop, ()
        self.token, self.variables = CancelToken(), TaskVariables()
        self.suspension = self.job = self.coro = None
        self.target = self.entering = self.new_entries = self.worker_suspension = None

    def __repr__(self) -> str:
        job: object = self.job or innermost_job(self.entries) or self.target
        return f"<threadhop: {'on its way' if job is None else f'in {job}'}>"

    # In the coroutine.

    def enter(self, manager: object, executor: Executor) -> Coroutine[Any, Any, None]:
        """Return what goes to a worker of *executor* and enters the block there."""
        origin, job = self.job, None
        if self.entries:
            job = job_on(self.entries, executor)
            if job is not None and job is origin:
                self.entries += (entered_in(sys._getframe(2), manager, job),)
                return stay()
        self.entering = manager
        self.new_entries = None
        if origin is None:
            mark = self.suspend_on_loop()
            suspension: Any = self.suspension
        elif self.token.why is None:
            suspension = WorkerSuspension(origin, self)
            mark = self
        else:
            raise self.cancellation()
        if job is None:
            self.target = BlockJob(executor, self, suspension)
            self.worker_suspension = None
        else:
            self.target = job
            self.worker_suspension = WorkerSuspension(job, self)
        return enter(self, mark)

    def enter_loop_part(
        self, part: LoopPart[Strand], frame: FrameType
    ) -> Coroutine[Any, Any, None]:
        """Return what goes to the loop and enters the loop part there."""
        if self.job is None:
            entry = entered_in(frame, part, None)
            entry.cancels = self.loop.count_cancels()
            self.entries += (entry,)
            part.enter(entry, self)
            return stay()
        if self.token.why is not None:
            raise self.cancellation()
        need_frames()
        # Not on arrival: a signal handler may have cancelled the step of the task that arrives.
        self.seen_cancels = self.count_cancels()
        self.entering = part
        self.new_entries = self.target = None
        return enter(self, self)

    def leave(
        self, manager: object, error: BaseException | None, left: Leaving | None = None
    ) -> Coroutine[Any, Any, None]:
        """Return what pops the entry of *manager*, whose body ended with *error*, and goes back.

        May be repeated before it is awaited. *left*: the entry, if that is known, and not the last.
        """
        entries, here = self.entries, self.job
        if entries[-1].manager is not manager or left is not None:
            # Left in the wrong order, or a generator of the task is closed within later blocks.
            group, rest = split(entries, left or leaving(entries, manager, sys._getframe(2)))
            entries = self.entries = rest + group
        target = entries[-2].job if len(entries) > 1 else None
        if here is None and isinstance(manager, LoopPart):
            manager.leave(entries[-1])
        if target is here:
            self.entries = entries[:-1]
            job = entries[-1].job
            if job is not here and job is not None and job not in jobs_of(self.entries):
                job.release_worker(self)  # The worker waits for this task elsewhere.
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

    def suspend_on_loop(self) -> object:
        """Return what the coroutine yields."""
        self.variables.leave_loop()
        return self.loop.suspend(self)

    def _must_meet_again(self, error: BaseException, entry: Entry) -> bool:
        """Whether *error*, which leaves a loop part, is the task's own cancellation.

        Swallowed on the worker, it is raised again at the exit of the block. (One that is swallowed
        within the loop part belongs to the await that raised it, and does not come here.)
        """
        return (
            self.loop.is_cancellation(error)
            and self.token.why is None
            and self.loop.count_cancels() > entry.cancels
        )

    def turn_back(self, error: BaseException) -> Generator[Any, None, None]:
        """Return what leaves what was just entered, to be awaited by ``yield from``."""
        return cast("Generator[Any, None, None]", self.leave(self.entries[-1].manager, error))

    def cancellation(self, why: Any = None) -> BaseException:
        """A new error of the task's cancellation, or of *why*."""
        return self.loop.cancellation(self.token.why if why is None else why)

    def count_cancels(self) -> int:
        """How often the task has been cancelled, and that was not undone."""
        where: Any = self.loop if self.job is None else self.suspension
        return where.count_cancels()  # type: ignore[no-any-return]

    # In the thread that drives the coroutine, which is suspended by a trap.

    def leave_loop(self) -> None:
        """In the loop thread: hand the task over to its target."""
        target: Any = self.target
        if self.entering is not None and self.token.why is not None:
            # Cancelled before it could leave. A worker might be fast enough to begin the body.
            self.suspension.resume()  # type: ignore[union-attr]
        elif self.worker_suspension is not None:
            self.worker_suspension.resume()
        else:
            target.request_worker()

    def leaving_failed(self, error: BaseException) -> bool:
        """In the loop thread: *error* came out of ``leave_loop``, perhaps Ctrl+C.

        True if the task hears of it. If not, the task is on its way, and *error* is for the loop.
        """
        target, worker_suspension = self.target, self.worker_suspension
        if worker_suspension is None:
            return target is not None and target.fail(error)
        # Back to a worker that waits: the rest of the body belongs there, whatever has happened.
        worker_suspension.resume()
        return False

    def arrive(self, job: BlockJob | None) -> None:
        """By the driver at *job*, before it resumes the coroutine: the move is made.

        Nothing in here can fail half-way, and it may be repeated. If the switch failed, *job* is
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
        if job.stray is not None:
            problem, job.stray = job.stray, None
        self.arrive(job)
        coro: Any = self.coro
        worker: Any = variables.worker
        outcome = worker.context.run(step, coro, self, problem)
        del coro
        if outcome is not None:
            self._end_in_worker(outcome)
            return False
        target, entries = self.target, self.new_entries
        # What enters something comes back after that.
        waits = job in jobs_of(entries) if entries else entries is None
        if waits:
            job.prepare_to_park(None if target is None else target.executor)
        elif job.holders is not None:
            job.holders.discard(self)
        # From here on the next driver may have the task, before the call returns.
        try:
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
        except BaseException:
            if target is None:  # It may have been posted, and is not hurt by another time.
                with contextlib.suppress(Exception):
                    suspension.resume()
            if not waits:
                raise
            report("Exception while a task left its worker, which waits for it")
        return waits

    def _end_in_worker(self, outcome: Outcome) -> None:
        """The coroutine came to its end, and was still inside of blocks."""
        suspension = self.suspension
        if suspension is None or self.is_abandoned:  # In the child of a fork.
            return
        warn(ENDED_INSIDE, self.where())
        self.release_workers()
        suspension.finish(outcome)

    def run_on_loop(self, func: Callable[[], Any]) -> Any:
        """In the worker: call *func* on the loop, and wait."""
        return self.loop.run(self, func, self.variables.worker_tokens)

    # See ``_adoption``.

    def is_on_loop(self) -> bool:
        """In the loop thread: whether the task runs, or waits, there."""
        return self.is_departing or (self.coro is None and self.job is None)

    def serve_departures(self) -> None:
        """In the loop thread, by the driver: the task is back, and does not go on yet."""
        while self.departures:
            self.departures[0].deliver()
            self.departures = self.departures[1:]

    # In any thread.

    def is_gone(self) -> bool:
        """Whether the task can never come back from the loop, nor another one in its place."""
        has_ended = self.task_has_ended
        return self.loop.is_gone() or (
            has_ended is not None and has_ended() and not may_be_left(self.entries)
        )

    def is_in_loop_part_of(self, job: BlockJob) -> bool:
        """In a parked worker: whether the task went from *job* to the loop."""
        entries = self.entries
        return bool(entries) and entries[-1].job is None and innermost_job(entries) is job

    def where(self) -> str:
        """The ``file:line`` of the innermost block."""
        job = innermost_job(self.entries)
        return where_suspended(self.coro) if job is None else job.where()

    def worker_is_gone(self) -> None:
        """By the thread that has the task: the parked worker that was to go on has ended."""
        if self.job is None and self.suspension is not None:
            self.suspension.resume()  # ``_traps`` raises why.
        else:
            self.abandon()

    def abandon(self) -> None:
        """The task will never go on: send its workers away, and say so."""
        has_ended = self.task_has_ended
        if self.loop.is_closed():
            what = LOOP_CLOSED
        elif has_ended is not None and has_ended() and not self.loop.is_gone():
            what = TASK_LEFT  # (At the end of the process its loop may have let go of it.)
        else:
            what = LOOP_STOPPED
        if not self.is_said_to_be_left:
            warn(what, self.where())
        self.release_workers()
        suspension, self.suspension = self.suspension, None
        if suspension is not None:
            suspension.forget_task()

    def release_workers(self) -> None:
        """Let go of the coroutine and of all workers: this task has no way back to them."""
        self.is_abandoned = True
        jobs = {entry.job for entry in self.entries}
        for entry in self.entries:
            if isinstance(entry.manager, LoopPart):
                entry.manager.leave(entry)
        self.entries = ()
        self.coro = None
        self.variables.forget()
        for job in jobs:
            if job is not None:
                job.release_worker(self)
