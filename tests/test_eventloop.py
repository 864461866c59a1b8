"""``async with eventloop():`` in the body of a block: on the loop, and back to the same worker."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
import threading
import traceback
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import Gate, busy, turns, until

from threadhop import eventloop, threadpool

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")


class OopsError(Exception):
    """What a test raises on purpose."""


@pytest.fixture
def one(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    """A pool of one worker: whoever needs a second one hangs."""
    with executor_class(1, thread_name_prefix="one") as pool:
        yield pool


@pytest.fixture
def other(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    """Another pool of one worker."""
    with executor_class(1, thread_name_prefix="other") as pool:
        yield pool


async def suspend() -> None:
    """Really leave the loop to others for a moment."""
    await asyncio.sleep(0.001)


def thread_name() -> str:
    return threading.current_thread().name


# --- where it runs


def test_the_part_runs_on_the_loop_thread(loops: LoopKind, executor: Executor) -> None:
    """With its loop running, as ``get_running_loop()`` says."""

    async def main() -> None:
        loop_thread = here()
        loop = asyncio.get_running_loop()
        async with threadpool(executor):
            assert here() != loop_thread
            async with eventloop():
                assert here() == loop_thread
                assert asyncio.get_running_loop() is loop

    loops.run(main)


def test_the_part_is_the_same_task(current_task_loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        async with threadpool(executor):
            async with eventloop():
                assert asyncio.current_task() is task
                await suspend()
                assert asyncio.current_task() is task

    current_task_loops.run(main)


def test_the_part_may_await_while_the_loop_serves_others(
    loops: LoopKind, executor: Executor
) -> None:
    """What the part waits for comes from another task."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        questions: asyncio.Queue[int] = asyncio.Queue()
        answers: asyncio.Queue[int] = asyncio.Queue()

        async def answer() -> None:
            while (number := await questions.get()) >= 0:
                await answers.put(number * 2)

        helper = loop.create_task(answer())
        total = 0
        async with threadpool(executor):
            for number in range(10):
                async with eventloop():
                    await questions.put(number)
                    total += await answers.get()
        await questions.put(-1)
        await helper
        assert total == 90

    loops.run(main)


def test_the_same_worker_thread_goes_on_after_it(loops: LoopKind, executor: Executor) -> None:
    """A connection of sqlite3 checks its thread, and stays usable over many parts."""

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            connection = sqlite3.connect(":memory:", check_same_thread=True)
            with contextlib.closing(connection):
                connection.execute("create table t (n)")
                for number in range(20):
                    connection.execute("insert into t values (?)", (number,))
                    async with eventloop():
                        with pytest.raises(sqlite3.ProgrammingError):
                            connection.execute("select 1")
                        await suspend()
                    assert here() == worker
                (total,) = connection.execute("select sum(n) from t").fetchone()
            assert total == 190

    loops.run(main)


def test_the_worker_does_nothing_else_meanwhile(loops: LoopKind, one: ThreadPoolExecutor) -> None:
    """A job of somebody else, on a pool of one, runs after the block and not within the part."""
    steps: list[str] = []

    async def main() -> None:
        async with threadpool(one):
            async with eventloop():
                job = one.submit(steps.append, "job")
                await turns(20)
                steps.append("part ends")
            steps.append("body ends")
        await asyncio.wrap_future(job)

    loops.run(main)
    assert steps == ["part ends", "body ends", "job"]


def test_the_body_has_no_running_loop_after_the_part(loops: LoopKind, executor: Executor) -> None:
    """An await that belongs into a part is refused behind it as it was before it."""

    async def main() -> None:
        async with threadpool(executor):
            async with eventloop():
                await suspend()
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="eventloop"):
                await asyncio.sleep(0)
            async with eventloop():
                await asyncio.sleep(0)

    loops.run(main)


def test_a_future_whose_await_was_refused_in_the_body_is_awaited_in_the_part(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        async with threadpool(executor):
            with pytest.raises(RuntimeError):
                await future
            async with eventloop():
                loop.call_soon(future.set_result, "value")
                assert await future == "value"

    loops.run(main)


def test_what_the_part_binds_is_none(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        async with threadpool(executor):
            async with eventloop() as bound:  # type: ignore[var-annotated, unused-ignore]
                pass
        assert bound is None

    loops.run(main)


def test_locals_are_those_of_the_function(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        numbers = [1]
        async with threadpool(executor):
            numbers.append(2)
            async with eventloop():
                numbers.append(3)
                if (total := sum(numbers)) == 6:
                    last = total
            del numbers[0]
        assert (numbers, last) == ([2, 3], 6)

    loops.run(main)


def test_one_object_is_used_again_and_shared_by_tasks_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """It keeps no state. All parts are inside it at the same time."""
    part = eventloop()
    count = 2  # the executor has two workers, and each task holds one

    async def block(met: list[int], all_met: asyncio.Event) -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            for _ in range(3):
                async with part:
                    assert here() == loop_thread
                    met.append(1)
                    if len(met) >= count:
                        all_met.set()
                    await all_met.wait()
                assert here() == worker

    async def main() -> None:
        met: list[int] = []
        all_met = asyncio.Event()
        await asyncio.gather(*(block(met, all_met) for _ in range(count)))
        assert len(met) == 3 * count

    loops.run(main)


def test_five_hundred_round_trips_in_one_block_lose_nothing(
    loops: LoopKind, executor: Executor
) -> None:
    """Each of them takes place, on the right thread, with the variables of both sides."""

    async def main() -> None:
        loop_thread = here()
        wrong = 0
        there: list[int] = []
        back: list[int] = []
        counter = contextvars.ContextVar("counter", default=0)
        async with threadpool(executor):
            worker = here()
            for number in range(500):
                counter.set(counter.get() + 1)
                async with eventloop():
                    wrong += here() != loop_thread
                    counter.set(counter.get() + 1)
                    there.append(number)
                wrong += here() != worker
                back.append(number)
        assert wrong == 0
        assert there == back == list(range(500))
        assert counter.get() == 1000

    loops.run(main)


# --- outside of any block


def test_outside_of_any_block_it_does_nothing(loops: LoopKind, executor: Executor) -> None:
    """Same thread, and no turn of the loop: nothing else runs between."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop_thread = here()
        ran: list[bool] = []
        for _ in range(2):
            loop.call_soon(ran.append, True)
            async with eventloop():
                assert here() == loop_thread
                assert not ran
            assert not ran
            await turns()
            assert ran.pop()
            async with threadpool(executor):  # the second time in a task that had a block
                pass

    loops.run(main)


def test_outside_of_any_block_errors_and_cancellations_go_through_it(loops: LoopKind) -> None:
    async def wait() -> None:
        async with eventloop():
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        with pytest.raises(OopsError):
            async with eventloop():
                raise OopsError
        task = asyncio.get_running_loop().create_task(wait())
        await turns()
        task.cancel()
        await until(task.done)
        assert task.cancelled()

    loops.run(main)


def test_without_a_loop_the_entry_says_so() -> None:
    """A coroutine that is stepped by hand, in a thread that knows no loop."""

    async def main() -> None:
        async with eventloop():
            raise AssertionError("the part ran")

    with pytest.raises(RuntimeError, match=r"eventloop\(\).*threadpool\(\)"):
        main().send(None)


def test_a_part_within_a_part_stays_where_it_is(loops: LoopKind, executor: Executor) -> None:
    """Its end does not go back to the worker; that of the outer one does."""

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                async with eventloop():
                    assert here() == loop_thread
                    await suspend()
                assert here() == loop_thread
                await suspend()
            assert here() == worker

    loops.run(main)


def test_a_part_may_stand_in_a_function_that_the_body_awaits(
    loops: LoopKind, executor: Executor
) -> None:
    """However deep: the whole chain of awaits moves."""

    async def deep(level: int, loop_thread: int) -> str:
        if level:
            return await deep(level - 1, loop_thread)
        async with eventloop():
            assert here() == loop_thread
            await suspend()
            return "value"

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            assert await deep(50, loop_thread) == "value"
            assert here() == worker

    loops.run(main)


# --- what leaves it


def test_return_in_the_part_leaves_both(loops: LoopKind, executor: Executor) -> None:
    """Each ``finally`` on the way runs on its own thread."""
    threads: list[tuple[str, int]] = []

    async def value() -> str:
        async with threadpool(executor):
            threads.append(("worker", here()))
            try:
                async with eventloop():
                    try:
                        await suspend()
                        return "value"
                    finally:
                        threads.append(("finally of the part", here()))
            finally:
                threads.append(("finally of the body", here()))
        raise AssertionError("went on")

    async def main() -> None:
        loop_thread = here()
        assert await value() == "value"
        assert here() == loop_thread
        worker = threads[0][1]
        assert threads[1:] == [
            ("finally of the part", loop_thread),
            ("finally of the body", worker),
        ]
        assert worker != loop_thread

    loops.run(main)


def test_break_and_continue_in_the_part_belong_to_the_loop_around_it(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        seen: list[int] = []
        async with threadpool(executor):
            worker = here()
            for number in range(10):
                async with eventloop():
                    await suspend()
                    if number % 2:
                        continue
                    if number == 6:
                        break
                assert here() == worker
                seen.append(number)
            assert here() == worker
        assert seen == [0, 2, 4]

    loops.run(main)


def test_break_in_the_part_leaves_the_block_around_it_too(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        loop_thread = here()
        while True:
            async with threadpool(executor):
                async with eventloop():
                    break
        assert here() == loop_thread

    loops.run(main)


def test_an_error_of_the_part_is_caught_on_the_worker(loops: LoopKind, executor: Executor) -> None:
    """The object itself, without a foreign context, and with the lines of the part."""

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            error = OopsError("part")
            try:
                async with eventloop():
                    await suspend()
                    raise error  # the line
            except OopsError as caught:
                assert caught is error
                assert caught.__context__ is None
                assert here() == worker
                lines = [frame.line for frame in traceback.extract_tb(caught.__traceback__)]
                assert lines == ["raise error  # the line"]
            else:
                raise AssertionError("nothing was raised")

    loops.run(main)


def test_an_error_of_an_await_in_the_part_comes_out_of_the_block(
    loops: LoopKind, executor: Executor
) -> None:
    """With the frames of the function that raised it."""

    async def fails() -> None:
        await suspend()
        raise OopsError("awaited")

    async def main() -> None:
        loop_thread = here()
        with pytest.raises(OopsError, match="awaited") as caught:
            async with threadpool(executor):
                async with eventloop():
                    await fails()
        assert here() == loop_thread
        assert caught.traceback[-1].name == "fails"
        assert caught.value.__context__ is None

    loops.run(main)


def test_an_error_that_is_handled_in_the_part_stays_there(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                with contextlib.suppress(OopsError):
                    raise OopsError
                await suspend()
            assert here() == worker

    loops.run(main)


def test_an_error_that_the_body_handles_is_the_context_of_one_of_the_part(
    loops: LoopKind, executor: Executor
) -> None:
    """As in any code: a part that stands in an ``except`` of the body."""

    async def main() -> None:
        async with threadpool(executor):
            try:
                raise OopsError("body")
            except OopsError:
                with pytest.raises(LookupError) as caught:
                    async with eventloop():
                        await suspend()
                        raise LookupError("part") from None
            assert isinstance(caught.value.__context__, OopsError)

            try:
                raise OopsError("again")
            except OopsError:
                with pytest.raises(OopsError, match="again"):
                    async with eventloop():
                        await suspend()
                        raise  # the handled one

    loops.run(main)


@pytest.mark.parametrize(
    "kind",
    [StopAsyncIteration, GeneratorExit, SystemExit, KeyboardInterrupt, asyncio.CancelledError],
)
def test_an_odd_exception_leaves_the_part_like_any_other(
    loops: LoopKind, executor: Executor, kind: type[BaseException]
) -> None:
    """Through the worker, where the ``finally`` of the body runs, to the loop."""

    async def main() -> None:
        loop_thread = here()
        error = kind("odd")
        steps: list[tuple[str, bool]] = []
        try:
            async with threadpool(executor):
                worker = here()
                try:
                    async with eventloop():
                        await suspend()
                        raise error
                finally:
                    steps.append(("body", here() == worker))
        except kind as caught:
            steps.append(("outside", here() == loop_thread))
            assert caught is error
        assert steps == [("body", True), ("outside", True)]

    loops.run(main)


def test_stop_iteration_of_the_part_reaches_the_body(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            with pytest.raises(StopIteration) as caught:
                async with eventloop():
                    next(iter(()))
            assert here() == worker
            assert caught.value.value is None

    loops.run(main)


# --- context variables


def test_the_part_sees_what_the_body_has_set(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        color.set("loop")
        async with threadpool(executor):
            assert color.get() == "loop"
            color.set("body")
            async with eventloop():
                assert color.get() == "body"
                await suspend()
                assert color.get() == "body"

    loops.run(main)


def test_what_the_part_sets_holds_in_the_body_and_after_the_block(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            for value in ("one", "two"):
                async with eventloop():
                    await suspend()
                    color.set(value)
                assert color.get() == value
        assert color.get() == "two"

    loops.run(main)


def test_what_the_part_sets_before_an_error_holds_in_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            with contextlib.suppress(OopsError):
                async with eventloop():
                    color.set("part")
                    raise OopsError
            assert color.get() == "part"

    loops.run(main)


def test_a_token_of_the_body_is_reset_in_the_body_after_a_part(
    loops: LoopKind, executor: Executor
) -> None:
    """And the next part sees it unset, or as it was."""

    async def main() -> None:
        async with threadpool(executor):
            token = color.set("body")
            async with eventloop():
                assert color.get() == "body"
            color.reset(token)
            assert color.get() == "unset"
            async with eventloop():
                assert color.get() == "unset"
                assert color not in contextvars.copy_context()

    loops.run(main)


def test_a_token_of_one_part_is_reset_in_a_later_part(loops: LoopKind, executor: Executor) -> None:
    """Both are on the loop, in the Context of the task."""

    async def main() -> None:
        color.set("loop")
        async with threadpool(executor):
            async with eventloop():
                token = color.set("part")
            assert color.get() == "part"
            async with eventloop():
                color.reset(token)
            assert color.get() == "loop"
        assert color.get() == "loop"

    loops.run(main)


def test_a_token_does_not_cross_the_border_of_a_part(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        async with threadpool(executor):
            token = color.set("body")
            async with eventloop():
                with pytest.raises(ValueError, match="different Context"):
                    color.reset(token)
            color.reset(token)

    loops.run(main)


def test_a_task_that_the_part_starts_inherits_the_variables_of_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    """It lives on while the body goes on, and sets nothing here."""

    async def child() -> str:
        seen = color.get()
        color.set("child")
        await suspend()
        return seen

    async def main() -> None:
        async with threadpool(executor):
            color.set("body")
            async with eventloop():
                task = asyncio.get_running_loop().create_task(child())
                await turns(2)
            assert color.get() == "body"
        assert await task == "body"

    loops.run(main)


def test_tasks_that_share_a_context_are_in_parts_and_bodies_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """Neither is lost: the worker never enters the Context of the task."""

    async def block(gate: Gate, go: asyncio.Event) -> str:
        async with threadpool(executor):
            async with eventloop():
                await go.wait()
            gate.stop_here()
            async with eventloop():
                await suspend()
        return "ended"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared = contextvars.copy_context()
        gates = [Gate(), Gate()]
        go = asyncio.Event()
        tasks = [loop.create_task(block(gate, go), context=shared) for gate in gates]
        await turns()
        go.set()
        for gate in gates:
            await until(gate.reached.is_set)
        for gate in gates:
            gate.open()
        assert await asyncio.gather(*tasks) == ["ended", "ended"]

    loops.run(main)


# --- nested


def test_a_block_of_the_same_executor_in_the_part_goes_back_to_the_parked_worker(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """A pool of one would wait for itself otherwise."""

    async def main() -> None:
        loop_thread = here()
        async with threadpool(one):
            worker = here()
            async with eventloop():
                async with threadpool(one):
                    assert here() == worker
                assert here() == loop_thread
                await suspend()
            assert here() == worker

    loops.run(main)


def test_block_and_part_nest_ten_deep_on_a_pool_of_one(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """One thread each, on the way in and on the way out."""
    threads: list[int] = []

    async def down(level: int) -> None:
        threads.append(here())
        if level:
            async with threadpool(one):
                threads.append(here())
                async with eventloop():
                    await suspend()
                    await down(level - 1)
                threads.append(here())
        threads.append(here())

    async def main() -> None:
        loop_thread = here()
        async with threadpool(one):
            worker = here()
        await down(10)
        expected = [loop_thread, worker] * 10 + [loop_thread] * 2 + [worker, loop_thread] * 10
        assert threads == expected

    loops.run(main)


def test_two_executors_alternate_through_parts(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """one > loop > other > loop > one > loop, and all the way back."""
    places: list[str] = []

    def note() -> None:
        places.append("loop" if here() == loop_thread else thread_name())

    async def down(*pools: ThreadPoolExecutor) -> None:
        if not pools:
            return
        async with threadpool(pools[0]):
            note()
            async with eventloop():
                note()
                await suspend()
                await down(*pools[1:])
                note()
            note()

    loop_thread = 0

    async def main() -> None:
        nonlocal loop_thread
        loop_thread = here()
        await down(one, other, one)
        note()

    loops.run(main)
    there = ["one_0", "loop", "other_0", "loop", "one_0", "loop"]
    assert places == [*there, *reversed(there), "loop"]


def test_an_error_comes_out_through_blocks_and_parts(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """Each ``finally`` on its own thread."""
    places: list[str] = []

    async def main() -> None:
        loop_thread = here()

        def note() -> None:
            places.append("loop" if here() == loop_thread else thread_name())

        with pytest.raises(OopsError) as caught:
            async with threadpool(one):
                try:
                    async with eventloop():
                        try:
                            async with threadpool(other):
                                try:
                                    async with eventloop():
                                        await suspend()
                                        raise OopsError
                                finally:
                                    note()
                        finally:
                            note()
                finally:
                    note()
        note()
        assert caught.value.__context__ is None

    loops.run(main)
    assert places == ["other_0", "loop", "one_0", "loop"]


def test_a_part_in_nested_blocks_comes_back_to_the_inner_one(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """one > other > loop > one > loop: both workers are parked and kept."""
    places: list[str] = []

    async def main() -> None:
        async with threadpool(one), threadpool(other):
            places.append(thread_name())
            async with eventloop():
                async with threadpool(one):
                    places.append(thread_name())
                    async with eventloop():
                        await suspend()
                    places.append(thread_name())
                await suspend()
            places.append(thread_name())
        async with threadpool(one):
            places.append(thread_name())

    loops.run(main)
    assert places == ["other_0", "one_0", "one_0", "other_0", "one_0"]


def test_a_part_in_a_block_that_stayed_where_it_was_comes_back_there(
    loops: LoopKind, executor: Executor
) -> None:
    """A block nested in one of the same executor."""

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            async with threadpool(executor):
                async with eventloop():
                    assert here() == loop_thread
                    await suspend()
                assert here() == worker
            assert here() == worker

    loops.run(main)


def test_the_default_executor_is_found_again_from_a_part(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """By no name, in a pool of one: it is the worker that the task holds already."""

    async def main() -> None:
        with executor_class(1) as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            async with threadpool():
                worker = here()
                async with eventloop():
                    await suspend()
                    async with threadpool():
                        assert here() == worker

    current_task_loops.run(main)


def test_a_default_executor_that_the_loop_makes_itself_is_found_again_from_a_part(
    current_task_loops: LoopKind,
) -> None:
    async def main() -> None:
        async with threadpool():
            worker = here()
            async with eventloop():
                async with threadpool():
                    assert here() == worker
                await suspend()
            assert here() == worker

    current_task_loops.run(main)


def test_a_decorated_function_awaited_in_a_part_runs_on_the_parked_worker(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    async def main() -> None:
        where = threadpool(one)(here)
        async with threadpool(one):
            worker = here()
            async with eventloop():
                assert await where() == worker

    loops.run(main)


def test_a_child_task_of_the_part_has_blocks_of_its_own(
    loops: LoopKind, executor: Executor
) -> None:
    """It does not share the parked worker: that belongs to the task."""

    async def child() -> int:
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                await suspend()
            assert here() == worker
            return worker

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                assert await asyncio.get_running_loop().create_task(child()) != worker

    loops.run(main)


def test_parts_and_blocks_that_are_left_in_the_wrong_order_bring_the_task_home(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """Both ends take place, and the worker is free afterwards."""

    async def main() -> None:
        loop_thread = here()
        block, part = threadpool(one), eventloop()
        await block.__aenter__()
        await part.__aenter__()
        assert here() == loop_thread
        await block.__aexit__(None, None, None)
        await part.__aexit__(None, None, None)
        assert here() == loop_thread
        assert await asyncio.wrap_future(one.submit(str, 1)) == "1"

    loops.run(main)


def test_an_exit_stack_enters_and_leaves_parts(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    async def main() -> None:
        loop_thread = here()
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(threadpool(one))
            assert thread_name() == "one_0"
            await stack.enter_async_context(eventloop())
            assert here() == loop_thread
            await stack.enter_async_context(threadpool(other))
            assert thread_name() == "other_0"
            await stack.enter_async_context(eventloop())
            await suspend()
        assert here() == loop_thread

    loops.run(main)


# --- in generators and context managers


def test_an_async_generator_with_parts_is_iterated_in_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    """It awaits in parts and yields on the worker."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(5):
            async with eventloop():
                await suspend()
            yield number

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            seen = []
            async with aclosing(numbers()) as source:
                async for number in source:
                    assert here() == worker
                    seen.append(number)
            assert seen == [0, 1, 2, 3, 4]

    loops.run(main)


def test_an_async_generator_yields_from_a_part_within_a_block(
    loops: LoopKind, executor: Executor
) -> None:
    """Its consumer is on the loop, and may await; the rows come from one worker."""

    async def rows() -> AsyncIterator[tuple[int, int]]:
        async with threadpool(executor):
            for number in range(5):
                worker = here()
                async with eventloop():
                    yield number, worker

    async def main() -> None:
        loop_thread = here()
        seen = []
        workers = set()
        async with aclosing(rows()) as source:
            async for number, worker in source:
                assert here() == loop_thread
                await suspend()
                seen.append(number)
                workers.add(worker)
        assert seen == [0, 1, 2, 3, 4]
        assert len(workers) == 1
        assert loop_thread not in workers

    loops.run(main)


def test_the_consumer_of_such_a_generator_may_break_and_close_it(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """GeneratorExit goes through the part on the loop, and through the body on the worker."""
    places: list[tuple[str, int]] = []

    async def rows() -> AsyncIterator[int]:
        async with threadpool(one):
            try:
                places.append(("body", here()))
                async with eventloop():
                    try:
                        yield 1
                        raise AssertionError("went on")
                    finally:
                        await suspend()
                        places.append(("part", here()))
            finally:
                places.append(("body", here()))

    async def main() -> None:
        loop_thread = here()
        async with aclosing(rows()) as source:
            async for _ in source:
                break
        assert here() == loop_thread
        worker = places[0][1]
        assert places[1:] == [("part", loop_thread), ("body", worker)]
        assert await asyncio.wrap_future(one.submit(here)) == worker

    loops.run(main)


def test_the_consumer_of_such_a_generator_may_use_blocks_of_the_same_executor(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """It is the same task, which holds the one worker already."""

    async def rows() -> AsyncIterator[int]:
        async with threadpool(one):
            for _ in range(3):
                async with eventloop():
                    yield here()

    async def main() -> None:
        async with threadpool(one):
            worker = here()
        async with aclosing(rows()) as source:
            async for _ in source:
                async with threadpool(one):
                    assert here() == worker

    loops.run(main)


def test_a_context_manager_yields_from_a_part_within_its_block(
    loops: LoopKind, executor: Executor
) -> None:
    """Set up and torn down on one worker; the user's body is on the loop, and may await."""
    steps: list[tuple[str, int]] = []

    @asynccontextmanager
    async def connection() -> AsyncIterator[str]:
        async with threadpool(executor):
            steps.append(("open", here()))
            try:
                async with eventloop():
                    yield "connection"
            finally:
                steps.append(("close", here()))

    async def main() -> None:
        loop_thread = here()
        async with connection() as value:
            assert value == "connection"
            assert here() == loop_thread
            await suspend()
        assert here() == loop_thread
        with pytest.raises(OopsError):
            async with connection():
                raise OopsError
        assert here() == loop_thread
        assert [name for name, _ in steps] == ["open", "close"] * 2
        assert steps[0][1] == steps[1][1] != loop_thread
        assert steps[2][1] == steps[3][1] != loop_thread

    loops.run(main)


def test_a_context_manager_may_swallow_an_error_of_the_users_body_on_its_worker(
    loops: LoopKind, executor: Executor
) -> None:
    @asynccontextmanager
    async def forgiving(caught: list[int]) -> AsyncIterator[None]:
        async with threadpool(executor):
            try:
                async with eventloop():
                    yield
            except OopsError:
                caught.append(here())

    async def main() -> None:
        loop_thread = here()
        caught: list[int] = []
        async with forgiving(caught):
            raise OopsError
        assert here() == loop_thread
        assert caught != [loop_thread]
        assert len(caught) == 1

    loops.run(main)


def test_the_body_of_a_context_manager_that_moved_it_uses_parts(
    loops: LoopKind, executor: Executor
) -> None:
    """The user cannot see the block; the part finds it."""

    @asynccontextmanager
    async def on_a_worker() -> AsyncIterator[None]:
        async with threadpool(executor):
            yield

    async def main() -> None:
        loop_thread = here()
        async with on_a_worker():
            worker = here()
            assert worker != loop_thread
            async with eventloop():
                assert here() == loop_thread
                await suspend()
            assert here() == worker
        assert here() == loop_thread

    loops.run(main)


def test_a_context_manager_that_is_a_part_moves_its_user(
    loops: LoopKind, executor: Executor
) -> None:
    @asynccontextmanager
    async def on_the_loop() -> AsyncIterator[None]:
        async with eventloop():
            yield

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            async with on_the_loop():
                assert here() == loop_thread
                await suspend()
            assert here() == worker
            with pytest.raises(OopsError):
                async with on_the_loop():
                    raise OopsError
            assert here() == worker

    loops.run(main)


def test_an_abandoned_generator_that_yielded_from_a_part_leaves_its_consumer_on_the_loop(
    loops: LoopKind, executor: Executor
) -> None:
    """Not closed: the block is not left, but the code goes on where it was, and may still await."""

    async def rows() -> AsyncIterator[int]:
        async with threadpool(executor):
            async with eventloop():
                yield 1

    async def consume(kept: list[Any]) -> str:
        source = rows()
        kept.append(source)
        loop_thread = here()
        async for _ in source:
            break
        assert here() == loop_thread
        await suspend()
        await kept.pop().aclose()
        assert here() == loop_thread
        return "went on"

    async def main() -> None:
        assert await asyncio.get_running_loop().create_task(consume([])) == "went on"

    loops.run(main)


# --- another loop in the body


def test_asyncio_run_in_the_body_has_blocks_and_parts_of_its_own(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """A part in there goes to the inner loop, which runs on the worker of the outer block."""

    async def inner(outer_worker: int) -> str:
        loop = asyncio.get_running_loop()
        async with eventloop():  # outside of any block of this task: it does nothing
            assert here() == outer_worker
        async with threadpool(other):
            assert thread_name() == "other_0"
            async with eventloop():
                assert here() == outer_worker
                assert asyncio.get_running_loop() is loop
                await suspend()
            assert thread_name() == "other_0"
        return "inner"

    async def main() -> None:
        loop_thread = here()
        async with threadpool(one):
            worker = here()
            async with eventloop():
                await suspend()
            assert asyncio.run(inner(worker)) == "inner"
            assert here() == worker
            async with eventloop():
                assert here() == loop_thread
                await suspend()
            assert here() == worker

    loops.run(main)


def test_asyncio_run_in_a_body_in_a_part_in_a_body(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """Each level knows its own loop: two loops, two workers."""

    async def inner(outer_worker: int) -> None:
        async with threadpool(other):
            async with eventloop():
                async with threadpool(other):
                    assert thread_name() == "other_0"
                assert here() == outer_worker
                await suspend()

    async def main() -> None:
        loop_thread = here()
        async with threadpool(one):
            async with eventloop():
                async with threadpool(one):
                    asyncio.run(inner(here()))
                assert here() == loop_thread
                await suspend()

    loops.run(main)


# --- many at once


def test_many_tasks_with_parts_share_few_workers(loops: LoopKind, executor: Executor) -> None:
    """Each holds its worker until its block ends; all of them come to their end."""

    async def block(number: int) -> int:
        async with threadpool(executor):
            worker = here()
            for _ in range(3):
                async with eventloop():
                    await asyncio.sleep(0)
                assert here() == worker
        return number

    async def main() -> None:
        assert await asyncio.gather(*map(block, range(50))) == list(range(50))

    loops.run(main)


def test_a_block_that_waits_for_a_worker_in_a_part_is_queued_like_any_other(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """The other pool is busy: the part waits, the loop does not."""

    async def block(asked: threading.Event) -> str:
        async with threadpool(one):
            async with eventloop():
                asked.set()
                async with threadpool(other):
                    return thread_name()

    async def main() -> None:
        asked = threading.Event()
        with busy(other) as release:
            task = asyncio.get_running_loop().create_task(block(asked))
            await until(asked.is_set)
            await turns(10)
            assert not task.done()
            release()
            assert await task == "other_0"

    loops.run(main)


def test_a_part_is_entered_while_the_pool_is_shut_down(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The worker is reserved: neither the part nor a block that goes back to it needs the pool."""

    async def main() -> None:
        pool = executor_class(1)
        try:
            async with threadpool(pool):
                worker = here()
                pool.shutdown(wait=False, cancel_futures=True)
                async with eventloop():
                    await suspend()
                    async with threadpool(pool):
                        assert here() == worker
                assert here() == worker
        finally:
            await asyncio.to_thread(pool.shutdown)

    current_task_loops.run(main)
