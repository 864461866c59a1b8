"""The kinds of callable that decorators tell apart."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from helpers.calls import AsyncCallable, plain, twice

from threadhop._callables import async_kind


def generate() -> Iterator[int]:
    yield 1


async def generate_async() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (plain, None),
        (print, None),
        (twice, "a coroutine function"),
        (AsyncCallable(), "a coroutine function"),
        (generate, "a generator function"),
        (generate_async, "an async generator function"),
    ],
    ids=["function", "builtin", "coroutine", "async-call", "generator", "async-generator"],
)
def test_partials_are_what_they_call(func: Callable[..., Any], expected: str | None) -> None:
    """A partial of an object with an async ``__call__`` is a coroutine function, too."""
    partial = functools.partial(functools.partial(func))
    # A partial of a partial is flattened, unless it has attributes of its own.
    partial.name = "mine"  # type: ignore[attr-defined]
    for candidate in (func, functools.partial(func), functools.partial(partial)):
        assert async_kind(candidate) == expected
