"""So many blocks at once that most of them wait for a worker: all end, and they need little."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import pytest
from helpers.loops import LOOPS, LoopKind

from threadhop import WorkerPool, eventloop, exec_in_executor, threadpool

#: In bytes: what a task that waits for a worker may need more than one that waits for a future.
MORE = 1024

Work = Callable[[Executor], Coroutine[Any, Any, int]]

#: In seconds: what a crowd gets to come to the pool.
SOAK = 100.0


@contextmanager
def busy(pool: Executor, workers: int = 1) -> Iterator[None]:
    """Keep that many workers busy within the block."""
    gate = threading.Event()
    held = [pool.submit(gate.wait, SOAK) for _ in range(workers)]
    try:
        yield
    finally:
        gate.set()
    assert all(future.result(SOAK) for future in held), "nobody opened the gate"


async def block(executor: Executor) -> int:
    async with threadpool(executor):
        return threading.get_ident()


async def call(executor: Executor) -> int:
    return await exec_in_executor(executor, threading.get_ident)


def seconds_to_leave(part: eventloop, tasks: int) -> float:
    """Of the processor: until that many tasks have left *part*, which all have entered."""

    async def main() -> float:
        go = asyncio.Event()

        async def stay() -> None:
            async with part:
                await go.wait()

        crowd = [asyncio.ensure_future(stay()) for _ in range(tasks)]
        await asyncio.sleep(0)
        begin = time.thread_time()
        go.set()
        await asyncio.wait(crowd)
        return time.thread_time() - begin

    return min(asyncio.run(main()) for _ in range(3))


def test_thousands_that_share_an_eventloop_object_leave_it_as_fast_as_hundreds() -> None:
    part = eventloop()
    few = seconds_to_leave(part, 200) / 200
    assert seconds_to_leave(part, 4_000) / 4_000 < 6 * few


SOAKING = pytest.param(100_000, 100, marks=[pytest.mark.soak, pytest.mark.timeout(120)])


async def crowd_ends(work: Work, tasks: int, of_view: bool) -> None:
    with WorkerPool(4) as pool:
        executor = pool.limited(3) if of_view else pool
        with busy(pool, 4):
            crowd = [asyncio.ensure_future(work(executor)) for _ in range(tasks)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        threads = await asyncio.gather(*crowd)
        assert len(threads) == tasks
        assert 1 <= len(set(threads)) <= 4
        assert threading.get_ident() not in threads


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize(("tasks", "timeout"), [(3_000, 15), SOAKING])
def test_thousands_of_blocks_that_are_queued_at_once_all_end(
    loops: LoopKind, tasks: int, timeout: int, of_view: bool
) -> None:
    loops.run(crowd_ends(block, tasks, of_view), timeout=timeout)


@pytest.mark.parametrize(("tasks", "timeout"), [(3_000, 15), SOAKING])
def test_thousands_of_calls_that_are_queued_at_once_all_end(tasks: int, timeout: int) -> None:
    LOOPS[0].run(crowd_ends(call, tasks, False), timeout=timeout)


async def bytes_of_each(job: Callable[[], Coroutine[Any, Any, object]], tasks: int) -> float:
    """While it waits. The tasks are cancelled afterwards."""
    import tracemalloc

    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        crowd = [asyncio.ensure_future(job()) for _ in range(tasks)]
        for _ in range(3):
            await asyncio.sleep(0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    for task in crowd:
        task.cancel()
    await asyncio.wait(crowd)
    return used / tasks


if importlib.util.find_spec("_tracemalloc") is not None:  # PyPy has none

    @pytest.mark.timeout(120)
    @pytest.mark.parametrize("work", [block, call])
    @pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
    @pytest.mark.parametrize("tasks", [2_000, pytest.param(100_000, marks=pytest.mark.soak)])
    def test_a_block_that_waits_for_a_worker_needs_less_than_a_kibibyte(
        work: Work, of_view: bool, tasks: int
    ) -> None:
        """More than a task that waits for a plain future."""

        async def plain() -> None:
            await asyncio.get_running_loop().create_future()

        async def main() -> None:
            with WorkerPool(1) as pool, busy(pool):
                executor = pool.limited(1) if of_view else pool
                await bytes_of_each(lambda: work(executor), 10)  # makes what all of them share
                alone = await bytes_of_each(plain, tasks)
                assert await bytes_of_each(lambda: work(executor), tasks) <= alone + MORE

        asyncio.run(main())
