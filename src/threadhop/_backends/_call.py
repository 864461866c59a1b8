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
from _thread import allocate_lock, get_ident
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop, Task
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import copy_context
from typing import Any

from .. import _process
from .._callables import name_of
from .._errors import DROPPED, LOOP_RUNS_HERE, NO_CALLER, STOP_ITERATION
from .._lane import book
from .._outcome import Ended
from .._remote import RemoteCall, explain_pickling
from .._thread_loop import ensure_thread_event_loop, offer_thread_event_loop
from .._whereabouts import here
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
        self.deliver(without_stop_iteration(ended))

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


def without_stop_iteration(ended: Ended) -> Ended:
    """No future of a loop can hold it; raised in a coroutine it would mean something else."""
    if ended.error is None or not isinstance(ended.error, StopIteration):
        return ended
    error = RuntimeError(STOP_ITERATION)
    error.__cause__ = ended.error
    return Ended(None, error)
