"""Requests for workers that are put into the queue of a ``ThreadPoolExecutor`` as they are.

What holds for both ways, this one and ``submit``, is also tested in ``test_lane.py``.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from _loops import LoopKind
from _steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import _lane, exec_in_executor, threadpool
from threadhop._lane import lane_of


@pytest.fixture(params=[True, False], ids=["put", "submitted"])
def is_known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways in which a request gets into the executor's queue."""
    if not request.param:
        monkeypatch.delitem(_lane._KNOWN, ThreadPoolExecutor)
    return bool(request.param)


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def block(executor: Executor) -> str:
    async with threadpool(executor):
        return "value"


def is_whole(pool: ThreadPoolExecutor) -> bool:
    """Whether all permits are there, and nothing waits."""
    lane = lane_of(pool)
    return len(lane._permits) == lane._size and not lane._waiting


def test_this_python_is_known(is_known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run on each version whose queue is taken for known; a block submits nothing."""
    seen: list[Any] = []
    with ThreadPoolExecutor(1) as pool:
        put = pool._work_queue.put

        class Queue:
            def put(self, item: Any) -> None:
                seen.append(type(item).__name__)
                put(item)

            def __getattr__(self, name: str) -> Any:
                return getattr(pool_queue, name)

        pool_queue = pool._work_queue
        pool._work_queue = Queue()  # type: ignore[assignment]
        try:
            asyncio.run(block(pool))
        finally:
            pool._work_queue = pool_queue
    # (What wakes the workers at the end goes the same way.)
    assert seen[0] == ("_Request" if is_known else "_WorkItem")
    assert set(seen[1:]) <= {"NoneType"}


@pytest.mark.parametrize("where", ["instance", "class"])
def test_who_replaces_submit_sees_blocks_and_calls(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch, where: str
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
            wait_until(lambda: is_whole(pool))

    loops.run(main)
    assert len(seen) == 2


def test_no_thread_that_can_start_is_an_error_at_entry(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """On the loop thread, for each block. Nothing stays behind, and the next block works.

    The executor keeps what it could not find a thread for. It is void: the thread that comes next
    does nothing for it.
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
                    assert is_whole(pool)
            # Threads whose start has failed are in there, too.
            pool._threads.clear()
            assert await asyncio.gather(*(block(pool) for _ in range(10))) == ["value"] * 10
            wait_until(lambda: is_whole(pool))

    loops.run(main)


def test_a_worker_that_takes_a_request_although_no_thread_could_start_serves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the request is in the queue, 2 a worker takes it up, 3 no further thread can start.

    The worker has the permit then, and it is given back once only.
    """

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            await block(pool)
            wait_until(lambda: is_whole(pool))

            def taken_and_refused() -> None:
                wait_until(lambda: not lane_of(pool)._waiting)
                raise RuntimeError("can't start new thread")

            with monkeypatch.context() as patch:
                patch.setattr(pool, "_adjust_thread_count", taken_and_refused)
                assert await block(pool) == "value"
            assert await block(pool) == "value"
            wait_until(lambda: is_whole(pool))
            assert len(lane_of(pool)._permits) == 3

    asyncio.run(main())


def test_a_shutdown_that_cancels_tells_what_waits_under_its_lock(
    loops: LoopKind, is_known: bool
) -> None:
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
        assert is_whole(pool)

    loops.run(main)


def test_jobs_of_others_keep_their_place_in_the_line(loops: LoopKind, is_known: bool) -> None:
    """A job behind one block begins before the next block; blocks in a row go in one go."""
    order: list[str] = []

    async def note(pool: Executor, name: str) -> None:
        async with threadpool(pool):
            order.append(name)

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            with busy(pool):
                first = start(note(pool, "block"))
                await turns()
                future = pool.submit(order.append, "job")
            await first
            await asyncio.wrap_future(future)
        assert order == ["block", "job"]

    loops.run(main)


def test_no_more_threads_start_than_the_standard_library_would(
    loops: LoopKind, is_known: bool
) -> None:
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

    loops.run(main)


def test_a_lane_outlives_a_mistake_in_a_job(
    loops: LoopKind, expect_loop_errors: list[Any], is_known: bool
) -> None:
    """An error out of a job is logged, and costs the executor no worker."""

    class Mistake:
        def __init__(self, executor: Executor) -> None:
            self.executor = executor

        def __call__(self) -> None:
            raise LookupError("mistake")

        def fail(self, error: BaseException | str | None) -> bool:
            return False

        def submit(self) -> None:
            raise AssertionError

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            for _ in range(3):
                _lane.book(Mistake(pool))
            assert await block(pool) == "value"
            wait_until(lambda: is_whole(pool))

    loops.run(main)


def test_an_executor_that_is_thrown_away_with_blocks_in_its_queue_does_them(
    loops: LoopKind, is_known: bool
) -> None:
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

    loops.run(main)
