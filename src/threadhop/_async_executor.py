"""``AsyncExecutor``: any executor, for coroutines."""

from __future__ import annotations

import concurrent.futures
import contextlib
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Executor
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar, overload

from ._call_job import CallJob
from ._errors import NO_RUNNING_LOOP
from ._functions import check_callable, check_executor
from ._iterate import ExecutorIterator, start
from ._loops import caller_here, library_here

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Executor)


def _check_backend(backend: str | None) -> None:
    if backend not in (None, "asyncio", "trio"):
        raise ValueError(f"backend must be None, 'asyncio' or 'trio', not {backend!r}")


def _if_asked(cancel_futures: bool) -> dict[str, bool]:
    """Not every executor knows it (Dask's, loky's)."""
    return {"cancel_futures": True} if cancel_futures else {}


class AsyncExecutor(Generic[E]):
    """Run functions and coroutine functions in *executor*, and await them.

    Args:
        executor: Any ``concurrent.futures.Executor``: threads, process pools, subinterpreters, and
            clusters that speak that interface.
        backend: "asyncio", "trio", or None: found at each call.
        handle_contexts: Whether functions that run on threads of this process see a copy of the
            caller's context variables.

    ``async with AsyncExecutor(ThreadPoolExecutor(4)) as executor:`` shuts it down at the end,
    without blocking the loop.

    Raises:
        TypeError: if *executor* is none.
        ValueError: for another backend.

    .. versionadded:: 0.1
    """

    def __init__(
        self, executor: E, backend: str | None = None, *, handle_contexts: bool = True
    ) -> None:
        check_executor("AsyncExecutor()", executor)
        _check_backend(backend)
        self._executor = executor
        self._backend = backend
        self._handle_contexts = bool(handle_contexts)

    def __repr__(self) -> str:
        return f"<AsyncExecutor of {self._executor!r}>"

    @property
    def wrapped(self) -> E:
        """The executor itself."""
        return self._executor

    def backend(self) -> str:
        """The name of the kind of loop: as given, or the one that runs here.

        Raises:
            RuntimeError: if none was given, and no loop runs here.
        """
        library = library_here(self._backend)
        if library is None:
            raise RuntimeError(NO_RUNNING_LOOP.format(name="AsyncExecutor"))
        return library

    @overload
    async def run(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    @overload
    async def run(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def run(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call *func* in the executor, and return its result.

        *func* may be all that ``exec_in_executor`` takes, and runs in the same way.

        Cancellation: a call that has not begun is taken back, and CancelledError comes at once. A
        call that runs is waited for: on a thread of this process ``check_cancelled()`` raises in
        it, and a coroutine is cancelled; when the call has ended, CancelledError is raised,
        whatever the call returned or raised (its error is the ``__context__``). On trio it is
        ``trio.Cancelled``; there a coroutine runs under ``trio.run``.

        Raises:
            TypeError: if *func* is not callable.
            RuntimeError: if no loop runs here, or the executor was shut down.
            concurrent.futures.CancelledError: if the executor drops the call.
            BaseException: whatever *func* raises; StopIteration as RuntimeError.
        """
        check_callable("AsyncExecutor.run()", func)
        loop, kind = caller_here(self._backend, "AsyncExecutor.run()")
        if kind.checkpoint is not None:
            await kind.checkpoint()
        call = CallJob(self._executor, loop, func, args, kwargs, self._handle_contexts)
        return await call.start(kind).wait()

    def _start(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """A call of ``map``: the future that waits for it."""
        loop, kind = caller_here(self._backend, "AsyncExecutor.map()")
        return CallJob(self._executor, loop, func, args, {}, self._handle_contexts).start(kind)

    @overload
    def map(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any],
        buffersize: int | None = None,
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def map(
        self, func: Callable[..., T], /, *iterables: Iterable[Any], buffersize: int | None = None
    ) -> AsyncGenerator[T, None]: ...

    def map(
        self, func: Callable[..., Any], /, *iterables: Iterable[Any], buffersize: int | None = None
    ) -> AsyncGenerator[Any, None]:
        """Call *func* with the items of *iterables*, as ``map()`` does, many at a time.

        The calls are started at once, here. With *buffersize* at most that many are started ahead
        of the results that were taken, so the iterables may be infinite.

        Returns an async iterator of the results, in order. An error of a call is raised where its
        result would stand, and ends the iteration. When it is closed, or ended by an error, what
        has not begun is taken back. Left by ``break`` and forgotten, it is closed by the loop, as
        any async generator; ``contextlib.aclosing`` closes it at a place that one can name.

        Cancellation: of the task that waits for a result: as in ``run``.

        Raises:
            TypeError: if *func* is not callable, or *buffersize* no int.
            ValueError: if *buffersize* is less than 1.
        """
        check_callable("AsyncExecutor.map()", func)
        if buffersize is not None:
            if not isinstance(buffersize, int) or isinstance(buffersize, bool):
                raise TypeError("buffersize must be an int or None")
            if buffersize < 1:
                raise ValueError("buffersize must be at least 1, or None")
        arguments = zip(*iterables)  # noqa: B905 - like map(): the shortest decides
        results = _Calls(partial(self._start, func), arguments, buffersize).results()
        with contextlib.suppress(StopIteration):
            results.__anext__().send(None)
        return results

    @overload
    def iterate(self, source: Iterable[T], /, *, buffersize: int = 64) -> ExecutorIterator[T]: ...

    @overload
    def iterate(
        self,
        source: Callable[..., Iterable[T]],
        /,
        *args: Any,
        buffersize: int = 64,
        **kwargs: Any,
    ) -> ExecutorIterator[T]: ...

    def iterate(
        self, source: Any, /, *args: Any, buffersize: int = 64, **kwargs: Any
    ) -> ExecutorIterator[Any]:
        """Iterate over *source* on a worker thread: ``iterate_in_executor`` with this executor.

        Without ``handle_contexts`` *source* sees no context variables of the caller.

        Raises:
            TypeError: as ``iterate_in_executor``, also if the executor leaves this process.
        """
        contexts, frame = self._handle_contexts, sys._getframe(1)
        name = "AsyncExecutor.iterate()"
        return start(self._executor, source, args, kwargs, buffersize, contexts, name, frame)

    async def shutdown(self, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, and wait until it is, without blocking the loop.

        A thread of its own waits for that. A task that is cancelled stops waiting; the executor is
        shut down all the same.
        """
        loop, kind = caller_here(self._backend, "AsyncExecutor.shutdown()")
        shut_down = partial(self._executor.shutdown, wait=True, **_if_asked(cancel_futures))
        await kind.run_in_thread(loop, shut_down, "threadhop-shutdown")

    def shutdown_nowait(self, *, cancel_futures: bool = False) -> None:
        """Shut the executor down, and do not wait: ``executor.shutdown(wait=False)``."""
        self._executor.shutdown(wait=False, **_if_asked(cancel_futures))

    async def __aenter__(self) -> AsyncExecutor[E]:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()


class _Calls:
    """The calls of one ``map`` that were started, and whose results were not taken."""

    def __init__(
        self,
        start: Callable[[tuple[Any, ...]], Any],
        arguments: Iterator[tuple[Any, ...]],
        buffersize: int | None,
    ) -> None:
        self._start = start
        self._arguments = arguments
        self._futures: deque[Any] = deque()
        try:
            for args in islice(arguments, buffersize):
                self._futures.append(start(args))
        except BaseException:
            self.take_back()
            raise

    def _start_next(self) -> bool:
        for args in self._arguments:
            self._futures.append(self._start(args))
            return True
        return False

    def take_back(self) -> None:
        """In the loop thread: cancel what is left."""
        for future in self._futures:
            future.cancel()
            if future.done() and not future.cancelled():
                future.exception()  # Nobody will ask for it any more: do not log it.
        self._futures.clear()

    async def results(self) -> AsyncGenerator[Any, None]:
        """A real generator: if it is left by ``break`` and forgotten, the loop closes it.

        ``map`` itself takes the first item, a None: the loop knows the generator from then on.
        """
        futures = self._futures
        try:
            yield None
            while True:
                if not futures:
                    break
                yield await self._next_result()  # Suspended, this frame keeps no result alive.
        finally:
            self.take_back()

    async def _next_result(self) -> Any:
        self._start_next()
        future = self._futures.popleft()
        future.on_cancel_request = self.take_back
        return await future.wait()


async def unwrap_future(future: concurrent.futures.Future[T], backend: str | None = None) -> T:
    """Await a future of threads, as ``AsyncExecutor.run`` awaits its call.

    Equivalent to ``await asyncio.wrap_future(future)``, but for what cancellation does: a task that
    is cancelled takes *future* back if nobody has begun with it. Otherwise it waits until *future*
    is done; then CancelledError is raised.

    Args:
        future: Any ``concurrent.futures.Future``.
        backend: "asyncio", "trio", or None: found at the call.

    Raises:
        TypeError: if *future* is none.
        concurrent.futures.CancelledError: if somebody else cancelled *future*.
        BaseException: what *future* raises.

    .. versionadded:: 0.1
    """
    if not isinstance(future, concurrent.futures.Future):
        raise TypeError(f"unwrap_future() takes a concurrent.futures.Future, not {future!r}")
    _check_backend(backend)
    loop, kind = caller_here(backend, "unwrap_future()")
    result: T = await CallJob.of_future(future, loop, kind).wait()
    return result
