"""asyncio's side of a strand: how a task leaves its loop, and how a thread wakes it again.

All of it is public behaviour: a Task awaits an object that acts like a future. It asks for
``_asyncio_future_blocking`` and ``get_loop()``, calls ``add_done_callback(wakeup, context=...)``
when the coroutine is suspended, ``cancel(msg)`` when it is cancelled, and, once the loop has run
``wakeup``, ``result()``. Nothing else is ever asked of it, so the strand itself is that object.
"""

from __future__ import annotations

import asyncio
import weakref
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from functools import partial
from typing import Any

from .. import _process
from .._errors import LOOP_CLOSED, LOOP_STOPPED, NO_TASK, TASK_LEFT, log
from .._outcome import Ended
from .._strand import Strand
from .._traps import checkpoint, travel
from ._home import default_executor_of, home_of, shown_default_executor
from ._loop_call import LoopCall, call_in_loop

# A task of the pure Python class is unknown to the current_task() written in C.
_py_current_task: Callable[[AbstractEventLoop], Task[Any] | None] = getattr(
    asyncio.tasks, "_py_current_task", asyncio.current_task
)
_PyFuture: type[asyncio.Future[Any]] = getattr(asyncio.futures, "_PyFuture", asyncio.Future)

#: Never held: an attempt to take it orders what stands before and after it.
_fence = allocate_lock()


def _current_task(loop: AbstractEventLoop) -> Task[Any] | None:
    """In the loop thread."""
    return asyncio.current_task(loop) or _py_current_task(loop)


def raise_pending_cancellation(loop: AbstractEventLoop) -> None:
    """In the loop thread: what the next ``await`` would raise."""
    task = _current_task(loop)
    if task is not None and getattr(task, "_must_cancel", False):
        message = getattr(task, "_cancel_message", None)
        raise asyncio.CancelledError(*(() if message is None else (message,)))


def strand_of_current_task(loop: AbstractEventLoop) -> Strand:
    """In the loop thread."""
    # An attribute of the task rather than an entry of a weak dictionary: the strand holds a Context
    # whose values may refer to the task. In a global dictionary such a value would keep its own key
    # alive for ever; as an attribute it is part of a cycle like any other.
    task = _current_task(loop)
    if task is None:
        raise RuntimeError(NO_TASK)
    strand: AsyncioStrand | None = getattr(task, "_threadhop_strand", None)
    if strand is None:
        strand = task._threadhop_strand = AsyncioStrand(loop)  # type: ignore[attr-defined]
    return strand


def existing_strand_of_current_task(loop: AbstractEventLoop) -> Strand | None:
    """In the loop thread."""
    strand: Strand | None = getattr(_current_task(loop), "_threadhop_strand", None)
    return strand


class AsyncioStrand(Strand):
    """A strand, and the future that its task awaits while it is away."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_context",
        "_home",
        "_loop",
        "_wakeup",
    )

    #: What makes it a future for the Task, which sets it to False whenever it takes note of that.
    _asyncio_future_blocking: bool
    #: The task's own callback, and the Context to run it in; None while it is at home.
    _wakeup: Callable[[object], None] | None
    _context: Context | None
    _ended: Ended | None = None
    #: The call that the worker waits for, see ``Caller``.
    inner: LoopCall | None = None
    #: The task, for the parked workers.
    _task: weakref.ref[Task[Any]] | None = None

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._home = home = home_of(loop)
        self._asyncio_future_blocking = True
        self._wakeup = self._context = None
        super().__init__(home.asyncgen_hooks)

    def __repr__(self) -> str:
        place = f"in the block at {self.where()}" if self.entries else "on its way"
        return f"<threadhop: {place}>"

    # The future, as the Task sees it. All in the loop thread.

    leave_home = travel

    def get_loop(self) -> AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, wakeup: Callable[[object], None], *, context: Context | None = None
    ) -> None:
        """The coroutine is suspended now: off it goes.

        It must not raise: the task would wait for ever, and could not even be cancelled.
        """
        self._wakeup = wakeup
        self._context = context
        try:
            task: Task[Any] = wakeup.__self__  # type: ignore[attr-defined]
            self.coro = task.get_coro()  # type: ignore[assignment]
            if getattr(task, "_must_cancel", False):
                # The Task will call cancel() as soon as this returns. That is too late: a worker
                # might have begun the body.
                self.cancel(getattr(task, "_cancel_message", None))
        except BaseException as exc:
            self.failure = exc
            self.resume_at(None)
            return
        try:
            self.depart_from_home()
        except BaseException as exc:
            # Ctrl+C. If a worker has the task already, it is for the loop.
            target = self._heading
            if target is None or not target.fail(exc):
                self._loop.call_soon(_reraise, exc)

    def cancel(self, msg: object = None) -> bool:
        """Remember it, and give up a booking; a body that runs comes to its end first.

        Always True: that tells the Task not to raise anything by itself. This may run in a signal
        handler, between any two lines of this thread, so it never waits for a lock.
        """
        args = () if msg is None else (msg,)
        self.seen_cancels += 1
        if self.cancelled is None:
            self.cancelled = self.seen_args = args
        if _fence.acquire(False):
            _fence.release()
        booking = self.booking
        if booking is not None:
            booking.fail(None)
        inner = self.inner
        if inner is not None:
            inner.cancel(args)
        return True

    def result(self) -> None:
        """The Task is about to resume the coroutine, here. What went wrong is raised in there."""
        self.place = None
        self._asyncio_future_blocking = True

    # The way back.

    def post_home(self) -> None:
        self._home.post(self, self._loop)

    def lose(self) -> None:
        if self._loop.is_closed():
            what = LOOP_CLOSED
        elif self._task_has_ended():
            what = TASK_LEFT
        else:
            what = LOOP_STOPPED
        log.warning(what, self.where())
        self.let_go()
        self._wakeup = self._context = None

    def post_end(self, ended: Ended) -> None:
        self._ended = ended
        self.post_home()

    def arrive_home(self) -> None:
        """In a callback of the loop, never within the step of another task."""
        wakeup, context = self._wakeup, self._context
        self._wakeup = self._context = None
        assert wakeup is not None, "a task is posted home once for each time it left"
        try:
            if self._ended is not None:
                _finish(wakeup.__self__, self._ended)  # type: ignore[attr-defined]
            elif context is None:
                wakeup(self)
            else:
                context.run(wakeup, self)
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, wakeup, context

    def watch_task(self) -> None:
        self._task = weakref.ref(self._wakeup.__self__)  # type: ignore[union-attr]

    def home_is_closed(self) -> bool:
        return self._loop.is_closed()

    def home_is_gone(self) -> bool:
        if self._loop.is_closed():
            return True
        if self._task_has_ended():
            return True
        # A loop that runs in a thread of its own may still bring the task back; but daemon
        # threads are not waited for.
        return _process.is_ending() and (not self._loop.is_running() or self._home.thread.daemon)

    def _task_has_ended(self) -> bool:
        """False as long as nobody watches it."""
        if self._task is None:
            return False
        task = self._task()
        return task is None or task.done()

    def default_executor(self) -> Executor:
        executor = shown_default_executor(self._loop)
        if executor is not None:
            return executor
        if self.place is None:
            return default_executor_of(self._loop)
        # Only the loop thread may make it, and a worker may wait.
        made: Executor = self.call_home(partial(default_executor_of, self._loop))
        return made

    def is_cancellation(self, error: BaseException | None) -> bool:
        return isinstance(error, asyncio.CancelledError)

    def count_cancels(self) -> int:
        wakeup = self._wakeup
        if wakeup is None:
            task = _current_task(self._loop)
            return 0 if task is None else task.cancelling()
        return wakeup.__self__.cancelling()  # type: ignore[attr-defined, no-any-return]

    def cancellation(self, args: tuple[Any, ...] | str | None = None) -> asyncio.CancelledError:
        if args is None:
            args = self.cancelled or ()
        return asyncio.CancelledError(*((args,) if isinstance(args, str) else args))

    async def let_pending_cancellation_out(self) -> None:
        if getattr(_current_task(self._loop), "_must_cancel", False):
            await checkpoint()

    def call_home(self, func: Callable[[], Any]) -> Any:
        return call_in_loop(self, func, self.worker_tokens)


def _finish(task: Task[Any], ended: Ended) -> None:
    """In the loop thread: give *task* the result of its coroutine, which ended elsewhere."""
    # A Task refuses set_result(). What it inherits from Future does not.
    future = _PyFuture if isinstance(task, _PyFuture) else asyncio.Future
    error = ended.error
    if error is None:
        future.set_result(task, ended.value)
    elif isinstance(error, asyncio.CancelledError):
        future.cancel(task, *error.args[:1])
    else:
        future.set_exception(task, error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error


def _reraise(error: BaseException) -> None:
    raise error
