"""KeyboardInterrupt at each moment at which trio lets it come: no task and no worker is lost."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from helpers.garbage import collect
from helpers.interruptions import Interruption
from helpers.places import on_loop_thread

from threadhop import AsyncExecutor, WorkerPool, eventloop, exec_in_eventloop, threadpool

trio: Any = pytest.importorskip("trio")

#: Each moment costs a run: an interpreter that traces slowly looks at every fifth.
STRIDE = 1 if sys.implementation.name == "cpython" else 5

OURS = [
    importlib.import_module(f"threadhop.{name}")
    for name in (
        *("_async_executor", "_blocks", "_block_job", "_call_job", "_functions", "_strand"),
        *("_traps", "_variables", "_loops", "_loops._trio", "_loops._trio_calls"),
        *("_loops._trio_futures", "_loops._trio_suspension", "_loops._trio_traps"),
    )
]


def interrupt() -> None:
    """As trio's signal handler does it."""
    if not trio.lowlevel.currently_ki_protected():
        raise KeyboardInterrupt


async def block(pool: WorkerPool) -> None:
    async with threadpool(pool):
        assert not on_loop_thread()
        try:
            async with eventloop():
                assert on_loop_thread()
                await trio.sleep(0)
        finally:
            # PyPy cannot be told not to look for signals before the first line of an exit.
            assert not on_loop_thread() or sys.implementation.name == "pypy"
        assert not on_loop_thread()
        exec_in_eventloop(trio.sleep, 0)
        assert not on_loop_thread()
    assert on_loop_thread()


async def call(pool: WorkerPool) -> None:
    assert await AsyncExecutor(pool).run(exec_in_eventloop, on_loop_thread)


async def cancelled(pool: WorkerPool) -> None:
    with trio.CancelScope() as scope:
        async with threadpool(pool):
            exec_in_eventloop(scope.cancel)
    assert scope.cancelled_caught


async def in_time(job: Callable[[WorkerPool], Coroutine[Any, Any, None]], pool: WorkerPool) -> None:
    with trio.fail_after(5):
        await job(pool)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:coroutine.*was never awaited:RuntimeWarning")
@pytest.mark.parametrize("job", [block, call, cancelled])
def test_an_interruption_at_any_moment_loses_nothing(
    job: Callable[[WorkerPool], Coroutine[Any, Any, None]],
) -> None:
    moment, happened, came = 0, True, 0
    while happened:
        with WorkerPool(2, max_threads=2) as pool:
            interruption = Interruption(moment, interrupt, *OURS)
            try:
                with interruption:
                    trio.run(in_time, job, pool)
            except KeyboardInterrupt:
                came += 1
            trio.run(in_time, block, pool)
            happened = interruption.happened
        moment += STRIDE
    assert came > 20 / STRIDE, "nothing was looked at"
    collect()  # While the warning is expected: PyPy would tell another test.
