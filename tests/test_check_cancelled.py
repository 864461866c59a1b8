"""``check_cancelled()``: the checkpoint of code that cannot await."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.cancelling import run_and_cancel_at, run_with_task
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns

from threadhop import WorkerPool, check_cancelled, exec_in_eventloop, threadpool


@pytest.fixture
def executor_class() -> type[WorkerPool]:
    """The kind of pool makes no difference."""
    return WorkerPool


# --- in the body of a block


@pytest.mark.parametrize(
    ("messages", "args"),
    [(("stop",), ("stop",)), ((None,), ()), (("first", "second", None), ("first",))],
    ids=["one", "none", "several"],
)
def test_swallowing_it_does_not_help(
    loops: LoopKind, executor: Executor, messages: tuple[str | None, ...], args: tuple[str, ...]
) -> None:
    """Each check raises a new error, with the message of the exit, in whatever the body calls."""
    gate = Gate()
    errors: list[BaseException] = []

    def in_a_generator() -> None:
        list(check_cancelled() for _ in "a")  # noqa: C400

    async def in_a_coroutine() -> None:
        in_a_generator()

    async def block() -> None:
        try:
            async with threadpool(executor):
                await in_a_coroutine()
                gate.stop_here()
                for check in (check_cancelled, in_a_generator, in_a_coroutine):
                    with pytest.raises(asyncio.CancelledError) as caught:
                        if (coroutine := check()) is not None:
                            await coroutine
                    errors.append(caught.value)
        except asyncio.CancelledError as error:
            errors.append(error)
            raise

    assert run_and_cancel_at(gate, loops, block, *messages).cancelled()
    assert [error.args for error in errors] == [args] * 4
    assert len(set(map(id, errors))) == 4


def test_the_error_that_it_raised_is_the_one_that_leaves_the_block(
    loops: LoopKind, executor: Executor
) -> None:
    """Delivered once: the exit does not wrap it into another, so the traceback shows the check."""
    gate = Gate()
    raised: list[BaseException] = []

    async def block() -> str:
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                gate.stop_here()
                try:
                    check_cancelled()
                except asyncio.CancelledError as error:
                    raised.append(error)
                    raise
        assert caught.value is raised[0]
        assert caught.value.__context__ is None
        await turns()  # The error does not come again,
        async with threadpool(executor):
            check_cancelled()  # although Task.cancelling() still counts it.
        return "usable"

    task = run_and_cancel_at(gate, loops, block, "stop")
    assert task.result() == "usable"
    assert task.cancelling() == 1


# --- on the loop


@pytest.mark.parametrize("message", ["pending", None])
def test_on_the_loop_it_raises_what_the_next_await_would_raise(
    loops: LoopKind, message: str | None
) -> None:
    """The ``await`` raises the pending cancellation all the same."""

    async def body(task: asyncio.Task[Any]) -> str:
        task.cancel(message)
        for _ in range(2):
            with pytest.raises(asyncio.CancelledError) as caught:
                check_cancelled()
            assert caught.value.args == (() if message is None else (message,))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        check_cancelled()  # Nothing is pending any more.
        return "went on"

    assert run_with_task(loops, body).result() == "went on"


def test_without_a_cancellation_it_does_nothing(loops: LoopKind, executor: Executor) -> None:
    """In a task, in a callback of the loop, in a function that was sent there, in any thread."""

    async def main() -> str:
        check_cancelled()
        await turns()
        check_cancelled()
        loop = asyncio.get_running_loop()
        called = loop.create_future()

        def callback() -> None:
            check_cancelled()
            called.set_result("went on")

        loop.call_soon(callback)
        async with threadpool(executor):
            exec_in_eventloop(check_cancelled)
            check_cancelled()
        return await called

    assert loops.run(main) == "went on"
    check_cancelled()


# --- in other tasks and threads


def test_what_does_not_work_for_the_task_knows_nothing_of_its_cancellation(
    loops: LoopKind, one: Executor, other: Executor
) -> None:
    """Another loop that runs in the body, a thread that the body starts, a job; the next job."""
    gate = Gate()
    went_on = []

    def check(what: str) -> None:
        check_cancelled()
        went_on.append(what)

    async def task_of_another_loop() -> None:
        check("task")

    async def block() -> None:
        async with threadpool(one):
            gate.stop_here()
            asyncio.run(task_of_another_loop())
            thread = threading.Thread(target=check, args=("thread",))
            thread.start()
            thread.join(LIMIT)
            other.submit(check, "job").result(LIMIT)
            with pytest.raises(asyncio.CancelledError):
                check_cancelled()

    assert run_and_cancel_at(gate, loops, block, None).cancelled()
    one.submit(check, "next job").result(LIMIT)
    assert went_on == ["task", "thread", "job", "next job"]
