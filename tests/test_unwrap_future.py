"""``unwrap_future``: await a future of threads, whoever made it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import sys
import threading
import types
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until

from threadhop import exec_in_executor_threading_future, threadpool, unwrap_future


class OopsError(Exception):
    """What a test raises on purpose."""


def test_it_returns_the_result(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        assert await unwrap_future(executor.submit(int, "42")) == 42
        assert await unwrap_future(executor.submit(int, "42"), "asyncio") == 42

    loops.run(main)


def test_a_future_that_is_done_already_works_too(loops: LoopKind) -> None:
    async def main() -> None:
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


@pytest.mark.parametrize(
    "error",
    [OopsError("oops"), GeneratorExit(), StopAsyncIteration(), asyncio.InvalidStateError()],
    ids=lambda error: type(error).__name__,
)
def test_it_raises_what_the_future_raises(loops: LoopKind, error: BaseException) -> None:
    async def main() -> None:
        future: Future[Any] = Future()
        future.set_exception(error)
        try:
            await unwrap_future(future)
        except BaseException as raised:
            assert raised is error
        else:
            raise AssertionError("nothing was raised")

    loops.run(main)
    error.__traceback__ = None


def test_stop_iteration_comes_as_a_runtime_error(loops: LoopKind, executor: Executor) -> None:
    """A future of threads can hold it, one of a loop cannot. Nobody waits for ever."""

    async def main() -> None:
        future = executor.submit(next, iter(()))
        with pytest.raises(RuntimeError, match="StopIteration"):
            await unwrap_future(future)

    loops.run(main, timeout=3)


def test_a_future_that_somebody_else_cancelled_is_no_cancelled_task(loops: LoopKind) -> None:
    """The error is that of concurrent.futures: before and while it is awaited."""

    async def wait(future: Future[Any]) -> None:
        with pytest.raises(concurrent.futures.CancelledError):
            await unwrap_future(future)

    async def main() -> None:
        future: Future[Any] = Future()
        future.cancel()
        await wait(future)
        later: Future[Any] = Future()
        task = asyncio.get_running_loop().create_task(wait(later))
        await turns()
        later.cancel()
        await task

    loops.run(main)


def test_a_cancelled_task_takes_back_what_has_not_begun(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    ran: list[bool] = []

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            future = pool.submit(ran.append, True)
            task = asyncio.get_running_loop().create_task(unwrap_future(future))
            await turns()
            task.cancel("enough")
            await until(task.done)
            assert task.cancelled()
            assert future.cancelled()
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await task

    loops.run(main)
    assert not ran


@pytest.mark.parametrize("raises", [False, True], ids=["returns", "raises"])
def test_a_cancelled_task_waits_for_what_runs(
    loops: LoopKind, executor: Executor, raises: bool
) -> None:
    """Then it is cancelled, with what was raised as the context of that."""
    gate = Gate()

    def work() -> None:
        gate.stop_here()
        if raises:
            raise OopsError

    async def main() -> None:
        future = executor.submit(work)
        await until(gate.reached.is_set)
        task = asyncio.get_running_loop().create_task(unwrap_future(future))
        await turns()
        task.cancel("enough")
        await turns()
        assert not task.done()
        gate.open()
        await until(task.done)
        assert task.cancelled()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        error: BaseException | None = caught.value
        chain = []
        while error is not None:
            chain.append(type(error))
            error = error.__context__
        assert (OopsError in chain) == raises

    loops.run(main)


def test_it_takes_the_futures_of_this_library(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        assert await unwrap_future(exec_in_executor_threading_future(executor, int, "3")) == 3

    loops.run(main)


@pytest.mark.parametrize("future", [None, 3, "future"])
def test_what_is_no_future_of_threads_is_a_type_error(loops: LoopKind, future: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"unwrap_future\(\)"):
            await unwrap_future(future)
        with pytest.raises(TypeError, match=r"unwrap_future\(\)"):
            await unwrap_future(asyncio.get_running_loop().create_future())  # type: ignore[arg-type]

    loops.run(main)


def test_other_backends_are_refused(loops: LoopKind) -> None:
    async def main() -> None:
        future: Future[int] = Future()
        with pytest.raises(ValueError, match="curio"):
            await unwrap_future(future, "curio")
        with pytest.raises(NotImplementedError, match="trio"):
            await unwrap_future(future, "trio")

    loops.run(main)


def test_off_the_loop_it_is_a_runtime_error() -> None:
    coroutine = unwrap_future(Future[int]())
    with pytest.raises(RuntimeError, match="running event loop"):
        coroutine.send(None)


def test_under_trio_it_says_that_it_does_not_work_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    trio: Any = types.ModuleType("trio")
    trio.lowlevel = types.SimpleNamespace(in_trio_run=lambda: True)
    monkeypatch.setitem(sys.modules, "trio", trio)
    with pytest.raises(NotImplementedError, match="trio"):
        unwrap_future(Future[int]()).send(None)


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
