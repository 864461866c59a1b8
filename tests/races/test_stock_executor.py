"""Blocks and calls in the queue of a ``ThreadPoolExecutor``, put there or submitted.

Users see one queue: jobs begin in the order in which they came, whoever gave them.
"""

from __future__ import annotations

import asyncio
import gc
import queue
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.pool_jobs import Booked
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

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


async def note(executor: Executor, order: list[str], name: str) -> None:
    async with threadpool(executor):
        order.append(name)


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


@pytest.mark.parametrize("where", ["instance", "class"])
def test_who_replaces_submit_sees_blocks_and_calls(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As tools do that trace."""
    seen: list[Any] = []

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            await block(pool)
            submit: Any = pool.submit if where == "instance" else ThreadPoolExecutor.submit

            def traced(*args: Any, **kwargs: Any) -> Any:
                seen.append(args)
                return submit(*args, **kwargs)

            owner = pool if where == "instance" else ThreadPoolExecutor
            monkeypatch.setattr(owner, "submit", traced)
            await block(pool)
            await exec_in_executor(pool, str)
            monkeypatch.undo()
            await block(pool)

    asyncio.run(main())
    assert len(seen) == 2


def test_no_thread_that_can_start_is_an_error_at_entry(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the loop thread, for each block. Nothing stays behind, and the next block works.

    The executor keeps the items that it found no thread for. Their jobs are void: the thread that
    comes next does nothing for them.
    """

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                for _ in range(5):
                    with pytest.raises(RuntimeError, match="can't start new thread"):
                        await block(pool)
                    with pytest.raises(RuntimeError, match="can't start new thread"):
                        exec_in_executor(pool, str)
            # Threads whose start has failed are in there, too.
            pool._threads.clear()
            assert await asyncio.gather(*(block(pool) for _ in range(10))) == ["value"] * 10

    loops.run(main)


def test_a_shutdown_that_cancels_tells_what_waits_under_its_lock(loops: LoopKind) -> None:
    """Also calls. Each hears of it, none is left, and nobody waits for that lock."""

    async def main() -> None:
        pool = ThreadPoolExecutor(2)
        with busy(pool, 2):
            tasks = [start(block(pool)) for _ in range(20)]
            calls = [exec_in_executor(pool, str) for _ in range(20)]
            await turns()
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.wait([*tasks, *calls], timeout=LIMIT)
            for task in tasks:
                assert "dropped the job" in str(task.exception())
            for call in calls:
                assert "dropped the job" in str(call.exception())
            with pytest.raises(RuntimeError, match="after shutdown"):
                await block(pool)
        pool.shutdown()

    loops.run(main)


def test_jobs_begin_in_the_order_in_which_they_came_whoever_gave_them(loops: LoopKind) -> None:
    """Blocks, calls, and what others submit: one line, and nobody overtakes."""
    order: list[str] = []

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting: list[Any] = []
            with busy(pool):
                for number in range(5):
                    waiting.append(start(note(pool, order, f"block {number}")))
                    await turns()
                    waiting.append(exec_in_executor(pool, order.append, f"call {number}"))
                    waiting.append(asyncio.wrap_future(pool.submit(order.append, f"job {number}")))
            await asyncio.wait(waiting)
        kinds = ("block", "call", "job")
        assert order == [f"{kind} {number}" for number in range(5) for kind in kinds]

    loops.run(main)


def test_a_failing_initializer_is_told_to_every_block(expect_loop_errors: list[Any]) -> None:
    """The executor itself reports it as critical."""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("initializer")

    async def main() -> None:
        pool = ThreadPoolExecutor(1, initializer=fail)
        tasks = [start(block(pool)) for _ in range(5)]
        await until(gate.reached.is_set)
        await turns()
        gate.open()
        await asyncio.wait(tasks)
        for task in tasks:
            assert isinstance(task.exception(), BrokenThreadPool)
        assert len({id(task.exception()) for task in tasks}) == 5
        pool.shutdown()

    asyncio.run(main())


def test_blocks_that_were_queued_before_a_shutdown_still_run_at_the_same_time() -> None:
    """``shutdown()`` lets what is queued run, on all workers: one body may wait for another."""

    async def meet(pool: Executor, barrier: threading.Barrier) -> None:
        async with threadpool(pool):
            barrier.wait(1)

    async def main() -> None:
        pool = ThreadPoolExecutor(2)
        barrier = threading.Barrier(2)
        with busy(pool, 2):
            tasks = [start(meet(pool, barrier)) for _ in range(2)]
            await turns()
            pool.shutdown(wait=False)
        await asyncio.wait(tasks)
        for task in tasks:
            task.result()

    asyncio.run(main())


def test_a_job_that_a_worker_takes_although_no_thread_could_start_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the job is in the queue, 2 a worker takes it, 3 no further thread can start.

    The worker has the claim: the error is not for the task.
    """

    async def main() -> None:
        taken = threading.Event()

        async def watched() -> str:
            async with threadpool(pool):
                taken.set()
                return "value"

        with ThreadPoolExecutor(2) as pool:
            await block(pool)

            def taken_and_refused() -> None:
                assert taken.wait(LIMIT)
                raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                patch.setattr(pool, "_adjust_thread_count", taken_and_refused)
                assert await watched() == "value"
            assert await block(pool) == "value"

    asyncio.run(main())


def test_no_more_threads_start_than_the_standard_library_would() -> None:
    """One after another needs one thread; as many at once as there are workers need them all."""

    async def main() -> None:
        with ThreadPoolExecutor(4) as pool:
            for _ in range(20):
                await block(pool)
                # A worker counts as idle when it is back at the queue.
                wait_until(lambda: pool._idle_semaphore._value == 1)
            assert len(pool._threads) == 1
            await asyncio.gather(*(block(pool) for _ in range(100)))
            assert len(pool._threads) <= 4

    asyncio.run(main())


def test_an_executor_outlives_a_mistake_in_a_job(expect_loop_errors: list[Any]) -> None:
    """An error out of a job is logged, and costs the executor no worker."""

    def fail() -> None:
        raise LookupError("mistake")

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                _executors.submit(Booked(pool, fail))
            assert await block(pool) == "value"

    asyncio.run(main())


def test_an_executor_that_is_thrown_away_with_blocks_in_its_queue_does_them() -> None:
    """And its threads end, without a shutdown."""

    async def main() -> None:
        gate = Gate()
        pool = ThreadPoolExecutor(1)
        threads = pool._threads
        pool.submit(gate.stop_here)
        await until(gate.reached.is_set)
        tasks = [start(block(pool)) for _ in range(5)]
        await turns()
        ref = weakref.ref(pool)
        del pool
        gate.open()
        assert await asyncio.gather(*tasks) == ["value"] * 5
        tasks.clear()

        def is_gone() -> bool:
            gc.collect()
            return ref() is None

        await until(is_gone)
        for thread in list(threads):
            thread.join(LIMIT)
            assert not thread.is_alive()

    asyncio.run(main())
