"""``exec_in_executor``: its future, which is one of the loop, and the loop of its worker.

What holds of every way to make a call stands in ``test_calls`` and ``test_call_cancellation``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import OopsError, Stop, oops, plain, twice
from helpers.child import run_in_child
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns, until, wait_until

from threadhop import exec_in_executor


def test_it_returns_a_future_of_the_running_loop(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        assert asyncio.isfuture(future)
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        await future

    loops.run(main)


def test_without_a_running_loop_it_is_a_runtime_error(executor: Executor) -> None:
    """The error names the other function, in the main thread and in a worker."""
    expected = "exec_in_executor_threading_future"
    with pytest.raises(RuntimeError, match=expected):
        exec_in_executor(executor, plain, 1)
    with pytest.raises(RuntimeError, match=expected):
        executor.submit(exec_in_executor, executor, plain, 1).result(LIMIT)


def test_every_kind_of_task_can_await_it(loops: LoopKind, executor: Executor) -> None:
    """A task gets the result, the error, and the cancellation."""

    async def wait(stop: Stop) -> None:
        await exec_in_executor(executor, stop)

    async def main() -> None:
        assert await exec_in_executor(executor, plain, 1) == 2
        with pytest.raises(OopsError):
            await exec_in_executor(executor, oops)
        stop = Stop()
        task = asyncio.get_running_loop().create_task(wait(stop))
        await until(stop.started.is_set)
        await turns()
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        await until(stop.ended.is_set)

    loops.run(main)


def test_many_tasks_may_await_the_same_call(loops: LoopKind, executor: Executor) -> None:
    """Callbacks may stand beside them. Each is told once."""
    gate = Gate()
    called: list[Any] = []

    def work() -> int:
        gate.stop_here()
        return 42

    async def wait(future: asyncio.Future[int]) -> int:
        return await future

    async def main() -> None:
        future = exec_in_executor(executor, work)
        removed = called.append
        future.add_done_callback(removed)
        tasks = [asyncio.get_running_loop().create_task(wait(future)) for _ in range(3)]
        future.add_done_callback(lambda future: called.append(future.result()))
        await turns()
        assert future.remove_done_callback(removed) == 1
        gate.open()
        assert [await task for task in tasks] == [42] * 3
        await turns()
        assert called == [42]

    loops.run(main)


def test_a_task_wakes_when_somebody_else_ends_the_future() -> None:
    """The future is like any other. A result that the function returns later is lost.

    In a child: a task that waits for a future that is done can neither go on nor be cancelled.
    """
    child = run_in_child(
        """
        import asyncio, threading
        from concurrent.futures import ThreadPoolExecutor
        from threadhop import exec_in_executor

        async def wait(future):
            return await future

        async def main():
            held = threading.Event()
            with ThreadPoolExecutor(2) as pool:
                futures = [exec_in_executor(pool, held.wait) for _ in range(2)]
                tasks = [asyncio.create_task(wait(future)) for future in futures]
                await asyncio.sleep(0)  # now both wait
                futures[0].set_result("mine")
                futures[1].set_exception(LookupError("mine"))
                held.set()
                print(await asyncio.gather(*tasks, return_exceptions=True))

        asyncio.run(main())
        """,
        deadline=5,
    )
    assert (child.stdout, child.stderr) == ("['mine', LookupError('mine')]\n", "")


def test_an_error_that_nobody_asks_for_is_reported(
    loops: LoopKind, executor: Executor, expect_loop_errors: list[logging.LogRecord]
) -> None:
    """Every other test here fails if an error is logged that somebody has awaited."""

    async def main() -> None:
        future = exec_in_executor(executor, oops)
        await asyncio.wait({future}, timeout=LIMIT)
        del future
        for _ in range(5):
            gc.collect()
            await turns()
        assert "never retrieved" in expect_loop_errors[0].getMessage()

    loops.run(main)


# --- when


def test_the_call_begins_without_an_await(loops: LoopKind, executor: Executor) -> None:
    """A callback may make it. The loop does nothing until the function runs."""
    gate = Gate()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures: asyncio.Future[asyncio.Future[None]] = loop.create_future()

        def callback() -> None:
            futures.set_result(exec_in_executor(executor, gate.stop_here))
            assert gate.reached.wait(LIMIT)
            gate.open()

        loop.call_soon(callback)
        assert await (await futures) is None

    loops.run(main)


# --- the loop of the caller, and that of the worker


def test_a_loop_that_closes_meanwhile_leaves_the_worker_alive(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    """The result is lost, and a warning says so."""
    gate = Gate()

    async def main() -> None:
        kept.append(exec_in_executor(pool, gate.stop_here))
        await until(gate.reached.is_set)

    async def again() -> None:
        assert await exec_in_executor(pool, twice, 1) == 2

    kept: list[Any] = []
    with executor_class(1) as pool:
        loops.run(main)
        gate.open()
        pool.submit(str).result(LIMIT)
        wait_until(lambda: any("lost" in record.getMessage() for record in caplog.records))
        assert {record.levelno for record in caplog.records if record.name == "threadhop"} == {
            logging.WARNING
        }
        assert not kept[0].done()
        loops.run(again)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: asyncio.run(twice(1)),
        lambda: asyncio.set_event_loop(None),
        lambda: asyncio.get_event_loop().close(),
        lambda: asyncio.get_event_loop().run_until_complete(twice(1)),
    ],
    ids=["run", "set-none", "close", "use"],
)
def test_get_event_loop_works_whatever_the_call_before_did(
    executor_class: type[ThreadPoolExecutor], spoil: Callable[[], object]
) -> None:
    def work() -> int:
        coroutine = twice(3)
        try:
            return asyncio.get_event_loop().run_until_complete(coroutine)
        finally:
            coroutine.close()

    async def main() -> None:
        with executor_class(1) as pool:
            for _ in range(2):
                assert await exec_in_executor(pool, work) == 6
                await exec_in_executor(pool, spoil)
                assert await exec_in_executor(pool, work) == 6
                await exec_in_executor(pool, spoil)
                assert await exec_in_executor(pool, twice, 3) == 6

    asyncio.run(main())
