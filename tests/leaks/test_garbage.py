"""Nothing stays behind a block: no cycles for the collector, no objects of the body, no threads.

PyPy has no reference counts, so everything is garbage there until it is collected; what is asked
of it here is that things are collectable.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from helpers.garbage import (
    IS_PYPY,
    MAY_DEFER,
    Scenario,
    Thing,
    assert_its_task_is_freed,
    assert_no_cyclic_garbage,
    collect,
    collect_until,
    counts_references,
)
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until

import threadhop._block_job
from threadhop import threadpool

closes_what_it_collects = pytest.mark.skipif(
    IS_PYPY, reason="PyPy frees a suspended coroutine without closing it, whatever it awaits"
)


async def plain(pool: Executor, _: Executor) -> None:
    async with threadpool(pool):
        pass


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
    async def block() -> None:
        async with threadpool(pool):
            raise AssertionError("the body ran")

    with busy(pool):
        task = asyncio.get_running_loop().create_task(block())
        await turns(2)
        task.cancel()
        await turns(4)
        assert task.cancelled()


async def cancelled_running(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()

    task = asyncio.get_running_loop().create_task(block())
    await until(gate.reached.is_set)
    task.cancel()
    gate.open()
    await until(task.done)
    assert task.cancelled()


async def cancelled_and_raising(pool: Executor, _: Executor) -> None:
    gate = Gate()

    async def block() -> None:
        async with threadpool(pool):
            gate.stop_here()
            raise LookupError

    task = asyncio.get_running_loop().create_task(block())
    await until(gate.reached.is_set)
    task.cancel()
    gate.open()
    await until(task.done)
    assert task.cancelled()


async def cancelled_nested_queued(outer: Executor, inner: Executor) -> None:
    asked = threading.Event()

    async def block() -> None:
        async with threadpool(outer):
            asked.set()
            async with threadpool(inner):
                raise AssertionError("the body ran")

    with busy(inner):
        task = asyncio.get_running_loop().create_task(block())
        await until(asked.is_set)
        task.cancel()
        await until(task.done)
        assert task.cancelled()


async def submit_after_shutdown(_: Executor, __: Executor) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with suppress(RuntimeError):
        async with threadpool(pool):
            raise AssertionError("the body ran")


async def dropped(_: Executor, __: Executor) -> None:
    pool = HeldExecutor()

    async def block() -> None:
        with suppress(RuntimeError):
            async with threadpool(pool):
                raise AssertionError("the body ran")

    task = asyncio.get_running_loop().create_task(block())
    await turns(2)
    pool.drop()
    await until(task.done)
    task.result()
    pool.jobs.clear()


SCENARIOS: list[Scenario] = [
    plain,
    returning,
    raising,
    nested,
    nested_raising,
    refused_await,
    decorated,
    cancelled_queued,
    cancelled_running,
    cancelled_and_raising,
    cancelled_nested_queued,
    submit_after_shutdown,
    dropped,
]


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_block_leaves_no_cyclic_garbage(scenario: Scenario) -> None:
    """With the collector off, what a block made is freed by reference counts alone."""
    assert_no_cyclic_garbage(scenario)


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_a_task_with_blocks_is_freed_with_its_last_reference(scenario: Scenario) -> None:
    assert_its_task_is_freed(scenario)


def test_what_the_body_made_is_freed_when_the_function_ends(
    loops: LoopKind, executor: Executor
) -> None:
    """The worker that ran the body keeps nothing of it, although it is idle and alive."""
    refs: list[weakref.ref[Thing]] = []

    async def block() -> None:
        async with threadpool(executor):
            thing = Thing()
            refs.append(weakref.ref(thing))

    async def main() -> None:
        gc.disable()
        try:
            await asyncio.get_running_loop().create_task(block())
            await turns()
            if IS_PYPY or MAY_DEFER:
                collect()
            assert refs[0]() is None
        finally:
            gc.enable()

    loops.run(main)


def test_an_error_of_the_body_and_its_frames_are_freed_once_it_is_handled(
    loops: LoopKind, executor: Executor
) -> None:
    refs: list[weakref.ref[Thing]] = []

    async def block() -> None:
        thing = Thing()
        refs.append(weakref.ref(thing))
        async with threadpool(executor):
            raise LookupError(thing)

    async def main() -> None:
        gc.disable()
        try:
            with pytest.raises(LookupError) as caught:
                await block()
            del caught
            await turns()
            if IS_PYPY or MAY_DEFER:
                collect()
            # pytest.raises itself leaves a cycle: one collection is its due.
            collect()
            assert refs[0]() is None
        finally:
            gc.enable()

    loops.run(main)


def test_a_cancelled_job_that_stays_in_the_queue_keeps_nothing_of_its_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The executor may hold the job for long: the worker is still busy."""
    refs: list[weakref.ref[Any]] = []

    async def block(pool: Executor) -> None:
        thing = Thing()
        refs.append(weakref.ref(thing))
        async with threadpool(pool):
            raise AssertionError("the body ran")

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            task = asyncio.get_running_loop().create_task(block(pool))
            refs.append(weakref.ref(task))
            await turns()
            task.cancel()
            await until(task.done)
            del task
            await turns()
            collect_until(lambda: [ref() for ref in refs] == [None, None])

    loops.run(main)


def test_a_context_variable_that_refers_to_the_task_does_not_keep_it_alive(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """The Context of the worker belongs to the task. It is a cycle, so the collector frees it."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    refs: list[weakref.ref[Any]] = []

    async def block() -> None:
        task = asyncio.current_task()
        refs.append(weakref.ref(task))
        async with threadpool(executor):
            variable.set(task)
        async with threadpool(executor):
            assert variable.get() is task

    async def main() -> None:
        await asyncio.get_running_loop().create_task(block())
        await turns()
        collect_until(lambda: refs[0]() is None)

    current_task_loops.run(main)


@pytest.mark.parametrize("default", [False, True])
def test_a_loop_that_ran_blocks_is_freed(executor: Executor, default: bool) -> None:
    async def main() -> weakref.ref[Any]:
        async with threadpool(None if default else executor):
            pass
        return weakref.ref(asyncio.get_running_loop())

    ref = asyncio.run(main())
    collect_until(lambda: ref() is None)


def test_an_executor_that_ran_blocks_is_freed(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its threads end with it, also if nobody shut it down."""
    refs: list[weakref.ref[Any]] = []
    threads: list[threading.Thread] = []

    async def main() -> None:
        pool = executor_class(1)
        refs.append(weakref.ref(pool))
        async with threadpool(pool):
            threads.append(threading.current_thread())

    loops.run(main)
    collect_until(lambda: refs[0]() is None)
    threads[0].join(LIMIT)
    assert not threads[0].is_alive()


@closes_what_it_collects
def test_an_abandoned_task_closes_its_coroutine(
    executor: Executor, expect_loop_errors: list[Any]
) -> None:
    """Nobody runs the loop any more, and nobody holds the task: its finally still runs."""
    gate = Gate()
    closed = threading.Event()

    async def block() -> None:
        try:
            async with threadpool(executor):
                gate.stop_here()
        finally:
            closed.set()

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(block()))
        await until(gate.reached.is_set)

    tasks: list[Any] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gate.open()
    executor.submit(str).result(LIMIT)
    executor.submit(str).result(LIMIT)
    tasks.clear()
    del loop
    collect_until(closed.is_set)


@closes_what_it_collects
def test_a_coroutine_that_is_collected_in_a_body_leaves_the_blocks_of_that_body_alone(
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A lost task is closed wherever the collector happens to run, in the middle of its blocks.

    Here that is the body of another task, in a block that is the same object as the lost task's.
    """
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01)
    pool = executor_class(2)
    never = HeldExecutor()
    shared = threadpool(pool)
    steps: list[str] = []
    lost: list[Any] = []

    async def lose_me() -> None:
        try:
            async with shared, threadpool(never):
                steps.append("lost task went on")
        finally:
            steps.append("lost task closed")

    async def lose() -> None:
        lost.append(asyncio.get_running_loop().create_task(lose_me()))
        await until(lambda: never.jobs)

    async def bystander() -> str:
        loop_thread = threading.get_ident()
        async with shared:
            async with shared:
                lost.clear()
                collect_until(lambda: steps)
                assert steps == ["lost task closed"]
            assert threading.get_ident() != loop_thread, "the inner exit left the outer block"
        assert threading.get_ident() == loop_thread
        return "undisturbed"

    with pool:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(lose())
        loop.close()
        del loop
        # Both workers are free: the one that was parked has seen that its loop is closed.
        with busy(pool, 2):
            never.jobs.clear()
        assert asyncio.run(bystander()) == "undisturbed"
