"""``WorkerPool.limited(n)``: a limit of its own over the same threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from concurrent.futures import CancelledError, Executor
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from helpers.pool_jobs import Told, are_gone
from helpers.steps import LIMIT, Gate, busy, wait_until

from threadhop import LimitedView, WorkerPool, threadpool
from threadhop._errors import DROPPED


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("wrong", [True, "1", 1.5, None])
def test_a_limit_that_is_no_int_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="limited must be an int"):
        WorkerPool(1).limited(wrong)


@pytest.mark.parametrize("wrong", [0, -1])
def test_a_limit_below_one_is_a_value_error(wrong: int) -> None:
    with pytest.raises(ValueError, match="limited must be greater than 0"):
        WorkerPool(1).limited(wrong)


def test_a_view_is_an_executor_on_the_threads_of_its_pool() -> None:
    with WorkerPool(2, "mine") as pool:
        view = pool.limited(2)
        assert isinstance(view, LimitedView)
        assert isinstance(view, Executor)
        assert view._max_workers == 2
        assert view.submit(pow, 2, exp=8).result(LIMIT) == 256
        assert list(view.map(abs, [-1, -2])) == [1, 2]
        name = view.submit(lambda: threading.current_thread().name).result(LIMIT)
        assert name in {"mine_0", "mine_1"}
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
        for future in [view.submit(job) for _ in range(500)]:
            future.result(LIMIT)
    assert max(most) <= 2


def test_as_many_jobs_of_a_view_run_at_once_as_its_limit() -> None:
    with WorkerPool(4) as pool:
        view = pool.limited(3)
        meeting = threading.Barrier(3)
        futures = [view.submit(meeting.wait, LIMIT) for _ in range(9)]
        assert sorted(future.result(LIMIT) for future in futures) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_full_view_leaves_the_other_workers_alone() -> None:
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        with busy(view):
            waiting = [view.submit(int) for _ in range(100)]
            assert pool.submit(int).result(LIMIT) == 0
            assert not any(future.done() for future in waiting)
            wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        assert [future.result(LIMIT) for future in waiting] == [0] * 100


def test_jobs_of_a_view_begin_in_order() -> None:
    order: list[int] = []
    with WorkerPool(4) as pool:
        view = pool.limited(1)
        for future in [view.submit(order.append, number) for number in range(500)]:
            future.result(LIMIT)
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


def test_100_000_jobs_may_wait_in_a_view() -> None:
    with WorkerPool(2) as pool:
        view = pool.limited(2)
        with busy(view, 2):
            futures = [view.submit(int) for _ in range(100_000)]
        assert not any(future.result(LIMIT) for future in futures)


def test_a_view_keeps_its_pool_and_the_pool_does_not_keep_the_view() -> None:
    pool = WorkerPool(1)
    view = pool.limited(1)
    refs = [weakref.ref(pool), weakref.ref(view)]
    del pool
    gc.collect()
    assert view.submit(int).result(LIMIT) == 0
    threads = view._pool._threads  # type: ignore[attr-defined]
    del view
    wait_until(lambda: are_gone(*refs))
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_what_waits_in_a_view_that_is_thrown_away_is_done() -> None:
    gate = Gate()
    view = WorkerPool(1).limited(1)
    threads = view.submit(threading.enumerate).result(LIMIT)
    futures = [view.submit(gate.stop_here)] + [view.submit(int) for _ in range(20)]
    thread = next(thread for thread in threads if thread.name.startswith("WorkerPool"))
    del view
    gc.collect()
    gate.open()
    for future in futures:
        future.result(LIMIT)
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_queued_future_of_a_view_can_be_cancelled() -> None:
    ran: list[int] = []
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        with busy(view):
            first, second = view.submit(ran.append, 1), view.submit(ran.append, 2)
            assert first.cancel()
        second.result(LIMIT)
    assert ran == [2]


# away and back


def test_a_worker_of_a_view_that_is_away_does_not_count() -> None:
    """Neither against the limit of the view nor against that of the pool."""
    with WorkerPool(1, max_threads=3) as pool:
        view = pool.limited(1)
        gates = [Gate() for _ in range(3)]

        def trip() -> None:
            gates[0].stop_here()
            view.away()
            gates[1].stop_here()
            view.back()
            gates[2].stop_here()

        traveller = view.submit(trip)
        queued = view.submit(int)
        assert gates[0].reached.wait(LIMIT)
        assert not queued.done()
        gates[0].open()
        assert queued.result(LIMIT) == 0
        assert gates[1].reached.wait(LIMIT)
        assert view.submit(int).result(LIMIT) == 0
        assert not view.is_exhausted()
        gates[1].open()
        assert gates[2].reached.wait(LIMIT)
        last = view.submit(int)
        assert not last.done()
        gates[2].open()
        traveller.result(LIMIT)
        assert last.result(LIMIT) == 0


def test_a_view_is_exhausted_when_its_pool_is() -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(5)
        gate = Gate()

        def trip() -> None:
            view.away()
            gate.stop_here()
            view.back()

        future = view.submit(trip)
        assert gate.reached.wait(LIMIT)
        assert view.is_exhausted()
        assert pool.is_exhausted()
        gate.open()
        future.result(LIMIT)
        assert not view.is_exhausted()


def test_blocks_run_on_a_view() -> None:
    async def main() -> None:
        async with threadpool(view):
            assert threading.current_thread().name.startswith("mine")

    with WorkerPool(2, "mine") as pool:
        view = pool.limited(1)
        asyncio.run(main())


# shutdown


def test_shutdown_of_a_view_concerns_its_own_jobs_only() -> None:
    with WorkerPool(2) as pool:
        view = pool.limited(1)
        gate = Gate()
        futures = [view.submit(gate.stop_here), view.submit(int)]
        other = pool.limited(1)
        view.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            view.submit(int)
        assert view._shutdown
        assert other.submit(int).result(LIMIT) == 0
        assert not futures[1].done()
        gate.open()
        view.shutdown()
        assert all(future.done() for future in futures)
        assert futures[1].result() == 0
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
    gate = Gate()
    futures = [view.submit(gate.stop_here)] + [view.submit(int) for _ in range(50)]
    assert gate.reached.wait(LIMIT)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        view.submit(int)
    assert view._shutdown
    gate.open()
    pool.shutdown()
    assert all(future.done() and not future.cancelled() for future in futures)


def test_what_waits_in_a_view_is_done_after_shutdown_also_when_its_worker_goes_away() -> None:
    pool = WorkerPool(1, max_threads=2)
    view = pool.limited(1)
    gate = Gate()
    arrived = threading.Event()

    def trip() -> None:
        gate.stop_here()
        view.away()
        assert arrived.wait(LIMIT), "no other worker does the job that it waits for"
        view.back()

    futures = [view.submit(trip), view.submit(arrived.set)]
    pool.shutdown(wait=False)
    gate.open()
    for future in futures:
        future.result(LIMIT)
    pool.shutdown()


def test_shutdown_of_the_pool_cancels_what_waits_in_a_view() -> None:
    """At once, also if a job of the view runs."""
    pool = WorkerPool(2)
    view = pool.limited(1)
    with busy(view):
        futures = [view.submit(int) for _ in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
    with pytest.raises(CancelledError):
        futures[0].result(LIMIT)
    pool.shutdown()
    view.shutdown()


def test_shutdown_of_the_pool_cancels_the_turns_of_a_view() -> None:
    """A view none of whose jobs has begun is told by the turn that the pool drops."""
    pool = WorkerPool(1)
    view = pool.limited(1)
    with busy(pool):
        futures = [view.submit(int) for _ in range(5)]
        pool.shutdown(wait=False, cancel_futures=True)
        assert all(future.cancelled() for future in futures)
        view.shutdown()
    pool.shutdown()


def test_a_broken_pool_breaks_its_views() -> None:
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    logger = logging.getLogger("concurrent.futures")
    logger.disabled = True
    try:
        pool = WorkerPool(1, initializer=fail)
        view = pool.limited(1)
        futures = [view.submit(int) for _ in range(5)]
        gate.open()
        assert {type(future.exception(LIMIT)) for future in futures} == {BrokenThreadPool}
        with pytest.raises(BrokenThreadPool):
            view.submit(int)
        view.shutdown()
        pool.shutdown()
    finally:
        logger.disabled = False


def test_a_job_of_a_view_is_taken_back_when_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        job = Told()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                view.put(job)
        assert (job.runs, job.errors) == (0, [])
        assert view.submit(int).result(LIMIT) == 0
        assert job.runs == 0


def test_a_keyboard_interrupt_while_a_job_is_put_costs_a_view_no_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the pool has the turn already or not."""
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        put = pool._workers.put
        for is_there in (True, False):

            def interrupted(job: Any, is_there: bool = is_there) -> None:
                if is_there:
                    put(job)
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(pool._workers, "put", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    view.put(Told())
            with busy(view):
                assert not view.submit(int).done()
