"""The end of a call: whoever cancels between two lines of its arrival, the task is resumed once.

A signal handler runs in the loop thread, between any two lines. The tests put one there. The
arrival takes the task's wake-up out of the future, settles that, and resumes the task by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, Self

import pytest
from helpers.loops import LOOPS, LoopKind
from helpers.steps import LIMIT, HeldExecutor, busy, turns

from threadhop import AsyncExecutor, exec_in_executor
from threadhop._loops import _asyncio_futures
from threadhop._loops._asyncio_futures import AbandoningFuture

#: Of other tasks an arrival knows nothing: they are resumed as by any future.
of_real_tasks = pytest.mark.parametrize(
    "loops", [kind for kind in LOOPS if kind.name != "pytask"], ids=str
)


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
    """What *task* returned, "error", or the arguments of its cancellation."""
    await asyncio.wait([task], timeout=LIMIT)
    assert task.done(), "it waits for ever"
    try:
        return task.result()
    except asyncio.CancelledError as error:
        return error.args
    except ValueError:
        return "error"


class AtLine:
    """Within the block, call *act* once, before the *number*-th line of an arrival is executed."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self.happened = False

    def __enter__(self) -> Self:
        self._outer = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._outer)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if (
            frame.f_code.co_filename != _asyncio_futures.__file__
            or frame.f_code.co_name != "settle"
        ):
            return None
        if event == "line" and not self.happened:
            if not self._left:
                self.happened = True
                self._act()
            self._left -= 1
        return self._trace


def test_a_cancel_just_before_the_task_is_known_resumes_it(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the task awaits the future; 2. a handler cancels that; 3. the task leaves its wake-up."""
    """1. the task awaits the future; 2. a handler cancels that; 3. the task leaves its wake-up."""
    before(
        monkeypatch, AbandoningFuture, "add_done_callback", lambda future: future.cancel("early")
    )
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
    before(monkeypatch, _asyncio_futures, name, lambda future: future.cancel("between"))
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


@of_real_tasks
@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
def test_a_cancel_just_before_the_wake_up_is_taken_resumes_the_task_once(
    loops: LoopKind, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """1. the arrival sees the wake-up; 2. a handler cancels, which sends it; 3. there is none."""
    before(
        monkeypatch,
        _asyncio_futures,
        "_remove_done_callback",
        lambda future: future.cancel("first"),
    )
    resumed: list[None] = []

    async def work() -> Any:
        try:
            return await exec_in_executor(executor, int, "x" if fails else "1")
        finally:
            resumed.append(None)

    async def main() -> None:
        task = asyncio.create_task(work())
        assert await outcome_of(task) == ("first",)
        await turns()
        assert len(resumed) == 1

    loops.run(main)


@pytest.mark.parametrize("whom", ["future", "task"])
@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
@pytest.mark.parametrize("patient", [False, True], ids=["call", "patient"])
def test_a_cancel_at_each_line_of_the_arrival_resumes_the_task_once(
    loops: LoopKind, executor: ThreadPoolExecutor, whom: str, fails: bool, patient: bool
) -> None:
    """It ends cancelled, or as the call has ended if a future is asked that is done already."""
    outcomes: list[Any] = []
    argument = "x" if fails else "1"

    async def work(resumed: list[None]) -> Any:
        try:
            if patient:
                return await AsyncExecutor(executor).run(int, argument)
            return await exec_in_executor(executor, int, argument)
        finally:
            resumed.append(None)

    async def interrupted(number: int) -> tuple[Any, bool]:
        """How the task has ended, and whether there is such a line."""
        resumed: list[None] = []
        with busy(executor, 2) as release:
            task = asyncio.create_task(work(resumed))
            await turns()
            cancelled = task._fut_waiter if whom == "future" else task  # type: ignore[attr-defined]
            with AtLine(number, partial(cancelled.cancel, "now")) as line:
                release()
                outcome = await outcome_of(task)
        await turns()
        assert len(resumed) == 1, f"line {number}"
        return outcome, line.happened

    async def main() -> None:
        while True:
            outcome, happened = await interrupted(len(outcomes))
            if not happened:
                assert outcome == ("error" if fails else 1)
                return
            outcomes.append(outcome)

    loops.run(main)
    possible = [("now",), "error" if fails else 1]
    assert outcomes == sorted(outcomes, key=possible.index), "what is late once, is late later on"
    if whom == "future" or loops.name != "pytask":
        assert set(outcomes) == set(possible)


@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
def test_a_cancel_of_the_task_while_the_result_arrives_is_not_lost(
    loops: LoopKind, executor: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """1. the call has ended and found no cancel; 2. a handler cancels the task; 3. it is resumed.

    The future has promised the task to be cancelled, so it is.
    """
    tasks: list[asyncio.Task[Any]] = []
    before(monkeypatch, AbandoningFuture, "settle", lambda _: tasks[0].cancel("late"))

    async def main() -> None:
        wrapper = AsyncExecutor(executor)
        tasks.append(asyncio.create_task(wrapper.run(int, "x" if fails else "1")))
        assert await outcome_of(tasks[0]) == ("late",)
        await turns()

    loops.run(main)


@of_real_tasks
@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
@pytest.mark.parametrize("patient", [False, True], ids=["call", "patient"])
def test_a_task_is_resumed_by_the_callback_that_brings_the_result(
    loops: LoopKind,
    executor: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
    patient: bool,
) -> None:
    """Not one turn of the loop later, as by a plain future."""
    steps: list[str] = []
    settle = AbandoningFuture.settle

    def noted(future: AbandoningFuture, value: Any, error: BaseException | None) -> None:
        steps.append("arrival begins")
        settle(future, value, error)
        steps.append("arrival ends")

    monkeypatch.setattr(AbandoningFuture, "settle", noted)

    async def work() -> None:
        with contextlib.suppress(ValueError):
            if patient:
                await AsyncExecutor(executor).run(int, "x" if fails else "1")
            else:
                await exec_in_executor(executor, int, "x" if fails else "1")
        steps.append("resumed")

    async def main() -> None:
        await asyncio.create_task(work())

    loops.run(main)
    assert steps == ["arrival begins", "resumed", "arrival ends"]


def test_all_who_wait_for_one_future_are_told_once(
    loops: LoopKind, executor: ThreadPoolExecutor
) -> None:
    """Two tasks and a callback: in the order in which they came, whoever resumes them."""
    steps: list[str] = []

    async def work(name: str, future: asyncio.Future[int]) -> None:
        assert await future == 1
        steps.append(name)

    async def main() -> None:
        with busy(executor, 2) as release:
            future = exec_in_executor(executor, int, "1")
            first = asyncio.create_task(work("first", future))
            await turns()
            future.add_done_callback(lambda _: steps.append("callback"))
            second = asyncio.create_task(work("second", future))
            await turns()
            release()
            await asyncio.wait([first, second], timeout=LIMIT)
        await turns()

    loops.run(main)
    assert steps == ["first", "callback", "second"]


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
