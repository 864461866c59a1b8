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
from helpers.loops import LoopKind, on_every_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, turns, until, wait_until

from threadhop import _iterate, _iterator_job, iterate_in_executor
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


class Paused:
    """Methods of ``IteratorJob`` that first, or last, call *act*, once, in the thread at hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def at(self, name: str, act: Callable[[IteratorJob], object], *, after: bool = False) -> None:
        plain = getattr(IteratorJob, name)
        acts = [act]

        def method(job: IteratorJob, *args: Any) -> Any:
            if acts and not after:
                acts.pop()(job)
            result = plain(job, *args)
            if acts and after:
                acts.pop()(job)
            return result

        self._patch.setattr(IteratorJob, name, method)


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> Paused:
    return Paused(monkeypatch)


async def collect(items: Any) -> list[Any]:
    return [item async for item in items]


class LyingOrder(IteratorJob):
    """``_order`` is the step that both do; *in_between* comes right after that of the worker."""

    in_between: Callable[[IteratorJob], object]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        order, self.acts = self._order, [type(self).in_between]

        def lie(nothing: Any) -> None:
            order(nothing)
            if here() == self.claimed and self.acts:
                self.acts.pop()(self)

        self._order = lie  # type: ignore[method-assign, assignment]


@on_every_loop
async def test_room_that_is_made_while_the_worker_is_about_to_wait_is_seen(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the worker says that it waits; 2. the task takes all, looks, wakes; 3. the worker waits.

    The wake-up is there before the wait, so that ends at once.
    """
    gate, closed = Gate(), []

    class Held(LyingOrder):
        in_between = staticmethod(lambda job: gate.stop_here())

    monkeypatch.setattr(_iterate, "IteratorJob", Held)
    items = iterate_in_executor(one, numbers, 20, closed, buffersize=4)
    taken = [await anext(items)]
    await until(gate.reached.is_set)
    taken += [await anext(items) for _ in range(3)]
    rest = asyncio.ensure_future(collect(items))
    await turns()
    gate.open()
    assert taken + await rest == list(range(20))


@on_every_loop
async def test_an_item_that_comes_while_the_task_is_about_to_wait_is_seen(
    one: ThreadPoolExecutor, paused: Paused
) -> None:
    """1. the task finds no item; 2. the worker appends, and nobody waits; 3. the task waits."""
    gate, end = Gate(), Gate()

    def source() -> Iterator[int]:
        yield 0
        gate.stop_here()
        yield 1
        yield 2
        end.stop_here()

    items = iterate_in_executor(one, source)
    assert await anext(items) == 0

    def let_it_read(job: IteratorJob) -> None:
        gate.open()
        wait_until(lambda: len(job.buffer) == 2)

    paused.at("must_wait", let_it_read)
    assert [await anext(items), await anext(items)] == [1, 2]
    end.open()
    assert await collect(items) == []


@on_every_loop
async def test_the_end_that_comes_while_the_task_is_about_to_wait_is_seen(
    one: ThreadPoolExecutor, paused: Paused
) -> None:
    """1. the task finds nothing; 2. the worker ends with an error; 3. the task wants to wait."""
    gate = Gate()

    def source() -> Iterator[int]:
        yield 0
        gate.stop_here()
        raise OopsError

    items = iterate_in_executor(one, source)
    assert await anext(items) == 0

    def let_it_end(job: IteratorJob) -> None:
        gate.open()
        wait_until(lambda: job.ended)

    paused.at("must_wait", let_it_end)
    with pytest.raises(OopsError):
        await anext(items)


@on_every_loop
async def test_a_task_that_forgets_late_that_the_worker_waits_does_not_forget_the_next_time(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the task sees that the worker waits; 2. the worker goes on and waits anew; 3. the task
    notes that the worker does not wait, and wakes it."""
    jobs: list[IteratorJob] = []

    class Noted(IteratorJob):
        def start(self) -> None:
            jobs.append(self)
            super().start()

    monkeypatch.setattr(_iterate, "IteratorJob", Noted)
    items = iterate_in_executor(one, numbers, 20, [], buffersize=4)
    assert await anext(items) == 0
    (job,) = jobs
    await until(lambda: job.is_full)
    job.is_full = False
    job._room.put(None)
    assert await collect(items) == list(range(1, 20))


@on_every_loop
async def test_of_two_cancellations_while_the_source_closes_the_first_is_raised(
    one: ThreadPoolExecutor,
) -> None:
    """1. cancelled in ``next()``, which returns; 2. cancelled again in the ``finally``."""
    gate, end = Gate(), Gate()

    def source() -> Iterator[int]:
        try:
            yield 0
            gate.stop_here()
            yield 1
        finally:
            end.stop_here()

    async def leave() -> None:
        async with iterate_in_executor(one, source) as items:
            await anext(items)
            await until(gate.reached.is_set)

    task = asyncio.ensure_future(leave())
    await until(gate.reached.is_set)
    await turns(20)
    task.cancel("first")
    gate.open()
    await until(end.reached.is_set)
    await turns()
    task.cancel("second")
    await turns()
    end.open()
    await until(task.done)
    with pytest.raises(asyncio.CancelledError) as caught:
        task.result()
    assert caught.value.args == ("first",)


def test_a_consumer_that_ctrl_c_kept_from_telling_is_missed(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker that waits for room finds that nobody takes items any more."""

    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    async def take() -> None:
        async with iterate_in_executor(one, numbers, 10**9, closed) as items:
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


@on_every_loop
async def test_closed_while_the_worker_is_about_to_wait_for_room_it_closes(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the worker has seen that nobody closes; 2. the task closes; 3. the worker waits."""
    gate, closed = Gate(), []

    class Held(LyingOrder):
        in_between = staticmethod(lambda job: gate.stop_here())

    monkeypatch.setattr(_iterate, "IteratorJob", Held)
    items = iterate_in_executor(one, numbers, 20, closed, buffersize=4)
    assert await anext(items) == 0
    await until(gate.reached.is_set)
    closing = asyncio.ensure_future(items.aclose())
    await turns()
    gate.open()
    await closing
    assert len(closed) == 1


@on_every_loop
async def test_closed_while_it_reads_the_item_is_dropped_and_next_is_called_no_more(
    one: ThreadPoolExecutor,
) -> None:
    """1. the worker is in ``next()``; 2. the task closes, and waits; 3. ``next()`` returns."""
    gate, steps = Gate(), []

    class Slow:
        def __iter__(self) -> Slow:
            return self

        def __next__(self) -> int:
            steps.append("next")
            if len(steps) == 2:
                gate.stop_here()
            return len(steps)

        def close(self) -> None:
            steps.append("close")

    items = iterate_in_executor(one, Slow())
    assert await anext(items) == 1
    await until(gate.reached.is_set)
    closing = asyncio.ensure_future(items.aclose())
    await turns()
    gate.open()
    await closing
    assert steps == ["next", "next", "close"]


@on_every_loop
async def test_closed_while_the_error_is_on_its_way_it_ends_once(
    one: ThreadPoolExecutor, paused: Paused
) -> None:
    """1. ``next()`` has raised; 2. the task closes; 3. the worker says that it has ended."""
    gate = Gate()

    def source() -> Iterator[int]:
        yield 0
        raise OopsError

    paused.at("_end", lambda job: gate.stop_here())
    items = iterate_in_executor(one, source)
    assert await anext(items) == 0
    await until(gate.reached.is_set)
    closing = asyncio.ensure_future(items.aclose())
    await turns()
    assert not closing.done()
    gate.open()
    await closing


@on_every_loop
async def test_cancelled_when_the_last_item_has_been_delivered_it_is_cancelled(
    one: ThreadPoolExecutor, paused: Paused
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
        async for item in iterate_in_executor(one, source):
            seen.append(item)  # noqa: PERF401

    paused.at("deliver", lambda job: tasks[0].cancel("now"))
    tasks.append(asyncio.ensure_future(take()))
    await until(gate.reached.is_set)
    gate.open()
    await until(tasks[0].done)
    with pytest.raises(asyncio.CancelledError) as caught:
        tasks[0].result()
    assert caught.value.args == ("now",)
    assert not seen
    assert len(closed) == 1


def test_a_worker_and_a_cancellation_that_come_together_agree(loops: LoopKind) -> None:
    """The one that claims the job has it: the source is closed, or has never begun.

    Many rounds stand for a forced order.
    """
    opened: list[int] = []
    closed: list[int] = []

    def source() -> Iterator[int]:
        opened.append(here())
        yield from numbers(9**9, closed)

    async def main() -> None:
        for round_ in range(60):
            executor = HeldExecutor()
            task = asyncio.ensure_future(collect(iterate_in_executor(executor, source)))
            await until(lambda: executor.jobs)  # noqa: B023
            executor.start()
            await turns(round_ % 3)
            task.cancel()
            await until(task.done)
            assert task.cancelled()
            executor.shutdown()

    loops.run(main)
    assert len(closed) == len(opened)


@on_every_loop
async def test_an_executor_that_is_shut_down_while_the_worker_waits_waits_for_the_end(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """As for a block: what has begun goes on, and the items are all there."""
    closed: list[int] = []
    pool = executor_class(1)
    items = iterate_in_executor(pool, numbers, 200, closed, buffersize=4)
    taken = [await anext(items)]
    thread = threading.Thread(target=pool.shutdown)
    thread.start()
    taken += await collect(items)
    assert taken == list(range(200))
    thread.join(LIMIT)
    assert not thread.is_alive()
    assert len(closed) == 1


@on_every_loop
async def test_dropped_and_cancelled_at_once_one_of_the_two_comes(paused: Paused) -> None:
    """1. the executor drops the job; 2. before the task hears of it, somebody cancels it."""
    executor = HeldExecutor()
    task = asyncio.ensure_future(collect(iterate_in_executor(executor, [1])))
    await until(lambda: executor.jobs)
    executor.drop()
    task.cancel("now")
    await until(task.done)
    assert task.cancelled()


@on_every_loop
async def test_a_loop_that_cannot_be_woken_for_a_moment_gets_its_items(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
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

    task = asyncio.ensure_future(collect(iterate_in_executor(one, source)))
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
    one: ThreadPoolExecutor,
) -> None:
    """As ``asyncio.run`` does it at its end, after Ctrl+C."""
    gate = Gate()

    def source() -> Iterator[int]:
        gate.stop_here()
        yield 1

    async def take() -> None:
        async with iterate_in_executor(one, source) as items:
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
