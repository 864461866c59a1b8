"""Two things happen at the same moment in a pool that limits its queue, forced."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import pytest
from helpers.interruptions import Interruption
from helpers.pool_jobs import Told, Traveller
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import PoolBusy, WorkerPool, threadpool
from threadhop._pool import _limits, _view_limiter
from threadhop._pool._limits import CountingThreads, Counts, Entry
from threadhop._pool._threads import Threads
from threadhop._pool._view_limiter import ViewLimiter

kinds = pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])


def one_worker(of_view: bool, max_queued: int, **kwargs: Any) -> tuple[WorkerPool, Any]:
    pool = WorkerPool(1, max_queued=None if of_view else max_queued, **kwargs)
    return pool, pool.limited(1, max_queued=max_queued) if of_view else pool


def attempt(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Call it in a thread; the list gets the result or the error."""
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except RuntimeError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, found


@kinds
def test_of_two_threads_that_want_the_last_place_one_is_refused(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 A looks and finds a place, 2 B begins to put, 3 A takes the place."""
    pool, executor = one_worker(of_view, 1)
    add = Counts.add
    others: list[tuple[threading.Thread, list[object]]] = []

    def put_meanwhile(counts: Counts, entry: Any) -> None:
        if not others:
            others.append(attempt(lambda: executor.put(Told())))
            others[0][0].join(0.05)  # It waits for the lock, or it is through: both are fine.
        add(counts, entry)

    with pool:
        with busy(pool):
            monkeypatch.setattr(Counts, "add", put_meanwhile)
            first = Told()
            executor.put(first)
            thread, found = others[0]
            thread.join(LIMIT)
            assert isinstance(found[0], PoolBusy)
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
    original = getattr(Counts, moment)
    gate = Gate()
    held: list[object] = []

    def hold(counts: Counts, entry: Any) -> None:
        if entry.job is job and not held:
            held.append(entry)
            gate.stop_here()
        original(counts, entry)

    job = Told()
    with pool:
        monkeypatch.setattr(Counts, moment, hold)
        executor.put(job)
        assert gate.reached.wait(LIMIT)
        queued = [Told() for _ in range(1 + (moment == "end"))]
        for other in queued:
            executor.put(other)
        with pytest.raises(PoolBusy):
            executor.put(Told())
        gate.open()
        for other in queued:
            assert other.wait().runs == 1
    assert job.runs == 1


@kinds
def test_a_worker_that_has_begun_a_block_is_busy_before_the_task_has_arrived(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the pool's job, or the turn of the view, and not yet the task."""
    pool, executor = one_worker(of_view, 0)
    begin = Counts.begin
    gates = [Gate() for _ in range(2)]
    held = iter(gates)

    def hold(counts: Counts, entry: Any) -> None:
        begin(counts, entry)
        gate = next(held, None)
        if gate is not None:
            gate.stop_here()

    async def block() -> None:
        async with threadpool(executor):
            pass

    async def main() -> None:
        task = asyncio.ensure_future(block())
        for gate in gates[: 1 + of_view]:
            await until(gate.reached.is_set)
            with pytest.raises(PoolBusy):
                executor.put(Told())
            gate.open()
        gates[1].open()
        await task

    with pool:
        monkeypatch.setattr(Counts, "begin", hold)
        asyncio.run(main())


def test_a_turn_that_has_begun_keeps_its_worker_before_it_has_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker begins the turn, 2 another job comes to the pool, 3 it takes the view's job."""
    begin = Counts.begin
    gate = Gate()

    def hold(counts: Counts, entry: Any) -> None:
        begin(counts, entry)
        gate.stop_here()

    with WorkerPool(1, max_queued=0) as pool:
        view = pool.limited(1)
        monkeypatch.setattr(Counts, "begin", hold)
        job = Told()
        view.put(job)
        assert gate.reached.wait(LIMIT)
        with pytest.raises(PoolBusy):
            pool.put(Told())
        gate.open()
        job.wait()


@kinds
def test_a_worker_that_has_left_for_the_loop_counts_as_away_before_it_has_parked(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 the task has left, 2 another job comes, 3 the worker parks."""
    pool, executor = one_worker(of_view, 0, max_threads=2)

    class Left(Told):
        def is_here(self) -> bool:
            return False

        def is_over(self) -> bool:
            return False

    gate = Gate()
    with pool:
        executor.put(Left(gate.stop_here))
        assert gate.reached.wait(LIMIT)
        second = Told()
        executor.put(second)
        with pytest.raises(PoolBusy):
            executor.put(Told())
        gate.open()
        second.wait()


@kinds
def test_a_pool_that_may_not_have_another_thread_is_busy_while_its_only_one_parks(
    of_view: bool,
) -> None:
    pool, executor = one_worker(of_view, 0)

    class Left(Told):
        def is_here(self) -> bool:
            return False

        def is_over(self) -> bool:
            return False

    gate = Gate()
    with pool:
        executor.put(Left(gate.stop_here))
        assert gate.reached.wait(LIMIT)
        with pytest.raises(PoolBusy):
            executor.put(Told())
        gate.open()


@kinds
@pytest.mark.parametrize("is_queued", [False, True])
def test_ctrl_c_in_a_put_costs_no_place(
    of_view: bool, is_queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hits after the job was counted; before it is in the queue, or after."""
    pool, executor = one_worker(of_view, 1)
    put = Threads.put

    def interrupted(threads: Threads, job: Any) -> None:
        if is_queued:
            put(threads, job)
        raise KeyboardInterrupt

    with pool:
        with busy(pool):
            for _ in range(3):
                with monkeypatch.context() as patch:
                    patch.setattr(Threads, "put", interrupted)
                    with pytest.raises(KeyboardInterrupt):
                        executor.put(Told())
            last = Told()
            executor.put(last)
            with pytest.raises(PoolBusy):
                executor.put(Told())
        last.wait()
        with busy(executor):
            queued = Told()
            executor.put(queued)
            with pytest.raises(PoolBusy):
                executor.put(Told())
        queued.wait()


@kinds
def test_ctrl_c_in_a_put_whose_job_has_begun_frees_no_place_that_is_taken(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, executor = one_worker(of_view, 0)
    gate = Gate()
    put = executor.put
    with pool:
        original = Threads.put

        def interrupted(threads: Threads, job: Any) -> None:
            original(threads, job)
            assert gate.reached.wait(LIMIT)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Threads, "put", interrupted)
            with pytest.raises(KeyboardInterrupt):
                put(Told(gate.stop_here))
        with pytest.raises(PoolBusy):
            put(Told())
        gate.open()
        wait_until(lambda: pool.statistics().busy == 0)
        last = Told()
        put(last)
        last.wait()


def test_of_two_views_that_want_the_last_place_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 A is admitted, 2 B asks, 3 A takes its turn in the pool."""
    with WorkerPool(1, max_queued=1) as pool:
        one, other = pool.limited(1), pool.limited(1)
        job = Told()
        put_turn = CountingThreads.put_turn

        def late(threads: CountingThreads, turn: Any) -> None:
            monkeypatch.undo()
            for executor in (other, pool):
                with pytest.raises(PoolBusy):
                    executor.put(Told())
            put_turn(threads, turn)

        with busy(pool):
            monkeypatch.setattr(CountingThreads, "put_turn", late)
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
        with pytest.raises(PoolBusy):
            third.put(Told())
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
        end = limiter._end

        def put_before(turn: Any) -> None:
            monkeypatch.undo()
            view.put(late)
            end(turn)

        with busy(pool):
            future = view.submit(int)
            monkeypatch.setattr(limiter, "_end", put_before)
            assert future.cancel()
            assert len(limiter._active) == 1
        assert late.wait().runs == 1


@pytest.mark.parametrize("moment", ["put_turn", "queue_again"])
def test_a_turn_that_is_struck_off_before_the_pool_has_it_keeps_nobody_away(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 a turn is about to queue, 2 the view drops its jobs and with them the turn, 3 it queues."""
    queue = getattr(CountingThreads, moment)
    with WorkerPool(1, max_queued=1) as pool:
        view, gate = pool.limited(1, max_queued=5), Gate()

        def late(threads: CountingThreads, turn: Any) -> None:
            monkeypatch.undo()
            view.shutdown(wait=False, cancel_futures=True)
            queue(threads, turn)

        with busy(pool if moment == "put_turn" else view):
            monkeypatch.setattr(CountingThreads, moment, late)
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
    name = "Counts" if module is _limits else "ref"
    original, gate = getattr(module, name), Gate()

    def late(*args: Any) -> Any:
        if threading.current_thread() is thread and not gate.is_open():
            gate.stop_here()
        return original(*args)

    with WorkerPool(1, max_queued=None if module is _limits else 0) as pool:
        monkeypatch.setattr(module, name, late)
        thread = threading.Thread(target=lambda: found.append(pool.limited(1, max_queued=0)))
        found: list[Any] = []
        thread.start()
        assert gate.reached.wait(LIMIT)
        found.append(pool.limited(1, max_queued=0))
        gate.open()
        thread.join(LIMIT)
        for view, other in (found, found[::-1]):
            with busy(view), pytest.raises(PoolBusy):
                other.put(Told())


def test_a_view_that_is_forgotten_is_forgotten_by_its_pool() -> None:
    with WorkerPool(1) as pool:
        gone, kept = pool.limited(1, max_queued=0), pool.limited(1, max_queued=0)
        known = pool._workers.counting_views  # type: ignore[attr-defined]
        assert len(known) == 2
        del gone
        gc.collect()
        assert [view() for view in known] == [kept._limiter]


@kinds
def test_jobs_that_go_away_come_back_and_are_cancelled_leave_the_counts_at_zero(
    of_view: bool,
) -> None:
    pool, executor = one_worker(of_view, 2, max_threads=3)
    with pool:
        for _ in range(50):
            a = Traveller(executor)
            futures = [executor.submit(int) for _ in range(2)]
            futures[0].cancel()
            a.go_away()
            assert futures[1].result(LIMIT) == 0
            a.finish()
        wait_until(lambda: pool.statistics().busy == 0)
        for counts in (
            pool._workers.counts,  # type: ignore[attr-defined]
            *([executor._limiter.counts] if of_view else []),
        ):
            assert not counts.entries
            assert not counts.begun
