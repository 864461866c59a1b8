"""The bugs of the libraries that came before this one: each of them here once, and never again."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until

from threadhop import (
    AsyncExecutor,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
    unwrap_future,
)

HAS_PROC = os.path.isdir("/proc/self/fd")


class OopsError(Exception):
    """What a test raises on purpose."""


def oops() -> None:
    raise OopsError


async def oops_async() -> None:
    await asyncio.sleep(0)
    raise OopsError


@pytest.mark.parametrize("func", [oops, oops_async], ids=["plain", "coroutine"])
def test_a_threading_future_stayed_pending_when_the_function_raised(
    executor: Executor, func: Callable[[], Any]
) -> None:
    """Whoever waited for its result waited for ever."""
    future = exec_in_executor_threading_future(executor, func)
    with pytest.raises(OopsError):
        future.result(LIMIT)


@pytest.mark.skipif(not HAS_PROC, reason="it counts files in /proc/self/fd")
def test_every_worker_had_a_loop_that_was_never_closed(current_task_loops: LoopKind) -> None:
    """Three files for each thread, also if it only ever ran plain functions."""
    workers = 6

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        await exec_in_executor(None, int)
        before = open_files()
        barrier = threading.Barrier(workers, timeout=LIMIT)

        async def wait() -> None:
            barrier.wait()

        with ThreadPoolExecutor(workers) as pool:
            await asyncio.gather(*(exec_in_executor(pool, barrier.wait) for _ in range(workers)))
            assert open_files() == before, "plain functions opened current_task_loops"
            await asyncio.gather(*(exec_in_executor(pool, wait) for _ in range(workers)))
            assert open_files() > before, "nothing was looked at"
        assert open_files() == before, "the current_task_loops of the workers were not closed"

    current_task_loops.run(main)


@pytest.mark.parametrize("func", [oops, oops_async], ids=["plain", "coroutine"])
def test_every_error_was_logged_as_unhandled_though_it_was_awaited(
    loops: LoopKind,
    executor: Executor,
    func: Callable[[], Any],
    expect_loop_errors: list[Any],
) -> None:
    """By the handlers of both loops: that of the caller and that of the worker."""
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        for _ in range(3):
            with pytest.raises(OopsError):
                await exec_in_executor(executor, func)
            with pytest.raises(OopsError):
                await AsyncExecutor(executor).run(func)
            with pytest.raises(OopsError):
                await asyncio.wrap_future(exec_in_executor_threading_future(executor, func))
        gc.collect()
        await turns()

    loops.run(main)
    gc.collect()
    assert not told
    assert not expect_loop_errors


def test_a_cancel_never_reached_the_coroutine_on_the_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """It went on, and its worker was lost to the others for as long."""
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def main() -> None:
        future = exec_in_executor(executor, work)
        await until(started.is_set)
        future.cancel()
        await until(cancelled.is_set)

    loops.run(main)


def test_a_coroutine_was_never_awaited_when_it_was_cancelled_early(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """RuntimeWarning: it had been made before a worker was free. (Warnings are errors here.)"""
    made: list[bool] = []

    async def work() -> None:
        made.append(True)

    def make() -> Any:
        made.append(True)
        return work()

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            wrapper = AsyncExecutor(pool)
            task = asyncio.get_running_loop().create_task(wrapper.run(make))
            unstarted = asyncio.get_running_loop().create_task(wrapper.run(work))
            unstarted.cancel()
            await turns()
            future = exec_in_executor(pool, make)
            threading_future = exec_in_executor_threading_future(pool, work)
            assert task.cancel()
            assert future.cancel()
            assert threading_future.cancel()
            await until(lambda: task.done() and unstarted.done())
        gc.collect()

    loops.run(main)
    gc.collect()
    assert not made


def test_an_async_call_method_came_back_unawaited(loops: LoopKind, executor: Executor) -> None:
    """``inspect.iscoroutinefunction`` does not know such objects."""

    class Worker:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            return threading.current_thread().name

    async def main() -> None:
        worker = Worker()
        names = [
            await exec_in_executor(executor, worker),
            await AsyncExecutor(executor).run(worker),
            await asyncio.wrap_future(exec_in_executor_threading_future(executor, worker)),
        ]
        assert all(name.startswith("worker") for name in names)

    loops.run(main)


@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_run_swallowed_the_cancellation_of_its_task(
    current_task_loops: LoopKind, executor: Executor, ending: str
) -> None:
    """So an ``asyncio.timeout`` around it ended without TimeoutError, and the task went on."""

    def work(gate: Gate) -> str:
        gate.stop_here()
        if ending == "raises":
            raise OopsError
        return "late"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        went_on = False
        gate = Gate()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01) as timeout:
                timeout_is_over = loop.create_task(until(timeout.expired))
                timeout_is_over.add_done_callback(lambda _: gate.open())
                await AsyncExecutor(executor).run(work, gate)
                went_on = True
        assert not went_on
        await timeout_is_over
        other = Gate()
        future = executor.submit(work, other)
        task = loop.create_task(unwrap_future(future))
        await turns()
        task.cancel()
        await turns()
        other.open()
        await until(task.done)
        assert task.cancelled()

    current_task_loops.run(main)


def test_stop_iteration_left_a_future_pending(loops: LoopKind, executor: Executor) -> None:
    """On 3.11 and 3.12.0 a future of a loop refuses it, in a callback, where nobody saw it."""

    def stop() -> None:
        raise StopIteration("over")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await exec_in_executor(executor, stop)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await AsyncExecutor(executor).run(stop)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wrap_future(exec_in_executor_threading_future(executor, stop))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await unwrap_future(executor.submit(stop))

    loops.run(main, timeout=3)


def test_stop_iteration_leaves_a_block(loops: LoopKind, executor: Executor) -> None:
    """In a block it is an error like any other; out of a coroutine it is a RuntimeError."""

    async def main() -> None:
        try:
            async with threadpool(executor):
                raise StopIteration("over")
        except StopIteration as error:
            assert error.args == ("over",)
        else:
            raise AssertionError("nothing was raised")

    loops.run(main, timeout=3)
