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
from helpers.loops import LoopKind, on_every_loop
from helpers.steps import LIMIT, Gate, busy, turns, until

from threadhop import (
    AsyncExecutor,
    exec_in_executor,
    exec_in_executor_threading_future,
    unwrap_future,
)

HAS_PROC = os.path.isdir("/proc/self/fd")


async def by_call(executor: Executor, func: Callable[[], Any]) -> Any:
    return await exec_in_executor(executor, func)


async def by_wrapper(executor: Executor, func: Callable[[], Any]) -> Any:
    return await AsyncExecutor(executor).run(func)


async def by_threading_future(executor: Executor, func: Callable[[], Any]) -> Any:
    return await asyncio.wrap_future(exec_in_executor_threading_future(executor, func))


#: The ways in which a function gets to an executor.
every_way = pytest.mark.parametrize("way", [by_call, by_wrapper, by_threading_future])


class OopsError(Exception):
    """What a test raises on purpose."""


def oops() -> None:
    raise OopsError


async def oops_async() -> None:
    await asyncio.sleep(0)
    raise OopsError


@every_way
@pytest.mark.parametrize("func", [oops, oops_async], ids=["plain", "coroutine"])
def test_an_error_left_a_future_pending_or_was_logged_as_unhandled(
    loops: LoopKind,
    executor: Executor,
    way: Callable[..., Any],
    func: Callable[[], Any],
    expect_loop_errors: list[Any],
) -> None:
    """By the handlers of both loops, that of the caller and that of the worker."""
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        for _ in range(3):
            with pytest.raises(OopsError):
                await way(executor, func)
        gc.collect()
        await turns()

    loops.run(main)
    gc.collect()
    assert not told
    assert not expect_loop_errors


@every_way
@on_every_loop
async def test_an_async_call_method_came_back_unawaited(
    executor: Executor, way: Callable[..., Any]
) -> None:
    """``inspect.iscoroutinefunction`` does not know such objects."""

    class Worker:
        async def __call__(self) -> str:
            await asyncio.sleep(0)
            return threading.current_thread().name

    assert (await way(executor, Worker())).startswith("worker")


@every_way
@on_every_loop
async def test_stop_iteration_left_a_future_pending(
    executor: Executor, way: Callable[..., Any]
) -> None:
    """On 3.11 and 3.12.0 a future of a loop refuses it, in a callback, where nobody saw it."""

    def stop() -> None:
        raise StopIteration("over")

    with pytest.raises(RuntimeError, match="StopIteration"):
        await way(executor, stop)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await unwrap_future(executor.submit(stop))


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
            assert open_files() == before, "plain functions opened loops"
            await asyncio.gather(*(exec_in_executor(pool, wait) for _ in range(workers)))
            assert open_files() > before, "nothing was looked at"
        assert open_files() == before, "the loops of the workers were not closed"

    current_task_loops.run(main)


@on_every_loop
async def test_a_cancel_never_reached_the_coroutine_on_the_worker(executor: Executor) -> None:
    """It went on, and its worker was lost to the others for as long."""
    started, cancelled = threading.Event(), threading.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    future = exec_in_executor(executor, work)
    await until(started.is_set)
    future.cancel()
    await until(cancelled.is_set)


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


@pytest.mark.parametrize("error", [None, OopsError], ids=["returns", "raises"])
@on_every_loop
async def test_run_swallowed_the_cancellation_of_its_task(
    executor: Executor, error: type[Exception] | None
) -> None:
    """So an ``asyncio.timeout`` around it ended without TimeoutError, and the task went on."""

    def work(gate: Gate) -> str:
        gate.stop_here()
        if error is not None:
            raise error
        return "late"

    loop = asyncio.get_running_loop()
    for wait in (
        lambda gate: AsyncExecutor(executor).run(work, gate),
        lambda gate: unwrap_future(executor.submit(work, gate)),
    ):
        gate = Gate()
        task = loop.create_task(wait(gate))
        await until(gate.reached.is_set)
        task.cancel()
        await turns()
        gate.open()
        await asyncio.wait({task})
        assert task.cancelled()
