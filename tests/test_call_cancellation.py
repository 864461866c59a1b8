"""Cancelling a call in an executor: each kind of call, at each moment."""

from __future__ import annotations

import asyncio
import concurrent.futures
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
from helpers.loops import LoopKind
from helpers.steps import Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)

here = threading.get_ident


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
def test_a_queued_call_is_taken_back_at_once(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], kind: Kind, func: Any
) -> None:
    """The function never runs, and makes no coroutine. The calls before and behind it run."""
    ran: list[int] = []

    def work(number: int) -> Any:
        ran.append(number)
        return func(number)

    async def main() -> None:
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

    loops.run(main)


def test_a_queued_call_is_taken_out_of_any_executor(loops: LoopKind, kind: Kind) -> None:
    """The executor's own future is cancelled. A call that never runs can be cancelled, too."""
    executor = HeldExecutor()

    async def main() -> None:
        call = kind.start(executor, plain, 1)
        await turns()
        assert not call.done()
        call.cancel(*kind.message)
        theirs, _ = executor.jobs[0]
        assert theirs.cancelled()
        executor.run()
        await check_that_it_is_cancelled(call, kind)

    loops.run(main)


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


def test_a_call_that_has_ended_cannot_be_cancelled(executor: Executor, kind: Kind) -> None:
    async def main() -> None:
        call = kind.start(executor, plain, 1)
        assert await wrapped(call) == 2
        assert not call.cancel()
        assert not call.cancelled()
        assert call.result() == 2

    asyncio.run(main())


def test_a_second_cancellation_says_what_such_futures_say(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """A future of asyncio says False. One of threads says True, and calls its callbacks once."""
    called: list[Any] = []

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            future = exec_in_executor(pool, plain, 1)
            assert [future.cancel(), future.cancel()] == [True, False]
            theirs = exec_in_executor_threading_future(pool, plain, 1)
            theirs.add_done_callback(called.append)
            assert [theirs.cancel(), theirs.cancel()] == [True, True]
            assert called == [theirs]

    asyncio.run(main())


# --- a call that runs


@pytest.mark.parametrize("ending", ["cancelled", "swallows", "raises"])
def test_a_running_coroutine_is_cancelled_with_its_call(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], kind: Kind, ending: str
) -> None:
    """The coroutine gets the message, once, on its worker, and its cleanup may await.

    The call is cancelled, however the coroutine ends, and nobody logs an error.
    """
    started = threading.Event()
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    async def work() -> str:
        try:
            started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            await asyncio.sleep(0)
            gate.stop_here()
            if ending == "raises":
                raise OopsError from None
            if ending == "cancelled":
                raise
        return "late"

    async def main() -> None:
        with executor_class(1) as pool:
            call = kind.start(pool, work)
            await until(started.is_set)
            behind = exec_in_executor(pool, twice, 1)
            assert call.cancel(*kind.message)
            assert call.cancelled() != kind.waits
            await until(gate.reached.is_set)
            assert call.done() != kind.waits
            gate.open()
            await check_that_it_is_cancelled(call, kind)
            assert await behind == 2
            assert seen == [kind.message]

    loops.run(main)


@pytest.mark.parametrize("ending", ["returns", "raises", "exits"])
def test_a_running_function_goes_on_to_its_end(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    kind: Kind,
    ending: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A future is cancelled at once. A task waits, and then has the error as a context.

    Nobody logs that the result is lost.
    """
    gate = Gate()
    ended = threading.Event()
    errors = {"returns": None, "raises": OopsError(), "exits": SystemExit(3)}

    def work() -> str:
        gate.stop_here()
        ended.set()
        if (error := errors[ending]) is not None:
            raise error
        return "late"

    async def main() -> None:
        with executor_class(1) as pool:
            call = kind.start(pool, work)
            await until(gate.reached.is_set)
            assert call.cancel(*kind.message)
            await turns(20)
            assert call.done() != kind.waits
            if kind.waits:
                call.cancel("again")
                await turns()
                assert not call.done(), "the second one made it stop waiting"
            assert not ended.is_set()
            gate.open()
            error = await check_that_it_is_cancelled(call, kind)
            if kind.waits and ending != "returns":
                assert type(errors[ending]) in chain_of(error)
            assert await exec_in_executor(pool, twice, 1) == 2
            assert ended.is_set()

    loops.run(main)
    assert not [record for record in caplog.records if record.name == "threadhop"]


def test_a_cancelled_function_ends_at_its_next_check(
    loops: LoopKind, executor: Executor, kind: Kind
) -> None:
    """The check raises the first message. The next check raises it again if it was swallowed."""
    gate = Gate()
    seen: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def work() -> None:
        check_cancelled()
        gate.stop_here()
        try:
            for _ in range(2):
                try:
                    check_cancelled()
                except asyncio.CancelledError as error:
                    seen.append(error.args)
            check_cancelled()
            seen.append(("went on",))
        finally:
            ended.set()

    async def main() -> None:
        call = kind.start(executor, work)
        await until(gate.reached.is_set)
        call.cancel(*kind.message)
        if kind.waits:
            await turns()
            call.cancel("again")
        gate.open()
        await until(ended.is_set)
        assert seen == [kind.message] * 2
        await check_that_it_is_cancelled(call, kind)

    loops.run(main)


def test_the_next_call_of_the_worker_is_not_cancelled(
    executor_class: type[ThreadPoolExecutor], kind: Kind
) -> None:
    """A check in a function and a coroutine hear nothing of the call before."""

    async def main() -> None:
        with executor_class(1) as pool:
            for _ in range(20):
                stop = Stop()
                call = kind.start(pool, stop)
                await until(stop.started.is_set)
                after = exec_in_executor(pool, twice, 2)
                call.cancel()
                assert await after == 4
                assert await exec_in_executor(pool, check_cancelled) is None
                assert await asyncio.wrap_future(pool.submit(check_cancelled)) is None

    asyncio.run(main())


def test_the_coroutine_on_the_loop_is_cancelled_with_the_call(
    loops: LoopKind, executor: Executor, kind: Kind
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

    async def main() -> None:
        call = kind.start(executor, work)
        await until(stop.started.is_set)
        call.cancel(*kind.message)
        assert call.cancelled() != kind.waits
        await until(ended.is_set)
        assert stop.seen == [kind.message]
        assert seen == [kind.message] * 2
        await check_that_it_is_cancelled(call, kind)

    loops.run(main)


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
