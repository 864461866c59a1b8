"""Blocks and loop parts on trio: what cancels there, and who may run what where."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import logging
import re
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import TRIO, on_trio
from helpers.places import here, on_loop_thread, on_thread_of, on_worker
from helpers.steps import LIMIT, Gate, busy, until, wait_until

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

var = contextvars.ContextVar("var", default="unset")


async def cancel_at(gate: Gate, scope: Any) -> None:
    """Cancel *scope* when a body stands at *gate*, and let that go on."""
    await until(gate.reached.is_set)
    scope.cancel()
    gate.open()


# --- cancellation ---


@on_trio
async def test_a_cancelled_task_never_enters_the_body(executor: Executor) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with threadpool(executor):
            raise AssertionError("the body has run")
    assert scope.cancelled_caught
    assert on_loop_thread()


@on_trio
async def test_a_block_that_waits_for_a_worker_is_cancelled_at_once(
    one: ThreadPoolExecutor,
) -> None:
    with busy(one):
        with trio.move_on_after(0.01) as scope:
            async with threadpool(one):
                raise AssertionError("the body has run")
        assert scope.cancelled_caught  # and the worker is busy still
    async with threadpool(one):
        assert on_thread_of("one")


@pytest.mark.parametrize("end", ["returns", "raises", "swallows", "checks"])
def test_a_body_comes_to_its_end_and_then_the_exit_raises_cancelled_once(
    executor: Executor, end: str
) -> None:
    seen: list[BaseException] = []
    steps: list[str] = []

    async def main() -> None:
        gate = Gate()
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                nursery.start_soon(cancel_at, gate, scope)
                try:
                    async with threadpool(executor):
                        gate.stop_here()
                        if end == "raises":
                            raise KeyError("body")
                        if end == "swallows":
                            with contextlib.suppress(trio.Cancelled):
                                while True:
                                    check_cancelled()
                        if end == "checks":
                            while True:
                                check_cancelled()
                        steps.append("end of the body")
                except BaseException as error:
                    assert on_loop_thread()
                    seen.append(error)
                    raise
            assert scope.cancelled_caught
            await trio.lowlevel.checkpoint()

    assert TRIO is not None
    TRIO.run(main)
    assert [type(error) for error in seen] == [trio.Cancelled]
    assert steps == ([] if end in ("raises", "checks") else ["end of the body"])
    assert isinstance(seen[0].__context__, KeyError) == (end == "raises")


@on_trio
async def test_fail_after_becomes_too_slow_error(executor: Executor) -> None:
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(0.01):
            async with threadpool(executor):
                with pytest.raises(trio.Cancelled):
                    while True:
                        check_cancelled()


@on_trio
async def test_a_child_that_fails_cancels_the_block_of_another(executor: Executor) -> None:
    gate = Gate()

    async def fail() -> None:
        await until(gate.reached.is_set)
        gate.open()
        raise KeyError

    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail)
            async with threadpool(executor):
                gate.stop_here()
                with pytest.raises(trio.Cancelled):
                    while True:
                        check_cancelled()
    assert [type(error) for error in caught.value.exceptions] == [KeyError]


@pytest.mark.parametrize("cancelled", ["the scope in the loop part", "a scope around both"])
@on_trio
async def test_on_cancel_hears_of_the_scopes_around_it(
    executor: Executor, one: ThreadPoolExecutor, cancelled: str
) -> None:
    """And of none within a loop part of its body, though a block in there does."""
    gate, calls = Gate(), []

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(calls.append, "outer"):
                async with eventloop():
                    with inner:
                        async with threadpool(one):
                            with on_cancel(calls.append, "inner"):
                                gate.stop_here()

    async with trio.open_nursery() as nursery:
        inner = trio.CancelScope()
        around = cancelled == "a scope around both"
        nursery.start_soon(cancel_at, gate, nursery.cancel_scope if around else inner)
        await block()
    assert calls == (["inner", "outer"] if around else ["inner"])


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


@on_trio
async def test_a_cancellation_in_a_loop_part_passes_the_worker_and_is_met_again(
    executor: Executor,
) -> None:
    steps = []
    with trio.CancelScope() as scope:
        async with threadpool(executor):
            worker = here()
            try:
                async with eventloop():
                    scope.cancel()
                    await trio.sleep_forever()
            except trio.Cancelled:
                steps.append(here() == worker)
            steps.append("swallowed")
        steps.append("not reached")
    assert scope.cancelled_caught
    assert steps == [True, "swallowed"]


@on_trio
async def test_a_scope_within_a_loop_part_keeps_its_cancellation_there(executor: Executor) -> None:
    async with threadpool(executor):
        async with eventloop():
            with trio.move_on_after(0.01) as scope:
                async with threadpool(executor):
                    assert on_worker()
                    with pytest.raises(trio.Cancelled):
                        while True:
                            check_cancelled()
            assert scope.cancelled_caught
            assert on_loop_thread()
        assert on_worker()
        check_cancelled()


@on_trio
async def test_a_cancelled_body_does_not_enter_a_loop_part(executor: Executor) -> None:
    gate = Gate()
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_at, gate, scope)
            async with threadpool(executor):
                gate.stop_here()
                wait_until(trio_is_cancelled)
                with pytest.raises(trio.Cancelled):
                    async with eventloop():
                        raise AssertionError("the loop part has run")
                assert on_worker()
        assert scope.cancelled_caught


def trio_is_cancelled() -> bool:
    try:
        check_cancelled()
    except trio.Cancelled:
        return True
    return False


@on_trio
async def test_a_nested_block_that_waits_is_cancelled_in_the_outer_worker(
    executor: Executor, other: ThreadPoolExecutor
) -> None:
    with busy(other):
        with trio.move_on_after(0.01) as scope:
            async with threadpool(executor):
                with pytest.raises(trio.Cancelled):
                    async with threadpool(other):
                        raise AssertionError("the body has run")
                assert on_worker()
        assert scope.cancelled_caught


@on_trio
async def test_a_guard_raises_what_was_swallowed(executor: Executor) -> None:
    for place in ("body", "loop"):
        with trio.move_on_after(0.01) as scope:
            async with cancellation_guard():
                if place == "body":
                    async with threadpool(executor):
                        async with cancellation_guard():
                            with contextlib.suppress(BaseException):
                                while True:
                                    check_cancelled()
                else:
                    with contextlib.suppress(BaseException):
                        await trio.sleep_forever()
            raise AssertionError("the guard was quiet")
        assert scope.cancelled_caught
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
async def test_many_tasks_come_back_from_a_pool_of_each_kind(executor: Executor) -> None:
    count = 0

    async def hop() -> None:
        nonlocal count
        for _ in range(20):
            async with threadpool(executor):
                assert on_worker()
            assert on_loop_thread()
            count += 1

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(hop)
    assert count == 1000


@pytest.mark.usefixtures("shared_pool")
@on_trio
async def test_without_an_executor_it_is_the_pool_of_the_library() -> None:
    async with threadpool():
        assert on_thread_of("threadhop")


@on_trio
async def test_context_variables_and_their_tokens_cross_both_ways(executor: Executor) -> None:
    async with threadpool(executor):
        token = var.set("worker")
        async with eventloop():
            assert var.get() == "worker"
            var.set("loop")
        assert var.get() == "loop"
    assert var.get() == "loop"
    async with threadpool(executor):
        var.reset(token)
    assert var.get() == "unset"


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


@on_trio
async def test_trio_run_in_the_body_has_tasks_and_blocks_of_its_own(executor: Executor) -> None:
    async def nested() -> str:
        outer = here()
        async with threadpool(executor):
            assert on_worker()
            assert here() != outer
        assert here() == outer
        check_cancelled()
        return "value"

    async with threadpool(executor):
        worker = here()
        assert trio.run(nested) == "value"
        assert here() == worker


def test_trio_run_in_the_body_of_an_asyncio_task(executor: Executor) -> None:
    import asyncio

    async def nested() -> bool:
        async with threadpool(executor):
            return on_worker()

    async def main() -> bool:
        async with threadpool(executor):
            result: bool = trio.run(nested)
            assert on_worker()
        return result

    assert asyncio.run(main())


@on_trio
async def test_nothing_is_entered_without_a_loop_part_on_the_loop() -> None:
    async with eventloop():
        assert on_loop_thread()


@on_trio
async def test_a_decorated_function_is_awaited(executor: Executor) -> None:
    @threadpool(executor)
    def func() -> bool:
        return on_worker()

    assert await func()


# --- async generators ---


async def items(executor: Executor, closed: list[bool]) -> AsyncGenerator[int, None]:
    async with threadpool(executor):
        try:
            for number in range(3):
                async with eventloop():
                    yield number
        finally:
            closed.append(on_worker())


@on_trio
async def test_a_generator_yields_from_a_loop_part_and_ends_on_its_worker(
    executor: Executor,
) -> None:
    closed: list[bool] = []
    assert [number async for number in items(executor, closed)] == [0, 1, 2]
    async with contextlib.aclosing(items(executor, closed)) as numbers:
        async for _ in numbers:
            assert on_loop_thread()
            break
    assert closed == [True, True]


@on_trio
async def test_after_a_break_a_task_of_trio_ends_it_on_its_worker(executor: Executor) -> None:
    closed: list[bool] = []

    async def forget() -> None:
        async for _ in items(executor, closed):
            break

    with pytest.warns(ResourceWarning, match="was garbage collected"):
        await collected(forget, closed)
    assert closed == [True]


async def collected(forget: Callable[[], Awaitable[None]], closed: list[bool]) -> None:
    """Run *forget*, and the collector until something was closed."""
    await forget()
    await until(lambda: (gc.collect() and False) or closed)


@on_trio
async def test_a_generator_that_the_body_began_is_closed_by_trio(executor: Executor) -> None:
    closed: list[bool] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            with contextlib.suppress(trio.Cancelled):
                await trio.sleep(1)  # needs trio
            closed.append(on_loop_thread())

    async def forget() -> None:
        begun = numbers()
        async with threadpool(executor):
            async for _ in begun:
                break

    with pytest.warns(ResourceWarning, match="was garbage collected"):
        await collected(forget, closed)
    assert closed == [True]


def test_a_generator_that_the_body_began_is_closed_at_the_end_of_the_run(
    executor: Executor,
) -> None:
    closed = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closed.append(on_loop_thread())

    begun = numbers()

    async def main() -> None:
        async with threadpool(executor):
            async for _ in begun:
                break

    trio.run(main)
    assert closed == [True]


# --- ends ---


def test_a_task_that_ends_in_a_block_is_finished_with_its_result(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        block = threadpool(executor)
        await block.__aenter__()
        return "result"

    with caplog.at_level(logging.WARNING, "threadhop"):
        assert trio.run(main) == "result"
    assert "a task ended inside the block" in caplog.text


def test_an_error_of_a_task_that_ends_in_a_block_is_raised(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        await threadpool(executor).__aenter__()
        raise KeyError("end")

    with pytest.raises(KeyError, match="end"):
        trio.run(main)
    assert "a task ended inside the block" in caplog.text


@on_trio
async def test_an_executor_that_is_shut_down_is_told_at_the_entry(executor: Executor) -> None:
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        async with threadpool(executor):
            raise AssertionError("the body has run")
    assert on_loop_thread()


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


@pytest.fixture
def no_private_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from threadhop._loops import _trio_suspension

    monkeypatch.setattr(_trio_suspension, "_SHOWS_ABORT_FUNCTION", False)
    return


@pytest.mark.usefixtures("no_private_name")
@on_trio
async def test_a_trio_that_does_not_show_what_a_task_waits_for(executor: Executor) -> None:
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
    from threadhop._loops import _trio_suspension

    monkeypatch.setattr(_trio_suspension, "IDLE_STEPS", 3)
    for _ in range(3):
        async with threadpool(executor):
            assert on_worker()
        for _ in range(10):
            await trio.sleep(0)


def test_instruments_of_the_user_see_each_step(executor: Executor) -> None:
    class Tracer(trio.abc.Instrument):  # type: ignore[misc]
        steps = 0

        def before_task_step(self, task: object) -> None:
            self.steps += 1

        def after_task_step(self, task: object) -> None:
            self.steps -= 1

    async def main() -> None:
        async with threadpool(executor):
            async with eventloop():
                await trio.sleep(0)

    tracer = Tracer()
    trio.run(main, instruments=[tracer])
    assert tracer.steps == 0


def test_a_mock_clock_does_not_mind(executor: Executor) -> None:
    async def main() -> None:
        with trio.move_on_after(1000) as scope:
            async with threadpool(executor):
                async with eventloop():
                    await trio.sleep(10)
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        async with threadpool(executor):
            pass

    trio.run(main, clock=testing.MockClock(autojump_threshold=0.05))


def test_a_run_that_ends_leaves_the_executor_usable(executor: Executor) -> None:
    async def main() -> None:
        async with threadpool(executor):
            pass

    for _ in range(3):
        trio.run(main)


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
