"""Many blocks of one ``ThreadPoolExecutor`` share a request for a worker. None is left waiting."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from _loops import LoopKind
from _steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import _lane, threadpool
from threadhop._lane import lane_of


@pytest.fixture(params=[True, False], ids=["put", "submitted"], autouse=True)
def is_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways in which a request gets into the executor's queue."""
    if not request.param:
        monkeypatch.delitem(_lane._KNOWN, ThreadPoolExecutor)
    return bool(request.param)


async def block(pool: Executor) -> str:
    async with threadpool(pool):
        return "value"


def test_a_block_that_relied_on_a_refused_request_is_told_too() -> None:
    """1 some blocks ask for a worker, 2 others find them asking, 3 the executor refuses.

    Several loops in several threads share the pool. None of the blocks may wait for ever.
    """
    count = 6
    pool = ThreadPoolExecutor(1)
    submit = pool.submit
    refuse = threading.Event()

    def slow_refusal(*args: Any) -> Any:
        assert refuse.wait(LIMIT)
        return submit(*args)

    pool.submit = slow_refusal  # type: ignore[method-assign]
    ends: list[str] = []

    def run() -> None:
        try:
            asyncio.run(asyncio.wait_for(block(pool), 2))
        except Exception as error:
            ends.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(lane_of(pool)._waiting) == count)
        pool.shutdown()
    finally:
        refuse.set()
        for thread in threads:
            thread.join(LIMIT)
    assert ends == ["RuntimeError: cannot schedule new futures after shutdown"] * count


def test_a_failing_initializer_is_told_to_every_block(loops: LoopKind) -> None:
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("initializer")

    async def main() -> None:
        pool = ThreadPoolExecutor(1, initializer=fail)
        tasks = [asyncio.get_running_loop().create_task(block(pool)) for _ in range(5)]
        await until(gate.reached.is_set)
        await turns()
        gate.open()
        await asyncio.wait(tasks)
        for task in tasks:
            assert isinstance(task.exception(), BrokenThreadPool)
        assert len({id(task.exception()) for task in tasks}) == 5
        pool.shutdown()

    logger = logging.getLogger("concurrent.futures")
    logger.disabled = True  # it reports the initializer as critical
    try:
        loops.run(main)
    finally:
        logger.disabled = False


def test_cancelled_blocks_do_not_hold_up_the_ones_behind_them(loops: LoopKind) -> None:
    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            with busy(pool, 2):
                tasks = [asyncio.get_running_loop().create_task(block(pool)) for _ in range(60)]
                await turns()
                for task in tasks[:30] + tasks[31:59]:
                    task.cancel()
                await until(lambda: sum(task.done() for task in tasks) == 58)
            assert await tasks[30] == await tasks[59] == "value"

    loops.run(main)


def test_blocks_that_wait_for_each_other_run_at_the_same_time(loops: LoopKind) -> None:
    """As many bodies at once as there are workers, also if they became ready at once."""

    async def meet(pool: Executor, barrier: threading.Barrier) -> None:
        async with threadpool(pool):
            barrier.wait(LIMIT)

    async def main() -> None:
        with ThreadPoolExecutor(4) as pool:
            barrier = threading.Barrier(4)
            with busy(pool, 4):
                tasks = [
                    asyncio.get_running_loop().create_task(meet(pool, barrier)) for _ in range(12)
                ]
                await turns()
            await asyncio.wait(tasks)
            for task in tasks:
                task.result()

    loops.run(main)


def test_blocks_that_were_queued_before_a_shutdown_still_run_at_the_same_time(
    loops: LoopKind,
) -> None:
    """``shutdown()`` lets what is queued run, on all workers: one body may wait for another."""

    async def meet(pool: Executor, barrier: threading.Barrier) -> None:
        async with threadpool(pool):
            barrier.wait(1)

    async def main() -> None:
        pool = ThreadPoolExecutor(2)
        barrier = threading.Barrier(2)
        with busy(pool, 2):
            tasks = [asyncio.get_running_loop().create_task(meet(pool, barrier)) for _ in range(2)]
            await turns()
            pool.shutdown(wait=False)
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    loops.run(main)


def test_a_long_queue_of_blocks_lets_other_jobs_of_the_executor_through(loops: LoopKind) -> None:
    """A job that was submitted behind many blocks does not wait for blocks that come later."""
    stop = threading.Event()

    async def forever(pool: Executor) -> None:
        while not stop.is_set():
            async with threadpool(pool):
                pass

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            tasks = [loop.create_task(forever(pool)) for _ in range(20)]
            await turns()
            future = pool.submit(str, 1)
            try:
                await until(future.done)
            finally:
                stop.set()
            await asyncio.wait(tasks)

    loops.run(main)


def test_a_drop_while_a_worker_serves_is_told_to_those_that_wait(loops: LoopKind) -> None:
    """1 a worker serves, 2 others queue, 3 shutdown(cancel_futures=True): each is told."""

    async def hold(pool: Executor, gate: Gate) -> str:
        async with threadpool(pool):
            gate.stop_here()
        return "held"

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        gate = Gate()
        loop = asyncio.get_running_loop()
        first = loop.create_task(hold(pool, gate))
        await until(gate.reached.is_set)
        others = [loop.create_task(block(pool)) for _ in range(5)]
        await turns()
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.wait(others)
        for other in others:
            assert isinstance(other.exception(), RuntimeError)
        gate.open()
        assert await first == "held"
        wait_until(lambda: not any(thread.is_alive() for thread in pool._threads))

    loops.run(main)
