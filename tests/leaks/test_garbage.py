"""Blocks, loop parts and calls leave no cycles: reference counts alone free what they made.

PyPy has no reference counts, so everything is garbage there until it is collected.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

import pytest
from helpers.calls import OopsError, oops, plain, twice
from helpers.cancelling import stand_at
from helpers.garbage import (
    Scenario,
    Thing,
    assert_its_task_is_freed,
    assert_no_cyclic_garbage,
    counts_references,
)
from helpers.loops import on_one_loop
from helpers.places import start, suspend
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, until, wait_until
from lab.soak import resident

from threadhop import (
    AsyncExecutor,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    on_cancel,
    threadpool,
)
from threadhop._away import all_away_of
from threadhop._loops._attributes import LOOP

SCENARIOS: list[Scenario] = []


def scenario(func: Scenario) -> Scenario:
    SCENARIOS.append(func)
    return func


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


async def block_that_never_begins(pool: Executor, gate: Gate) -> None:
    gate.reached.set()
    async with threadpool(pool):
        raise AssertionError("the body ran")


# --- blocks


@scenario
async def nested(outer: Executor, inner: Executor) -> object:
    assert await threadpool(outer)(len)("a") == 1
    async with threadpool(outer), threadpool(inner), threadpool(outer):
        return Thing()


@scenario
async def nested_raising(outer: Executor, inner: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(outer), threadpool(inner):
            raise LookupError


@scenario
async def refused_await(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        with suppress(RuntimeError):
            await asyncio.sleep(0)


@scenario
async def cancelled_and_raising(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            raise LookupError

    await cancelled(block(), gate)


@scenario
async def cancelled_queued(outer: Executor, inner: Executor) -> None:
    alone, gate = Gate(), Gate()

    async def block() -> None:
        async with threadpool(outer):
            await block_that_never_begins(inner, gate)

    with busy(inner):
        await cancelled(block_that_never_begins(inner, alone), alone)
        await cancelled(block(), gate)


@scenario
async def refused_or_dropped(_: Executor, __: Executor) -> None:
    pool, shut_down = HeldExecutor(), ThreadPoolExecutor(1)
    shut_down.shutdown()

    async def block() -> None:
        for each in (shut_down, pool):
            with suppress(RuntimeError):
                await block_that_never_begins(each, Gate())

    task = start(block())
    await until(lambda: pool.jobs)
    pool.drop()
    await task
    pool.jobs.clear()


# --- loop parts


@scenario
async def nested_parts(outer: Executor, inner: Executor) -> None:
    async with threadpool(outer):
        for _ in range(5):
            async with eventloop():
                await suspend()
        async with eventloop(), threadpool(inner), eventloop(), threadpool(outer):
            pass


@scenario
async def nested_parts_raising(outer: Executor, inner: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(outer), eventloop(), threadpool(inner), eventloop():
            raise LookupError


async def rows(pool: Executor) -> AsyncGenerator[int]:
    async with threadpool(pool), eventloop():
        yield 1
        yield 2


@scenario
async def generator(pool: Executor, _: Executor) -> None:
    async with aclosing(rows(pool)) as source:
        async for _ in source:
            break


@scenario
async def adopted_generator(pool: Executor, _: Executor) -> None:
    source = rows(pool)

    async def take() -> None:
        await anext(source)

    async def close() -> None:
        await source.aclose()

    for step in (take, close):
        await start(step())


@scenario
async def adopted_watch(pool: Executor, _: Executor) -> None:
    """A generator that another task has taken over, and is cancelled in its ``on_cancel``."""
    told = threading.Event()

    async def items() -> AsyncGenerator[int]:
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


@scenario
async def cancelled_part(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool), eventloop():
            await stand_at(gate)

    await cancelled(block(), gate)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.001), threadpool(pool), eventloop():
            await stand_at(Gate())


async def part_that_never_begins(pool: Executor, *, on_its_way: bool) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            async with eventloop():
                raise AssertionError("the part ran")

    await cancelled(block(), gate, on_its_way=on_its_way)


@scenario
async def cancelled_before_its_part(pool: Executor, _: Executor) -> None:
    await part_that_never_begins(pool, on_its_way=False)


@scenario
async def cancelled_on_its_way(pool: Executor, _: Executor) -> None:
    await part_that_never_begins(pool, on_its_way=True)


@scenario
async def cancelled_queued_in_a_part(outer: Executor, inner: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(outer), eventloop():
            await block_that_never_begins(inner, gate)

    with busy(inner):
        await cancelled(block(), gate)


# --- calls of the loop


async def fail_later() -> None:
    await suspend()
    raise OopsError


@scenario
async def calls_of_the_loop(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        exec_in_eventloop(suspend)
    for func in (oops, fail_later):
        with suppress(OopsError):
            async with threadpool(pool):
                exec_in_eventloop(func)


@scenario
async def cancelled_call_of_the_loop(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            exec_in_eventloop(stand_at, gate)

    await cancelled(block(), gate)


# --- calls in an executor

FUTURES: list[Callable[..., Any]] = [exec_in_executor, exec_in_executor_threading_future]


@scenario
async def call(one: Executor, _: Executor) -> None:
    for func in (plain, twice):
        await exec_in_executor(one, func, 1)
        await AsyncExecutor(one).run(func, 1)
    await exec_in_executor(one, exec_in_eventloop, twice, 1)


@scenario
async def failing_call(one: Executor, _: Executor) -> None:
    for awaitable in (exec_in_executor(one, oops), AsyncExecutor(one).run(oops)):
        with suppress(OopsError):
            await awaitable


@scenario
async def cancelled_or_refused_call(one: Executor, _: Executor) -> None:
    with busy(one):
        for start_call in FUTURES:
            start_call(one, plain, 1).cancel()
    for start_call in FUTURES:
        with suppress(OopsError):
            start_call(HeldExecutor(before_submit=oops), plain, 1)


@scenario
async def call_that_a_thread_waits_for(one: Executor, other: Executor) -> None:
    def wait(func: Callable[..., Any], *args: Any) -> None:
        with suppress(OopsError):
            exec_in_executor_threading_future(one, func, *args).result(LIMIT)

    for each in ((plain, 1), (twice, 1), (oops,)):
        await asyncio.wrap_future(other.submit(wait, *each))


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)


@counts_references
@each_scenario
def test_a_scenario_leaves_no_cyclic_garbage_and_its_task_is_freed(scenario: Scenario) -> None:
    """With the collector off; the task with its last reference."""
    assert_no_cyclic_garbage(scenario)
    assert_its_task_is_freed(scenario)


@each_scenario
@on_one_loop
async def test_no_worker_is_noted_as_away_after_a_scenario(
    scenario: Scenario, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Or the warning that all of them are would come too often."""
    with executor_class(1) as one, executor_class(1) as other:
        await scenario(one, other)
        for pool in (one, other):
            assert not all_away_of(pool)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_hundred_thousand_blocks_do_not_grow_the_process() -> None:
    """After a warm-up of a fifth, the rest adds less than 8 MiB, which is 100 bytes a block."""

    async def block(pool: ThreadPoolExecutor) -> None:
        async with threadpool(pool):
            pass

    async def blocks(a: ThreadPoolExecutor, b: ThreadPoolExecutor, rounds: int) -> int:
        for _ in range(rounds):
            await nested(a, b)
            await nested_raising(a, b)
            task = start(block(a))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
        gc.collect()
        return resident()

    async def main() -> int:
        with ThreadPoolExecutor(2) as a, ThreadPoolExecutor(2) as b:
            before = await blocks(a, b, 4_000)
            return await blocks(a, b, 16_000) - before

    grown = asyncio.run(main())
    # PyPy's arenas and compiled code reach their plateau late.
    bound = 100_000 if sys.implementation.name == "pypy" else 8_192
    assert grown < bound, f"{grown} KiB"
