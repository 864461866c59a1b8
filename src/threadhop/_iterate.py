"""``iterate_in_executor``: an async iterator over a blocking one."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextvars import copy_context
from functools import partial
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar, overload

from . import _executors, _hops
from ._callables import async_kind, name_of, unwrap_partial
from ._errors import (
    ITERATE_OFF_LOOP,
    ITERATE_REMOTE,
    ITERATOR_ELSEWHERE,
    NO_ARGUMENTS,
    NOT_A_NUMBER,
    NOT_BLOCKING,
    NOT_ITERABLE,
    TOO_SMALL,
)
from ._functions import check_executor
from ._iterator_job import IteratorJob
from ._loops import caller_here, default_executor_here, home_of, loop_here
from ._traps import OUTRANKS_CANCELLATION

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

NAME = "iterate_in_executor()"

#: Seconds after which the loop's other callbacks have a turn, even if there are items still.
TURN_AFTER = 0.005
#: As many items are taken between two looks at the clock and at the worker.
GLANCE = 16


class ExecutorIterator(AsyncIterator[T_co], Generic[T_co]):
    """The async iterator that ``iterate_in_executor`` returns.

    Like an async generator, it is iterated once, by one task at a time. ``async with`` closes it
    at the end of the body.

    .. versionadded:: 0.2
    """

    __slots__ = ("__weakref__", "_items")

    def __init__(self, items: AsyncGenerator[T_co, None]) -> None:
        self._items = items

    def __repr__(self) -> str:
        return f"<ExecutorIterator at {id(self):#x}>"

    def __aiter__(self) -> AsyncGenerator[T_co, None]:
        """The generator of the items: ``async for`` steps it without a detour."""
        return self._items

    def __anext__(self) -> Awaitable[T_co]:
        return self._items.__anext__()

    async def aclose(self) -> None:
        """Close the source, and wait until its ``finally`` has run, on its worker.

        If it is not at its end, that is a cancellation for the source: see ``iterate_in_executor``.
        May be called several times.

        Raises:
            RuntimeError: if another task waits for the next item.
            BaseException: what closing the source raises.
        """
        await self._items.aclose()

    async def __aenter__(self) -> ExecutorIterator[T_co]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._items.aclose()
        except RuntimeError:
            # Up to 3.11 an async generator whose consumer is closed in ``__anext__`` runs for ever.
            # Its worker sees that the consumer is gone.
            items: Any = self._items
            if exc_type is not GeneratorExit or not items.ag_running:
                raise


@overload
def iterate_in_executor(
    executor: Executor | None, source: Iterable[T], /, *, buffersize: int = 64
) -> ExecutorIterator[T]: ...


@overload
def iterate_in_executor(
    executor: Executor | None,
    source: Callable[..., Iterable[T]],
    /,
    *args: Any,
    buffersize: int = 64,
    **kwargs: Any,
) -> ExecutorIterator[T]: ...


def iterate_in_executor(
    executor: Executor | None, source: Any, /, *args: Any, buffersize: int = 64, **kwargs: Any
) -> ExecutorIterator[Any]:
    """Iterate over *source* on a worker thread of *executor*; return an async iterator. ::

        async with iterate_in_executor(executor, read_rows, path) as rows:
            async for row in rows:                    # on the loop
                await websocket.send_json(row)

    Equivalent to a loop in a block, but that does not go to the loop for each item::

        async with threadpool(executor):
            for row in read_rows(path):
                async with eventloop():
                    await websocket.send_json(row)

    Args:
        executor: An executor that runs threads of this process. None: the one given to
            ``configure()``, else the default executor of the loop.
        source: An iterable, or a function that returns one: a generator function, for one. An
            iterable that may be called, too, is called if there are arguments.
        args: The arguments of the function; *kwargs*, too. (For one that has an argument
            ``buffersize`` of its own use ``functools.partial``.)
        buffersize: As many items are read ahead, at most.

    One worker thread calls *source*, ``iter()``, each ``next()``, and at the end, in any case,
    ``close()`` if the iterator has that: so a cursor of sqlite3 may be made and used there. The
    worker is asked for at the first ``__anext__`` and is held until the end. It waits while
    the buffer is full; then it counts as away, as in an ``eventloop()`` part, and goes on when the
    buffer is half empty.

    The items come in order, and what is ready at once comes without a wait. The loop has a turn
    every few milliseconds all the same. An error of *source* comes after the items before it.

    *source* sees a copy of the context variables of the first ``__anext__``. In it
    ``check_cancelled()``, ``on_cancel()`` and ``exec_in_eventloop()`` work as in a call.

    Left early, by ``break``, an error or a cancellation, it closes the source on its worker: the
    ``finally`` of a generator runs there. Items that were read ahead are dropped, and so is the
    error of a ``next()``. ``aclose()``, or the end of ``async with``, waits for that; a
    forgotten one is closed by the loop, as any async generator. A ``next()`` that blocks cannot be
    killed, but it is told: to leave early is a cancellation for the source, so the callbacks of
    its ``on_cancel()`` are called, and its next ``check_cancelled()`` raises.

    Cancellation: of a task that waits for the next item: if the worker has not begun, at once. Else
    the source is closed first; then CancelledError is raised, whatever the source raised (its error
    is the ``__context__``).

    Raises:
        TypeError: at the call, if *executor* is none, or one whose jobs leave this process; if
            *source* is neither iterable nor callable, or is async: a coroutine function, an async
            iterable; if *buffersize* is no int.
        ValueError: at the call, if *buffersize* is less than 1.
        RuntimeError: at the first ``__anext__``, if no loop runs in this thread, or if the executor
            does not begin: it was shut down, or ran the job inline. An error of its own is raised
            as it is.
        concurrent.futures.CancelledError: if the executor drops the job.
        BaseException: whatever *source* raises; StopIteration of the function as RuntimeError.

    .. versionadded:: 0.2
    """
    if executor is not None:
        check_executor(NAME, executor)
    return start(executor, source, args, kwargs, buffersize, True, NAME, sys._getframe(1))


def start(
    executor: Executor | None,
    source: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    buffersize: int,
    handle_contexts: bool,
    name: str,
    frame: FrameType,
) -> ExecutorIterator[Any]:
    """Check the arguments. Nothing begins yet."""
    if executor is not None and (remote := _executors.name_of_remote(executor)) is not None:
        raise TypeError(ITERATE_REMOTE.format(name=remote))
    _check_source(name, source, bool(args or kwargs))
    if not isinstance(buffersize, int) or isinstance(buffersize, bool):
        raise TypeError(NOT_A_NUMBER.format(name="buffersize", got=repr(buffersize)))
    if buffersize < 1:
        raise ValueError(TOO_SMALL.format(name="buffersize"))
    open_source = partial(_open, source, args, kwargs)
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    consumer = _Consumer()
    items = _items(
        partial(_make_job, executor, open_source, buffersize, handle_contexts, where), consumer
    )
    consumer.items = weakref.ref(items)
    return ExecutorIterator(items)


def _check_source(name: str, source: Any, has_arguments: bool) -> None:
    """Raise TypeError unless a worker can iterate over *source*, or over what it returns."""
    if not _is_iterable(source):
        if hasattr(type(source), "__aiter__"):
            raise TypeError(
                NOT_BLOCKING.format(name=name, got=repr(source), kind="an async iterable")
            )
        if not callable(source):
            if inspect.iscoroutine(source):
                source.close()  # Nobody will await it.
            raise TypeError(NOT_ITERABLE.format(name=name, got=repr(source)))
    elif not has_arguments:
        return
    elif not callable(source):
        raise TypeError(NO_ARGUMENTS.format(name=name, got=repr(source)))
    kind = async_kind(source)
    if kind is not None and kind != "a generator function":
        raise TypeError(NOT_BLOCKING.format(name=name, got=name_of(source), kind=kind))


def _is_iterable(source: object) -> bool:
    """Without a call of ``iter()``, which is the worker's."""
    kind = type(source)
    return getattr(kind, "__iter__", None) is not None or hasattr(kind, "__getitem__")


def _open(source: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """In the worker."""
    if args or kwargs or not _is_iterable(source):
        source = source(*args, **kwargs)
        if inspect.iscoroutine(source):
            source.close()  # ``iter()`` refuses it.
    return iter(source)


# All that follows runs in the task, on the loop.


def _make_job(
    executor: Executor | None,
    open_source: Callable[[], Iterator[Any]],
    buffersize: int,
    handle_contexts: bool,
    where: str,
    consumer: object,
) -> IteratorJob:
    try:
        loop, future_kind = caller_here(None, NAME)
    except RuntimeError:
        raise RuntimeError(ITERATE_OFF_LOOP) from None
    if executor is None:
        executor = _executors.configured
        if executor is None:
            executor = default_executor_here()
        elif (remote := _executors.name_of_remote(executor)) is not None:
            raise TypeError(ITERATE_REMOTE.format(name=remote))
    context = copy_context() if handle_contexts else None
    job = IteratorJob(executor, home_of(loop), open_source, buffersize, context, where, consumer)
    job.name = _name_of_source(open_source)
    job.new_future = partial(future_kind, loop=loop)
    return job


def _name_of_source(open_source: Any) -> str:
    source = unwrap_partial(open_source.args[0])
    return getattr(source, "__qualname__", None) or type(source).__qualname__


_hops.KINDS.add(IteratorJob)


class _Consumer:
    """Lives in the frame of ``_items``, and nowhere else."""

    __slots__ = ("__weakref__", "items")

    #: The generator of that frame.
    items: weakref.ref[AsyncGenerator[Any, None]]


def _forget(job_ref: weakref.ref[IteratorJob], _: object) -> None:
    """Nobody has the generator any more, in any thread: the garbage collector may call this.

    The loop will close it, and may wait for this very worker before: at the end of ``with pool:``.
    """
    job = job_ref()
    if job is not None and not job.ended:
        job.is_closing = True
        if job.token.why is None:
            job.token.request(())


async def _items(
    make_job: Callable[[_Consumer], IteratorJob], consumer: _Consumer
) -> AsyncGenerator[Any, None]:
    """A real generator: if it is left by ``break`` and forgotten, the loop closes it."""
    job = make_job(consumer)
    del make_job
    job.watch = weakref.ref(consumer.items(), partial(_forget, weakref.ref(job)))
    # A worker might be fast enough to begin.
    await job.loop.let_pending_cancellation_out()
    buffer, popleft = job.buffer, job.buffer.popleft
    glance = range(min(GLANCE, max(1, job.low)))
    try:
        job.start()
        turn_at = monotonic() + TURN_AFTER
        while True:
            if not buffer:
                # (Once it has ended there is no other item. The last one came before.)
                if job.ended and not buffer:
                    break
                await _wait(job)
                turn_at = monotonic() + TURN_AFTER
            elif monotonic() >= turn_at:
                await job.loop.checkpoint()
                turn_at = monotonic() + TURN_AFTER
            for _ in glance:
                if not buffer:
                    break
                yield popleft()  # Suspended, this frame keeps no item alive.
            job.make_room()
        _raise_error(job)
    except BaseException as exc:
        await _leave(job, exc)
        raise
    finally:
        del consumer  # A traceback may keep this frame for long.


def _raise_error(job: IteratorJob) -> None:
    """At the end, behind the last item."""
    error = job.take_error()
    try:
        if error is not None:
            raise error
    finally:
        del error  # Its traceback has this frame.


async def _wait(job: IteratorJob) -> None:
    """Until there is an item, or the end, or for nothing.

    Cancelled, it waits until the worker tells the next time: the source is closed then, or soon.
    """
    if loop_here() is not job.loop:
        raise RuntimeError(ITERATOR_ELSEWHERE.format(where=job.where()))
    future = job.new_future()
    future.call = job
    try:
        if job.must_wait(future):
            await future.wait()
    finally:
        job.future = future.call = None
        del job, future


async def _leave(job: IteratorJob, error: BaseException) -> None:
    """Close the source, and wait for that. Raises what shall be raised instead of *error*."""
    is_cancellation = job.loop.is_cancellation
    cancellation = error if is_cancellation(error) else None
    try:
        if not job.try_cancel() and not job.ended:
            if job.token.why is None:
                job.token.request(())
            while True:
                if job.ended:
                    break
                job.buffer.clear()
                try:
                    await _wait(job)
                except BaseException as exc:
                    if not is_cancellation(exc):
                        raise  # Outside of its loop it cannot wait.
                    cancellation = cancellation or exc  # Of several the first.
        job.buffer.clear()
        late = job.take_error()
        if isinstance(late, OUTRANKS_CANCELLATION):
            raise late
        if late is not None and not is_cancellation(late):
            if cancellation is not None:
                cancellation.__context__ = late
            elif job.is_error_of_close:
                raise late
        if cancellation is not None and cancellation is not error:
            raise cancellation
    finally:
        late = cancellation = None
        del job, error  # Their tracebacks have this frame.
