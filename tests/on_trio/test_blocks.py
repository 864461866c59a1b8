"""Blocks and loop parts where trio is not like asyncio.

What both promise is asked by the tests with the mark ``trio``. What a cancellation does at each
moment the model of the laboratory knows: ``lab/test_model.py`` compares its programs on trio, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import re
import threading
import weakref
from collections.abc import AsyncGenerator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import on_trio
from helpers.places import here, on_loop_thread, on_worker
from helpers.steps import LIMIT, Gate, busy, until

from threadhop import (
    WorkerPool,
    cancellation_guard,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    on_cancel,
    threadpool,
)

trio: Any = pytest.importorskip("trio")
testing: Any = pytest.importorskip("trio.testing")
_trio_suspension: Any = pytest.importorskip("threadhop._loops._trio_suspension")

var = contextvars.ContextVar("var", default="unset")


# --- cancellation ---


@pytest.mark.parametrize("is_nested", [False, True])
@on_trio
async def test_a_block_that_waits_for_a_worker_is_cancelled_at_once_where_it_comes_from(
    executor: Executor, one: ThreadPoolExecutor, is_nested: bool
) -> None:
    async def wait() -> None:
        place = here()
        with pytest.raises(trio.Cancelled):
            async with threadpool(one):
                raise AssertionError("the body has run")
        assert here() == place

    with busy(one):  # And is still at the end.
        with trio.move_on_after(0.01) as scope:
            async with threadpool(executor) if is_nested else contextlib.nullcontext():
                await wait()
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    async with threadpool(one):
        assert not on_loop_thread()


@on_trio
async def test_a_shielded_block_is_not_cancelled(executor: Executor) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        with trio.CancelScope(shield=True):
            async with threadpool(executor):
                check_cancelled()
            check_cancelled()
        with pytest.raises(trio.Cancelled):
            check_cancelled()


@pytest.mark.parametrize("is_around", [False, True])
@on_trio
async def test_on_cancel_hears_of_the_scopes_around_it_and_of_none_in_a_loop_part(
    executor: Executor, one: ThreadPoolExecutor, is_around: bool
) -> None:
    gate, calls = Gate(), []

    async def cancel(scope: Any) -> None:
        await until(gate.reached.is_set)
        scope.cancel()
        gate.open()

    async with trio.open_nursery() as nursery:
        inner = trio.CancelScope()
        nursery.start_soon(cancel, nursery.cancel_scope if is_around else inner)
        async with threadpool(executor):
            with on_cancel(calls.append, "outer"):
                async with eventloop():
                    with inner:
                        async with threadpool(one):
                            with on_cancel(calls.append, "inner"):
                                gate.stop_here()
    assert calls == (["inner", "outer"] if is_around else ["inner"])


@on_trio
async def test_a_guard_is_quiet_about_a_scope_within_it(executor: Executor) -> None:
    async with cancellation_guard():
        with trio.move_on_after(0.01):
            await trio.sleep_forever()
        async with threadpool(executor):
            pass


@on_trio
async def test_entry_and_exit_are_checkpoints(executor: Executor) -> None:
    with testing.assert_checkpoints():
        async with threadpool(executor):
            pass


# --- where things run ---


@on_trio
async def test_an_await_in_the_body_is_refused_with_the_remedy(executor: Executor) -> None:
    async with threadpool(executor):
        with pytest.raises(RuntimeError, match=r"cannot await at .*eventloop"):
            await trio.lowlevel.cancel_shielded_checkpoint()
        with pytest.raises(RuntimeError, match=re.escape(__file__)):  # not a file of trio
            await trio.sleep(0)
        with pytest.raises(RuntimeError, match="must be called from async context"):
            await trio.sleep(1)
    with pytest.raises(RuntimeError) as caught:
        async with threadpool(executor):
            await trio.sleep(1)
    assert "async with eventloop()" in caught.value.__notes__[0]


@pytest.mark.parametrize("run", [trio.run, asyncio.run])
def test_trio_run_in_the_body_has_tasks_and_blocks_of_its_own(executor: Executor, run: Any) -> None:
    async def nested() -> str:
        outer = here()
        async with threadpool(executor):
            assert on_worker()
            assert here() != outer
        assert here() == outer
        check_cancelled()
        return "value"

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            assert trio.run(nested) == "value"
            assert here() == worker

    run(main if run is trio.run else main())


# --- async generators ---


@on_trio
async def test_a_generator_that_the_body_began_is_closed_by_trio(executor: Executor) -> None:
    closed: list[bool] = []

    async def forget() -> None:
        await begin(numbers(closed), executor)
        await until(lambda: (gc.collect() and False) or closed)

    with pytest.warns(ResourceWarning, match="was garbage collected"):
        await forget()
    assert closed == [True]


async def numbers(closed: list[bool]) -> AsyncGenerator[int, None]:
    try:
        yield 1
    finally:
        with contextlib.suppress(trio.Cancelled):
            await trio.sleep(1)  # needs trio
        closed.append(on_loop_thread())


async def begin(items: AsyncGenerator[int, None], executor: Executor) -> None:
    async with threadpool(executor):
        async for _ in items:
            break


def test_a_generator_that_the_body_began_is_closed_at_the_end_of_the_run(
    executor: Executor,
) -> None:
    closed: list[bool] = []
    begun = numbers(closed)
    trio.run(begin, begun, executor)
    assert closed == [True]


# --- ends ---


@pytest.mark.parametrize("raises", [False, True])
def test_a_task_that_ends_in_a_block_is_finished_with_its_result_or_its_error(
    executor: Executor, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    async def main() -> str:
        await threadpool(executor).__aenter__()
        if raises:
            raise KeyError("end")
        return "result"

    expected = pytest.raises(KeyError, match="end") if raises else contextlib.nullcontext()
    with caplog.at_level(logging.WARNING, "threadhop"), expected:
        assert trio.run(main) == "result"
    assert "a task ended inside the block" in caplog.text


@on_trio
async def test_a_task_whose_variables_refer_to_it_is_freed(executor: Executor) -> None:
    refs: list[Any] = []

    async def child() -> None:
        task = trio.lowlevel.current_task()
        var.set(task)
        async with threadpool(executor):
            pass
        refs.append(weakref.ref(task))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(child)
    await trio.sleep(0)
    await until(lambda: (gc.collect() and False) or refs[0]() is None)


# --- the run around it ---


@on_trio
async def test_a_trio_that_does_not_show_what_a_task_waits_for(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trio_suspension, "_SHOWS_ABORT_FUNCTION", False)
    for _ in range(20):
        async with threadpool(executor):
            assert on_worker()
            async with eventloop():
                assert on_loop_thread()
                await trio.sleep(0)
            assert on_worker()
            assert exec_in_eventloop(on_loop_thread)
        assert on_loop_thread()


@on_trio
async def test_an_entry_that_is_not_awaited_at_once_waits_for_its_await(
    executor: Executor,
) -> None:
    block = threadpool(executor)
    entry = block.__aenter__()
    await trio.sleep(0)
    await entry
    assert on_worker()
    await block.__aexit__(None, None, None)
    assert on_loop_thread()


@on_trio
async def test_idle_instruments_are_taken_away_and_come_back(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trio_suspension, "IDLE_STEPS", 3)
    for _ in range(3):
        async with threadpool(executor):
            assert on_worker()
        for _ in range(10):
            await trio.sleep(0)


def test_instruments_and_clocks_of_the_user_see_each_step(executor: Executor) -> None:
    class Tracer(trio.abc.Instrument):  # type: ignore[misc]
        steps = 0

        def before_task_step(self, task: object) -> None:
            self.steps += 1

        def after_task_step(self, task: object) -> None:
            self.steps -= 1

    async def main() -> None:
        with trio.move_on_after(1000) as scope:
            async with threadpool(executor):
                async with eventloop():
                    await trio.sleep(10)
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        async with threadpool(executor):
            pass

    tracer, clock = Tracer(), testing.MockClock(autojump_threshold=0.05)
    trio.run(main, instruments=[tracer], clock=clock)
    assert tracer.steps == 0


@on_trio
async def test_two_runs_in_two_threads_share_a_pool() -> None:
    with WorkerPool(2) as pool:

        async def hop() -> None:
            home = here()
            for _ in range(20):
                async with threadpool(pool):
                    assert here() != home
                assert here() == home

        other = threading.Thread(target=trio.run, args=(hop,))
        other.start()
        await hop()
        other.join(LIMIT)
        assert not other.is_alive()
