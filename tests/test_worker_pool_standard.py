"""The documentation of ``ThreadPoolExecutor`` promises this, of both pools.

``WorkerPool`` inherits ``map()``, and CPython tests that and the functions that wait for futures.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import weakref
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor, wait
from concurrent.futures.thread import BrokenThreadPool
from functools import partial
from typing import Any

import pytest
from helpers.pool_jobs import are_gone
from helpers.steps import LIMIT, Gate, busy, wait_until

Pools = type[ThreadPoolExecutor]

# submit


def test_submit_keeps_every_keyword_and_what_cannot_be_called_fails_its_future(
    executor: Executor,
) -> None:
    """Names that an executor might use itself go to the function."""

    def func(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    future = executor.submit(func, 1, self=2, fn=3, job=4)
    assert isinstance(future, Future)
    assert future.result(LIMIT) == ((1,), {"self": 2, "fn": 3, "job": 4})
    with pytest.raises(TypeError):
        executor.submit(fn=func)  # type: ignore[call-arg]
    error = executor.submit(None).exception(LIMIT)  # type: ignore[arg-type]
    assert isinstance(error, TypeError)


def test_whatever_the_function_raises_is_in_the_future(executor_class: Pools) -> None:
    """The thread goes on: it does the next job, too."""

    def func(error: BaseException) -> None:
        raise error

    with executor_class(1) as pool:
        thread = pool.submit(threading.current_thread).result(LIMIT)
        for kind in (ValueError, StopIteration, GeneratorExit, SystemExit, KeyError):
            error = kind("oops")
            assert pool.submit(func, error).exception(LIMIT) is error
            assert pool.submit(threading.current_thread).result(LIMIT) is thread


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


# shutdown


def test_after_shutdown_nothing_more_is_taken(executor_class: Pools) -> None:
    used, unused = executor_class(1), executor_class(1)
    used.submit(int).result(LIMIT)
    for pool in (used, unused):
        pool.shutdown()
        for call in (partial(pool.submit, int), partial(pool.map, int, "1")):
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                call()


def test_shutdown_waits_for_what_is_queued_in_each_thread_that_calls_it(
    executor_class: Pools,
) -> None:
    pool = executor_class(2)
    waiters = [threading.Thread(target=pool.shutdown) for _ in range(8)]
    with busy(pool, 2):
        futures = [pool.submit(int) for _ in range(100)]
        for waiter in waiters:
            waiter.start()
        wait_until(lambda: pool._shutdown)
        assert not any(future.done() for future in futures)
        assert all(waiter.is_alive() for waiter in waiters)
    for waiter in waiters:
        waiter.join(LIMIT)
        assert not waiter.is_alive()
    assert [future.result(0) for future in futures] == [0] * 100
    pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.parametrize("waits", [True, False])
def test_shutdown_with_cancel_futures_cancels_what_has_not_begun(
    executor_class: Pools, waits: bool
) -> None:
    """Jobs that have begun go on to their end."""
    pool = executor_class(2)
    told = threading.Semaphore(0)
    with busy(pool, 2) as release:
        queued = [pool.submit(int) for _ in range(50)]
        for future in queued:
            future.add_done_callback(lambda _: told.release())
        if waits:  # else it would wait for ever
            queued[-1].add_done_callback(lambda _: release())
        pool.shutdown(wait=waits, cancel_futures=True)
        assert all(future.cancelled() for future in queued)
        for _ in queued:
            assert told.acquire(timeout=LIMIT)
        with pytest.raises(CancelledError):
            queued[0].result(LIMIT)
    pool.shutdown()


def test_shutdown_in_a_worker_ends_the_pool_and_is_refused_if_it_waits(
    executor_class: Pools,
) -> None:
    """A thread cannot wait for its own end. The pool is shut down all the same."""
    for waits in (False, True):
        pool = executor_class(1)
        error = pool.submit(pool.shutdown, wait=waits).exception(LIMIT)
        with pytest.raises(RuntimeError):
            pool.submit(int)
        if waits:
            assert isinstance(error, RuntimeError)
            assert "cannot join current thread" in str(error).lower()
        else:
            assert error is None


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


@pytest.mark.parametrize("kind", [LookupError, SystemExit])
def test_a_failing_initializer_breaks_the_pool(
    executor_class: Pools,
    kind: type[BaseException],
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """Each job that waits or comes later raises BrokenThreadPool; the log has the cause."""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise kind

    pool = executor_class(1, initializer=fail)
    futures = [pool.submit(int) for _ in range(20)]
    gate.open()
    errors = [future.exception(LIMIT) for future in futures]
    assert {type(error) for error in errors} == {BrokenThreadPool}
    assert len({id(error) for error in errors}) == 20
    assert pool._broken
    assert not pool._shutdown
    for shut_down in (False, True):
        if shut_down:
            pool.shutdown()
        for call in (lambda: pool.submit(int), lambda: pool.map(int, "1")):
            with pytest.raises(BrokenThreadPool, match="initializer failed"):
                call()
    (record,) = expect_loop_errors
    assert record.levelno == logging.CRITICAL
    assert "Exception in initializer" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is kind


# threads


def test_threads_start_only_when_they_are_needed(executor_class: Pools) -> None:
    with executor_class(1000) as pool:
        assert len(pool._threads) == 0
        with busy(pool, 3):
            assert len(pool._threads) == 3


def test_threads_are_named_by_the_prefix_or_by_the_kind_of_pool_and_a_number(
    executor_class: Pools,
) -> None:
    with executor_class(2, "mine") as pool:
        with busy(pool, 2):
            assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
    with executor_class(1) as first, executor_class(1) as second:
        names = [
            pool.submit(threading.current_thread).result(LIMIT).name for pool in (first, second)
        ]
    kind = executor_class.__name__
    assert all(name.startswith(f"{kind}-") and name.endswith("_0") for name in names)
    assert names[0] != names[1]


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


@pytest.mark.parametrize("how", ["shut down", "thrown away"])
def test_a_pool_that_is_shut_down_or_thrown_away_does_what_is_queued_and_ends(
    executor_class: Pools, how: str
) -> None:
    """``shutdown(wait=False)`` returns at once."""
    gate = Gate()
    pool = executor_class(2)
    futures = [pool.submit(gate.stop_here)] + [pool.submit(int) for _ in range(20)]
    threads = set(pool._threads)
    ref = weakref.ref(pool)
    if how == "shut down":
        pool.shutdown(wait=False)
    del pool
    wait_until(lambda: are_gone(ref))
    gate.open()
    for future in futures:
        future.result(LIMIT)
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
