"""A call that has ended, or was cancelled, leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import KINDS, OopsError, error_of, oops, plain, twice, wrapped
from helpers.garbage import (
    IS_PYPY,
    Scenario,
    Thing,
    assert_no_cyclic_garbage,
    collect_until,
    counts_references,
)
from helpers.loops import LoopKind
from helpers.steps import LIMIT, HeldExecutor, busy, turns, wait_until

from threadhop import (
    AsyncExecutor,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)

FUTURES = {name: kind.start for name, kind in KINDS.items() if not kind.waits}

each_future = pytest.mark.parametrize("start", FUTURES.values(), ids=FUTURES)


@each_future
@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_future_keeps_nothing_of_the_call(
    loops: LoopKind, executor: Executor, start: Callable[..., Any], asynchronous: bool, ending: str
) -> None:
    """The arguments are free when the call has ended, although somebody keeps the future."""
    refs: list[weakref.ref[Thing]] = []

    def work(thing: Thing) -> str:
        if ending == "raises":
            raise OopsError
        return "result"

    async def work_async(thing: Thing) -> str:
        return work(thing)

    def begin() -> Any:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return start(executor, work_async if asynchronous else work, thing)

    async def main() -> None:
        future = begin()
        if ending == "raises":
            # As everywhere: an error keeps the frames that it went through.
            (await error_of(future)).__traceback__ = None
            if hasattr(future, "_exception_tb"):  # In pure Python the future keeps it, too.
                future._exception_tb = None
        else:
            assert await wrapped(future) == "result"
        collect_until(lambda: refs[0]() is None)

    loops.run(main)


@each_future
def test_a_queued_call_that_was_cancelled_keeps_nothing(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], start: Callable[..., Any]
) -> None:
    """The executor may hold the job for long: the worker is still busy."""
    refs: list[weakref.ref[Any]] = []

    def begin_and_cancel(pool: Executor) -> None:
        thing = Thing()
        future = start(pool, print, thing)
        refs.extend([weakref.ref(thing), weakref.ref(future)])
        future.cancel()

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            begin_and_cancel(pool)
            await turns()
            collect_until(lambda: [ref() for ref in refs] == [None, None])

    loops.run(main)


def test_an_idle_worker_keeps_nothing_of_the_last_call(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    refs: list[weakref.ref[Thing]] = []

    async def make() -> Thing:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return thing

    async def main() -> None:
        with executor_class(1) as pool:
            await exec_in_executor(pool, make)
            await turns()
            collect_until(lambda: refs[0]() is None)

    asyncio.run(main())


# Scenarios that leave no garbage: each of them makes a few calls.


async def _returns(one: Executor, _: Executor) -> None:
    await exec_in_executor(one, plain, 1)
    await exec_in_executor(one, twice, 1)
    await AsyncExecutor(one).run(twice, 1)


async def _raises(one: Executor, _: Executor) -> None:
    for awaitable in (exec_in_executor(one, oops), AsyncExecutor(one).run(oops)):
        with contextlib.suppress(OopsError):
            await awaitable


async def _is_cancelled(one: Executor, _: Executor) -> None:
    with busy(one):
        exec_in_executor(one, plain, 1).cancel()
        exec_in_executor_threading_future(one, plain, 1).cancel()


async def _is_refused(_: Executor, __: Executor) -> None:
    executor = HeldExecutor(before_submit=oops)
    for start in FUTURES.values():
        with contextlib.suppress(OopsError):
            start(executor, plain, 1)


async def _calls_the_loop(one: Executor, _: Executor) -> None:
    await exec_in_executor(one, exec_in_eventloop, twice, 1)


async def _waits_in_a_thread(one: Executor, other: Executor) -> None:
    def wait(func: Callable[..., Any], *args: Any) -> None:
        with contextlib.suppress(OopsError):
            exec_in_executor_threading_future(one, func, *args).result(LIMIT)

    for call in ((plain, 1), (twice, 1), (oops,)):
        await asyncio.wrap_future(other.submit(wait, *call))


@counts_references
@pytest.mark.parametrize(
    "scenario",
    [_returns, _raises, _is_cancelled, _is_refused, _calls_the_loop, _waits_in_a_thread],
)
def test_a_call_leaves_no_cyclic_garbage(scenario: Scenario) -> None:
    assert_no_cyclic_garbage(scenario)


def test_an_executor_that_made_calls_is_freed(executor_class: type[ThreadPoolExecutor]) -> None:
    """The threads end with the executor, also if nobody shut it down."""
    refs: list[weakref.ref[Any]] = []

    async def main() -> threading.Thread:
        pool = executor_class(1)
        refs.append(weakref.ref(pool))
        return await exec_in_executor(pool, threading.current_thread)

    thread = asyncio.run(main())
    if IS_PYPY and executor_class is ThreadPoolExecutor:
        # Its queue cannot be entered twice: a weak callback that finds the worker on its way into
        # the wait locks it up for good.
        wait_until(lambda: sys._current_frames()[thread.ident].f_code.co_name == "wait")
    collect_until(lambda: refs[0]() is None)
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_loop_that_made_calls_is_freed(executor: Executor) -> None:
    async def main() -> weakref.ref[Any]:
        await exec_in_executor(executor, twice, 1)
        await exec_in_executor(None, twice, 1)
        return weakref.ref(asyncio.get_running_loop())

    ref = asyncio.run(main())
    collect_until(lambda: ref() is None)
