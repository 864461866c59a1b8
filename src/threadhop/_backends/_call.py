"""A function call that an executor makes.

A call is a job: it waits in the executor until a worker takes it (``_claim`` says who came first:
the worker, who cancels, or who drops it), runs the function in a copy of the caller's Context, and
delivers how that ended. Where to is up to the subclasses, in ``_deliveries``.

An executor may also take it out of the process. Then nobody here ever claims it, and how it ended
is told by the executor's own future.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from _thread import allocate_lock
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any, Protocol

from .. import _process
from .._callables import name_of
from .._errors import DROPPED, LOOP_RUNS_HERE, NO_CALLER, STOP_ITERATION
from .._remote import RemoteCall, explain_pickling
from .._thread_loop import ensure_thread_event_loop, offer_thread_event_loop
from .._whereabouts import here
from ._loop_call import LoopCall, call_in_loop

#: What calls without keywords share, and those that have ended. Nobody writes to it.
_NOTHING: dict[str, Any] = {}

#: Never held, see ``Call.tell_cancelled``.
_fence = allocate_lock()


class Forgettable(Protocol):
    def forget(self) -> None:
        """In the thread that makes the call: nobody will ever see this future."""


class Call:
    """The part that is the same for every kind of future."""

    # Many may wait at once, so what each one has is in slots. What few of them ever write is in
    # the ``__dict__``, which does not exist before that.
    __slots__ = (
        "__dict__",
        "_args",
        "_claim",
        "_context",
        "_func",
        "_kwargs",
        "_loop",
        "executor",
    )

    #: Like a seat's: a call is no task, and has none.
    strand = None
    #: The executor's own, if it makes one.
    _future_of_executor: concurrent.futures.Future[Any] | None = None
    #: Whether it is ``withdraw`` that cancels that future.
    _withdrawn = False
    #: The arguments of its cancellation. Written by who cancels, read by the worker.
    cancelled: tuple[Any, ...] | None = None
    #: The call of exec_in_eventloop() that the worker waits for, see ``Caller``.
    inner: LoopCall | None = None
    #: The coroutine that the worker runs: written by it, read by who cancels.
    _own: tuple[AbstractEventLoop, Task[Any]] | None = None

    def __init__(
        self,
        executor: Executor | None,
        loop: AbstractEventLoop | None,
        func: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        handle_contexts: bool,
    ) -> None:
        #: None if somebody else has started the call.
        self.executor: Any = executor
        #: The loop that it was called from.
        self._loop = loop
        #: None when it is not needed any more.
        self._func: Any = func
        self._args = args
        self._kwargs = kwargs or _NOTHING
        self._context = copy_context() if handle_contexts else None
        self._claim = allocate_lock()

    # (An abstract class would cost each call the short way in which Python makes objects.)
    def deliver(self, value: Any, error: BaseException | None) -> None:
        """In any thread: tell who waits. Called once, by who has the claim."""
        raise NotImplementedError

    # In the thread that makes the call.

    def could_not_be_booked(self, exc: BaseException, future: Forgettable) -> None:
        """While *exc* is handled: raise it, unless it comes too late."""
        try:
            # An executor may raise although a worker has it already. Then it is made.
            if self._claim.acquire(False):
                func, args, kwargs = self._func, self._args, self._kwargs
                self._let_go()
                future.forget()
                if func is None or ("pickl" not in str(exc) and "serializ" not in str(exc)):
                    raise  # noqa: PLE0704 - in the handler that calls this
                error = explain_pickling(exc, func, args, kwargs)
                if error is exc:
                    raise  # noqa: PLE0704
                try:
                    raise error from exc
                finally:
                    del error
            if not isinstance(exc, Exception):
                future.forget()
                raise  # noqa: PLE0704
        finally:
            del exc  # Its traceback has this frame.

    def submit(self) -> None:
        future: concurrent.futures.Future[Any] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            self._future_of_executor = future
            future.add_done_callback(self.is_done)

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
            self._end(None, concurrent.futures.CancelledError(error or DROPPED))
        else:
            self._end(None, error)
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
            self._end(None, concurrent.futures.CancelledError(DROPPED))
            return
        error = future.exception()
        if error is None:
            self._end(future.result(), None)
            return
        if self._func is not None:
            error = explain_pickling(error, self._func, self._args, self._kwargs)
        self._end(None, error)

    def _end(self, value: Any, error: BaseException | None) -> None:
        self._let_go()
        self.deliver(value, None if error is None else without_stop_iteration(error))

    def _let_go(self) -> None:
        """Who keeps the future, or the job, must not keep what the function worked on."""
        self._func = self._context = None
        self._args, self._kwargs = (), _NOTHING

    # In the worker.

    def __call__(self) -> None:
        """The job."""
        if not self._claim.acquire(False):
            return
        outer, here.seat = here.seat, self
        context = self._context
        result, error = None, None
        try:
            offer_thread_event_loop()
            if context is None:
                result = self._call_func()
            elif self._args or self._kwargs:
                result = context.run(self._call_func)
            else:  # The same, with one call less.
                result = context.run(self._func)
            if hasattr(result, "send") and isinstance(result, Coroutine):
                run = self._run_coroutine
                result = run(result) if context is None else context.run(run, result)
        except BaseException as exc:
            result, error = None, without_stop_iteration(exc)
        finally:
            here.seat = outer
        # _end(), without the calls.
        self._func = self._context = None
        self._args, self._kwargs = (), _NOTHING
        del context
        try:
            self.deliver(result, error)
        finally:
            del result, error  # The error has a traceback, whose frames lead back to this one.

    def _call_func(self) -> Any:
        return self._func(*self._args, **self._kwargs)

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


def without_stop_iteration(error: BaseException) -> BaseException:
    """No future of a loop can hold it; raised in a coroutine it would mean something else."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError(STOP_ITERATION)
    instead.__cause__ = error
    return instead
