"""What another thread raises in a worker, at any moment at which that goes away or comes back.

It comes out in the body, or in a log, once; the task and the worker find each other, and the
executor has all its workers afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from helpers.garbage import no_collector
from helpers.interruptions import Interruption, interrupt
from helpers.pool_jobs import Told, Traveller, cannot_start
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import (
    WorkerPool,
    _away,
    _functions,
    eventloop,
    exec_in_eventloop,
    iterate_in_executor,
    threadpool,
)
from threadhop._pool import _futures, _limits, _permits, _threads, _view_limiter, _work_item
from threadhop._pool._thread import WorkerThread

MODULES = (_away, _functions, _futures, _limits, _permits, _threads, _view_limiter)


class StrayError(BaseException):
    pass


def stray() -> None:
    raise StrayError


def has_left(executor: Any, interruption: Interruption) -> bool:
    """A worker of *executor* is away, or was interrupted before that."""
    owner = getattr(executor, "_pool", executor)
    return interruption.happened or bool(_away.all_away_of(owner))


async def loop_part(executor: Executor, interruption: Interruption) -> None:
    """Meanwhile its pool has as many other workers as it may; a stock one has one less."""
    workers = 1 if type(executor) is ThreadPoolExecutor else 2
    barrier = threading.Barrier(workers, timeout=LIMIT)
    async with threadpool(executor):
        with interruption:
            async with eventloop():
                jobs = [executor.submit(barrier.wait) for _ in range(workers)]
                await asyncio.gather(*map(asyncio.wrap_future, jobs))


async def call(executor: Executor, interruption: Interruption) -> None:
    async with threadpool(executor):
        with interruption:
            exec_in_eventloop(asyncio.sleep, 0)


async def own_future(executor: Executor, interruption: Interruption) -> None:
    if type(executor) is ThreadPoolExecutor:
        return  # There it only waits.
    async with threadpool(executor):
        with interruption:
            executor.submit(wait_until, lambda: has_left(executor, interruption)).result(LIMIT)


async def iterator(executor: Executor, interruption: Interruption) -> None:
    def source() -> Iterator[int]:
        with interruption:
            yield from range(1, 4)

    async with iterate_in_executor(executor, source, buffersize=1) as items:
        async for item in items:
            if item == 1:
                await until(lambda: has_left(executor, interruption))


KINDS = ["pool", "view", "counting pool", "counting view"]


def made(kind: str, workers: int, **options: Any) -> tuple[Any, Any]:
    """A pool, and what is to be used: the pool, or a view of it."""
    if kind == "stock":
        pool: Any = ThreadPoolExecutor(workers)
    else:
        pool = WorkerPool(workers, max_queued=9 if "counting" in kind else None, **options)
    return pool, pool.limited(workers) if "view" in kind else pool


def sweep(at: Callable[[int], Interruption], *, begin: int = 0, least: int = 1) -> None:
    """Call *at* with each moment there is; at *least* so many."""
    with no_collector():  # What is raised in a finalizer ends there.
        for moment in count(begin):
            if not at(moment).happened:
                break
    assert moment > least, "nothing was interrupted"


class Kept:
    """An executor of two workers, and whether it has them."""

    def __init__(self, kind: str) -> None:
        self.pool, self.executor = made(kind, 2)
        self._meet()

    def _meet(self) -> None:
        barrier = threading.Barrier(2, timeout=LIMIT)
        for future in [self.executor.submit(barrier.wait) for _ in range(2)]:
            future.result(LIMIT)

    def assert_is_whole(self) -> None:
        self._meet()
        wait_until(lambda: not _away.all_away_of(self.pool))
        if isinstance(self.pool, WorkerPool):
            threads = self.pool._workers
            # Each worker is counted once, or there would be one too many, or one too few.
            wait_until(lambda: len(threads._idle) + len(threads._spare) == len(threads._threads))
            assert len(threads._idle) == min(2, len(threads._threads))
        self.pool.shutdown()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", [loop_part, call, own_future, iterator])
@pytest.mark.parametrize("kind", ["stock", *KINDS])
def test_an_exception_from_outside_as_a_worker_goes_away_loses_nobody(
    kind: str, way: Callable[[Executor, Interruption], Any]
) -> None:
    async def main(interruption: Interruption) -> None:
        kept = Kept(kind)
        task = asyncio.ensure_future(way(kept.executor, interruption))
        done, _ = await asyncio.wait({task}, timeout=LIMIT)
        assert done, f"lost: {interruption.where}"
        with contextlib.suppress(StrayError):
            task.result()
        kept.assert_is_whole()

    def at(moment: int) -> Interruption:
        interruption = Interruption(moment, stray, *MODULES, in_loops=False)
        asyncio.run(main(interruption))
        return interruption

    sweep(at, least=-1 if (kind, way) == ("stock", own_future) else 1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("idle_timeout", [0, None], ids=["leaves", "stays"])
def test_an_exception_from_outside_between_two_jobs_costs_no_worker_and_no_job(
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: object,
    kind: str,
    idle_timeout: float | None,
) -> None:
    work = _threads.Threads._work

    def at(moment: int) -> Interruption:
        interruption = Interruption(moment, stray, *MODULES, in_loops=False)
        first = iter([interruption])

        def interrupted(threads: Any) -> None:
            with next(first, contextlib.nullcontext()):
                work(threads)

        monkeypatch.setattr(_threads.Threads, "_work", interrupted)
        pool, executor = made(kind, 1, max_threads=2, idle_timeout=idle_timeout)
        everyone: list[Told] = []
        for jobs in (1, 2, 1):
            told = [Told() for _ in range(jobs)]
            for job in told:
                executor.put(job)
            for job in told:
                assert job.ended.wait(LIMIT), f"lost: {interruption.where}"
            everyone += told
        assert all(job.runs and not job.errors for job in everyone), interruption.where
        with contextlib.suppress(StrayError):  # It may come so late.
            executor.submit(int).result(LIMIT)
        wait_until(lambda: len(pool._workers._threads) <= 1)
        executor.shutdown()
        pool.shutdown()
        return interruption

    # (The very first one, as all before it, is Python's: the thread has not begun with its work.)
    sweep(at, begin=1, least=10)


@pytest.mark.usefixtures("expect_loop_errors")
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_from_outside_leaves_no_future_pending(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """From the end of one call to the end of the next one, on the same worker."""

    def at(moment: int) -> Interruption:
        interruption = Interruption(moment, stray, *MODULES, _work_item, in_loops=False)
        pool, executor = made(kind, 1)
        with pool:
            with busy(executor):
                calls = (interruption.__enter__, interruption.__exit__, int)
                futures = [executor.submit(func) for func in calls]
            for future in futures:
                error = future.exception(LIMIT)
                assert error is None or isinstance(error, StrayError), interruption.where
        return interruption

    sweep(at)
    # A call that has ended is not begun again.
    assert "in unexpected state" not in caplog.text


@pytest.mark.usefixtures("expect_loop_errors")
def test_a_worker_that_is_interrupted_as_it_leaves_wakes_the_spare(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They had to stay while there were others; the pool is shut down."""
    pool = WorkerPool(1, max_threads=2)
    threads, traveller = pool._workers, Traveller(pool).go_away()
    pool.submit(int).result(LIMIT)
    traveller.come_back()
    wait_until(lambda: threads._spare)

    def interrupted() -> None:
        monkeypatch.undo()
        threads._threads.pop(threading.current_thread())
        raise StrayError

    monkeypatch.setattr(threads, "_unregister", interrupted)
    pool.shutdown(wait=False)
    traveller.finish()
    wait_until(lambda: not threads._threads)
    pool.shutdown()


@pytest.mark.usefixtures("expect_loop_errors")
@pytest.mark.parametrize("step", ["set_running_or_notify_cancel", "set_result", "set_exception"])
def test_a_call_that_is_interrupted_as_its_future_is_told_something_fails_with_that(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """When it has begun to run; before it has the outcome."""
    with WorkerPool(1) as pool:
        calls: list[int] = []
        with busy(pool):
            future = pool.submit(lambda: calls.append(1 // (step != "set_exception")))
            begin = future.set_running_or_notify_cancel

            def interrupted(*outcome: object) -> None:
                if outcome:
                    monkeypatch.undo()
                else:
                    begin()
                raise StrayError

            monkeypatch.setattr(future, step, interrupted)
        assert isinstance(future.exception(LIMIT), StrayError)
        assert len(calls) == (step == "set_result")


@pytest.mark.usefixtures("expect_loop_errors")
def test_a_job_that_came_before_a_worker_was_interrupted_as_it_leaves_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 it has found no job, 2 put finds no permit free, 3 it gives up its own, 4 interrupted."""
    with WorkerPool(1, max_threads=2, idle_timeout=0.01) as pool:
        threads, job = pool._workers, Told()

        def interrupted() -> None:
            monkeypatch.undo()
            pool.put(job)
            threads._threads.pop(threading.current_thread())
            raise StrayError

        monkeypatch.setattr(threads, "_unregister", interrupted)
        pool.submit(int).result(LIMIT)
        assert job.wait().runs == 1


class CountedBodies:
    """Jobs of a view, and how many of them ran at once."""

    def __init__(self, view: Executor) -> None:
        self.running: list[object] = []
        self.most = 0
        self.first, self.entered = Gate(), threading.Event()
        self.jobs = [Told(self.first.stop_here), Told(self._stay), Told(self._stay)]
        self.rest = threading.Event()
        for job in self.jobs:
            view.put(job)  # type: ignore[attr-defined]
        assert self.first.reached.wait(LIMIT)

    def _stay(self) -> None:
        self.running.append(self)
        self.most = max(self.most, len(self.running))
        self.entered.set()
        self.rest.wait(LIMIT)
        self.running.pop()


@pytest.mark.usefixtures("expect_loop_errors")
@pytest.mark.parametrize("moment", ["in it", "after it"])
def test_a_turn_that_is_interrupted_as_it_queues_again_is_served_once(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """1 it is in the queue, 2 (in it: another worker serves it) 3 its old worker is interrupted."""
    turns = _view_limiter._Turn
    call = turns.__call__

    def interrupted(turn: Any) -> None:
        call(turn)
        if turn in threads.waiting:
            monkeypatch.undo()
            raise StrayError

    def queue_again(turn: Any) -> None:
        monkeypatch.undo()
        threads.queue_again(turn)
        other.open()
        assert bodies.entered.wait(LIMIT)
        raise StrayError

    with WorkerPool(2) as pool:
        threads, view, other = pool._workers, pool.limited(1), Gate()
        if moment == "after it":
            monkeypatch.setattr(turns, "__call__", interrupted)
        else:
            monkeypatch.setattr(threads, "queue_again", queue_again)
        bodies = CountedBodies(view)
        pool.put(Told(other.stop_here))
        assert other.reached.wait(LIMIT)
        last = Told()
        pool.put(last)
        bodies.first.open()
        assert bodies.entered.wait(LIMIT)
        other.open()
        last.wait()
        wait_until(lambda: not threads.waiting and (threads._idle or bodies.most > 1))
        bodies.rest.set()
        for job in bodies.jobs:
            assert job.wait().runs == 1
            assert not job.errors
        assert bodies.most == 1


def test_a_put_into_a_view_that_is_interrupted_ends_no_turn_that_a_worker_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with WorkerPool(2) as pool:
        threads, view, gate = pool._workers, pool.limited(1), Gate()
        limiter = view._limiter

        def put(turn: Any) -> None:
            monkeypatch.undo()
            threads.put(turn)
            assert gate.reached.wait(LIMIT)
            raise KeyboardInterrupt

        monkeypatch.setattr(threads, "put", put)
        with pytest.raises(KeyboardInterrupt):
            view.put(Told(gate.stop_here))
        assert len(limiter._active) == 1
        gate.open()
        wait_until(lambda: not limiter._active)


@pytest.mark.usefixtures("expect_loop_errors")
def test_a_job_that_came_before_a_turn_was_interrupted_as_it_ends_is_done() -> None:
    """1 the worker has found no job, 2 put finds no turn free, 3 the turn ends, 4 interrupted."""

    class LyingSet(set[Any]):
        def discard(self, turn: Any, /) -> None:
            limiter._active = set(self)
            view.put(job)
            limiter._active.discard(turn)
            raise StrayError

    with WorkerPool(1) as pool:
        view, job = pool.limited(1), Told()
        limiter = view._limiter
        limiter._active = LyingSet()
        view.submit(int).result(LIMIT)
        assert job.wait().runs == 1


@pytest.mark.parametrize("fails", [False, True], ids=["starts", "cannot start"])
def test_ctrl_c_as_a_thread_starts_or_cannot_loses_no_job_that_relied_on_it(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """It came while the thread started, and found no permit free."""
    start = WorkerThread.start

    def at(moment: int) -> Interruption:
        pool, job, relying = WorkerPool(1), Told(), Told()
        came: list[Told] = []
        interruption = Interruption(moment, interrupt, _permits, _threads)

        def start_late(thread: WorkerThread) -> None:
            monkeypatch.setattr(WorkerThread, "start", start)
            other = threading.Thread(target=pool.put, args=(relying,))
            other.start()
            other.join(LIMIT)
            came.append(relying)
            if fails:
                cannot_start(thread)
            start(thread)

        monkeypatch.setattr(WorkerThread, "start", start_late)
        with contextlib.suppress(KeyboardInterrupt, RuntimeError), interruption:
            pool.put(job)
        monkeypatch.setattr(WorkerThread, "start", start)
        for told in came:
            assert told.ended.wait(LIMIT), f"lost: {interruption.where}"
        pool.submit(int).result(LIMIT)  # It has its permit still.
        pool.shutdown()
        return interruption

    sweep(at, least=10)
