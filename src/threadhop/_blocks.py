"""``async with threadpool():``, the block whose body runs on a worker thread."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from . import _executors
from ._adoption import is_awaited, leave_for_owner, let_go
from ._callables import async_kind, begins_unseen, name_of
from ._decorator import ThreadpoolFunction, decorated
from ._entries import Entry, Leaving, LoopPart, generators_at, is_entered
from ._errors import (
    FORGOT_CALL,
    NO_LOOP_PART,
    NOT_AN_EXECUTOR,
    NOT_ENTERED,
    NOT_PLAIN,
    REMOTE,
    WORKER_GONE,
    add_remedy,
)
from ._loops import current_strand, current_strand_or_none, is_on_loop
from ._pool import WorkerPool
from ._pool._limited_view import LimitedView
from ._strand import Strand
from ._traps import OUTRANKS_CANCELLATION, stay, then_raise

P = ParamSpec("P")
T = TypeVar("T")


class ThreadpoolBlock:
    """Made by ``threadpool(executor)``. A block keeps no state: share it and nest it at will."""

    __slots__ = ("_executor",)

    #: A class attribute: at the end of the process the names of this module are None.
    _stay = staticmethod(stay)

    def __init__(self, executor: Executor | None) -> None:
        self._executor = executor

    def __repr__(self) -> str:
        return f"threadpool({'' if self._executor is None else repr(self._executor)})"

    def __call__(self, func: Callable[P, T], /) -> ThreadpoolFunction[P, T]:
        """Decorate *func*: see ``threadpool``."""
        return _decorated(func, self)

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        strand = current_strand()
        executor = self._executor
        if executor is None:
            executor = _executors.configured
            if executor is None:
                executor = strand.loop.default_executor(strand)
        return strand.enter(self, executor)

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        if current_strand_or_none is None:  # The process ends, and has emptied this module.
            return self._stay()
        strand = current_strand_or_none()
        if strand is None or not is_entered(strand.entries, self):
            if strand is not None and strand.is_abandoned and exc is not None:
                return stay()
            return _not_entered_by_this_task(exc)
        if exc is not None:
            if isinstance(exc, GeneratorExit) and not is_awaited(sys._getframe(1)):
                return _not_entered_by_this_task(exc)
            add_remedy(exc)
        return strand.leave(self, exc)


async def _not_entered_by_this_task(exc: BaseException | None) -> None:
    """The task that runs here is not in the block.

    Usually nobody leaves it: the garbage collector closes an abandoned coroutine, wherever it
    happens to run. There is no task to move then, and a coroutine that is being closed must not
    suspend itself.
    """
    passes = (GeneratorExit, *OUTRANKS_CANCELLATION)
    if not isinstance(exc, passes) and not hasattr(exc, "_threadhop_refused"):
        raise RuntimeError(NOT_ENTERED)


class eventloop:  # noqa: N801 - reads like a keyword
    """Run the body of ``async with eventloop():`` on the event loop, inside of a block.

    The body runs on the loop thread, in the same task, and may await. The worker waits for it, and
    the same worker thread goes on after it, so objects that are bound to a thread (a connection of
    sqlite3) stay valid. ::

        async with threadpool():
            for row in connection.execute(query):     # on a worker
                async with eventloop():
                    await websocket.send_json(row)    # on the loop
                                                      # on the same worker again

    On the loop thread, outside of any block, ``eventloop()`` does nothing. The object may be reused
    and shared, and nested with blocks to any depth. Context variables are carried along, both ways.

    An async generator may yield in it: the consumer runs on the loop, and the worker waits. If
    another task of the loop goes on with the generator, or closes it, the rest of the block runs on
    the worker that waits, and that task comes home at its end.

    Cancellation: CancelledError is raised at an ``await`` of the body, as usual, and then passes
    through the part that runs on the worker. Code that swallows it there meets it again at the exit
    of the block. If the task was cancelled before the body began, CancelledError is raised at the
    entry, in the worker.

    While it is away the worker does no other work. When all workers of an executor are away in
    parts that wait for work of the same executor, they wait in a circle; a cancellation or a
    timeout ends that. Give such blocks a pool of their own.

    On trio all of this is the same, and the error is ``trio.Cancelled``.

    Raises:
        RuntimeError: at entry, in a thread that works for no event loop. At the exit, in another
            event loop than the one that entered, or in a task for which the worker waits in
            ``exec_in_eventloop``.

    .. versionadded:: 0.1
    """

    __slots__ = ("__weakref__", "_part")

    #: A class attribute: at the end of the process the names of this module are None.
    _stay = staticmethod(stay)

    def __init__(self) -> None:
        self._part: LoopPart[Strand] = LoopPart(self)

    def __aenter__(self) -> Coroutine[Any, Any, None]:
        strand = current_strand_or_none()
        if strand is not None and strand.entries:
            return strand.enter_loop_part(self._part, sys._getframe(1))
        if not is_on_loop():
            raise RuntimeError(NO_LOOP_PART)
        self._part.enter_outside(sys._getframe(1))
        return stay()

    def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Coroutine[Any, Any, None]:
        if current_strand_or_none is None:  # The process ends, and has emptied this module.
            return self._stay()
        entry = None
        try:
            part, frame = self._part, sys._getframe(1)
            entry = _left_in(frame, part, exc)
            return _leave_part(part, entry, exc, frame)
        except KeyboardInterrupt as interrupt:
            # The rest of the body belongs on the worker, whatever has happened.
            part, frame = self._part, sys._getframe(1)
            if entry is None:
                entry = _left_in(frame, part, exc)
            return then_raise(_leave_part(part, entry, exc, frame), interrupt)


# Ctrl+C before its first line would leave the body on the loop.
begins_unseen(eventloop.__aexit__)


def _is_closed(frame: FrameType, exc: BaseException | None) -> bool:
    """Whether nobody awaits what ends in *frame*: the garbage collector closes it."""
    return isinstance(exc, GeneratorExit) and not is_awaited(frame)


def _left_in(frame: FrameType, part: LoopPart[Strand], exc: BaseException | None) -> Entry | None:
    """Of *part*: which of those that have it entered leaves it in *frame*."""
    if _is_closed(frame, exc):
        return part.left_in(frame, None)
    strand = current_strand_or_none()
    if strand is None:
        return part.left_in(frame, ())
    return part.left_in(frame, None if strand.is_abandoned else strand.entries)


def _leave_part(
    part: LoopPart[Strand], entry: Entry | None, exc: BaseException | None, frame: FrameType
) -> Coroutine[Any, Any, None]:
    """May be repeated before it is awaited."""
    strand = current_strand_or_none()
    if entry is None:
        if strand is not None and strand.is_abandoned and exc is None:
            # The rest of the body belongs on the worker, and must not run here.
            raise RuntimeError(WORKER_GONE)
        return stay()
    owner = part.entered.get(entry)
    if _is_closed(frame, exc):
        if owner is not None:
            let_go(owner, Leaving(entry, generators_at(frame)))
            return stay()
    elif strand is not None and entry in strand.entries:
        is_last = entry is strand.entries[-1]
        return strand.leave(part, exc, None if is_last else Leaving(entry, generators_at(frame)))
    elif owner is not None:
        return leave_for_owner(owner, Leaving(entry, generators_at(frame)), exc)
    part.leave(entry)  # Of no block.
    return stay()


@overload
def threadpool(executor: Executor | None = None) -> ThreadpoolBlock: ...


@overload
def threadpool(executor: Callable[P, T], /) -> ThreadpoolFunction[P, T]: ...


def threadpool(
    executor: Executor | Callable[P, T] | None = None,
) -> ThreadpoolBlock | ThreadpoolFunction[P, T]:
    """Run the body of ``async with threadpool(executor):`` on a worker thread of *executor*.

    The body is like that of any other block: its locals are those of its function, ``return``,
    ``break`` and ``continue`` work, errors keep their traceback, context variables that the body
    sets hold after it. The line after the block is on the loop thread again, always. ::

        async with threadpool():
            data = path.read_bytes()          # on a worker
        await send(data)                      # on the loop

    does what this does, without the function::

        def read():
            return path.read_bytes()

        data = await asyncio.to_thread(read)
        await send(data)

    Args:
        executor: An instance of ``concurrent.futures.Executor`` that runs threads of this
            process. None: the one given to ``configure()``, else the default executor of the
            loop; on trio a pool that the library shares.

    The block keeps no state. Many tasks may use it at once, again and again, and nest it: in a
    block of the same executor a block stays on the thread where it is; in a block of another
    executor it moves there, and its end comes back to the same outer thread.

    Inside the body there is no running loop. An ``await`` that would suspend is refused where it
    stands, with a RuntimeError; the body may go on.

    Cancellation: a task that is cancelled before the body has begun gets its CancelledError at
    once, and the body never runs. A task that is cancelled while the body runs gets it at the exit
    of the block, after the body has come to its end: a thread is never abandoned. An error of the
    body is the context of that CancelledError; a KeyboardInterrupt or SystemExit of the body wins.
    On trio it is ``trio.Cancelled``, and entry and exit are checkpoints.

    As a decorator, ``@threadpool``, ``@threadpool()`` or ``@threadpool(executor)``, it makes a
    plain function, bound method, builtin or partial awaitable: see ``ThreadpoolFunction``.

    Raises:
        TypeError: at the call, if *executor* is no executor, or one whose jobs leave this
            process; or if the function to decorate is a coroutine, generator or async generator
            function.
        RuntimeError: at entry, on the loop thread, if no task runs here, or if the executor does
            not start the body: it was shut down, dropped the job, or ran it inline. If the
            executor has an error of its own for that, this error.

    .. versionadded:: 0.1
    """
    if executor is None:
        return _DEFAULT
    if type(executor) in _USUAL:
        return ThreadpoolBlock(executor)  # type: ignore[arg-type]
    if isinstance(executor, Executor):
        if (name := _executors.name_of_remote(executor)) is not None:
            raise TypeError(REMOTE.format(name=name))
        return ThreadpoolBlock(executor)
    if isinstance(executor, type) and issubclass(executor, Executor):
        raise TypeError(FORGOT_CALL.format(name=executor.__qualname__))
    if callable(executor) and not isinstance(executor, type):
        return _decorated(executor, _DEFAULT)
    raise TypeError(NOT_AN_EXECUTOR.format(got=repr(executor)))


def _decorated(func: Callable[P, T], block: ThreadpoolBlock) -> ThreadpoolFunction[P, T]:
    if not callable(func) or isinstance(func, type):
        raise TypeError(NOT_AN_EXECUTOR.format(got=repr(func)))
    kind = async_kind(func)
    if kind is not None:
        raise TypeError(NOT_PLAIN.format(name=name_of(func), kind=kind))
    return decorated(func, block)


_DEFAULT = ThreadpoolBlock(None)

#: The cheapest test comes first, and lets these pass.
_USUAL = frozenset((ThreadPoolExecutor, WorkerPool, LimitedView))
