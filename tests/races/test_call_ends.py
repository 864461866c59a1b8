"""The end of a call: whoever cancels between two lines of its arrival, the task is resumed once.

A signal handler runs in the loop thread, between any two lines. The tests put one there. The
arrival takes the task's wake-up out of the future, settles that, and resumes the task by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
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


class Call:
    """A task that awaits a call; *patient*: one that waits for its end when it is cancelled."""

    def __init__(self, executor: Executor, *, fails: bool, patient: bool = False) -> None:
        self.executor = executor
        self.argument = "x" if fails else "1"
        self.patient = patient
        #: How often it has gone on.
        self.resumed = 0
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> Any:
        try:
            if self.patient:
                return await AsyncExecutor(self.executor).run(int, self.argument)
            return await exec_in_executor(self.executor, int, self.argument)
        finally:
            self.resumed += 1

    async def outcome(self) -> Any:
        """The value of the task, "error", or the arguments of its cancellation."""
        await asyncio.wait([self.task], timeout=LIMIT)
        assert self.task.done(), "it waits for ever"
        await turns()
        assert self.resumed == 1
        try:
            return self.task.result()
        except asyncio.CancelledError as error:
            return error.args
        except ValueError:
            return "error"


def test_a_cancel_just_before_the_task_is_known_resumes_it(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. the task awaits the future; 2. a handler cancels that; 3. the task leaves its wake-up."""

    def cancelled_first(future: AbandoningFuture, *args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        future.cancel("now")
        future.add_done_callback(*args, **kwargs)

    monkeypatch.setattr(AbandoningFuture, "add_done_callback", cancelled_first)

    async def main() -> None:
        assert await Call(HeldExecutor(), fails=False).outcome() == ("now",)

    loops.run(main)


@pytest.mark.parametrize("whom", ["future", "task"])
@pytest.mark.parametrize("fails", [False, True], ids=["result", "error"])
@pytest.mark.parametrize("patient", [False, True], ids=["call", "patient"])
def test_a_cancel_at_each_line_of_the_arrival_resumes_the_task_once(
    loops: LoopKind, executor: ThreadPoolExecutor, whom: str, fails: bool, patient: bool
) -> None:
    """The task ends cancelled, or as the call has ended if the future is done already."""
    outcomes: list[Any] = []

    async def interrupted(number: int) -> tuple[Any, bool]:
        """How the task has ended, and whether there is such a line."""
        with busy(executor, 2) as release:
            call = Call(executor, fails=fails, patient=patient)
            await turns()
            waits_for: Any = call.task._fut_waiter  # type: ignore[attr-defined]
            cancelled = waits_for if whom == "future" else call.task
            with AtLine(number, partial(cancelled.cancel, "now")) as line:
                release()
                return await call.outcome(), line.happened

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
    if whom == "future" or loops.name not in ("pytask", "asyncio-debug"):
        assert set(outcomes) == set(possible)


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
    """Not one turn of the loop later, as by a plain future.

    In debug mode it is one: asyncio names the task if its step is slow.
    """
    calls: list[Call] = []
    resumed: list[int] = []
    settle = AbandoningFuture.settle

    def noted(future: AbandoningFuture, value: Any, error: BaseException | None) -> None:
        resumed.append(calls[0].resumed)
        settle(future, value, error)
        resumed.append(calls[0].resumed)

    monkeypatch.setattr(AbandoningFuture, "settle", noted)

    async def main() -> None:
        calls.append(Call(executor, fails=fails, patient=patient))
        await calls[0].outcome()

    loops.run(main)
    assert resumed == [0, 0 if loops.debug else 1]


def test_all_who_wait_for_one_future_are_told_once(
    loops: LoopKind, executor: ThreadPoolExecutor
) -> None:
    """Two tasks and a callback: in the order in which they came. One that was removed is not."""
    steps: list[str] = []

    async def work(name: str, future: asyncio.Future[int]) -> None:
        assert await future == 1
        steps.append(name)

    async def main() -> None:
        with busy(executor, 2) as release:
            future = exec_in_executor(executor, int, "1")
            first = asyncio.create_task(work("first", future))
            await turns()
            removed = steps.append
            future.add_done_callback(removed)
            assert future.remove_done_callback(removed) == 1
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
