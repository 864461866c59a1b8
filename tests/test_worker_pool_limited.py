"""``WorkerPool.limited(n)``: a limit of its own over the same threads."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import CancelledError, Executor
from concurrent.futures.thread import BrokenThreadPool
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
        assert view.submit(pow, 2, exp=8).result(LIMIT) == 256
        assert list(view.map(abs, [-1, -2])) == [1, 2]
        assert view.submit(threading.current_thread).result(LIMIT) in pool._threads
        with pytest.raises(ValueError, match="invalid literal"):
            view.submit(int, "x").result(LIMIT)


def test_no_more_jobs_of_a_view_run_at_once_than_its_limit() -> None:
    running: list[int] = []
    most: list[int] = []

    def job() -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    with WorkerPool(4) as pool:
        view = pool.limited(2)
        with busy(view, 2):
            futures = [view.submit(job) for _ in range(500)]
        for future in futures:
            future.result(LIMIT)
    assert max(most) <= 2


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


# away and back


def test_a_worker_of_a_view_that_is_away_does_not_count() -> None:
    """Neither against the limit of the view nor against that of the pool."""
    with WorkerPool(1, max_threads=3) as pool:
        view = pool.limited(1)
        traveller = Traveller(view)
        queued = view.submit(int)
        assert not queued.done()
        traveller.go_away()
        assert queued.result(LIMIT) == 0
        assert view.submit(int).result(LIMIT) == 0
        assert not view.is_exhausted()
        traveller.come_back()
        last = view.submit(int)
        assert not last.done()
        traveller.finish()
        assert last.result(LIMIT) == 0


def test_no_job_of_a_view_begins_until_fewer_run_than_its_limit() -> None:
    """1 A goes away, 2 B begins in its place, 3 A is back: two run, 4 B ends, 5 A ends, C runs."""
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        a = Traveller(view).go_away()
        with busy(view):
            a.come_back()
            c = view.submit(int)
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        assert not c.done()
        a.finish()
        assert c.result(LIMIT) == 0


def test_a_view_is_exhausted_when_its_pool_is() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(5)
        traveller = Traveller(view).go_away()
        assert view.is_exhausted()
        assert pool.is_exhausted()
        traveller.finish()
        assert not view.is_exhausted()


# shutdown


def test_shutdown_of_a_view_concerns_its_own_jobs_only() -> None:
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
        view.shutdown()
        assert queued.done()
        assert queued.result() == 0
        assert pool.submit(int).result(LIMIT) == 0


def test_shutdown_of_a_view_waits_for_its_own_jobs_only() -> None:
    with WorkerPool(2) as pool:
        view = pool.limited(2)
        with busy(pool):
            view.submit(int)
            view.shutdown()
            view.shutdown()


def test_shutdown_of_a_view_cancels_its_own_jobs_only() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        with busy(pool):
            mine, others = [view.submit(int) for _ in range(5)], pool.submit(int)
            job = Told()
            view.put(job)
            view.shutdown(cancel_futures=True)
            assert all(future.cancelled() for future in mine)
            assert job.errors == [DROPPED]
            assert not others.done()
        assert others.result(LIMIT) == 0


def test_shutdown_of_a_view_that_cancels_waits_for_the_job_that_runs() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        with busy(view):
            view.shutdown(wait=False, cancel_futures=True)
            assert not view._limiter._over.is_set()
        view.shutdown()


def test_a_job_of_the_pool_may_shut_down_a_view_whose_job_its_thread_did_before() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        with busy(pool):
            view.submit(int)
            dropped = view.submit(int)
            shutdown = pool.submit(view.shutdown, cancel_futures=True)
        assert shutdown.exception(LIMIT) is None
        assert dropped.cancelled()


def test_shutdown_of_a_view_in_a_job_of_its_own_that_waits_is_refused() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        error = view.submit(view.shutdown).exception(LIMIT)
        assert isinstance(error, RuntimeError)
        assert "cannot join current thread" in str(error)
        with pytest.raises(RuntimeError):
            view.submit(int)


def test_shutdown_of_the_pool_does_what_waits_in_a_view() -> None:
    pool = WorkerPool(2)
    view = pool.limited(1)
    with busy(view):
        futures = [view.submit(int) for _ in range(50)]
        pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            view.submit(int)
        assert view._shutdown
    pool.shutdown()
    assert [future.result(0) for future in futures] == [0] * 50


def test_what_waits_in_a_view_is_done_after_shutdown_also_when_its_worker_goes_away() -> None:
    pool = WorkerPool(1, max_threads=2)
    view = pool.limited(1)
    traveller = Traveller(view)
    queued = view.submit(int)
    pool.shutdown(wait=False)
    traveller.go_away()
    assert queued.result(LIMIT) == 0, "no other worker does the job that it waits for"
    traveller.finish()
    pool.shutdown()


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_what_one_dropped_job_raises_costs_the_others_nothing(
    of_view: bool, error: type[BaseException], expect_loop_errors: list[logging.LogRecord]
) -> None:
    """A mistake is logged. Ctrl+C comes out at the end, when all have heard of it."""

    class Raises(Told):
        def fail(self, told: BaseException | str | None) -> bool:
            super().fail(told)
            raise error

    with WorkerPool(1) as pool, busy(pool):
        view = pool.limited(1)
        jobs = [Raises(), Told(), Raises(), Told()]
        for job in jobs:
            view.put(job)
        dropping = view if of_view else pool
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                dropping.shutdown(wait=False, cancel_futures=True)
        else:
            dropping.shutdown(wait=False, cancel_futures=True)
        assert all(job.errors for job in jobs)
        assert not any(job.runs for job in jobs)
    assert bool(expect_loop_errors) == (error is LookupError)


@pytest.mark.parametrize("runs", ["view", "pool"])
def test_shutdown_of_the_pool_cancels_what_waits_in_a_view(runs: str) -> None:
    """At once, whether a job of the view runs or its turn waits in the pool."""
    pool = WorkerPool(1)
    view = pool.limited(1)
    with busy(view if runs == "view" else pool):
        futures = [view.submit(int) for _ in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        with pytest.raises(CancelledError):
            futures[0].result(LIMIT)
        if runs == "pool":
            view.shutdown()
    pool.shutdown()
    view.shutdown()


def test_a_broken_pool_breaks_its_views(expect_loop_errors: list[logging.LogRecord]) -> None:
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    pool = WorkerPool(1, initializer=fail)
    view = pool.limited(1)
    futures = [view.submit(int) for _ in range(5)]
    gate.open()
    errors = [future.exception(LIMIT) for future in futures]
    assert {type(error) for error in errors} == {BrokenThreadPool}
    assert len({id(error) for error in errors}) == 5
    with pytest.raises(BrokenThreadPool):
        view.submit(int)
    view.shutdown()
    pool.shutdown()


# Ctrl+C


def put_and_interrupt(view: LimitedView, monkeypatch: pytest.MonkeyPatch, is_there: bool) -> None:
    """Ctrl+C hits the thread that puts a job, before or after the pool has the turn."""
    threads = view._limiter.threads
    put = threads.put

    def interrupted(turn: Any) -> None:
        if is_there:
            put(turn)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threads, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.put(Told())


def test_a_turn_that_was_struck_off_does_not_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 a turn waits in the pool and is struck off, 2 a second one waits, 3 both come up."""
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        gates = [Gate(), Gate()]
        with busy(pool, 2):
            put_and_interrupt(view, monkeypatch, is_there=True)
            futures = [view.submit(gate.stop_here) for gate in gates]
        assert gates[0].reached.wait(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        assert not gates[1].reached.is_set()
        for gate, future in zip(gates, futures, strict=True):
            gate.open()
            future.result(LIMIT)


def test_a_job_whose_done_callback_raises_costs_no_turn(
    expect_loop_errors: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """``Future`` lets a BaseException through, as of ``future.result()`` in a callback."""

    def fails() -> None:
        raise SystemExit

    with WorkerPool(2) as pool:
        view = pool.limited(1)
        gate = Gate()
        blocker = view.submit(gate.stop_here)
        view.submit(fails).add_done_callback(lambda future: future.result())
        gate.open()
        blocker.result(LIMIT)
        assert view.submit(int).result(LIMIT) == 0


def test_ctrl_c_while_a_thread_starts_fails_no_job_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 put takes a turn, 2 another job relies on it, 3 Ctrl+C in the start of a thread."""
    start = threading.Thread.start
    others: list[Any] = []

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, "start", start)
        others.append(view.submit(int))
        raise KeyboardInterrupt

    with WorkerPool(1) as pool:
        view = pool.limited(1)
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view.submit(str)
        assert others[0].result(LIMIT) == 0
