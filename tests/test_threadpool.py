"""``async with threadpool(executor):``, the block: where its body runs, alone and nested."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from concurrent.futures import Executor

import pytest
from helpers.loops import on_every_loop
from helpers.places import in_block_of, on_loop_thread, on_thread_of, on_worker
from helpers.steps import LIMIT

from threadhop import threadpool


@on_every_loop
async def test_the_body_runs_on_a_worker_without_a_running_loop(executor: Executor) -> None:
    assert on_loop_thread()
    async with threadpool(executor) as bound:
        assert on_worker()
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
    assert on_loop_thread()
    assert bound is None


@on_every_loop
async def test_the_loop_goes_on_while_the_body_blocks(executor: Executor) -> None:
    async def on_loop() -> bool:
        await asyncio.sleep(0)
        return on_loop_thread()

    loop = asyncio.get_running_loop()
    async with threadpool(executor):
        assert asyncio.run_coroutine_threadsafe(on_loop(), loop).result(LIMIT)


@on_every_loop
async def test_asyncio_run_in_the_body_has_tasks_and_blocks_of_its_own(executor: Executor) -> None:
    """A task of the inner loop moves by itself: the task that waits outside is not touched."""

    async def nested(outer: threading.Thread) -> str:
        await asyncio.sleep(0)
        assert threading.current_thread() is outer
        async with threadpool(executor):
            assert on_worker()
            assert threading.current_thread() is not outer
        assert threading.current_thread() is outer
        return "value"

    async with threadpool(executor):
        thread = threading.current_thread()
        assert asyncio.run(nested(thread)) == "value"
        assert threading.current_thread() is thread
        with pytest.raises(RuntimeError, match="cannot await"):
            await asyncio.sleep(0)
    assert on_loop_thread()


# --- entries that nobody can make ---


async def enter(executor: Executor) -> None:
    async with threadpool(executor):
        raise AssertionError("the body has run")


def test_without_a_loop_the_entry_says_so(executor: Executor) -> None:
    with pytest.raises(RuntimeError, match=r"asyncio\.run"):
        enter(executor).send(None)


@on_every_loop
async def test_without_a_task_the_entry_says_so(executor: Executor) -> None:
    def drive(done: asyncio.Future[None]) -> None:
        try:
            enter(executor).send(None)
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
    coro = enter(executor)
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
        async with threadpool(executor), threadpool(other), threadpool(executor):
            return 42

    assert await value() == 42
    assert on_loop_thread()
    seen = []
    for number in range(6):
        assert on_loop_thread()
        async with threadpool(executor):
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
@on_every_loop
async def test_an_error_of_the_body_crosses_as_it_is(executor: Executor) -> None:
    """The same object, with its traceback, and with nothing of the library behind it."""
    raised = ValueError("in the body")

    def culprit() -> None:
        raise raised

    with pytest.raises(ValueError, match="in the body") as caught:
        async with threadpool(executor):
            culprit()
    assert on_loop_thread()
    assert caught.value is raised
    files = [frame.filename for frame in traceback.extract_tb(raised.__traceback__)]
    assert files == [__file__, __file__]
    assert caught.traceback[-1].name == "culprit"
    assert (raised.__context__, raised.__cause__) == (None, None)


@pytest.mark.trio
@on_every_loop
async def test_a_bare_raise_in_the_body_raises_the_handled_error(executor: Executor) -> None:
    try:
        raise KeyError("handled")
    except KeyError as error:
        handled = error
        with pytest.raises(KeyError) as caught:
            async with threadpool(executor):
                assert sys.exc_info()[1] is handled
                raise
        assert caught.value is handled
        assert sys.exc_info()[1] is handled
    assert sys.exc_info() == (None, None, None)


# --- one object for many blocks ---


@on_every_loop
async def test_one_object_is_used_again_and_nested_in_itself(one: Executor) -> None:
    """A nested block of the same executor stays on its thread, and its exit leaves it only."""
    block = threadpool(one)

    for inner in (block, threadpool(one)):
        async with block:
            thread = threading.current_thread()
            async with inner:
                assert threading.current_thread() is thread
            assert threading.current_thread() is thread
        assert on_loop_thread()
        await asyncio.sleep(0)


@on_every_loop
async def test_one_object_is_shared_by_tasks_at_once(executor: Executor) -> None:
    block = threadpool(executor)
    both = threading.Barrier(2)

    async def child() -> threading.Thread:
        async with block:
            both.wait(LIMIT)
            thread = threading.current_thread()
        assert on_loop_thread()
        return thread

    first, second = await asyncio.gather(child(), child())
    assert first is not second


def test_the_repr_shows_the_executor(executor: Executor) -> None:
    assert repr(executor) in repr(threadpool(executor))
    assert repr(threadpool()) == "threadpool()"


# --- nested blocks of several executors ---


@on_every_loop
async def test_a_nested_block_of_another_executor_comes_back_to_the_same_thread(
    one: Executor, other: Executor
) -> None:
    """Nobody else gets that thread meanwhile."""
    async with threadpool(one):
        outer = threading.current_thread()
        for _ in range(2):
            async with threadpool(other):
                assert on_thread_of("other")
                intruder = one.submit(threading.get_ident)
                assert not intruder.done()
            assert threading.current_thread() is outer
        assert not intruder.done()
    assert on_loop_thread()
    await asyncio.wrap_future(intruder)


@pytest.mark.trio
@on_every_loop
async def test_a_block_of_the_outer_executor_goes_back_to_its_parked_worker(
    one: Executor, other: Executor
) -> None:
    """A > B > A > B, each a pool of one: there is no other thread, and no hang."""
    async with threadpool(one):
        outer = threading.current_thread()
        async with threadpool(other):
            inner = threading.current_thread()
            async with threadpool(one):
                assert threading.current_thread() is outer
                async with threadpool(other):
                    assert threading.current_thread() is inner
                assert threading.current_thread() is outer
            assert threading.current_thread() is inner
        assert threading.current_thread() is outer
    assert on_loop_thread()
    await in_block_of(one, other)


@on_every_loop
async def test_every_finally_runs_on_the_thread_of_its_own_block(
    one: Executor, other: Executor
) -> None:
    ran = []
    with pytest.raises(ValueError, match="deep"):
        try:
            async with threadpool(one):
                try:
                    async with threadpool(other):
                        try:
                            async with threadpool(one):
                                try:
                                    raise ValueError("deep")
                                finally:
                                    ran.append(on_thread_of("one"))
                        finally:
                            ran.append(on_thread_of("other"))
                finally:
                    ran.append(on_thread_of("one"))
        finally:
            await asyncio.sleep(0)
            ran.append(on_loop_thread())
    assert ran == [True, True, True, True]
