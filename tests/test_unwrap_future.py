"""``unwrap_future``: await a future of threads, whoever made it.

Its cancellation is tested on the futures of other processes, in ``test_remote_executors``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import error_of
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns

from threadhop import threadpool, unwrap_future


def test_it_returns_the_result(loops: LoopKind, executor: Executor) -> None:
    """A future that is done already gives it, too, and again."""

    async def main() -> None:
        assert await unwrap_future(executor.submit(int, "42")) == 42
        assert await unwrap_future(executor.submit(int, "42"), "asyncio") == 42
        done: Future[int] = Future()
        done.set_result(42)
        assert await unwrap_future(done) == 42
        assert await unwrap_future(done) == 42

    loops.run(main)


def test_many_may_wait_for_the_same_future(loops: LoopKind) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        waiting = asyncio.gather(*(unwrap_future(future) for _ in range(5)))
        await turns()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(future.set_result, 42).result(LIMIT)
        assert await waiting == [42] * 5

    loops.run(main)


@pytest.mark.trio
def test_stop_iteration_comes_as_a_runtime_error(loops: LoopKind, executor: Executor) -> None:
    """A future of threads can hold StopIteration, one of a loop cannot. Nobody waits for ever."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration, which no future can hold"):
            await unwrap_future(executor.submit(next, iter(())))

    loops.run(main, timeout=3)


class Stubborn(Future[Any]):
    """Cannot be cancelled by who waits for it."""

    def cancel(self) -> bool:
        return False


@pytest.mark.parametrize("moment", ["before", "while-awaited"])
def test_a_future_that_somebody_else_cancelled_is_no_cancelled_task(
    loops: LoopKind, moment: str
) -> None:
    """The task gets the error of concurrent.futures."""

    async def main() -> None:
        future: Future[Any] = Future()
        if moment == "before":
            future.cancel()
        task = asyncio.get_running_loop().create_task(unwrap_future(future))
        await turns()
        future.cancel()
        assert type(await error_of(task)) is concurrent.futures.CancelledError
        assert not task.cancelled()

    loops.run(main)


def test_a_cancelled_task_ends_when_somebody_else_cancels_the_future_later(
    loops: LoopKind,
) -> None:
    """The task's own attempt had failed. The task does not wait for ever."""

    async def main() -> None:
        future = Stubborn()
        task = asyncio.get_running_loop().create_task(unwrap_future(future))
        await turns()
        task.cancel("enough")
        await turns()
        assert not task.done()
        Future.cancel(future)
        assert (await error_of(task)).args == ("enough",)
        assert task.cancelled()

    loops.run(main)


@pytest.mark.parametrize("future", [None, 3, "future"])
def test_what_is_no_future_of_threads_is_a_type_error(future: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"unwrap_future\(\)"):
            await unwrap_future(future)
        with pytest.raises(TypeError, match=r"unwrap_future\(\)"):
            await unwrap_future(asyncio.get_running_loop().create_future())  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_worker_that_is_the_first_to_meet_the_loop_is_not_taken_for_its_thread(
    loops: LoopKind, executor: Executor
) -> None:
    """The result comes from a thread, and it may be the first thing that the loop has of us.

    Async generators that begin in a block later are still the loop's to finalize.
    """
    closed: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(threading.get_ident())

    async def main() -> None:
        gate = Gate()
        future = executor.submit(gate.stop_here)
        task = asyncio.get_running_loop().create_task(unwrap_future(future))
        await turns()
        gate.open()
        await task
        async with threadpool(executor):
            generator = numbers()
            async for _ in generator:
                break
        kept.append(generator)

    kept: list[Any] = []
    loops.run(main)
    assert closed == [threading.get_ident()]
