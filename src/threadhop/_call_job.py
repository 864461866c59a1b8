"""A function call that an executor makes.

A call is a job: it waits in the executor until a worker takes it, runs the function in a copy of
the caller's Context, and settles its future with the outcome. The worker settles a future of
threads. A future of a loop may only be touched in the loop thread, so the call itself is posted
there, see ``EntryQueue``.

An executor may also take the call out of the process. Then no worker here ever claims the call, and
the executor's own future has the outcome.

The claim is that of a ``BlockJob``: a worker, ``try_cancel``, ``fail`` and ``is_done`` (the
executor has made the call elsewhere, or dropped it) claim the call by one ``setdefault``, and the
first one has it. A thread that finds an interrupted claim finishes what that began.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
from _thread import get_ident
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any

from ._callables import name_of, unwrap_partial
from ._cancel_token import CancelToken
from ._errors import DROPPED, NO_CALLER, RESULT_LOST, warn, without_stop_iteration
from ._executors import submit, withdraw
from ._job import current
from ._libraries import when_loaded
from ._loops._asyncio import loop_of
from ._loops._asyncio_futures import ThreadFuture
from ._loops._attributes import LOOP
from ._outcome import Outcome
from ._remote import RemoteCall, explain_pickling
from ._thread_loop import offer_thread_event_loop, run_coroutine
from ._variables import copy_for_worker

#: Shared by calls without keywords, and by those that have ended. Never written to.
_NOTHING: dict[str, Any] = {}

_copy_context = copy_context
when_loaded("sniffio", partial(setattr, sys.modules[__name__], "_copy_context", copy_for_worker))

#: The claim of ``try_cancel``.
_CANCELLED = "cancelled before a worker began"
#: The claim of a call that no worker here made, when its future is settled.
_ENDED = "it has ended"


class CallJob:
    """One call of a function, and the future that waits for it."""

    # Many may wait at once, so the fields of all are in slots. The fields that few ever write are
    # in the ``__dict__``, which does not exist before that.
    __slots__ = (
        "__dict__",
        "_args",
        "_context",
        "_error",
        "_func",
        "_future",
        "_kwargs",
        "_loop",
        "_queue",
        "_value",
        "executor",
        "since",
    )

    #: What ``hops()`` calls it.
    what = "call"
    #: A call is no task.
    strand = None
    #: The ident of the worker's thread; the outcome, if no worker here made it; ``_CANCELLED``.
    claimed: Any = None
    #: The executor's own, if it makes one.
    _future_of_executor: concurrent.futures.Future[Any] | None = None
    #: Whether ``try_cancel`` cancels that future.
    _is_cancelled = False
    #: The ``FromThreadCall`` that its worker waits for. Written by the worker.
    calling: Any = None
    #: Whether its future is one of threads, and not of a loop.
    _is_for_threads = False
    #: The outcome. Written before the call is posted to the loop.
    _value: Any
    _error: BaseException | None

    def __init__(
        self,
        executor: Any,
        loop: Any,
        func: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        handle_contexts: bool,
    ) -> None:
        #: None if the user has started the call.
        self.executor = executor
        #: When it was queued; then when the worker began.
        self.since = monotonic()
        #: The loop that it was called from (an asyncio loop, or a ``TrioLoop``), and its queue.
        self._loop = loop
        self._queue: Any = None
        if loop is not None:
            self._queue = getattr(loop, LOOP, None) or loop_of(loop)
        #: That of the library of the loop, or one of threads.
        self._future: Any
        #: None when it is not needed any more.
        self._func: Any = func
        self._args = args
        self._kwargs = kwargs or _NOTHING
        self._context = _copy_context() if handle_contexts else None

    # In the thread that makes the call.

    def start(self, kind: Callable[..., Any]) -> Any:
        """In the loop thread: submit the call. Raises what the executor raises."""
        future = self._future = kind(loop=self._loop)
        future.call = self
        try:
            submit(self)
        except BaseException as exc:
            self._raise_unless_claimed(exc, future)
        return future

    def start_for_threads(self) -> ThreadFuture:
        """Submit the call. Raises what the executor raises."""
        self._is_for_threads = True
        future = self._future = ThreadFuture(self)
        try:
            submit(self)
        except BaseException as exc:
            self._raise_unless_claimed(exc, future)
        return future

    @classmethod
    def of_future(
        cls, theirs: concurrent.futures.Future[Any], loop: Any, kind: Callable[..., Any]
    ) -> Any:
        """In the loop thread: the user has started the call, and *theirs* has its outcome."""
        call = cls(None, loop, None, (), {}, False)
        call._future_of_executor = theirs
        future = call._future = kind(loop=loop)
        future.call = call
        theirs.add_done_callback(call.is_done)
        return future

    def _raise_unless_claimed(self, exc: BaseException, future: Any) -> None:
        """While *exc* is handled: raise it, unless it comes too late."""
        try:
            # An executor may raise although a worker has the call already, and makes it.
            if self.__dict__.setdefault("claimed", exc) is exc:
                self.claimed = _CANCELLED  # The error has this frame.
                func, args, kwargs = self._func, self._args, self._kwargs
                self._let_go()
                future.discard()
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
                future.discard()
                raise  # noqa: PLE0704
        finally:
            del exc  # Its traceback has this frame.

    def call_submit(self) -> None:
        future: concurrent.futures.Future[Any] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            self._future_of_executor = future
            future.add_done_callback(self.is_done)

    # In any thread.

    @property
    def token(self) -> CancelToken:
        """Its cancellations. Made by the first that asks: the worker, or the future."""
        token: CancelToken | None = self.__dict__.get("_token")
        return self.__dict__.setdefault("_token", CancelToken()) if token is None else token

    def has_begun(self) -> bool:
        """Whether a worker has the call, or whether it has ended otherwise."""
        return self.claimed is not None

    def is_here(self) -> bool:
        return not self.is_over()

    def is_over(self) -> bool:
        """Whether the future is settled. Cancelled, it says nothing of the function, which runs."""
        future = self._future
        if future is None or self._is_for_threads:
            return future is None
        return future.done() and not future.cancelled()

    def try_cancel(self) -> bool:
        """Take the call back, unless a worker has begun with it. May be repeated."""
        future = self._future_of_executor
        if future is not None:
            self._is_cancelled = True
            cancel = future.take_back if isinstance(future, ThreadFuture) else future.cancel
            # (A loop's future says yes to everything, so the claim is asked, too.)
            if not cancel():
                self._is_cancelled = False
                return False
        first = self.__dict__.setdefault("claimed", _CANCELLED)
        if first is _CANCELLED:
            withdraw(self)
            self._let_go()
            self._future = None  # The executor may keep the job for long.
            return True
        self._is_cancelled = False
        if isinstance(first, Outcome):
            self._end(first)
        return False

    def fail(self, error: BaseException | str | None) -> bool:
        """No worker will make the call. False if one has begun with it. May be repeated."""
        if error is None or isinstance(error, str):
            error = concurrent.futures.CancelledError(error or DROPPED)
        return self._end_unmade(Outcome(None, error))

    def is_done(self, future: concurrent.futures.Future[Any]) -> None:
        """The executor has finished with the call: here, somewhere else, or not at all."""
        self._future_of_executor = None
        if self._is_cancelled and future.cancelled():
            return
        # If a worker of this process made the call, it has the claim, and settles the future.
        if self.claimed is not None:
            return
        error: BaseException | None
        if future.cancelled():
            self._end_unmade(Outcome(None, concurrent.futures.CancelledError(DROPPED)))
            return
        error = future.exception()
        if error is None:
            self._end_unmade(Outcome(future.result(), None))
            return
        if self._func is not None:
            error = explain_pickling(error, self._func, self._args, self._kwargs)
        self._end_unmade(Outcome(None, error))

    def _end_unmade(self, ended: Outcome) -> bool:
        """End the call with *ended*, unless a worker here, or ``try_cancel``, has the claim."""
        first = self.__dict__.setdefault("claimed", ended)
        if not isinstance(first, Outcome):
            return False
        self._end(first)
        self.claimed = _ENDED  # The executor may keep the job for long.
        return first is ended

    def _end(self, ended: Outcome) -> None:
        self._let_go()
        value, error = ended
        self._settle(value, None if error is None else without_stop_iteration(error))

    def _let_go(self) -> None:
        """The future and the job may be kept for long: forget what the function worked on."""
        self._func = self._context = None
        self._args, self._kwargs = (), _NOTHING

    def _settle(self, value: Any, error: BaseException | None) -> None:
        """Settle the future; a loop's future on its loop. May be repeated."""
        if not self._is_for_threads:
            # The worker does not touch the future: were it the last to have it, the future would
            # be finalized there.
            self._value = value
            self._error = error
            self._queue.post(self, self._loop)
            return
        future, self._future = self._future, None
        try:
            if future is not None:
                future.settle(value, error)
        finally:
            del future, error  # A traceback of the error refers to the worker's frames.

    def deliver(self) -> None:
        """In a callback of the loop. May be repeated."""
        future = self._future
        if future is None:
            return
        try:
            future.settle(self._value, self._error)
            self._future = self._value = self._error = None
        finally:
            del self, future

    def deliver_again(self) -> None:
        if self._queue is not None and self._loop is not None:
            self._queue.post_again(self._loop)
            self._queue.watch_end(self)

    def has_ended(self) -> bool:
        return self._func is None

    def abandon(self) -> None:
        """In any thread: the loop is closed."""
        self._value = self._error = None
        future = self._future
        if future is not None and not future.done():  # Else the task has it: it raised something.
            warn(RESULT_LOST)

    # In the worker.

    def __call__(self) -> None:
        """The job."""
        thread = get_ident()
        if self.claimed is not None or self.__dict__.setdefault("claimed", thread) is not thread:
            return
        self.since = monotonic()
        slot = current.slot
        outer, slot.job = slot.job, self
        context = self._context
        result, error = None, None
        try:
            offer_thread_event_loop()
            slot.has_loop = True
            if context is None:
                result = self._call_func()
            elif self._args or self._kwargs:
                result = context.run(self._call_func)
            else:  # The same, with one call less.
                result = context.run(self._func)
            if hasattr(result, "send") and isinstance(result, Coroutine):
                of_library = None if self._queue is None else self._queue.run_coroutine
                run = partial(of_library or run_coroutine, self.token)
                result = run(result) if context is None else context.run(run, result)
        except BaseException as exc:
            result, error = None, without_stop_iteration(exc)
        finally:
            slot.job = outer
        # _let_go(), without the call.
        self._func = self._context = None
        self._args, self._kwargs = (), _NOTHING
        del context
        try:
            self._settle(result, error)
        finally:
            del result, error  # The error has a traceback, whose frames lead back to this one.

    def _call_func(self) -> Any:
        return self._func(*self._args, **self._kwargs)

    # As a ``_job.Caller``.

    @property
    def caller(self) -> CallJob:
        return self

    def is_gone(self) -> bool:
        return self._queue is None or self._queue.is_gone()

    def run_on_loop(self, func: Callable[[], Any]) -> Any:
        if self._queue is None:
            raise RuntimeError(NO_CALLER)
        return self._queue.run(self, func, {})

    def cancellation(self) -> BaseException:
        why = self.token.why or ()
        if self._queue is None:
            return asyncio.CancelledError(*why)
        error: BaseException = self._queue.cancellation(why)
        return error

    @property
    def future(self) -> Any:
        """What waits for the call; None when it has ended."""
        return self._future

    def where(self) -> str:
        return "a call" if self._func is None else f"the call of {name_of(self._func)}"

    def title(self) -> str:
        func = self._func
        return "a call" if func is None else name_of(unwrap_partial(func))

    def __reduce__(self) -> tuple[Any, ...]:
        library = "asyncio" if self._queue is None else self._queue.library
        return RemoteCall, (self._func, self._args, self._kwargs, library)
