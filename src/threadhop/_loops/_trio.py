"""trio's side of a strand: which task runs here, and what a strand asks of its run."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any

from .. import _lifetime
from .._cancel_token import CancelToken
from .._errors import report
from .._executors import shared_pool
from .._interface import AnyStrand, Loop
from .._strand import Strand
from .._variables import Tokens
from ._attributes import LOOP
from ._entry_queue import EntryQueue, Posted
from ._trio_calls import from_thread_run_on_trio
from ._trio_futures import TrioFuture, run_on_own_trio
from ._trio_suspension import Departures, TrioSuspension
from ._trio_traps import is_cancelled, lowlevel, message_to_trio, trio, trio_cancelled

#: The kind of future by which a task waits for a call.
Future = TrioFuture

_runs = lowlevel.RunVar("threadhop")


def loop_here() -> TrioLoop:
    """In a task of trio."""
    loop: TrioLoop | None = _runs.get(None)
    if loop is None:
        loop = TrioLoop()
        _runs.set(loop)
        lowlevel.add_instrument(loop.watcher)
    return loop


def strand_of_current_task() -> Strand:
    """In a task of trio."""
    task, loop = lowlevel.current_task(), loop_here()
    strand = loop.strands.get(task)
    if strand is None:
        strand = loop.strands[task] = Strand(loop)
    return strand


def existing_strand_of_current_task() -> Strand | None:
    """In a task of trio."""
    loop = _runs.get(None)
    return None if loop is None else loop.strands.get(lowlevel.current_task())


def current_coroutine() -> Any:
    """In a task of trio."""
    return lowlevel.current_task().coro


def raise_pending_cancellation() -> None:
    """In a task of trio: what the next checkpoint would raise."""
    if is_cancelled():
        raise trio_cancelled()


class TrioLoop(EntryQueue, Loop):
    """One for each run of trio, kept in a variable of the run."""

    __slots__ = (
        "__weakref__",
        "asyncgen_hooks",
        "departures",
        "is_over",
        "said",
        "strands",
        "thread",
        "token",
        "watcher",
    )

    library = "trio"
    thread: threading.Thread

    def __init__(self) -> None:
        super().__init__()
        self.token = lowlevel.current_trio_token()
        self.thread = threading.current_thread()
        #: The lines of warnings that it does not answer.
        self.said: set[tuple[str, str]] = set()
        #: Whether the run has ended. Written in the thread of the run, or by one that finds out.
        self.is_over = False
        #: By task. An entry goes when its task ends, see ``_Watcher``: a weak dictionary would keep
        #: a task whose variables refer to it. In the thread of the run.
        self.strands: dict[Any, Strand] = {}
        self.departures = Departures(self.strands)
        self.watcher = _Watcher(self)
        self.asyncgen_hooks = _hooks_for_workers(self)

    def suspend(self, strand: AnyStrand) -> object:
        suspension = TrioSuspension(strand, lowlevel.current_task())
        strand.suspension = suspension
        self.departures.switch_on()
        return message_to_trio(suspension)

    # As an asyncio loop, for the entry queue.

    def call_soon_threadsafe(self, func: Callable[..., object], *args: Any) -> None:
        try:
            self.token.run_sync_soon(func, *args)
        except (trio.RunFinishedError, OSError):
            self.is_over = True
            raise

    def deliver_soon(self, entry: Posted) -> None:
        self.post(entry, self)  # type: ignore[arg-type]

    def post_again(self, loop: object) -> None:
        """Nobody interrupts the delivery."""

    def run_all_bounded(self) -> None:
        """In a callback of the run, which bears no error."""
        for _ in range(len(self._queue)):
            entry = self._queue.popleft()
            try:
                entry.deliver()
            except BaseException:
                report("Exception in a callback of trio")
            finally:
                del entry

    def append_silently(self, entry: Posted) -> None:
        """In a worker, whose task posts something soon: deliver *entry* before that."""
        self._queue.append(entry)

    def is_closed(self) -> bool:
        return self.is_over

    def is_gone(self) -> bool:
        if self.is_over:
            return True
        # As with asyncio: a run in a thread of its own may still bring the task back.
        thread = self.thread
        return _lifetime.is_ending() and (
            thread is threading.main_thread() or thread.daemon or not thread.is_alive()
        )

    def default_executor(self, strand: AnyStrand) -> Executor:
        return shared_pool()

    def cancellation(self, why: Any) -> BaseException:
        if isinstance(why, BaseException):
            return why
        if callable(why):
            try:
                why()
            except BaseException as error:
                return error.with_traceback(None)
        return trio_cancelled()

    def is_cancellation(self, error: BaseException | None) -> bool:
        return isinstance(error, trio.Cancelled)

    def why(self, error: BaseException) -> Any:
        return error

    def count_cancels(self) -> int:
        return int(is_cancelled())

    def checkpoint(self) -> Awaitable[Any]:
        return lowlevel.checkpoint()  # type: ignore[no-any-return]

    async def let_pending_cancellation_out(self) -> None:
        await lowlevel.checkpoint_if_cancelled()

    def name_of(self, strand: AnyStrand) -> str:
        task = self._task_of(strand)
        return super().name_of(strand) if task is None else str(task.name)

    def coroutine_of(self, strand: AnyStrand) -> Any:
        task = self._task_of(strand)
        return strand.coro if task is None else task.coro

    def _task_of(self, strand: AnyStrand) -> Any:
        """In any thread; None if it has ended."""
        return next((task for task, its in self.strands.copy().items() if its is strand), None)

    def run(self, caller: Any, func: Callable[[], Any], tokens: Tokens) -> Any:
        return from_thread_run_on_trio(self, caller, func, tokens)

    def run_coroutine(self, token: CancelToken, coro: Coroutine[Any, Any, Any]) -> Any:
        return run_on_own_trio(token, coro)


# A call asks the loop for its entry queue.
setattr(TrioLoop, LOOP, property(lambda self: self))


class _Watcher:
    """An instrument, for as long as the run."""

    def __init__(self, loop: TrioLoop) -> None:
        self._loop = loop

    def task_exited(self, task: Any) -> None:
        self._loop.strands.pop(task, None)

    def after_run(self) -> None:
        self._loop.is_over = True
        self._loop.strands.clear()
        self._loop.abandon_all()


class _NewGenerator:
    """An async generator that a worker was the first to iterate: trio has yet to know it."""

    def __init__(self, begin: Callable[[Any], object], agen: Any) -> None:
        self._begin = begin
        self._agen = weakref.ref(agen)

    def deliver(self) -> None:
        agen = self._agen()
        if agen is not None:
            self._begin(agen)

    def abandon(self) -> None:
        """Nobody closes it any more."""


def _hooks_for_workers(loop: TrioLoop) -> tuple[Any, Any]:
    """trio's hooks for async generators, but the first one for a worker.

    In trio's own a generator is trio's if a task of it runs in that thread. And a worker must not
    write to trio's set.
    """
    begin, finalizer = sys.get_asyncgen_hooks()
    if begin is None:
        return begin, finalizer
    return partial(_begin_in_worker, weakref.ref(loop), begin), finalizer


def _begin_in_worker(
    loop_ref: weakref.ref[TrioLoop], begin: Callable[[Any], object], agen: Any
) -> None:
    loop = loop_ref()
    if loop is not None:
        loop.append_silently(_NewGenerator(begin, agen))
