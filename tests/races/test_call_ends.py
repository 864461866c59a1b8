"""The end of a call: whoever cancels between two lines of its arrival, the task is resumed once.

A signal handler runs in the loop thread, between any two lines. The tests put one there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from _loops import LoopKind
from _steps import LIMIT, HeldExecutor, turns

from threadhop import AsyncExecutor, exec_in_executor
from threadhop._backends import _futures
from threadhop._backends._futures import LoopFuture


def before(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, hook: Callable[[Any], object]
) -> None:
    """Have *hook* called once, with the future, just before the first line of a function."""
    original = getattr(owner, name)
    hooks = [hook]

    def function(future: Any, *args: Any, **kwargs: Any) -> Any:
        if hooks:
            hooks.pop()(future)
        return original(future, *args, **kwargs)

    monkeypatch.setattr(owner, name, function)


async def outcome_of(task: asyncio.Task[Any]) -> Any:
    """What *task* returned, or the arguments of its cancellation."""
    await asyncio.wait([task], timeout=LIMIT)
    assert task.done(), "it waits for ever"
    try:
        return task.result()
    except asyncio.CancelledError as error:
        return error.args


def test_a_cancel_just_before_the_task_is_known_resumes_it(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the task awaits the future; 2. a handler cancels that; 3. the task leaves its wake-up."""
    before(monkeypatch, LoopFuture, "add_done_callback", lambda future: future.cancel("early"))
    executor = HeldExecutor()

    async def work() -> None:
        await exec_in_executor(executor, str)

    async def main() -> None:
        task = asyncio.create_task(work())
        assert await outcome_of(task) == ("early",)
        await turns()

    loops.run(main)


@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
def test_a_cancel_just_before_the_result_is_set_resumes_the_task_once(
    loops: LoopKind, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """1. the arrival takes the wake-up; 2. a handler cancels; 3. the result comes too late."""
    name = "_set_exception" if fails else "_set_result"
    before(monkeypatch, _futures, name, lambda future: future.cancel("between"))
    resumed: list[None] = []

    async def work() -> Any:
        try:
            return await exec_in_executor(executor, int, "x" if fails else "1")
        finally:
            resumed.append(None)

    async def main() -> None:
        task = asyncio.create_task(work())
        assert await outcome_of(task) == ("between",)
        await turns()
        assert len(resumed) == 1

    loops.run(main)


@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
def test_a_cancel_of_the_task_while_the_result_arrives_is_not_lost(
    loops: LoopKind, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """1. the call has ended and found no cancel; 2. a handler cancels the task; 3. it is resumed.

    The future has promised the task to be cancelled, so it is.
    """
    tasks: list[asyncio.Task[Any]] = []
    before(monkeypatch, LoopFuture, "settle", lambda _: tasks[0].cancel("late"))

    async def main() -> None:
        wrapper = AsyncExecutor(executor)
        tasks.append(asyncio.create_task(wrapper.run(int, "x" if fails else "1")))
        assert await outcome_of(tasks[0]) == ("late",)
        await turns()

    loops.run(main)


def test_a_callback_that_is_a_method_of_a_task_is_called_when_the_future_is_done_already(
    loops: LoopKind, executor: ThreadPoolExecutor
) -> None:
    """A future takes such a method for a task that awaits it; it need not be one."""

    async def main() -> None:
        future = exec_in_executor(executor, str)
        await future
        task = asyncio.create_task(asyncio.sleep(LIMIT))
        await turns()
        future.add_done_callback(task.cancel)
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    loops.run(main)


def test_an_executor_that_refuses_is_told_to_the_caller_only(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The error is raised at the call; no future is left behind that nobody asks for it."""
    heard: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        pool = executor_class(1)
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            exec_in_executor(pool, str)
        await turns()

    loops.run(main)
    assert not heard
