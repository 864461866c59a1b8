"""Nothing stays behind a loop part or a call of the loop: no cycles, no objects, no threads."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any

import pytest
from helpers.garbage import (
    Scenario,
    Thing,
    assert_its_task_is_freed,
    assert_no_cyclic_garbage,
    collect_until,
    counts_references,
)
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

import threadhop._block_job
from threadhop import eventloop, exec_in_eventloop, threadpool
from threadhop._loops._attributes import LOOP


async def suspend() -> None:
    await asyncio.sleep(0)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def part(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        async with eventloop():
            await suspend()


async def many_parts(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        for _ in range(5):
            async with eventloop():
                await suspend()


async def raising(pool: Executor, _: Executor) -> None:
    with suppress(LookupError):
        async with threadpool(pool):
            async with eventloop():
                raise LookupError


async def nested(outer: Executor, inner: Executor) -> None:
    async with threadpool(outer), eventloop(), threadpool(inner), eventloop(), threadpool(outer):
        pass


async def nested_raising(outer: Executor, inner: Executor) -> None:
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
        await asyncio.get_running_loop().create_task(step())


async def call(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        exec_in_eventloop(str)


async def coroutine_call(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        exec_in_eventloop(suspend)


async def failing_call(pool: Executor, _: Executor) -> None:
    def fail() -> None:
        raise LookupError

    with suppress(LookupError):
        async with threadpool(pool):
            exec_in_eventloop(fail)


async def failing_coroutine_call(pool: Executor, _: Executor) -> None:
    async def fail() -> None:
        await suspend()
        raise LookupError

    with suppress(LookupError):
        async with threadpool(pool):
            exec_in_eventloop(fail)


async def cancelled_part(pool: Executor, _: Executor) -> None:
    reached = threading.Event()

    async def block() -> None:
        async with threadpool(pool), eventloop():
            reached.set()
            await forever()

    task = asyncio.get_running_loop().create_task(block())
    await until(reached.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()


async def cancelled_before_its_part(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            with suppress(asyncio.CancelledError):
                async with eventloop():
                    raise AssertionError("the part ran")

    task = asyncio.get_running_loop().create_task(block())
    await until(gate.reached.is_set)
    task.cancel()
    gate.open()
    await until(task.done)
    assert task.cancelled()


async def cancelled_on_its_way(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            async with eventloop():
                raise AssertionError("the part ran")

    loop: Any = asyncio.get_running_loop()
    task = loop.create_task(block())
    await until(gate.reached.is_set)
    gate.open()
    wait_until(lambda: len(getattr(loop, LOOP)._queue) == 1)  # the loop stands still
    task.cancel()
    await until(task.done)
    assert task.cancelled()


async def cancelled_queued_in_a_part(outer: Executor, inner: Executor) -> None:
    reached = threading.Event()

    async def block() -> None:
        async with threadpool(outer), eventloop():
            reached.set()
            async with threadpool(inner):
                raise AssertionError("the body ran")

    with busy(inner):
        task = asyncio.get_running_loop().create_task(block())
        await until(reached.is_set)
        await turns(2)
        task.cancel()
        await until(task.done)
        assert task.cancelled()


async def cancelled_call(pool: Executor, _: Executor) -> None:
    reached = threading.Event()

    async def wait() -> None:
        reached.set()
        await forever()

    async def block() -> None:
        async with threadpool(pool):
            exec_in_eventloop(wait)

    task = asyncio.get_running_loop().create_task(block())
    await until(reached.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()


async def timed_out_part(pool: Executor, _: Executor) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.001):
            async with threadpool(pool), eventloop():
                await forever()


SCENARIOS: list[Scenario] = [
    part,
    many_parts,
    raising,
    nested,
    nested_raising,
    generator,
    adopted_generator,
    call,
    coroutine_call,
    failing_call,
    failing_coroutine_call,
    cancelled_part,
    cancelled_before_its_part,
    cancelled_on_its_way,
    cancelled_queued_in_a_part,
    cancelled_call,
    timed_out_part,
]


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_part_leaves_no_cyclic_garbage(scenario: Scenario) -> None:
    """With the collector off, what it made is freed by reference counts alone."""
    assert_no_cyclic_garbage(scenario)


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_task_with_parts_is_freed_with_its_last_reference(scenario: Scenario) -> None:
    assert_its_task_is_freed(scenario)


def test_what_a_call_was_given_and_returned_is_freed_while_the_body_goes_on(
    loops: LoopKind, one_thread: ThreadPoolExecutor
) -> None:
    """Neither the loop nor the worker keeps arguments, result, or the task of the coroutine."""

    async def give_back(thing: Thing) -> tuple[Thing, Thing]:
        await suspend()
        return thing, Thing()

    async def main() -> None:
        gate = Gate()
        refs: list[weakref.ref[Any]] = []

        def call_it() -> None:
            result = exec_in_eventloop(give_back, Thing())
            refs.extend(map(weakref.ref, result))

        async def block() -> None:
            async with threadpool(one_thread):
                call_it()
                gate.stop_here()

        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        await turns()
        collect_until(lambda: [ref() for ref in refs] == [None, None])
        gate.open()
        await task

    loops.run(main)


@pytest.fixture
def one_thread(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1) as pool:
        yield pool


def test_a_parked_worker_does_not_keep_an_abandoned_task(
    executor_class: type[ThreadPoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[Any],
) -> None:
    """Its loop runs on; the task is collected, and then the worker is free."""
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01)
    refs: list[weakref.ref[Any]] = []

    async def block(pool: Executor) -> None:
        thing = Thing()
        refs.append(weakref.ref(thing))
        async with threadpool(pool), eventloop():
            await forever()

    async def main() -> None:
        with executor_class(1) as pool:
            task = asyncio.get_running_loop().create_task(block(pool))
            refs.append(weakref.ref(task))
            await until(lambda: pool.__dict__.get("_threadhop_parked"))
            await turns()
            del task
            collect_until(lambda: [ref() for ref in refs] == [None, None])
            assert pool.submit(str, 1).result(LIMIT) == "1"

    asyncio.run(main())


def test_a_context_variable_that_a_part_sets_to_the_task_does_not_keep_it_alive(
    current_task_loops: LoopKind, one_thread: ThreadPoolExecutor
) -> None:
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    refs: list[weakref.ref[Any]] = []

    async def block() -> None:
        refs.append(weakref.ref(asyncio.current_task()))  # type: ignore[arg-type]
        async with threadpool(one_thread):
            async with eventloop():
                variable.set(asyncio.current_task())
                await suspend()
            assert variable.get() is refs[0]()

    async def main() -> None:
        await asyncio.get_running_loop().create_task(block())
        await turns()
        collect_until(lambda: refs[0]() is None)

    current_task_loops.run(main)


def test_the_parked_workers_of_a_pool_are_noted_only_while_they_are_parked(
    loops: LoopKind, one_thread: ThreadPoolExecutor
) -> None:
    """After errors, cancellations and calls too: or the warning would come too often."""

    async def main() -> None:
        with ThreadPoolExecutor(1) as other:
            for scenario in (part, raising, nested, call, failing_call, cancelled_part):
                await scenario(one_thread, other)
                for pool in (one_thread, other):
                    assert not pool.__dict__.get("_threadhop_parked"), scenario.__name__

    loops.run(main)
