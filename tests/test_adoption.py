"""Whoever leaves a loop part, the rest of the block runs on its worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from _loops import LoopKind
from _steps import LIMIT, Gate, turns, until

from threadhop import WorkerPool, eventloop, exec_in_eventloop, threadpool

here = threading.get_ident
variable: ContextVar[str] = ContextVar("variable", default="unset")


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def in_a_task(coro: Coroutine[Any, Any, Any]) -> Any:
    task = start(coro)
    await until(task.done)
    return task.result()


class Rows:
    """Items from a worker, and where the body and its ``finally`` ran."""

    def __init__(self, executor: Executor, count: int = 3) -> None:
        self.executor = executor
        self.count = count
        self.loop_thread = here()
        self.workers: list[int] = []
        self.closed: list[int] = []

    async def __call__(self) -> AsyncIterator[int]:
        async with threadpool(self.executor):
            try:
                for number in range(self.count):
                    self.workers.append(here())
                    async with eventloop():
                        assert here() == self.loop_thread
                        yield number
            finally:
                self.closed.append(here())
        assert here() == self.loop_thread

    def assert_closed_on_its_worker(self) -> None:
        assert len(set(self.workers)) == 1
        assert self.closed == self.workers[:1]
        assert self.loop_thread not in self.workers


async def assert_is_whole(executor: Any, workers: int) -> None:
    """As many bodies at once as there are workers."""
    barrier = threading.Barrier(workers, timeout=LIMIT)

    async def block() -> None:
        async with threadpool(executor):
            barrier.wait()

    await asyncio.gather(*(block() for _ in range(workers)))


async def take(rows: AsyncIterator[int]) -> int:
    return await anext(rows)


async def close(rows: Any) -> None:
    await rows.aclose()


# --- who closes a generator


def test_a_generator_that_is_left_by_break_is_closed_on_its_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """The loop's hook closes it, in a task of its own."""

    async def main() -> None:
        rows = Rows(executor)
        async for _ in rows():
            break
        gc.collect()
        await until(lambda: rows.closed)
        rows.assert_closed_on_its_worker()
        await turns()
        await assert_is_whole(executor, 2)

    loops.run(main)


@pytest.mark.parametrize("first_one_ended", [False, True])
def test_another_task_closes_it_on_its_worker(
    loops: LoopKind, executor: Executor, first_one_ended: bool
) -> None:
    """Also when the task that entered has ended."""

    async def main() -> None:
        rows = Rows(executor)
        source = rows()
        if first_one_ended:
            await in_a_task(take(source))
        else:
            await take(source)
        await in_a_task(close(source))
        rows.assert_closed_on_its_worker()
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_each_item_may_be_asked_for_by_a_task_of_its_own(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        rows = Rows(executor)
        source = rows()
        assert [await in_a_task(take(source)) for _ in range(3)] == [0, 1, 2]
        with pytest.raises((RuntimeError, StopAsyncIteration)):  # as the task wraps it, or not
            await in_a_task(take(source))
        rows.assert_closed_on_its_worker()
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_an_error_that_another_task_throws_in_travels_through_the_worker(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        rows = Rows(executor)
        source: Any = rows()
        await take(source)

        async def throw() -> None:
            with pytest.raises(LookupError, match="thrown"):
                await source.athrow(LookupError("thrown"))
            assert here() == rows.loop_thread

        await in_a_task(throw())
        rows.assert_closed_on_its_worker()

    loops.run(main)


def test_a_context_manager_may_be_entered_and_left_by_different_tasks(
    loops: LoopKind, executor: Executor
) -> None:
    """As a fixture whose teardown is another task than its setup."""
    left: list[int] = []
    workers: list[int] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[str]:
        async with threadpool(executor):
            workers.append(here())
            try:
                async with eventloop():
                    yield "connection"
            finally:
                left.append(here())

    async def main() -> None:
        manager = connection()
        assert await in_a_task(manager.__aenter__()) == "connection"
        await in_a_task(manager.__aexit__(None, None, None))
        assert left == workers
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_a_cancelled_consumer_leaves_the_generator_to_whoever_closes_it(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        rows = Rows(executor)

        async def consume() -> None:
            async for _ in rows():
                await asyncio.get_running_loop().create_future()

        task = start(consume())
        await until(lambda: rows.workers)
        await turns()
        task.cancel()
        await until(task.done)
        del task
        gc.collect()
        await until(lambda: rows.closed)
        rows.assert_closed_on_its_worker()
        await turns()
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_a_generator_with_an_exit_stack_is_closed_on_its_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """The frames that entered its blocks have returned."""
    steps: list[tuple[str, int]] = []

    async def rows() -> AsyncIterator[int]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(threadpool(executor))
            steps.append(("begins", here()))
            stack.callback(lambda: steps.append(("ends", here())))
            await stack.enter_async_context(eventloop())
            yield 1

    async def main() -> None:
        source = rows()
        await take(source)
        await in_a_task(close(source))
        assert [name for name, _ in steps] == ["begins", "ends"]
        assert steps[0][1] == steps[1][1]
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_nested_blocks_and_parts_are_all_left_where_they_belong(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    steps: list[tuple[str, str]] = []

    async def rows(other: Executor) -> AsyncIterator[int]:
        async with threadpool(executor):
            try:
                async with threadpool(other):
                    try:
                        async with eventloop(), eventloop():
                            yield 1
                    finally:
                        steps.append(("inner", threading.current_thread().name))
            finally:
                steps.append(("outer", threading.current_thread().name))

    async def main() -> None:
        with executor_class(1, "other") as other:
            source = rows(other)
            await take(source)
            await in_a_task(close(source))
            assert [name for name, _ in steps] == ["inner", "outer"]
            assert steps[0][1] == "other_0"
            assert steps[1][1].startswith("worker")
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    loops.run(main)


# --- a worker that two tasks need


def test_the_leaver_waits_until_the_first_task_is_at_home(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 the first task is in a block on the generator's worker, 2 another one closes, 3 it ends."""
    gate = Gate()

    async def main() -> None:
        with executor_class(1) as pool:
            rows = Rows(pool)
            source = rows()

            async def first() -> None:
                await take(source)
                async with threadpool(pool):
                    rows.workers.append(here())
                    gate.stop_here()
                    assert not rows.closed

            task = start(first())
            await until(gate.reached.is_set)
            closing = start(close(source))
            await turns()
            assert not closing.done()
            gate.open()
            await until(lambda: closing.done() and task.done())
            closing.result()
            task.result()
            rows.assert_closed_on_its_worker()
            await assert_is_whole(pool, 1)

    loops.run(main)


def test_a_block_of_the_first_task_around_the_generator_keeps_its_worker(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """One worker for two tasks: it drives whichever comes, and ends with the last."""

    async def main() -> None:
        with executor_class(1) as pool:
            rows = Rows(pool)
            async with threadpool(pool):
                worker = here()
                async with eventloop():
                    source = rows()
                    await take(source)
                    await in_a_task(take(source))
                    await in_a_task(close(source))
                assert here() == worker
            assert here() == rows.loop_thread
            rows.assert_closed_on_its_worker()
            assert rows.workers[0] == worker
            await assert_is_whole(pool, 1)

    loops.run(main)


def test_two_generators_of_one_task_share_a_worker_and_are_closed_by_two_tasks(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1) as pool:
            one, two = Rows(pool), Rows(pool)
            first, second = one(), two()
            await take(first)
            await take(second)
            closing = [start(close(first)), start(close(second))]
            await until(lambda: all(task.done() for task in closing))
            for rows in (one, two):
                rows.assert_closed_on_its_worker()
            assert one.workers[0] == two.workers[0]
            await assert_is_whole(pool, 1)

    loops.run(main)


def test_a_task_closes_its_own_generator_within_a_later_block(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The generator is closed on its worker, and the task goes on in its own."""

    async def main() -> None:
        with executor_class(1, "other") as other:
            rows = Rows(executor)
            source: Any = rows()
            await take(source)
            async with threadpool(other):
                await source.aclose()
                assert threading.current_thread().name == "other_0"
            rows.assert_closed_on_its_worker()
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    loops.run(main)


def test_a_leaver_that_is_on_a_worker_comes_back_to_it(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1, "other") as other:
            rows = Rows(executor)
            source: Any = rows()
            await take(source)

            async def leave() -> None:
                async with threadpool(other):
                    await source.aclose()
                    assert threading.current_thread().name == "other_0"
                assert here() == rows.loop_thread

            await in_a_task(leave())
            rows.assert_closed_on_its_worker()
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    loops.run(main)


def test_a_leaver_for_which_the_worker_waits_is_refused_with_the_line(
    loops: LoopKind, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The body on the worker waits for the closing task, and that would wait for the worker."""
    caplog.set_level(logging.WARNING, "threadhop")

    async def main() -> None:
        rows = Rows(executor)
        source: Any = rows()
        await take(source)
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match=r"test_adoption\.py:\d+"):
                exec_in_eventloop(close, source)
        await assert_is_whole(executor, 2)

    loops.run(main)
    assert "the very task" in caplog.text


# --- what else crosses


def test_a_leaver_that_is_cancelled_meanwhile_is_told_at_the_exit(
    loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()
    closed: list[int] = []

    async def rows() -> AsyncIterator[int]:
        async with threadpool(executor):
            try:
                async with eventloop():
                    yield 1
            finally:
                gate.stop_here()
                closed.append(here())

    async def main() -> None:
        source = rows()
        await take(source)
        task = start(close(source))
        await until(gate.reached.is_set)
        task.cancel("stop")
        await turns()
        assert not task.done()
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert len(closed) == 1
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_the_rest_of_the_body_sees_the_variables_of_the_task_that_closes(
    loops: LoopKind, executor: Executor
) -> None:
    seen: list[str] = []

    async def rows() -> AsyncIterator[int]:
        async with threadpool(executor):
            try:
                async with eventloop():
                    yield 1
            finally:
                seen.append(variable.get())
                variable.set("set by the body")

    async def main() -> None:
        source = rows()
        variable.set("first")
        await take(source)

        async def leave() -> None:
            variable.set("second")
            await close(source)
            seen.append(variable.get())

        await in_a_task(leave())
        assert seen == ["second", "set by the body"]
        assert variable.get() == "first"

    loops.run(main)


# --- who must not be suspended, and who cannot


@pytest.mark.parametrize("where", ["same task", "other task", "thread"])
def test_what_the_collector_closes_lets_its_worker_go_at_once_with_one_warning(
    loops: LoopKind, executor: Executor, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """A generator that no loop knows: no hook closes it, and nobody awaits that."""
    caplog.set_level(logging.WARNING, "threadhop")

    async def main() -> None:
        rows = Rows(executor)
        source: list[Any] = [rows()]
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        step = source[0].__anext__()
        sys.set_asyncgen_hooks(*hooks)
        await step
        del step

        async def drop() -> None:
            source.clear()
            gc.collect()

        if where == "same task":
            await drop()
        elif where == "other task":
            await in_a_task(drop())
        else:
            thread = threading.Thread(target=source.clear)
            thread.start()
            thread.join(LIMIT)
            gc.collect()
        assert rows.closed
        asked = time.monotonic()
        await assert_is_whole(executor, 2)
        assert time.monotonic() - asked < 0.5, "found out by a look once a second"

    loops.run(main)
    warnings = [r.getMessage() for r in caplog.records if r.name == "threadhop"]
    assert len(warnings) == 1
    assert f"the block at {__file__}" in warnings[0]


def test_a_task_of_another_loop_cannot_leave_a_part_and_says_where(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker is let go, and the error passes the exits of the blocks around."""
    caplog.set_level(logging.WARNING, "threadhop")

    async def main() -> None:
        source: Any = Rows(executor)()
        await take(source)
        errors: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(close(source))
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        await until(lambda: not thread.is_alive())
        assert f"the block at {__file__}" in str(errors[0])
        await assert_is_whole(executor, 2)

    asyncio.run(main())
    assert len([r for r in caplog.records if "outside of the event loop" in r.getMessage()]) == 1


def test_many_generators_closed_by_many_tasks_leave_the_pool_whole(loops: LoopKind) -> None:
    """A short storm: items are taken and generators closed by whoever likes."""

    async def main() -> None:
        with WorkerPool(4) as pool:

            async def one(number: int) -> None:
                rows = Rows(pool, 5)
                source: Any = rows()
                for _ in range(number % 4):
                    await in_a_task(take(source))
                if number % 3 == 0:
                    async with threadpool(pool):
                        await source.aclose()
                elif number % 3 == 1:
                    await in_a_task(close(source))
                else:
                    async with aclosing(source):
                        pass
                if rows.workers:
                    assert rows.closed == rows.workers[:1]

            await asyncio.gather(*(one(number) for number in range(60)))
            await assert_is_whole(pool, 4)
            assert pool.statistics().away == 0

    loops.run(main)
