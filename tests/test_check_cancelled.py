"""``check_cancelled()``: the checkpoint of code that cannot await."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns, until, wait_until

from threadhop import check_cancelled, eventloop, exec_in_eventloop, threadpool

here = threading.get_ident


def run_and_cancel(
    loops: LoopKind,
    gate: Gate,
    block: Callable[[], Coroutine[Any, Any, Any]],
    *messages: Any,
) -> asyncio.Task[Any]:
    """Run *block* in a task, cancel it at *gate* with each of *messages*, and let it end."""

    async def main() -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        for message in messages:
            task.cancel(message)
        gate.open()
        await until(task.done)
        return task

    return loops.run(main)


# --- in the body of a block


def test_a_cancelled_body_gets_the_error_with_the_message(
    loops: LoopKind, executor: Executor
) -> None:
    """In the worker, at the line of the check. The code after it does not run."""
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    async def block() -> None:
        loop_thread = here()
        async with threadpool(executor):
            gate.stop_here()
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                assert here() != loop_thread
                seen.append(error.args)
                raise
            seen.append(("went on",))

    assert run_and_cancel(loops, gate, block, "stop").cancelled()
    assert seen == [("stop",)]


def test_a_cancellation_without_a_message_gives_an_error_without_one(
    loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                seen.append(error.args)

    assert run_and_cancel(loops, gate, block, None).cancelled()
    assert seen == [()]


def test_of_several_messages_the_first_is_told(loops: LoopKind, executor: Executor) -> None:
    """The same that the exit of the block tells."""
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                seen.append(error.args)

    run_and_cancel(loops, gate, block, "first", "second", None)
    assert seen == [("first",)]


def test_without_a_cancellation_the_body_goes_on(loops: LoopKind, executor: Executor) -> None:
    gate = Gate()

    async def block() -> str:
        async with threadpool(executor):
            check_cancelled()
            gate.stop_here()
            check_cancelled()
            return "went on"

    assert run_and_cancel(loops, gate, block).result() == "went on"


def test_it_works_in_whatever_the_body_calls(loops: LoopKind, executor: Executor) -> None:
    """No argument leads there: plain functions, generators and coroutines find it by themselves."""
    gate = Gate()
    raised = []

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        else:
            check_cancelled()

    async def asynchronous() -> None:
        check_cancelled()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            with pytest.raises(asyncio.CancelledError):
                deep(20)
            raised.append("functions")
            with pytest.raises(asyncio.CancelledError):
                list(check_cancelled() for _ in "a")  # noqa: C400
            raised.append("generators")
            with pytest.raises(asyncio.CancelledError):
                await asynchronous()
            raised.append("coroutines")

    assert run_and_cancel(loops, gate, block, None).cancelled()
    assert raised == ["functions", "generators", "coroutines"]


def test_swallowing_it_does_not_help(loops: LoopKind, executor: Executor) -> None:
    """The next check raises again, each time a new error, and so does the exit of the block."""
    gate = Gate()
    errors: list[BaseException] = []

    async def block() -> None:
        try:
            async with threadpool(executor):
                gate.stop_here()
                for _ in range(3):
                    try:
                        check_cancelled()
                    except BaseException as error:
                        errors.append(error)
        except asyncio.CancelledError as error:
            errors.append(error)
            raise
        errors.append(AssertionError("after the block"))

    assert run_and_cancel(loops, gate, block, "stop").cancelled()
    assert [(type(error), error.args) for error in errors] == [
        (asyncio.CancelledError, ("stop",))
    ] * 4
    assert len(set(map(id, errors))) == 4


def test_turning_it_into_another_error_does_not_help(loops: LoopKind, executor: Executor) -> None:
    """That one becomes the context of the CancelledError."""
    gate = Gate()
    contexts: list[BaseException | None] = []

    async def block() -> None:
        try:
            async with threadpool(executor):
                gate.stop_here()
                try:
                    check_cancelled()
                except BaseException as error:
                    raise LookupError("converted") from error
        except asyncio.CancelledError as error:
            contexts.append(error.__context__)
            raise

    assert run_and_cancel(loops, gate, block, "stop").cancelled()
    (context,) = contexts
    assert isinstance(context, LookupError)


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
        await turns()  # and it does not come again
        async with threadpool(executor):
            check_cancelled()
        return "usable"

    assert run_and_cancel(loops, gate, block, "stop").result() == "usable"


def test_a_timeout_stops_a_body_that_checks(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """As TimeoutError, in the middle of the body, and nothing stays counted."""
    steps = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                async with threadpool(executor):
                    wait_until(task.cancelling)
                    check_cancelled()
                    steps.append("went on")
        assert task.cancelling() == 0
        async with threadpool(executor):
            check_cancelled()
            steps.append("another block")

    current_task_loops.run(main)
    assert steps == ["another block"]


def test_a_cancellation_from_before_the_block_is_none_of_its_business(
    loops: LoopKind, executor: Executor
) -> None:
    """``Task.cancelling()`` still counts one that was caught; the check does not ask it."""
    gate = Gate()

    async def block() -> str:
        try:
            async with threadpool(executor):
                gate.stop_here()
        except asyncio.CancelledError:
            pass
        async with threadpool(executor):
            check_cancelled()
            return "went on"

    task = run_and_cancel(loops, gate, block, "early")
    assert task.cancelling() == 1
    assert task.result() == "went on"


def test_each_task_is_told_of_its_own_cancellation_only(
    loops: LoopKind, executor: Executor
) -> None:
    gates = [Gate(), Gate()]
    told = []

    async def block(name: int) -> None:
        async with threadpool(executor):
            gates[name].stop_here()
            try:
                check_cancelled()
            except asyncio.CancelledError:
                told.append(name)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(block(name)) for name in range(2)]
        await until(lambda: all(gate.reached.is_set() for gate in gates))
        tasks[1].cancel()
        for gate in gates:
            gate.open()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, True]

    loops.run(main)
    assert told == [1]


def test_in_a_block_of_another_executor_it_raises_too(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """And in the outer block, if that was swallowed in the inner."""
    gate = Gate()
    told = []

    async def block(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer):
            try:
                async with threadpool(inner):
                    gate.stop_here()
                    try:
                        check_cancelled()
                    except asyncio.CancelledError:
                        told.append("inner")
            except asyncio.CancelledError:
                told.append("exit of inner")
            try:
                check_cancelled()
            except asyncio.CancelledError:
                told.append("outer")

    with executor_class(1) as outer, executor_class(1) as inner:
        task = run_and_cancel(loops, gate, lambda: block(outer, inner), None)
    assert task.cancelled()
    assert told == ["inner", "exit of inner", "outer"]


# --- on the loop


def test_on_the_loop_it_raises_what_the_next_await_would_raise(loops: LoopKind) -> None:
    """A cancellation that was asked for and not delivered. It stays for the ``await``."""
    told: list[tuple[Any, ...]] = []
    tasks: list[asyncio.Task[None]] = []

    async def cancels_itself() -> None:
        await turns(1)
        tasks[0].cancel("pending")
        for _ in range(2):
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                told.append(error.args)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            told.append(error.args)
        check_cancelled()  # delivered: nothing is pending any more
        told.append(("went on",))

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(cancels_itself()))
        await tasks[0]

    loops.run(main)
    assert told == [("pending",)] * 3 + [("went on",)]


def test_on_the_loop_without_a_cancellation_it_does_nothing(loops: LoopKind) -> None:
    async def main() -> str:
        check_cancelled()
        await turns()
        check_cancelled()
        return "went on"

    assert loops.run(main) == "went on"


def test_in_a_callback_of_the_loop_it_does_nothing(loops: LoopKind) -> None:
    """A callback belongs to no task."""

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()

        def callback() -> None:
            check_cancelled()
            future.set_result("went on")

        loop.call_soon(callback)
        return await future

    assert loops.run(main) == "went on"


def test_what_a_loop_part_swallowed_belongs_to_its_await(
    loops: LoopKind, executor: Executor
) -> None:
    """It was delivered there, so neither the check in the worker nor the exit raises it."""
    reached = threading.Event()
    told = []

    async def block() -> str:
        async with threadpool(executor):
            async with eventloop():
                try:
                    reached.set()
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    told.append("at the await")
                check_cancelled()
            check_cancelled()
            return "went on"

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(reached.is_set)
        await turns()
        task.cancel()
        await until(task.done)
        assert task.result() == "went on"

    loops.run(main)
    assert told == ["at the await"]


def test_what_left_a_loop_part_and_was_swallowed_is_told_by_the_check(
    loops: LoopKind, executor: Executor
) -> None:
    """The worker cannot swallow what the loop part let out: the check raises it, then the exit."""
    reached = threading.Event()
    told: list[tuple[Any, ...]] = []

    async def block() -> None:
        async with threadpool(executor):
            try:
                async with eventloop():
                    reached.set()
                    await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                pass
            try:
                check_cancelled()
            except asyncio.CancelledError as error:
                told.append(error.args)

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(reached.is_set)
        await turns()
        task.cancel("in the loop part")
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert told == [("in the loop part",)]


def test_in_a_function_that_was_sent_to_the_loop_it_does_nothing(
    loops: LoopKind, executor: Executor
) -> None:
    """``exec_in_eventloop`` runs a plain function in a callback, which belongs to no task."""

    async def main() -> str:
        async with threadpool(executor):
            exec_in_eventloop(check_cancelled)
            return "went on"

    assert loops.run(main) == "went on"


def test_a_loop_that_runs_inside_a_body_asks_about_its_own_tasks(
    loops: LoopKind, executor: Executor
) -> None:
    """``asyncio.run()`` in a body is legal. Its tasks were not cancelled; the outer one was."""
    gate = Gate()
    told = []

    async def inner() -> None:
        check_cancelled()
        told.append("inner went on")

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            asyncio.run(inner())
            try:
                check_cancelled()
            except asyncio.CancelledError:
                told.append("outer")

    assert run_and_cancel(loops, gate, block, None).cancelled()
    assert told == ["inner went on", "outer"]


# --- in other threads


def test_in_the_main_thread_without_a_loop_it_does_nothing() -> None:
    """So a function that checks can be called by a script, too."""
    check_cancelled()


def test_in_a_thread_that_works_for_nobody_it_does_nothing(
    loops: LoopKind, executor: Executor
) -> None:
    """Nobody can know that a thread which the body started, or a job, belongs to the task."""
    gate = Gate()
    results = []

    def check() -> None:
        check_cancelled()
        results.append("went on")

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            thread = threading.Thread(target=check)
            thread.start()
            thread.join(LIMIT)
            executor.submit(check).result(LIMIT)

    assert run_and_cancel(loops, gate, block, None).cancelled()
    assert results == ["went on", "went on"]


def test_a_worker_forgets_the_cancellation_with_the_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """What the pool's only thread does next is not cancelled."""
    gate = Gate()

    with executor_class(1) as pool:

        async def block() -> None:
            async with threadpool(pool):
                gate.stop_here()
                check_cancelled()

        assert run_and_cancel(loops, gate, block, None).cancelled()
        assert pool.submit(check_cancelled).result(LIMIT) is None
