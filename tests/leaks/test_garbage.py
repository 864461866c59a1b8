"""Blocks, loop parts and calls leave no cycles: reference counts alone free what they made.

PyPy has no reference counts, so everything is garbage there until it is collected.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

import pytest
from helpers.garbage import (
    Scenario,
    Thing,
    assert_its_task_is_freed,
    assert_no_cyclic_garbage,
    counts_references,
)
from helpers.steps import Gate, HeldExecutor, busy, until, wait_until

from threadhop import eventloop, exec_in_eventloop, on_cancel, threadpool
from threadhop._away import all_away_of
from threadhop._loops._attributes import LOOP


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def cancelled(
    coro: Coroutine[Any, Any, None], gate: Gate, *, on_its_way: bool = False
) -> None:
    """Cancel a task of *coro* at *gate*, or between that and its next arrival on the loop."""
    loop: Any = asyncio.get_running_loop()
    task = start(coro)
    await until(gate.reached.is_set)
    if on_its_way:
        gate.open()
        wait_until(lambda: len(getattr(loop, LOOP)._queue) == 1)  # the loop stands still
    task.cancel()
    gate.open()
    await until(task.done)
    assert task.cancelled()


async def suspend() -> None:
    await asyncio.sleep(0)


async def forever(gate: Gate) -> None:
    gate.reached.set()
    await asyncio.get_running_loop().create_future()


async def block_that_never_begins(pool: Executor, gate: Gate) -> None:
    gate.reached.set()
    async with threadpool(pool):
        raise AssertionError("the body ran")


# --- blocks


async def returning(pool: Executor, _: Executor) -> object:
    async with threadpool(pool):
        return Thing()


async def raising(pool: Executor, _: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(pool):
            raise LookupError


async def nested(outer: Executor, inner: Executor) -> None:
    async with threadpool(outer), threadpool(inner), threadpool(outer):
        pass


async def nested_raising(outer: Executor, inner: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(outer), threadpool(inner):
            raise LookupError


async def refused_await(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        with suppress(RuntimeError):
            await asyncio.sleep(0)


async def decorated(pool: Executor, _: Executor) -> None:
    await threadpool(pool)(len)("a")


async def cancelled_queued(pool: Executor, _: Executor) -> None:
    gate = Gate()
    with busy(pool):
        await cancelled(block_that_never_begins(pool, gate), gate)


async def cancelled_and_raising(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            raise LookupError

    await cancelled(block(), gate)


async def cancelled_nested_queued(outer: Executor, inner: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(outer):
            await block_that_never_begins(inner, gate)

    with busy(inner):
        await cancelled(block(), gate)


async def submit_after_shutdown(_: Executor, __: Executor) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with suppress(RuntimeError):
        await block_that_never_begins(pool, Gate())


async def dropped(_: Executor, __: Executor) -> None:
    pool = HeldExecutor()

    async def block() -> None:
        with suppress(RuntimeError):
            await block_that_never_begins(pool, Gate())

    task = start(block())
    await until(lambda: pool.jobs)
    pool.drop()
    await task
    pool.jobs.clear()


# --- loop parts


async def parts(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        for _ in range(5):
            async with eventloop():
                await suspend()


async def nested_parts(outer: Executor, inner: Executor) -> None:
    async with threadpool(outer), eventloop(), threadpool(inner), eventloop(), threadpool(outer):
        pass


async def nested_parts_raising(outer: Executor, inner: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(outer), eventloop(), threadpool(inner), eventloop():
            raise LookupError


async def rows(pool: Executor) -> AsyncGenerator[int]:
    async with threadpool(pool), eventloop():
        yield 1
        yield 2


async def generator(pool: Executor, _: Executor) -> None:
    async with aclosing(rows(pool)) as source:
        async for _ in source:
            break


async def adopted_generator(pool: Executor, _: Executor) -> None:
    source = rows(pool)

    async def take() -> None:
        await anext(source)

    async def close() -> None:
        await source.aclose()

    for step in (take, close):
        await start(step())


async def adopted_watch(pool: Executor, _: Executor) -> None:
    """Open in a generator that one task begins, and another one ends, which is cancelled."""
    told = threading.Event()

    async def items() -> AsyncIterator[int]:
        async with threadpool(pool):
            with on_cancel(told.set):
                async with eventloop():
                    yield 1
                gate.stop_here()

    source, gate = items(), Gate()

    async def take() -> None:
        await anext(source, None)

    await start(take())
    task = start(take())
    await until(gate.reached.is_set)
    task.cancel()
    gate.open()
    await until(task.done)
    assert told.is_set()


async def cancelled_part(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool), eventloop():
            await forever(gate)

    await cancelled(block(), gate)


async def timed_out_part(pool: Executor, _: Executor) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.001), threadpool(pool), eventloop():
            await forever(Gate())


async def part_that_never_begins(pool: Executor, *, on_its_way: bool) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            async with eventloop():
                raise AssertionError("the part ran")

    await cancelled(block(), gate, on_its_way=on_its_way)


async def cancelled_before_its_part(pool: Executor, _: Executor) -> None:
    await part_that_never_begins(pool, on_its_way=False)


async def cancelled_on_its_way(pool: Executor, _: Executor) -> None:
    await part_that_never_begins(pool, on_its_way=True)


async def cancelled_queued_in_a_part(outer: Executor, inner: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(outer), eventloop():
            await block_that_never_begins(inner, gate)

    with busy(inner):
        await cancelled(block(), gate)


# --- calls of the loop


def fail() -> None:
    raise LookupError


async def fail_later() -> None:
    await suspend()
    raise LookupError


async def coroutine_call(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        exec_in_eventloop(suspend)


async def failing_call(pool: Executor, _: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(pool):
            exec_in_eventloop(fail)


async def failing_coroutine_call(pool: Executor, _: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(pool):
            exec_in_eventloop(fail_later)


async def cancelled_call(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            exec_in_eventloop(forever, gate)

    await cancelled(block(), gate)


SCENARIOS: list[Scenario] = [
    returning,
    raising,
    nested,
    nested_raising,
    refused_await,
    decorated,
    cancelled_queued,
    cancelled_and_raising,
    cancelled_nested_queued,
    submit_after_shutdown,
    dropped,
    parts,
    nested_parts,
    nested_parts_raising,
    generator,
    adopted_generator,
    adopted_watch,
    cancelled_part,
    timed_out_part,
    cancelled_before_its_part,
    cancelled_on_its_way,
    cancelled_queued_in_a_part,
    coroutine_call,
    failing_call,
    failing_coroutine_call,
    cancelled_call,
]


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_scenario_leaves_no_cyclic_garbage(scenario: Scenario) -> None:
    """With the collector off."""
    assert_no_cyclic_garbage(scenario)


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_task_of_a_scenario_is_freed_with_its_last_reference(scenario: Scenario) -> None:
    assert_its_task_is_freed(scenario)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_no_worker_is_noted_as_parked_after_a_scenario(
    scenario: Scenario, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Or the warning that all of them are would come too often."""

    async def main() -> None:
        with executor_class(1) as one, executor_class(1) as other:
            await scenario(one, other)
            for pool in (one, other):
                assert not all_away_of(pool)

    asyncio.run(main())
