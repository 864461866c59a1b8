"""``max_queued``: as many jobs may wait for a worker of a ``WorkerPool``; one more is refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.pool_jobs import Traveller, before, cannot_start, takes
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    PoolBusy,
    WorkerPool,
    eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    iterate_in_executor,
    threadpool,
)
from threadhop._pool._limits import Counts

KINDS = ("pool", "view", "view of a pool with a limit")
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, max_queued: int, workers: int = 1, limit: int = 1) -> tuple[WorkerPool, Any]:
    """A pool, by default of one worker, and the executor whose queue has the limit."""
    pool = WorkerPool(workers, max_queued=None if kind == "view" else max_queued)
    return pool, pool if kind == "pool" else pool.limited(limit, max_queued=max_queued)


@kinds
@pytest.mark.parametrize("max_queued", [0, 1, 3])
@pytest.mark.parametrize(("workers", "limit"), [(1, 1), (3, 2)])
def test_as_many_jobs_may_wait_and_one_more_is_refused(
    kind: str, max_queued: int, workers: int, limit: int
) -> None:
    """Whether the workers are busy with jobs of the view or with those of its pool. With 0 a job is
    taken while a worker is free at once: one that is parked, or one that starts."""
    pool, executor = make(kind, max_queued, workers, limit)
    with pool:
        for owner in (executor, pool) * 2:
            with busy(owner, workers if owner is pool else limit):
                waiting = takes(executor, max_queued)
            assert [future.result(LIMIT) for future in waiting] == [0] * max_queued


def test_all_free_workers_get_a_job_before_any_of_them_wakes_up() -> None:
    """1 four jobs are put, 2 a fifth is refused, 3 the workers begin."""
    begun = Gate()
    with WorkerPool(4, max_queued=0, initializer=begun.stop_here) as pool:
        futures = takes(pool, 4)
        begun.open()
        assert [future.result(LIMIT) for future in futures] == [0] * 4


def test_a_view_is_refused_what_others_keep_its_pool_from() -> None:
    """A pool without a limit, and two views: one fills the pool, the other has a limit of 0."""
    with WorkerPool(2) as pool:
        small, other = pool.limited(2, max_queued=0), pool.limited(2)
        with busy(other), busy(small):
            takes(small)
            last = other.submit(int)
        last.result(LIMIT)
        with busy(small, 2):
            pass


def test_a_full_view_does_not_fill_the_queue_of_its_pool() -> None:
    """What waits for its turn in a view counts there."""
    with WorkerPool(1, max_queued=1) as pool:
        view = pool.limited(1)
        with busy(view):
            mine = [view.submit(int) for _ in range(9)]
            (others,) = takes(pool, 1)
        assert [future.result(LIMIT) for future in [*mine, others]] == [0] * 10


def test_a_view_does_not_fill_the_queue_of_its_pool_however_often_it_is_refused() -> None:
    with WorkerPool(1, max_queued=1) as pool:
        view = pool.limited(3)
        with busy(pool):
            waiting = view.submit(int)
            for _ in range(10):
                with pytest.raises(PoolBusy, match=r"1 of 1 workers .* 1 of the 1 jobs"):
                    view.submit(int)
        assert waiting.result(LIMIT) == 0


def test_a_view_whose_worker_comes_back_does_not_fill_the_queue_of_its_pool() -> None:
    """While it was away another turn was asked for, which waits for nothing now."""
    with WorkerPool(2, max_queued=1) as pool:
        view = pool.limited(3)
        with busy(pool):
            traveller = Traveller(view).go_away()
            with busy(pool):
                waiting = view.submit(int)
                traveller.come_back()
                for _ in range(3):
                    takes(view)
                traveller.finish()
        assert waiting.result(LIMIT) == 0


def test_a_pool_that_is_shut_down_says_so_although_it_is_busy() -> None:
    with WorkerPool(1, max_queued=0) as pool, busy(pool):
        pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown") as caught:
            pool.submit(int)
    assert not isinstance(caught.value, PoolBusy)


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_the_message_says_how_many_run_and_wait_and_what_to_do(of_view: bool) -> None:
    with WorkerPool(2, "name", max_queued=3) as pool:
        executor: Any = pool.limited(2, max_queued=3) if of_view else pool
        with busy(executor, 2):
            for _ in range(3):
                executor.submit(int)
            with pytest.raises(PoolBusy) as caught:
                executor.submit(int)
    assert isinstance(caught.value, RuntimeError)
    text = str(caught.value)
    assert "'name' is busy: 2 of 2 workers have a job, and 3 of the 3 jobs that may wait do" in text
    assert "'except threadhop.PoolBusy:'" in text
    assert f"{'limited' if of_view else 'WorkerPool'}(2, max_queued=6)" in text


# every way in


async def run(executor: Any) -> Any:
    return await AsyncExecutor(executor).run(int)


async def refused_block(executor: Any) -> None:
    async with threadpool(executor):
        raise AssertionError("the body runs")


#: What is refused at the call, and what at the first step of a coroutine.
WAYS_IN: dict[str, Callable[[Any], Any]] = {
    "submit": lambda executor: executor.submit(int),
    "map": lambda executor: executor.map(int, ["1"]),
    "exec_in_executor": lambda executor: exec_in_executor(executor, int),
    "threading future": lambda executor: exec_in_executor_threading_future(executor, int),
    "run_in_executor": lambda executor: asyncio.get_running_loop().run_in_executor(executor, int),
    "run": run,
    "block": refused_block,
}


def test_every_way_in_is_refused_where_it_was_gone(loops: LoopKind) -> None:
    """No body runs, the task goes on, on the loop or on its worker, and no worker is lost."""
    here = threading.get_ident

    async def main(kind: str) -> None:
        pool, executor = make(kind, 0)
        loop_thread = here()
        with pool, ThreadPoolExecutor(1) as outer:
            for way in WAYS_IN.values():
                with busy(executor), pytest.raises(PoolBusy):
                    asked = way(executor)
                    if asyncio.iscoroutine(asked):
                        await asked
                assert here() == loop_thread
                assert await AsyncExecutor(executor).run(int) == 0
                async with threadpool(executor):
                    assert here() != loop_thread
            with busy(executor):
                async with threadpool(outer):
                    worker = here()
                    with pytest.raises(PoolBusy):
                        await refused_block(executor)
                    assert here() == worker
        assert pool.statistics() == (1, 0, 0, 0, 0)

    for kind in KINDS:
        loops.run(main(kind))


# work that has begun


@on_one_loop
async def test_a_task_that_comes_back_to_its_worker_is_never_refused() -> None:
    """Others fill the pool and its queue while it is on the loop; its own block, too, goes on."""
    with WorkerPool(1, max_threads=2, max_queued=0) as pool:
        async with threadpool(pool):
            thread = threading.get_ident()
            async with eventloop():
                gate = Gate()
                other = exec_in_executor(pool, gate.stop_here)
                await until(gate.reached.is_set)
                with pytest.raises(PoolBusy):
                    exec_in_executor(pool, int)
                async with threadpool(pool):
                    assert threading.get_ident() == thread
            assert threading.get_ident() == thread
            gate.open()
        await other


def test_a_job_of_a_view_that_waits_for_its_next_turn_is_never_refused() -> None:
    """The view goes behind the jobs of its pool, whose queue is full."""
    order: list[str] = []
    with WorkerPool(1, max_queued=1) as pool:
        view = pool.limited(1, max_queued=9)
        with busy(view):
            for _ in range(9):
                view.submit(order.append, "view")
            pool.submit(order.append, "pool")
            with pytest.raises(PoolBusy):
                pool.submit(order.append, "pool")
    assert sorted(order) == ["pool"] + ["view"] * 9


def test_a_view_that_had_to_queue_again_is_counted_by_its_pool() -> None:
    """1 a job of the view ends, 2 one of the pool goes first, 3 the next of the view runs."""
    gate = Gate()
    with WorkerPool(1, max_queued=1) as pool:
        view = pool.limited(1)
        with busy(view):
            view.submit(gate.stop_here)
            pool.submit(int)
        assert gate.reached.wait(LIMIT)
        (last,) = takes(pool, 1)
        gate.open()
        assert last.result(LIMIT) == 0


def test_while_one_more_runs_than_workers_as_many_may_wait_as_ever() -> None:
    """1 A is away, B runs, 2 A is back: two run, 3 one may wait."""
    with WorkerPool(1, max_threads=3, max_queued=1) as pool:
        a = Traveller(pool).go_away()
        with busy(pool):
            a.come_back()
            (c,) = takes(pool, 1)
        takes(pool)  # A still works.
        a.finish()
        assert c.result(LIMIT) == 0


@pytest.mark.parametrize("max_threads", [1, 2])
def test_a_worker_that_is_away_leaves_its_place_if_there_may_be_another_thread(
    max_threads: int,
) -> None:
    with WorkerPool(1, max_threads=max_threads, max_queued=0) as pool:
        a = Traveller(pool).go_away()
        if max_threads == 1:
            takes(pool)
        else:
            assert pool.submit(int).result(LIMIT) == 0
        a.finish()


# a worker is free when its job has ended, not when its thread has noticed


async def block(executor: Any) -> None:
    async with threadpool(executor):
        pass


async def call(executor: Any) -> None:
    await exec_in_executor(executor, int)


async def submitted(executor: Any) -> None:
    await asyncio.wrap_future(executor.submit(int))


@kinds
def test_a_task_that_uses_a_pool_again_and_again_is_never_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held in its last lines, after each block and call, until the next one came."""

    async def main() -> None:
        pool, executor = make(kind, 0)
        with pool:
            for use in (block, call, submitted) * 3:
                await until(lambda: pool.statistics().busy == 0)
                gate = Gate()
                with monkeypatch.context() as patch:
                    before(patch, Counts, "end", gate.stop_here, has_begun_here)
                    await use(executor)
                    await until(gate.reached.is_set)
                    again = asyncio.ensure_future(use(executor))
                    await asyncio.sleep(0)
                    gate.open()
                    await again

    asyncio.run(main())


def has_begun_here(counts: Counts, entry: Any) -> bool:
    return counts.begun.get(threading.get_ident()) is entry


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("of", ["the job", "its turn"])
def test_a_view_in_a_full_pool_may_be_used_again_and_again(
    of: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held when it has ended the job of the view, or its turn in the pool."""
    gate = Gate()
    with WorkerPool(1, max_queued=0) as pool:
        view: Any = pool.limited(limit)
        held = view._limiter.counts if of == "the job" else view._limiter.threads.counts
        before(monkeypatch, Counts, "end", gate.stop_here, lambda counts, _: counts is held)
        assert view.submit(int).result(LIMIT) == 0
        assert gate.reached.wait(LIMIT)
        again = view.submit(int)
        takes(pool)
        gate.open()
        assert again.result(LIMIT) == 0


# what does not count


class Pool(WorkerPool):
    """It gets its blocks and calls by ``submit``."""


async def iterate(executor: Any) -> None:
    async for _ in iterate_in_executor(executor, ()):
        pass


WAITING = [WAYS_IN[way] for way in ("submit", "exec_in_executor", "threading future")]
WAITING += [block, iterate]


@pytest.mark.parametrize("kind", [*KINDS, "subclass"])
@on_one_loop
async def test_a_job_that_is_cancelled_while_it_waits_makes_room_at_once(kind: str) -> None:
    if kind == "subclass":
        pool = executor = Pool(1, max_queued=1)
    else:
        pool, executor = make(kind, 1)
    with pool:
        for way in WAITING:
            with busy(pool):
                for _ in range(3):
                    job = way(executor)
                    is_task = asyncio.iscoroutine(job)
                    if is_task:
                        job = asyncio.ensure_future(job)
                        await turns(2)
                    takes(executor)
                    job.cancel()
                    if is_task:
                        await asyncio.wait([job])
                    assert job.cancelled()
                (last,) = takes(executor, 1)
            assert await asyncio.wrap_future(last) == 0


@on_one_loop
async def test_a_function_that_runs_counts_also_when_its_future_was_cancelled() -> None:
    """Its thread goes on."""
    with WorkerPool(1, max_queued=0) as pool:
        gate = Gate()
        future = exec_in_executor(pool, gate.stop_here)
        await until(gate.reached.is_set)
        future.cancel()
        with pytest.raises(PoolBusy):
            exec_in_executor(pool, int)
        gate.open()


@kinds
def test_jobs_that_were_dropped_or_could_not_begin_leave_no_trace(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, executor = make(kind, 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        for _ in range(3):
            with pytest.raises(RuntimeError, match="can't start"):
                executor.submit(int)
    assert executor.submit(int).result(LIMIT) == 0
    counts = executor._workers.counts if kind == "pool" else executor._limiter.counts
    with busy(pool):
        dropped = executor.submit(int)
        pool.shutdown(wait=False, cancel_futures=True)
        assert dropped.cancelled()
        assert counts.waiting() == 0
    pool.shutdown()
    assert not counts.entries
    assert not counts.begun


def test_a_pool_gets_a_limit_for_its_view_while_it_works() -> None:
    """What was there before passes uncounted."""
    with WorkerPool(1) as pool:
        with busy(pool):
            earlier = [pool.submit(int) for _ in range(3)]
            view = pool.limited(1, max_queued=1)
        for future in earlier:
            future.result(LIMIT)
        with busy(pool):
            (queued,) = takes(view, 1)
            others = [pool.submit(int) for _ in range(9)]
        for future in [queued, *others]:
            future.result(LIMIT)


@pytest.mark.parametrize("max_queued", [None, 5])
def test_a_limit_on_nothing_else_changes_nothing(max_queued: int | None) -> None:
    """Without a limit the pool counts nothing."""
    with WorkerPool(2, max_queued=max_queued) as pool:
        assert hasattr(pool._workers, "counts") == (max_queued is not None)
        assert [future.result(LIMIT) for future in [pool.submit(int) for _ in range(5)]] == [0] * 5
    wait_until(lambda: pool.statistics() == (2, 0, 0, 0, 0))
