"""``max_queued``: as many jobs may wait for a worker of a ``WorkerPool``; one more is refused."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind
from helpers.pool_jobs import Traveller, cannot_start
from helpers.steps import LIMIT, Gate, busy, until, wait_until

import threadhop
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

kinds = pytest.mark.parametrize("kind", ["pool", "view", "view of a pool with a limit"])


def one_worker(kind: str, max_queued: int) -> tuple[WorkerPool, Any]:
    """A pool of one worker, and the executor whose queue has the limit."""
    pool = WorkerPool(1, max_queued=None if kind == "view" else max_queued)
    return pool, pool if kind == "pool" else pool.limited(1, max_queued=max_queued)


@kinds
@pytest.mark.parametrize("max_queued", [0, 1, 3])
@pytest.mark.parametrize("of_itself", [True, False])
def test_as_many_jobs_may_wait_and_one_more_is_refused(
    kind: str, max_queued: int, of_itself: bool
) -> None:
    """Whether the worker is busy with a job of the view or with one of its pool."""
    pool, executor = one_worker(kind, max_queued)
    with pool:
        for _ in range(3):
            with busy(executor if of_itself else pool):
                waiting = [executor.submit(int) for _ in range(max_queued)]
                for _ in range(3):
                    with pytest.raises(PoolBusy):
                        executor.submit(int)
            assert [future.result(LIMIT) for future in waiting] == [0] * max_queued


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_with_zero_a_job_is_taken_while_a_worker_is_free_at_once(of_view: bool) -> None:
    """One for which a thread starts, and one that is parked."""
    with WorkerPool(3, max_queued=None if of_view else 0) as pool:
        executor: Any = pool.limited(2, max_queued=0) if of_view else pool
        workers = 2 if of_view else 3
        for _ in range(3):
            with busy(executor, workers), pytest.raises(PoolBusy):
                executor.submit(int)


def test_all_free_workers_get_a_job_before_any_of_them_wakes_up() -> None:
    """1 four jobs are put, 2 a fifth is refused, 3 the workers begin."""
    begun = Gate()
    with WorkerPool(4, max_queued=0, initializer=begun.stop_here) as pool:
        futures = [pool.submit(int) for _ in range(4)]
        with pytest.raises(PoolBusy):
            pool.submit(int)
        begun.open()
        assert [future.result(LIMIT) for future in futures] == [0] * 4


def test_a_view_is_refused_what_others_keep_its_pool_from() -> None:
    """A pool without a limit, and two views: one fills the pool, the other has a limit of 0."""
    with WorkerPool(2) as pool:
        small, other = pool.limited(2, max_queued=0), pool.limited(2)
        with busy(other), busy(small):
            with pytest.raises(PoolBusy):
                small.submit(int)
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
            others = pool.submit(int)
            with pytest.raises(PoolBusy):
                pool.submit(int)
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
    away, back = Gate(), Gate()
    with WorkerPool(2, max_queued=1) as pool:
        view = pool.limited(3)

        def travel() -> None:
            view.away("job")
            away.stop_here()
            view.back("job")
            back.stop_here()

        with busy(pool):
            traveller = view.submit(travel)
            assert away.reached.wait(LIMIT)
            with busy(pool):
                waiting = view.submit(int)
                away.open()
                assert back.reached.wait(LIMIT)
                for _ in range(3):
                    with pytest.raises(PoolBusy):
                        view.submit(int)
                back.open()
        assert waiting.result(LIMIT) == 0
        traveller.result(LIMIT)


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
    text = str(caught.value)
    assert "'name' is busy: 2 of 2 workers have a job, and 3 of the 3 jobs that may wait do" in text
    assert "'except threadhop.PoolBusy:'" in text
    assert f"{'limited' if of_view else 'WorkerPool'}(2, max_queued=6)" in text


# every way in


def by_submit(pool: WorkerPool) -> object:
    return pool.submit(int)


def by_map(pool: WorkerPool) -> object:
    return pool.map(int, ["1"])


def by_exec_in_executor(pool: WorkerPool) -> object:
    return exec_in_executor(pool, int)


def by_threading_future(pool: WorkerPool) -> object:
    return exec_in_executor_threading_future(pool, int)


def by_run_in_executor(pool: WorkerPool) -> object:
    return asyncio.get_running_loop().run_in_executor(pool, int)


@pytest.mark.parametrize(
    "call", [by_submit, by_map, by_exec_in_executor, by_threading_future, by_run_in_executor]
)
def test_a_call_is_refused_at_the_call(loops: LoopKind, call: Callable[[Any], object]) -> None:
    async def main() -> None:
        with WorkerPool(1, max_queued=0) as pool, busy(pool), pytest.raises(PoolBusy):
            call(pool)

    loops.run(main)


def test_run_of_an_async_executor_is_refused(loops: LoopKind) -> None:
    async def main() -> None:
        with WorkerPool(1, max_queued=0) as pool:
            with busy(pool), pytest.raises(PoolBusy):
                await AsyncExecutor(pool).run(int)
            assert await AsyncExecutor(pool).run(int) == 0

    loops.run(main)


@kinds
def test_a_block_is_refused_at_its_entry_on_the_loop_thread(loops: LoopKind, kind: str) -> None:
    """Its body never runs, the task goes on, and no worker is lost."""
    here = threading.get_ident()

    async def main() -> None:
        pool, executor = one_worker(kind, 0)
        with pool:
            for _ in range(3):
                with busy(executor):
                    try:
                        async with threadpool(executor):
                            raise AssertionError("the body runs")
                    except PoolBusy:
                        assert threading.get_ident() == here
                async with threadpool(executor):
                    assert threading.get_ident() != here
        assert pool.statistics() == (1, 0, 0, 0, 0)

    loops.run(main)


def test_a_block_in_a_block_of_another_executor_is_refused_on_the_outer_worker(
    loops: LoopKind,
) -> None:
    async def main() -> None:
        with WorkerPool(1, max_queued=0) as pool, ThreadPoolExecutor(1) as outer, busy(pool):
            async with threadpool(outer):
                worker = threading.get_ident()
                with pytest.raises(PoolBusy):
                    async with threadpool(pool):
                        raise AssertionError("the body runs")
                assert threading.get_ident() == worker

    loops.run(main)


# work that has begun


def test_a_task_that_comes_back_to_its_worker_is_never_refused(loops: LoopKind) -> None:
    """Others fill the pool and its queue while it is on the loop; its own block, too, goes on."""

    async def main() -> None:
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

    loops.run(main)


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
        last = pool.submit(int)
        with pytest.raises(PoolBusy):
            pool.submit(int)
        gate.open()
        assert last.result(LIMIT) == 0


def test_while_one_more_runs_than_workers_as_many_may_wait_as_ever() -> None:
    """1 A is away, B runs, 2 A is back: two run, 3 one may wait."""
    with WorkerPool(1, max_threads=3, max_queued=1) as pool:
        a = Traveller(pool).go_away()
        with busy(pool):
            a.come_back()
            c = pool.submit(int)
            with pytest.raises(PoolBusy):
                pool.submit(int)
        a.finish()
        assert c.result(LIMIT) == 0


@pytest.mark.parametrize("max_threads", [1, 2])
def test_a_worker_that_is_away_leaves_its_place_if_there_may_be_another_thread(
    max_threads: int,
) -> None:
    with WorkerPool(1, max_threads=max_threads, max_queued=0) as pool:
        a = Traveller(pool).go_away()
        if max_threads == 1:
            with pytest.raises(PoolBusy):
                pool.submit(int)
        else:
            assert pool.submit(int).result(LIMIT) == 0
        a.finish()


# a worker is free when its job has ended, not when its thread has noticed


@kinds
def test_a_task_that_uses_a_pool_again_and_again_is_never_refused(
    loops: LoopKind, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held in its last lines, after each block and call, until the next one came."""
    end = Counts.end
    gates: list[Gate] = []

    def held(counts: Any, entry: Any) -> None:
        if counts.begun.get(threading.get_ident()) is entry and gates:
            gates.pop().stop_here()
        end(counts, entry)

    async def main() -> None:
        pool, executor = one_worker(kind, 0)
        monkeypatch.setattr(Counts, "end", held)
        with pool:
            for _ in range(3):
                for use in (block, call, submitted):
                    await until(lambda: pool.statistics().busy == 0)
                    gate = Gate()
                    gates.append(gate)
                    await use(executor)
                    await until(gate.reached.is_set)
                    again = asyncio.ensure_future(use(executor))
                    await asyncio.sleep(0)
                    gate.open()
                    await again

    async def block(executor: Any) -> None:
        async with threadpool(executor):
            pass

    async def call(executor: Any) -> None:
        await exec_in_executor(executor, int)

    async def submitted(executor: Any) -> None:
        await asyncio.wrap_future(executor.submit(int))

    loops.run(main)


@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("of", ["the job", "its turn"])
def test_a_view_in_a_full_pool_may_be_used_again_and_again(
    of: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is held when it has ended the job of the view, or its turn in the pool."""
    end = Counts.end
    gates = [Gate()]

    def held(counts: Counts, entry: Any) -> None:
        if gates and counts is counts_held:
            gates.pop().stop_here()
        end(counts, entry)

    with WorkerPool(1, max_queued=0) as pool:
        view: Any = pool.limited(limit)
        counts_held = view._limiter.counts if of == "the job" else view._limiter.threads.counts
        monkeypatch.setattr(Counts, "end", held)
        (gate,) = gates
        assert view.submit(int).result(LIMIT) == 0
        assert gate.reached.wait(LIMIT)
        again = view.submit(int)
        with pytest.raises(PoolBusy):
            pool.submit(int)
        gate.open()
        assert again.result(LIMIT) == 0


# what does not count


class Pool(WorkerPool):
    """It gets its blocks and calls by ``submit``."""


@pytest.mark.parametrize("kind", ["pool", "view", "view of a pool with a limit", "subclass"])
@pytest.mark.parametrize("how", ["future", "call", "block", "iterator", "thread's call"])
def test_a_job_that_is_cancelled_while_it_waits_makes_room_at_once(
    loops: LoopKind, kind: str, how: str
) -> None:
    async def block(executor: Any) -> None:
        async with threadpool(executor):
            pass

    async def iterate(executor: Any) -> None:
        async for _ in iterate_in_executor(executor, ()):
            pass

    def make(executor: Any) -> Any:
        if how == "future":
            return executor.submit(int)
        if how == "call":
            return exec_in_executor(executor, int)
        if how == "block":
            return asyncio.ensure_future(block(executor))
        if how == "iterator":
            return asyncio.ensure_future(iterate(executor))
        return exec_in_executor_threading_future(executor, int)

    async def main() -> None:
        if kind == "subclass":
            pool = executor = Pool(1, max_queued=1)
        else:
            pool, executor = one_worker(kind, 1)
        with pool:
            with busy(pool):
                for _ in range(3):
                    job = make(executor)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    with pytest.raises(PoolBusy):
                        executor.submit(int)
                    job.cancel()
                    if how in ("block", "iterator"):
                        await asyncio.wait([job])
                    assert job.cancelled()
                last = executor.submit(int)
                with pytest.raises(PoolBusy):
                    executor.submit(int)
            assert await asyncio.wrap_future(last) == 0

    loops.run(main)


def test_a_job_of_a_view_that_is_cancelled_makes_room_in_the_pool() -> None:
    """Its turn waits there, and is for nothing."""
    with WorkerPool(1, max_queued=1) as pool:
        view = pool.limited(1)
        with busy(pool):
            job = view.submit(int)
            with pytest.raises(PoolBusy):
                pool.submit(int)
            job.cancel()
            last = pool.submit(int)
        assert last.result(LIMIT) == 0
        assert view.submit(int).result(LIMIT) == 0


def test_a_function_that_runs_counts_also_when_its_future_was_cancelled(loops: LoopKind) -> None:
    """Its thread goes on."""

    async def main() -> None:
        with WorkerPool(1, max_queued=0) as pool:
            gate = Gate()
            future = exec_in_executor(pool, gate.stop_here)
            await until(gate.reached.is_set)
            future.cancel()
            with pytest.raises(PoolBusy):
                exec_in_executor(pool, int)
            gate.open()

    loops.run(main)


@kinds
def test_jobs_that_were_dropped_or_could_not_begin_leave_no_trace(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, executor = one_worker(kind, 1)
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
            before = [pool.submit(int) for _ in range(3)]
            view = pool.limited(1, max_queued=1)
        for future in before:
            future.result(LIMIT)
        with busy(pool):
            queued = view.submit(int)
            with pytest.raises(PoolBusy):
                view.submit(int)
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


def test_pool_busy_is_a_runtime_error_of_threadhop() -> None:
    assert issubclass(PoolBusy, RuntimeError)
    assert threadhop.PoolBusy is PoolBusy


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_in_the_child_of_a_fork_the_queue_is_empty() -> None:
    child = run_in_child(
        """
        import os, threading, warnings
        from threadhop import PoolBusy, WorkerPool
        warnings.simplefilter("ignore")
        pool = WorkerPool(1, max_queued=1)
        view = pool.limited(1, max_queued=1)
        gate, begun = threading.Event(), threading.Event()
        pool.submit(lambda: (begun.set(), gate.wait()))
        begun.wait()
        view.submit(int)
        pid = os.fork()
        if not pid:
            assert view.submit(int).result(8) == 0 and pool.submit(int).result(8) == 0
            pool.shutdown()
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        gate.set()
        """
    )
    assert (child.stderr, child.returncode) == ("", 0)
