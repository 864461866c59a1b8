"""The function core: calls across the border, for code that is no block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, overload

from . import _away, _executors
from ._call_job import CallJob
from ._errors import (
    ASYNCIO_ONLY,
    FORGOT_CALL_OF,
    NO_CALLER,
    NO_RUNNING_LOOP,
    NOT_AN_EXECUTOR_FOR,
    NOT_CALLABLE,
    ON_LOOP_THREAD,
)
from ._loops import default_executor_here, is_on_loop, job_here, running_loop, trio_here
from ._loops._asyncio_futures import AbandoningFuture
from ._loops._default_executor import default_executor_of
from ._traps import need_frames

P = ParamSpec("P")
T = TypeVar("T")


def check_executor(name: str, executor: object) -> None:
    if isinstance(executor, Executor):
        return
    if isinstance(executor, type) and issubclass(executor, Executor):
        raise TypeError(FORGOT_CALL_OF.format(name=name, kind=executor.__qualname__))
    raise TypeError(NOT_AN_EXECUTOR_FOR.format(name=name, got=repr(executor)))


def check_callable(name: str, func: object) -> None:
    if not callable(func):
        raise TypeError(NOT_CALLABLE.format(name=name, got=repr(func)))


def configure(*, executor: Executor | None = None) -> None:
    """Set the executor that blocks and calls of this process use where none is named.

    None removes it: then blocks and calls use the default executor of the loop again (on trio a
    pool that the library shares). The setting
    concerns what is entered or called from now on, in every thread; nobody shuts the old or the new
    executor down.

    Raises:
        TypeError: if *executor* is no ``concurrent.futures.Executor``.

    .. versionadded:: 0.1
    """
    if executor is not None:
        check_executor("configure()", executor)
    _executors.configured = executor


@overload
def exec_in_executor(
    executor: Executor | None,
    func: Callable[P, Coroutine[Any, Any, T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> asyncio.Future[T]: ...


@overload
def exec_in_executor(
    executor: Executor | None, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> asyncio.Future[T]: ...


def exec_in_executor(
    executor: Executor | None, func: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> asyncio.Future[Any]:
    """Call *func* in *executor*; return a future of the running loop.

    A plain function: it may be called wherever a loop runs, also from code that is not async, and
    the call is on its way when it returns. Awaiting the future of a plain function is equivalent
    to::

        await asyncio.to_thread(func, *args, **kwargs)      # in executor

    Args:
        executor: Any ``concurrent.futures.Executor``, process pools and clusters included. None:
            the one given to ``configure()``, else the default executor of the loop.
        func: A function, a coroutine function, a partial of one, or an object with an async
            ``__call__``. A coroutine runs on an event loop of the worker thread's own.

    On a thread of this process *func* sees a copy of the caller's context variables,
    ``asyncio.get_event_loop()`` finds the loop of the thread, ``exec_in_eventloop`` calls the loop
    that the call came from, and ``check_cancelled`` tells whether the future was cancelled. Another
    process gets the bare call.

    Cancellation: the future is cancelled at once. A call that has not begun is taken back, a
    coroutine on a thread of this process is cancelled; a plain function cannot be stopped, and goes
    on to its end, or to its next ``check_cancelled()``.

    Raises:
        TypeError: at the call, if *executor* is no executor or *func* not callable.
        RuntimeError: at the call, if no asyncio loop runs, or if the executor was shut down. On
            trio ``await AsyncExecutor(executor).run(func)`` is the way.
        BaseException: from the future, whatever *func* raises; StopIteration as RuntimeError,
            ``concurrent.futures.CancelledError`` if the executor dropped the call, a TypeError that
            names the part that cannot be pickled.

    .. versionadded:: 0.1
    """
    # The checks stand here: calls cost time.
    if executor is not None and not isinstance(executor, Executor):
        check_executor("exec_in_executor()", executor)
    if not callable(func):
        check_callable("exec_in_executor()", func)
    loop = running_loop()
    if loop is None:
        text = NO_RUNNING_LOOP if trio_here() is None else ASYNCIO_ONLY
        raise RuntimeError(text.format(name="exec_in_executor()"))
    if executor is None:
        executor = _executors.configured
        if executor is None:
            executor = default_executor_of(loop)
    call = CallJob(executor, loop, func, args, kwargs, True)
    return call.start(AbandoningFuture)  # type: ignore[no-any-return]


@overload
def exec_in_executor_threading_future(
    executor: Executor | None,
    func: Callable[P, Coroutine[Any, Any, T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> concurrent.futures.Future[T]: ...


@overload
def exec_in_executor_threading_future(
    executor: Executor | None, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
) -> concurrent.futures.Future[T]: ...


def exec_in_executor_threading_future(
    executor: Executor | None, func: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> concurrent.futures.Future[Any]:
    """Call *func* in *executor*; return a future that threads can wait for.

    The same as ``exec_in_executor`` for callers that are not async: it needs no event loop. Without
    one, and with no executor named or configured, it uses a pool of the library's own.

    ``future.result()`` blocks: never call it on a loop thread. Cancellation is that of
    ``exec_in_executor``: the future is cancelled at once, also while the call runs.

    Raises:
        TypeError: at the call, if *executor* is no executor or *func* not callable.
        RuntimeError: at the call, if the executor was shut down.
        BaseException: from the future, as for ``exec_in_executor``.

    .. versionadded:: 0.1
    """
    if executor is not None:
        check_executor("exec_in_executor_threading_future()", executor)
    check_callable("exec_in_executor_threading_future()", func)
    trio = trio_here()
    loop: Any = running_loop() if trio is None else trio.loop_here()
    if executor is None:
        executor = _executors.configured
        if executor is None:
            executor = default_executor_here()
    return CallJob(executor, loop, func, args, kwargs, True).start_for_threads()


@overload
def exec_in_eventloop(
    func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...


@overload
def exec_in_eventloop(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def exec_in_eventloop(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call *func* on the event loop that this worker works for, wait, and return its result.

    For plain functions deep inside of a block, where no ``async with eventloop():`` can stand. In
    a block the call is equivalent to::

        async with eventloop():
            result = await func(*args, **kwargs)      # or func(*args, **kwargs)

    except that on asyncio a coroutine runs in a task of its own. A plain function runs in a
    callback of the loop: it must not block. On trio both run in the task that the worker works for,
    as with ``trio.from_thread.run``.

    *func* sees the context variables of the caller; those that it sets hold after it.

    Another awaitable that *func* returns (a future, ``agen.__anext__()``) is awaited, too.

    Cancellation: when the task of the block is cancelled, or the future that
    ``exec_in_executor`` returned, the task of the coroutine is cancelled with it, and the
    CancelledError (trio: Cancelled) is raised here; at once if that happened before. A plain
    function goes through also then: the ``finally`` of a cancelled body can tell the loop
    something.

    Raises:
        TypeError: if *func* is not callable.
        RuntimeError: on a loop thread (call or await it there), in a thread that works for no
            loop, and if the loop is closed.
        BaseException: whatever *func* raises.

    .. versionadded:: 0.1
    """
    check_callable("exec_in_eventloop()", func)
    job = job_here()
    if job is None and is_on_loop():
        raise RuntimeError(ON_LOOP_THREAD)
    caller = None if job is None else job.caller
    if job is None or caller is None:
        raise RuntimeError(NO_CALLER)
    need_frames()
    return _away.while_away(
        functools.partial(_away.mark_away, job, None),
        functools.partial(caller.run_on_loop, functools.partial(func, *args, **kwargs)),
        functools.partial(_away.mark_back, job),
    )
