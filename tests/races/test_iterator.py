"""A task that takes items and the worker that reads them, at the same moment: none is lost."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import OopsError
from helpers.interruptions import Interruption, interrupt
from helpers.loops import on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, turns, until, wait_until

from threadhop import WorkerPool, _iterate, _iterator_job, iterate_in_executor
from threadhop._iterator_job import IteratorJob
from threadhop._loops._asyncio import loop_of

here = threading.get_ident


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is lost is not found by chance: nobody looks within the time of a test."""
    monkeypatch.setattr(_iterator_job, "POLL", 30.0)


def numbers(count: int, closed: list[int]) -> Iterator[int]:
    try:
        yield from range(count)
    finally:
        closed.append(here())


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """The kind of pool makes no difference here, nor does, as a rule, the kind of loop."""
    with WorkerPool(1) as pool:
        yield pool


def act_before(
    monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[IteratorJob], object]
) -> None:
    """Have the next call of that method of ``IteratorJob`` preceded by *act*, in its thread."""
    plain = getattr(IteratorJob, name)

    def method(job: IteratorJob, *args: Any) -> Any:
        monkeypatch.setattr(IteratorJob, name, plain)
        act(job)
        return plain(job, *args)

    monkeypatch.setattr(IteratorJob, name, method)


async def collect(items: Any) -> list[Any]:
    return [item async for item in items]


class StopsAtWait(IteratorJob):
    """Its worker, which is about to wait for room, stops at the gate right after ``_order``."""

    gate: Gate

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        order = self._order

        def lie(nothing: Any) -> None:
            order(nothing)
            if here() == self.claimed and not self.gate.is_open():
                self.gate.stop_here()

        self._order = lie  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize("task", ["makes room", "closes"])
@on_one_loop
async def test_what_the_task_does_while_the_worker_is_about_to_wait_is_seen(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """1. the worker says that it waits; 2. the task makes room or closes; 3. the worker waits.

    The wake-up is there before the wait, so that ends at once.
    """
    closed: list[int] = []
    gate = StopsAtWait.gate = Gate()
    monkeypatch.setattr(_iterate, "IteratorJob", StopsAtWait)
    items = iterate_in_executor(pool, numbers, 20, closed, buffersize=4)
    taken = [await anext(items)]
    await until(gate.reached.is_set)
    if task == "closes":
        end: Any = asyncio.ensure_future(items.aclose())
    else:
        taken += [await anext(items) for _ in range(3)]
        end = asyncio.ensure_future(collect(items))
    await turns()
    gate.open()
    rest = await end
    assert len(closed) == 1
    if task != "closes":
        assert taken + rest == list(range(20))


@pytest.mark.parametrize("error", [None, OopsError])
@on_one_loop
async def test_what_comes_while_the_task_is_about_to_wait_is_seen(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """1. the task finds no item; 2. there are two, or an error is the end; 3. the task waits."""
    gate, end = Gate(), Gate()

    def source() -> Iterator[int]:
        yield 0
        gate.stop_here()
        if error is not None:
            raise error
        yield 1
        yield 2
        end.stop_here()

    def let_it_go_on(job: IteratorJob) -> None:
        gate.open()
        wait_until(lambda: len(job.buffer) == 2 or job.ended)

    items = iterate_in_executor(pool, source)
    assert await anext(items) == 0
    act_before(monkeypatch, "must_wait", let_it_go_on)
    if error is not None:
        with pytest.raises(error):
            await anext(items)
        return
    assert [await anext(items), await anext(items)] == [1, 2]
    end.open()
    assert await collect(items) == []


@on_one_loop
async def test_a_task_that_forgets_late_that_the_worker_waits_does_not_forget_the_next_time(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the task sees that the worker waits; 2. the worker goes on and waits anew; 3. the task
    notes that the worker does not wait, and wakes it."""
    jobs: list[IteratorJob] = []
    act_before(monkeypatch, "start", jobs.append)
    items = iterate_in_executor(pool, numbers, 20, [], buffersize=4)
    assert await anext(items) == 0
    (job,) = jobs
    await until(lambda: job.is_full)
    job.is_full = False
    job._room.put(None)
    assert await collect(items) == list(range(1, 20))


def test_a_consumer_that_ctrl_c_kept_from_telling_is_missed(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that waits for room finds that nobody takes items any more."""

    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    async def take() -> None:
        async with iterate_in_executor(pool, numbers, 10**9, closed) as items:
            await anext(items)

    closed: list[int] = []
    monkeypatch.setattr(_iterator_job, "POLL", 0.02)
    monkeypatch.setattr(_iterate, "_leave", interrupted)
    loop = asyncio.new_event_loop()
    task = loop.create_task(take())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    with pytest.raises(KeyboardInterrupt):
        task.result()
    del task
    loop.run_until_complete(asyncio.sleep(0))  # A callback of the task waits there.
    gc.collect()
    wait_until(lambda: closed)
    loop.close()


@pytest.mark.parametrize("has_ended", [True, False])
@on_one_loop
async def test_closed_when_next_has_raised_the_error_is_dropped(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, has_ended: bool
) -> None:
    """Nobody has asked for that item. The worker says that it has ended before, or after that."""
    gate = Gate()

    def source() -> Iterator[int]:
        yield 0
        raise OopsError

    act_before(monkeypatch, "_end", lambda job: gate.stop_here())
    items = iterate_in_executor(pool, source)
    assert await anext(items) == 0
    await until(gate.reached.is_set)
    if has_ended:
        gate.open()
        pool.submit(str).result(LIMIT)
    closing = asyncio.ensure_future(items.aclose())
    await turns()
    assert closing.done() == has_ended
    gate.open()
    await closing


@on_every_loop
async def test_cancelled_when_the_last_item_has_been_delivered_it_is_cancelled(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the delivery wakes the task; 2. somebody cancels it; 3. the task goes on.

    The item is not handed over, and the source is closed.
    """
    closed: list[int] = []
    tasks: list[asyncio.Task[Any]] = []
    seen: list[int] = []
    gate = Gate()

    def source() -> Iterator[int]:
        gate.stop_here()
        yield from numbers(1, closed)

    async def take() -> None:
        async for item in iterate_in_executor(pool, source):
            seen.append(item)  # noqa: PERF401

    act_before(monkeypatch, "deliver", lambda job: tasks[0].cancel("now"))
    tasks.append(asyncio.ensure_future(take()))
    await until(gate.reached.is_set)
    gate.open()
    await until(tasks[0].done)
    with pytest.raises(asyncio.CancelledError) as caught:
        tasks[0].result()
    assert caught.value.args == ("now",)
    assert not seen
    assert len(closed) == 1


@pytest.mark.parametrize("first", ["worker", "task"])
@on_one_loop
async def test_of_a_worker_and_a_cancellation_that_come_together_the_first_has_the_job(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The source is closed, or has never begun."""
    opened: list[int] = []
    closed: list[int] = []
    gate, executor = Gate(), HeldExecutor()

    def source() -> Iterator[int]:
        opened.append(here())
        yield from numbers(9**9, closed)

    def let_it_begin(job: IteratorJob) -> None:
        executor.start()
        wait_until(lambda: job.claimed)

    task = asyncio.ensure_future(collect(iterate_in_executor(executor, source)))
    await until(lambda: executor.jobs)
    if first == "worker":
        act_before(monkeypatch, "try_cancel", let_it_begin)
    else:
        act_before(monkeypatch, "__call__", lambda job: gate.stop_here())
        executor.start()
        await until(gate.reached.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    gate.open()
    executor.shutdown()
    assert len(opened) == len(closed) == (first == "worker")


@on_every_loop
async def test_dropped_and_cancelled_at_once_one_of_the_two_comes() -> None:
    """1. the executor drops the job; 2. before the task hears of it, somebody cancels it."""
    executor = HeldExecutor()
    task = asyncio.ensure_future(collect(iterate_in_executor(executor, [1])))
    await until(lambda: executor.jobs)
    executor.drop()
    task.cancel("now")
    await until(task.done)
    assert task.cancelled()


@on_one_loop
async def test_a_loop_that_cannot_be_woken_for_a_moment_gets_its_items(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threadhop._loops._entry_queue import EntryQueue

    plain, refusals = EntryQueue.post, [1, 2, 3]

    def post(queue: Any, entry: Any, loop: Any) -> None:
        if isinstance(entry, IteratorJob) and refusals:
            refusals.pop()
            raise RuntimeError("no memory")
        plain(queue, entry, loop)

    monkeypatch.setattr(_iterator_job, "POLL", 0.1)
    monkeypatch.setattr(EntryQueue, "post", post)
    gate = Gate()

    def source() -> Iterator[int]:
        gate.stop_here()
        yield from range(2)

    task = asyncio.ensure_future(collect(iterate_in_executor(pool, source)))
    await until(gate.reached.is_set)
    gate.open()
    assert await task == [0, 1]
    assert not refusals


# Ctrl+C between ``aclose()`` and its ``await``.
@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_at_any_moment_of_the_loop_thread_leaves_no_worker_and_no_task(
    executor_class: type[ThreadPoolExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the loop again finds the task at its end, and the source closed."""
    monkeypatch.setattr(_iterator_job, "POLL", 0.02)
    moment, happened = 0, True
    with executor_class(1) as pool:
        while happened:
            closed: list[int] = []
            loop = asyncio.new_event_loop()

            async def take(closed: list[int] = closed) -> list[int]:
                async with iterate_in_executor(pool, numbers, 9, closed, buffersize=2) as items:
                    return [item async for item in items]

            task = loop.create_task(take())
            # (Raised there on 3.12 and 3.13, it passes any ``try``: see test_loops_in_try.py.)
            in_loops = sys.version_info >= (3, 14)
            interruption = Interruption(
                moment, interrupt, _iterate, _iterator_job, in_loops=in_loops
            )
            try:
                with interruption:
                    loop.run_until_complete(task)
            except KeyboardInterrupt:
                pass
            happened = interruption.happened
            try:
                items = loop.run_until_complete(asyncio.wait_for(task, LIMIT))
                assert items == list(range(9)), interruption.where
            except KeyboardInterrupt:
                pass
            pool.submit(str).result(LIMIT)  # The worker is free,
            assert len(closed) <= 1, interruption.where
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
            moment += 1
    assert moment > 20


def test_a_task_is_cancelled_while_no_loop_runs_and_something_was_posted(
    pool: WorkerPool,
) -> None:
    """As ``asyncio.run`` does it at its end, after Ctrl+C."""
    gate = Gate()

    def source() -> Iterator[int]:
        gate.stop_here()
        yield 1

    async def take() -> None:
        async with iterate_in_executor(pool, source) as items:
            await anext(items)

    async def begin() -> None:
        await until(gate.reached.is_set)

    class Nothing:
        def deliver(self) -> None:
            pass

        abandon = deliver

    loop = asyncio.new_event_loop()
    task = loop.create_task(take())
    loop.run_until_complete(begin())
    loop_of(loop)._queue.append(Nothing())
    task.cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(asyncio.wait_for(task, LIMIT))
    loop.close()
