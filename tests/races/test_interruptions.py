"""Signal handlers, finalizers and Ctrl+C in the middle of a ``put`` or a ``shutdown``, at each
moment of it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import count
from typing import Any

import pytest
from helpers.garbage import collect
from helpers.interruptions import Interruption, interrupt
from helpers.pool_jobs import Booked
from helpers.steps import LIMIT, Gate, wait_until

from threadhop import WorkerPool, _executors, _pool
from threadhop._pool import _limited_view, _permits, _threads, _work_item

POOL = (_pool, _limited_view, _permits, _threads, _work_item)


def is_whole(pool: WorkerPool) -> bool:
    """Whether all threads are idle, and each is counted once."""
    threads = pool._workers
    with threads._lock:
        parked = len(threads._idle) + len(threads._spare)
        return (
            not threads.waiting
            and not threads._starting
            and not threads.all_away
            and parked == len(threads._threads) <= threads.max_threads
            and len(threads._idle) <= threads.max_workers
        )


def each_moment(at: Callable[[int], Interruption]) -> None:
    for moment in count():
        interruption = at(moment)
        if not interruption.happened:
            assert moment > 1, "nothing was interrupted"
            break
    # It may be a cycle that keeps a pool, whose end must not be interrupted in a later test.
    del interruption
    collect()


@pytest.mark.parametrize("comes", ["a job of the pool", "a job of a view", "Ctrl+C"])
@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize("is_warm", [False, True], ids=["first", "later"])
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_what_comes_in_the_middle_of_a_put_costs_no_job_no_worker_and_no_turn(
    comes: str, of_view: bool, is_warm: bool, is_busy: bool
) -> None:
    """By a signal handler or a finalizer. A pool of one stays one thread all the same."""
    here = threading.get_ident

    def at(moment: int) -> Interruption:
        gate = Gate()
        futures: list[Future[Any]] = []
        with WorkerPool(1) as pool:
            view = pool.limited(1)
            executor = view if of_view else pool

            def put() -> None:
                futures.append((view if comes == "a job of a view" else pool).submit(here))

            if is_warm:
                futures.append(pool.submit(here))
                wait_until(lambda: is_whole(pool))
            busy = [executor.submit(gate.stop_here)] if is_busy else []
            if is_busy:
                assert gate.reached.wait(LIMIT)
            act = interrupt if comes == "Ctrl+C" else put
            with Interruption(moment, act, *POOL) as interruption:
                try:
                    futures.append(executor.submit(here))
                except KeyboardInterrupt:
                    assert interruption.happened
            futures.append(executor.submit(here))
            gate.open()
            _, pending = wait([*futures, *busy], LIMIT)
            assert not pending, interruption.where
            threads = {future.result() for future in futures}
            assert comes == "Ctrl+C" or len(threads) == 1, interruption.where
            wait_until(lambda: is_whole(pool) and not view._limiter._active)
        return interruption

    each_moment(at)


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_ctrl_c_in_the_middle_of_a_shutdown_loses_no_job_that_it_drops(of_view: bool) -> None:
    """Each one is cancelled, or done: nobody waits for it for ever. Ctrl+C comes out."""

    def at(moment: int) -> Interruption:
        gate = Gate()
        with WorkerPool(1) as pool:
            view = pool.limited(1)
            busy = pool.submit(gate.stop_here)
            assert gate.reached.wait(LIMIT)
            futures = [executor.submit(int) for executor in (view, pool, view, pool)]
            came_out = False
            # The loop over the jobs is within a ``try``.
            in_loops = sys.version_info >= (3, 14)
            with Interruption(moment, interrupt, *POOL, in_loops=in_loops) as interruption:
                try:
                    (view if of_view else pool).shutdown(wait=False, cancel_futures=True)
                except KeyboardInterrupt:
                    came_out = True
            assert came_out == interruption.happened, interruption.where
            gate.open()
            _, pending = wait([busy, *futures], LIMIT)
            assert not pending, interruption.where
            assert not pool._workers._lock._is_owned()  # type: ignore[attr-defined]
        return interruption

    each_moment(at)


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_ctrl_c_in_the_middle_of_a_put_keeps_no_lock_of_the_executor(is_busy: bool) -> None:
    """At each moment at which Python lets it come: the next jobs are done."""

    def at(moment: int) -> Interruption:
        gate = Gate()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result(LIMIT)
            if is_busy:
                pool.submit(gate.stop_here)
                assert gate.reached.wait(LIMIT)
            interrupted, after = Booked(pool), Booked(pool)
            with Interruption(moment, interrupt, _executors) as interruption:
                try:
                    _executors.submit(interrupted)
                except KeyboardInterrupt as error:
                    interrupted.fail(error)
            _executors.submit(after)
            gate.open()
            for job in (interrupted, after):
                assert job.ended.wait(LIMIT), interruption.where
        return interruption

    each_moment(at)
