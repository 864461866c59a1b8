"""What the documentation of ``ThreadPoolExecutor`` promises, of it and of ``WorkerPool``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.pool_jobs import are_gone
from helpers.steps import LIMIT, Gate, busy, wait_until

Pools = type[ThreadPoolExecutor]
name_here = contextvars.ContextVar[str]("name_here")


@pytest.fixture
def quiet() -> Iterator[list[logging.LogRecord]]:
    """What the pool logs about its initializer: collected, and kept from those who forbid it."""
    records: list[logging.LogRecord] = []
    logger = logging.getLogger("concurrent.futures")

    def collect(record: logging.LogRecord) -> bool:
        records.append(record)
        return False

    logger.addFilter(collect)
    yield records
    logger.removeFilter(collect)


# submit


def test_submit_returns_a_future_of_the_result(executor: Executor) -> None:
    future = executor.submit(pow, 2, 8)
    assert type(future) is Future
    assert future.result(LIMIT) == 256


def test_submit_keeps_every_keyword_for_the_function(executor: Executor) -> None:
    """Names that an executor might use itself go to the function."""

    def func(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    future = executor.submit(func, 1, self=2, fn=3, job=4)
    assert future.result(LIMIT) == ((1,), {"self": 2, "fn": 3, "job": 4})
    with pytest.raises(TypeError):
        executor.submit(fn=func)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        executor.submit()  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [ValueError, StopIteration, GeneratorExit, SystemExit, KeyError])
def test_whatever_the_function_raises_is_in_the_future(
    executor: Executor, kind: type[BaseException]
) -> None:
    """The thread goes on: it does the next job, too."""
    error = kind("oops")

    def func() -> None:
        raise error

    assert executor.submit(func).exception(LIMIT) is error
    assert executor.submit(threading.get_ident).result(LIMIT) != threading.get_ident()


def test_a_queued_future_can_be_cancelled_and_never_runs(executor_class: Pools) -> None:
    ran: list[int] = []
    with executor_class(1) as pool:
        with busy(pool):
            first, second = pool.submit(ran.append, 1), pool.submit(ran.append, 2)
            assert first.cancel()
            assert first.cancelled()
        second.result(LIMIT)
        assert wait([first], LIMIT).done == {first}
    assert ran == [2]


def test_a_running_future_cannot_be_cancelled(executor_class: Pools) -> None:
    with executor_class(1) as pool:
        gate = Gate()
        future = pool.submit(gate.stop_here)
        assert gate.reached.wait(LIMIT)
        assert future.running()
        assert not future.cancel()
        gate.open()
        assert future.result(LIMIT) is None


def test_jobs_begin_in_the_order_of_their_submission(executor_class: Pools) -> None:
    order: list[int] = []
    with executor_class(1) as pool:
        for number in range(500):
            pool.submit(order.append, number)
    assert order == list(range(500))


def test_as_many_jobs_run_at_once_as_there_are_workers(executor_class: Pools) -> None:
    meeting = threading.Barrier(4)
    with executor_class(4) as pool:
        futures = [pool.submit(meeting.wait, LIMIT) for _ in range(20)]
        assert sorted(future.result(LIMIT) for future in futures) == sorted([0, 1, 2, 3] * 5)


def test_no_more_jobs_run_at_once_than_there_are_workers(executor_class: Pools) -> None:
    with executor_class(3) as pool:
        with busy(pool, 3):
            extra = Gate()
            future = pool.submit(extra.stop_here)
            extra.open()
            assert not extra.reached.wait(0.05)
        future.result(LIMIT)


def test_the_context_of_the_caller_is_not_taken_along(executor_class: Pools) -> None:
    """Neither pool copies it for a job. (A free-threaded build does so for a thread.)"""
    with executor_class(1) as pool:
        pool.submit(int).result(LIMIT)
        token = name_here.set("mine")
        try:
            assert pool.submit(name_here.get, None).result(LIMIT) is None
        finally:
            name_here.reset(token)


def test_100_000_jobs_may_wait(executor_class: Pools) -> None:
    with executor_class(2) as pool:
        with busy(pool, 2):
            futures = [pool.submit(int) for _ in range(100_000)]
        assert not any(future.result(LIMIT) for future in futures)


# map


def test_map_yields_results_in_order(executor: Executor) -> None:
    assert list(executor.map(pow, range(10), [2] * 10)) == [n * n for n in range(10)]
    assert list(executor.map(abs, [])) == []
    assert list(executor.map(abs, [-1, -2], chunksize=2)) == [1, 2]


def test_map_raises_what_the_function_raised_when_its_turn_comes(executor: Executor) -> None:
    results = executor.map(divmod, [1, 1, 1], [1, 0, 1])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_map_starts_before_anybody_iterates(executor: Executor) -> None:
    done = threading.Event()
    executor.map(lambda _: done.set(), [1])
    assert done.wait(LIMIT)


def test_map_gives_up_after_its_timeout_and_cancels_what_is_left(executor_class: Pools) -> None:
    ran: list[int] = []
    with executor_class(1) as pool:
        with busy(pool):
            results = pool.map(ran.append, [1, 2], timeout=0.01)
            with pytest.raises(TimeoutError):
                next(results)
    assert ran == []


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in Python 3.14")
def test_map_with_a_buffersize_takes_that_many_ahead(executor: Executor) -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    results = executor.map(str, numbers(), buffersize=3)  # type: ignore[call-arg]
    assert taken == [0, 1, 2]
    assert next(results) == "0"
    assert taken == [0, 1, 2, 3]
    assert list(results) == [str(number) for number in range(1, 10)]
    with pytest.raises(TypeError):
        executor.map(str, [1], buffersize="3")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="buffersize"):
        executor.map(str, [1], buffersize=0)  # type: ignore[call-arg]


# wait, as_completed


def test_wait_and_as_completed_work_on_its_futures(executor: Executor) -> None:
    gate = Gate()
    slow, quick = executor.submit(gate.stop_here), executor.submit(int)
    assert wait([slow, quick], LIMIT, FIRST_COMPLETED).done == {quick}
    failing = executor.submit(int, "x")
    assert failing in wait([slow, failing], LIMIT, FIRST_EXCEPTION).done
    gate.open()
    assert set(as_completed([slow, quick, failing], LIMIT)) == {slow, quick, failing}


# shutdown


def test_after_shutdown_nothing_more_is_taken(executor_class: Pools) -> None:
    pool = executor_class(1)
    pool.submit(int).result(LIMIT)
    pool.shutdown()
    for call in (lambda: pool.submit(int), lambda: pool.map(int, "1")):
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            call()


def test_shutdown_waits_for_what_is_queued(executor_class: Pools) -> None:
    gate = Gate()
    pool = executor_class(2)
    futures = [pool.submit(gate.stop_here) for _ in range(2)]
    futures += [pool.submit(int) for _ in range(100)]
    waiter = threading.Thread(target=pool.shutdown)
    waiter.start()
    wait_until(lambda: pool._shutdown)
    assert not any(future.done() for future in futures)
    gate.open()
    waiter.join(LIMIT)
    assert not waiter.is_alive()
    assert all(future.done() and not future.cancelled() for future in futures)


def test_shutdown_without_wait_returns_at_once_and_what_is_queued_is_done(
    executor_class: Pools,
) -> None:
    gate = Gate()
    pool = executor_class(1)
    future = pool.submit(gate.stop_here)
    queued = pool.submit(int)
    threads = set(pool._threads)
    pool.shutdown(wait=False)
    assert not future.done()
    gate.open()
    assert queued.result(LIMIT) == 0
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


@pytest.mark.parametrize("waits", [True, False])
def test_shutdown_with_cancel_futures_cancels_what_has_not_begun(
    executor_class: Pools, waits: bool
) -> None:
    """What has begun goes on to its end."""
    gates = [Gate(), Gate()]
    pool = executor_class(2)
    running = [pool.submit(gate.stop_here) for gate in gates]
    queued = [pool.submit(int) for _ in range(50)]
    told = threading.Semaphore(0)
    for gate in gates:
        assert gate.reached.wait(LIMIT)
    for future in queued:
        future.add_done_callback(lambda _: told.release())
    if waits:  # else it would wait for ever
        queued[-1].add_done_callback(lambda _: [gate.open() for gate in gates])
    pool.shutdown(wait=waits, cancel_futures=True)
    assert all(future.cancelled() for future in queued)
    for _ in queued:
        assert told.acquire(timeout=LIMIT)
    for gate in gates:
        gate.open()
    assert [future.result(LIMIT) for future in running] == [None, None]
    with pytest.raises(CancelledError):
        queued[0].result(LIMIT)
    pool.shutdown()


def test_shutdown_may_be_called_again_and_in_many_threads(executor_class: Pools) -> None:
    gate = Gate()
    pool = executor_class(2)
    future = pool.submit(gate.stop_here)
    threads = [threading.Thread(target=pool.shutdown) for _ in range(8)]
    for thread in threads:
        thread.start()
    gate.open()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    pool.shutdown()
    pool.shutdown(wait=False, cancel_futures=True)
    assert future.result(LIMIT) is None


def test_shutdown_of_a_pool_that_was_never_used_is_fine(executor_class: Pools) -> None:
    executor_class(2).shutdown()
    with executor_class(2):
        pass


def test_shutdown_in_a_worker_without_wait_ends_the_pool(executor_class: Pools) -> None:
    pool = executor_class(1)
    assert pool.submit(pool.shutdown, wait=False).result(LIMIT) is None
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_shutdown_in_a_worker_that_waits_is_refused(executor_class: Pools) -> None:
    """A thread cannot wait for its own end. The pool is shut down all the same."""
    pool = executor_class(1)
    error = pool.submit(pool.shutdown).exception(LIMIT)
    assert isinstance(error, RuntimeError)
    assert "cannot join current thread" in str(error).lower()
    with pytest.raises(RuntimeError):
        pool.submit(int)


def test_after_shutdown_with_wait_no_thread_is_left(executor_class: Pools) -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        with executor_class(3) as pool:
            for _ in range(9):
                pool.submit(int)
        assert set(threading.enumerate()) <= before


# initializer


def test_the_initializer_runs_once_in_each_thread(executor_class: Pools) -> None:
    mine = threading.local()
    calls: list[str] = []

    def initialize(text: str) -> None:
        mine.text = text
        calls.append(threading.current_thread().name)

    meeting = threading.Barrier(3)

    def job() -> str:
        meeting.wait(LIMIT)
        return str(mine.text)

    with executor_class(3, "worker", initialize, ("hello",)) as pool:
        futures = [pool.submit(job) for _ in range(9)]
        assert {future.result(LIMIT) for future in futures} == {"hello"}
    assert sorted(calls) == ["worker_0", "worker_1", "worker_2"]


def test_a_failing_initializer_breaks_the_pool(
    executor_class: Pools, quiet: list[logging.LogRecord]
) -> None:
    """All that waits, and all that comes later, raises BrokenThreadPool; the log has the cause."""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    pool = executor_class(1, initializer=fail)
    futures = [pool.submit(int) for _ in range(20)]
    gate.open()
    errors = [future.exception(LIMIT) for future in futures]
    assert {type(error) for error in errors} == {BrokenThreadPool}
    assert len({id(error) for error in errors}) == 20
    for call in (lambda: pool.submit(int), lambda: pool.map(int, "1")):
        with pytest.raises(BrokenThreadPool, match="initializer failed"):
            call()
    pool.shutdown()
    (record,) = quiet
    assert record.levelno == logging.CRITICAL
    assert "Exception in initializer" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is LookupError


def test_an_initializer_that_cannot_be_called_is_a_type_error(executor_class: Pools) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        executor_class(initializer="func")  # type: ignore[arg-type]


# arguments


def test_the_default_number_of_workers_is_that_of_the_standard_library(
    executor_class: Pools,
) -> None:
    processors = getattr(os, "process_cpu_count", os.cpu_count)()
    assert executor_class()._max_workers == min(32, (processors or 1) + 4)


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_worker_is_a_value_error(executor_class: Pools, number: int) -> None:
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        executor_class(max_workers=number)


def test_threads_are_named_by_the_prefix_and_a_number(executor_class: Pools) -> None:
    meeting = threading.Barrier(2)

    def name() -> str:
        meeting.wait(LIMIT)
        return threading.current_thread().name

    with executor_class(2, "mine") as pool:
        assert {future.result(LIMIT) for future in [pool.submit(name) for _ in range(2)]} == {
            "mine_0",
            "mine_1",
        }
        assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
    with executor_class(1) as first, executor_class(1) as second:
        kind = executor_class.__name__
        names = [
            pool.submit(lambda: threading.current_thread().name).result(LIMIT)
            for pool in (first, second)
        ]
        assert all(name.startswith(f"{kind}-") and name.endswith("_0") for name in names)
        assert names[0] != names[1]


def test_threads_are_daemons_where_those_of_the_standard_library_are(
    executor_class: Pools,
) -> None:
    """They inherit it from the thread that submits."""
    with executor_class(1) as pool:
        assert not pool.submit(lambda: threading.current_thread().daemon).result(LIMIT)


# threads


def test_threads_start_only_when_they_are_needed(executor_class: Pools) -> None:
    with executor_class(1000) as pool:
        assert len(pool._threads) == 0
        with busy(pool, 3):
            assert len(pool._threads) == 3


def test_an_idle_thread_is_used_again(executor_class: Pools) -> None:
    with executor_class(8) as pool:
        threads = set()
        for _ in range(20):
            threads.add(pool.submit(threading.get_ident).result(LIMIT))
            # It may have told the result and not yet be idle.
            time.sleep(0.002)
        assert len(threads) < 4


# references


def test_a_future_that_nobody_holds_is_let_go_with_its_job(executor_class: Pools) -> None:
    """While the workers wait, they keep neither function nor arguments nor result."""

    class Thing:
        def __call__(self, other: Thing) -> Thing:
            return other

    with executor_class(1) as pool:
        function, argument = Thing(), Thing()
        refs = [weakref.ref(function), weakref.ref(argument)]
        future = pool.submit(function, argument)
        future.result(LIMIT)
        del function, argument, future
        wait_until(lambda: are_gone(*refs))


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_an_exception_is_let_go_without_the_garbage_collector(executor_class: Pools) -> None:
    """No cycle of exception, traceback, frame and future."""

    class OopsError(Exception):
        pass

    def fail() -> None:
        raise OopsError

    gc.disable()
    try:
        with executor_class(1) as pool:
            future = pool.submit(fail)
            ref = weakref.ref(future.exception(LIMIT))  # type: ignore[type-var]
            del future
            # On a free-threaded build the thread that made it must do something to let it go.
            wait_until(lambda: pool.submit(int).result(LIMIT) == 0 and ref() is None)
    finally:
        gc.enable()


def test_a_pool_that_is_thrown_away_does_what_waits_and_ends(executor_class: Pools) -> None:
    gate = Gate()
    pool = executor_class(2)
    futures = [pool.submit(gate.stop_here)] + [pool.submit(int) for _ in range(20)]
    threads = set(pool._threads)
    ref = weakref.ref(pool)
    del pool
    wait_until(lambda: are_gone(ref))
    gate.open()
    for future in futures:
        future.result(LIMIT)
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


# as the default executor of a loop


def test_it_serves_as_the_default_executor_of_a_loop(
    executor_class: Pools, current_task_loops: LoopKind
) -> None:
    pool = executor_class(2, "mine")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        assert await loop.run_in_executor(None, pow, 2, 3) == 8
        name = await asyncio.to_thread(lambda: threading.current_thread().name)
        assert name.startswith("mine_")
        numbers = await asyncio.gather(*(asyncio.to_thread(abs, -n) for n in range(50)))
        assert numbers == list(range(50))
        assert await loop.run_in_executor(pool, str, 1) == "1"
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError):
            pool.submit(int)

    current_task_loops.run(main)
    pool.shutdown()


def test_asyncio_run_shuts_it_down(executor_class: Pools) -> None:
    pool = executor_class(2)
    done: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        for number in range(20):
            loop.run_in_executor(None, done.append, number)

    asyncio.run(main())
    assert sorted(done) == list(range(20))
    assert not any(thread.is_alive() for thread in pool._threads)
