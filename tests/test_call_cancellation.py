"""Cancelling a call in an executor: each kind of call, at each moment."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import (
    KINDS,
    Kind,
    OopsError,
    Stop,
    chain_of,
    error_of,
    plain,
    twice,
    wrapped,
)
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.steps import Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    WorkerPool,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of call."""
    return KINDS[request.param]


async def check_that_it_is_cancelled(call: Any, kind: Kind) -> BaseException:
    """Check the message, too, and return the error."""
    error = await error_of(call)
    assert call.cancelled()
    if asyncio.isfuture(call):
        assert (type(error), error.args) == (asyncio.CancelledError, kind.message)
    else:
        assert type(error) is concurrent.futures.CancelledError
    return error


# --- a call that waits for a worker


@pytest.mark.parametrize("func", [plain, twice], ids=["plain", "coroutine"])
@on_every_loop
async def test_a_queued_call_is_taken_back_at_once(
    executor_class: type[ThreadPoolExecutor], kind: Kind, func: Any
) -> None:
    """The function never runs, and makes no coroutine. The calls before and behind it run."""
    ran: list[int] = []

    def work(number: int) -> Any:
        ran.append(number)
        return func(number)

    with executor_class(1) as pool:
        with busy(pool):
            before, call, behind = (kind.start(pool, work, number) for number in range(3))
            await turns()
            assert call.cancel(*kind.message)
            await turns()
            assert call.done()
            await check_that_it_is_cancelled(call, kind)
        assert [await wrapped(other) for other in (before, behind)] == [0, 4]
    gc.collect()
    assert ran == [0, 2]


@on_one_loop
async def test_a_queued_call_is_taken_out_of_any_executor(kind: Kind) -> None:
    """The executor's own future is cancelled. A call that never runs can be cancelled, too."""
    executor = HeldExecutor()
    call = kind.start(executor, plain, 1)
    await turns()
    assert not call.done()
    call.cancel(*kind.message)
    assert executor.jobs[0][0].cancelled()
    executor.run()
    await check_that_it_is_cancelled(call, kind)


@pytest.mark.parametrize("start", [exec_in_executor, exec_in_executor_threading_future])
def test_a_queued_call_of_the_loops_default_executor_is_taken_back(
    current_task_loops: LoopKind, start: Callable[..., Any]
) -> None:
    """The loop need not show that executor (uvloop). Any thread may cancel a threading future."""
    ran: list[bool] = []

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(pool)
        with busy(pool), ThreadPoolExecutor(1) as other:
            call = start(None, ran.append, True)
            cancel = call.cancel if asyncio.isfuture(call) else other.submit(call.cancel).result
            assert cancel()
            assert call.cancelled()
        await exec_in_executor(None, plain, 1)
        assert not ran

    current_task_loops.run(main)


@on_one_loop
async def test_a_cancellation_too_late_or_too_many_says_what_such_futures_say(
    one: Executor, kind: Kind
) -> None:
    """A future of asyncio says False. One of threads says True, and calls its callbacks once."""
    ended = kind.start(one, plain, 1)
    assert await wrapped(ended) == 2
    assert not ended.cancel()
    assert not ended.cancelled()
    assert ended.result() == 2
    called: list[Any] = []
    with busy(one):
        call = kind.start(one, plain, 1)
        await turns()
        call.add_done_callback(called.append)
        assert call.cancel()
        await turns()
        assert call.cancel() == (not asyncio.isfuture(call))
    assert called == [call]


# --- a call that runs


class Work:
    """Functions that are cancelled while they run. They stand at the gate when they know it."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = Gate()
        self.seen: list[tuple[Any, ...]] = []

    async def is_cancelled(self) -> None:
        try:
            self.started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            self.seen.append(error.args)
            await asyncio.sleep(0)
            self.gate.stop_here()
            raise

    async def swallows(self) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await self.is_cancelled()
        return "late"

    async def raises_in_its_stead(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.is_cancelled()
        raise OopsError

    def returns(self) -> str:
        check_cancelled()
        self.started.set()
        self.gate.stop_here()
        return "late"

    def raises(self) -> None:
        self.returns()
        raise OopsError

    def exits(self) -> None:
        self.returns()
        raise SystemExit(3)

    def checks(self) -> None:
        self.returns()
        for _ in range(2):
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                self.seen.append(error.args)
        check_cancelled()
        self.seen.append(("went on",))


#: By function: how often it sees the cancellation, and what a task that waited has as a context.
RUNNING: dict[str, tuple[int, type[BaseException] | None]] = {
    "is_cancelled": (1, None),
    "swallows": (1, None),
    "raises_in_its_stead": (1, OopsError),
    "returns": (0, None),
    "raises": (0, OopsError),
    "exits": (0, SystemExit),
    "checks": (2, None),
}


@pytest.mark.parametrize("how", RUNNING)
def test_a_running_call_is_cancelled_whatever_its_function_does(
    loops: LoopKind, kind: Kind, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A future is cancelled at once. A task waits for the end. Nobody logs that a result is lost.

    A coroutine gets the message, once, on its worker, and its cleanup may await. A function goes on
    to its end, or to its next check, which raises the first message, and the next one again.
    """
    seen, context = RUNNING[how]

    async def main() -> None:
        work = Work()
        with WorkerPool(1) as pool:
            call = kind.start(pool, getattr(work, how))
            await until(work.started.is_set)
            behind = exec_in_executor(pool, twice, 1)
            assert call.cancel(*kind.message)
            assert call.cancelled() != kind.waits
            await until(work.gate.reached.is_set)
            await turns(20)
            assert call.done() != kind.waits
            if kind.waits and not work.seen:
                call.cancel("again")
                await turns()
                assert not call.done(), "the second one made it stop waiting"
            work.gate.open()
            error = await check_that_it_is_cancelled(call, kind)
            if kind.waits and context is not None:
                assert context in chain_of(error)
            assert await behind == 2
            assert work.seen == [kind.message] * seen

    loops.run(main)
    assert not [record for record in caplog.records if record.name == "threadhop"]


@on_one_loop
async def test_the_next_call_of_the_worker_is_not_cancelled(
    one: ThreadPoolExecutor, kind: Kind
) -> None:
    """A check in a function and a coroutine hear nothing of the call before."""
    for _ in range(20):
        stop = Stop()
        call = kind.start(one, stop)
        await until(stop.started.is_set)
        others = one.submit(check_cancelled)
        after = exec_in_executor(one, twice, 2)
        call.cancel()
        assert await asyncio.wrap_future(others) is None
        assert await after == 4
        assert await exec_in_executor(one, check_cancelled) is None


@on_every_loop
async def test_the_coroutine_on_the_loop_is_cancelled_with_the_call(
    executor: Executor, kind: Kind
) -> None:
    """The function that waits for it gets the error, and again at its next call of the loop."""
    stop = Stop()
    seen: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def work() -> None:
        for func in (stop, functools.partial(twice, 1)):
            try:
                exec_in_eventloop(func)
            except asyncio.CancelledError as error:
                seen.append(error.args)
        ended.set()

    call = kind.start(executor, work)
    await until(stop.started.is_set)
    call.cancel(*kind.message)
    assert call.cancelled() != kind.waits
    await until(ended.is_set)
    assert stop.seen == [kind.message]
    assert seen == [kind.message] * 2
    await check_that_it_is_cancelled(call, kind)


def test_a_timeout_around_run_is_a_timeout_error(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """The function ends first, with another error. ``wait_for`` is no different."""

    def work() -> None:
        try:
            wait_until(check_cancelled)
        except asyncio.CancelledError:
            raise OopsError from None

    async def main() -> None:
        wrapper = AsyncExecutor(executor)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wrapper.run(work)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(wrapper.run(work), 0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await wrapper.run(plain, 1) == 2

    current_task_loops.run(main)
