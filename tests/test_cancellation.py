"""A cancelled task hears of it at the entry or at the exit of a block, never in between."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from helpers.cancelling import error_of, forever, run_and_cancel_at, run_with_task
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import check_cancelled, threadpool

here = threading.get_ident

# --- before the entry


@pytest.mark.parametrize("message", ["enough", None])
def test_a_task_that_cancelled_itself_never_begins_the_body(
    loops: LoopKind, message: str | None
) -> None:
    """1 cancel, 2 the entry, where a worker that is asked would run the body at once."""
    began = []

    def be_fast() -> None:
        executor.start()
        executor.shutdown()

    executor = HeldExecutor(after_submit=be_fast)

    async def body(task: asyncio.Task[Any]) -> None:
        loop_thread = here()
        task.cancel(message)
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                began.append(True)
        assert here() == loop_thread
        assert caught.value.args == (() if message is None else (message,))

    run_with_task(loops, body).result()
    assert not began


def test_a_cancellation_that_was_caught_before_the_block_does_not_come_again(
    loops: LoopKind, executor: Executor
) -> None:
    async def body(task: asyncio.Task[Any]) -> str:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await forever()
        async with threadpool(executor):
            return "ran"

    assert run_with_task(loops, body).result() == "ran"


# --- while the block waits for a worker


@pytest.mark.parametrize("named", [True, False], ids=["its executor", "the default executor"])
def test_a_queued_block_is_cancelled_before_the_worker_is_free(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor], named: bool
) -> None:
    """The task does not wait for its turn, the body never runs, and the task is usable."""
    told, began = [], []

    async def block(pool: Executor | None) -> str:
        try:
            async with threadpool(pool):
                began.append(True)
        except asyncio.CancelledError as error:
            told.append((here(), error.args))
        async with threadpool(pool):
            return "second"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = executor_class(1)
        loop.set_default_executor(pool)
        with busy(pool):
            task = loop.create_task(block(pool if named else None))
            await turns()
            task.cancel("no longer")
            await until(lambda: told)  # The worker is still busy.
        assert await task == "second"
        assert told == [(here(), ("no longer",))]
        assert not began
        pool.shutdown()

    current_task_loops.run(main)


# --- while the body runs


#: PyPy 3.11 itself crashes, with any context manager whose exit raises then.
crashes_pypy = pytest.mark.skipif(sys.implementation.name == "pypy", reason="a fault of PyPy")


@pytest.mark.parametrize(
    "end",
    [
        "its last line",
        "return",
        pytest.param("break", marks=crashes_pypy),
        pytest.param("continue", marks=crashes_pypy),
        "swallows",
        "taken back",
    ],
)
def test_a_running_body_comes_to_its_end_and_then_the_exit_raises(
    loops: LoopKind, executor: Executor, end: str
) -> None:
    """Nothing is raised in the body, whose thread is not abandoned; the exit raises on the loop.

    As with ``asyncio.to_thread``, ``uncancel()`` counts down and unsends nothing.
    """
    gate = Gate()
    steps: list[object] = []

    async def block() -> str | None:
        loop_thread = here()
        try:
            for _ in range(2):
                async with threadpool(executor):
                    try:
                        gate.stop_here()
                    except BaseException as error:
                        steps.append(error)
                    steps.append("body")
                    if end == "return":
                        return "value"
                    if end == "break":
                        break
                    if end == "continue":
                        continue
                    if end == "swallows":
                        with suppress(BaseException):
                            check_cancelled()
            steps.append("after the block")
        except asyncio.CancelledError as error:
            assert here() == loop_thread
            assert error.__context__ is None
            steps.append("cancelled")
            raise
        return None

    async def main() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        assert task.cancel("stop")
        if end == "taken back":
            assert task.uncancel() == 0
        await turns()
        assert not task.done(), "the thread was abandoned"
        gate.open()
        await until(task.done)
        return task

    assert error_of(loops.run(main)).args == ("stop",)
    assert steps == ["body", "cancelled"]


@pytest.mark.parametrize(
    "raised",
    [
        LookupError("body"),
        asyncio.CancelledError("mine"),
        asyncio.CancelledError(),
        ValueError("stop"),
    ],
    ids=["an error", "a CancelledError", "an empty CancelledError", "an error with the message"],
)
def test_what_the_body_raised_is_the_context_of_the_cancellation(
    loops: LoopKind, executor: Executor, raised: BaseException
) -> None:
    """A CancelledError that is not the task's own cancellation, too."""
    gate = Gate()
    seen = []

    async def block() -> None:
        try:
            async with threadpool(executor):
                gate.stop_here()
                raise raised
        except asyncio.CancelledError as error:
            seen.append((error.args, error.__context__))
            raise

    assert run_and_cancel_at(gate, loops, block, "stop").cancelled()
    assert seen == [(("stop",), raised)]


@pytest.mark.parametrize("stronger", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_out_of_the_body_wins_over_the_cancellation(
    loops: LoopKind, executor: Executor, stronger: type[BaseException]
) -> None:
    gate = Gate()

    async def block() -> str:
        loop_thread = here()
        with pytest.raises(stronger, match="mine"):
            async with threadpool(executor):
                gate.stop_here()
                raise stronger("mine")
        assert here() == loop_thread
        await turns()  # The cancellation does not come later instead.
        return "stronger"

    assert run_and_cancel_at(gate, loops, block, "stop").result() == "stronger"


def test_an_interrupt_out_of_submit_wins_over_the_cancellation(loops: LoopKind) -> None:
    """1 cancel, while the job is submitted, 2 Ctrl+C in there, 3 the entry raises."""

    async def body(task: asyncio.Task[Any]) -> None:
        def interrupt() -> None:
            task.cancel("stop")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            async with threadpool(HeldExecutor(before_submit=interrupt)):
                pass

    run_with_task(loops, body).result()


def test_several_cancellations_are_raised_once_and_the_task_is_usable_afterwards(
    loops: LoopKind, executor: Executor
) -> None:
    """Each counts in ``cancelling()``; one error, with the first message, is raised for all."""
    gate = Gate()

    async def block() -> str:
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                gate.stop_here()
        assert caught.value.args == ("first",)
        await turns()
        async with threadpool(executor):
            pass
        await asyncio.sleep(0)
        return "usable"

    task = run_and_cancel_at(gate, loops, block, "first", "second", None)
    assert task.result() == "usable"
    assert task.cancelling() == 3


def test_a_cancellation_between_the_end_of_the_body_and_the_loop_is_not_lost(
    loops: LoopKind, executor: Executor
) -> None:
    """The body has ended, and the task has yet to be resumed."""
    gate = Gate()
    ended = threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            ended.set()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        gate.open()
        assert ended.wait(LIMIT)  # The loop stands still meanwhile.
        task.cancel("late")
        await until(task.done)
        assert task.cancelled()

    loops.run(main)


# --- with the tools of asyncio


class Work:
    """A block that waits in its body until its task is cancelled, then ends or raises."""

    def __init__(self, executor: Executor, end: Callable[[], object]) -> None:
        self.executor = executor
        self.end = end
        self.has_begun = threading.Event()
        self.has_ended = False

    async def __call__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with threadpool(self.executor):
            self.has_begun.set()
            wait_until(task.cancelling)
            self.has_ended = True
            self.end()

    async def then(self, do: Callable[[], object]) -> None:
        """Call *do* when the body has begun."""
        await until(self.has_begun.is_set)
        do()


async def by_a_timeout(work: Work) -> None:
    """``asyncio.timeout`` around the block; nothing stays counted."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(None) as limit:
            end_it = loop.create_task(work.then(lambda: limit.reschedule(loop.time())))
            await work()
    await end_it
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert (work.end is fail) is isinstance(caught.value.__cause__.__context__, LookupError)
    assert task.cancelling() == 0
    await turns()


async def by_wait_for(work: Work) -> None:
    task = asyncio.get_running_loop().create_task(work())
    await until(work.has_begun.is_set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, 0.01)


async def by_a_sibling_in_a_group(work: Work) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            group.create_task(work.then(fail))
    assert caught.group_contains(LookupError, match="on purpose")
    assert task.cancelled()


async def by_the_end_of_the_run(work: Work) -> None:
    """``asyncio.run`` cancels what is left, and waits for it."""
    asyncio.get_running_loop().create_task(work())
    await until(work.has_begun.is_set)


def fail() -> None:
    raise LookupError("on purpose")


@pytest.mark.parametrize(
    "tool",
    [
        by_a_timeout,
        by_wait_for,
        by_a_sibling_in_a_group,
        by_the_end_of_the_run,
    ],
    ids=lambda tool: tool.__name__,
)
@pytest.mark.parametrize("end", [bool, check_cancelled, fail], ids=["returns", "checks", "raises"])
def test_a_body_that_is_cancelled_ends_first(
    current_task_loops: LoopKind,
    executor: Executor,
    tool: Callable[[Work], Awaitable[None]],
    end: Callable[[], object],
) -> None:
    """asyncio's tools mean by a cancellation what they always mean, once the body has ended."""
    work = Work(executor, end)

    async def main() -> None:
        await tool(work)
        if tool is not by_the_end_of_the_run:
            assert work.has_ended

    current_task_loops.run(main)
    assert work.has_ended


# --- nested in a block of another executor


class Pools:
    """Two pools of one worker each."""

    def __init__(self, executor_class: type[ThreadPoolExecutor]) -> None:
        self.outer = executor_class(1)
        self.inner = executor_class(1)

    def __enter__(self) -> Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.shutdown()
        self.inner.shutdown()


@pytest.mark.parametrize("swallows", [False, True], ids=["passes on", "swallows"])
@pytest.mark.parametrize("moment", ["before the entry", "queued", "running", "raising"])
def test_an_inner_block_raises_in_the_outer_workers_thread_and_the_outer_one_on_the_loop(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], moment: str, swallows: bool
) -> None:
    """At the entry or at the exit of the inner block. An error that is swallowed comes again.

    The entry raises at once while the inner worker is busy.
    """
    gate = Gate()
    steps: list[str] = []

    async def block(pools: Pools) -> None:
        loop_thread = here()
        try:
            async with threadpool(pools.outer):
                outer = here()
                if moment == "before the entry":
                    gate.stop_here()
                try:
                    async with threadpool(pools.inner):
                        assert here() != outer
                        gate.stop_here()
                        steps.append("inner body")
                        if moment == "raising":
                            raise LookupError("inner")
                except asyncio.CancelledError as error:
                    assert here() == outer
                    assert error.args == ("stop",)
                    assert isinstance(error.__context__, LookupError) is (moment == "raising")
                    steps.append("inner block")
                    if not swallows:
                        raise
                steps.append("outer body")
        except asyncio.CancelledError as error:
            assert here() == loop_thread
            assert error.args == ("stop",)
            assert isinstance(error.__context__, LookupError) is (
                moment == "raising" and not swallows
            )
            steps.append("outer block")
        await turns()
        steps.append("only once")

    async def main() -> None:
        queued = moment == "queued"
        with Pools(executor_class) as pools, busy(pools.inner) if queued else nullcontext():
            task = asyncio.get_running_loop().create_task(block(pools))
            await until(pools.inner._work_queue.qsize if queued else gate.reached.is_set)
            task.cancel("stop")
            gate.open()
            await task  # If queued: while the inner worker is still busy.
            assert task.cancelling() == 1

    loops.run(main)
    ran = moment in ("running", "raising")
    assert steps == [
        *(["inner body"] if ran else []),
        "inner block",
        *(["outer body"] if swallows else []),
        "outer block",
        "only once",
    ]


def test_a_block_nested_in_one_of_the_same_executor_leaves_the_error_to_the_outer_exit(
    loops: LoopKind, executor: Executor
) -> None:
    """Nothing moved at the inner exit, so the outer body is still the same running body."""
    gate = Gate()
    steps = []

    async def block() -> None:
        async with threadpool(executor):
            async with threadpool(executor):
                gate.stop_here()
                steps.append("inner")
            steps.append("outer")

    assert run_and_cancel_at(gate, loops, block, None).cancelled()
    assert steps == ["inner", "outer"]
