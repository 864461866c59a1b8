"""A blocking iterator that one worker reads ahead, and the buffer between the worker and its loop.

The job of an iterator is one request for one worker, as that of a block. Its claim is that of
``CallJob``: the worker, ``try_cancel`` and ``fail`` claim the job by one ``setdefault``, and the
first one has it. The worker then calls the source, reads items into ``buffer``, and closes the
iterator at the end, whoever ends it.

Two threads wait for each other: the task for an item, the worker for room. Neither may miss the
other. So each first writes its mark (``_is_wanted``, ``is_full``; the worker also the item, or
``ended``; the task takes an item out), then does a step on the buffer, and then looks for the mark
of the other. A deque takes a lock of its own for each step, or the GIL is that lock. Of the two
steps one comes first, and whoever comes second sees what the first had written. ``_order`` is such
a step for those who have nothing to put in.
"""

from __future__ import annotations

import concurrent.futures
import queue
import time
import weakref
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context
from functools import partial
from typing import Any, NoReturn

from . import _away
from ._cancel_token import CancelToken
from ._errors import (
    DROPPED,
    INLINE,
    ITERATOR_LOST,
    ITERATOR_NOT_BEGUN,
    ITERATOR_PICKLED,
    NOT_RUN,
    warn,
    without_stop_iteration,
)
from ._executors import submit, withdraw
from ._interface import Loop
from ._job import Slot, current
from ._thread_loop import offer_thread_event_loop

#: Seconds after which a worker that waits for room looks whether its loop is still there.
POLL = 1.0
#: So often does a worker try to wake an open loop, within a second.
TRIES = 20

#: The claim of ``try_cancel``.
_CANCELLED = "cancelled before a worker began"
#: The claim of ``fail`` when the task has its error.
_ENDED = "it has ended"


class IteratorJob:
    """One iterator, the worker that reads it, and the task that takes the items."""

    #: What ``hops()`` calls it.
    what = "iterator"
    #: An iterator is no task.
    strand = None
    #: The name of the source.
    name = "an iterator"
    #: Makes what the task waits for.
    new_future: Callable[[], Any]
    #: The ident of the worker's thread; ``_CANCELLED``; or the error for which no worker came.
    claimed: Any = None
    #: The ``FromThreadCall`` that its worker waits for. Written by the worker.
    calling: Any = None
    #: The thread that submits the job to an executor that might run it right there.
    _submitter = 0
    #: Whether the worker has ended, or none will come. Written once, after the last item.
    ended = False
    #: How it ended, if not well. Taken out by the task.
    error: BaseException | None = None
    #: Whether ``close()`` raised that, and not ``next()``. Written before ``ended``.
    is_error_of_close = False
    #: What the task waits for, a future of its loop's library. Written and read on the loop.
    future: Any = None
    #: Whether the task waits. Set by the task, cleared by the worker, which then tells the loop. So
    #: each one that is cleared is followed by a delivery, and that finds the ``future`` of then.
    _is_wanted = False
    #: Whether the worker waits for room. Set by the worker; cleared by it, or by who makes room.
    is_full = False
    #: Whether the rest is not wanted. Set by the task, by *watch*, or by a worker without a loop.
    is_closing = False
    #: Tells when nobody has the generator of the items any more.
    watch: Any = None
    #: Whether a warning has said that the loop is gone.
    _is_lost = False

    def __init__(
        self,
        executor: Any,
        loop: Loop,
        open_source: Callable[[], Iterator[Any]],
        buffersize: int,
        context: Context | None,
        where: str,
        consumer: object,
    ) -> None:
        self.executor = executor
        #: When it was queued; then when the worker began. By ``time.monotonic()``.
        self.since = time.monotonic()
        self.loop = loop
        #: None when it is not needed any more: the executor may keep the job for long.
        self._open: Callable[[], Iterator[Any]] | None = open_source
        self._context = context
        self._where = where
        #: Some object that lives as long as the frame that takes the items.
        self._consumer = weakref.ref(consumer)
        self.token = CancelToken()
        #: The worker appends, the task takes out.
        self.buffer: deque[Any] = deque()
        self._order = self.buffer.extend
        self._size = buffersize
        #: The worker that waits for room goes on when no more than that are left: it then reads
        #: many, and not one, before it waits again.
        self.low = buffersize // 2
        #: Wakes the worker, which then looks what has happened.
        self._room: queue.SimpleQueue[None] = queue.SimpleQueue()

    # In the task, on the loop.

    def start(self) -> None:
        """Submit the job. Raises what the executor raises."""
        try:
            submit(self)
        except BaseException as exc:
            # An executor may raise although a worker has the job already.
            if self.fail(exc) or not isinstance(exc, Exception):
                raise

    def call_submit(self) -> None:
        self._submitter = get_ident()
        future: concurrent.futures.Future[Any] | None = self.executor.submit(self)
        if future is not None:  # Some executors return odd things.
            future.add_done_callback(self.is_done)

    def must_wait(self, future: Any) -> bool:
        """Have *future* settled when there is something; False if there is, so nobody does."""
        self.future = future
        self._is_wanted = True
        self._order(())
        if not self.buffer and not self.ended:
            return True
        self._is_wanted = False
        self.future = None
        return False

    def make_room(self) -> None:
        """If the worker waits for room: wake it if there is enough."""
        if self.is_full and len(self.buffer) <= self.low:
            self.is_full = False
            self._room.put(None)

    def take_error(self) -> BaseException | None:
        error, self.error = self.error, None
        return error

    def stop(self) -> None:
        """In any thread: the worker closes the source as soon as that lets it."""
        self.is_closing = True
        self._room.put(None)

    # As the future sees it, see ``_asyncio_futures.Awaited``.

    def try_cancel(self) -> bool:
        """Take the job back, unless a worker has begun: then have it stop. May be repeated."""
        if self.__dict__.setdefault("claimed", _CANCELLED) is _CANCELLED:
            withdraw(self)
            self._let_go()
            self.ended = True
            return True
        self.stop()
        return False

    def deliver_again(self) -> None:
        """In the loop thread: have the loop look once more, in case Ctrl+C kept it from that."""
        future = self.future  # It knows the loop, which may not run now.
        if future is not None:
            self.loop.post_again(future.get_loop())  # type: ignore[attr-defined]

    # As an entry of the loop's queue.

    def deliver(self) -> None:
        """In a callback of the loop. May be repeated."""
        future = self.future
        if future is None:
            return
        try:
            future.settle(None, None)  # Perhaps the task goes on in here, and waits again.
            if self.future is future:
                self.future = None
        finally:
            del self, future

    def abandon(self) -> None:
        """In any thread: the loop is closed."""
        if not (self._is_lost or self.ended):
            self._is_lost = True
            warn(ITERATOR_LOST, self._where)
        self.stop()

    # In any thread.

    def fail(self, error: BaseException | str | None) -> bool:
        """No worker will come. False if one has. May be repeated."""
        if error is None or isinstance(error, str):
            error = concurrent.futures.CancelledError(error or DROPPED)
        first = self.__dict__.setdefault("claimed", error)
        if not isinstance(first, BaseException):
            return False
        self._end(first, False)
        self.claimed = _ENDED  # The executor may keep the job for long.
        return first is error

    def is_done(self, future: concurrent.futures.Future[Any]) -> None:
        """The executor has finished with the job; perhaps without ever running it."""
        if self.claimed is not None:  # The usual case.
            return
        if future.cancelled():
            self.fail(DROPPED)
        else:
            self.fail(future.exception() or self._not_begun(NOT_RUN))

    def has_ended(self) -> bool:
        return self.ended

    is_over = has_ended

    def is_here(self) -> bool:
        return not self.ended

    def title(self) -> str:
        return self.name

    def _not_begun(self, why: str) -> RuntimeError:
        return RuntimeError(ITERATOR_NOT_BEGUN.format(where=self._where, why=why))

    def _let_go(self) -> None:
        self._open = self._context = None

    def _end(self, error: BaseException | None, is_error_of_close: bool) -> None:
        self._let_go()
        self.error, self.is_error_of_close = error, is_error_of_close
        self.ended = True
        self._order(())
        if self._is_wanted:
            self._tell()

    def _tell(self) -> None:
        """Have the loop wake the task."""
        for left in reversed(range(TRIES)):
            self._is_wanted = False
            try:
                self.loop.deliver_soon(self)
                return
            except BaseException as exc:
                self._is_wanted = True
                if not left or not isinstance(exc, Exception):
                    raise
            time.sleep(POLL / TRIES)  # The loop is open, and could not be woken now.

    # In the worker.

    def __call__(self) -> None:
        """The job."""
        thread = get_ident()
        if self._submitter == thread:
            self.fail(self._not_begun(INLINE))
            return
        if self.claimed is not None or self.__dict__.setdefault("claimed", thread) is not thread:
            return
        try:
            self.since = time.monotonic()
            if self.loop.is_closed():
                self._let_go()
                self.abandon()
                return
            error, is_error_of_close = self._run(current.slot)
        except BaseException as exc:  # From outside, between two lines of ours.
            error, is_error_of_close = exc, False
        try:
            self._end(error, is_error_of_close)
        except BaseException:
            self._end(error, is_error_of_close)
            raise
        finally:
            del error  # The error has a traceback, whose frames lead back to this one.

    def _run(self, slot: Slot) -> tuple[BaseException | None, bool]:
        """Return the error, and whether it is one of ``close()``."""
        outer, slot.job = slot.job, self
        context, error, is_error_of_close = self._context, None, False
        try:
            offer_thread_event_loop()
            slot.has_loop = True
            if context is None:
                self._work(slot)
            else:
                context.run(self._work, slot)
        except _ClosingError as exc:
            error, exc.error, is_error_of_close = exc.error, None, True
        except BaseException as exc:
            error = exc
        finally:
            if slot.job is not self:  # In the child of a fork nobody waits.
                self._is_wanted = False
            slot.job = outer
        try:
            return None if error is None else without_stop_iteration(error), is_error_of_close
        finally:
            del error

    def _work(self, slot: Slot) -> None:
        """Open, read, and close. What ``close()`` raises comes out as ``_ClosingError``."""
        iterator: Any = None
        try:
            open_source, self._open = self._open, None
            iterator = open_source()  # type: ignore[misc]
            del open_source
            self._read(iterator, slot)
        finally:
            close = getattr(iterator, "close", None)
            del iterator
            if close is not None:
                try:
                    close()
                except BaseException as exc:
                    raise _ClosingError(exc) from None

    def _read(self, iterator: Iterator[Any], slot: Slot) -> None:
        append, buffer, size = self.buffer.append, self.buffer, self._size
        while not self.is_closing:
            try:
                # In no variable: the task may be done with it before there is another one.
                append(next(iterator))
            except StopIteration:
                return
            if self._is_wanted and slot.job is self:
                self._tell()
            if len(buffer) >= size:
                leave, come = partial(_away.mark_away_quietly, self), partial(_away.mark_back, self)
                _away.while_away(leave, partial(self._wait_for_room, slot), come)

    def _wait_for_room(self, slot: Slot) -> None:
        try:
            while True:
                # Set each time: a task that has made room before may clear it only now.
                self.is_full = True
                self._order(())
                if slot.job is not self:  # In the child of a fork nobody takes anything.
                    self.stop()
                if len(self.buffer) <= self.low or self.is_closing:
                    return
                try:
                    self._room.get(True, POLL)
                except queue.Empty:
                    if self.loop.is_gone():
                        self.abandon()
                    elif self._consumer() is None:
                        # Ctrl+C came before the task told it; or the collector, without a hook.
                        self.stop()
                    elif not self.is_closing:
                        _away.warn_if_needed(self)
        finally:
            self.is_full = False

    # As a ``_job.Caller``.

    @property
    def caller(self) -> IteratorJob:
        return self

    def is_gone(self) -> bool:
        return self.loop.is_gone()

    def run_on_loop(self, func: Callable[[], Any]) -> Any:
        return self.loop.run(self, func, {})

    def cancellation(self) -> BaseException:
        return self.loop.cancellation(self.token.why or ())

    def where(self) -> str:
        """The ``file:line`` that asked for the iterator."""
        return self._where

    def __reduce__(self) -> NoReturn:
        raise TypeError(ITERATOR_PICKLED.format(executor=type(self.executor).__qualname__))


class _ClosingError(Exception):
    """Brings an error of ``close()`` out of the Context."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error: BaseException | None = error
