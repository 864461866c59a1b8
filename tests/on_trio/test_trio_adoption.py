"""On trio, too, the rest of a block runs on its worker, whichever task leaves its loop part."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from helpers.loops import on_trio
from helpers.places import here, on_loop_thread
from helpers.rows import Rows, close, take
from helpers.steps import Gate, busy, until

from threadhop import exec_in_eventloop, threadpool

trio: Any = pytest.importorskip("trio")
TrioCall: Any = pytest.importorskip("threadhop._loops._trio_calls").TrioCall


async def in_task(job: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    """Run *job* in a task of its own, and return its result."""
    results = []

    async def run() -> None:
        results.append(await job(*args))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
    return results[0]


async def another_task(rows: Rows) -> None:
    source = rows()
    await take(source)
    await in_task(close, source)


async def another_task_when_the_first_has_ended(rows: Rows) -> None:
    source = rows()
    await in_task(take, source)
    await in_task(close, source)


async def a_task_for_each_item(rows: Rows) -> None:
    source = rows()
    for number in range(rows.count):
        assert await in_task(take, source) == number
    with pytest.raises(ExceptionGroup):
        await in_task(take, source)


async def a_cancelled_consumer(rows: Rows) -> None:
    with trio.CancelScope() as scope:
        async with aclosing(rows()) as source:
            async for _ in source:
                scope.cancel()
                await trio.sleep_forever()
    assert scope.cancelled_caught


async def a_task_whose_scope_is_cancelled(rows: Rows) -> None:
    source = rows()
    await in_task(take, source)
    with trio.CancelScope() as scope:
        scope.cancel()
        await close(source)
    assert scope.cancelled_caught


async def the_hook_of_trio(rows: Rows) -> None:
    async def consume() -> None:
        async for _ in rows():
            break

    await in_task(consume)
    await until(lambda: (gc.collect() and False) or rows.closed)
    await trio.sleep(0.01)


CLOSERS = [
    another_task,
    another_task_when_the_first_has_ended,
    a_task_for_each_item,
    a_cancelled_consumer,
    a_task_whose_scope_is_cancelled,
    the_hook_of_trio,
]


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
@pytest.mark.parametrize("closer", CLOSERS)
@on_trio
async def test_the_rest_of_the_body_runs_on_its_worker(
    one: ThreadPoolExecutor, closer: Callable[[Rows], Coroutine[Any, Any, None]]
) -> None:
    rows = Rows(one)
    await closer(rows)
    rows.assert_closed_on_its_worker()
    assert on_loop_thread()
    async with threadpool(one):  # The worker is free again.
        assert not on_loop_thread()


@on_trio
async def test_a_task_that_closes_waits_for_the_first_one_which_is_away(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    gate, rows = Gate(), Rows(one)
    source = rows()
    steps: list[str] = []

    async def closes() -> None:
        await until(gate.reached.is_set)
        await close(source)
        steps.append("closed")

    await take(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closes)
        async with threadpool(other):
            gate.reached.set()
            exec_in_eventloop(trio.sleep, 0.05)
            steps.append("end of the body")
        assert on_loop_thread()
    rows.assert_closed_on_its_worker()
    assert steps == ["end of the body", "closed"]


@on_trio
async def test_a_generator_is_closed_by_a_call_of_its_own_worker(
    one: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    """That would wait for itself: it is refused, and said."""
    rows = Rows(one)
    source = rows()
    with caplog.at_level(logging.WARNING, "threadhop"):
        await take(source)
        async with threadpool(one):
            assert here() == rows.workers[0]  # the worker that it holds
            with pytest.raises(RuntimeError, match="waits in exec_in_eventloop"):
                exec_in_eventloop(close, source)
        assert on_loop_thread()
    assert "waits in exec_in_eventloop" in caplog.text


def test_a_generator_that_another_run_closes_is_refused(
    one: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows(one)
    source = rows()

    async def main() -> None:
        await take(source)
        with caplog.at_level(logging.WARNING, "threadhop"):
            await trio.to_thread.run_sync(trio.run, closes)
        await until(lambda: rows.closed)

    async def closes() -> None:
        with pytest.raises(RuntimeError, match="outside of the event loop"):
            await close(source)

    trio.run(main)
    with busy(one):  # Its worker is free again.
        pass


@on_trio
async def test_a_task_that_closes_before_the_run_has_looked_at_a_call_of_the_first_one_waits(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 the worker of the first task asks, 2 another task closes, 3 the run makes the call."""
    gate, rows = Gate(), Rows(one)
    source = rows()
    plain = TrioCall.deliver

    def late(call: Any) -> None:
        if call._caller.departures:
            plain(call)
        else:  # The other task has not come that far: so this comes behind it.
            call._loop.deliver_soon(call)

    async def closes() -> None:
        await until(gate.reached.is_set)
        await close(source)

    monkeypatch.setattr(TrioCall, "deliver", late)
    await take(source)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(closes)
        async with threadpool(other):
            gate.reached.set()
            exec_in_eventloop(int)
        assert on_loop_thread()
    rows.assert_closed_on_its_worker()
