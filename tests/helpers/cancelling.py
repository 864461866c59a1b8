"""Tasks that are cancelled at a place that the test knows."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import Gate, turns, until

from threadhop import threadpool

Body = Callable[[], Coroutine[Any, Any, Any]]


def forever() -> asyncio.Future[None]:
    """On the loop: a future that nobody ever completes."""
    return asyncio.get_running_loop().create_future()


async def stand_at(gate: Gate) -> None:
    """On the loop: await for ever, which begins before anybody sees that *gate* is reached."""
    gate.reached.set()
    await forever()


async def block_at(gate: Gate, executor: Executor) -> None:
    """A block, whose body stands at *gate*."""
    async with threadpool(executor):
        gate.stop_here()


async def swallow(waiting: Awaitable[Any]) -> Any:
    """Legacy code does this to a cancellation."""
    try:
        return await waiting
    except:  # noqa: E722
        return None


def run_and_cancel_at(gate: Gate, loops: LoopKind, body: Body, *messages: Any) -> asyncio.Task[Any]:
    """Run *body* in a task, cancel it at *gate* with each of *messages*, and let it end."""

    async def main() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(body())
        await until(gate.reached.is_set)
        for message in messages:
            assert task.cancel(message)
        gate.open()
        await until(task.done)
        return task

    return loops.run(main)


def error_of(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    """How the task was cancelled."""
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        task.result()
    return caught.value


def run_with_task(
    loops: LoopKind, body: Callable[[asyncio.Task[Any]], Coroutine[Any, Any, Any]]
) -> asyncio.Task[Any]:
    """Run *body* in a task, which it gets, and return that when it is done."""
    tasks: list[asyncio.Task[Any]] = []

    async def start() -> Any:
        await turns(1)  # An eager task begins before it is known.
        return await body(tasks[0])

    async def main() -> asyncio.Task[Any]:
        tasks.append(asyncio.get_running_loop().create_task(start()))
        await until(tasks[0].done)
        return tasks[0]

    return loops.run(main)
