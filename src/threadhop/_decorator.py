"""``@threadpool``: a plain function whose calls run on a worker thread."""

from __future__ import annotations

import asyncio
import functools
import inspect
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

P = ParamSpec("P")
P2 = ParamSpec("P2")
T = TypeVar("T")
Self = TypeVar("Self")


class ThreadpoolFunction(Generic[P, T]):
    """A function behind ``threadpool``; made by the decorator, never by hand.

    On a loop thread a call returns a coroutine. Awaiting it is::

        async with threadpool(executor):
            return func(*args, **kwargs)

    Where no loop runs (in a worker, in a plain thread) a call runs the function right there, and
    returns what it returns. The type is that of the awaitable form; ``sync`` is the function
    itself, with its own type.

    .. versionadded:: 0.1
    """

    sync: Callable[P, T]
    """The plain function."""

    def __init__(
        self, func: Callable[P, T], block: AbstractAsyncContextManager[None, None]
    ) -> None:
        functools.update_wrapper(self, func)
        self.sync = func
        self._block = block
        # Frameworks ask before they call: this one is to be awaited.
        if hasattr(inspect, "markcoroutinefunction"):
            inspect.markcoroutinefunction(self)
        else:  # Python 3.11
            self._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        if _get_running_loop() is None:
            return cast("Coroutine[Any, Any, T]", self.sync(*args, **kwargs))
        return self._call_in_block(*args, **kwargs)

    async def _call_in_block(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._block:
            return self.sync(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type | None = None) -> ThreadpoolFunction[P, T]: ...

    @overload
    def __get__(
        self: ThreadpoolFunction[Concatenate[Self, P2], T],
        instance: Self,
        owner: type[Self] | None = None,
    ) -> ThreadpoolFunction[P2, T]: ...

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Methods: bound like the function itself."""
        bind = getattr(type(self.sync), "__get__", None)
        if bind is None:  # A builtin or a partial is no method.
            return self
        bound = bind(self.sync, instance, owner)
        return self if bound is self.sync else ThreadpoolFunction(bound, self._block)

    def __repr__(self) -> str:
        return f"<threadpool function {getattr(self, '__qualname__', self.sync)}>"
