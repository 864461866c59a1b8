"""``cancellation_guard()``: what legacy code swallows comes out of the guard all the same."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import sys
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import Gate, turns, until, wait_until

from threadhop import (
    cancellation_guard,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    threadpool,
)

here = threading.get_ident
guard = cancellation_guard()

#: What the guard says when it does not know the message of the cancellation.
OWN_MESSAGE = r"cancellation_guard\(\)"

Body = Callable[[], Coroutine[Any, Any, Any]]


def forever() -> asyncio.Future[None]:
    """On the loop: a future that nobody ever completes."""
    return asyncio.get_running_loop().create_future()


def run_and_cancel(loops: LoopKind, body: Body, *messages: Any) -> asyncio.Task[Any]:
    """Run *body* in a task and cancel it where it awaits: once for each of *messages*."""

    async def main() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(body())
        for message in messages:
            await turns()
            task.cancel(message)
        await until(task.done)
        return task

    return loops.run(main)


def run_and_cancel_at(
    gate: Gate, loops: LoopKind, body: Body, message: Any = None
) -> asyncio.Task[Any]:
    """Run *body* in a task and cancel it while its worker stands at *gate*."""

    async def main() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(body())
        await until(gate.reached.is_set)
        task.cancel(message)
        gate.open()
        await until(task.done)
        return task

    return loops.run(main)


def error_of(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    """How the task was cancelled."""
    assert task.cancelled()
    with pytest.raises(asyncio.CancelledError) as caught:
        task.result()
    return caught.value


# The ways in which legacy code loses a cancellation. Each awaits its argument.


async def swallow(waiting: Awaitable[Any]) -> Any:
    try:
        return await waiting
    except:  # noqa: E722 - this is what the guard is for
        return None


async def convert(waiting: Awaitable[Any]) -> None:
    try:
        await waiting
    except BaseException as error:
        raise LookupError("converted") from error


async def convert_without_context(waiting: Awaitable[Any]) -> None:
    try:
        await waiting
    except BaseException:
        failed = True
    if failed:
        raise LookupError("converted")


def _returns_in_finally() -> Callable[[Awaitable[Any]], Coroutine[Any, Any, str]]:
    source = """
async def return_in_finally(waiting):
    try:
        await waiting
    finally:
        return "returned"
"""
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # from 3.14 on Python warns of such code
        exec(source, names)  # so it stands here as a text
    function: Callable[[Awaitable[Any]], Coroutine[Any, Any, str]] = names["return_in_finally"]
    return function


return_in_finally = _returns_in_finally()

LEGACY = [swallow, convert, convert_without_context, return_in_finally]


@pytest.fixture(params=LEGACY, ids=lambda function: function.__name__)
def legacy(request: pytest.FixtureRequest) -> Callable[[Awaitable[Any]], Awaitable[Any]]:
    """Each of these ways."""
    function: Callable[[Awaitable[Any]], Awaitable[Any]] = request.param
    return function


async def block(executor: Executor, gate: Gate) -> None:
    async with threadpool(executor):
        gate.stop_here()


# --- what was lost comes out


def test_a_cancellation_lost_at_a_plain_await_is_raised_at_the_exit(
    loops: LoopKind, legacy: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> None:
    """However it was lost. The line after the guard does not run."""
    went_on = []

    async def body() -> None:
        async with cancellation_guard():
            await legacy(forever())
        went_on.append(True)

    assert run_and_cancel(loops, body, "stop").cancelled()
    assert not went_on


def test_a_cancellation_lost_around_a_block_is_raised_at_the_exit(
    loops: LoopKind, executor: Executor, legacy: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> None:
    """On the loop thread, with the message: our own hops have seen it."""
    gate = Gate()
    threads = []

    async def body() -> None:
        try:
            async with cancellation_guard():
                await legacy(block(executor, gate))
        finally:
            threads.append(here())

    assert error_of(run_and_cancel_at(gate, loops, body, "stop")).args == ("stop",)
    assert threads == [here()]


def test_a_cancellation_lost_in_the_body_of_a_block_is_raised_at_the_guard_in_there(
    loops: LoopKind, executor: Executor
) -> None:
    """In the worker, at the end of the guard and not only at that of the block."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with threadpool(executor):
            worker = here()
            try:
                async with cancellation_guard():
                    gate.stop_here()
                    try:
                        check_cancelled()
                    except:  # noqa: E722
                        steps.append("swallowed")
                steps.append("after the guard")
            except asyncio.CancelledError as error:
                assert here() == worker
                steps.append(str(error))
                raise

    assert error_of(run_and_cancel_at(gate, loops, body, "stop")).args == ("stop",)
    assert steps == ["swallowed", "stop"]


def test_a_guard_in_the_body_raises_although_the_body_never_asked(
    loops: LoopKind, executor: Executor
) -> None:
    """Nothing was swallowed there: nobody looked. The guard ends the body where it stands."""
    gate = Gate()
    went_on = []

    async def body() -> None:
        async with threadpool(executor):
            async with cancellation_guard():
                gate.stop_here()
            went_on.append(True)

    assert run_and_cancel_at(gate, loops, body).cancelled()
    assert not went_on


def test_a_guard_in_the_body_raises_what_the_exit_of_the_block_will_raise(
    loops: LoopKind, executor: Executor
) -> None:
    """Also if it was taken back meanwhile: ``uncancel()`` unsends nothing."""
    gate = Gate()
    went_on = []

    async def body() -> None:
        async with threadpool(executor):
            async with cancellation_guard():
                gate.stop_here()
            went_on.append(True)

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(gate.reached.is_set)
        task.cancel("stop")
        task.uncancel()
        gate.open()
        await until(task.done)
        return task

    assert error_of(loops.run(main)).args == ("stop",)
    assert not went_on


def test_the_error_that_came_out_is_the_context(loops: LoopKind) -> None:
    async def body() -> None:
        async with cancellation_guard():
            await convert(forever())

    error = error_of(run_and_cancel(loops, body, "stop"))
    assert isinstance(error.__context__, LookupError)


def test_a_cancellation_that_comes_out_by_itself_is_left_alone(
    loops: LoopKind, executor: Executor
) -> None:
    """The same error object, with nothing wrapped around it; from an await and from a block."""
    gate = Gate()

    async def body(waiting: Callable[[], Awaitable[Any]]) -> None:
        inside: list[BaseException] = []
        try:
            async with cancellation_guard():
                try:
                    await waiting()
                except asyncio.CancelledError as error:
                    inside.append(error)
                    raise
        except asyncio.CancelledError as error:
            assert inside == [error]
            assert error.__context__ is None
            raise

    assert run_and_cancel(loops, lambda: body(forever), "stop").cancelled()
    assert run_and_cancel_at(gate, loops, lambda: body(lambda: block(executor, gate))).cancelled()


def test_it_is_delivered_once(loops: LoopKind, executor: Executor) -> None:
    """Who catches what the guard raised has a task that works: it does not come again."""
    gate = Gate()

    async def body() -> str:
        with pytest.raises(asyncio.CancelledError, match="stop"):
            async with cancellation_guard():
                await swallow(block(executor, gate))
        await turns()
        async with threadpool(executor):
            check_cancelled()
        async with cancellation_guard():
            await turns()
        return "usable"

    assert run_and_cancel_at(gate, loops, body, "stop").result() == "usable"


def test_code_that_goes_on_after_it_swallowed_one_is_ended_by_the_guard(loops: LoopKind) -> None:
    """It may await again before; the guard still knows."""
    went_on = []

    async def body() -> None:
        async with cancellation_guard():
            await swallow(forever())
            await turns()
            went_on.append("inside")
        went_on.append("after")

    assert run_and_cancel(loops, body, "stop").cancelled()
    assert went_on == ["inside"]


@pytest.mark.parametrize("stronger", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("away", [False, True], ids=["await", "block"])
def test_an_interrupt_wins(
    loops: LoopKind, executor: Executor, stronger: type[BaseException], away: bool
) -> None:
    gate = Gate()

    async def body() -> str:
        try:
            async with cancellation_guard():
                await swallow(block(executor, gate) if away else forever())
                raise stronger("mine")
        except stronger as error:
            assert error.args == ("mine",)
        await turns()  # and the cancellation does not come later instead
        return "stronger"

    if away:
        task = run_and_cancel_at(gate, loops, body, "stop")
    else:
        task = run_and_cancel(loops, body, "stop")
    assert task.result() == "stronger"


# --- a cancellation that was asked for and not delivered


class AwaitsAtItsExit:
    """What any context manager does that awaits at its exit."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)


def test_a_pending_cancellation_is_delivered_by_the_guard(loops: LoopKind) -> None:
    """The body did not await after it. The guard's exit is the next place; then it is over."""
    tasks: list[asyncio.Task[str]] = []

    async def body() -> str:
        await turns()
        with pytest.raises(asyncio.CancelledError) as caught:
            async with cancellation_guard():
                tasks[0].cancel("pending")
        assert caught.value.args == ("pending",)
        assert caught.value.__context__ is None
        await turns()
        return "usable"

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(body()))
        assert await tasks[0] == "usable"

    loops.run(main)


def test_a_pending_cancellation_wins_over_the_error_of_the_body(loops: LoopKind) -> None:
    """The error is its context, as at any await in an ``__aexit__`` (PyPy has none there)."""
    tasks: list[asyncio.Task[list[BaseException | None]]] = []
    body_error = LookupError("body")

    async def body() -> list[BaseException | None]:
        contexts = []
        for manager in (AwaitsAtItsExit(), cancellation_guard()):
            await turns()
            try:
                async with manager:
                    tasks[0].cancel("pending")
                    raise body_error
            except asyncio.CancelledError as error:
                assert error.args == ("pending",)
                contexts.append(error.__context__)
            tasks[0].uncancel()
        return contexts

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(body()))
        of_any_await, of_the_guard = await tasks[0]
        assert of_the_guard is of_any_await
        if sys.implementation.name == "cpython":
            assert of_the_guard is body_error

    loops.run(main)


def test_a_cancellation_that_is_pending_at_the_entry_stays_for_the_next_await(
    loops: LoopKind,
) -> None:
    """It is from before the guard. The guard neither raises nor loses it."""
    tasks: list[asyncio.Task[str]] = []

    async def body() -> str:
        await turns()
        tasks[0].cancel("pending")
        async with cancellation_guard():
            pass
        with pytest.raises(asyncio.CancelledError, match="pending"):
            await asyncio.sleep(0)
        return "told"

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(body()))
        assert await tasks[0] == "told"

    loops.run(main)


# --- quiet


def test_what_the_body_returns_or_raises_comes_out(loops: LoopKind, executor: Executor) -> None:
    """Without a cancellation a guard is not there, on the loop and in a block."""
    error = LookupError("mine")

    async def returns() -> str:
        async with cancellation_guard():
            return "returned"

    async def raises() -> None:
        async with cancellation_guard():
            raise error

    async def main() -> None:
        for _ in range(2):
            assert await returns() == "returned"
            with pytest.raises(LookupError) as caught:
                await raises()
            assert caught.value is error
            assert caught.value.__context__ is None
        async with threadpool(executor):
            assert await returns() == "returned"
            with pytest.raises(LookupError) as caught:
                await raises()
            assert caught.value is error

    loops.run(main)


def test_it_binds_nothing(loops: LoopKind) -> None:
    async def main() -> None:
        async with cancellation_guard() as bound:
            assert bound is None

    loops.run(main)


def test_a_cancellation_from_before_the_guard_does_not_concern_it(
    loops: LoopKind, executor: Executor
) -> None:
    """``Task.cancelling()`` still counts it; and a block saw it."""
    gate = Gate()

    async def body() -> str:
        await swallow(block(executor, gate))
        async with cancellation_guard():
            await turns()
        async with threadpool(executor), cancellation_guard():
            pass
        return "quiet"

    task = run_and_cancel_at(gate, loops, body)
    assert task.cancelling() == 1
    assert task.result() == "quiet"


def test_a_guard_entered_in_a_body_that_is_cancelled_already_is_quiet(
    loops: LoopKind, executor: Executor
) -> None:
    """That cancellation is for the exit of the block."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with threadpool(executor):
            gate.stop_here()
            async with cancellation_guard():
                steps.append("inside")
            steps.append("after the guard")
        steps.append("after the block")

    assert run_and_cancel_at(gate, loops, body).cancelled()
    assert steps == ["inside", "after the guard"]


def test_a_timeout_inside_has_dealt_with_its_cancellation(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """``asyncio.timeout`` uncancels; around an await and around a block."""

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        async with cancellation_guard():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await forever()
        async with cancellation_guard():
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    async with threadpool(executor):
                        wait_until(task.cancelling)
        return "quiet"

    assert current_task_loops.run(main) == "quiet"


def test_a_timeout_around_the_guard_comes_out_of_it(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """Although legacy code swallowed it: this is how such code gets a time limit."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), cancellation_guard():
                await swallow(forever())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), cancellation_guard():
                async with threadpool(executor):
                    wait_until(task.cancelling)
        assert task.cancelling() == 0

    current_task_loops.run(main)


def test_uncancel_says_that_it_was_dealt_with(loops: LoopKind) -> None:
    tasks: list[asyncio.Task[str]] = []

    async def body() -> str:
        async with cancellation_guard():
            await swallow(forever())
            tasks[0].uncancel()
        return "quiet"

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(body()))
        await turns()
        tasks[0].cancel()
        assert await tasks[0] == "quiet"

    loops.run(main)


def test_a_cancelled_error_of_something_else_is_not_a_cancellation_of_the_task(
    loops: LoopKind, executor: Executor
) -> None:
    """Awaiting a future that somebody cancelled raises CancelledError, too."""

    async def main() -> str:
        future = forever()
        future.cancel()
        async with cancellation_guard():
            with pytest.raises(asyncio.CancelledError):
                await future
        async with threadpool(executor), cancellation_guard():
            with pytest.raises(asyncio.CancelledError):
                raise asyncio.CancelledError("mine")
        return "quiet"

    assert loops.run(main) == "quiet"


def test_the_guard_of_one_task_knows_nothing_of_another(loops: LoopKind) -> None:
    """They share the object, and are inside of it at the same time."""
    inside: list[str] = []
    waiting: list[bool] = []
    over = threading.Event()

    async def body(name: str) -> str:
        async with guard:
            inside.append(name)
            await until(lambda: len(inside) == 2)
            if name == "cancelled":
                waiting.append(True)
                await swallow(forever())
            else:
                await until(over.is_set)
        return "quiet"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cancelled, other = (loop.create_task(body(name)) for name in ("cancelled", "other"))
        await until(lambda: len(inside) == 2)
        await until(lambda: waiting)
        cancelled.cancel("stop")
        await until(cancelled.done)
        assert cancelled.cancelled()
        over.set()
        assert await other == "quiet"

    loops.run(main)


# --- the message


def test_the_message_is_found_in_the_chain_of_the_error(loops: LoopKind) -> None:
    """Also when it is deep, and behind ``from``."""

    async def body() -> None:
        async with cancellation_guard():
            try:
                await convert(forever())
            except LookupError as error:
                raise ValueError("again") from error

    assert error_of(run_and_cancel(loops, body, "stop")).args == ("stop",)


def test_the_message_is_found_in_a_cause_that_is_no_context(loops: LoopKind) -> None:
    """Where the error was raised after the ``except`` had ended."""

    async def body() -> None:
        async with cancellation_guard():
            try:
                await forever()
            except BaseException as error:
                caught = error
            raise LookupError("later") from caught

    assert error_of(run_and_cancel(loops, body, "stop")).args == ("stop",)


def test_a_message_behind_a_suppressed_context_is_found(loops: LoopKind) -> None:
    """``from None`` hides the cancellation from readers, not from the guard."""

    async def body() -> None:
        async with cancellation_guard():
            try:
                await forever()
            except BaseException:
                raise LookupError("converted") from None

    assert error_of(run_and_cancel(loops, body, "stop")).args == ("stop",)


def test_a_chain_that_is_a_circle_ends(loops: LoopKind) -> None:
    """Errors that are each other's cause must not hold up the exit, which looks at both."""

    async def body() -> None:
        async with cancellation_guard():
            await swallow(forever())
            first, second = LookupError(), ValueError()
            first.__cause__, second.__cause__ = second, first
            raise first

    error = error_of(run_and_cancel(loops, body, "stop"))
    assert isinstance(error.__context__, LookupError)


def test_a_message_that_is_not_known_is_the_guards_own(loops: LoopKind) -> None:
    """asyncio does not keep it: what was swallowed at a plain await is gone."""

    async def body() -> None:
        async with cancellation_guard():
            await swallow(forever())

    with pytest.raises(asyncio.CancelledError, match=OWN_MESSAGE):
        raise error_of(run_and_cancel(loops, body, "lost"))


def test_a_cancellation_without_a_message_gets_none(loops: LoopKind, executor: Executor) -> None:
    """Where it is known that there was none."""
    gate = Gate()

    async def body() -> None:
        async with cancellation_guard():
            await swallow(block(executor, gate))

    assert error_of(run_and_cancel_at(gate, loops, body)).args == ()


def test_the_message_of_an_earlier_cancellation_is_not_taken_for_that_of_this_one(
    loops: LoopKind, executor: Executor
) -> None:
    """A block saw one before the guard began; the one inside was lost at a plain await."""
    gate = Gate()

    async def body() -> None:
        await swallow(block(executor, gate))
        async with cancellation_guard():
            await swallow(forever())

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(gate.reached.is_set)
        task.cancel("early")
        gate.open()
        await until(lambda: task.cancelling() and "Future" in repr(task))
        task.cancel("late")
        await until(task.done)
        return task

    with pytest.raises(asyncio.CancelledError, match=OWN_MESSAGE):
        raise error_of(loops.run(main))


# --- with blocks, loop parts and exec_in_eventloop


def test_a_guard_around_a_block_whose_body_swallows_lets_the_exit_of_the_block_speak(
    loops: LoopKind, executor: Executor
) -> None:
    """The block raises by itself; the guard adds nothing."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with cancellation_guard():
            async with threadpool(executor):
                gate.stop_here()
                try:
                    check_cancelled()
                except:  # noqa: E722
                    steps.append("swallowed")

    error = error_of(run_and_cancel_at(gate, loops, body, "stop"))
    assert error.args == ("stop",)
    assert error.__context__ is None
    assert steps == ["swallowed"]


def test_a_cancellation_of_a_queued_block_that_was_swallowed_comes_out(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()
    began = []

    async def body(pool: Executor) -> None:
        async with cancellation_guard():
            try:
                async with threadpool(pool):
                    began.append(True)
            except:  # noqa: E722
                pass

    async def main() -> asyncio.Task[None]:
        with executor_class(1) as pool:
            pool.submit(gate.stop_here)
            await until(gate.reached.is_set)
            task = asyncio.get_running_loop().create_task(body(pool))
            await turns()
            task.cancel("queued")
            await until(task.done)
            gate.open()
        return task

    assert error_of(loops.run(main)).args == ("queued",)
    assert not began


def test_a_guard_inside_a_loop_part_raises_on_the_loop(loops: LoopKind, executor: Executor) -> None:
    """The cancellation then travels through the worker, as any that leaves a loop part."""
    steps = []

    async def body() -> None:
        async with threadpool(executor):
            worker = here()
            try:
                async with eventloop():
                    loop_thread = here()
                    try:
                        async with cancellation_guard():
                            await swallow(forever())
                    except asyncio.CancelledError:
                        assert here() == loop_thread
                        steps.append("loop")
                        raise
            except asyncio.CancelledError:
                assert here() == worker
                steps.append("worker")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(lambda: "Future" in repr(task))
        task.cancel("stop")
        await until(task.done)
        return task

    assert loops.run(main).cancelled()  # although the worker swallowed it
    assert steps == ["loop", "worker"]


def test_a_guard_around_a_loop_part_knows_what_the_loop_part_swallowed(
    loops: LoopKind, executor: Executor
) -> None:
    """Without it, what is swallowed within the loop part belongs to that await, and is over."""
    went_on = []

    async def body() -> None:
        async with threadpool(executor):
            async with cancellation_guard():
                async with eventloop():
                    await swallow(forever())
                went_on.append("inside")
            went_on.append("after the guard")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(lambda: "Future" in repr(task))
        task.cancel("stop")
        await until(task.done)
        return task

    assert loops.run(main).cancelled()
    assert went_on == ["inside"]


def test_a_guard_around_exec_in_eventloop_raises_what_the_worker_swallowed(
    loops: LoopKind, executor: Executor
) -> None:
    reached = threading.Event()
    went_on = []

    async def wait() -> None:
        reached.set()
        await forever()

    async def body() -> None:
        async with threadpool(executor):
            async with cancellation_guard():
                try:
                    exec_in_eventloop(wait)
                except:  # noqa: E722
                    went_on.append("swallowed")
            went_on.append("after the guard")

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(reached.is_set)
        await turns()
        task.cancel("stop")
        await until(task.done)
        return task

    assert error_of(loops.run(main)).args == ("stop",)
    assert went_on == ["swallowed"]


def test_a_guard_in_a_coroutine_of_exec_in_eventloop_guards_its_task(
    loops: LoopKind, executor: Executor
) -> None:
    """The task of the block is cancelled, and with it the one that runs the coroutine."""
    reached = threading.Event()
    raised = []

    async def wait() -> None:
        async with cancellation_guard():
            reached.set()
            await swallow(forever())

    async def body() -> None:
        async with threadpool(executor):
            try:
                exec_in_eventloop(wait)
            except asyncio.CancelledError:
                raised.append(True)
                raise

    async def main() -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(body())
        await until(reached.is_set)
        await turns()
        task.cancel("stop")
        await until(task.done)
        return task

    assert loops.run(main).cancelled()
    assert raised


def test_a_guard_around_nested_blocks_knows_what_the_outer_body_swallowed(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """A cancellation during the inner body, whose error the outer body swallows."""
    gate = Gate()
    steps = []

    async def body(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer):
            async with cancellation_guard():
                await swallow(block(inner, gate))
                steps.append("swallowed")
            steps.append("after the guard")

    with executor_class(1) as outer, executor_class(1) as inner:
        task = run_and_cancel_at(gate, loops, lambda: body(outer, inner), "stop")
    assert error_of(task).args == ("stop",)
    assert steps == ["swallowed"]


# --- one object


def test_one_object_may_be_used_again_after_it_raised(loops: LoopKind) -> None:
    """The second time it is quiet about the first, and raises about the second."""
    steps: list[object] = []

    async def body() -> None:
        for number in range(2):
            try:
                async with guard:
                    await swallow(forever())
            except asyncio.CancelledError:
                steps.append(number)
            async with guard:
                await turns(1)
        steps.append("quiet")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(body())
        await turns()
        task.cancel()
        await until(lambda: steps == [0] and "Future" in repr(task))
        await turns()
        task.cancel()
        await task

    loops.run(main)
    assert steps == [0, 1, "quiet"]


def test_one_object_may_be_nested_in_itself(loops: LoopKind, executor: Executor) -> None:
    """Each level is judged by itself: also with different objects, and across a block."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with guard:
            try:
                async with guard:
                    await swallow(block(executor, gate))
            except asyncio.CancelledError as error:
                steps.append(str(error))  # swallowed between the two
            async with guard, cancellation_guard():
                steps.append("quiet")
            steps.append("inside")
        steps.append("after")

    assert error_of(run_and_cancel_at(gate, loops, body, "stop")).args == ("stop",)
    assert steps == ["stop", "quiet", "inside"]


def test_what_was_cancelled_before_an_inner_guard_is_still_known_to_the_outer(
    loops: LoopKind,
) -> None:
    async def body() -> None:
        async with guard:
            await swallow(forever())
            async with guard:
                pass  # quiet: it was before

    assert run_and_cancel(loops, body, None).cancelled()


# --- as a decorator


def test_a_decorated_function_is_guarded_at_every_call(loops: LoopKind) -> None:
    @cancellation_guard()
    async def legacy(*, wait: bool) -> str:
        if wait:
            await swallow(forever())
        return "returned"

    async def body() -> None:
        assert await legacy(wait=False) == "returned"
        await legacy(wait=True)

    assert run_and_cancel(loops, body, "stop").cancelled()
    assert run_and_cancel(loops, lambda: legacy(wait=True), "stop").cancelled()
    assert run_and_cancel(loops, lambda: legacy(wait=False)).result() == "returned"


def test_a_decorated_function_keeps_its_name_its_signature_and_its_kind() -> None:
    """It is a coroutine function still: frameworks ask."""

    async def legacy(rows: list[str], /, *, limit: int = 3) -> int:
        """Say so."""
        return limit

    guarded = cancellation_guard()(legacy)
    assert inspect.iscoroutinefunction(guarded)
    assert inspect.signature(guarded) == inspect.signature(legacy)
    assert (guarded.__name__, guarded.__doc__) == ("legacy", "Say so.")
    assert guarded.__wrapped__ is legacy  # type: ignore[attr-defined]


def test_methods_partials_and_callable_objects_may_be_decorated(loops: LoopKind) -> None:
    """Whatever is called like a coroutine function."""

    class Owner:
        def __init__(self) -> None:
            self.name = "owner"

        @cancellation_guard()
        async def method(self, text: str) -> str:
            return self.name + text

        async def __call__(self) -> str:
            return "called"

    async def function(text: str) -> str:
        return text

    async def main() -> None:
        owner = Owner()
        assert await owner.method("!") == "owner!"
        assert await guard(owner.method)("?") == "owner?"
        assert await guard(functools.partial(function, "partial"))() == "partial"
        assert await guard(owner)() == "called"

    loops.run(main)


def test_a_decorated_function_may_be_called_in_a_block(loops: LoopKind, executor: Executor) -> None:
    """The guard is then in the body: it raises in the worker, at the end of the function."""
    gate = Gate()
    went_on = []

    @cancellation_guard()
    async def legacy() -> None:
        gate.stop_here()

    async def body() -> None:
        async with threadpool(executor):
            await legacy()
            went_on.append(True)

    assert run_and_cancel_at(gate, loops, body).cancelled()
    assert not went_on


def a_plain_function() -> None: ...


def a_generator_function() -> Iterator[int]:
    yield 1


async def an_async_generator_function() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "func",
    [
        a_plain_function,
        a_generator_function,
        an_async_generator_function,
        functools.partial(a_plain_function),
        Gate,
        len,
    ],
)
def test_what_is_no_coroutine_function_is_refused_by_name(func: Any) -> None:
    """At once and not at the first call; the message tells what plain functions do instead."""
    with pytest.raises(TypeError, match=r"coroutine functions, and .* is none.*check_cancelled"):
        cancellation_guard()(func)
    if hasattr(func, "__qualname__"):
        with pytest.raises(TypeError, match=func.__qualname__):
            cancellation_guard()(func)


@pytest.mark.parametrize("thing", [None, 3, "text"])
def test_what_cannot_be_called_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="coroutine functions"):
        cancellation_guard()(thing)


def test_without_a_loop_the_entry_raises() -> None:
    """And the message says what is missing."""

    async def body() -> None:
        async with cancellation_guard():
            raise AssertionError("entered")

    coroutine = body()
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        coroutine.send(None)


# --- the ways in which it ends


def test_closing_a_coroutine_that_stands_in_a_guard_needs_no_task(loops: LoopKind) -> None:
    """As the garbage collector does it, wherever it happens to run: after the loop, here."""

    async def forgotten() -> None:
        async with cancellation_guard():
            await forever()

    async def main() -> Coroutine[Any, Any, None]:
        coroutine = forgotten()
        coroutine.send(None)
        return coroutine

    coroutine = loops.run(main)
    coroutine.close()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def test_closing_a_generator_that_stands_in_a_guard_is_no_cancellation(
    loops: LoopKind,
) -> None:
    async def numbers() -> AsyncIterator[int]:
        async with cancellation_guard():
            yield 1

    async def main() -> str:
        generator = numbers()
        assert await anext(generator) == 1
        await generator.aclose()  # type: ignore[attr-defined]
        async with cancellation_guard():
            await turns()
        return "quiet"

    assert loops.run(main) == "quiet"


# --- what it cannot know on Python 3.11 and 3.12


async def fails_later() -> None:
    await asyncio.sleep(0)
    raise LookupError("child")


async def group_whose_child_fails_at_its_end() -> None:
    """The group waits for its child at the end of its ``async with``."""
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_later())


async def group_whose_child_fails_in_its_body() -> None:
    """The group cancels its own body, and uncancels: on every version."""
    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(fails_later())
            await forever()


def test_before_3_13_a_guard_around_a_group_takes_a_failed_child_for_a_cancellation(
    current_task_loops: LoopKind,
) -> None:
    """A TaskGroup of 3.11 and 3.12 leaves ``cancelling()`` one too high then."""

    async def main() -> str:
        try:
            async with cancellation_guard():
                await group_whose_child_fails_at_its_end()
        except asyncio.CancelledError as error:
            assert "cancellation_guard()" in str(error)
            return "raised"
        return "quiet"

    expected = "raised" if sys.version_info < (3, 13) else "quiet"
    assert current_task_loops.run(main) == expected


def test_a_group_that_cancels_its_own_body_does_not_disturb_a_guard_around_it(
    current_task_loops: LoopKind,
) -> None:
    async def main() -> str:
        async with cancellation_guard():
            await group_whose_child_fails_in_its_body()
        return "quiet"

    assert current_task_loops.run(main) == "quiet"


def test_guards_inside_a_group_are_not_disturbed(current_task_loops: LoopKind) -> None:
    """The cure: in the body of the group, or in its tasks."""

    async def guarded() -> None:
        async with cancellation_guard():
            await fails_later()

    async def main() -> str:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(guarded())
                async with cancellation_guard():
                    await asyncio.sleep(0)
        assert caught.group_contains(LookupError)
        return "quiet"

    assert current_task_loops.run(main) == "quiet"


def test_of_several_messages_it_is_the_first(loops: LoopKind, executor: Executor) -> None:
    """As at the exit of the block, whose error was swallowed."""
    gate = Gate()

    async def legacy() -> None:
        async with cancellation_guard():
            with contextlib.suppress(asyncio.CancelledError):
                async with threadpool(executor):
                    gate.stop_here()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(legacy())
        await until(gate.reached.is_set)
        task.cancel("first")
        task.cancel("second")
        gate.open()
        with pytest.raises(asyncio.CancelledError, match=r"^first$"):
            await task

    loops.run(main)
