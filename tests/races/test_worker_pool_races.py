"""Two things happen at the same moment in a ``WorkerPool``, forced; and a storm of all of it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from helpers.pool_jobs import (
    LyingDeque,
    Told,
    Traveller,
    before,
    lie_about_idle,
    lie_about_waiting,
)
from helpers.steps import LIMIT, Gate, busy, wait_until

from threadhop import PoolBusy, WorkerPool
from threadhop._errors import DROPPED

#: An idle timeout.
SOON = 0.01


# put and a worker that parks


def test_a_job_that_comes_just_before_a_worker_parks_is_done() -> None:
    """1 the worker finds nothing, 2 put finds nobody parked and no free place, 3 it parks."""
    with WorkerPool(1) as pool:
        ready = lie_about_idle(pool)
        job = Told()
        gate = Gate()
        first = pool.submit(gate.stop_here)
        ready.before_append = lambda: pool.put(job)
        gate.open()
        assert job.wait().runs == 1
        first.result(LIMIT)


def test_a_job_whose_worker_is_woken_by_another_one_gets_a_worker_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 put sees a parked worker, 2 another job wakes it, 3 put finds nobody to wake."""
    with WorkerPool(2) as pool:
        pool.submit(int).result(LIMIT)
        wait_until(lambda: pool.statistics().idle == 1)
        meeting = threading.Barrier(2)
        futures: list[Any] = []

        def put() -> None:
            futures.append(pool.submit(meeting.wait, LIMIT))

        before(monkeypatch, pool._workers, "_wake_idle", put)
        put()
        for future in futures:
            future.result(LIMIT)


# put and a worker that has been idle for long


@pytest.mark.parametrize("idle_timeout", [0, SOON])
def test_a_worker_that_is_woken_just_when_it_gives_up_does_the_job(
    idle_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 its time is over, 2 put wakes it, 3 it looks whether it is still parked."""
    gate, job = Gate(), Told()
    with WorkerPool(1, max_threads=2, idle_timeout=idle_timeout) as pool:
        before(monkeypatch, pool._workers, "_cancel_park", gate.stop_here)
        pool.put(Told())
        assert gate.reached.wait(LIMIT)
        assert len(pool._workers._idle) == 1
        pool.put(job)
        assert len(pool._workers._idle) == 0
        gate.open()
        assert job.wait().runs == 1


@pytest.mark.parametrize("idle_timeout", [0, SOON])
def test_a_worker_that_is_about_to_leave_stays_for_a_job_that_came(
    idle_timeout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 it was idle for too long, 2 put finds nobody idle and no permit free, 3 it looks."""
    with WorkerPool(1, max_threads=2, idle_timeout=idle_timeout) as pool:
        found: list[Any] = []

        def put() -> None:
            found.append(threading.current_thread())
            found.append(pool.submit(threading.current_thread))

        before(monkeypatch, pool._workers, "_leave", put)
        pool.submit(int).result(LIMIT)
        wait_until(lambda: len(found) == 2)
        assert found[1].result(LIMIT) is found[0]


# shutdown and put


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize(
    ("comes_to", "closes"), [("pool", "pool"), ("view", "pool"), ("view", "view")]
)
def test_a_job_that_comes_to_what_has_just_been_shut_down_is_refused(
    comes_to: str, closes: str, is_busy: bool
) -> None:
    """1 put is allowed, 2 a shutdown drops what waits, or the last worker leaves, 3 the job."""
    pool = WorkerPool(1)
    executors: dict[str, Any] = {"pool": pool, "view": pool.limited(1)}
    executor = executors[comes_to]
    if comes_to == "pool":
        waiting = lie_about_waiting(pool)
    else:
        waiting = executor._limiter._waiting = LyingDeque()
    pool.submit(int).result(LIMIT)
    job = Told()
    with busy(executor) if is_busy else nullcontext():
        waiting.before_append = partial(
            executors[closes].shutdown, wait=not is_busy, cancel_futures=is_busy
        )
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            executor.put(job)
    pool.shutdown()
    assert (job.runs, job.errors) == (0, [])
    assert pool.statistics() == (1, 0, 0, 0, 0)


def test_a_job_that_is_dropped_while_it_is_put_is_told_once() -> None:
    """1 the job is there, 2 the pool is shut down and drops it, 3 put looks once more."""
    pool = WorkerPool(1)
    ready = lie_about_idle(pool)
    with busy(pool):
        ready.before_look = lambda: pool.shutdown(wait=False, cancel_futures=True)
        job = Told()
        pool.put(job)
    pool.shutdown()
    assert (job.runs, job.errors) == (0, [DROPPED])


def test_a_worker_that_parks_while_the_pool_is_shut_down_leaves() -> None:
    """1 it finds nothing, 2 the pool wakes all that are parked, 3 it parks."""
    pool = WorkerPool(1)
    ready = lie_about_idle(pool)
    gate = Gate()
    pool.submit(gate.stop_here)
    ready.before_append = lambda: pool.shutdown(wait=False)
    gate.open()
    pool.shutdown()
    assert not pool._threads


# away, back and put


@pytest.mark.parametrize("moment", ["before the job is there", "before put looks who is parked"])
def test_a_worker_that_goes_away_while_a_job_comes_leaves_its_place_to_it(moment: str) -> None:
    """1 put is allowed, 2 the worker goes away, before or after the job is there, 3 put looks."""
    with WorkerPool(1, max_threads=2) as pool:
        waiting, ready = lie_about_waiting(pool), lie_about_idle(pool)
        traveller = Traveller(pool)
        if moment == "before the job is there":
            waiting.before_append = traveller.go_away
        else:
            ready.before_look = traveller.go_away
        job = Told()
        pool.put(job)
        assert job.wait().runs == 1
        traveller.finish()
        assert len(pool._threads) == 2


def test_a_worker_keeps_its_place_when_another_one_has_stepped_back_just_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 A is back, B ends: too many, 2 B wants to step back, 3 A ends and does, 4 B goes on."""
    with WorkerPool(1, max_threads=2) as pool:
        a, b, steps_back = Traveller(pool).go_away(), Gate(), Gate()
        pool.submit(b.stop_here)
        assert b.reached.wait(LIMIT)
        a.come_back()
        waiting = pool.submit(int)
        before(monkeypatch, pool._workers, "_yield_permit", steps_back.stop_here)
        b.open()
        assert steps_back.reached.wait(LIMIT)
        a.finish()
        wait_until(lambda: len(pool._workers._spare) == 1)
        steps_back.open()
        assert waiting.result(LIMIT) == 0


# the turns of a view


def test_a_job_that_comes_just_before_a_turn_ends_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 the worker finds no job in the view, 2 put finds no turn free, 3 the turn ends."""
    with WorkerPool(1) as pool:
        view, job = pool.limited(1), Told()
        before(monkeypatch, view._limiter, "end_unless_needed", lambda: view.put(job))
        view.submit(int).result(LIMIT)
        assert job.wait().runs == 1


def test_a_job_that_comes_while_a_turn_ends_is_done() -> None:
    """Under the lock, which ``put`` does not take if it finds no room."""

    class LyingSet(set[Any]):
        def discard(self, turn: Any, /) -> None:
            view._limiter._active = set(self)
            view.put(job)
            view._limiter._active.discard(turn)

    with WorkerPool(1) as pool:
        view = pool.limited(1)
        job = Told()
        view._limiter._active = LyingSet()
        view.submit(int).result(LIMIT)
        assert job.wait().runs == 1


def test_a_job_that_relied_on_a_turn_which_the_closed_pool_refuses_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 A takes the one turn, 2 B finds none free, 3 the pool is shut down, 4 it refuses A's."""
    pool = WorkerPool(1)
    view, a, b = pool.limited(1), Told(), Told()

    def put_and_close() -> None:
        view.put(b)
        pool.shutdown(wait=False)

    before(monkeypatch, pool._workers, "put", put_and_close)
    with pytest.raises(RuntimeError, match="shutdown"):
        view.put(a)
    assert b.wait().runs == 1
    assert (a.runs, a.errors, b.errors) == (0, [], [])
    pool.shutdown()


def test_shutdown_of_a_view_waits_for_a_job_that_came_just_before_a_turn_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker finds no job, 2 put finds no turn free, 3 ``shutdown``, 4 the turn ends."""
    gate, ends = Gate(), Gate()
    with WorkerPool(1) as pool:
        view = pool.limited(1)
        before(monkeypatch, view._limiter, "end_unless_needed", ends.stop_here)
        view.submit(int).result(LIMIT)
        assert ends.reached.wait(LIMIT)
        future = view.submit(gate.stop_here)
        view.shutdown(wait=False)
        ends.open()
        assert gate.reached.wait(LIMIT)
        assert not view._limiter._over.is_set()
        gate.open()
        view.shutdown()
        assert future.done()


def test_a_job_that_comes_to_a_view_while_that_is_shut_down_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 put is allowed and finds room, 2 ``shutdown`` finds nothing to wait for, 3 the turn."""
    with WorkerPool(1) as pool:
        view, job = pool.limited(1), Told()
        before(monkeypatch, view._limiter, "_take_turn", view.shutdown)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            view.put(job)
    assert (job.runs, job.errors) == (0, [])


# signal handlers and finalizers


def test_a_signal_handler_may_shut_the_pool_down_while_its_thread_puts_a_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the middle of the start of a thread, under the lock."""
    with WorkerPool(1) as pool:
        shutdown = partial(pool.shutdown, wait=False, cancel_futures=True)
        before(monkeypatch, threading.Thread, "start", shutdown)
        job = Told()
        pool.put(job)
        assert (job.runs, job.errors) == (0, [DROPPED])


def test_a_job_that_a_finalizer_puts_while_a_worker_leaves_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All threads that there may be seem to be there, and the other one is away."""
    with WorkerPool(2, max_threads=2, idle_timeout=0.01) as pool:
        traveller, job = Traveller(pool).go_away(), Told()
        before(monkeypatch, pool._workers, "_unregister", lambda: pool.put(job))
        pool.submit(int).result(LIMIT)
        assert job.wait().runs == 1
        traveller.finish()


# all of it


class Storm:
    """Threads put, submit, go away, cancel and shut down, with counts that must come out even."""

    def __init__(
        self, seed: int, jobs: int, idle_timeout: float, max_queued: int | None = None
    ) -> None:
        self.random = random.Random(seed)
        self.jobs = jobs
        self.max_queued = max_queued
        self.may_wait = 1 if max_queued is None else max_queued
        self.places = self.random.randint(1, 4)
        self.pool = WorkerPool(
            self.places,
            max_threads=self.places + self.random.randint(0, 4),
            max_queued=max_queued,
            idle_timeout=idle_timeout,
        )
        self.limits = [self.random.randint(1, 3) for _ in range(2)]
        self.views = [self.pool.limited(limit, max_queued=max_queued) for limit in self.limits]
        self.lock = threading.Lock()
        self.taken: list[Told] = []
        self.refused = 0
        self.begun = [0, 0]
        self.over: list[str] = []

    def job(self, random: random.Random, which: int) -> Callable[[], None]:
        executor = self.pool if which < 0 else self.views[which]
        goes_away = random.random() < 0.3

        def body() -> None:
            if which >= 0:
                with self.lock:
                    self.begun[which] += 1
                    if self.begun[which] > self.limits[which]:
                        self.over.append(f"view {which}: {self.begun[which]}")
            if len(self.pool._threads) > self.pool._workers.max_threads:
                self.over.append("threads")
            # A view's worker that is back may be one too many, so only the others are counted.
            if which >= 0:
                with self.lock:
                    self.begun[which] -= 1
            if goes_away:
                executor.away(body)
                executor.back(body)

        return body

    def put_many(self, seed: int) -> None:
        mine = random.Random(seed)
        for _ in range(self.jobs):
            which = mine.choice([-1, -1, 0, 1])
            job = Told(self.job(mine, which))
            try:
                (self.pool if which < 0 else self.views[which]).put(job)
            except RuntimeError:
                with self.lock:
                    self.refused += 1
                assert (job.runs, job.errors) == (0, [])
            else:
                with self.lock:
                    self.taken.append(job)

    def run(self, *, drops: bool) -> None:
        threads = [
            threading.Thread(target=self.put_many, args=(self.random.random(),)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        if drops:
            wait_until(lambda: len(self.taken) + self.refused > self.jobs)
            self.pool.shutdown(wait=False, cancel_futures=True)
        for thread in threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        for job in self.taken:
            job.wait()
        if not drops:
            # Every place is there still, for the pool and for its views.
            wait_until(lambda: self.pool.statistics().busy == 0)
            for executor, workers in [
                (self.pool, self.places),
                *((v, min(n, self.places)) for v, n in zip(self.views, self.limits, strict=True)),
            ]:
                with busy(executor, workers):
                    extras = [executor.submit(int) for _ in range(self.may_wait)]
                    assert not any(extra.done() for extra in extras)
                    if self.max_queued is not None:
                        with pytest.raises(PoolBusy):
                            executor.submit(int)
                for extra in extras:
                    extra.result(LIMIT)
                wait_until(lambda: self.pool.statistics().busy == 0)
        self.pool.shutdown()
        for view in self.views:
            view.shutdown()
        assert len(self.taken) + self.refused == 4 * self.jobs
        assert all(job.runs + len(job.errors) == 1 for job in self.taken)
        assert not self.over
        assert self.pool.statistics() == (self.places, 0, 0, 0, 0)
        if not drops:
            assert all(job.runs == 1 for job in self.taken)
        if self.max_queued is not None:
            for limiter in (self.pool._workers, *(view._limiter for view in self.views)):
                counts: Any = limiter.counts  # type: ignore[union-attr]
                assert not counts.entries
                assert not counts.begun


@pytest.mark.parametrize("drops", [False, True], ids=["shutdown", "cancel_futures"])
@pytest.mark.parametrize("max_queued", [None, 0, 3])
@pytest.mark.parametrize("seed", range(3))
def test_no_job_is_lost_or_done_twice_in_a_storm(
    seed: int, max_queued: int | None, drops: bool
) -> None:
    Storm(seed, 300, 0.001, max_queued).run(drops=drops)


@pytest.mark.storm
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(40))
def test_no_job_is_lost_or_done_twice_in_a_long_storm(seed: int) -> None:
    Storm(seed, 3000, 0.0005, [None, 0, 2][seed % 3]).run(drops=bool(seed % 2))
