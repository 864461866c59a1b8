"""What ``WorkerPool`` has beside the contract of the standard library's pool."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from helpers.pool_jobs import Told, are_gone, nothing
from helpers.steps import LIMIT, Gate, busy, wait_until

from threadhop import Statistics, WorkerPool
from threadhop._errors import DROPPED
from threadhop._pool import _threads


@pytest.fixture
def quiet() -> Iterator[list[str]]:
    """What the pool logs as critical: collected, and kept from those who forbid it."""
    records: list[str] = []
    logger = logging.getLogger("concurrent.futures")

    def collect(record: logging.LogRecord) -> bool:
        records.append(record.getMessage())
        return False

    logger.addFilter(collect)
    yield records
    logger.removeFilter(collect)


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# arguments


@pytest.mark.parametrize("wrong", [True, "4", 2.0])
def test_a_number_of_workers_that_is_no_int_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"max_workers must be an int, not {type(wrong).__name__}"):
        WorkerPool(wrong)
    with pytest.raises(TypeError, match="max_threads must be an int"):
        WorkerPool(1, max_threads=wrong)


def test_fewer_threads_than_workers_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="max_threads=3 is less than max_workers=4"):
        WorkerPool(4, max_threads=3)
    WorkerPool(4, max_threads=4).shutdown()


def test_it_is_a_thread_pool_executor() -> None:
    """For those who ask by type, or read the private names that tools read."""
    pool = WorkerPool(3, "mine")
    assert isinstance(pool, ThreadPoolExecutor)
    assert (pool._max_workers, pool._thread_name_prefix) == (3, "mine")
    assert (pool._shutdown, pool._broken, pool._threads) == (False, False, set())
    with busy(pool, 3):
        pool.submit(int)
        assert pool._work_queue.qsize() == 1
        assert not pool._work_queue.empty()
        assert len(pool._threads) == 3
    pool.shutdown()
    assert pool._shutdown
    assert pool._threads == set()
    assert pool._work_queue.empty()


# put


def test_a_job_that_is_put_is_done_and_told_nothing() -> None:
    with WorkerPool(1) as pool:
        threads: list[int] = []
        job = Told(lambda: threads.append(threading.get_ident()))
        pool.put(job)
        job.wait()
        assert (job.runs, job.errors) == (1, [])
        assert threads != [threading.get_ident()]


def test_jobs_that_are_put_and_submitted_share_one_queue() -> None:
    order: list[int] = []
    with WorkerPool(1) as pool:
        with busy(pool):
            for number in range(0, 100, 2):
                pool.put(Told(lambda number=number: order.append(number)))  # type: ignore[misc]
                pool.submit(order.append, number + 1)
    assert order == list(range(100))


def test_a_pool_that_was_shut_down_refuses_a_job_and_does_not_tell_it() -> None:
    pool = WorkerPool(1)
    pool.shutdown()
    job = Told()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        pool.put(job)
    assert (job.runs, job.errors) == (0, [])
    assert pool.statistics().queued == 0


def test_a_job_that_is_dropped_is_told_outside_of_the_lock() -> None:
    """Whoever it is told by, another thread may use the pool meanwhile."""
    pool = WorkerPool(1)
    seen: list[Statistics] = []

    class Asking(Told):
        def fail(self, error: BaseException | str | None) -> bool:
            thread = threading.Thread(target=lambda: seen.append(pool.statistics()))
            thread.start()
            thread.join(LIMIT)
            assert not thread.is_alive(), "the lock is held"
            return super().fail(error)

    with busy(pool):
        jobs = [Asking() for _ in range(3)]
        for job in jobs:
            pool.put(job)
        pool.shutdown(wait=False, cancel_futures=True)
    pool.shutdown()
    assert [job.errors for job in jobs] == [[DROPPED]] * 3
    assert [job.runs for job in jobs] == [0] * 3
    assert len(seen) == 3


def test_a_failing_initializer_tells_each_job_with_an_error_of_its_own(quiet: list[str]) -> None:
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    pool = WorkerPool(1, initializer=fail)
    jobs = [Told() for _ in range(5)]
    for job in jobs:
        pool.put(job)
    gate.open()
    errors = [error for job in jobs for error in job.wait().errors]
    assert len({id(error) for error in errors}) == 5
    assert {type(error) for error in errors} == {BrokenThreadPool}
    with pytest.raises(BrokenThreadPool):
        pool.put(Told())
    assert pool._broken
    pool.shutdown()
    with pytest.raises(BrokenThreadPool):
        pool.put(Told())
    assert quiet == ["Exception in initializer:"]


def test_a_cancelled_future_of_a_broken_pool_stays_cancelled(quiet: list[str]) -> None:
    """The standard library's pool raises InvalidStateError in its worker, and forgets the rest."""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    with WorkerPool(1, initializer=fail) as pool:
        futures = [pool.submit(int) for _ in range(3)]
        futures[0].cancel()
        gate.open()
        assert isinstance(futures[2].exception(LIMIT), BrokenThreadPool)
        assert futures[0].cancelled()


def test_a_job_that_raises_costs_the_pool_no_worker(quiet: list[str]) -> None:
    """It must not; but if it does, that is logged, and the worker goes on."""

    def fail() -> None:
        raise SystemExit

    with WorkerPool(1) as pool:
        (thread,) = {pool.submit(threading.current_thread).result(LIMIT)}
        pool.put(Told(fail))
        assert pool.submit(threading.current_thread).result(LIMIT) is thread
    assert quiet == ["Exception in worker"]


def test_a_finalizer_of_a_job_may_put_another_one() -> None:
    """It may run in any thread, in the middle of anything."""
    with WorkerPool(1) as pool:
        last = Told()

        class Phoenix(Told):
            def __del__(self) -> None:
                pool.put(last)

        job = Phoenix()
        ref = weakref.ref(job)
        pool.put(job)
        job.wait()
        del job
        wait_until(lambda: are_gone(ref))
        assert last.wait().runs == 1


# statistics


def test_statistics_tell_what_the_threads_do() -> None:
    with WorkerPool(2, max_threads=3) as pool:
        assert pool.statistics() == Statistics(max_workers=2, busy=0, away=0, idle=0, queued=0)
        gates = [Gate() for _ in range(3)]
        futures = [pool.submit(gate.stop_here) for gate in gates]
        assert gates[1].reached.wait(LIMIT)
        assert gates[0].reached.wait(LIMIT)
        assert pool.statistics() == Statistics(2, 2, 0, 0, 1)
        gates[0].open()
        gates[1].open()
        assert gates[2].reached.wait(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        gates[2].open()
        wait_until(lambda: pool.statistics() == (2, 0, 0, 2, 0))
        assert [future.result(LIMIT) for future in futures] == [None] * 3


# idle threads


def test_the_newest_idle_thread_is_used_first() -> None:
    with WorkerPool(3) as pool:
        with busy(pool, 3):
            pass
        wait_until(lambda: pool.statistics().idle == 3)
        threads = set()
        for _ in range(30):
            threads.add(pool.submit(threading.get_ident).result(LIMIT))
            wait_until(lambda: pool.statistics().idle == 3)
        assert len(threads) == 1


def test_idle_threads_leave_and_others_start_when_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_threads, "IDLE", 0.01)
    with WorkerPool(3, "mine") as pool:
        for _ in range(5):
            with busy(pool, 3):
                assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1", "mine_2"}
            wait_until(lambda: not pool._threads)
            assert pool.statistics() == (3, 0, 0, 0, 0)


def test_a_pool_of_one_keeps_its_thread_and_what_belongs_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when it has had nothing to do for much longer than others keep theirs."""
    monkeypatch.setattr(_threads, "IDLE", 0.001)
    with WorkerPool(1) as one, WorkerPool(2) as two:
        thread = one.submit(threading.current_thread).result(LIMIT)
        for _ in range(3):
            with busy(two):
                pass
            wait_until(lambda: not two._threads)
            assert one.submit(threading.current_thread).result(LIMIT) is thread


def test_a_pool_in_use_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that left takes its number along; the next one has the smallest that is free."""
    monkeypatch.setattr(_threads, "IDLE", 0.01)
    with WorkerPool(2, "mine") as pool:
        with busy(pool):
            with busy(pool):
                assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
            wait_until(lambda: len(pool._threads) == 1)
            with busy(pool):
                assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}


# away and back


class Traveller:
    """A job that goes away and comes back when it is told to."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.leave, self.is_away, self.come = Gate(), threading.Event(), Gate()
        self.is_back, self.end = threading.Event(), Gate()
        self.future: Future[None] = executor.submit(self)
        assert self.leave.reached.wait(LIMIT)

    def __call__(self) -> None:
        self.leave.stop_here()
        self.executor.away()
        self.is_away.set()
        self.come.stop_here()
        self.executor.back()
        self.is_back.set()
        self.end.stop_here()

    def go_away(self) -> None:
        self.leave.open()
        assert self.is_away.wait(LIMIT)

    def come_back(self) -> None:
        self.come.open()
        assert self.is_back.wait(LIMIT)

    def finish(self) -> None:
        for gate in (self.leave, self.come, self.end):
            gate.open()
        self.future.result(LIMIT)


def test_another_thread_starts_in_the_place_of_one_that_is_away() -> None:
    with WorkerPool(2) as pool:
        travellers = [Traveller(pool), Traveller(pool)]
        queued = pool.submit(threading.get_ident)
        assert pool.statistics() == (2, 2, 0, 0, 1)
        travellers[0].go_away()
        assert queued.result(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 1, 1, 0))
        for traveller in travellers:
            traveller.finish()


def test_a_job_that_is_put_while_a_worker_is_away_has_a_place() -> None:
    with WorkerPool(2) as pool:
        travellers = [Traveller(pool), Traveller(pool)]
        travellers[1].go_away()
        assert pool.submit(int).result(LIMIT) == 0
        for traveller in travellers:
            traveller.finish()


def test_one_that_comes_back_goes_on_at_once_and_no_job_begins_until_there_is_room() -> None:
    """1 A goes away, 2 B begins in its place, 3 A is back: two run, 4 B ends, 5 A ends, C runs."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        a.go_away()
        b = Traveller(pool)
        a.come_back()
        assert pool.statistics() == (1, 2, 0, 0, 0)
        c = pool.submit(int)
        b.finish()
        wait_until(lambda: pool.statistics() == (1, 1, 0, 1, 1))
        assert not c.done()
        a.finish()
        assert c.result(LIMIT) == 0


def test_a_parked_worker_steps_back_for_one_that_comes_back() -> None:
    """Its place is taken: it does not take a job, and does again when the place is free."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        a.go_away()
        assert pool.submit(int).result(LIMIT) == 0
        wait_until(lambda: pool.statistics().idle == 1)
        a.come_back()
        c = pool.submit(int)
        assert pool.statistics() == (1, 1, 0, 1, 1)
        assert not c.done()
        a.finish()
        assert c.result(LIMIT) == 0


def test_a_worker_in_the_reserve_is_used_before_a_thread_starts() -> None:
    """1 A goes away, 2 B works in its place, 3 A is back, B steps back, 4 the same: B again."""
    with WorkerPool(1, max_threads=9) as pool:
        stops = [Gate() for _ in range(4)]
        trips = (stops[:2], stops[2:])

        def two_trips() -> None:
            for leave, come in trips:
                leave.stop_here()
                pool.away()
                come.stop_here()
                pool.back()

        a = pool.submit(two_trips)
        seen = []
        for leave, come in trips:
            leave.open()
            assert come.reached.wait(LIMIT)
            seen.append(pool.submit(threading.current_thread).result(LIMIT))
            wait_until(lambda: pool.statistics().idle == 1)
            come.open()
        a.result(LIMIT)
        assert seen[0] is seen[1]
        assert len(pool._threads) == 2


def test_there_are_never_more_threads_than_max_threads() -> None:
    with WorkerPool(1, max_threads=3) as pool:
        travellers = []
        for _ in range(3):
            travellers.append(Traveller(pool))
            assert not pool.is_exhausted()
            travellers[-1].go_away()
        assert pool.is_exhausted()
        job = pool.submit(int)
        assert pool.statistics() == (1, 0, 3, 0, 1)
        assert not job.done()
        travellers[0].come_back()
        assert not pool.is_exhausted()
        travellers[0].finish()
        assert job.result(LIMIT) == 0
        for traveller in travellers:
            traveller.finish()


def test_a_pool_of_one_stays_one_thread() -> None:
    """The idiom for thread-bound things."""
    with WorkerPool(1) as pool:
        a = Traveller(pool)
        a.go_away()
        assert pool.is_exhausted()
        job = pool.submit(threading.current_thread)
        assert len(pool._threads) == 1
        a.finish()
        assert {job.result(LIMIT)} == pool._threads


def test_by_default_there_are_eight_threads_for_each_worker() -> None:
    with WorkerPool(2) as pool:
        travellers = []
        for _ in range(16):
            assert not pool.is_exhausted()
            travellers.append(Traveller(pool))
            travellers[-1].go_away()
        assert pool.is_exhausted()
        for traveller in travellers:
            traveller.finish()


def test_shutdown_waits_for_workers_that_are_away_and_for_those_in_reserve() -> None:
    with WorkerPool(1, max_threads=4) as pool:
        a = Traveller(pool)
        a.go_away()
        b = Traveller(pool)
        a.come_back()
        b.finish()
        wait_until(lambda: pool.statistics() == (1, 1, 0, 1, 0))
        threads = pool._threads
        pool.shutdown(wait=False)
        a.finish()
    assert not any(thread.is_alive() for thread in threads)


def test_a_worker_in_the_reserve_leaves_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_threads, "IDLE", 0.05)
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        a.go_away()
        b = Traveller(pool)
        a.come_back()
        b.finish()
        wait_until(lambda: pool.statistics() == (1, 1, 0, 0, 0))
        job = pool.submit(int)
        a.finish()
        assert job.result(LIMIT) == 0


# threads that cannot start


def test_a_job_is_taken_back_when_no_thread_can_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with WorkerPool(2) as pool:
        job = Told()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.put(job)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                pool.submit(int)
        assert pool.statistics() == (2, 0, 0, 0, 0)
        assert (job.runs, job.errors) == (0, [])
        assert pool.submit(int).result(LIMIT) == 0
        assert job.runs == 0


def test_a_job_waits_for_a_thread_that_is_there_when_no_other_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkerPool(2) as pool:
        with busy(pool):
            monkeypatch.setattr(threading.Thread, "start", cannot_start)
            job = pool.submit(int)
            assert pool.statistics() == (2, 1, 0, 0, 1)
        assert job.result(LIMIT) == 0
        monkeypatch.undo()
        with busy(pool, 2):
            pass


def test_going_away_does_not_fail_when_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        job = pool.submit(int)
        monkeypatch.setattr(threading.Thread, "start", cannot_start)
        a.go_away()
        assert not job.done()
        a.finish()
        assert job.result(LIMIT) == 0


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="counts references")
def test_the_error_of_a_start_is_let_go_without_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OopsError(RuntimeError):
        pass

    def start(thread: threading.Thread) -> None:
        raise OopsError

    monkeypatch.setattr(threading.Thread, "start", start)
    pool = WorkerPool(1)
    try:
        pool.put(Told())
    except OopsError as error:
        ref = weakref.ref(error)
    assert ref() is None


def test_a_keyboard_interrupt_during_a_start_leaves_the_pool_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the thread is under way already or not. Nothing counts that is not there."""
    start = threading.Thread.start
    with WorkerPool(1) as pool:
        for is_under_way in (True, False):

            def interrupted(thread: threading.Thread, is_under_way: bool = is_under_way) -> None:
                if is_under_way:
                    start(thread)
                raise KeyboardInterrupt

            job = Told()
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    pool.put(job)
            assert pool.statistics() == (1, 0, 0, 0, 0)
            assert (job.runs, job.errors) == (0, [])
        with busy(pool):
            assert len(pool._threads) == 1
            queued = pool.submit(nothing)
            assert not queued.done()
        queued.result(LIMIT)
