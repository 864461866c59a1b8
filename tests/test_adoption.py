"""Whoever leaves a loop part, the rest of the block runs on its worker."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns, until

from threadhop import WorkerPool, check_cancelled, eventloop, exec_in_eventloop, threadpool
from threadhop._strand import Strand

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

    def __init__(
        self,
        executor: Executor,
        count: int = 3,
        *,
        part: Callable[[], Any] = eventloop,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.executor = executor
        self.count = count
        self.part = part
        #: Called within the ``finally``.
        self.at_end = at_end
        self.loop_thread = here()
        self.workers: list[int] = []
        self.closed: list[int] = []

    async def __call__(self) -> AsyncIterator[int]:
        async with threadpool(self.executor):
            try:
                for number in range(self.count):
                    self.workers.append(here())
                    async with self.part():
                        assert here() == self.loop_thread
                        yield number
            finally:
                self.closed.append(here())
                self.at_end()
        assert here() == self.loop_thread

    def assert_closed_on_its_worker(self) -> None:
        assert len(set(self.workers)) == 1
        assert self.closed == self.workers[:1]
        assert self.loop_thread not in self.workers


async def yields_in_its_block(executor: Executor) -> AsyncIterator[int]:
    """What nobody should do: who takes the item is on the worker."""
    async with threadpool(executor):
        yield here()


async def assert_is_whole(executor: Any, workers: int) -> None:
    """As many bodies at once as there are workers."""
    barrier = threading.Barrier(workers, timeout=LIMIT)

    async def block() -> None:
        async with threadpool(executor):
            barrier.wait()

    await asyncio.gather(*(block() for _ in range(workers)))


async def collected(is_closed: Callable[[], object]) -> None:
    """Until the collector has found the generator, and the loop's hook has closed it."""

    def collect() -> object:
        gc.collect()
        return is_closed()

    await until(collect)


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
        await collected(lambda: rows.closed)
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
        await collected(lambda: rows.closed)
        rows.assert_closed_on_its_worker()
        await turns()
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_a_consumer_that_is_cancelled_at_an_await_closes_the_generator_on_its_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """The error is thrown in through coroutines that were suspended and still stand at an await."""

    async def consume(rows: Rows) -> None:
        async with aclosing(rows()) as source:
            async for _ in source:
                await asyncio.get_running_loop().create_future()

    async def outer(rows: Rows) -> None:
        await consume(rows)

    async def main() -> None:
        rows = Rows(executor)
        task = start(outer(rows))
        await until(lambda: rows.workers)
        await turns()
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        rows.assert_closed_on_its_worker()
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


@pytest.mark.parametrize("how", ["exit stack", "helpers"])
def test_blocks_that_helpers_entered_for_the_generator_are_all_left_on_their_workers(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor], how: str
) -> None:
    """A helper of contextlib is in between, and may have returned."""
    steps: list[tuple[str, int]] = []

    @asynccontextmanager
    async def on(pool: Executor, name: str) -> AsyncIterator[None]:
        async with threadpool(pool):
            steps.append((f"{name} begins", here()))
            try:
                yield
            finally:
                steps.append((f"{name} ends", here()))

    async def with_helpers(other: Executor) -> AsyncIterator[int]:
        async with on(executor, "outer"), on(other, "inner"), eventloop():
            yield 1

    async def with_exit_stack(other: Executor) -> AsyncIterator[int]:
        def note(step: str) -> None:
            steps.append((step, here()))

        async with AsyncExitStack() as stack:
            for pool, name in ((executor, "outer"), (other, "inner")):
                await stack.enter_async_context(threadpool(pool))
                note(f"{name} begins")
                stack.callback(note, f"{name} ends")
            await stack.enter_async_context(eventloop())
            yield 1

    async def main() -> None:
        with executor_class(1) as other:
            source = (with_helpers if how == "helpers" else with_exit_stack)(other)
            await in_a_task(take(source))
            await in_a_task(close(source))
            names, threads = zip(*steps, strict=True)
            assert names == ("outer begins", "inner begins", "inner ends", "outer ends")
            assert threads == threads[::-1]
            assert len({*threads, here()}) == 3
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

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


def test_a_part_object_that_two_tasks_share_is_left_by_each_to_its_own_worker(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 a generator is suspended in it, 2 so is another task, 3 a third one closes the first."""
    part = eventloop()

    async def main() -> None:
        with executor_class(1) as other:
            rows = Rows(executor, part=lambda: part)
            source = rows()
            await take(source)
            is_in_part = asyncio.Event()

            async def second() -> None:
                async with threadpool(other):
                    worker = here()
                    async with part:
                        is_in_part.set()
                        await until(lambda: rows.closed)
                    assert here() == worker
                assert here() == rows.loop_thread

            task = start(second())
            await until(is_in_part.is_set)
            await in_a_task(close(source))
            rows.assert_closed_on_its_worker()
            await until(task.done)
            task.result()
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    loops.run(main)


def test_a_part_object_that_two_generators_of_a_task_share_is_left_to_the_worker_of_each(
    executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The one that was entered first is left first."""
    part = eventloop()

    async def main() -> None:
        with executor_class(1) as other:
            both = [Rows(pool, part=lambda: part) for pool in (executor, other)]
            sources = [rows() for rows in both]
            for source in sources:
                await take(source)
            for source in sources:
                await close(source)
                assert here() == both[0].loop_thread
            for rows in both:
                rows.assert_closed_on_its_worker()
            assert both[0].workers[0] != both[1].workers[0]
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    asyncio.run(main())


def test_a_generator_that_has_only_a_loop_part_leaves_the_block_around_it_alone(
    loops: LoopKind, executor: Executor
) -> None:
    """It has no worker: who closes it adopts none, and the owner keeps its own."""

    async def ticks() -> AsyncIterator[int]:
        async with eventloop():
            yield 1

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()

            async def close_and_block(source: Any) -> None:
                await source.aclose()
                async with threadpool(executor):
                    assert here() not in (worker, loop_thread)
                assert here() == loop_thread

            async with eventloop():
                source = ticks()
                await take(source)
                await in_a_task(close_and_block(source))
                async with threadpool(executor):
                    assert here() == worker
            assert here() == worker
        assert here() == loop_thread
        await assert_is_whole(executor, 2)

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


def test_a_worker_that_drives_one_closer_keeps_its_identity_while_another_one_adopts(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 the first body ends, 2 a second task adopts, 3 the first one is cancelled, and sees it."""
    gate = Gate()
    seen: list[str] = []

    def end_first() -> None:
        gate.stop_here()
        with pytest.raises(asyncio.CancelledError):
            check_cancelled()
        seen.append("first")

    def end_second() -> None:
        check_cancelled()
        seen.append("second")

    async def main() -> None:
        with executor_class(1) as pool:
            one, two = Rows(pool, at_end=end_first), Rows(pool, at_end=end_second)
            first, second = one(), two()
            await take(first)
            await take(second)
            closing = [start(close(first))]
            await until(gate.reached.is_set)
            closing.append(start(close(second)))
            await turns()
            closing[0].cancel()
            gate.open()
            await until(lambda: all(task.done() for task in closing))
            assert [task.cancelled() for task in closing] == [True, False]
            closing[1].result()
            assert seen == ["first", "second"]
            for rows in (one, two):
                rows.assert_closed_on_its_worker()
            assert one.workers[0] == two.workers[0]
            await assert_is_whole(pool, 1)

    loops.run(main)


def test_a_shared_worker_does_not_give_up_while_one_task_needs_it(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The task that it drove last has ended; the one that it waits for has not."""
    monkeypatch.setattr("threadhop._block_job.POLL", 0.001)
    looks: list[bool] = []
    is_gone = Strand.is_gone

    def noted(strand: Strand) -> bool:
        looks.append(is_gone(strand))
        return looks[-1]

    async def main() -> None:
        with executor_class(1) as pool:
            rows = Rows(pool)
            async with threadpool(pool):
                worker = here()
                async with eventloop():
                    source = rows()
                    await take(source)
                    await in_a_task(close(source))
                    monkeypatch.setattr(Strand, "is_gone", noted)
                    await until(lambda: len(looks) > 3)
                assert here() == worker
            assert not all(looks)
            rows.assert_closed_on_its_worker()
            await assert_is_whole(pool, 1)

    loops.run(main)


def test_a_task_that_ends_within_its_block_does_not_take_a_shared_worker_from_the_other_one(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 a second task adopts, 2 the first one ends on the worker, 3 the second goes on there."""

    async def main() -> None:
        with executor_class(1) as pool:
            rows = Rows(pool)
            source, kept, ending = rows(), Rows(pool)(), yields_in_its_block(pool)
            has_taken, has_adopted = asyncio.Event(), asyncio.Event()

            async def first() -> None:
                await take(source)
                await take(kept)
                has_taken.set()
                await has_adopted.wait()
                assert await take(ending) == here() == rows.workers[0]

            async def second() -> None:
                await has_taken.wait()
                await take(source)
                has_adopted.set()
                await until(tasks[0].done)
                await close(source)
                assert here() == rows.loop_thread

            tasks = [start(first()), start(second())]
            await until(lambda: all(task.done() for task in tasks))
            for task in tasks:
                task.result()
            assert len(rows.workers) == 2
            rows.assert_closed_on_its_worker()
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


def test_two_tasks_that_close_each_others_generators_both_come_to_their_end(
    loops: LoopKind, executor: Executor
) -> None:
    """Both at once: none waits for the other to be at home."""

    async def main() -> None:
        both = [Rows(executor), Rows(executor)]
        sources = [rows() for rows in both]
        taken: list[int] = []
        go = asyncio.Event()

        async def close_the_other(mine: int) -> None:
            taken.append(await take(sources[mine]))
            await go.wait()
            await close(sources[1 - mine])
            assert here() == both[0].loop_thread

        tasks = [start(close_the_other(mine)) for mine in (0, 1)]
        await until(lambda: len(taken) == 2)
        go.set()
        await until(lambda: all(task.done() for task in tasks))
        for task, rows in zip(tasks, both, strict=True):
            task.result()
            rows.assert_closed_on_its_worker()
        await assert_is_whole(executor, 2)

    loops.run(main)


def test_a_leaver_that_waits_for_a_task_that_ends_on_a_worker_is_told_and_goes_on(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 the first task is in a block, 2 another one closes its generator, 3 it ends in there."""
    gate = Gate()

    async def main() -> None:
        with executor_class(1) as other:
            source, ending = Rows(executor)(), yields_in_its_block(other)

            async def first() -> None:
                await take(source)
                assert await take(ending) == here()
                gate.stop_here()

            task = start(first())
            await until(gate.reached.is_set)
            closing = start(close(source))
            await turns()
            assert not closing.done()
            gate.open()
            await until(lambda: closing.done() and task.done())
            task.result()
            with pytest.raises(RuntimeError, match="not inside the block"):
                closing.result()
            await assert_is_whole(executor, 2)
            await assert_is_whole(other, 1)

    loops.run(main)


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
