"""``async with threadpool(executor):`` and what else a coroutine is made of."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import types
from collections.abc import AsyncIterator, Generator
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.loops import on_every_loop
from helpers.places import on_loop_thread, on_thread_of, on_worker
from helpers.steps import LIMIT

from threadhop import exec_in_eventloop, threadpool


@pytest.mark.trio
@on_every_loop
async def test_a_deep_chain_of_coroutines_moves_as_a_whole(executor: Executor) -> None:
    """The block may stand any number of awaits below the task; so may what its body awaits."""

    async def inside(levels: int) -> bool:
        return await inside(levels - 1) if levels else on_worker()

    async def deep(levels: int) -> bool:
        if levels:
            return await deep(levels - 1)
        async with threadpool(executor):
            return await inside(200)

    assert await deep(200)
    assert on_loop_thread()


@pytest.mark.trio
@on_every_loop
async def test_awaitables_written_by_hand_pass_the_switch_on(executor: Executor) -> None:
    """``__await__`` and ``types.coroutine`` may stand between the task and the block."""

    async def inner() -> bool:
        async with threadpool(executor):
            return on_worker()

    class ByHand:
        def __await__(self) -> Generator[Any, Any, bool]:
            return (yield from inner().__await__())

    @types.coroutine
    def old_style() -> Generator[Any, Any, bool]:
        return (yield from ByHand().__await__())

    assert await ByHand()
    assert await old_style()
    assert on_loop_thread()


# --- async generators ---


@pytest.mark.trio
@on_every_loop
async def test_an_async_generator_may_use_blocks_between_its_yields(executor: Executor) -> None:
    """The generator works on a worker, its consumer stays on the loop thread."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            async with threadpool(executor):
                assert on_worker()
                doubled = number * 2
            assert on_loop_thread()
            yield doubled

    seen = []
    async for number in numbers():
        assert on_loop_thread()
        seen.append(number)
    assert seen == [0, 2, 4]


@on_every_loop
async def test_an_async_generator_first_iterated_in_the_body_is_finalized_by_the_loop(
    executor: Executor,
) -> None:
    """It runs on the worker. Abandoned there, it is closed on the loop, where it may await."""
    closed_on_loop_thread = []

    async def numbers(closed: asyncio.Event) -> AsyncIterator[int]:
        try:
            for number in range(3):
                assert on_worker()
                yield number
        finally:
            await asyncio.sleep(0)
            closed_on_loop_thread.append(on_loop_thread())
            closed.set()

    closed = asyncio.Event()
    async with threadpool(executor):
        async for number in numbers(closed):
            if number == 1:
                break
    gc.collect()
    await closed.wait()
    assert closed_on_loop_thread == [True]


@pytest.mark.trio
@on_every_loop
async def test_the_worker_is_left_as_it_was(one: Executor) -> None:
    """The hooks of its async generators are its own again, and it works for no loop."""
    hooks = one.submit(sys.get_asyncgen_hooks).result(LIMIT)
    async with threadpool(one):
        assert sys.get_asyncgen_hooks() != hooks
    assert one.submit(sys.get_asyncgen_hooks).result(LIMIT) == hooks
    with pytest.raises(RuntimeError, match="works for no event loop"):
        one.submit(exec_in_eventloop, int).result(LIMIT)


# --- exit stacks and context managers ---


@pytest.mark.trio
@on_every_loop
async def test_an_exit_stack_enters_leaves_and_hands_over_blocks(
    executor: Executor, other: Executor
) -> None:
    """Callbacks run on the thread of the block that was the last one when they were pushed."""
    ran = []

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lambda: ran.append(on_loop_thread()))
        await stack.enter_async_context(threadpool(executor))
        assert on_worker()
        stack.callback(lambda: ran.append(on_worker()))
        await stack.enter_async_context(threadpool(other))
        stack.callback(lambda: ran.append(on_thread_of("other")))
        rest = stack.pop_all()
    assert on_thread_of("other")
    await rest.aclose()
    assert on_loop_thread()
    assert ran == [True, True, True]


@pytest.mark.trio
@on_every_loop
async def test_a_context_manager_with_its_yield_inside_the_block_moves_its_user(
    executor: Executor,
) -> None:
    """An error of the user's body arrives at the ``yield``, on the worker, and may end there."""
    seen = []

    @contextlib.asynccontextmanager
    async def swallowing() -> AsyncIterator[str]:
        async with threadpool(executor):
            try:
                yield "value"
            except ValueError:
                seen.append(on_worker())
        assert on_loop_thread()

    async with swallowing() as value:
        assert value == "value"
        assert on_worker()
        raise ValueError
    assert on_loop_thread()
    assert seen == [True]


@pytest.mark.trio
@on_every_loop
async def test_a_context_manager_that_is_entered_in_the_body_stays_on_the_thread(
    executor: Executor,
) -> None:
    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        async with threadpool(executor):
            yield

    async with threadpool(executor):
        thread = threading.current_thread()
        async with working():
            assert threading.current_thread() is thread
        assert threading.current_thread() is thread
    assert on_loop_thread()
