"""``WorkerPool`` beside the contract of the standard library's pool."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from concurrent.futures.thread import BrokenThreadPool
from itertools import count
from typing import Any

import pytest
from helpers.pool_jobs import Told, Traveller, cannot_start
from helpers.steps import LIMIT, Gate, busy, wait_until

import threadhop._pool
from threadhop import Statistics, WorkerPool, ensure_thread_event_loop
from threadhop._errors import DROPPED

of_pool_and_view = pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])


def pool_or_view(pool: WorkerPool, of_view: bool) -> Any:
    return pool.limited(1) if of_view else pool


# arguments

NUMBERS: dict[str, Callable[[Any], object]] = {
    "max_workers": WorkerPool,
    "max_threads": lambda number: WorkerPool(1, max_threads=number),
    "limited": lambda number: WorkerPool(1).limited(number),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", [True, "4", 2.0])
def test_a_number_that_is_no_int_is_a_type_error(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an int, not {type(wrong).__name__}"):
        NUMBERS[name](wrong)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("wrong", [0, -1])
def test_a_number_below_one_is_a_value_error(name: str, wrong: int) -> None:
    with pytest.raises(ValueError, match=f"{name} must be greater than 0"):
        NUMBERS[name](wrong)


LIMITS: dict[str, Callable[[Any], object]] = {
    "max_queued": lambda number: WorkerPool(1, max_queued=number),
    "limited": lambda number: WorkerPool(1).limited(1, max_queued=number),
}


@pytest.mark.parametrize("of", LIMITS)
def test_max_queued_is_an_int_of_at_least_zero_or_none(of: str) -> None:
    for fine in (None, 0, 7):
        LIMITS[of](fine)
    for wrong in (True, False, "4", 2.0):
        with pytest.raises(
            TypeError, match=f"max_queued must be an int, not {type(wrong).__name__}"
        ):
            LIMITS[of](wrong)
    with pytest.raises(ValueError, match="max_queued must be at least 0, not -1"):
        LIMITS[of](-1)


def test_idle_timeout_is_a_number_of_at_least_zero_or_none() -> None:
    for fine in (None, 0, 0.0, 7, 1e300, math.inf):
        with WorkerPool(2, idle_timeout=fine) as pool:
            assert pool.submit(int).result(LIMIT) == 0
    wrong: Any
    for wrong in (True, False, "4", 1j):
        with pytest.raises(TypeError, match="idle_timeout must be a number of seconds"):
            WorkerPool(2, idle_timeout=wrong)
    for wrong in (-1, -0.1, math.nan, -math.inf):
        with pytest.raises(ValueError, match="idle_timeout must be at least 0"):
            WorkerPool(2, idle_timeout=wrong)


def test_what_is_new_may_be_named_only_and_comes_after_the_standard_arguments() -> None:
    mine = inspect.signature(WorkerPool).parameters
    standard = inspect.signature(ThreadPoolExecutor).parameters
    assert list(mine)[: len(standard) - ("ctxkwargs" in standard)] == [*standard][:4]
    more = {name: mine[name] for name in list(mine)[4:]}
    assert [*more] == ["max_threads", "max_queued", "idle_timeout"]
    assert {parameter.kind for parameter in more.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert more["idle_timeout"].default == 30.0


def test_fewer_threads_than_workers_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="max_threads=3 is less than max_workers=4"):
        WorkerPool(4, max_threads=3)
    WorkerPool(4, max_threads=4).shutdown()


@pytest.mark.parametrize(("processors", "workers"), [(None, 5), (2, 6), (28, 32), (100, 32)])
def test_by_default_there_are_four_workers_more_than_processors_and_at_most_32(
    processors: int | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threadhop._pool, "_processors", lambda: processors)
    assert WorkerPool().statistics().max_workers == workers


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


def test_jobs_that_are_put_and_submitted_share_one_queue() -> None:
    order: list[int] = []
    with WorkerPool(1) as pool:
        with busy(pool):
            for number in range(0, 100, 2):
                pool.put(Told(lambda number=number: order.append(number)))  # type: ignore[misc]
                pool.submit(order.append, number + 1)
    assert order == list(range(100))


@of_pool_and_view
def test_100_000_jobs_may_wait(of_view: bool) -> None:
    numbers = count()
    job = Told(lambda: next(numbers))
    with WorkerPool(1) as pool:
        executor = pool_or_view(pool, of_view)
        with busy(executor):
            for _ in range(100_000):
                executor.put(job)
    assert next(numbers) == 100_000
    assert not job.errors


def test_a_job_that_is_dropped_is_told_outside_of_the_lock() -> None:
    """Another thread may use the pool while a job is told."""
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
    assert [(job.runs, job.errors) for job in jobs] == [(0, [DROPPED])] * 3
    assert len(seen) == 3


def test_a_dropped_future_wakes_those_who_wait_for_several() -> None:
    """The standard library's pool lets ``wait()`` sleep on."""
    pool = WorkerPool(1)
    with busy(pool):
        future = pool.submit(int)
        pool.shutdown(wait=False, cancel_futures=True)
        assert wait([future], LIMIT).done == {future}
    pool.shutdown()


def test_a_cancelled_future_of_a_broken_pool_stays_cancelled(
    expect_loop_errors: list[logging.LogRecord],
) -> None:
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


def test_a_job_that_raises_costs_the_pool_no_worker(
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """A job must not raise. The pool logs it, and the worker goes on."""

    def fail() -> None:
        raise SystemExit

    with WorkerPool(1) as pool:
        thread = pool.submit(threading.current_thread).result(LIMIT)
        pool.put(Told(fail))
        assert pool.submit(threading.current_thread).result(LIMIT) is thread
    assert [record.getMessage() for record in expect_loop_errors] == ["Exception in worker"]


# statistics


def test_statistics_tell_what_the_threads_do() -> None:
    with WorkerPool(2, max_threads=3) as pool:
        assert pool.statistics() == Statistics(max_workers=2, busy=0, away=0, idle=0, queued=0)
        gates = [Gate() for _ in range(3)]
        for gate in gates:
            pool.submit(gate.stop_here)
        assert gates[0].reached.wait(LIMIT)
        assert gates[1].reached.wait(LIMIT)
        assert pool.statistics() == (2, 2, 0, 0, 1)
        gates[0].open()
        gates[1].open()
        assert gates[2].reached.wait(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 0, 1, 0))
        gates[2].open()
        wait_until(lambda: pool.statistics() == (2, 0, 0, 2, 0))


# idle threads


def test_the_newest_idle_thread_is_used_first() -> None:
    with WorkerPool(3) as pool:
        with busy(pool, 3):
            pass
        threads = set()
        for _ in range(30):
            wait_until(lambda: pool.statistics().idle == 3)
            threads.add(pool.submit(threading.get_ident).result(LIMIT))
        assert len(threads) == 1


def test_idle_threads_leave_and_others_start_when_they_are_needed() -> None:
    with WorkerPool(3, "mine", idle_timeout=0.01) as pool:
        for _ in range(5):
            with busy(pool, 3):
                assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1", "mine_2"}
            wait_until(lambda: not pool._threads)
            assert pool.statistics() == (3, 0, 0, 0, 0)


@pytest.mark.parametrize("idle_timeout", [None, math.inf])
def test_threads_without_an_idle_timeout_stay(idle_timeout: float | None) -> None:
    with WorkerPool(2, idle_timeout=idle_timeout) as pool, WorkerPool(2, idle_timeout=0) as other:
        with busy(pool, 2):
            threads = pool._threads
        with busy(other, 2):
            pass
        wait_until(lambda: not other._threads)
        with busy(pool, 2):
            assert pool._threads == threads


def test_with_an_idle_timeout_of_zero_a_thread_leaves_when_nothing_waits() -> None:
    with WorkerPool(2, idle_timeout=0) as pool:
        for _ in range(20):
            with busy(pool, 2):
                waiting = [pool.submit(int) for _ in range(5)]
            assert [future.result(LIMIT) for future in waiting] == [0] * 5
            wait_until(lambda: not pool._threads)
    with WorkerPool(1, idle_timeout=0) as one:
        thread = one.submit(threading.current_thread).result(LIMIT)
        wait_until(lambda: one.statistics().idle == 1)
        assert one.submit(threading.current_thread).result(LIMIT) is thread


def test_a_pool_of_one_keeps_its_thread_and_what_belongs_to_it() -> None:
    """Also when it has had nothing to do for much longer than others keep theirs."""
    with WorkerPool(1, idle_timeout=0.001) as one, WorkerPool(2, idle_timeout=0.001) as two:
        thread = one.submit(threading.current_thread).result(LIMIT)
        for _ in range(3):
            with busy(two):
                pass
            wait_until(lambda: not two._threads)
            assert one.submit(threading.current_thread).result(LIMIT) is thread


def test_a_new_thread_has_the_smallest_number_that_is_free() -> None:
    """No two threads share a name, whichever has left before."""
    with WorkerPool(2, "mine", idle_timeout=0.01) as pool:
        with busy(pool) as release_first:
            with busy(pool):
                assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
                release_first()
                wait_until(lambda: {thread.name for thread in pool._threads} == {"mine_1"})
                with busy(pool):
                    assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}


# away and back


def test_another_thread_starts_in_the_place_of_one_that_is_away() -> None:
    """Both for a job that waited for the place and for one that comes later."""
    with WorkerPool(2) as pool:
        travellers = [Traveller(pool), Traveller(pool)]
        queued = pool.submit(threading.get_ident)
        assert pool.statistics() == (2, 2, 0, 0, 1)
        travellers[0].go_away()
        assert queued.result(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 1, 1, 0))
        travellers[1].go_away()
        assert pool.submit(int).result(LIMIT) == 0
        for traveller in travellers:
            traveller.finish()


def test_one_that_comes_back_goes_on_at_once_and_no_job_begins_until_there_is_room() -> None:
    """1 A goes away, 2 B begins in its place, 3 A is back: two run, 4 B ends, 5 A ends, C runs."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool).go_away()
        with busy(pool):
            a.come_back()
            assert pool.statistics() == (1, 2, 0, 0, 0)
            c = pool.submit(int)
        wait_until(lambda: pool.statistics() == (1, 1, 0, 1, 1))
        assert not c.done()
        a.finish()
        assert c.result(LIMIT) == 0


def test_a_parked_worker_steps_back_for_one_that_comes_back() -> None:
    """Its place is taken: it does not take a job, and does again when the place is free."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool).go_away()
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
        seen = []
        for _ in range(2):
            a = Traveller(pool).go_away()
            seen.append(pool.submit(threading.current_thread).result(LIMIT))
            wait_until(lambda: pool.statistics().idle == 1)
            a.finish()
        assert seen[0] is seen[1]
        assert len(pool._threads) == 2


@pytest.mark.parametrize(
    ("workers", "max_threads", "threads"),
    [(1, 3, 3), (2, None, 16), (1, None, 1)],
    ids=["as told", "eight for each worker", "a pool of one"],
)
def test_there_are_never_more_threads_than_max_threads(
    workers: int, max_threads: int | None, threads: int
) -> None:
    with WorkerPool(workers, max_threads=max_threads) as pool:
        travellers = []
        for _ in range(threads):
            assert not pool.is_exhausted()
            travellers.append(Traveller(pool).go_away())
        assert pool.is_exhausted()
        job = pool.submit(int)
        assert pool.statistics() == (workers, 0, threads, 0, 1)
        assert len(pool._threads) == threads
        travellers[0].come_back()
        assert not pool.is_exhausted()
        for traveller in travellers:
            traveller.finish()
        assert job.result(LIMIT) == 0


def test_shutdown_waits_for_workers_that_are_away_and_for_those_in_reserve() -> None:
    with WorkerPool(1, max_threads=4) as pool:
        a = Traveller(pool).go_away()
        with busy(pool):
            a.come_back()
        wait_until(lambda: pool.statistics() == (1, 1, 0, 1, 0))
        threads = pool._threads
        pool.shutdown(wait=False)
        a.finish()
    assert not any(thread.is_alive() for thread in threads)


def test_shutdown_waits_for_a_thread_that_has_left_the_pool_and_not_quite_ended() -> None:
    """It closes its event loop last of all."""
    gate = Gate()

    def end_at_the_gate() -> None:
        loop: Any = ensure_thread_event_loop()
        close = loop.close

        def stop_and_close() -> None:
            gate.stop_here()
            close()

        loop.close = stop_and_close

    pool = WorkerPool(1)
    pool.submit(end_at_the_gate).result(LIMIT)
    pool.shutdown(wait=False)
    assert gate.reached.wait(LIMIT)
    wait_until(lambda: not pool._threads)
    closer = threading.Thread(target=pool.shutdown)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()
    gate.open()
    closer.join(LIMIT)
    assert not closer.is_alive()


def test_shutdown_waits_for_a_thread_that_starts_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 shutdown joins A, 2 A goes away, B starts in its place, 3 A ends, 4 shutdown joins B."""
    pool = WorkerPool(1, max_threads=2, idle_timeout=0.01)
    a, b = Traveller(pool), Gate()
    future = pool.submit(b.stop_here)
    join = threading.Thread.join

    def join_b(thread: threading.Thread) -> None:
        b.open()
        join(thread)

    def join_a(thread: threading.Thread) -> None:
        a.go_away()
        assert b.reached.wait(LIMIT)
        a.finish()
        join(thread)
        monkeypatch.setattr(threading.Thread, "join", join_b)

    monkeypatch.setattr(threading.Thread, "join", join_a)
    pool.shutdown()
    monkeypatch.undo()
    was_done = future.done()
    b.open()
    assert was_done


def test_workers_in_the_reserve_leave_although_a_job_waits_for_the_busy_one() -> None:
    """1 A and B are away and C works, 2 a job waits, 3 A and B come back and end.

    There is one place, and C has it. A and B have nothing to do, and leave when they were idle for
    long enough. They neither stay because of the job, nor do they run in circles.
    """
    with WorkerPool(1, max_threads=3, idle_timeout=0.02) as pool:
        travellers = [Traveller(pool).go_away() for _ in range(2)]
        with busy(pool):
            waiting = pool.submit(int)
            for traveller in travellers:
                traveller.finish()
            wait_until(lambda: len(pool._threads) == 1)
            assert pool.statistics() == (1, 1, 0, 0, 1)
        assert waiting.result(LIMIT) == 0


# threads that cannot start


@of_pool_and_view
def test_a_job_is_taken_back_when_no_thread_can_start(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WorkerPool(2) as pool:
        executor = pool_or_view(pool, of_view)
        job = Told()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            for call in (lambda: executor.put(job), lambda: executor.submit(int)):
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    call()
        assert pool.statistics() == (2, 0, 0, 0, 0)
        assert executor.submit(int).result(LIMIT) == 0
        assert (job.runs, job.errors) == (0, [])


@of_pool_and_view
def test_a_job_fails_if_only_a_body_is_there_that_is_away_and_no_thread_can_start(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body may wait for that very job."""
    with WorkerPool(1, max_threads=2) as pool:
        executor = pool_or_view(pool, of_view)
        traveller, job = Traveller(executor), Told()
        executor.put(job)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            traveller.go_away()
            (error,) = job.wait().errors
        assert "can't start new thread" in str(error)
        traveller.finish()
        assert executor.submit(int).result(LIMIT) == 0


@pytest.mark.parametrize(
    ("error", "of_view"),
    [(RuntimeError, False), (RuntimeError, True), (KeyboardInterrupt, False)],
    ids=["pool", "view", "Ctrl+C"],
)
def test_a_job_that_relied_on_a_start_that_failed_is_told_or_done_after_ctrl_c(
    error: type[BaseException], of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 put starts a thread, 2 a signal handler puts a second job, 3 the start fails."""
    first, second = Told(), Told()
    with WorkerPool(1) as pool:
        executor = pool_or_view(pool, of_view)

        def start(thread: threading.Thread) -> None:
            monkeypatch.undo()
            executor.put(second)
            raise error

        monkeypatch.setattr(threading.Thread, "start", start)
        with pytest.raises(error) as raised:
            executor.put(first)
        errors = second.wait().errors
        if error is RuntimeError:
            assert [type(told) for told in errors] == [RuntimeError]
            assert errors[0] is not raised.value
            assert pool.statistics() == (1, 0, 0, 0, 0)
        else:
            assert (second.runs, errors) == (1, [])
    assert (first.runs, first.errors) == (0, [])


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


def test_the_jobs_that_wait_fail_when_the_last_worker_goes_away_and_no_thread_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The worker that is away may wait for one of them."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        job = pool.submit(int)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            a.go_away()
        with pytest.raises(RuntimeError, match="start"):
            job.result(LIMIT)
        a.finish()
        assert pool.submit(int).result(LIMIT) == 0


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


def test_a_thread_whose_start_was_interrupted_does_not_count_and_takes_no_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Although it begins later."""
    start = threading.Thread.start
    late: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    job = Told()
    with WorkerPool(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", interrupted)
            with pytest.raises(KeyboardInterrupt):
                pool.put(job)
        start(late[0])
        late[0].join(LIMIT)
        assert pool.statistics() == (1, 0, 0, 0, 0)
        with busy(pool):
            assert len(pool._threads) == 1
            queued = pool.submit(int)
            assert not queued.done()
        queued.result(LIMIT)
    assert (job.runs, job.errors) == (0, [])


def test_a_put_raises_when_all_threads_are_away_and_none_can_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are away may wait for that very job. The next put tries again."""
    with WorkerPool(1, max_threads=2) as pool:
        a = Traveller(pool)
        a.go_away()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            with pytest.raises(RuntimeError, match="start"):
                pool.submit(int)
        assert pool.submit(int).result(LIMIT) == 0
        a.finish()


def test_a_fresh_thread_begins_its_job_although_the_one_that_started_it_goes_on() -> None:
    """It does not wait for the lock that its starter has."""
    with WorkerPool(1) as pool, pool._workers._lock:
        assert pool.submit(int).result(LIMIT) == 0


def test_a_broken_pool_that_is_shut_down_says_so(expect_loop_errors: list[Any]) -> None:
    """As ``ThreadPoolExecutor`` does, under its private name."""
    pool = WorkerPool(1, initializer=cannot_start, initargs=(None,))
    with pytest.raises(BrokenThreadPool):
        pool.submit(int).result(LIMIT)
    assert not pool._shutdown
    pool.shutdown()
    assert pool._shutdown
    assert pool._broken
