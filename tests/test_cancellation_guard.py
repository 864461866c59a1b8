"""``cancellation_guard()``: what legacy code swallows comes out of the guard all the same."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

import pytest
from helpers.cancelling import (
    block_at,
    error_of,
    forever,
    run_and_cancel_at,
    run_with_task,
    stand_at,
    swallow,
)
from helpers.loops import LOOPS, LoopKind
from helpers.steps import Gate, turns, until, wait_until

from threadhop import WorkerPool, cancellation_guard, check_cancelled, threadpool

here = threading.get_ident
guard = cancellation_guard()

#: The guard says this when it does not know the message of the cancellation.
OWN_MESSAGE = "cancellation_guard()"


@pytest.fixture
def executor_class() -> type[WorkerPool]:
    """The kind of pool makes no difference."""
    return WorkerPool


Legacy = Callable[[Awaitable[Any]], Coroutine[Any, Any, Any]]


# What legacy code does to a cancellation. Each awaits its argument.


async def pass_on(waiting: Awaitable[Any]) -> None:
    await waiting


async def convert(waiting: Awaitable[Any]) -> None:
    try:
        await waiting
    except BaseException as error:
        raise LookupError("converted") from error


async def convert_twice(waiting: Awaitable[Any]) -> None:
    try:
        await convert(waiting)
    except LookupError as error:
        raise ValueError("again") from error


async def convert_without_context(waiting: Awaitable[Any]) -> None:
    await swallow(waiting)
    raise LookupError("later")


async def keep_as_a_cause_that_is_no_context(waiting: Awaitable[Any]) -> None:
    try:
        await waiting
    except BaseException as error:
        caught = error
    raise LookupError("later") from caught


async def suppress_the_context(waiting: Awaitable[Any]) -> None:
    try:
        await waiting
    except BaseException:
        raise LookupError("converted") from None


async def raise_errors_that_are_each_others_cause(waiting: Awaitable[Any]) -> None:
    await swallow(waiting)
    first, second = LookupError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    raise first


#: The error that comes out of it, and whether its chain has the message of the cancellation.
LEGACY: dict[Legacy, tuple[type[Exception] | None, bool]] = {
    pass_on: (None, True),
    swallow: (None, False),
    convert: (LookupError, True),
    convert_twice: (ValueError, True),
    convert_without_context: (LookupError, False),
    keep_as_a_cause_that_is_no_context: (LookupError, True),
    suppress_the_context: (LookupError, True),
    raise_errors_that_are_each_others_cause: (LookupError, False),
}

#: Where the task is cancelled: at a plain ``await``, which asyncio tells nobody of, or in the body
#: of a block, which our own hops see.
places = pytest.mark.parametrize("place", ["await", "block"])


def wait_at(place: str, executor: Executor, gate: Gate) -> Coroutine[Any, Any, None]:
    return stand_at(gate) if place == "await" else block_at(gate, executor)


# --- what was lost comes out


@places
@pytest.mark.parametrize("legacy", LEGACY, ids=lambda function: function.__name__)
def test_a_cancellation_comes_out_whatever_legacy_code_does_to_it(
    loops: LoopKind, executor: Executor, place: str, legacy: Legacy
) -> None:
    """On the loop thread, once. Its context is the error that came out.

    One that comes out by itself is left alone.
    """
    gate = Gate()
    context, tells = LEGACY[legacy]
    steps = []

    async def body() -> str:
        loop_thread = here()
        with pytest.raises(asyncio.CancelledError) as caught:
            async with cancellation_guard():
                await legacy(wait_at(place, executor, gate))
                await turns()  # Code that goes on may await again.
                steps.append("inside")
            steps.append("after")
        assert here() == loop_thread
        assert type(caught.value.__context__) is (context or type(None))
        if place == "block" or tells:
            assert caught.value.args == ("stop",)
        elif legacy is swallow:  # asyncio does not keep the message of a plain await.
            assert OWN_MESSAGE in str(caught.value)
        async with cancellation_guard():
            await turns()  # Task.cancelling() still counts what was before,
        async with threadpool(executor), cancellation_guard():
            check_cancelled()  # and a block has seen it.
        return "usable"

    assert run_and_cancel_at(gate, loops, body, "stop").result() == "usable"
    assert steps == (["inside"] if legacy is swallow else [])


@pytest.mark.parametrize("way", ["swallows the check", "never asks", "is taken back", "decorated"])
def test_a_guard_in_the_body_of_a_block_raises_in_the_worker(
    loops: LoopKind, executor: Executor, way: str
) -> None:
    """Also if nobody looked, and if ``uncancel()`` was called: the exit of the block will raise."""
    gate = Gate()
    steps = []

    async def legacy() -> None:
        gate.stop_here()
        if way == "swallows the check":
            with suppress(BaseException):
                check_cancelled()

    async def body() -> None:
        async with threadpool(executor):
            worker = here()
            try:
                if way == "decorated":
                    await cancellation_guard()(legacy)()
                else:
                    async with cancellation_guard():
                        await legacy()
                steps.append("after the guard")
            except asyncio.CancelledError as error:
                assert here() == worker
                assert error.args == ("stop",)
                steps.append("raised")
                raise

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(gate.reached.is_set)
        task.cancel("stop")
        if way == "is taken back":
            task.uncancel()
        gate.open()
        await until(task.done)
        return task

    assert error_of(loops.run(main)).args == ("stop",)
    assert steps == ["raised"]


@places
@pytest.mark.parametrize("stronger", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_wins(
    loops: LoopKind, executor: Executor, stronger: type[BaseException], place: str
) -> None:
    gate = Gate()

    async def body() -> str:
        with pytest.raises(stronger, match="mine"):
            async with cancellation_guard():
                await swallow(wait_at(place, executor, gate))
                raise stronger("mine")
        await turns()  # The cancellation does not come later instead.
        return "stronger"

    assert run_and_cancel_at(gate, loops, body, "stop").result() == "stronger"


# --- a cancellation that was asked for and not delivered


@pytest.mark.parametrize("raised", [None, LookupError("body")], ids=["ends", "raises"])
def test_a_pending_cancellation_is_delivered_by_the_guard(
    loops: LoopKind, raised: Exception | None
) -> None:
    """The body did not await after it. The guard's exit is the next place; then it is over."""

    async def body(task: asyncio.Task[Any]) -> str:
        with pytest.raises(asyncio.CancelledError) as caught:
            async with cancellation_guard():
                task.cancel("pending")
                if raised is not None:
                    raise raised
        assert caught.value.args == ("pending",)
        if sys.implementation.name == "cpython":  # At an await in an __aexit__ PyPy has no context.
            assert caught.value.__context__ is raised
        await turns()
        return "usable"

    assert run_with_task(loops, body).result() == "usable"


def test_a_cancellation_that_is_pending_at_the_entry_stays_for_the_next_await(
    loops: LoopKind,
) -> None:
    """The guard neither raises nor loses a cancellation from before it."""

    async def body(task: asyncio.Task[Any]) -> str:
        task.cancel("pending")
        async with cancellation_guard():
            pass
        with pytest.raises(asyncio.CancelledError, match="pending"):
            await asyncio.sleep(0)
        return "told"

    assert run_with_task(loops, body).result() == "told"


# --- quiet


def test_what_the_body_returns_or_raises_comes_out(loops: LoopKind, executor: Executor) -> None:
    """Without a cancellation a guard does nothing, on the loop and in a block."""
    error = LookupError("mine")

    async def returns() -> str:
        async with cancellation_guard() as bound:
            assert bound is None
            return "returned"

    async def raises() -> None:
        async with cancellation_guard():
            raise error

    async def check() -> None:
        assert await returns() == "returned"
        async with cancellation_guard():
            with suppress(asyncio.CancelledError):
                raise asyncio.CancelledError("not the task's own")
        with pytest.raises(LookupError) as caught:
            await raises()
        assert caught.value is error
        assert caught.value.__context__ is None

    async def main() -> None:
        await check()
        async with threadpool(executor):
            await check()

    loops.run(main)


def test_a_guard_entered_in_a_body_that_is_cancelled_already_is_quiet(
    loops: LoopKind, executor: Executor
) -> None:
    """The exit of the block raises that cancellation."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with threadpool(executor):
            gate.stop_here()
            async with cancellation_guard():
                steps.append("inside")
            steps.append("after the guard")
        steps.append("after the block")

    assert run_and_cancel_at(gate, loops, body, None).cancelled()
    assert steps == ["inside", "after the guard"]


@places
def test_a_timeout_is_dealt_with_inside_and_comes_out_from_around(
    current_task_loops: LoopKind, executor: Executor, place: str
) -> None:
    """``asyncio.timeout`` uncancels. So legacy code that swallows everything gets a time limit."""

    async def wait() -> None:
        if place == "await":
            await forever()
        else:
            task = asyncio.current_task()
            assert task is not None
            async with threadpool(executor):
                wait_until(task.cancelling)

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        async with cancellation_guard():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await wait()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), cancellation_guard():
                await swallow(wait())
        assert task.cancelling() == 0
        return "quiet"

    assert current_task_loops.run(main) == "quiet"


def test_the_guard_of_one_task_knows_nothing_of_another(loops: LoopKind) -> None:
    """They share the object, and are inside of it at the same time."""

    async def body(gate: Gate) -> str:
        async with guard:
            await swallow(stand_at(gate))
        return "quiet"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gates = Gate(), Gate()
        cancelled, other = (loop.create_task(body(gate)) for gate in gates)
        await until(lambda: all(gate.reached.is_set() for gate in gates))
        cancelled.cancel("stop")
        await until(cancelled.done)
        assert cancelled.cancelled()
        other.cancel()
        other.uncancel()
        assert await other == "quiet"

    loops.run(main)


# --- the message


@pytest.mark.parametrize(
    ("place", "messages", "args"),
    [
        ("block", (None,), ()),
        ("block", ("first", "second"), ("first",)),
        ("await", (None,), ()),
    ],
)
def test_the_message_is_none_if_there_was_none_and_of_several_the_first(
    executor: Executor, place: str, messages: tuple[str | None, ...], args: tuple[str, ...]
) -> None:
    gate = Gate()
    legacy = swallow if place == "block" else convert

    async def body() -> None:
        async with cancellation_guard():
            await legacy(wait_at(place, executor, gate))

    error = error_of(run_and_cancel_at(gate, LOOPS[0], body, *messages))
    assert error.args == args
    assert not error.__suppress_context__


@pytest.mark.parametrize(
    ("earlier", "legacy", "message"),
    [("before", swallow, OWN_MESSAGE), ("inside", convert, "late")],
    ids=["before", "inside"],
)
def test_the_message_of_an_earlier_cancellation_is_not_taken_for_that_of_this_one(
    executor: Executor, earlier: str, legacy: Legacy, message: str
) -> None:
    """A block saw the earlier one. The one to tell of was lost at a plain await."""
    early, late = Gate(), Gate()

    async def body() -> None:
        if earlier == "before":
            await swallow(block_at(early, executor))
        async with cancellation_guard():
            if earlier == "inside":
                await swallow(block_at(early, executor))
            await legacy(stand_at(late))

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(early.reached.is_set)
        task.cancel("early")
        early.open()
        await until(late.reached.is_set)
        task.cancel("late")
        await until(task.done)
        return task

    assert message in str(error_of(LOOPS[0].run(main)))
