"""Calls in an executor: the ways to make one, and functions to call."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, NamedTuple

from helpers.steps import sleep, until

from threadhop import (
    AsyncExecutor,
    exec_in_executor,
    exec_in_executor_threading_future,
    unwrap_future,
)


class OopsError(Exception):
    """An error that a test raises on purpose."""


def plain(number: int, *, plus: int = 0) -> int:
    return number * 2 + plus


async def twice(number: int, *, plus: int = 0) -> int:
    await sleep(0)
    return number * 2 + plus


def oops() -> None:
    raise OopsError


def prefix() -> str:
    """The ``thread_name_prefix`` of the pool whose worker calls it."""
    return threading.current_thread().name.partition("_")[0]


class AsyncCallable:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)


#: All that may be called in an executor, or from there on the loop. Called with 4, plus=1: 9.
CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine function": twice,
    "partial of a function": functools.partial(plain),
    "partial of a coroutine function": functools.partial(twice),
    "partial of a partial": functools.partial(functools.partial(twice)),
    "async __call__": AsyncCallable(),
    "partial of an async __call__": functools.partial(AsyncCallable()),
    "bound method": AsyncCallable().__call__,
    "lambda that returns a coroutine": lambda number, plus: twice(number, plus=plus),
}

#: Our names are free for the function's own arguments.
NAMES = dict.fromkeys(["executor", "func", "args", "kwargs", "self", "loop", "block", "task"], "x")


class Stop:
    """A coroutine function that waits on its worker until it is cancelled.

    Attributes:
        started: Set when the coroutine waits.
        seen: The arguments of each cancellation that the coroutine caught.
        ended: Set at its end, after an await in its cleanup.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.seen: list[tuple[Any, ...]] = []
        self.ended = threading.Event()

    async def __call__(self) -> None:
        try:
            self.started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            self.seen.append(error.args)
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.set()


# --- the ways to make a call and to await it


async def by_exec_in_executor(executor: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    return await exec_in_executor(executor, func, *args, **kwargs)


async def by_threading_future(executor: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    future = exec_in_executor_threading_future(executor, func, *args, **kwargs)
    # (asyncio.wrap_future() would turn some errors into others.)
    await until(future.done)
    return future.result(0)


async def by_unwrap_future(executor: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    return await unwrap_future(exec_in_executor_threading_future(executor, func, *args, **kwargs))


async def by_run(executor: Any, func: Any, /, *args: Any, **kwargs: Any) -> Any:
    return await AsyncExecutor(executor).run(func, *args, **kwargs)


Way = Callable[..., Coroutine[Any, Any, Any]]
WAYS: dict[str, Way] = {
    "exec_in_executor": by_exec_in_executor,
    "threading_future": by_threading_future,
    "unwrap_future": by_unwrap_future,
    "run": by_run,
}


# --- calls that somebody may cancel


class Kind(NamedTuple):
    """A kind of call, which is on its way once ``start`` has returned and the loop had a turn.

    Attributes:
        start: Takes the executor, the function and its arguments.
        message: The arguments that ``cancel`` of this kind takes.
        waits: Whether a cancelled one waits for the function that runs.
    """

    start: Callable[..., Any]
    message: tuple[str, ...]
    waits: bool


def start_run(executor: Executor, func: Callable[..., Any], /, *args: Any) -> Any:
    return asyncio.ensure_future(AsyncExecutor(executor).run(func, *args))


KINDS = {
    "exec_in_executor": Kind(exec_in_executor, ("enough",), waits=False),
    "threading_future": Kind(exec_in_executor_threading_future, (), waits=False),
    "run": Kind(start_run, ("enough",), waits=True),
}


async def wrapped(call: Any) -> Any:
    """Await *call*, a future of either kind."""
    return await (call if asyncio.isfuture(call) else asyncio.wrap_future(call))


async def error_of(call: Any) -> BaseException:
    """The error that *call*, a future of any kind, raises to a task that awaits it."""
    await until(call.done)
    try:
        if isinstance(call, Future):
            call.result(0)
        else:
            await call
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


def chain_of(error: BaseException | None) -> list[type[BaseException]]:
    """The kinds of *error* and of its contexts."""
    kinds = []
    while error is not None:
        kinds.append(type(error))
        error = error.__context__
    return kinds


class Inline(Executor):
    """Runs each job in the thread that submits it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future
