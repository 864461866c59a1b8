"""A worker that waits for a future of its own pool is away: another thread does the job."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from helpers.garbage import MAY_DEFER, counts_references, no_collector
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import (
    LimitedView,
    WorkerPool,
    exec_in_executor_threading_future,
    threadpool,
)

Executors = WorkerPool | LimitedView


def square(n: int) -> int:
    return n * n


def by_submit(executor: Executors) -> list[int]:
    return [future.result(LIMIT) for future in [executor.submit(square, n) for n in range(3)]]


def by_map(executor: Executors) -> list[int]:
    return list(executor.map(square, range(3)))


def by_threading_future(executor: Executors) -> list[int]:
    futures = [exec_in_executor_threading_future(executor, square, n) for n in range(3)]
    return [future.result(LIMIT) for future in futures]


def by_exception(executor: Executors) -> list[int]:
    futures = [executor.submit(square, n) for n in range(3)]
    assert all(future.exception(LIMIT) is None for future in futures)
    return [future.result(0) for future in futures]


fan_outs = pytest.mark.parametrize(
    "fan_out", [by_submit, by_map, by_threading_future, by_exception]
)


@fan_outs
@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_blocks_that_fan_out_into_their_own_pool_come_to_an_end(
    loops: LoopKind, fan_out: Callable[[Executors], list[int]], of_view: bool
) -> None:
    """All workers are in blocks, and each waits for jobs of the same pool."""

    async def main() -> None:
        with WorkerPool(2) as pool:
            executor = pool.limited(2) if of_view else pool
            met = threading.Barrier(2)

            async def block() -> list[int]:
                async with threadpool(executor):
                    met.wait(LIMIT)
                    thread = threading.get_ident()
                    found = fan_out(executor)
                    assert threading.get_ident() == thread
                    return found

            assert await asyncio.gather(block(), block()) == [[0, 1, 4]] * 2
        assert pool.statistics() == (2, 0, 0, 0, 0)

    loops.run(main)


@fan_outs
@pytest.mark.parametrize("waits_on", ["view", "pool"])
def test_jobs_that_fan_out_from_view_to_pool_and_back(
    fan_out: Callable[[Executors], list[int]], waits_on: str
) -> None:
    """A worker with a turn of the view leaves the view's place and the pool's."""
    with WorkerPool(1, max_threads=9) as pool:
        view = pool.limited(1)
        first, second = (view, pool) if waits_on == "pool" else (pool, view)
        assert first.submit(fan_out, second).result(LIMIT) == [0, 1, 4]
        assert view.submit(fan_out, view).result(LIMIT) == [0, 1, 4]
        # No place is lost.
        with busy(view):
            assert not view.submit(int).done()
    assert pool.statistics() == (1, 0, 0, 0, 0)


def test_a_recursion_in_one_pool_comes_to_its_end_within_max_threads() -> None:
    with WorkerPool(2, max_threads=40) as pool:

        def count(depth: int) -> int:
            if not depth:
                return 0
            return 1 + pool.submit(count, depth - 1).result()

        assert pool.submit(count, 30).result(LIMIT) == 30
        assert len(pool._threads) <= 40


def test_a_timeout_ends_the_wait_and_the_worker_counts_again() -> None:
    gate = Gate()
    with WorkerPool(2, max_threads=3) as pool:

        def wait() -> str:
            blocked = pool.submit(gate.stop_here)
            assert gate.reached.wait(LIMIT)
            for call in (blocked.result, blocked.exception):
                for timeout in (0.01, 0, -1):
                    with pytest.raises(TimeoutError):
                        call(timeout)
            return "waited"

        future = pool.submit(wait)
        assert future.result(LIMIT) == "waited"
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        gate.open()


def test_a_poll_does_not_go_away() -> None:
    with WorkerPool(1, max_threads=2) as pool:

        def poll() -> tuple[int, int]:
            waiting = pool.submit(int)
            with pytest.raises(TimeoutError):
                waiting.result(0)
            return pool.statistics().away, len(pool._threads)

        assert pool.submit(poll).result(LIMIT) == (0, 1)


@pytest.mark.parametrize("of_call", [False, True])
def test_a_future_that_is_cancelled_meanwhile_raises_cancelled_error(of_call: bool) -> None:
    held = Gate()
    with WorkerPool(1, max_threads=2) as pool:
        futures: list[Future[Any]] = []

        def wait() -> None:
            blocker = pool.submit(held.stop_here)
            if of_call:
                futures.append(exec_in_executor_threading_future(pool, int))
            else:
                futures.append(pool.submit(int))
            with pytest.raises(CancelledError):
                futures[0].result(LIMIT)
            held.open()
            blocker.result(LIMIT)

        waiter = pool.submit(wait)
        wait_until(lambda: pool.statistics().away == 1)
        assert futures[0].cancel()
        waiter.result(LIMIT)
    assert pool.statistics() == (1, 0, 0, 0, 0)


def test_who_is_no_worker_of_the_pool_just_waits() -> None:
    """A worker of another executor counts there."""
    with WorkerPool(1) as pool, WorkerPool(2) as other, busy(pool) as release:
        future = pool.submit(int)
        waiter = other.submit(future.result, LIMIT)
        with busy(other):
            assert other.statistics().away == 0
        release()
        assert waiter.result(LIMIT) == 0


class Oops(Exception):
    pass


@counts_references
@pytest.mark.skipif(MAY_DEFER, reason="counts of other threads' objects are merged later")
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("of_call", [False, True])
def test_an_error_of_the_job_is_raised_and_makes_no_cycle(of_call: bool, waits: bool) -> None:
    with WorkerPool(2) as pool:

        def job() -> None:
            if waits:
                wait_until(lambda: pool.statistics().away)
            raise Oops

        def wait_for(future: Future[None]) -> weakref.ref[Oops]:
            try:
                if not waits:
                    wait_until(future.done)
                future.result(LIMIT)
            except Oops as error:
                return weakref.ref(error)
            finally:
                del future
            raise AssertionError

        def run() -> weakref.ref[Oops]:
            if of_call:
                return wait_for(exec_in_executor_threading_future(pool, job))
            return wait_for(pool.submit(job))

        with no_collector():
            ref = pool.submit(run).result(LIMIT)
            wait_until(lambda: ref() is None)


# a pool of one


@pytest.mark.parametrize("view", [False, True])
@pytest.mark.parametrize("name", ["result", "exception"])
@pytest.mark.parametrize("of_call", [False, True])
def test_the_worker_of_a_pool_of_one_that_waits_for_its_pool_is_refused(
    view: bool, name: str, of_call: bool
) -> None:
    """It would wait for itself. The job is done when the worker has ended the other one."""
    with WorkerPool(1) as pool:
        executor: Any = pool.limited(1) if view else pool
        futures: list[Future[Any]] = []

        def wait() -> None:
            if of_call:
                futures.append(exec_in_executor_threading_future(executor, int))
            else:
                futures.append(executor.submit(int))
            with pytest.raises(RuntimeError, match="pool of one waits for a future of that very"):
                getattr(futures[0], name)()
            with pytest.raises(TimeoutError):
                getattr(futures[0], name)(0.01)

        executor.submit(wait).result(LIMIT)
        assert futures[0].result(LIMIT) == 0
        assert executor.submit(list, executor.map(int, "12")).result(LIMIT) == [1, 2]


def test_a_future_of_a_pool_of_one_that_is_done_is_read() -> None:
    with WorkerPool(1) as pool:
        done = pool.submit(int)
        assert done.result(LIMIT) == 0
        assert pool.submit(done.result).result(LIMIT) == 0


# the warning


def test_the_warning_names_the_lines_of_workers_that_wait_for_their_own_pool(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """A block and a job: all threads that there may be wait for the pool."""

    def warnings() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]

    async def main() -> None:
        with WorkerPool(2, max_threads=2) as pool:
            both = threading.Barrier(2)
            futures: list[Future[int]] = []

            def job() -> int:
                both.wait(LIMIT)
                both.wait(LIMIT)
                return futures[0].result(LIMIT)

            async def block() -> int:
                async with threadpool(pool):
                    both.wait(LIMIT)
                    futures.append(pool.submit(int))
                    both.wait(LIMIT)
                    return futures[0].result(LIMIT)

            waiting = pool.submit(job)
            task = asyncio.ensure_future(block())
            while not warnings():
                await asyncio.sleep(0.001)
            futures[0].cancel()
            with pytest.raises(CancelledError):
                await task
            await until(waiting.done)
            assert isinstance(waiting.exception(0), CancelledError)
            assert not pool.all_away

    loops.run(main)
    (text,) = warnings()
    assert "all 2 workers" in text
    assert "wait for futures of this pool" in text
    assert text.count(f"{__file__}:") == 2
