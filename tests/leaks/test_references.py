"""Nothing keeps what a block, a loop part or a call worked on: no worker, no executor, no loop.

PyPy has no reference counts; what is asked of it here is that things are collectable.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from helpers.garbage import IS_PYPY, MAY_DEFER, Thing, collect, collect_until, no_collector
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until

import threadhop._block_job
from threadhop import eventloop, exec_in_eventloop, threadpool
from threadhop._away import all_away_of


@pytest.fixture
def one(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1) as pool:
        yield pool


class Watched:
    """Weak references, and whether all that they refer to is gone."""

    def __init__(self) -> None:
        self.refs: list[weakref.ref[Any]] = []

    def add(self, thing: Any) -> Any:
        self.refs.append(weakref.ref(thing))
        return thing

    def are_gone(self) -> bool:
        assert self.refs
        return all(ref() is None for ref in self.refs)


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_what_the_body_made_is_freed_when_the_function_has_ended(
    loops: LoopKind, executor: Executor, fails: bool
) -> None:
    """The worker that ran the body keeps nothing of it, although it is idle and alive.

    An error, and the frames of its traceback, are freed once it is handled.
    """
    watched = Watched()

    async def block() -> None:
        async with threadpool(executor):
            thing = watched.add(Thing())
            if fails:
                raise LookupError(thing)

    async def main() -> None:
        with no_collector():
            with suppress(LookupError):
                await block()
            await turns()
            if IS_PYPY or MAY_DEFER:
                collect()
            assert watched.are_gone()

    loops.run(main)


def test_what_a_call_was_given_and_returned_is_freed_while_the_body_goes_on(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """Neither the loop nor the worker keeps the arguments or the result."""
    watched = Watched()

    async def give_back(thing: Thing) -> tuple[Thing, Thing]:
        await asyncio.sleep(0)
        return watched.add(thing), watched.add(Thing())

    async def main() -> None:
        gate = Gate()

        async def block() -> None:
            async with threadpool(one):
                exec_in_eventloop(give_back, Thing())
                gate.stop_here()

        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        await turns()
        collect_until(watched.are_gone)
        gate.open()
        await task

    loops.run(main)


def test_a_cancelled_job_that_stays_in_the_queue_keeps_nothing_of_its_task(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The executor may hold the job for long: the worker is still busy."""
    watched = Watched()

    async def block() -> None:
        thing = watched.add(Thing())  # noqa: F841 - a local of the coroutine
        async with threadpool(one):
            raise AssertionError("the body ran")

    async def main() -> None:
        with busy(one):
            task = watched.add(asyncio.get_running_loop().create_task(block()))
            await turns()
            task.cancel()
            await until(task.done)
            del task
            await turns()
            collect_until(watched.are_gone)

    loops.run(main)


@pytest.mark.parametrize("in_part", [False, True], ids=["body", "part"])
def test_a_context_variable_that_refers_to_the_task_does_not_keep_it_alive(
    current_task_loops: LoopKind, one: Executor, in_part: bool
) -> None:
    """The Context of the worker belongs to the task: the collector frees that cycle."""
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")
    watched = Watched()

    async def block() -> None:
        task = watched.add(asyncio.current_task())
        async with threadpool(one):
            if in_part:
                async with eventloop():
                    variable.set(task)
            else:
                variable.set(task)
        async with threadpool(one):
            assert variable.get() is task

    async def main() -> None:
        await asyncio.get_running_loop().create_task(block())
        await turns()
        collect_until(watched.are_gone)

    current_task_loops.run(main)


@pytest.mark.parametrize("default", [False, True])
def test_a_loop_that_ran_blocks_is_freed(executor: Executor, default: bool) -> None:
    watched = Watched()

    async def main() -> None:
        watched.add(asyncio.get_running_loop())
        async with threadpool(None if default else executor):
            pass

    asyncio.run(main())
    collect_until(watched.are_gone)


def test_an_executor_that_ran_blocks_is_freed(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its threads end with it, also if nobody shut it down."""
    watched = Watched()
    threads: list[threading.Thread] = []

    async def main() -> None:
        pool = watched.add(executor_class(1))
        async with threadpool(pool):
            threads.append(threading.current_thread())

    loops.run(main)
    collect_until(watched.are_gone)
    threads[0].join(LIMIT)
    assert not threads[0].is_alive()


def test_a_parked_worker_does_not_keep_an_abandoned_task(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, expect_loop_errors: list[Any]
) -> None:
    """Its loop runs on; the task is collected, and then the worker is free."""
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01)
    watched = Watched()

    async def block() -> None:
        thing = watched.add(Thing())  # noqa: F841 - a local of the coroutine
        async with threadpool(one), eventloop():
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = watched.add(asyncio.get_running_loop().create_task(block()))
        await until(lambda: all_away_of(one))
        await turns()
        del task
        collect_until(watched.are_gone)
        assert one.submit(str, 1).result(LIMIT) == "1"

    asyncio.run(main())


@pytest.mark.skipif(
    IS_PYPY, reason="PyPy frees a suspended coroutine without closing it, whatever it awaits"
)
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
