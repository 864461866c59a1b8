"""Blocks and calls in the queue of a ``ThreadPoolExecutor``, put there or submitted.

Users see one queue: jobs begin in the order in which they came, whoever gave them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from helpers.loops import on_one_loop
from helpers.places import assert_is_whole
from helpers.pool_jobs import Booked, cannot_start
from helpers.steps import LIMIT, busy, turns, wait_until

from threadhop import _executors, exec_in_executor, threadpool


@pytest.fixture(params=[True, False], ids=["put", "submitted"], autouse=True)
def is_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways in which a job gets into the executor's queue."""
    if not request.param:
        monkeypatch.delitem(_executors._KNOWN, ThreadPoolExecutor)
    return bool(request.param)


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def block(executor: Executor) -> str:
    async with threadpool(executor):
        return "value"


def test_this_python_is_known(is_known: bool) -> None:
    """The tests run on each version whose queue is taken for known; a block submits nothing."""
    seen: list[str] = []

    class NotingQueue(queue.SimpleQueue[Any]):
        def put(self, item: Any, *args: Any, **kwargs: Any) -> None:
            seen.append(type(item).__name__)
            super().put(item)

    with ThreadPoolExecutor(1) as pool:
        pool._work_queue = NotingQueue()
        asyncio.run(block(pool))
    # (What wakes the workers at the end goes the same way.)
    assert seen[0] == ("_QueueItem" if is_known else "_WorkItem")
    assert set(seen[1:]) <= {"NoneType"}


@on_one_loop
async def test_no_thread_that_can_start_is_an_error_at_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the loop thread, for each block. Nothing stays behind, and the next block works.

    The executor keeps the items that it found no thread for. Their jobs are void: the thread that
    comes next does nothing for them.
    """
    with ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            for _ in range(5):
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await block(pool)
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    exec_in_executor(pool, str)
        # Threads whose start has failed are in there, too.
        pool._threads.clear()
        assert await asyncio.gather(*(block(pool) for _ in range(10))) == ["value"] * 10


@on_one_loop
async def test_jobs_begin_in_the_order_in_which_they_came_whoever_gave_them() -> None:
    """Blocks, calls, and what others submit: one line, and nobody overtakes."""
    order: list[str] = []

    async def note(name: str) -> None:
        async with threadpool(pool):
            order.append(name)

    with ThreadPoolExecutor(1) as pool:
        waiting: list[Any] = []
        with busy(pool):
            for number in range(5):
                waiting.append(start(note(f"block {number}")))
                await turns()
                waiting.append(exec_in_executor(pool, order.append, f"call {number}"))
                waiting.append(asyncio.wrap_future(pool.submit(order.append, f"job {number}")))
        await asyncio.wait(waiting)
    kinds = ("block", "call", "job")
    assert order == [f"{kind} {number}" for number in range(5) for kind in kinds]


@on_one_loop
async def test_a_job_that_a_worker_takes_although_no_thread_could_start_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the job is in the queue, 2 a worker takes it, 3 no further thread can start.

    The worker has the claim: the error is not for the task.
    """
    taken = threading.Event()

    async def watched() -> str:
        async with threadpool(pool):
            taken.set()
            return "value"

    def taken_and_refused() -> None:
        assert taken.wait(LIMIT)
        raise RuntimeError("can't start new thread")

    with ThreadPoolExecutor(2) as pool:
        await block(pool)
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_adjust_thread_count", taken_and_refused)
            assert await watched() == "value"
        assert await block(pool) == "value"


@on_one_loop
async def test_no_more_threads_start_than_the_standard_library_would() -> None:
    """One after another needs one thread; as many at once as there are workers need them all."""
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            await block(pool)
            # A worker counts as idle when it is back at the queue.
            wait_until(lambda: pool._idle_semaphore._value == 1)
        assert len(pool._threads) == 1
        await assert_is_whole(pool, 4)
        assert len(pool._threads) == 4


@on_one_loop
async def test_an_executor_outlives_a_mistake_in_a_job(expect_loop_errors: list[Any]) -> None:
    """An error out of a job is logged, and costs the executor no worker."""
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            _executors.submit(Booked(pool, partial(int, "mistake")))
        assert await block(pool) == "value"
