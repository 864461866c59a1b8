"""``@threadpool``: a plain function whose calls run on a worker thread.

The decorator makes a function, no object that imitates one: frameworks look at functions in more
ways than can be imitated (they bind, pickle, compare, inspect and annotate them).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import FunctionType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from ._callables import name_of
from ._loops import is_on_loop, job_here

P = ParamSpec("P")
P2 = ParamSpec("P2")
T = TypeVar("T")
Self = TypeVar("Self")


class ThreadpoolFunction(Protocol[P, T]):
    """The type of a function that ``threadpool`` has decorated; at run time a plain function.

    On a loop thread a call returns a coroutine. Awaiting that is::

        async with threadpool(executor):
            return func(*args, **kwargs)

    Where no loop runs (in a worker, in a plain thread) a call runs the function right there, and
    returns what it returns. The type is that of the awaitable form; ``sync`` is the function
    itself, with its own type. (Of a method it is not bound: ``Class.method.sync(instance)``.)
    ``inspect.iscoroutinefunction`` says True, on CPython.

    .. versionadded:: 0.1
    """

    sync: Callable[P, T]
    """The plain function."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]: ...

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> ThreadpoolFunction[P, T]: ...

    @overload
    def __get__(
        self: ThreadpoolFunction[Concatenate[Self, P2], T],
        instance: Self,
        owner: type[Self] | None = None,
    ) -> Callable[P2, Coroutine[Any, Any, T]]: ...

    # The same, for ty and pyrefly.
    @overload
    def __get__(
        self: Callable[Concatenate[Self, P2], Coroutine[Any, Any, T]],
        instance: Self,
        owner: type[Self] | None = None,
    ) -> Callable[P2, Coroutine[Any, Any, T]]: ...


def decorated(
    func: Callable[P, T], block: AbstractAsyncContextManager[None, None]
) -> ThreadpoolFunction[P, T]:
    """A function that calls *func* in *block*."""
    if isinstance(func, staticmethod):
        static: Any = staticmethod(decorated(func.__func__, block))
        return cast("ThreadpoolFunction[P, T]", static)
    name = name_of(func)

    async def call_in_block(args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        async with block:
            return func(*args, **kwargs)

    @functools.wraps(func)
    def function(*args: Any, **kwargs: Any) -> Any:
        if not is_on_loop() or job_here() is not None:
            return func(*args, **kwargs)
        coro: Any = call_in_block(args, kwargs)
        coro.__qualname__ = name  # A forgotten ``await`` names the user's function.
        return coro

    _mark_as_coroutine_function(function)
    function.sync = func  # type: ignore[attr-defined]
    return cast("ThreadpoolFunction[P, T]", function)


def _mark_as_coroutine_function(function: Any) -> None:
    """Frameworks ask before they call: this one is to be awaited."""
    assert type(function) is FunctionType
    if sys.version_info >= (3, 12):
        inspect.markcoroutinefunction(function)
    elif sys.implementation.name == "cpython":
        # In 3.11 the flag is only looked at: a bytecode makes the coroutines.
        code = function.__code__
        function.__code__ = code.replace(co_flags=code.co_flags | inspect.CO_COROUTINE)
    else:  # PyPy goes by the flag. At least asyncio.iscoroutinefunction() says True.
        function._is_coroutine = getattr(  # type: ignore[attr-defined]
            asyncio.coroutines, "_is_coroutine", None
        )
