"""How a block ends: odd exceptions, tasks that never leave it, exits that nobody should make."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import in_block_of, on_loop_thread, on_thread_of, on_worker, suspend
from helpers.pools import on_a_stock_pool
from helpers.steps import Gate, until

from threadhop import (
    AsyncExecutor,
    eventloop,
    exec_in_eventloop,
    iterate_in_executor,
    threadpool,
)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "threadhop" and record.levelno == logging.WARNING
    ]


# --- odd exceptions ---


class OwnBaseException(BaseException):
    pass


ODD = [
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    OwnBaseException,
]


@pytest.mark.trio
@pytest.mark.parametrize("kind", ODD)
@on_every_loop
async def test_an_odd_exception_comes_out_like_any_other(
    one: Executor, other: Executor, kind: type[BaseException]
) -> None:
    """From the worker to the loop, from worker to worker, from a part; all are free then."""
    raised = kind("odd")
    for within in (contextlib.nullcontext(), threadpool(other), eventloop()):
        with pytest.raises(kind) as caught:
            async with threadpool(one):
                try:
                    async with within:
                        if on_loop_thread():
                            await suspend()
                        raise raised
                except kind as error:
                    assert error is raised
                    assert on_thread_of("one")
                    raise
        assert caught.value is raised
        assert raised.__context__ is None
        assert on_loop_thread()
    await in_block_of(one, other)


@on_a_stock_pool
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("left", [True, False], ids=["left", "not-left"])
def test_exit_in_the_body_comes_out_of_the_loop(
    loops: LoopKind,
    executor: Executor,
    kind: type[BaseException],
    left: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ends the run of the loop, from the loop thread; what stands around the block runs.

    The same if the block is never left: then the coroutine ends on the worker.
    """
    ran = []

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = loops.loop_factory()
        loop.set_task_factory(loops.task_factory)
        return loop

    async def main() -> None:
        try:
            if left:
                async with threadpool(executor):
                    raise kind(3)
            await threadpool(executor).__aenter__()
            raise kind(3)
        finally:
            ran.append(on_loop_thread())

    with (
        asyncio.Runner(loop_factory=new_loop, debug=loops.debug) as runner,
        pytest.raises(kind) as caught,
    ):
        runner.run(main())
    assert caught.value.args == (3,)
    assert ran == [left]
    assert len(warnings_of(caplog)) == (not left)


async def exits_in_a_block(pool: Executor) -> None:
    async with threadpool(pool):
        sys.exit(3)


async def exits_in_a_call(pool: Executor) -> None:
    await AsyncExecutor(pool).run(sys.exit, 3)


async def exits_in_an_iterator(pool: Executor) -> None:
    def rows() -> Iterator[int]:
        yield exec_in_eventloop(int)  # From then on the task waits.
        sys.exit(3)

    async for _ in iterate_in_executor(pool, rows):
        pass


@pytest.mark.parametrize("job", [exits_in_a_block, exits_in_a_call, exits_in_an_iterator])
def test_a_task_that_ends_its_loop_by_system_exit_is_not_said_to_be_lost(
    executor_class: type[ThreadPoolExecutor],
    job: Callable[[Executor], Coroutine[Any, Any, None]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It comes out of the loop in the very step that delivers the task, which is over then."""
    loop = asyncio.new_event_loop()
    with executor_class(2) as pool, pytest.raises(SystemExit):
        loop.run_until_complete(job(pool))
    loop.close()
    del loop
    gc.collect()
    assert not caplog.records


def test_exit_in_the_body_ends_the_process_with_its_status() -> None:
    child = run_in_child(
        """
        import asyncio, sys
        from threadhop import threadpool

        async def main():
            try:
                async with threadpool():
                    sys.exit(3)
            finally:
                print("cleanup")

        asyncio.run(main())
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (3, "cleanup\n", "")


# --- a task that ends inside of a block ---


@on_a_stock_pool
@pytest.mark.parametrize("nested", [False, True], ids=["one", "nested"])
@pytest.mark.parametrize("kind", [None, ValueError, asyncio.CancelledError])
@on_every_loop
async def test_a_task_that_ends_inside_a_block_is_finished_with_its_outcome(
    one: Executor,
    other: Executor,
    caplog: pytest.LogCaptureFixture,
    kind: type[BaseException] | None,
    nested: bool,
) -> None:
    """On the loop thread, with all workers free, and one warning that names the block."""
    raised = None if kind is None else kind("kept")
    called = []

    async def child() -> str:
        for executor in (one, other) if nested else (one,):
            await threadpool(executor).__aenter__()
        if raised is not None:
            raise raised
        return "value"

    task = asyncio.get_running_loop().create_task(child())
    task.add_done_callback(lambda _: called.append(on_loop_thread()))
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    if kind is asyncio.CancelledError:
        assert task.cancelled()
    else:
        assert outcome == (raised or "value")
    assert on_loop_thread()
    await in_block_of(one, other)
    assert called == [True]
    (warning,) = warnings_of(caplog)
    assert f"{__file__}:{child.__code__.co_firstlineno + 2}" in warning


@on_a_stock_pool
@on_one_loop
async def test_a_block_that_is_left_says_nothing(
    executor: Executor, other: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.suppress(ValueError):
        async with threadpool(executor), threadpool(other):
            raise ValueError
    assert warnings_of(caplog) == []


# --- leaving where nobody should ---


@on_a_stock_pool
@on_every_loop
async def test_leaving_a_block_in_another_task_is_refused(one: Executor) -> None:
    """The task that is in the block is not touched: its body goes on and leaves as usual."""
    block = threadpool(one)
    gate = Gate()

    async def child() -> bool:
        async with block:
            gate.stop_here()
            assert on_thread_of("one")
        return on_loop_thread()

    task = asyncio.create_task(child())
    await until(gate.reached.is_set)
    with pytest.raises(RuntimeError, match="task"):
        await block.__aexit__(None, None, None)
    gate.open()
    assert await task
    await in_block_of(one)


@pytest.mark.trio
@on_a_stock_pool
@on_every_loop
async def test_leaving_a_block_that_was_never_entered_is_refused(executor: Executor) -> None:
    with pytest.raises(RuntimeError, match="task"):
        await threadpool(executor).__aexit__(None, None, None)
    assert on_loop_thread()
    async with threadpool(executor):
        with pytest.raises(RuntimeError, match="task"):
            await threadpool(executor).__aexit__(None, None, None)
        assert on_worker()
    assert on_loop_thread()


@on_every_loop
async def test_ctrl_c_passes_the_exit_of_a_block_that_the_task_is_not_in(
    executor: Executor,
) -> None:
    """It comes in where a task begins to leave what another one has entered."""
    for error in (KeyboardInterrupt(), SystemExit()):
        exit_args = type(error), error, error.__traceback__
        assert await threadpool(executor).__aexit__(*exit_args) is None


@pytest.mark.parametrize("inner", ["block", "part"])
@on_every_loop
async def test_what_is_left_in_the_wrong_order_brings_the_task_home(
    one: Executor, other: Executor, caplog: pytest.LogCaptureFixture, inner: str
) -> None:
    """As many exits as entries: no worker is kept, and the code is on the loop thread."""
    managers = threadpool(one), threadpool(other) if inner == "block" else eventloop()
    for manager in managers:
        await manager.__aenter__()
    assert on_loop_thread() == (inner == "part")
    for manager in managers:
        await manager.__aexit__(None, None, None)
    await in_block_of(one, other)
    # (All workers of a pool of one were away.)
    assert not [warning for warning in warnings_of(caplog) if "are parked" not in warning]
