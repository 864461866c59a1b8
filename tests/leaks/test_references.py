"""Nothing keeps what a block, a loop part or a call worked on: no worker, no executor, no loop.

PyPy has no reference counts; what is asked of it here is that things are collectable.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from helpers.calls import OopsError, error_of, wrapped
from helpers.garbage import (
    IS_PYPY,
    MAY_DEFER,
    Thing,
    collect,
    collect_until,
    counts_references,
    no_collector,
)
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import ended, start
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

import threadhop._block_job
from threadhop import (
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
)
from threadhop._away import all_away_of


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
@on_every_loop
async def test_what_the_body_made_is_freed_when_the_function_has_ended(
    executor: Executor, fails: bool
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

    with no_collector():
        with suppress(LookupError):
            await block()
        await turns()
        if IS_PYPY or MAY_DEFER:
            collect()
        assert watched.are_gone()


@on_every_loop
async def test_what_a_call_was_given_and_returned_is_freed_while_the_body_goes_on(
    one: ThreadPoolExecutor,
) -> None:
    """Neither the loop nor the worker keeps the arguments or the result."""
    watched = Watched()

    async def give_back(thing: Thing) -> tuple[Thing, Thing]:
        await asyncio.sleep(0)
        return watched.add(thing), watched.add(Thing())

    gate = Gate()

    async def block() -> None:
        async with threadpool(one):
            exec_in_eventloop(give_back, Thing())
            gate.stop_here()

    task = start(block())
    await until(gate.reached.is_set)
    await turns()
    collect_until(watched.are_gone)
    gate.open()
    await task


#: What is queued with a thing, and can be cancelled.
QUEUED: dict[str, Callable[[Executor, Thing], Any]] = {
    "block": lambda executor, thing: start(block_with(executor, thing)),
    "exec_in_executor": lambda executor, thing: exec_in_executor(executor, print, thing),
    "threading_future": lambda executor, thing: exec_in_executor_threading_future(
        executor, print, thing
    ),
}


async def block_with(executor: Executor, thing: Thing) -> None:
    async with threadpool(executor):
        raise AssertionError("the body ran")


@pytest.mark.parametrize("kind", QUEUED)
@on_every_loop
async def test_a_cancelled_job_that_stays_in_the_queue_keeps_nothing_of_its_task(
    one: Executor, kind: str
) -> None:
    """The executor may hold the job for long: the worker is still busy."""
    watched = Watched()
    with busy(one):
        job = watched.add(QUEUED[kind](one, watched.add(Thing())))
        await turns()
        job.cancel()
        await until(job.done)
        del job
        await turns()
        collect_until(watched.are_gone)


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
        await start(block())
        await turns()
        collect_until(watched.are_gone)

    current_task_loops.run(main)


async def by_block(executor: Executor | None) -> threading.Thread:
    async with threadpool(executor):
        return threading.current_thread()


async def by_call(executor: Executor | None) -> threading.Thread:
    return await exec_in_executor(executor, threading.current_thread)


each_work = pytest.mark.parametrize("work", [by_block, by_call])
Work = Callable[[Executor | None], Coroutine[Any, Any, threading.Thread]]


@each_work
@pytest.mark.parametrize("default", [False, True])
def test_a_loop_that_ran_blocks_or_calls_is_freed(
    executor: Executor, work: Work, default: bool
) -> None:
    watched = Watched()

    async def main() -> None:
        watched.add(asyncio.get_running_loop())
        await work(None if default else executor)

    asyncio.run(main())
    collect_until(watched.are_gone)


@each_work
def test_an_executor_that_ran_blocks_or_calls_is_freed(
    executor_class: type[ThreadPoolExecutor], work: Work
) -> None:
    """Its threads end with it, also if nobody shut it down."""
    watched = Watched()
    thread = asyncio.run(work(watched.add(executor_class(1))))
    if IS_PYPY and executor_class is ThreadPoolExecutor:
        # Its queue cannot be entered twice: a weak callback that finds the worker on its way into
        # the wait locks it up for good.
        ident: Any = thread.ident
        wait_until(lambda: sys._current_frames()[ident].f_code.co_name == "wait")
    collect_until(watched.are_gone)
    thread.join(LIMIT)
    assert not thread.is_alive()


@on_one_loop
async def test_a_parked_worker_does_not_keep_an_abandoned_task(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, expect_loop_errors: list[Any]
) -> None:
    """Its loop runs on; the task is collected, and then the worker is free."""
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01)
    watched = Watched()

    async def block() -> None:
        thing = watched.add(Thing())  # noqa: F841 - a local of the coroutine
        async with threadpool(one), eventloop():
            await asyncio.get_running_loop().create_future()

    task = watched.add(start(block()))
    await until(lambda: all_away_of(one))
    await turns()
    del task
    collect_until(watched.are_gone)
    assert one.submit(str, 1).result(LIMIT) == "1"


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
        lost.append(start(lose_me()))
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


async def ends_with(kind: type[BaseException], where: str, pool: Executor) -> None:
    async with threadpool(pool):
        if where == "body":
            raise kind
        async with eventloop():
            if where == "part":
                raise kind
    raise kind


@counts_references
@pytest.mark.parametrize("where", ["body", "part", "behind the block"])
def test_the_frames_of_the_error_do_not_lead_back_to_the_task(
    loops: LoopKind, one: Executor, where: str
) -> None:
    """An exit has the frames of the loop in its traceback, and so has any in pure Python."""
    # With an exit the frames of a task in pure Python lead back to it, whatever we do.
    kinds = [OopsError] if loops.name == "pytask" else [OopsError, SystemExit]
    loop = loops.loop_factory()
    loop.set_task_factory(loops.task_factory)
    try:
        for kind in kinds:
            with no_collector():
                task: Any = loop.create_task(ends_with(kind, where, one))
                task.add_done_callback(lambda _: loop.stop())
                with suppress(SystemExit):
                    loop.run_forever()
                loop.call_soon(loop.stop)
                loop.run_forever()
                assert type(task.exception()) is kind
                ref = weakref.ref(task)
                del task
                one.submit(str).result()  # By then the worker has left its last job.
                if MAY_DEFER:
                    gc.collect()
                assert ref() is None
    finally:
        loop.close()


@on_every_loop
async def test_a_part_object_that_is_kept_keeps_nothing_of_the_tasks_that_used_it(
    one: Executor,
) -> None:
    part = eventloop()
    known: contextvars.ContextVar[Thing] = contextvars.ContextVar("known")
    watched = Watched()

    async def block() -> None:
        async with threadpool(one):
            known.set(watched.add(Thing()))
            async with part, part:
                pass

    await ended(start(block()))
    await turns()
    collect_until(watched.are_gone)
    assert part is not None


@pytest.mark.parametrize("start_call", [exec_in_executor, exec_in_executor_threading_future])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
@on_every_loop
async def test_a_future_keeps_nothing_of_the_call(
    executor: Executor, start_call: Callable[..., Any], asynchronous: bool, ending: str
) -> None:
    """The arguments are free when the call has ended, although somebody keeps the future."""
    watched = Watched()

    def work(thing: Thing) -> str:
        if ending == "raises":
            raise OopsError
        return "result"

    async def work_async(thing: Thing) -> str:
        return work(thing)

    future = start_call(executor, work_async if asynchronous else work, watched.add(Thing()))
    if ending == "raises":
        # As everywhere: an error keeps the frames that it went through.
        (await error_of(future)).__traceback__ = None
        if hasattr(future, "_exception_tb"):  # In pure Python the future keeps it, too.
            future._exception_tb = None
    else:
        assert await wrapped(future) == "result"
    collect_until(watched.are_gone)


@on_one_loop
async def test_an_idle_worker_keeps_nothing_of_the_last_call(executor: Executor) -> None:
    watched = Watched()

    async def make() -> Thing:
        thing: Thing = watched.add(Thing())
        return thing

    await exec_in_executor(executor, make)
    await turns()
    collect_until(watched.are_gone)
