"""``exec_in_executor`` and its form for threads: their futures, and the loop of the worker.

What holds of every way to make a call stands in ``test_calls`` and ``test_call_cancellation``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import Inline, Stop, oops, plain, twice
from helpers.child import run_in_child
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import exec_in_eventloop, exec_in_executor, exec_in_executor_threading_future

HAS_PROC = os.path.isdir("/proc/self/fd")


@on_every_loop
async def test_it_returns_a_future_of_the_running_loop(executor: Executor) -> None:
    """A task gets its cancellation, too. The call begins without an await, also in a callback."""
    gate = Gate()
    stop = Stop()

    async def wait() -> None:
        await exec_in_executor(executor, stop)

    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    def callback() -> None:
        futures.append(exec_in_executor(executor, gate.stop_here))
        assert gate.reached.wait(LIMIT)  # the loop stands still
        gate.open()

    loop.call_soon(callback)
    await until(lambda: futures)
    assert isinstance(futures[0], asyncio.Future)
    assert futures[0].get_loop() is loop
    assert await futures[0] is None
    task = loop.create_task(wait())
    await until(stop.started.is_set)
    await turns()
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    await until(stop.ended.is_set)


def test_without_a_running_loop_it_is_a_runtime_error(executor: Executor) -> None:
    """The error names the other function, in the main thread and in a worker."""
    expected = "exec_in_executor_threading_future"
    with pytest.raises(RuntimeError, match=expected):
        exec_in_executor(executor, plain, 1)
    with pytest.raises(RuntimeError, match=expected):
        executor.submit(exec_in_executor, executor, plain, 1).result(LIMIT)


@on_one_loop
async def test_a_task_wakes_when_somebody_else_ends_the_future(executor: Executor) -> None:
    """The future is like any other. A result that the function returns later is lost."""
    held, error = threading.Event(), LookupError("mine")

    async def wait(future: asyncio.Future[bool]) -> bool:
        return await future

    futures = [exec_in_executor(executor, held.wait) for _ in range(2)]
    tasks = [asyncio.create_task(wait(future)) for future in futures]
    await turns()
    futures[0].set_result(False)
    futures[1].set_exception(error)
    held.set()
    assert await asyncio.gather(*tasks, return_exceptions=True) == [False, error]


@on_every_loop
async def test_an_error_that_nobody_asks_for_is_reported(
    executor: Executor, expect_loop_errors: list[logging.LogRecord]
) -> None:
    """Every other test here fails if an error is logged that somebody has awaited."""
    future = exec_in_executor(executor, oops)
    await asyncio.wait({future}, timeout=LIMIT)
    del future
    for _ in range(5):
        gc.collect()
        await turns()
    assert "never retrieved" in expect_loop_errors[0].getMessage()


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
@on_one_loop
async def test_get_event_loop_works_whatever_the_call_before_did(
    one: Executor, spoil: Callable[[], object]
) -> None:
    def work() -> int:
        coroutine = twice(3)
        try:
            return asyncio.get_event_loop().run_until_complete(coroutine)
        finally:
            coroutine.close()

    for _ in range(2):
        assert await exec_in_executor(one, work) == 6
        await exec_in_executor(one, spoil)
        assert await exec_in_executor(one, work) == 6
        await exec_in_executor(one, spoil)
        assert await exec_in_executor(one, twice, 3) == 6


@pytest.mark.skipif(not HAS_PROC, reason="it counts files in /proc/self/fd")
@on_one_loop
async def test_a_worker_opens_a_loop_for_coroutines_only_and_closes_it() -> None:
    """Three files for each thread."""
    workers = 6

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

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


def test_it_needs_no_loop_and_waits_for_none(executor: Executor) -> None:
    """Any thread may make the call, of a function or of a coroutine function; also inline."""

    def work(executor: Executor) -> int:
        return exec_in_executor_threading_future(executor, twice, 2).result(LIMIT)

    async def blocked() -> None:
        assert exec_in_executor_threading_future(executor, plain, 1).result(LIMIT) == 2

    future = exec_in_executor_threading_future(executor, plain, 2)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 4
    assert executor.submit(work, executor).result(LIMIT) == 4
    assert executor.submit(work, Inline()).result(LIMIT) == 4  # on a loop of that thread's own
    with pytest.raises(ZeroDivisionError):
        exec_in_executor_threading_future(executor, divmod, 1, 0).result(LIMIT)
    asyncio.run(blocked())
    lost = exec_in_executor_threading_future(executor, exec_in_eventloop, plain, 1)
    with pytest.raises(RuntimeError, match="works for no event loop"):
        lost.result(LIMIT)


def test_without_a_loop_the_last_resort_is_one_pool_for_all() -> None:
    """Also for those that first ask at once. Its threads do not keep the process."""
    child = run_in_child(
        """
        import threading
        from threadhop import _executors, exec_in_executor_threading_future as call

        class Slow(_executors.WorkerPool):
            def __init__(self, *args, **kwargs):
                made.append(self)
                second.wait(0.2)
                super().__init__(*args, **kwargs)

        made, second, barrier = [], threading.Event(), threading.Barrier(2)
        _executors.WorkerPool = Slow

        def name():
            barrier.wait(5)
            return threading.current_thread().name

        async def name_async():
            return threading.current_thread().name

        names = []

        def ask():
            names.append(call(None, name).result(5))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        names.append(call(None, name_async).result(5))
        for _ in range(100):
            call(None, int).result(5)
        print(len(made), len(names), all(name.startswith("threadhop") for name in names))
        """
    )
    assert (child.stdout, child.stderr, child.returncode) == ("1 5 True\n", "", 0)


# --- what such a future can do


def test_it_is_running_while_the_function_runs(executor_class: type[ThreadPoolExecutor]) -> None:
    """A cancelled future is not running any more."""
    gates = [Gate(), Gate()]
    with executor_class(1) as pool:
        with busy(pool):
            first, second = (
                exec_in_executor_threading_future(pool, gate.stop_here) for gate in gates
            )
            assert not first.running()
            assert not first.done()
        assert gates[0].reached.wait(LIMIT)
        assert first.running()
        with pytest.raises(TimeoutError):
            first.result(0.01)
        gates[0].open()
        assert first.result(LIMIT) is None
        assert not first.running()
        assert gates[1].reached.wait(LIMIT)
        assert second.running()
        second.cancel()
        assert not second.running()
        gates[1].open()


def test_wait_and_as_completed_know_it(executor_class: type[ThreadPoolExecutor]) -> None:
    """Beside futures of the standard library, and also one that is cancelled while they wait."""
    with executor_class(1) as pool, ThreadPoolExecutor(2) as others:
        with busy(pool):
            queued = exec_in_executor_threading_future(pool, plain, 1)
            doomed = exec_in_executor_threading_future(pool, plain, 2)
            theirs = others.submit(plain, 3)
            waiting = others.submit(concurrent.futures.wait, [doomed], LIMIT)
            # A waiter announces itself at the future.
            wait_until(lambda: doomed._waiters)  # type: ignore[attr-defined]
            doomed.cancel()
            assert waiting.result(LIMIT).done == {doomed}
            done, pending = concurrent.futures.wait(
                [queued, doomed, theirs], LIMIT, concurrent.futures.FIRST_COMPLETED
            )
            assert doomed in done
            assert queued in pending
        completed = set(concurrent.futures.as_completed([queued, doomed, theirs], LIMIT))
        assert completed == {queued, doomed, theirs}


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError, SystemExit])
def test_a_callback_that_raises_does_not_stop_the_pool(
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[logging.LogRecord],
    error: type[BaseException],
) -> None:
    """However often it happens, later calls run."""

    def fail(_: object) -> None:
        raise error

    with executor_class(2) as pool:
        try:
            for _ in range(5):
                gate = Gate()
                future = exec_in_executor_threading_future(pool, gate.stop_here)
                future.add_done_callback(fail)
                gate.open()
                future.result(LIMIT)
            last = exec_in_executor_threading_future(pool, plain, 1)
            assert last.result(1) == 2
        finally:
            pool.shutdown(cancel_futures=True)
