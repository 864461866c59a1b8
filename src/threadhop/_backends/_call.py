"""A function call that an executor makes, and the futures that wait for it.

A call is a job: it waits in the executor until a worker takes it (``_claim`` says who came first:
the worker, who cancels, or who drops it), runs the function in a copy of the caller's Context, and
delivers how that ended. Where to is up to the subclass: to a future of a loop, by the loop's own
queue; or to a future of threads.

An executor may also take it out of the process. Then nobody here ever claims it, and how it ended
is told by the executor's own future.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from _thread import allocate_lock, get_ident
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import Context, copy_context
from typing import Any

from .. import _process
from .._callables import name_of
from .._errors import DROPPED, LOOP_RUNS_HERE, NO_CALLER, RESULT_LOST, STOP_ITERATION, log
from .._lane import book
from .._outcome import Ended
from .._remote import RemoteCall, explain_pickling
from .._thread_loop import ensure_thread_event_loop, offer_thread_event_loop
from .._whereabouts import here
from ._home import home_of
from ._loop_call import LoopCall, call_in_loop

#: Never held, see ``Call.tell_cancelled``.
_fence = allocate_lock()


class Call(ABC):
    """The part that is the same for every kind of future."""

    __slots__ = (
        "_args",
        "_claim",
        "_context",
        "_func",
        "_future_of_executor",
        "_kwargs",
        "_loop",
        "_own",
        "_refusal",
        "_starter",
        "_withdrawn",
        "cancelled",
        "executor",
        "inner",
    )

    #: Like a seat's: a call is no task, and has none.
    strand = None

    def __init__(
        self,
        executor: Executor,
        loop: AbstractEventLoop | None,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        handle_contexts: bool = True,
    ) -> None:
        self.executor = executor
        #: The loop that it was called from.
        self._loop = loop
        self._func: Callable[..., Any] | None = func
        self._args = args
        self._kwargs = kwargs
        self._context = copy_context() if handle_contexts else None
        self._claim = allocate_lock()
        #: The executor's own, if it makes one.
        self._future_of_executor: concurrent.futures.Future[Any] | None = None
        #: Whether it is ``withdraw`` that cancels that future.
        self._withdrawn = False
        #: The arguments of its cancellation. Written by who cancels, read by the worker.
        self.cancelled: tuple[Any, ...] | None = None
        #: The call of exec_in_eventloop() that the worker waits for, see ``Caller``.
        self.inner: LoopCall | None = None
        #: The coroutine that the worker runs: written by it, read by who cancels.
        self._own: tuple[AbstractEventLoop, Task[Any]] | None = None
        #: The thread that is in ``start``, and what the executor told it there.
        self._starter = 0
        self._refusal: BaseException | None = None

    @abstractmethod
    def deliver(self, ended: Ended) -> None:
        """In any thread: give the result to who waits for it. Called once."""

    # In the thread that makes the call.

    def start(self) -> None:
        """Hand it to the executor. Raises what that raises."""
        self._starter = get_ident()
        try:
            book(self)
        except BaseException as exc:
            # An executor may raise although a worker has it already. Then it is made.
            if self._claim.acquire(False):
                func, args, kwargs = self._func, self._args, self._kwargs
                self._let_go()
                if func is None or ("pickl" not in str(exc) and "serializ" not in str(exc)):
                    raise
                error = explain_pickling(exc, func, args, kwargs)
                if error is exc:
                    raise
                raise error from exc
            if not isinstance(exc, Exception):
                raise
        finally:
            self._starter = 0
        if self._refusal is not None:
            refusal, self._refusal = self._refusal, None
            try:
                raise refusal
            finally:
                del refusal

    def submit(self) -> None:
        future: concurrent.futures.Future[Any] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            self._future_of_executor = future
            future.add_done_callback(self.is_done)

    # In the loop thread, booked for the second time by a worker.

    def book(self) -> None:
        try:
            book(self)
        except BaseException as exc:
            self.fail(exc)

    # In any thread.

    def withdraw(self) -> bool:
        """Take it back, if nobody has begun with it."""
        future = self._future_of_executor
        if future is not None:
            self._withdrawn = True
            # (A loop's future says yes to everything, so the claim is asked, too.)
            if not future.cancel():
                self._withdrawn = False
                return False
        if not self._claim.acquire(False):
            self._withdrawn = False
            return False
        self._let_go()
        return True

    def tell_cancelled(self, args: tuple[Any, ...]) -> None:
        """Who waits does not want it any more: tell the function, if it listens."""
        if self.cancelled is None:
            self.cancelled = args
        # We write, then read; the worker writes ``_own`` and then reads ``cancelled``. So one of
        # the two sees the other. What orders our two without a GIL is an atomic operation between.
        if _fence.acquire(False):
            _fence.release()
        own = self._own
        if own is not None:
            loop, task = own
            with contextlib.suppress(RuntimeError):  # Closed: its thread has ended.
                loop.call_soon_threadsafe(task.cancel, *args)
        inner = self.inner
        if inner is not None and self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(inner.cancel, args)

    def fail(self, error: BaseException | str | None) -> bool:
        """It will not be made. False if somebody has begun with it."""
        if not self._claim.acquire(False):
            return False
        if error is None or isinstance(error, str):
            # Dropped after it was taken; by another thread, if that is so soon.
            self._end(Ended(None, concurrent.futures.CancelledError(error or DROPPED)))
        elif self._starter == get_ident():
            self._refusal = error
        else:
            self._end(Ended(None, error))
        return True

    def is_done(self, future: concurrent.futures.Future[Any]) -> None:
        """The executor has finished with it: here, somewhere else, or not at all."""
        self._future_of_executor = None
        if self._withdrawn and future.cancelled():
            return
        # If it was made in this process, the worker has the claim, and delivers.
        if not self._claim.acquire(False):
            return
        if future.cancelled():
            self._end(Ended(None, concurrent.futures.CancelledError(DROPPED)))
            return
        error = future.exception()
        if error is None:
            self._end(Ended(future.result(), None))
            return
        if self._func is not None:
            error = explain_pickling(error, self._func, self._args, self._kwargs)
        self._end(Ended(None, error))

    def _end(self, ended: Ended) -> None:
        self._let_go()
        self.deliver(_without_stop_iteration(ended))

    def _let_go(self) -> None:
        """Who keeps the future, or the job, must not keep what the function worked on."""
        self._func = self._context = None
        self._args = ()
        self._kwargs = {}

    # In the worker.

    def __call__(self) -> None:
        """The job."""
        if not self._claim.acquire(False):
            return
        outer, here.seat = here.seat, self
        try:
            context = self._context
            ended = self._run() if context is None else context.run(self._run)
            del context
        finally:
            here.seat = outer
        try:
            self._end(ended)
        finally:
            del ended  # Its error has a traceback, whose frames lead back to this one.

    def _run(self) -> Ended:
        func = self._func
        assert func is not None, "kept until it has run"
        try:
            offer_thread_event_loop()
            result = func(*self._args, **self._kwargs)
            if hasattr(result, "send") and isinstance(result, Coroutine):
                result = self._run_coroutine(result)
        except BaseException as exc:
            return Ended(None, exc)
        finally:
            del func  # A traceback of the error refers to this frame.
        return Ended(result, None)

    def _run_coroutine(self, coro: Coroutine[Any, Any, Any]) -> Any:
        loop = ensure_thread_event_loop()
        if loop.is_running():
            coro.close()
            raise RuntimeError(LOOP_RUNS_HERE)
        task: Task[Any] = loop.create_task(coro)
        self._own = loop, task
        if self.cancelled is not None:
            task.cancel(*self.cancelled)
        try:
            return loop.run_until_complete(task)
        finally:
            self._own = None
            del task, coro

    # As the one for whom the worker works, see ``_whereabouts``.

    @property
    def caller(self) -> Call:
        return self

    def home(self) -> AbstractEventLoop | None:
        return self._loop

    def get_loop(self) -> AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError(NO_CALLER)
        return self._loop

    def home_is_gone(self) -> bool:
        loop = self._loop
        return loop is None or loop.is_closed() or (_process.is_ending() and not loop.is_running())

    def call_home(self, func: Callable[[], Any]) -> Any:
        return call_in_loop(self, func, {})

    def cancellation(self) -> BaseException:
        return asyncio.CancelledError(*(self.cancelled or ()))

    def where(self) -> str:
        return "a call" if self._func is None else f"the call of {name_of(self._func)}"

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteCall, (self._func, self._args, self._kwargs)


def _without_stop_iteration(ended: Ended) -> Ended:
    """No future of a loop can hold it; raised in a coroutine it would mean something else."""
    if ended.error is None or not isinstance(ended.error, StopIteration):
        return ended
    error = RuntimeError(STOP_ITERATION)
    error.__cause__ = ended.error
    return Ended(None, error)


class LoopFuture(asyncio.Future[Any]):
    """Cancelled at once, whatever becomes of the call.

    The task that awaits it is resumed by the very callback that brings the result. (A plain future
    tells it by a callback of its own, one turn of the loop later.) All in the loop thread.
    """

    #: None when it has ended.
    call: CallForLoop | WaitingCall | None = None
    #: Whether the next callback comes from the task that awaits this,
    _is_awaited = False
    #: and that callback, with the Context to run it in.
    _waiter: tuple[Callable[[Any], object], Context | None] | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            if not self.done():
                self._is_awaited = self._waiter is None
                self._asyncio_future_blocking = True
                yield self
                if not self.done():
                    raise RuntimeError("await wasn't used with future")
            return self.result()
        finally:
            del self  # A traceback of the error refers to this frame.

    __iter__ = __await__

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        if self._is_awaited:
            self._is_awaited = False
            self._waiter = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: Callable[[Any], object], /) -> int:
        if self._waiter is not None and self._waiter[0] == fn:
            self._waiter = None
            return 1
        return super().remove_done_callback(fn)

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if call is not None and not self.done() and not call.withdraw():
            call.tell_cancelled(() if msg is None else (msg,))
        self.call = None
        return self._cancel(msg)

    def _cancel(self, *msg: Any) -> bool:
        if not super().cancel(*msg):
            return False
        self._wake_soon()
        return True

    def set_result(self, result: Any, /) -> None:
        """For others, who may end it as any future. The call uses ``settle``."""
        super().set_result(result)
        self._wake_soon()

    def set_exception(self, exception: Any, /) -> None:
        super().set_exception(exception)
        self._wake_soon()

    def _wake_soon(self) -> None:
        """In the step of some task, from which no other task can be resumed."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            self.get_loop().call_soon(waiter[0], self, context=waiter[1])

    def _wake(self) -> None:
        """In a callback of the loop."""
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return
        wakeup, context = waiter
        try:
            if context is None:
                wakeup(self)
            else:
                context.run(wakeup, self)
        finally:
            # The error that ends the task has a traceback, whose frames lead back to this one.
            del self, waiter, wakeup, context

    def settle(self, ended: Ended) -> None:
        """In the loop thread."""
        self.call = None
        if self.done():
            return
        if ended.error is None:
            super().set_result(ended.value)
        else:
            super().set_exception(ended.error)
        try:
            self._wake()
        finally:
            del self, ended


class PatientFuture(LoopFuture):
    """Cancelled at once if nobody has begun with the call; else when that has ended."""

    #: What the call raised although it was cancelled.
    late_error: BaseException | None = None
    _cancel_args: tuple[Any, ...] | None = None
    #: Called when it is asked to cancel, at once.
    when_asked: Callable[[], None] | None = None

    def cancel(self, msg: Any = None) -> bool:
        call = self.call
        if self.when_asked is not None:
            self.when_asked()
        if call is None or self.done() or call.withdraw():
            return self._cancel(msg)
        args = () if msg is None else (msg,)
        if self._cancel_args is None:
            self._cancel_args = args
        call.tell_cancelled(args)
        return True

    def settle(self, ended: Ended) -> None:
        if self._cancel_args is None or self.done():
            super().settle(ended)
            return
        self.call = None
        self.late_error = ended.error
        self._cancel(*self._cancel_args)


class CallForLoop(Call):
    """A call whose result goes to a future of its loop."""

    __slots__ = ("_ended", "_future", "_home")

    _ended: Ended | None
    _future: LoopFuture | None

    def start_with(self, kind: type[LoopFuture]) -> LoopFuture:
        """In the loop thread."""
        loop = self.get_loop()
        self._home = home_of(loop)
        future = self._future = kind(loop=loop)
        future.call = self
        try:
            self.start()
        except BaseException:
            self._future = future.call = None
            raise
        return future

    def withdraw(self) -> bool:
        if not super().withdraw():
            return False
        # The executor may keep the job for long.
        self._future = None
        return True

    def deliver(self, ended: Ended) -> None:
        self._ended = ended
        assert self._loop is not None, "it was called from one"
        self._home.post(self, self._loop)

    def arrive_home(self) -> None:
        """In the loop thread."""
        future, ended = self._future, self._ended
        self._future = self._ended = None
        assert future is not None, "it arrives once"
        assert ended is not None, "written before it is posted"
        try:
            future.settle(ended)
        finally:
            del self, future, ended

    def lose(self) -> None:
        """In any thread."""
        self._ended = None
        log.warning(RESULT_LOST)


class WaitingCall:
    """No call of ours, but somebody's future, for a ``PatientFuture`` of the loop."""

    def __init__(self, loop: AbstractEventLoop, future: concurrent.futures.Future[Any]) -> None:
        self._loop = loop
        self._theirs = future
        self._home = home_of(loop)
        self._ours: PatientFuture | None = None
        self._ended: Ended | None = None
        self._withdrawn = False

    def start(self) -> PatientFuture:
        ours = self._ours = PatientFuture(loop=self._loop)
        ours.call = self
        self._theirs.add_done_callback(self._is_done)
        return ours

    def withdraw(self) -> bool:
        self._withdrawn = True
        if self._theirs.cancel():
            return True
        self._withdrawn = False
        return False

    def tell_cancelled(self, args: tuple[Any, ...]) -> None:
        """Nobody listens."""

    def _is_done(self, future: concurrent.futures.Future[Any]) -> None:
        """In any thread."""
        if future.cancelled():
            if self._withdrawn:
                return
            self._ended = Ended(None, concurrent.futures.CancelledError(DROPPED))
        else:
            error = future.exception()
            self._ended = _without_stop_iteration(
                Ended(None if error is not None else future.result(), error)
            )
        self._home.post(self, self._loop)

    def get_loop(self) -> AbstractEventLoop:
        return self._loop

    def arrive_home(self) -> None:
        ours, ended = self._ours, self._ended
        self._ours = self._ended = None
        assert ours is not None, "it arrives once"
        assert ended is not None, "written before it is posted"
        try:
            ours.settle(ended)
        finally:
            del ours, ended

    def lose(self) -> None:
        log.warning(RESULT_LOST)


class ThreadingFuture(concurrent.futures.Future[Any]):
    """Cancelled at once, whatever becomes of the call."""

    def __init__(self, call: CallForThreads) -> None:
        super().__init__()
        self._call: CallForThreads | None = call
        #: Taken once, by who tells the others that it is cancelled.
        self._telling = allocate_lock()

    def running(self) -> bool:
        call = self._call
        return call is not None and call.has_begun() and not self.done()

    def cancel(self) -> bool:
        call = self._call
        withdrawn = call is None or call.withdraw()
        if not super().cancel():
            return False
        if self._telling.acquire(False):
            self.set_running_or_notify_cancel()  # Tells those that are in wait().
        # Only now: a coroutine may end at once, and would be faster than we are.
        if call is not None and not withdrawn:
            call.tell_cancelled(())
        self._call = None
        return True

    def settle(self, ended: Ended) -> None:
        """In any thread."""
        self._call = None
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # Cancelled just before.
            if ended.error is None:
                self.set_result(ended.value)
            else:
                self.set_exception(ended.error)


class CallForThreads(Call):
    """A call whose result goes to a future that threads can wait for."""

    __slots__ = ("_future",)

    _future: ThreadingFuture | None

    def start_with_future(self) -> ThreadingFuture:
        future = self._future = ThreadingFuture(self)
        try:
            self.start()
        except BaseException:
            self._future = future._call = None
            raise
        return future

    def has_begun(self) -> bool:
        return self._claim.locked()

    def deliver(self, ended: Ended) -> None:
        future, self._future = self._future, None
        assert future is not None, "it is delivered once"
        try:
            future.settle(ended)
        finally:
            del future  # A traceback of the error refers to the worker's frames.
