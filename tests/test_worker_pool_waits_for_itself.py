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
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import (
    LimitedView,
    WorkerPool,
    exec_in_executor_threading_future,
    threadpool,
)

Executors = WorkerPool | LimitedView


def submit(executor: Any, func: Callable[..., Any], *args: Any) -> Future[Any]:
    return executor.submit(func, *args)  # type: ignore[no-any-return]


#: A future of an executor, by its own ``submit`` and by a call.
starts = pytest.mark.parametrize("start", [submit, exec_in_executor_threading_future])


def square(n: int) -> int:
    return n * n


def by_submit(executor: Executors) -> list[int]:
    return [future.result(LIMIT) for future in [submit(executor, square, n) for n in range(3)]]


def by_map(executor: Executors) -> list[int]:
    return list(executor.map(square, range(3)))


def by_threading_future(executor: Executors) -> list[int]:
    futures = [exec_in_executor_threading_future(executor, square, n) for n in range(3)]
    return [future.result(LIMIT) for future in futures]


def by_exception(executor: Executors) -> list[int]:
    futures = [submit(executor, square, n) for n in range(3)]
    assert all(future.exception(LIMIT) is None for future in futures)
    return [future.result(0) for future in futures]


@pytest.mark.parametrize("fan_out", [by_submit, by_map, by_threading_future, by_exception])
def test_blocks_and_jobs_that_fan_out_into_their_own_pool_come_to_an_end(
    fan_out: Callable[[Executors], list[int]],
) -> None:
    """A worker with a turn of a view leaves the view's place and the pool's."""

    async def block(executor: Executors, met: threading.Barrier) -> list[int]:
        async with threadpool(executor):
            met.wait(LIMIT)
            thread = threading.get_ident()
            found = fan_out(executor)
            assert threading.get_ident() == thread
            return found

    async def all_workers(executor: Executors) -> list[list[int]]:
        met = threading.Barrier(2)
        return await asyncio.gather(*(block(executor, met) for _ in range(2)))

    with WorkerPool(2) as pool:
        for executor in (pool, pool.limited(2)):
            assert asyncio.run(all_workers(executor)) == [[0, 1, 4]] * 2
    assert pool.statistics() == (2, 0, 0, 0, 0)
    with WorkerPool(1, max_threads=9) as pool:
        view = pool.limited(1)
        for first, second in ((view, pool), (pool, view), (view, view)):
            assert first.submit(fan_out, second).result(LIMIT) == [0, 1, 4]
        # No place is lost.
        with busy(view):
            assert not view.submit(int).done()
    assert pool.statistics() == (1, 0, 0, 0, 0)


def test_a_timeout_ends_the_wait_and_the_worker_counts_again() -> None:
    """A poll does not even go away."""
    gate = Gate()
    with WorkerPool(2, max_threads=3) as pool:

        def wait() -> str:
            blocked = pool.submit(gate.stop_here)
            assert gate.reached.wait(LIMIT)
            for call in (blocked.result, blocked.exception):
                for timeout in (0, -1, 0.01):
                    with pytest.raises(TimeoutError):
                        call(timeout)
                    assert pool.statistics().away == 0
            return "waited"

        assert pool.submit(wait).result(LIMIT) == "waited"
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        gate.open()

    with WorkerPool(1, max_threads=2) as pool:

        def poll() -> int:
            waiting = pool.submit(int)
            with pytest.raises(TimeoutError):
                waiting.result(0)
            return len(pool._threads)

        assert pool.submit(poll).result(LIMIT) == 1


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
@starts
def test_an_error_of_the_job_is_raised_and_makes_no_cycle(
    start: Callable[..., Future[Any]], waits: bool
) -> None:
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
            return wait_for(start(pool, job))

        with no_collector():
            ref = pool.submit(run).result(LIMIT)
            wait_until(lambda: ref() is None)


# a pool of one


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@starts
def test_the_worker_of_a_pool_of_one_that_waits_for_its_pool_is_refused(
    start: Callable[..., Future[Any]], of_view: bool
) -> None:
    """It would wait for itself. The job is done when the worker has ended the other one."""
    with WorkerPool(1) as pool:
        executor: Any = pool.limited(1) if of_view else pool
        futures: list[Future[Any]] = []

        def wait(name: str) -> None:
            futures.append(start(executor, int))
            wait = getattr(futures[-1], name)
            with pytest.raises(RuntimeError, match="pool of one waits for a future of that very"):
                wait()
            with pytest.raises(TimeoutError):
                wait(0.01)

        for name in ("result", "exception"):
            executor.submit(wait, name).result(LIMIT)
            assert futures[-1].result(LIMIT) == 0
        assert executor.submit(list, executor.map(int, "12")).result(LIMIT) == [1, 2]


def test_a_future_of_a_pool_of_one_that_is_done_is_read() -> None:
    with WorkerPool(1) as pool:
        done = pool.submit(int)
        assert done.result(LIMIT) == 0
        assert pool.submit(done.result).result(LIMIT) == 0
        assert pool.submit(done.exception).result(LIMIT) is None


# the warning


def test_the_warning_names_the_lines_of_workers_that_wait_for_their_own_pool(
    caplog: pytest.LogCaptureFixture,
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

    asyncio.run(main())
    (text,) = warnings()
    assert "all 2 workers" in text
    assert "wait for futures of this pool" in text
    assert text.count(f"{__file__}:") == 2
