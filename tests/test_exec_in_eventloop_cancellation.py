"""``exec_in_eventloop`` in a block whose task is cancelled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, Trail, forever, start, suspend
from helpers.steps import LIMIT, Gate, until

from threadhop import eventloop, exec_in_eventloop, threadpool

#: The outcome of the call, by the reaction of its coroutine to the cancellation.
COMES_OUT = {"passes": "CancelledError", "swallows": "value", "raises": "OopsError"}


@pytest.mark.parametrize("body", ["passes", "swallows"])
@pytest.mark.parametrize("coroutine", COMES_OUT)
def test_the_coroutine_is_cancelled_with_the_task_of_the_block(
    loops: LoopKind, one: ThreadPoolExecutor, coroutine: str, body: str
) -> None:
    """The body waits for its cleanup. The exit raises, whatever either makes of the cancellation.

    No further call is made.
    """
    trail, reached = Trail(), threading.Event()

    async def wait() -> str:
        reached.set()
        try:
            with trail.watch("cancelled"):
                await forever()
        except asyncio.CancelledError:
            if coroutine == "passes":
                raise
            if coroutine == "raises":
                raise OopsError from None
        finally:
            await suspend()
            trail.note("cleaned up")
        return "value"

    def call() -> None:
        try:
            trail.note(exec_in_eventloop(wait))
        except BaseException as error:
            trail.note(type(error).__name__)
            if body == "passes":
                raise
        finally:
            with pytest.raises(asyncio.CancelledError, match="stop"):
                exec_in_eventloop(wait)

    async def block() -> None:
        try:
            with trail.watch("exit"):
                async with threadpool(one):
                    call()
        except asyncio.CancelledError as error:
            is_context = coroutine == "raises" and body == "passes"
            assert isinstance(error.__context__, OopsError) == is_context
            raise

    async def main() -> None:
        task = start(block())
        await until(reached.is_set)
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert trail.steps == [
        ("cancelled", "loop"),
        ("cleaned up", "loop"),
        (COMES_OUT[coroutine], "one_0"),
        ("exit", "loop"),
    ]


def test_a_coroutine_of_a_task_that_was_cancelled_before_is_refused_and_a_function_goes_through(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """Refused at once, while the loop stands still. Cleanup may tell the loop something."""
    trail, gate, refused = Trail(), Gate(), threading.Event()

    async def note(what: str) -> None:
        trail.note(what)

    async def block() -> None:
        async with threadpool(one):
            gate.stop_here()
            with pytest.raises(asyncio.CancelledError, match="stop"):
                exec_in_eventloop(note, "called")
            refused.set()
            exec_in_eventloop(trail.note, "cleanup")
            with pytest.raises(asyncio.CancelledError, match="stop"):
                exec_in_eventloop(lambda: note("called"))

    async def main() -> None:
        task = start(block())
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        assert refused.wait(LIMIT)  # the loop stands still
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert trail.steps == [("cleanup", "loop")]


async def cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel("foreign")
    await future


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("foreign")
    await suspend()


@pytest.mark.parametrize("func", [cancelled_future, cancels_itself])
def test_a_foreign_cancelled_error_is_not_taken_for_the_tasks_own(
    current_task_loops: LoopKind, executor: Executor, func: Callable[[], Any]
) -> None:
    """An ``except`` of the body has dealt with it."""

    async def block() -> str:
        async with threadpool(executor):
            with pytest.raises(asyncio.CancelledError, match="foreign"):
                exec_in_eventloop(func)
            async with eventloop():
                await suspend()
        return "not cancelled"

    async def main() -> None:
        task = start(block())
        assert await task == "not cancelled"
        assert task.cancelling() == 0

    current_task_loops.run(main)


def test_a_call_in_a_nested_block_is_cancelled_with_the_task(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """The ``finally`` of each body runs in its own thread."""
    trail, reached = Trail(), threading.Event()

    async def wait() -> None:
        reached.set()
        await forever()

    async def block() -> None:
        async with threadpool(one):
            try:
                async with threadpool(other):
                    try:
                        exec_in_eventloop(wait)
                    finally:
                        trail.note("inner")
            finally:
                trail.note("outer")

    async def main() -> None:
        task = start(block())
        await until(reached.is_set)
        task.cancel()
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert trail.steps == [("inner", "other_0"), ("outer", "one_0")]
