"""asyncio's side of a strand: how a task leaves its loop, and how a thread wakes it again.

All that it rests on is public behaviour: a Task awaits an object that acts like a future. The Task
asks that for ``_asyncio_future_blocking`` and ``_loop``, calls ``add_done_callback(wakeup,
context=...)`` when the coroutine is suspended, ``cancel(msg)`` when the Task is cancelled, and,
once the loop has run ``wakeup``, ``result()``. Private names only refine it:
docs/explanation/private-names.md.

Ctrl+C may raise KeyboardInterrupt between any two lines that run on the loop thread, and loses no
task: an interrupted ``deliver`` is called again, and takes effect once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import weakref
from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from typing import Any

from .. import _lifetime
from .._callables import begins_unseen
from .._errors import LOOP_IS_CLOSED, NO_TASK
from .._interface import AnyStrand, Loop, LoopSuspension
from .._job import events
from .._libraries import look
from .._outcome import Outcome
from .._strand import Strand
from .._traps import checkpoint
from .._variables import Tokens
from ._attributes import LOOP, STRAND, task_of
from ._default_executor import default_executor_of, shown_default_executor
from ._end_watch import EndWatch, HasEnded
from ._entry_queue import EntryQueue, Posted
from ._from_thread import from_thread_run
from ._odd_tasks import PyFuture, check_task, odd_driver

# A task of the pure Python class is unknown to the current_task() written in C.
_py_current_task: Callable[[AbstractEventLoop], Task[Any] | None] = getattr(
    asyncio.tasks, "_py_current_task", asyncio.current_task
)


def current_task(loop: AbstractEventLoop) -> Task[Any] | None:
    """In the loop thread."""
    return asyncio.current_task(loop) or _py_current_task(loop)


def raise_pending_cancellation_of(task: object) -> None:
    """In the loop thread: what the next ``await`` would raise."""
    if getattr(task, "_must_cancel", False):
        message = getattr(task, "_cancel_message", None)
        raise asyncio.CancelledError(*(() if message is None else (message,)))


def strand_of_current_task(loop: AbstractEventLoop) -> Strand:
    """In the loop thread."""
    # An attribute of the task rather than an entry of a weak dictionary: the strand holds a Context
    # whose values may refer to the task. In a global dictionary such a value would keep its own key
    # alive for ever; as an attribute it is part of a cycle like any other.
    task = current_task(loop)
    if task is None:
        raise RuntimeError(NO_TASK)
    strand: Strand | None = getattr(task, STRAND, None)
    if strand is None:
        check_task(task)
        look()
        strand = Strand(loop_of(loop))
        setattr(task, STRAND, strand)
    return strand


def existing_strand_of_current_task(loop: AbstractEventLoop) -> Strand | None:
    """In the loop thread."""
    strand: Strand | None = getattr(current_task(loop), STRAND, None)
    return strand


def loop_of(loop: AbstractEventLoop) -> AsyncioLoop:
    """In the loop thread."""
    found: AsyncioLoop | None = getattr(loop, LOOP, None)
    if found is None:
        look()
        found = AsyncioLoop(loop)
        setattr(loop, LOOP, found)
    return found


class AsyncioLoop(EntryQueue, Loop):
    """One for each asyncio loop, stored as an attribute of it."""

    __slots__ = ("_end", "_is_in_daemon", "_loop", "asyncgen_hooks", "said", "thread")

    library = "asyncio"

    def __init__(self, loop: AbstractEventLoop) -> None:
        super().__init__(loop)
        self._loop = weakref.ref(loop)
        #: The thread that runs the loop.
        self.thread = thread = threading.current_thread()
        self._is_in_daemon = thread.daemon
        #: The lines of warnings that it does not answer.
        self.said: set[tuple[str, str]] = set()
        self._end = EndWatch()
        #: The loop's own, set when it began to run. (As a tuple: they refer to the loop, and the
        #: garbage collector does not know the type that sys returns.)
        self.asyncgen_hooks = tuple(sys.get_asyncgen_hooks())

    def suspend(self, strand: AnyStrand) -> AsyncioSuspension:
        suspension = new_suspension()
        suspension._asyncio_future_blocking = True
        suspension._loop = events._get_running_loop()  # type: ignore[assignment]
        suspension._strand = strand
        suspension._wakeup = None
        strand.suspension = suspension
        return suspension

    def deliver_soon(self, entry: Posted) -> None:
        loop = self._loop()
        if loop is None:
            entry.abandon()
        else:
            self.post(entry, loop)

    def is_closed(self) -> bool:
        loop = self._loop()
        return loop is None or loop.is_closed()

    def is_gone(self) -> bool:
        loop = self._loop()
        if loop is None or loop.is_closed():
            return True
        # A loop that runs in a thread of its own may still bring the task back; but daemon
        # threads are not waited for.
        return _lifetime.is_ending() and (not loop.is_running() or self._is_in_daemon)

    def is_running(self) -> bool:
        loop = self._loop()
        return loop is not None and loop.is_running()

    def name_of(self, strand: AnyStrand) -> str:
        task = task_of(strand)
        return super().name_of(strand) if task is None else str(task.get_name())

    def coroutine_of(self, strand: AnyStrand) -> Any:
        task = task_of(strand)
        return strand.coro if task is None else task.get_coro()

    def watch_end(self, call: HasEnded | None = None) -> None:
        """In the loop thread: somebody is cancelled and works on, perhaps for *call*."""
        self._end.watch(self, self._loop(), call)

    def default_executor(self, strand: AnyStrand) -> Executor:
        loop = self._loop()
        assert loop is not None, "a task of it runs"
        executor = shown_default_executor(loop)
        if executor is not None:
            return executor
        if strand.job is None:
            return default_executor_of(loop)
        # Only the loop thread may make it, and a worker may wait.
        made: Executor = self.run(
            strand, partial(default_executor_of, loop), strand.variables.worker_tokens
        )
        return made

    def cancellation(self, why: Any) -> asyncio.CancelledError:
        return asyncio.CancelledError(*((why,) if isinstance(why, str) else why))

    def is_cancellation(self, error: BaseException | None) -> bool:
        return isinstance(error, asyncio.CancelledError)

    def why(self, error: BaseException) -> tuple[Any, ...]:
        return error.args

    def count_cancels(self) -> int:
        loop = self._loop()
        task = None if loop is None else current_task(loop)
        return 0 if task is None else task.cancelling()

    def checkpoint(self) -> Awaitable[Any]:
        return checkpoint()

    async def let_pending_cancellation_out(self) -> None:
        loop = self._loop()
        if loop is not None and getattr(current_task(loop), "_must_cancel", False):
            await checkpoint()

    def run(self, caller: Any, func: Callable[[], Any], tokens: Tokens) -> Any:
        loop = self._loop()
        if loop is None:
            raise RuntimeError(LOOP_IS_CLOSED)
        return from_thread_run(self.post, loop, caller, func, tokens)


#: For a driver that is no Task, and names none.
NO_CONTEXT = Context()


class AsyncioSuspension(LoopSuspension):
    """The future that a Task awaits while it is away. A new one for each departure."""

    # No __init__: see ``AsyncioLoop.suspend``.
    __slots__ = ("_asyncio_future_blocking", "_context", "_loop", "_strand", "_wakeup")

    #: Makes it a future for the Task, which sets it to False when it takes note of that.
    _asyncio_future_blocking: bool
    #: The Task asks for ``get_loop()``, else for this: no call, in which Ctrl+C could come.
    _loop: AbstractEventLoop
    _strand: AnyStrand
    #: The task's own callback. ``deliver`` takes it out and so resumes the task, in the loop thread
    #: only; ``finish`` and ``forget_task`` take it instead. None before the task is suspended, and
    #: after that.
    _wakeup: Callable[[object], None] | None
    #: The Context to run it in. Written with it.
    _context: Context

    #: The Task asks for it before it resumes the coroutine; errors are raised in there. No function
    #: of Python: Ctrl+C at the entry of one would be thrown into the coroutine.
    result: Callable[[], None] = staticmethod(type(None))

    def __repr__(self) -> str:
        return repr(self._strand)

    # The future, as the Task sees it. All in the loop thread.

    def add_done_callback(
        self, wakeup: Callable[[object], None], *, context: Context = NO_CONTEXT
    ) -> None:
        """The coroutine is suspended now: off it goes.

        Must not raise: the task would wait for ever, and could not even be cancelled.
        """
        strand = self._strand
        try:
            self._wakeup = wakeup
            self._context = context
            task: Task[Any] = wakeup.__self__  # type: ignore[attr-defined]
            strand.coro = task.get_coro()  # type: ignore[assignment]
            if getattr(task, "_must_cancel", False):
                # The Task calls cancel() only when this has returned: a worker may have begun.
                self.cancel(getattr(task, "_cancel_message", None))
            strand.leave_loop()
        except BaseException as exc:
            self.leaving_failed(exc, wakeup, context)

    def leaving_failed(
        self, exc: BaseException, wakeup: Callable[[object], None], context: Context
    ) -> None:
        """Perhaps Ctrl+C, before anything was done."""
        strand = self._strand
        self._wakeup = wakeup
        self._context = context
        if strand.coro is None and strand.job is None:
            with contextlib.suppress(Exception):
                strand.coro = wakeup.__self__.get_coro()  # type: ignore[attr-defined]
        if not strand.leaving_failed(exc if hasattr(wakeup, "__self__") else odd_driver()):
            self._loop.call_soon(_reraise, exc)

    def cancel(self, msg: object = None) -> bool:
        """Note it. A queued job is given up, a body that runs comes to its end first.

        Always True: so the Task does not raise anything by itself. May run in a signal handler,
        between any two lines of this thread, so it never waits for a lock.
        """
        strand = self._strand
        self.note_cancel(strand, () if msg is None else (msg,))
        look()
        strand.loop.post_again(self._loop)  # type: ignore[attr-defined]
        if events._get_running_loop() is None:
            strand.loop.watch_end()  # type: ignore[attr-defined]
        return True

    def done(self) -> bool:
        """Asked by tools that look what tasks wait for (anyio's ``wait_all_tasks_blocked``)."""
        return False

    def cancelled(self) -> bool:
        return False

    # The way back.

    def resume(self) -> None:
        self._strand.loop.post(self, self._loop)  # type: ignore[attr-defined]

    def deliver(self) -> None:
        """In a callback of the loop, never within the step of another task."""
        wakeup, context, strand = self._wakeup, self._context, self._strand
        if wakeup is None:
            return
        try:
            strand.coro = None
            strand.arrive(None)
            if strand.departures:
                strand.serve_departures()
            self._wakeup = strand.suspension = None
            if strand.loop.is_in_debug:  # type: ignore[attr-defined]
                # A callback of its own: if it is slow, asyncio names the task.
                self._loop.call_soon(wakeup, self, context=context)
            else:
                context.run(wakeup, self)
        except BaseException:
            # Ctrl+C. If it came before the Task went on, that still waits for this.
            if getattr(wakeup.__self__, "_fut_waiter", None) is self:  # type: ignore[attr-defined]
                self._wakeup, strand.suspension = wakeup, self
            raise
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, wakeup, context, strand

    def finish(self, ended: Outcome) -> None:
        strand = self._strand
        task: Task[Any] = self._wakeup.__self__  # type: ignore[union-attr]
        self._wakeup = strand.suspension = None
        strand.loop.deliver_soon(_FinishedTask(task, ended, strand))

    def abandon(self) -> None:
        if self._wakeup is not None:  # Else it was delivered, and put back when the task raised.
            self._strand.abandon()

    def forget_task(self) -> None:
        self._wakeup = None

    def watch_task(self) -> Callable[[], bool]:
        return partial(_has_ended, weakref.ref(self._wakeup.__self__))  # type: ignore[union-attr]

    def count_cancels(self) -> int:
        return self._wakeup.__self__.cancelling()  # type: ignore[union-attr, no-any-return]


# Ctrl+C before its first line would leave a task that waits for nothing, for ever.
begins_unseen(AsyncioSuspension.add_done_callback)


#: Makes the suspensions. ``_anyio_scopes`` has another one.
new_suspension: Callable[[], AsyncioSuspension] = AsyncioSuspension


def _has_ended(task_ref: weakref.ref[Task[Any]]) -> bool:
    task = task_ref()
    return task is None or task.done()


class _FinishedTask:
    """A task whose coroutine came to its end in a worker, and how."""

    def __init__(self, task: Task[Any], ended: Outcome, strand: AnyStrand) -> None:
        self._task = task
        self._ended = ended
        self._strand = strand

    def deliver(self) -> None:
        task, (value, error) = self._task, self._ended
        # Those that waited for the task to come home are told that it has nothing for them.
        self._strand.job = None
        self._strand.serve_departures()
        if task.done():
            return
        # Task.set_result() refuses. Future's own does not.
        future = PyFuture if isinstance(task, PyFuture) else asyncio.Future
        try:
            if error is None:
                future.set_result(task, value)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel(task, *error.args[:1])
            else:
                future.set_exception(task, error)
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise error
        finally:
            del self, task, error

    def abandon(self) -> None:
        """A warning has said that the task ended in the block."""


def _reraise(error: BaseException) -> None:
    raise error
