"""``WorkerPool`` beside the contract of the standard library's pool."""

from __future__ import annotations

import inspect
import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from itertools import count
from typing import Any

import pytest
from helpers.pool_jobs import Told, Traveller, before, cannot_start
from helpers.steps import LIMIT, Gate, busy, wait_until

import threadhop._pool
from threadhop import Statistics, WorkerPool

of_pool_and_view = pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])


def pool_or_view(pool: WorkerPool, of_view: bool) -> Any:
    return pool.limited(1) if of_view else pool


# arguments

#: How each number is given, and the least that it may be.
NUMBERS: dict[str, tuple[Callable[[Any], object], int]] = {
    "max_workers": (WorkerPool, 1),
    "max_threads": (lambda number: WorkerPool(1, max_threads=number), 1),
    "limited": (lambda number: WorkerPool(1).limited(number), 1),
    "max_queued": (lambda number: WorkerPool(1, max_queued=number), 0),
    "max_queued of a view": (lambda number: WorkerPool(1).limited(1, max_queued=number), 0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_an_int_and_not_too_small(name: str) -> None:
    give, least = NUMBERS[name]
    name = name.partition(" ")[0]
    for fine in (least, 7):
        give(fine)
    for wrong in (True, False, "4", 2.0):
        with pytest.raises(TypeError, match=f"{name} must be an int, not {type(wrong).__name__}"):
            give(wrong)
    text = "greater than 0" if least else "at least 0, not -1"
    for small in range(-1, least):
        with pytest.raises(ValueError, match=f"{name} must be {text}"):
            give(small)


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


def test_other_arguments_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="max_threads=3 is less than max_workers=4"):
        WorkerPool(4, max_threads=3)
    WorkerPool(4, max_threads=4).shutdown()
    with pytest.raises(TypeError, match="initializer must be a callable"):
        WorkerPool(initializer="func")  # type: ignore[arg-type]


def test_what_is_new_may_be_named_only_and_comes_after_the_standard_arguments() -> None:
    mine = inspect.signature(WorkerPool).parameters
    standard = inspect.signature(ThreadPoolExecutor).parameters
    assert list(mine)[: len(standard) - ("ctxkwargs" in standard)] == [*standard][:4]
    more = {name: mine[name] for name in list(mine)[4:]}
    assert [*more] == ["max_threads", "max_queued", "idle_timeout"]
    assert {parameter.kind for parameter in more.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert more["idle_timeout"].default == 30.0


def test_by_default_there_are_four_workers_more_than_processors_and_at_most_32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for processors, workers in [(None, 5), (2, 6), (28, 32), (100, 32)]:
        monkeypatch.setattr(threadhop._pool, "_processors", lambda found=processors: found)
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


@of_pool_and_view
def test_100_000_jobs_may_wait_and_those_put_and_submitted_share_one_queue(of_view: bool) -> None:
    order: list[int] = []
    numbers = count(1000)
    job = Told(lambda: order.append(next(numbers)))
    with WorkerPool(1) as pool:
        executor = pool_or_view(pool, of_view)
        with busy(executor):
            for number in range(0, 1000, 2):
                executor.put(Told(lambda number=number: order.append(number)))  # type: ignore[misc]
                executor.submit(order.append, number + 1)
            for _ in range(100_000):
                executor.put(job)
    assert order == list(range(101_000))
    assert not job.errors


def test_a_broken_pool_fails_what_waits_there_and_in_its_views(
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """A cancelled future stays so. (The standard library's pool forgets what comes after it.)"""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("oops")

    pool = WorkerPool(1, initializer=fail)
    view = pool.limited(1)
    futures = [executor.submit(int) for executor in (pool, view) for _ in range(3)]
    futures[0].cancel()
    gate.open()
    errors = [future.exception(LIMIT) for future in futures[1:]]
    assert {type(error) for error in errors} == {BrokenThreadPool}
    assert len({id(error) for error in errors}) == 5
    assert futures[0].cancelled()
    assert not pool._shutdown
    for shutdown in (view.shutdown, pool.shutdown):
        for executor in (pool, view):
            with pytest.raises(BrokenThreadPool):
                executor.submit(int)
        shutdown()
    assert pool._shutdown
    assert pool._broken


@of_pool_and_view
def test_a_job_that_raises_costs_no_worker_and_no_turn(
    of_view: bool, expect_loop_errors: list[logging.LogRecord]
) -> None:
    """A job must not raise. (``Future`` lets a BaseException of its callbacks through.) It is
    logged, and the worker goes on."""

    def fail() -> None:
        raise SystemExit

    with WorkerPool(1) as pool:
        executor = pool_or_view(pool, of_view)
        thread = executor.submit(threading.current_thread).result(LIMIT)
        with busy(executor):
            executor.put(Told(fail))
            executor.submit(fail).add_done_callback(lambda future: future.result())
        assert executor.submit(threading.current_thread).result(LIMIT) is thread
    assert [record.getMessage() for record in expect_loop_errors] == ["Exception in worker"] * 2


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


def test_idle_threads_leave_and_a_new_one_has_the_smallest_number_that_is_free() -> None:
    """No two threads share a name, whichever has left before."""
    with WorkerPool(2, "mine", idle_timeout=0.01) as pool:
        for _ in range(2):
            with busy(pool) as release_first:
                with busy(pool):
                    assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
                    release_first()
                    wait_until(lambda: {thread.name for thread in pool._threads} == {"mine_1"})
                    with busy(pool):
                        assert {thread.name for thread in pool._threads} == {"mine_0", "mine_1"}
            wait_until(lambda: not pool._threads)
            assert pool.statistics() == (2, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("workers", "idle_timeout"), [(2, None), (2, math.inf), (1, 0.001), (1, 0)], ids=str
)
def test_threads_without_an_idle_timeout_and_that_of_a_pool_of_one_stay(
    workers: int, idle_timeout: float | None
) -> None:
    """While those of another pool leave as soon as nothing waits."""
    with WorkerPool(workers, idle_timeout=idle_timeout) as pool:
        with busy(pool, workers):
            threads = pool._threads
        with WorkerPool(2, idle_timeout=0) as other:
            for _ in range(3):
                with busy(other, 2):
                    waiting = [other.submit(int) for _ in range(5)]
                assert [future.result(LIMIT) for future in waiting] == [0] * 5
                wait_until(lambda: not other._threads)
        with busy(pool, workers):
            assert pool._threads == threads


# away and back


def test_another_thread_starts_in_the_place_of_one_that_is_away() -> None:
    """Both for a job that waited for the place and for one that comes later."""
    with WorkerPool(2) as pool:
        travellers = [Traveller(pool), Traveller(pool)]
        queued = pool.submit(threading.get_ident)
        assert pool.statistics() == Statistics(max_workers=2, busy=2, away=0, idle=0, queued=1)
        travellers[0].go_away()
        assert queued.result(LIMIT)
        wait_until(lambda: pool.statistics() == (2, 1, 1, 1, 0))
        travellers[1].go_away()
        assert pool.submit(int).result(LIMIT) == 0
        for traveller in travellers:
            traveller.finish()


@of_pool_and_view
def test_one_that_comes_back_goes_on_at_once_and_no_job_begins_until_there_is_room(
    of_view: bool,
) -> None:
    """1 A goes away, 2 B begins in its place, 3 A is back: two run, 4 B ends, 5 A ends, C runs."""
    with WorkerPool(2) if of_view else WorkerPool(1, max_threads=2) as pool:
        executor = pool_or_view(pool, of_view)
        a = Traveller(executor).go_away()
        with busy(executor):
            a.come_back()
            assert pool.statistics()[1:] == (2, 0, 0, 0)
            c = executor.submit(int)
        wait_until(lambda: pool.statistics()[1:] == (1, 0, 1, 0 if of_view else 1))
        assert not c.done()
        a.finish()
        assert c.result(LIMIT) == 0


def test_a_parked_worker_steps_back_for_one_that_comes_back_and_is_used_again() -> None:
    """1 A goes away, 2 B works in its place and parks, 3 A is back: B takes no job, 4 A ends."""
    with WorkerPool(1, max_threads=9) as pool:
        seen = []
        for _ in range(2):
            a = Traveller(pool).go_away()
            seen.append(pool.submit(threading.current_thread).result(LIMIT))
            wait_until(lambda: pool.statistics().idle == 1)
            a.come_back()
            c = pool.submit(int)
            assert pool.statistics() == (1, 1, 0, 1, 1)
            assert not c.done()
            a.finish()
            assert c.result(LIMIT) == 0
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
        view = pool.limited(5)
        travellers = []
        for number in range(threads):
            assert not pool.is_exhausted()
            assert not view.is_exhausted()
            travellers.append(Traveller(view if number % 2 else pool).go_away())
        assert pool.is_exhausted()
        assert view.is_exhausted()
        job = pool.submit(int)
        assert pool.statistics() == (workers, 0, threads, 0, 1)
        assert len(pool._threads) == threads
        travellers[0].come_back()
        assert not pool.is_exhausted()
        for traveller in travellers:
            traveller.finish()
        assert job.result(LIMIT) == 0


def test_shutdown_waits_for_a_thread_that_has_left_the_pool_and_not_quite_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()
    pool = WorkerPool(1)
    before(monkeypatch, pool._workers, "_see_to_waiting", gate.stop_here)
    pool.submit(int).result(LIMIT)
    pool.shutdown(wait=False)
    assert gate.reached.wait(LIMIT)
    assert not pool._threads
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

    def end_a() -> None:
        a.go_away()
        assert b.reached.wait(LIMIT)
        a.finish()
        before(monkeypatch, threading.Thread, "join", b.open)

    before(monkeypatch, threading.Thread, "join", end_a)
    pool.shutdown()
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
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
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


@of_pool_and_view
def test_the_jobs_that_wait_fail_when_the_last_worker_goes_away_and_no_thread_can_start(
    of_view: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that is away may wait for one of them, or for one that comes later."""
    with WorkerPool(1, max_threads=2) as pool:
        executor = pool_or_view(pool, of_view)
        traveller, job = Traveller(executor), Told()
        executor.put(job)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            traveller.go_away()
            (error,) = job.wait().errors
            with pytest.raises(RuntimeError, match="can't start new thread"):
                executor.submit(int)
        assert "can't start new thread" in str(error)
        assert executor.submit(int).result(LIMIT) == 0
        traveller.finish()
        assert executor.submit(int).result(LIMIT) == 0


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


def test_a_fresh_thread_begins_its_job_although_the_one_that_started_it_goes_on() -> None:
    """It does not wait for the lock that its starter has."""
    with WorkerPool(1) as pool, pool._workers._lock:
        assert pool.submit(int).result(LIMIT) == 0
