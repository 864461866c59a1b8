"""Calls on trio, both ways: ``exec_in_eventloop``, ``AsyncExecutor``, ``unwrap_future``.

Those where trio is not like asyncio; for the others see ``test_blocks.py``.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import queue
import threading
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import on_trio
from helpers.places import OopsError, here, on_loop_thread, on_worker
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import (
    AsyncExecutor,
    WorkerPool,
    _job,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor_threading_future,
    threadpool,
    unwrap_future,
)

trio: Any = pytest.importorskip("trio")
_from_thread: Any = pytest.importorskip("threadhop._loops._from_thread")
_trio_calls: Any = pytest.importorskip("threadhop._loops._trio_calls")

var = contextvars.ContextVar("var", default="unset")


# --- from a worker to trio: the promises of trio.from_thread


@on_trio
async def test_a_coroutine_function_runs_in_the_task_of_the_block(executor: Executor) -> None:
    task = trio.lowlevel.current_task()

    async def visit(number: int) -> tuple[int, object]:
        assert on_loop_thread()
        await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:  # of this very task
            nursery.start_soon(trio.sleep, 0)
        return number, trio.lowlevel.current_task()

    async with threadpool(executor):
        worker = here()
        assert exec_in_eventloop(visit, 3) == (3, task)
        assert exec_in_eventloop(trio.lowlevel.current_task) is task
        assert here() == worker
    assert trio.lowlevel.current_task() is task


class LateCall(_trio_calls.TrioCall):
    """The worker goes on before the task of the block waits again."""

    __slots__ = ()

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        call = self
        done = threading.Event()

        class Ended(queue.SimpleQueue[Any]):
            def put(self, item: Any, *args: Any) -> None:
                super().put(item)
                assert done.wait(LIMIT)

        call._ended = Ended()
        call._caller.done = done


@on_trio
async def test_what_a_call_cancels_the_worker_knows_when_that_returns(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_trio_calls, "TrioCall", LateCall)
    is_known = False
    with trio.CancelScope() as scope:
        async with threadpool(executor):
            exec_in_eventloop(scope.cancel)
            try:
                check_cancelled()
            except trio.Cancelled:
                is_known = True
            _job.current.slot.job.strand.done.set()
    assert scope.cancelled_caught
    assert is_known


@on_trio
async def test_an_exception_from_outside_leaves_no_task_in_two_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker gives the call up, which still has the task: the block ends after that."""
    import ctypes

    set_async_exc = getattr(getattr(ctypes, "pythonapi", None), "PyThreadState_SetAsyncExc", None)
    if set_async_exc is None:
        pytest.skip("nothing raises in another thread here")
    monkeypatch.setattr(_from_thread, "POLL", 0.02)  # so often a waiting worker looks
    started, go_on = trio.Event(), trio.Event()
    steps = []

    async def visit() -> None:
        started.set()
        await go_on.wait()
        steps.append("end of the call" if go_on.is_set() else "woken by another")

    async def interrupt() -> None:
        await started.wait()
        set_async_exc(ctypes.c_ulong(threads[0]), ctypes.py_object(OopsError))
        with trio.move_on_after(LIMIT):
            while (call := strands[0].suspension.hosted) is not None and not call.waiting:
                await trio.sleep(0.01)
        go_on.set()

    threads, strands = [], []
    with WorkerPool(1) as pool:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(interrupt)
            with pytest.raises(OopsError):
                async with threadpool(pool):
                    threads.append(here())
                    strands.append(_job.current.slot.job.strand)
                    exec_in_eventloop(visit)
            steps.append("end of the block")
    assert steps == ["end of the call", "end of the block"]


@on_trio
async def test_the_function_of_a_future_of_threads_calls_trio(executor: Executor) -> None:
    gate = Gate()

    async def visit() -> bool:
        await trio.sleep(0)
        return on_loop_thread()

    async def wait() -> None:
        gate.reached.set()
        await trio.sleep_forever()

    for func in (visit, on_loop_thread):
        future = exec_in_executor_threading_future(executor, exec_in_eventloop, func)
        assert await unwrap_future(future)
    ended: list[BaseException] = []

    def call() -> None:
        try:
            exec_in_eventloop(wait)
        except BaseException as error:
            ended.append(error)

    future = exec_in_executor_threading_future(executor, call)
    await until(gate.reached.is_set)
    assert future.cancel()
    await until(lambda: ended)
    assert isinstance(ended[0], trio.Cancelled)


# --- from trio to a worker


async def answer() -> bool:
    await trio.sleep(0)
    return not on_loop_thread()


@on_trio
async def test_functions_and_coroutine_functions_run_on_a_worker(executor: Executor) -> None:
    wrapped = AsyncExecutor(executor)
    assert wrapped.backend() == "trio"
    assert await wrapped.run(on_worker)
    assert await wrapped.run(answer)
    assert await AsyncExecutor(executor, "trio").run(pow, 2, 3) == 8
    with pytest.raises(OopsError):
        await wrapped.run(oops)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await wrapped.run(next, iter(()))
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        await AsyncExecutor(executor, "asyncio").run(print)


def oops() -> None:
    raise OopsError


@on_trio
async def test_a_call_runs_in_the_task_that_awaits_it(executor: Executor) -> None:
    async def visit() -> object:
        await trio.sleep(0)
        return trio.lowlevel.current_task()

    task = trio.lowlevel.current_task()
    var.set("outside")
    assert await AsyncExecutor(executor).run(exec_in_eventloop, visit) is task
    assert var.get() == "outside"


@on_trio
async def test_a_call_that_has_not_begun_is_taken_back(one: ThreadPoolExecutor) -> None:
    called: list[int] = []
    wrapped = AsyncExecutor(one)
    with busy(one):
        with trio.move_on_after(0.01) as scope:
            await wrapped.run(called.append, 1)
        assert scope.cancelled_caught
    with trio.CancelScope() as scope:
        scope.cancel()
        await wrapped.run(called.append, 2)
    assert scope.cancelled_caught
    assert await wrapped.run(len, called) == 0


@on_trio
async def test_a_coroutine_on_a_worker_is_cancelled_with_the_call(executor: Executor) -> None:
    ended: list[bool] = []
    home = trio.lowlevel.current_trio_token()

    async def wait() -> None:
        try:
            home.run_sync_soon(scope.cancel)
            await trio.sleep_forever()
        finally:
            ended.append(on_worker())

    with trio.CancelScope() as scope:
        await AsyncExecutor(executor).run(wait)
    assert scope.cancelled_caught
    assert ended == [True]


@on_trio
async def test_a_map_that_is_left_takes_back_what_has_not_begun(one: ThreadPoolExecutor) -> None:
    gate, called = Gate(), []

    def work(number: int) -> int:
        called.append(number)
        if number == 1:
            gate.stop_here()
        return number

    async def forget() -> None:
        async for _ in AsyncExecutor(one).map(work, range(100)):
            await until(gate.reached.is_set)
            break
        for _ in range(4):
            gc.collect()
            await trio.sleep(0.01)

    with pytest.warns(ResourceWarning, match="was garbage collected"):
        await forget()
    gate.open()
    assert await AsyncExecutor(one).run(len, called) == 2


@on_trio
async def test_a_task_that_waits_for_a_map_is_cancelled(one: ThreadPoolExecutor) -> None:
    called: list[int] = []

    def work(number: int) -> None:
        called.append(number)
        exec_in_eventloop(scope.cancel)
        with contextlib.suppress(trio.Cancelled):
            while True:
                check_cancelled()

    with trio.CancelScope() as scope:
        async with contextlib.aclosing(AsyncExecutor(one).map(work, range(100))) as results:
            async for _ in results:
                pass
    assert scope.cancelled_caught
    assert called == [0]


@on_trio
async def test_shutdown_does_not_block_the_run(executor_class: Any) -> None:
    gate, pool = Gate(), executor_class(1)
    future = pool.submit(gate.stop_here)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(AsyncExecutor(pool).shutdown)
        await until(gate.reached.is_set)
        await trio.sleep(0.01)
        gate.open()
    assert future.done()
    async with AsyncExecutor(executor_class(1)) as wrapped:
        assert await wrapped.run(on_loop_thread) is False
    with pytest.raises(RuntimeError, match="shutdown"):
        await wrapped.run(print)
    wrapped.shutdown_nowait()


@on_trio
async def test_a_cancelled_shutdown_happens_all_the_same(executor_class: Any) -> None:
    gate, pool = Gate(), executor_class(1)
    future = pool.submit(gate.stop_here)
    with trio.move_on_after(0.01) as scope:
        async with AsyncExecutor(pool):
            await until(gate.reached.is_set)
    assert scope.cancelled_caught
    with pytest.raises(RuntimeError, match="shutdown"):
        pool.submit(print)
    gate.open()
    await until(future.done)


@on_trio
async def test_a_future_of_threads_is_unwrapped() -> None:
    future: Future[int] = Future()
    with trio.move_on_after(0.01) as scope:
        await unwrap_future(future)
    assert scope.cancelled_caught
    assert future.cancelled()
    with pytest.raises(CancelledError):
        await unwrap_future(future, "trio")
    future = Future()
    future.set_result(1)
    assert await unwrap_future(future) == 1
    future = Future()
    future.set_exception(OopsError())
    with pytest.raises(OopsError):
        await unwrap_future(future)


@on_trio
async def test_dropped_calls_are_told(one: ThreadPoolExecutor) -> None:
    with busy(one) as release:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(CancelledError):
                    await AsyncExecutor(one).run(print)

            nursery.start_soon(call)
            await trio.sleep(0.01)
            one.shutdown(wait=False, cancel_futures=True)
            release()


def test_backend_trio_outside_of_trio_says_so(executor: Executor) -> None:
    import asyncio

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"needs a task of trio"):
            await AsyncExecutor(executor, "trio").run(print)
        with pytest.raises(RuntimeError, match=r"needs a task of trio"):
            await unwrap_future(executor.submit(print), "trio")

    asyncio.run(main())


def test_a_coroutine_function_in_another_process_runs_under_trio() -> None:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    async def main() -> str:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            result: str = await AsyncExecutor(pool).run(library)
        return result

    assert trio.run(main) == "trio"


async def library() -> str:
    await trio.sleep(0)
    return "trio"


def test_a_call_that_ends_after_the_run_is_told_so(executor: Executor) -> None:
    gate, errors = Gate(), []

    def call() -> None:
        gate.stop_here()
        try:
            exec_in_eventloop(print)
        except RuntimeError as error:
            errors.append(error)

    async def main() -> None:
        exec_in_executor_threading_future(executor, call)
        await until(gate.reached.is_set)

    trio.run(main)
    gate.open()
    wait_until(lambda: errors)
    assert "is closed" in str(errors[0])
