"""asyncio's side of a strand: how a task leaves its loop, and how a thread wakes it again.

All of it is public behaviour: a Task awaits an object that acts like a future. It asks for
``_asyncio_future_blocking`` and ``get_loop()``, calls ``add_done_callback(wakeup, context=...)``
when the coroutine is suspended, ``cancel(msg)`` when it is cancelled, and, once the loop has run
``wakeup``, ``result()``. Nothing else is ever asked of it, so the strand itself is that object.
"""

from __future__ import annotations

import asyncio
import sys
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Task
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import Context
from typing import Any

from .._errors import NO_TASK, log
from .._outcome import Ended
from .._seat import Seat
from .._strand import Strand, where
from .._traps import hand_over

# A task of the pure Python class is unknown to the current_task() written in C.
_py_current_task: Callable[[AbstractEventLoop], Task[Any] | None] = getattr(
    asyncio.tasks, "_py_current_task", asyncio.current_task
)
_PyFuture: type[asyncio.Future[Any]] = getattr(asyncio.futures, "_PyFuture", asyncio.Future)

#: Never held: an attempt to take it orders what stands before and after it.
_fence = allocate_lock()


def strand_of_current_task(loop: AbstractEventLoop) -> Strand:
    """In the loop thread."""
    # An attribute of the task rather than an entry of a weak dictionary: the strand holds a Context
    # whose values may refer to the task. In a global dictionary such a value would keep its own key
    # alive for ever; as an attribute it is part of a cycle like any other.
    task = asyncio.current_task(loop) or _py_current_task(loop)
    if task is None:
        raise RuntimeError(NO_TASK)
    try:
        strand: AsyncioStrand = task._threadhop_strand  # type: ignore[attr-defined]
    except AttributeError:
        strand = AsyncioStrand(loop)
        task._threadhop_strand = strand  # type: ignore[attr-defined]
    return strand


def _home_of(loop: AbstractEventLoop) -> _Home:
    """In the loop thread."""
    try:
        home: _Home = loop._threadhop_home  # type: ignore[attr-defined]
    except AttributeError:
        home = _Home()
        loop._threadhop_home = home  # type: ignore[attr-defined]
    return home


class AsyncioStrand(Strand):
    """A strand, and the future that its task awaits while it is away."""

    #: What makes it a future for the Task, which sets it to False whenever it takes note of that.
    _asyncio_future_blocking = True
    #: The task's own callback, and the Context to run it in; None while it is at home.
    _wakeup: Callable[[object], None] | None = None
    _context: Context | None = None
    _ended: Ended | None = None

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._home = home = _home_of(loop)
        super().__init__(home.asyncgen_hooks)

    def __repr__(self) -> str:
        place = f"in the block at {where(self.entries[-1])}" if self.entries else "on its way"
        return f"<threadhop: {place}>"

    # The future, as the Task sees it. All in the loop thread.

    leave_home = hand_over

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
        if self.cancelled is None:
            self.cancelled = () if msg is None else (msg,)
        if _fence.acquire(False):
            _fence.release()
        booking = self.booking
        if booking is not None:
            booking.fail(None)
        return True

    def result(self) -> None:
        """The Task is about to resume the coroutine, here. What went wrong is raised in there."""
        self.place = None
        self._asyncio_future_blocking = True

    # The way back.

    def post_home(self) -> None:
        self._home.post(self, self._loop)

    def lose(self) -> None:
        log.warning(
            "the event loop was closed while a task was away in the block at %s: the task is "
            "lost. Let the loop wait for its tasks before you close it",
            where(self.entries[-1]) if self.entries else "an unknown line",
        )
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

    def home_is_gone(self) -> bool:
        return self._loop.is_closed()

    def default_executor(self) -> Executor:
        executor: Executor | None = getattr(self._loop, "_default_executor", None)
        return self._home.default_executor if executor is None else executor

    def cancellation(self) -> asyncio.CancelledError:
        return asyncio.CancelledError(*(self.cancelled or ()))


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


class _Home:
    """One for each loop: the tasks that are ready to come home.

    The threads append to ``_ready``; only the one that finds nobody else doing so wakes the loop,
    and one callback of the loop then resumes all.
    """

    __slots__ = ("_armed", "_ready", "asyncgen_hooks", "default_executor")

    def __init__(self) -> None:
        self._ready: deque[AsyncioStrand] = deque()
        #: Held from the moment at which somebody wakes the loop to the one at which it looks.
        self._armed = allocate_lock()
        self.default_executor = _LoopExecutor()
        #: The loop's own: it has set them when it began to run. (What sys returns is unknown to
        #: the garbage collector, and they refer to the loop.)
        self.asyncgen_hooks = tuple(sys.get_asyncgen_hooks())

    def post(self, strand: AsyncioStrand, loop: AbstractEventLoop) -> None:
        """In any thread."""
        self._ready.append(strand)
        # Who fails to arm leaves it to another one, whose callback has not begun yet. That one
        # releases the flag before it counts what is ready, so it counts this.
        if not self._armed.acquire(False):
            if loop.is_closed():
                self._lose_all()
            return
        try:
            loop.call_soon_threadsafe(self._resume_all)
        except Exception:  # The loop is closed.
            self._armed.release()
            self._lose_all()

    def _resume_all(self) -> None:
        """In the loop thread."""
        ready = self._ready
        try:
            self._armed.release()
            # Not those that come in meanwhile: the loop's other callbacks have a turn in between.
            for _ in range(len(ready)):
                if not ready:  # A loop that runs nested in one of the steps took the rest.
                    return
                # Not by a name: this frame may stay in a traceback, which must not keep the task.
                ready.popleft().arrive_home()
        except BaseException:
            # KeyboardInterrupt or SystemExit out of a step. The loop will stop; whoever runs it
            # again finds the others.
            if ready and self._armed.acquire(False):
                ready[0].get_loop().call_soon(self._resume_all)
            raise

    def _lose_all(self) -> None:
        while True:
            try:
                strand = self._ready.popleft()
            except IndexError:
                return
            strand.lose()


class _LoopExecutor(Executor):
    """Stands for the default executor of a loop that has none yet, or does not show it (uvloop)."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        """In the loop thread, or in a worker that the task is leaving."""
        seat: Seat = fn
        strand = seat.strand
        if not isinstance(strand, AsyncioStrand):  # Cancelled a moment ago.
            return None
        loop = strand.get_loop()
        if asyncio._get_running_loop() is loop:
            return self._submit_in_loop(seat, loop)
        # Book it a second time over there; whatever goes wrong is told to the task from there.
        loop.call_soon_threadsafe(seat.book)
        return None

    def _submit_in_loop(self, seat: Seat, loop: AbstractEventLoop) -> Any:
        executor: Executor | None = getattr(loop, "_default_executor", None)
        if executor is None:
            loop.run_in_executor(None, _nothing)
            executor = getattr(loop, "_default_executor", None)
            if executor is None:
                return loop.run_in_executor(None, seat)
        # Known from now on by its name: a block inside that asks for it finds this seat.
        seat.executor = executor
        seat.book()
        return None


def _nothing() -> None:
    """What makes a loop create its default executor."""
