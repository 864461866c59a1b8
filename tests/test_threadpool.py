"""``async with threadpool(executor):``, the block: where its body runs, alone and nested."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
import types
from collections.abc import AsyncIterator, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
from helpers.loops import on_every_loop, on_one_loop
from helpers.places import here, in_block_of, on_loop_thread, on_worker, suspend
from helpers.steps import LIMIT, turns

from threadhop import eventloop, exec_in_eventloop, threadpool


@on_every_loop
async def test_the_body_runs_on_a_worker_without_a_running_loop_which_goes_on(
    executor: Executor,
) -> None:
    async def on_loop() -> bool:
        await asyncio.sleep(0)
        return on_loop_thread()

    loop = asyncio.get_running_loop()
    assert on_loop_thread()
    async with threadpool(executor) as bound:
        assert on_worker()
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        assert asyncio.run_coroutine_threadsafe(on_loop(), loop).result(LIMIT)
    assert on_loop_thread()
    assert bound is None


@on_every_loop
async def test_asyncio_run_in_a_body_has_tasks_blocks_and_parts_of_its_own(
    executor: Executor,
) -> None:
    """A task of the inner loop moves by itself: the task that waits outside is not touched."""

    async def inner() -> str:
        outer, loop = here(), asyncio.get_running_loop()
        async with eventloop():  # outside of any block of this task
            assert here() == outer
        async with threadpool(executor):
            worker = here()
            assert worker != outer
            async with eventloop():
                async with threadpool(executor):
                    assert here() == worker
                assert here() == outer
                assert asyncio.get_running_loop() is loop
                await asyncio.sleep(0)
            assert here() == worker
        assert here() == outer
        return "inner"

    async with threadpool(executor):
        assert asyncio.run(inner()) == "inner"
        async with eventloop():
            async with threadpool(executor):
                assert asyncio.run(inner()) == "inner"
            assert on_loop_thread()
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot await"):
            await asyncio.sleep(0)
    assert on_loop_thread()


@pytest.mark.trio
@on_every_loop
async def test_a_deep_chain_of_awaitables_moves_as_a_whole(executor: Executor) -> None:
    """Blocks and parts may stand any number of awaits below the task, also of those by hand."""

    async def inside(levels: int) -> bool:
        if levels:
            return await inside(levels - 1)
        async with eventloop():
            await suspend()
            assert on_loop_thread()
        return on_worker()

    async def deep(levels: int) -> bool:
        if levels:
            return await deep(levels - 1)
        async with threadpool(executor):
            return await inside(200)

    class ByHand:
        def __await__(self) -> Generator[Any, Any, bool]:
            return (yield from deep(200).__await__())

    @types.coroutine
    def old_style() -> Generator[Any, Any, bool]:
        return (yield from ByHand().__await__())

    assert await old_style()
    assert on_loop_thread()


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


# --- entries that nobody can make ---


async def enter(manager: Any) -> None:
    async with manager:
        raise AssertionError("the body has run")


@pytest.mark.parametrize(
    ("manager", "text"),
    [(threadpool(), r"asyncio\.run"), (eventloop(), r"eventloop\(\).*threadpool\(\)")],
    ids=["block", "part"],
)
def test_without_a_loop_the_entry_says_so(manager: object, text: str) -> None:
    with pytest.raises(RuntimeError, match=text):
        enter(manager).send(None)


@on_every_loop
async def test_without_a_task_the_entry_says_so() -> None:
    def drive(done: asyncio.Future[None]) -> None:
        try:
            enter(threadpool()).send(None)
        except RuntimeError as exc:
            done.set_exception(exc)

    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_soon(drive, done)
    with pytest.raises(RuntimeError, match="create_task"):
        await done


@pytest.mark.trio
@on_every_loop
async def test_a_coroutine_that_is_stepped_by_hand_is_refused(executor: Executor) -> None:
    """Its driver swallows the switch. The task may use blocks later."""
    coro = enter(threadpool(executor))
    coro.send(None)
    with pytest.raises(RuntimeError, match="swallowed"):
        coro.send(None)
    assert on_loop_thread()
    await in_block_of(executor)


# --- the body is like that of any block ---


@on_every_loop
async def test_return_break_and_continue_leave_all_blocks(
    executor: Executor, other: Executor
) -> None:
    async def value() -> int:
        async with threadpool(executor), eventloop(), threadpool(other), threadpool(executor):
            return 42

    assert await value() == 42
    assert on_loop_thread()
    seen = []
    for number in range(6):
        assert on_loop_thread()
        async with threadpool(executor), threadpool(other), eventloop():
            if number % 2:
                continue
            seen.append(number)
            if number == 4:
                break
    else:
        raise AssertionError("break did not break")
    assert on_loop_thread()
    assert (seen, number) == ([0, 2, 4], 4)
    await in_block_of(executor, other)


@pytest.mark.trio
@on_every_loop
async def test_locals_are_those_of_the_function(executor: Executor) -> None:
    """The body reads, binds and rebinds them: plain, walrus and closure variables."""
    before, shared = 1, 0

    def add() -> None:
        nonlocal shared
        shared += 1

    async with threadpool(executor):
        assert before == 1
        before = 10
        inside = before + 1
        if (walrus := inside * 2) > 0:
            add()
    assert (before, inside, walrus, shared) == (10, 11, 22, 1)


@pytest.mark.trio
@pytest.mark.parametrize("within", [nullcontext, eventloop], ids=["body", "part"])
@on_every_loop
async def test_an_error_crosses_as_it_is(executor: Executor, within: Any) -> None:
    """The same object, with its traceback, and with nothing of the library behind it."""
    raised = ValueError("in the body")

    def culprit() -> None:
        raise raised

    with pytest.raises(ValueError, match="in the body") as caught:
        async with threadpool(executor), within():
            culprit()
    assert on_loop_thread()
    assert caught.value is raised
    files = [frame.filename for frame in traceback.extract_tb(raised.__traceback__)]
    assert files == [__file__, __file__]
    assert caught.traceback[-1].name == "culprit"
    assert (raised.__context__, raised.__cause__) == (None, None)


@on_one_loop
async def test_the_repr_shows_the_executor(executor: Executor) -> None:
    assert repr(executor) in repr(threadpool(executor))
    assert repr(threadpool()) == "threadpool()"


@pytest.mark.parametrize("away", ["on the loop", "in another block"])
@on_every_loop
async def test_the_same_thread_waits_for_a_task_that_is_away_and_does_nothing_else(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, away: str
) -> None:
    """A job of somebody else, on a pool of one, runs after the block."""
    async with threadpool(one):
        outer = here()
        for _ in range(2):
            async with eventloop() if away == "on the loop" else threadpool(other):
                assert here() != outer
                intruder = one.submit(here)
                if away == "on the loop":
                    await turns(20)
                assert not intruder.done()
            assert here() == outer
        assert not intruder.done()
    assert on_loop_thread()
    assert await asyncio.wrap_future(intruder) == outer
