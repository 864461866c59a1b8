"""``WorkerPool.limited(n)``: a limit of its own over the same threads."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import CancelledError, Executor, wait
from typing import Any

import pytest
from helpers.pool_jobs import Told, Traveller, are_gone
from helpers.steps import LIMIT, Gate, busy, wait_until

from threadhop import LimitedView, WorkerPool
from threadhop._errors import DROPPED


def test_a_view_is_an_executor_on_the_threads_of_its_pool() -> None:
    with WorkerPool(2, "mine") as pool:
        view = pool.limited(2)
        assert isinstance(view, LimitedView)
        assert isinstance(view, Executor)
        assert view._max_workers == 2
        assert view.submit(dict, fn=1, self=2).result(LIMIT) == {"fn": 1, "self": 2}
        assert list(view.map(abs, [-1, -2])) == [1, 2]
        assert view.submit(threading.current_thread).result(LIMIT) in pool._threads
        with pytest.raises(ValueError, match="invalid literal"):
            view.submit(int, "x").result(LIMIT)


def test_a_full_view_leaves_the_other_workers_alone_and_does_its_jobs_in_order() -> None:
    order: list[int] = []
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        with busy(view):
            for number in range(500):
                view.submit(order.append, number)
            assert pool.submit(int).result(LIMIT) == 0
            wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
            assert not order
    assert order == list(range(500))


def test_a_view_and_its_pool_take_turns() -> None:
    """A view with much to do does not keep the jobs of the pool waiting until it is done."""
    order: list[str] = []
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        with busy(pool):
            for _ in range(100):
                view.submit(order.append, "view")
            for _ in range(3):
                pool.submit(order.append, "pool")
    assert order[:8] == ["view", "pool", "pool", "pool", *["view"] * 4]


def test_a_view_keeps_its_pool_and_what_waits_in_a_view_keeps_neither() -> None:
    """The jobs of a view that is thrown away are done, and then the threads end."""
    pool = WorkerPool(1)
    view = pool.limited(1)
    refs: list[weakref.ref[Any]] = [weakref.ref(pool), weakref.ref(view)]
    del pool
    gc.collect()
    assert refs[0]() is not None
    thread = view.submit(threading.current_thread).result(LIMIT)
    gate = Gate()
    futures = [view.submit(gate.stop_here)] + [view.submit(int) for _ in range(20)]
    del view
    wait_until(lambda: are_gone(*refs))
    gate.open()
    for future in futures:
        future.result(LIMIT)
    thread.join(LIMIT)
    assert not thread.is_alive()


# shutdown


def test_shutdown_of_a_view_concerns_its_own_jobs_only_and_waits_for_these() -> None:
    with WorkerPool(2) as pool:
        view, other = pool.limited(1), pool.limited(1)
        with busy(view):
            queued = view.submit(int)
            view.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
                view.submit(int)
            assert view._shutdown
            assert other.submit(int).result(LIMIT) == 0
            assert not queued.done()
        with busy(pool):
            for _ in range(2):
                view.shutdown()
                assert queued.done()
            assert queued.result() == 0
            assert pool.submit(int).result(LIMIT) == 0


@pytest.mark.parametrize("runs", ["view", "pool"])
@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_shutdown_cancels_what_waits_in_a_view(runs: str, of_view: bool) -> None:
    """At once, whether a job of the view runs or its turn waits in the pool. That of the view
    concerns its own jobs only, and waits for the one that runs."""
    pool = WorkerPool(1)
    view = pool.limited(1)
    with busy(view if runs == "view" else pool):
        others, mine, job = pool.submit(int), [view.submit(int) for _ in range(5)], Told()
        view.put(job)
        (view if of_view else pool).shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in mine)
        assert wait(mine, LIMIT).done == set(mine), "the standard library lets it sleep on"
        with pytest.raises(CancelledError):
            mine[0].result(LIMIT)
        assert job.errors == [DROPPED]
        assert others.cancelled() != of_view
        if runs == "pool":
            view.shutdown()
        else:
            assert not view._limiter._over.is_set()
    if of_view:
        assert others.result(LIMIT) == 0
    pool.shutdown()
    view.shutdown()


def test_shutdown_of_a_view_in_a_job_of_its_own_that_waits_is_refused() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        error = view.submit(view.shutdown).exception(LIMIT)
        assert isinstance(error, RuntimeError)
        assert "cannot join current thread" in str(error)
        with pytest.raises(RuntimeError):
            view.submit(int)


def test_shutdown_of_the_pool_does_what_waits_in_a_view_also_when_its_worker_goes_away() -> None:
    pool = WorkerPool(1, max_threads=2)
    view = pool.limited(1)
    traveller = Traveller(view)
    futures = [view.submit(int) for _ in range(50)]
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        view.submit(int)
    assert view._shutdown
    assert not any(future.done() for future in futures)
    traveller.go_away()
    assert futures[-1].result(LIMIT) == 0, "no other worker does the jobs that it waits for"
    traveller.finish()
    pool.shutdown()
    assert [future.result(0) for future in futures] == [0] * 50


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_what_one_dropped_job_raises_costs_the_others_nothing(
    of_view: bool, error: type[BaseException], expect_loop_errors: list[logging.LogRecord]
) -> None:
    """A mistake is logged. Ctrl+C comes out at the end, when all have heard of it.

    They hear of it outside of the lock.
    """

    class Raises(Told):
        def fail(self, told: BaseException | str | None) -> bool:
            super().fail(told)
            locks: Any = (pool._workers._lock, view._limiter._lock)
            locked.extend(lock._is_owned() for lock in locks)
            raise error

    with WorkerPool(1) as pool, busy(pool):
        view = pool.limited(1)
        locked: list[bool] = []
        jobs = [Raises(), Told(), Raises(), Told()]
        for job in jobs:
            view.put(job)
        dropping = view if of_view else pool
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                dropping.shutdown(wait=False, cancel_futures=True)
        else:
            dropping.shutdown(wait=False, cancel_futures=True)
        assert all(set(job.errors) == {DROPPED} for job in jobs)
        assert not any(job.runs for job in jobs)
        assert not any(locked)
    assert bool(expect_loop_errors) == (error is LookupError)


# Ctrl+C


def test_a_turn_that_was_struck_off_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 Ctrl+C hits a put when the pool has the turn, which is struck off, 2 a second turn waits,
    3 both come up."""
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        threads = view._limiter.threads
        put = threads.put

        def interrupted(turn: Any) -> None:
            put(turn)
            raise KeyboardInterrupt

        gates = [Gate(), Gate()]
        with busy(pool, 2):
            with monkeypatch.context() as patch:
                patch.setattr(threads, "put", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    view.put(Told())
            futures = [view.submit(gate.stop_here) for gate in gates]
        assert gates[0].reached.wait(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        assert not gates[1].reached.is_set()
        for gate, future in zip(gates, futures, strict=True):
            gate.open()
            future.result(LIMIT)
