"""Two things happen at the same moment in a pool that limits its queue, forced."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count, islice
from typing import Any

import pytest
from helpers.interruptions import Interruption
from helpers.pool_jobs import Told, before, takes
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import PoolBusy, WorkerPool, threadpool
from threadhop._pool import _limits, _view_limiter
from threadhop._pool._limits import CountingThreads, Counts, Entry
from threadhop._pool._threads import Threads
from threadhop._pool._view_limiter import ViewLimiter

kinds = pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])


def one_worker(
    of_view: bool, max_queued: int, *, pool_too: bool = False, **kwargs: Any
) -> tuple[WorkerPool, Any]:
    limits_pool = pool_too or not of_view
    pool = WorkerPool(1, max_queued=max_queued if limits_pool else None, **kwargs)
    return pool, pool.limited(1, max_queued=max_queued) if of_view else pool


@kinds
def test_of_two_threads_that_want_the_last_place_one_is_refused(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 A looks and finds a place, 2 B begins to put, 3 A takes the place."""
    pool, executor = one_worker(of_view, 1)
    found: list[BaseException] = []

    def put() -> None:
        try:
            executor.put(Told())
        except PoolBusy as error:
            found.append(error)

    def put_meanwhile() -> None:
        thread.start()
        thread.join(0.05)  # It waits for the lock, or it is through: both are fine.

    thread = threading.Thread(target=put)
    with pool:
        with busy(pool):
            before(monkeypatch, Counts, "add", put_meanwhile)
            first = Told()
            executor.put(first)
            thread.join(LIMIT)
            assert len(found) == 1
        first.wait()


@kinds
@pytest.mark.parametrize("moment", ["begin", "end"])
def test_a_job_is_counted_once_on_its_way_from_the_queue_to_its_end(
    of_view: bool, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has taken a job out of the queue and not begun it, or has ended it and not left.

    One that has begun in all but name keeps its place; one that has ended has none.
    """
    pool, executor = one_worker(of_view, 1)
    gate, job = Gate(), Told()
    with pool:
        before(monkeypatch, Counts, moment, gate.stop_here, lambda _, entry: entry.job is job)
        executor.put(job)
        assert gate.reached.wait(LIMIT)
        queued = [Told() for _ in range(1 + (moment == "end"))]
        for other in queued:
            executor.put(other)
        takes(executor)
        gate.open()
        for other in queued:
            assert other.wait().runs == 1
    assert job.runs == 1


@kinds
@pytest.mark.parametrize("of_block", [False, True], ids=["job", "block"])
def test_a_worker_that_has_begun_is_busy_before_it_has_its_job(
    of_view: bool, of_block: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the pool's job, or the turn of the view, and not yet the view's job or the task.

    1 the worker begins, 2 another job comes to the pool or the view, 3 it takes the job.
    """
    pool, executor = one_worker(of_view, 0, pool_too=not of_block)
    gates = [Gate() for _ in range(1 + of_view)]
    held = iter(gates)

    def hold(counts: Counts, entry: Any) -> None:
        begin(counts, entry)
        for gate in islice(held, 1):
            gate.stop_here()

    async def block() -> None:
        async with threadpool(executor):
            pass

    async def main() -> None:
        job = Told()
        task = asyncio.ensure_future(block()) if of_block else executor.put(job)
        for gate in gates:
            await until(gate.reached.is_set)
            with pytest.raises(PoolBusy):
                (executor if of_block else pool).put(Told())
            gate.open()
        await (task or until(job.ended.is_set))

    begin = Counts.begin
    with pool:
        monkeypatch.setattr(Counts, "begin", hold)
        asyncio.run(main())


class Left(Told):
    """Its body has left for the loop."""

    def is_here(self) -> bool:
        return False

    def is_over(self) -> bool:
        return False


@kinds
@pytest.mark.parametrize("max_threads", [1, 2])
def test_a_worker_that_has_left_for_the_loop_counts_as_away_before_it_has_parked(
    of_view: bool, max_threads: int
) -> None:
    """1 the task has left, 2 other jobs come: as many as there may be other threads, 3 it parks."""
    pool, executor = one_worker(of_view, 0, max_threads=max_threads)
    gate = Gate()
    with pool:
        executor.put(Left(gate.stop_here))
        assert gate.reached.wait(LIMIT)
        others = [Told() for _ in range(1, max_threads)]
        for other in others:
            executor.put(other)
        takes(executor)
        gate.open()
        for other in others:
            other.wait()


def put_and_interrupt(executor: Any, job: Told, act: Callable[[Threads, Any], object]) -> None:
    """Ctrl+C hits a put after *job* was counted. *act* does what the threads do before that."""

    def interrupted(threads: Threads, job: Any) -> None:
        act(threads, job)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Threads, "put", interrupted)
        executor.put(job)


@kinds
@pytest.mark.parametrize("is_queued", [False, True])
def test_ctrl_c_in_a_put_costs_no_place(of_view: bool, is_queued: bool) -> None:
    pool, executor = one_worker(of_view, 1)
    put = Threads.put if is_queued else lambda *_: None
    with pool:
        for owner, interrupts in ((pool, 3), (executor, 0)):
            with busy(owner):
                for _ in range(interrupts):
                    put_and_interrupt(executor, Told(), put)
                last = Told()
                executor.put(last)
                takes(executor)
            last.wait()


@kinds
def test_ctrl_c_in_a_put_whose_job_has_begun_frees_no_place_that_is_taken(of_view: bool) -> None:
    pool, executor = one_worker(of_view, 0)
    put, gate = Threads.put, Gate()

    def put_and_begin(threads: Threads, job: Any) -> None:
        put(threads, job)
        assert gate.reached.wait(LIMIT)

    with pool:
        put_and_interrupt(executor, Told(gate.stop_here), put_and_begin)
        takes(executor)
        gate.open()
        wait_until(lambda: pool.statistics().busy == 0)
        last = Told()
        executor.put(last)
        last.wait()


def test_of_two_views_that_want_the_last_place_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 A is admitted, 2 B asks, 3 A takes its turn in the pool."""
    with WorkerPool(1, max_queued=1) as pool:
        one, other = pool.limited(1), pool.limited(1)
        job = Told()

        def ask() -> None:
            for executor in (other, pool):
                takes(executor)

        with busy(pool):
            before(monkeypatch, CountingThreads, "put_turn", ask)
            one.put(job)
        job.wait()


@pytest.mark.parametrize("in_pool", [False, True], ids=["in a view", "in the pool"])
def test_a_turn_that_waits_for_nothing_keeps_nobody_away(
    in_pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 a turn waits for a worker, 2 another one of its view does its job, 3 others come."""
    end = ViewLimiter.end_unless_needed
    gate = Gate()

    def hold(limiter: ViewLimiter, turn: Any) -> bool:
        gate.stop_here()
        return end(limiter, turn)

    with WorkerPool(2, max_queued=0 if in_pool else None) as pool:
        small, other = pool.limited(2, max_queued=0), pool.limited(2, max_queued=None)
        third: Any = pool if in_pool else small
        with busy(other), busy(small):
            last = Told()
            with monkeypatch.context() as patch:
                patch.setattr(CountingThreads, "refuse_if_busy", lambda *_: None)
                other.put(last)
            monkeypatch.setattr(ViewLimiter, "end_unless_needed", hold)
        last.wait()
        assert gate.reached.wait(LIMIT)
        jobs = [Told(), Told()]
        for job in jobs:
            third.put(job)
        takes(third)
        gate.open()
        for job in jobs:
            job.wait()


def test_a_job_that_comes_while_the_turn_of_a_cancelled_one_is_ended_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 a job is cancelled, its turn is for nothing, 2 another finds no turn free, 3 that ends."""
    with WorkerPool(1) as pool:
        view = pool.limited(1, max_queued=1)
        limiter, late = view._limiter, Told()
        with busy(pool):
            future = view.submit(int)
            before(monkeypatch, limiter, "_end", lambda: view.put(late))
            assert future.cancel()
            assert len(limiter._active) == 1
        assert late.wait().runs == 1


@pytest.mark.parametrize("moment", ["put_turn", "queue_again"])
def test_a_turn_that_is_struck_off_before_the_pool_has_it_keeps_nobody_away(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 a turn is about to queue, 2 the view drops its jobs and with them the turn, 3 it queues."""
    with WorkerPool(1, max_queued=1) as pool:
        view, gate = pool.limited(1, max_queued=5), Gate()
        with busy(pool if moment == "put_turn" else view):
            shutdown = partial(view.shutdown, wait=False, cancel_futures=True)
            before(monkeypatch, CountingThreads, moment, shutdown)
            view.put(Told())
            if moment == "queue_again":
                pool.put(Told(gate.stop_here))
            else:
                pool.put(Told())
        if moment == "queue_again":
            assert gate.reached.wait(LIMIT)
            pool.put(Told())
            gate.open()


def test_a_signal_handler_may_put_a_job_in_the_middle_of_a_cancel() -> None:
    """At each moment: a finalizer may, too."""
    for moment in count():
        with WorkerPool(1) as pool:
            view, late = pool.limited(3, max_queued=5), Told()
            with busy(pool):
                cancelled, other = view.submit(int), view.submit(int)
                act = partial(view.put, late)
                with Interruption(moment, act, _limits, _view_limiter) as interruption:
                    assert cancelled.cancel()
            assert other.result(LIMIT) == 0
            if not interruption.happened:
                return
            assert late.wait().runs == 1


def test_an_exception_that_another_thread_raises_in_the_worker_costs_no_place() -> None:
    """At each moment; where the job has not begun it waits on, and may be cancelled."""

    class FromOutside(Exception):
        pass

    def come_in() -> None:
        raise FromOutside

    threads = CountingThreads.of(WorkerPool(1)._workers, 1)
    counts = threads.counts
    for moment in count():
        job = Told()
        entry = Entry(threads, job)
        counts.add(entry)
        with Interruption(moment, come_in, _limits) as interruption, suppress(FromOutside):
            entry()
        if not job.runs:
            threads.withdraw(job)
        assert not counts.entries, interruption.where
        assert not counts.begun, interruption.where
        if not interruption.happened:
            return


@pytest.mark.parametrize("module", [_limits, _view_limiter], ids=["the first two", "others"])
def test_of_views_that_two_threads_make_at_once_the_pool_knows_both(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 A begins to make a view, 2 B makes one, 3 A ends that."""
    gate, name = Gate(), "Counts" if module is _limits else "ref"
    with WorkerPool(1, max_queued=None if module is _limits else 0) as pool:
        before(
            monkeypatch,
            module,
            name,
            gate.stop_here,
            lambda *_: threading.current_thread() is thread,
        )
        thread = threading.Thread(target=lambda: found.append(pool.limited(1, max_queued=0)))
        found: list[Any] = []
        thread.start()
        assert gate.reached.wait(LIMIT)
        found.append(pool.limited(1, max_queued=0))
        gate.open()
        thread.join(LIMIT)
        counts: Any = pool._workers.counts  # type: ignore[attr-defined]
        for view, other in (found, found[::-1]):
            assert view._limiter.counts.lock is counts.lock
            with busy(view):
                takes(other)


def test_a_view_that_is_forgotten_is_forgotten_by_its_pool() -> None:
    with WorkerPool(1) as pool:
        gone, kept = pool.limited(1, max_queued=0), pool.limited(1, max_queued=0)
        known = pool._workers.counting_views  # type: ignore[attr-defined]
        assert len(known) == 2
        del gone
        gc.collect()
        assert [view() for view in known] == [kept._limiter]
