"""Kinds of callables."""

from __future__ import annotations

import asyncio
import dis
import functools
import inspect
import sys
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


def line_of(func: Any) -> str:
    """The ``file:line`` at which *func* begins."""
    inner = unwrap_partial(func)
    for candidate in (inner, getattr(inner, "__call__", None)):  # noqa: B004 - of an object
        code = None if candidate is None else getattr(inspect.unwrap(candidate), "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
    return f"an unknown line of {name_of(inner)}"


def name_of_executor(executor: object) -> str:
    """Its kind, and what the names of its threads begin with, if it tells."""
    prefix = getattr(executor, "_thread_name_prefix", "")
    return f"{type(executor).__qualname__} {prefix}".rstrip()


def name_of(func: object) -> str:
    """A name for messages."""
    return getattr(func, "__qualname__", None) or repr(func)


def begins_unseen(func: Callable[..., Any]) -> None:
    """Let *func* begin without a look for signals: none of them can come before its first line.

    CPython looks when a function begins, but not when a coroutine goes on after an ``await``. Both
    is the same instruction, with another argument. Elsewhere nothing changes.
    """
    resume = dis.opmap.get("RESUME")
    if resume is None or sys.version_info >= (3, 16):  # From then on nobody has looked.
        return
    code = bytearray(func.__code__.co_code)
    at = next(at for at in range(0, len(code), 2) if code[at] == resume)
    if code[at + 1] == 0:
        code[at + 1] = 2
        func.__code__ = func.__code__.replace(co_code=bytes(code))
