"""Kinds of callables."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any


def unwrap_partial(func: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(func, functools.partial):
        func = func.func
    return func


def async_kind(func: Callable[..., Any]) -> str | None:
    """The kind of *func*, in words, if calling it does not simply run it to its end; else None.

    Looks through partials and at the ``__call__`` of objects.
    """
    inner = unwrap_partial(func)
    call = type(inner).__call__
    for candidate in (func, inner, call):
        # asyncio's own question too: before Python 3.12 only it knows what was marked.
        if inspect.iscoroutinefunction(candidate) or _is_marked(candidate):
            return "a coroutine function"
        if inspect.isasyncgenfunction(candidate):
            return "an async generator function"
        if inspect.isgeneratorfunction(candidate):
            return "a generator function"
    return None


def _is_marked(func: object) -> bool:
    marker = getattr(asyncio.coroutines, "_is_coroutine", None)
    return marker is not None and getattr(func, "_is_coroutine", None) is marker


def name_of(func: object) -> str:
    """A name for messages."""
    return getattr(func, "__qualname__", None) or repr(func)
