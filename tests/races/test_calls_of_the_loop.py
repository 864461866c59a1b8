"""``exec_in_eventloop``, with somebody else between two steps of a call."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import forever, start, suspend
from helpers.steps import LIMIT, Gate, until, wait_until

from threadhop import exec_in_eventloop, exec_in_executor, threadpool
from threadhop._job import current
from threadhop._loops import _from_thread, current_strand
from threadhop._loops._attributes import LOOP
from threadhop._loops._from_thread import FromThreadCall
from threadhop._strand import Strand

# --- when the cancellation comes


class Call:
    """A task whose body calls *func* on the loop; func gets this."""

    def __init__(self, executor: Executor, func: Callable[[Call], Any]) -> None:
        self.executor = executor
        self.func = func
        self.gate = Gate()
        self.steps: list[str] = []
        self.task: asyncio.Task[Any]

    async def block(self) -> None:
        async with threadpool(self.executor):
            self.gate.stop_here()
            try:
                self.steps.append(exec_in_eventloop(self.func, self))
            except asyncio.CancelledError as error:
                assert error.args == ("stop",)
                self.steps.append("raised")
                raise
            self.steps.append("body ends")

    async def begin(self) -> None:
        self.task = start(self.block())
        await until(self.gate.reached.is_set)

    def cancel(self) -> None:
        self.task.cancel("stop")

    async def end(self) -> list[str]:
        await until(self.task.done)
        assert self.task.cancelled()
        return self.steps


def function(call: Call) -> str:
    call.steps.append("called")
    return "value"


async def coroutine(call: Call) -> str:
    call.steps.append("called")
    await suspend()
    return "value"


def maker_of_a_coroutine(call: Call) -> Coroutine[Any, Any, str]:
    return coroutine(call)


def function_that_cancels(call: Call) -> str:
    call.cancel()
    return "value"


def maker_of_a_coroutine_that_cancels(call: Call) -> Coroutine[Any, Any, None]:
    call.cancel()
    return forever()


async def coroutine_that_is_done(call: Call) -> str:
    await suspend()
    # Before the callbacks of the inner task, which are called one turn after its end.
    asyncio.get_running_loop().call_soon(call.cancel)
    return "value"


@pytest.mark.parametrize(
    ("moment", "func", "steps"),
    [
        # A plain function goes through: cleanup may tell the loop something.
        ("before the call", function, ["called", "value", "body ends"]),
        ("before its callback", function, ["called", "value", "body ends"]),
        ("before the call", coroutine, ["raised"]),
        ("before the call", maker_of_a_coroutine, ["raised"]),
        ("before its callback", coroutine, ["raised"]),
        # A plain function cannot be stopped.
        ("in func", function_that_cancels, ["value", "body ends"]),
        # A coroutine is cancelled at its first await at the latest.
        ("in func", maker_of_a_coroutine_that_cancels, ["raised"]),
        ("in func", coroutine_that_is_done, ["value", "body ends"]),
    ],
)
@on_every_loop
async def test_a_call_is_not_made_or_made_to_its_end_whenever_its_caller_is_cancelled(
    one: Executor,
    moment: str,
    func: Callable[[Call], Any],
    steps: list[str],
) -> None:
    """The exit of the block raises in any case."""
    call = Call(one, func)
    await call.begin()
    if moment == "before the call":
        call.cancel()
    call.gate.open()
    if moment == "before the call" and func is coroutine:
        wait_until(lambda: call.steps)  # refused at once: the loop stands still
    if moment == "before its callback":
        loop: Any = asyncio.get_running_loop()
        wait_until(lambda: len(getattr(loop, LOOP)._queue) == 1)  # the loop stands still
        call.cancel()
    assert await call.end() == steps


class ForgetfulCall(FromThreadCall):
    """Its task is gone as soon as somebody has looked: the worker is that fast."""

    __slots__ = ("_kept",)

    @property
    def _task(self) -> Any:
        task, self._kept = getattr(self, "_kept", None), None
        return task

    @_task.setter
    def _task(self, task: Any) -> None:
        self._kept = task


@on_every_loop
async def test_a_call_may_end_while_it_is_being_cancelled(
    one: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 cancel looks for the task of the call, 2 the worker forgets it, 3 cancel goes on."""
    monkeypatch.setattr(_from_thread.from_thread_run, "__defaults__", (ForgetfulCall,))
    begun = threading.Event()

    async def func() -> None:
        begun.set()
        await forever()

    async def block() -> None:
        async with threadpool(one):
            exec_in_eventloop(func)

    task = start(block())
    await until(begun.is_set)
    assert task.cancel()
    await until(task.done)
    assert task.cancelled()


@pytest.mark.parametrize("by", ["a block", "a call"])
@on_one_loop
async def test_a_caller_knows_the_call_that_its_worker_waits_for(one: Executor, by: str) -> None:
    """From before the call is made until it has ended; the call knows which task makes it."""
    seen: list[Any] = []

    def body() -> None:
        job: Any = current.slot.job
        caller = job.caller

        def plain() -> None:
            seen.append(type(caller.calling))

        async def awaiting() -> None:
            await suspend()
            seen.append(caller.calling.is_made_by(current_strand()))
            seen.append(caller.calling.is_made_by(caller))

        def failing() -> None:
            seen.append(caller.calling is not None)
            raise LookupError

        for func in (plain, awaiting, failing):
            assert caller.calling is None
            with contextlib.suppress(LookupError):
                exec_in_eventloop(func)
            assert caller.calling is None

    if by == "a call":
        await exec_in_executor(one, body)
    else:
        async with threadpool(one):
            body()
    assert seen == [FromThreadCall, True, False, True]


MOMENTS = ["before the call", "before its callback", "while it waits", "after its result"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_worker_that_calls_a_loop_that_is_closed_gets_the_result_or_an_error(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[Any],
    moment: str,
) -> None:
    """1 the worker has waited long enough, 2 the loop is closed, 3 the worker looks again.

    Or it is refused: the message says so, and no coroutine is left behind unawaited.
    """
    monkeypatch.setattr(_from_thread, "POLL", 0.001)
    gate, look = Gate(), Gate()
    called = threading.Event()
    results: list[str] = []
    is_gone = Strand.is_gone

    def late_is_gone(strand: Strand) -> bool:
        look.stop_here()
        return is_gone(strand)

    def func() -> Any:
        called.set()
        return "value" if moment == "after its result" else forever()

    async def block() -> None:
        async with threadpool(one):
            gate.stop_here()
            for each in (func, forever) if moment == "before the call" else (func,):
                try:
                    results.append(exec_in_eventloop(each))
                except RuntimeError as error:
                    assert error.__context__ is None or error.__suppress_context__
                    results.append(str(error))

    async def main() -> asyncio.Task[Any]:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = start(block())
        await until(gate.reached.is_set)
        if moment != "before the call":
            monkeypatch.setattr(Strand, "is_gone", late_is_gone)
        if moment == "while it waits":
            gate.open()
            await until(called.is_set)
        elif moment == "after its result":
            gate.open()
            assert look.reached.wait(LIMIT)  # the loop stands still
            await until(called.is_set)
        return task

    loop = loops.loop_factory()
    task = loop.run_until_complete(main())
    if moment != "before the call":
        gate.open()
        assert look.reached.wait(LIMIT)
    loop.close()
    gate.open()
    look.open()
    one.submit(str, 1).result(LIMIT)
    assert not task.done()
    # asyncio would say so when it is collected, perhaps in a later test.
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    text = {
        "before the call": "loop that this worker works for is closed",
        "after its result": "value",
    }.get(moment, "went away")
    assert all(text in result for result in results)
    assert len(results) == (2 if moment == "before the call" else 1)
    assert called.is_set() == (moment in ("while it waits", "after its result"))
