"""Tests within anyio's cancel scopes, on asyncio. (To be imported where anyio is.)"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from helpers.loops import LoopKind


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


def in_tasks(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs in a task of each kind that anyio knows.

    At its end nothing of a cancellation is left in that task.
    """

    async def main(fixtures: dict[str, Any]) -> None:
        await test(**fixtures)
        assert cancelling() == 0

    @functools.wraps(test)
    def run(current_task_loops: LoopKind, **fixtures: Any) -> None:
        current_task_loops.run(main(fixtures))

    signature = inspect.signature(test)
    loops = inspect.Parameter("current_task_loops", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [loops, *signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


@contextmanager
def caught(delay: float = math.inf) -> Iterator[Any]:
    """A scope that is cancelled, after *delay* or by its user, and catches that."""
    import anyio

    with anyio.move_on_after(delay) as scope:
        yield scope
    assert scope.cancelled_caught
    assert cancelling() == 0
