"""``async with threadpool(executor):``, the block: where its body runs, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import sys
import threading
import traceback
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind

import threadhop
from threadhop import threadpool

#: What an error about an await in the body must tell the reader to do instead.
REMEDY = "eventloop()" if hasattr(threadhop, "eventloop") else "before or after the block"

#: In seconds: nothing takes this long, unless it hangs.
LIMIT = 5.0


@pytest.fixture
def one_thread(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    """A pool with a single thread: it shows at once when a worker is not given back."""
    with executor_class(max_workers=1, thread_name_prefix="single") as pool:
        yield pool


@pytest.fixture
def other(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    """A second pool, with a single thread."""
    with executor_class(max_workers=1, thread_name_prefix="other") as pool:
        yield pool


def on_loop_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def on_thread_of(prefix: str) -> bool:
    return threading.current_thread().name.startswith(prefix)


def on_worker() -> bool:
    """Whether this is a thread of the fixture ``executor``."""
    return on_thread_of("worker")


async def in_block_of(executor: Executor) -> str:
    """That a worker is free and can still run a body."""
    async with threadpool(executor):
        return threading.current_thread().name


@types.coroutine
def bare_yield(value: object) -> Generator[object, object, object]:
    return (yield value)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "threadhop" and record.levelno == logging.WARNING
    ]


# --- threads ---


def test_the_body_runs_on_a_worker_of_the_executor(loops: LoopKind, executor: Executor) -> None:
    """The body is on a thread of the pool, what stands around it on the thread of the loop."""

    async def main() -> None:
        assert on_loop_thread()
        async with threadpool(executor):
            assert on_worker()
        assert on_loop_thread()

    loops.run(main)


def test_the_loop_goes_on_while_the_body_blocks(loops: LoopKind, executor: Executor) -> None:
    """A body may wait for something that only the loop thread can bring about."""
    event = threading.Event()

    async def main() -> None:
        asyncio.get_running_loop().call_soon(event.set)
        async with threadpool(executor):
            assert event.wait(LIMIT)

    loops.run(main)


def test_the_body_has_no_running_loop(loops: LoopKind, executor: Executor) -> None:
    """Code that asks asyncio for its loop is told that there is none, instead of misusing it."""

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()

    loops.run(main)


def test_what_the_block_binds_is_none(loops: LoopKind, executor: Executor) -> None:
    """``as`` gives nothing to use: the block is about the thread only."""

    async def main() -> None:
        async with threadpool(executor) as bound:
            assert bound is None

    loops.run(main)


def test_several_blocks_of_a_task_follow_each_other(loops: LoopKind, executor: Executor) -> None:
    """A task may change its thread as often as it likes, and between the blocks it may await."""

    async def main() -> None:
        for _ in range(20):
            async with threadpool(executor):
                assert on_worker()
            assert on_loop_thread()
            await asyncio.sleep(0)

    loops.run(main)


def test_without_a_loop_the_entry_says_so() -> None:
    """A coroutine that no loop drives is told to be run by one."""

    async def main() -> None:
        async with threadpool():
            raise AssertionError("the body must not run")

    coro = main()
    with pytest.raises(RuntimeError, match=r"asyncio\.run"):
        coro.send(None)


def test_without_a_task_the_entry_says_so(loops: LoopKind, executor: Executor) -> None:
    """A coroutine that is driven on the loop, but by no task, is told to be wrapped in one."""
    errors: list[BaseException] = []

    async def body() -> None:
        async with threadpool(executor):
            raise AssertionError("the body must not run")

    def drive(done: asyncio.Future[None]) -> None:
        try:
            body().send(None)
        except RuntimeError as exc:
            errors.append(exc)
        done.set_result(None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        loop.call_soon(drive, done)
        await done

    loops.run(main)
    assert "create_task" in str(errors[0])


def test_a_coroutine_that_is_stepped_by_hand_is_refused(
    loops: LoopKind, executor: Executor
) -> None:
    """Who swallows the switch gets an error, no wrong thread; the task may use blocks later."""

    async def body() -> None:
        async with threadpool(executor):
            raise AssertionError("the body must not run")

    async def main() -> None:
        coro = body()
        coro.send(None)
        with pytest.raises(RuntimeError, match="swallowed"):
            coro.send(None)
        assert on_loop_thread()
        async with threadpool(executor):
            assert on_worker()
        assert on_loop_thread()

    loops.run(main)


# --- the body is like that of any block ---


def test_return_in_the_body_returns_from_the_function(loops: LoopKind, executor: Executor) -> None:
    """The value arrives, and the caller goes on on the loop thread."""

    async def value() -> int:
        async with threadpool(executor):
            return 42

    async def main() -> None:
        assert await value() == 42
        assert on_loop_thread()

    loops.run(main)


def test_break_in_the_body_ends_the_loop_around_it(loops: LoopKind, executor: Executor) -> None:
    """The line after the loop is on the loop thread; an ``else`` of the loop is skipped."""

    async def main() -> None:
        for number in range(5):
            async with threadpool(executor):
                if number == 2:
                    break
        else:
            raise AssertionError("break did not break")
        assert number == 2
        assert on_loop_thread()

    loops.run(main)


def test_continue_in_the_body_goes_to_the_next_turn(loops: LoopKind, executor: Executor) -> None:
    """Each turn begins on the loop thread again."""

    async def main() -> None:
        seen = []
        for number in range(4):
            assert on_loop_thread()
            async with threadpool(executor):
                if number % 2:
                    continue
                seen.append(number)
            assert on_loop_thread()
        assert seen == [0, 2]

    loops.run(main)


def test_locals_are_those_of_the_function(loops: LoopKind, executor: Executor) -> None:
    """The body reads, binds, rebinds and deletes them: plain, walrus and closure variables."""

    async def main() -> None:
        before, doomed, shared = 1, 2, 0

        def add() -> None:
            nonlocal shared
            shared += 1

        async with threadpool(executor):
            assert before == 1
            before = 10
            inside = before + 1
            if (walrus := inside * 2) > 0:
                add()
            del doomed
        assert (before, inside, walrus, shared) == (10, 11, 22, 1)
        with pytest.raises(UnboundLocalError):
            print(doomed)  # noqa: F821, T201

    loops.run(main)


# --- errors ---


def test_an_error_of_the_body_crosses_with_its_traceback(
    loops: LoopKind, executor: Executor
) -> None:
    """The same object comes out, on the loop thread; its traceback names the line and function."""
    raised = ValueError("in the body")

    def culprit() -> None:
        raise raised

    async def main() -> None:
        with pytest.raises(ValueError, match="in the body") as caught:
            async with threadpool(executor):
                culprit()
        assert on_loop_thread()
        assert caught.value is raised
        names = [frame.name for frame in traceback.extract_tb(raised.__traceback__)]
        assert names == ["main", "culprit"]

    loops.run(main)


def test_an_error_of_the_body_has_no_foreign_context(loops: LoopKind, executor: Executor) -> None:
    """The library's own errors and except clauses do not show up behind the user's error."""

    async def main() -> None:
        with pytest.raises(ValueError, match="plain") as caught:
            async with threadpool(executor):
                raise ValueError("plain")
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None

    loops.run(main)


def test_a_bare_raise_in_the_body_raises_the_handled_error(
    loops: LoopKind, executor: Executor
) -> None:
    """``except`` around a block: the handled exception is known in the worker too."""

    async def main() -> None:
        try:
            raise KeyError("handled")
        except KeyError as error:
            handled = error
            with pytest.raises(KeyError) as caught:
                async with threadpool(executor):
                    assert sys.exc_info()[1] is handled
                    raise
            assert caught.value is handled
            assert sys.exc_info()[1] is handled
        assert sys.exc_info() == (None, None, None)

    loops.run(main)


def test_try_in_the_body_works_on_the_worker(loops: LoopKind, executor: Executor) -> None:
    """``except``, ``else`` and ``finally`` within the body run where the body runs."""
    ran = []

    async def main() -> None:
        async with threadpool(executor):
            try:
                raise ValueError
            except ValueError:
                ran.append(("except", on_worker()))
            finally:
                ran.append(("finally", on_worker()))

    loops.run(main)
    assert ran == [("except", True), ("finally", True)]


def test_the_finally_around_the_block_runs_on_the_loop_thread(
    loops: LoopKind, executor: Executor
) -> None:
    """Cleanup that stands around the block may use the loop, also after an error."""
    ran = []

    async def main() -> None:
        try:
            async with threadpool(executor):
                raise ValueError("in the body")
        finally:
            await asyncio.sleep(0)
            ran.append(on_loop_thread())

    with pytest.raises(ValueError, match="in the body"):
        loops.run(main)
    assert ran == [True]


# --- one object for many blocks ---


def test_one_object_can_be_used_again(loops: LoopKind, executor: Executor) -> None:
    """The block keeps no state: entering it twice is like making two."""
    block = threadpool(executor)

    async def main() -> None:
        for _ in range(3):
            async with block:
                assert on_worker()
            assert on_loop_thread()

    loops.run(main)


def test_one_object_can_be_nested_in_itself(loops: LoopKind, executor: Executor) -> None:
    """The inner exit leaves the inner block only."""
    block = threadpool(executor)

    async def main() -> None:
        async with block:
            thread = threading.current_thread()
            async with block:
                assert threading.current_thread() is thread
            assert threading.current_thread() is thread
        assert on_loop_thread()

    loops.run(main)


def test_one_object_can_be_shared_by_tasks_at_once(loops: LoopKind, executor: Executor) -> None:
    """Two bodies of one object are active at the same time, each with its own thread."""
    block = threadpool(executor)
    both = threading.Barrier(2)

    async def child() -> threading.Thread:
        async with block:
            both.wait(LIMIT)
            thread = threading.current_thread()
        assert on_loop_thread()
        return thread

    async def main() -> None:
        first, second = await asyncio.gather(child(), child())
        assert first is not second

    loops.run(main)


def test_many_tasks_share_few_workers(loops: LoopKind, executor: Executor) -> None:
    """What is queued for a busy worker gets its turn; nobody's result goes to somebody else."""
    block = threadpool(executor)

    async def child(number: int) -> int:
        async with block:
            assert on_worker()
            result = number * 2
        assert on_loop_thread()
        return result

    async def main() -> None:
        results = await asyncio.gather(*map(child, range(100)))
        assert results == [number * 2 for number in range(100)]

    loops.run(main)


def test_the_repr_shows_the_executor(executor: Executor) -> None:
    """A block in a log can be told from others."""
    assert repr(executor) in repr(threadpool(executor))
    assert repr(threadpool()) == "threadpool()"


# --- what else a coroutine is made of ---


def test_a_deep_chain_of_coroutines_moves_as_a_whole(loops: LoopKind, executor: Executor) -> None:
    """The block may stand any number of awaits below the task."""

    async def deep(levels: int) -> bool:
        if levels:
            return await deep(levels - 1)
        async with threadpool(executor):
            return on_worker()

    async def main() -> None:
        assert await deep(200)
        assert on_loop_thread()

    loops.run(main)


def test_a_deep_chain_runs_inside_the_body(loops: LoopKind, executor: Executor) -> None:
    """Coroutines that are awaited in the body run there, on the worker."""

    async def deep(levels: int) -> bool:
        return await deep(levels - 1) if levels else on_worker()

    async def main() -> None:
        async with threadpool(executor):
            assert await deep(200)

    loops.run(main)


def test_awaitables_written_by_hand_pass_the_switch_on(loops: LoopKind, executor: Executor) -> None:
    """``__await__`` and ``types.coroutine`` may stand between the task and the block."""

    async def inner() -> bool:
        async with threadpool(executor):
            return on_worker()

    class ByHand:
        def __await__(self) -> Generator[Any, Any, bool]:
            return (yield from inner().__await__())

    @types.coroutine
    def old_style() -> Generator[Any, Any, bool]:
        return (yield from ByHand().__await__())

    async def main() -> None:
        assert await ByHand()
        assert await old_style()
        assert on_loop_thread()

    loops.run(main)


def test_an_async_generator_may_use_blocks_between_its_yields(
    loops: LoopKind, executor: Executor
) -> None:
    """The generator works on a worker, its consumer stays on the loop thread."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            async with threadpool(executor):
                assert on_worker()
                doubled = number * 2
            assert on_loop_thread()
            yield doubled

    async def main() -> None:
        seen = []
        async for number in numbers():
            assert on_loop_thread()
            seen.append(number)
        assert seen == [0, 2, 4]
        assert [number async for number in numbers()] == [0, 2, 4]

    loops.run(main)


def test_an_async_generator_is_iterated_inside_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    """As long as it suspends for nothing, the generator runs on the worker."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            assert on_worker()
            yield number

    async def main() -> None:
        async with threadpool(executor):
            assert [number async for number in numbers()] == [0, 1, 2]

    loops.run(main)


def test_an_async_generator_first_iterated_in_the_body_is_finalized_by_the_loop(
    loops: LoopKind, executor: Executor
) -> None:
    """One that the body abandons is closed on the loop thread, where it may await."""
    closed_on_loop_thread = []

    async def numbers(closed: asyncio.Event) -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed_on_loop_thread.append(on_loop_thread())
            closed.set()

    async def main() -> None:
        closed = asyncio.Event()
        async with threadpool(executor):
            async for _ in numbers(closed):
                break
        gc.collect()
        await closed.wait()

    loops.run(main)
    assert closed_on_loop_thread == [True]


def test_an_exit_stack_enters_and_leaves_the_block(loops: LoopKind, executor: Executor) -> None:
    """From ``enter_async_context`` on the code is on the worker; the end of the stack leaves it."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            assert on_loop_thread()
            await stack.enter_async_context(threadpool(executor))
            assert on_worker()
        assert on_loop_thread()

    loops.run(main)


def test_an_exit_stack_may_be_handed_over(loops: LoopKind, executor: Executor) -> None:
    """``pop_all`` keeps the block open beyond the first stack."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(threadpool(executor))
            rest = stack.pop_all()
        assert on_worker()
        await rest.aclose()
        assert on_loop_thread()

    loops.run(main)


def test_an_exit_stack_nests_two_executors(
    loops: LoopKind, executor: Executor, other: Executor
) -> None:
    """Callbacks run on the thread of the block that was the last one when they were pushed."""
    ran = []

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(lambda: ran.append(on_loop_thread()))
            await stack.enter_async_context(threadpool(executor))
            stack.callback(lambda: ran.append(on_worker()))
            await stack.enter_async_context(threadpool(other))
            stack.callback(lambda: ran.append(on_thread_of("other")))
        assert on_loop_thread()

    loops.run(main)
    assert ran == [True, True, True]


def test_a_context_manager_with_its_yield_inside_the_block_moves_its_user(
    loops: LoopKind, executor: Executor
) -> None:
    """The body of the user's own ``@asynccontextmanager`` runs on the worker then."""

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[str]:
        async with threadpool(executor):
            yield "value"
        assert on_loop_thread()

    async def main() -> None:
        async with working() as value:
            assert value == "value"
            assert on_worker()
        assert on_loop_thread()

    loops.run(main)


def test_a_context_manager_with_its_yield_inside_the_block_sees_errors(
    loops: LoopKind, executor: Executor
) -> None:
    """An error of the user's body arrives at the ``yield``, on the worker, and may end there."""
    seen = []

    @contextlib.asynccontextmanager
    async def swallowing() -> AsyncIterator[None]:
        async with threadpool(executor):
            try:
                yield
            except ValueError:
                seen.append(on_worker())

    async def main() -> None:
        async with swallowing():
            raise ValueError
        assert on_loop_thread()

    loops.run(main)
    assert seen == [True]


def test_a_context_manager_around_the_block_may_use_blocks(
    loops: LoopKind, executor: Executor
) -> None:
    """A manager that does its own entry and exit on a worker leaves its body on the loop."""
    ran = []

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with threadpool(executor):
            ran.append(on_worker())
        try:
            yield
        finally:
            async with threadpool(executor):
                ran.append(on_worker())

    async def main() -> None:
        async with opened():
            assert on_loop_thread()
            async with threadpool(executor):
                assert on_worker()
        assert on_loop_thread()

    loops.run(main)
    assert ran == [True, True]


def test_a_context_manager_may_be_entered_inside_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    """A manager that itself enters a block of the same executor stays on the thread."""

    @contextlib.asynccontextmanager
    async def working() -> AsyncIterator[None]:
        async with threadpool(executor):
            yield

    async def main() -> None:
        async with threadpool(executor):
            thread = threading.current_thread()
            async with working():
                assert threading.current_thread() is thread
            assert threading.current_thread() is thread
        assert on_loop_thread()

    loops.run(main)


def test_a_generator_that_yields_inside_the_block_gives_its_consumer_back(
    loops: LoopKind, executor: Executor
) -> None:
    """Iterated to its end, or closed by ``aclosing``, it returns the consumer to the loop."""

    async def numbers() -> AsyncIterator[int]:
        async with threadpool(executor):
            yield 1
            yield 2

    async def main() -> None:
        assert [number async for number in numbers()] == [1, 2]
        assert on_loop_thread()
        async with contextlib.aclosing(numbers()) as rest:
            async for _ in rest:
                break
        assert on_loop_thread()
        await asyncio.sleep(0)

    loops.run(main)


# --- nested blocks ---


def test_a_nested_block_of_the_same_executor_stays_on_its_thread(
    loops: LoopKind, one_thread: Executor
) -> None:
    """It needs no second worker: a pool of one does not deadlock."""

    async def main() -> None:
        async with threadpool(one_thread):
            outer = threading.current_thread()
            async with threadpool(one_thread):
                assert threading.current_thread() is outer
            assert threading.current_thread() is outer
        assert on_loop_thread()

    loops.run(main)


def test_a_nested_block_of_another_executor_moves_and_comes_back(
    loops: LoopKind, executor: Executor, other: Executor
) -> None:
    """After the inner block the code is on the very thread on which the outer block began."""

    async def main() -> None:
        async with threadpool(executor):
            outer = threading.current_thread()
            for _ in range(3):
                async with threadpool(other):
                    assert on_thread_of("other")
                assert threading.current_thread() is outer
        assert on_loop_thread()

    loops.run(main)


def test_the_outer_thread_is_kept_while_the_body_is_away(
    loops: LoopKind, one_thread: Executor, other: Executor
) -> None:
    """Thread-bound objects stay valid: nobody else gets that thread meanwhile."""

    async def main() -> None:
        async with threadpool(one_thread):
            async with threadpool(other):
                intruder = one_thread.submit(threading.get_ident)
                assert not intruder.done()
            assert not intruder.done()
        await asyncio.wrap_future(intruder)

    loops.run(main)


def test_a_block_of_the_outer_executor_goes_back_to_its_parked_worker(
    loops: LoopKind, one_thread: Executor, other: Executor
) -> None:
    """A > B > A, each a pool of one: the innermost body runs on A's only thread, and no hang."""

    async def main() -> None:
        async with threadpool(one_thread):
            outer = threading.current_thread()
            async with threadpool(other):
                inner = threading.current_thread()
                async with threadpool(one_thread):
                    assert threading.current_thread() is outer
                    async with threadpool(other):
                        assert threading.current_thread() is inner
                    assert threading.current_thread() is outer
                assert threading.current_thread() is inner
            assert threading.current_thread() is outer
        assert on_loop_thread()
        await in_block_of(one_thread)
        await in_block_of(other)

    loops.run(main)


def test_an_error_comes_out_through_nested_blocks(
    loops: LoopKind, one_thread: Executor, other: Executor
) -> None:
    """Every ``finally`` on the way runs on the thread of its own block."""
    ran = []

    async def main() -> None:
        try:
            async with threadpool(one_thread):
                try:
                    async with threadpool(other):
                        try:
                            async with threadpool(one_thread):
                                raise ValueError("deep")
                        finally:
                            ran.append(on_thread_of("other"))
                finally:
                    ran.append(on_thread_of("single"))
        finally:
            ran.append(on_loop_thread())

    with pytest.raises(ValueError, match="deep"):
        loops.run(main)
    assert ran == [True, True, True]


def test_return_leaves_all_nested_blocks(
    loops: LoopKind, executor: Executor, other: Executor
) -> None:
    """One ``return`` in the innermost body goes home through all workers."""

    async def value() -> int:
        async with threadpool(executor), threadpool(other), threadpool(executor):
            return 7

    async def main() -> None:
        assert await value() == 7
        assert on_loop_thread()
        await in_block_of(other)

    loops.run(main)


# --- awaits that need the loop ---


def test_a_refused_await_names_its_line_and_the_remedy(loops: LoopKind, executor: Executor) -> None:
    """The message leads to the line to change, and says how."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError) as caught:
            async with threadpool(executor):
                line = sys._getframe().f_lineno + 1
                await future
        assert f"{__file__}:{line}" in str(caught.value)
        assert REMEDY in str(caught.value)
        future.cancel()

    loops.run(main)


def test_a_refused_await_in_a_helper_names_the_line_of_the_helper(
    loops: LoopKind, executor: Executor
) -> None:
    """The innermost line counts, however deep below the block it stands."""
    lines = []

    async def innermost(future: asyncio.Future[None]) -> None:
        lines.append(sys._getframe().f_lineno + 1)
        await future

    @types.coroutine
    def old_style(future: asyncio.Future[None]) -> Generator[Any, Any, None]:
        yield from innermost(future)

    async def helper(future: asyncio.Future[None]) -> None:
        await old_style(future)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        with pytest.raises(RuntimeError) as caught:
            async with threadpool(executor):
                await helper(future)
        assert f"{__file__}:{lines[0]}" in str(caught.value)
        future.cancel()

    loops.run(main)


def test_a_refused_await_in_an_async_generator_names_a_line_of_the_user(
    loops: LoopKind, executor: Executor
) -> None:
    """Python does not show what is behind an ``async for``: that line is named then."""
    lines = []

    async def numbers() -> AsyncIterator[None]:
        lines.append(sys._getframe().f_lineno + 1)
        await asyncio.sleep(0)
        yield

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            async with threadpool(executor):
                lines.append(sys._getframe().f_lineno + 1)
                async for _ in numbers():
                    pass
        assert any(f"{__file__}:{line}:" in str(caught.value) for line in lines)

    loops.run(main)


def test_a_refused_await_within_asyncio_names_the_line_of_the_user(
    loops: LoopKind, executor: Executor
) -> None:
    """``await asyncio.sleep(0)`` suspends inside of asyncio; that line would help nobody."""

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            async with threadpool(executor):
                line = sys._getframe().f_lineno + 1
                await asyncio.sleep(0)
        assert f"{__file__}:{line}" in str(caught.value)

    loops.run(main)


def test_an_await_is_refused_in_the_worker(loops: LoopKind, executor: Executor) -> None:
    """The body's own ``except`` and ``finally`` run, and they run on the worker."""
    ran = []

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        async with threadpool(executor):
            try:
                await future
            except RuntimeError:
                ran.append(on_worker())
            finally:
                ran.append(on_worker())
        assert on_loop_thread()
        future.cancel()

    loops.run(main)
    assert ran == [True, True]


def test_the_body_goes_on_after_a_refused_await(loops: LoopKind, executor: Executor) -> None:
    """Each further await is refused in the same way, until the block ends as usual."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        async with threadpool(executor):
            for _ in range(3):
                with pytest.raises(RuntimeError, match="cannot await"):
                    await future
                assert on_worker()
        assert on_loop_thread()
        future.cancel()

    loops.run(main)


def test_a_refused_await_has_no_foreign_context(loops: LoopKind, executor: Executor) -> None:
    """What the body raises after a caught refusal does not drag the refusal along."""

    async def main() -> None:
        with pytest.raises(ValueError, match="later") as caught:
            async with threadpool(executor):
                with contextlib.suppress(RuntimeError):
                    await asyncio.sleep(0)
                raise ValueError("later")
        assert caught.value.__context__ is None

    loops.run(main)


def test_a_future_whose_await_was_refused_stays_usable(loops: LoopKind, executor: Executor) -> None:
    """The task itself may await it after the block ("await wasn't used with future" once)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="cannot await"):
                await future
        loop.call_soon(future.set_result, "value")
        assert await future == "value"

    loops.run(main)


def test_a_task_whose_await_was_refused_goes_on(loops: LoopKind, executor: Executor) -> None:
    """The awaited task is neither cancelled nor disturbed, nor are others that wait for it."""

    async def main() -> None:
        release = asyncio.Event()

        async def child() -> str:
            await release.wait()
            return "value"

        async def friend() -> str:
            return await task

        task = asyncio.create_task(child())
        waiting = asyncio.create_task(friend())
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="cannot await"):
                await task
        release.set()
        assert await waiting == "value"
        assert await task == "value"

    loops.run(main)


def test_whatever_a_coroutine_yields_in_the_body_is_refused(
    loops: LoopKind, executor: Executor
) -> None:
    """Also what is no future at all: the worker takes nothing but the block's own exit for it."""

    async def main() -> None:
        async with threadpool(executor):
            for value in (None, object(), 0, threadpool(executor)):
                with pytest.raises(RuntimeError, match="cannot await"):
                    await bare_yield(value)
        assert on_loop_thread()

    loops.run(main)


def test_awaits_that_do_not_suspend_are_fine(loops: LoopKind, executor: Executor) -> None:
    """A coroutine, a finished future, a free lock, a queue with something in it."""

    async def value() -> int:
        return 1

    async def main() -> None:
        done = asyncio.get_running_loop().create_future()
        done.set_result(2)
        queue: asyncio.Queue[int] = asyncio.Queue()
        event = asyncio.Event()
        event.set()
        lock = asyncio.Lock()
        async with threadpool(executor):
            assert await value() == 1
            assert await done == 2
            await queue.put(3)
            assert await queue.get() == 3
            assert await event.wait()
            async with lock:
                assert on_worker()
        assert on_loop_thread()

    loops.run(main)


async def sleep() -> None:
    await asyncio.sleep(1)


async def get_from_a_queue() -> None:
    await asyncio.Queue[None]().get()


async def wait_for_an_event() -> None:
    await asyncio.Event().wait()


async def make_a_task() -> None:
    coro = sleep()
    try:
        asyncio.create_task(coro)  # noqa: RUF006
    finally:
        coro.close()


async def gather_coroutines() -> None:
    coro = sleep()
    try:
        await asyncio.gather(coro)
    finally:
        coro.close()


async def set_a_timeout() -> None:
    async with asyncio.timeout(1):
        pass


async def open_a_task_group() -> None:
    async with asyncio.TaskGroup():
        pass


async def go_to_a_thread() -> None:
    await asyncio.to_thread(int)


ASYNCIO_REFUSES = [
    sleep,
    get_from_a_queue,
    wait_for_an_event,
    make_a_task,
    gather_coroutines,
    set_a_timeout,
    open_a_task_group,
    go_to_a_thread,
]


@pytest.mark.parametrize("attempt", ASYNCIO_REFUSES, ids=lambda attempt: attempt.__name__)
def test_an_error_of_asyncio_leaves_the_body_with_a_note(
    loops: LoopKind, executor: Executor, attempt: Callable[[], Any]
) -> None:
    """What asyncio refuses by itself keeps its own error, and a note says what to do instead."""

    async def main() -> None:
        with pytest.raises((RuntimeError, AttributeError)) as caught:
            async with threadpool(executor):
                try:
                    await attempt()
                except BaseException as exc:
                    original = exc
                    assert not hasattr(exc, "__notes__")
                    raise
        assert on_loop_thread()
        assert caught.value is original
        (note,) = caught.value.__notes__
        assert REMEDY in note

    loops.run(main)


def test_a_primitive_that_belongs_to_a_loop_leaves_the_body_with_a_note(
    loops: LoopKind, executor: Executor
) -> None:
    """A queue for which a task of the loop waits already says something else; the note is there."""

    async def main() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        getter = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        with pytest.raises((RuntimeError, AttributeError)) as caught:
            async with threadpool(executor):
                await queue.get()
        (note,) = caught.value.__notes__
        assert REMEDY in note
        queue.put_nowait(1)
        assert await getter == 1

    loops.run(main)


def test_the_note_is_added_once(loops: LoopKind, executor: Executor, other: Executor) -> None:
    """An error that leaves several blocks does not repeat itself."""

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            async with threadpool(executor), threadpool(other), threadpool(other):
                await asyncio.sleep(1)
        assert len(caught.value.__notes__) == 1

    loops.run(main)


@pytest.mark.parametrize("error", [RuntimeError("mine"), AttributeError("mine")])
def test_other_errors_get_no_note(loops: LoopKind, executor: Executor, error: Exception) -> None:
    """The note is about the missing loop; an error about something else leaves as it is."""

    async def main() -> None:
        with pytest.raises(type(error), match="mine"):
            async with threadpool(executor):
                raise error

    loops.run(main)
    assert not hasattr(error, "__notes__")


def test_asyncio_run_works_in_the_body(loops: LoopKind, executor: Executor) -> None:
    """The worker has no loop, so it may have one of its own for a while."""

    async def nested() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def main() -> None:
        async with threadpool(executor):
            assert asyncio.run(nested()) == threading.current_thread().name
            with pytest.raises(RuntimeError, match="cannot await"):
                await asyncio.sleep(0)
        assert on_loop_thread()

    loops.run(main)


def test_a_block_works_in_asyncio_run_in_the_body(loops: LoopKind, executor: Executor) -> None:
    """A task of the inner loop moves by itself: the task that waits outside is not touched."""

    async def nested(outer: threading.Thread) -> str:
        async with threadpool(executor):
            assert on_worker()
            assert threading.current_thread() is not outer
        assert threading.current_thread() is outer
        return "value"

    async def main() -> None:
        async with threadpool(executor):
            thread = threading.current_thread()
            assert asyncio.run(nested(thread)) == "value"
            assert threading.current_thread() is thread
        assert on_loop_thread()

    loops.run(main)


def test_the_body_may_wait_for_a_coroutine_on_the_loop(loops: LoopKind, executor: Executor) -> None:
    """``run_coroutine_threadsafe`` from a body is legal: the loop is free meanwhile."""

    async def remote() -> bool:
        await asyncio.sleep(0)
        return on_loop_thread()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(executor):
            assert asyncio.run_coroutine_threadsafe(remote(), loop).result(LIMIT)

    loops.run(main)


# --- odd exceptions ---


class OwnBaseException(BaseException):
    pass


ODD = [
    StopIteration,
    StopAsyncIteration,
    GeneratorExit,
    SystemExit,
    KeyboardInterrupt,
    asyncio.CancelledError,
    OwnBaseException,
]


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_exception_ends_the_block_like_any_other(
    loops: LoopKind, one_thread: Executor, kind: type[BaseException]
) -> None:
    """It can be caught around the block, on the loop thread, and the worker is free."""
    raised = kind("odd")

    async def main() -> None:
        try:
            async with threadpool(one_thread):
                raise raised
        except kind as caught:
            assert caught is raised
            assert on_loop_thread()
        else:
            raise AssertionError("swallowed")
        await in_block_of(one_thread)

    loops.run(main)


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_exception_ends_nested_blocks_like_any_other(
    loops: LoopKind, one_thread: Executor, other: Executor, kind: type[BaseException]
) -> None:
    """Also on its way from worker to worker."""
    raised = kind("odd")

    async def main() -> None:
        try:
            async with threadpool(one_thread):
                try:
                    async with threadpool(other):
                        raise raised
                finally:
                    assert on_thread_of("single")
        except kind as caught:
            assert caught is raised
        assert on_loop_thread()
        await in_block_of(one_thread)
        await in_block_of(other)

    loops.run(main)


@pytest.mark.parametrize("kind", [StopAsyncIteration, GeneratorExit, OwnBaseException])
def test_an_odd_exception_that_leaves_the_task_is_its_exception(
    loops: LoopKind, executor: Executor, kind: type[BaseException]
) -> None:
    """Nobody catches it: the task is done, and holds it."""
    raised = kind("odd")

    async def child() -> None:
        async with threadpool(executor):
            raise raised

    async def main() -> None:
        task = asyncio.create_task(child())
        await asyncio.wait({task})
        assert task.exception() is raised

    loops.run(main)


def test_stop_iteration_that_leaves_the_coroutine_becomes_a_runtime_error(
    loops: LoopKind, executor: Executor
) -> None:
    """As in any coroutine; nothing takes it for the result."""

    async def child() -> None:
        async with threadpool(executor):
            raise StopIteration("not a result")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await child()
        assert isinstance(caught.value.__cause__, StopIteration)

    loops.run(main)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_the_body_comes_out_of_the_loop(
    loops: LoopKind, executor: Executor, kind: type[BaseException]
) -> None:
    """It ends the run of the loop, from the loop thread; what stands around the block runs."""
    ran = []

    def new_loop() -> asyncio.AbstractEventLoop:
        loop = loops.loop_factory()
        loop.set_task_factory(loops.task_factory)
        return loop

    async def main() -> None:
        try:
            async with threadpool(executor):
                raise kind(3)
        finally:
            ran.append(on_loop_thread())

    with (
        asyncio.Runner(loop_factory=new_loop, debug=loops.debug) as runner,
        pytest.raises(kind) as caught,
    ):
        runner.run(main())
    assert caught.value.args == (3,)
    assert ran == [True]


def test_exit_in_the_body_ends_the_process_with_its_status() -> None:
    """``sys.exit(3)`` in a body, under ``asyncio.run``: no hang, status 3, cleanup done."""
    child = run_in_child(
        """
        import asyncio, sys
        from threadhop import threadpool

        async def main():
            try:
                async with threadpool():
                    sys.exit(3)
            finally:
                print("cleanup")

        asyncio.run(main())
        """
    )
    assert (child.returncode, child.stdout, child.stderr) == (3, "cleanup\n", "")


# --- a task that ends inside of a block ---


def test_an_abandoned_generator_leaves_its_consumer_on_the_worker_until_the_task_ends(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """``break`` out of a generator that yields inside a block: result kept, and a warning."""

    async def numbers() -> AsyncIterator[int]:
        async with threadpool(one_thread):
            yield 1
            yield 2

    async def child() -> tuple[int, bool]:
        async for number in numbers():  # noqa: B007
            break
        return number, on_thread_of("single")

    async def main() -> None:
        assert await asyncio.create_task(child()) == (1, True)
        assert on_loop_thread()
        gc.collect()
        await in_block_of(one_thread)

    with caplog.at_level(logging.DEBUG, "threadhop"):
        loops.run(main)
    (warning,) = warnings_of(caplog)
    assert __file__ in warning


def test_an_await_after_an_abandoned_generator_says_where_the_code_is(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The consumer is on the worker, so its next await is refused, with its line."""

    async def numbers() -> AsyncIterator[int]:
        async with threadpool(one_thread):
            yield 1

    async def child() -> None:
        async for _ in numbers():
            break
        lines.append(sys._getframe().f_lineno + 1)
        await asyncio.sleep(0)

    async def main() -> None:
        with pytest.raises(RuntimeError) as caught:
            await asyncio.create_task(child())
        assert f"{__file__}:{lines[0]}" in str(caught.value)
        gc.collect()
        await in_block_of(one_thread)

    lines: list[int] = []
    loops.run(main)
    assert len(warnings_of(caplog)) == 1


async def ends_with_value(executor: Executor) -> str:
    await threadpool(executor).__aenter__()
    return "value"


def test_a_task_that_ends_inside_a_block_keeps_its_result(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """``__aenter__`` without ``__aexit__``: the result is there, the worker free, and a warning."""

    async def main() -> None:
        assert await asyncio.create_task(ends_with_value(one_thread)) == "value"
        assert on_loop_thread()
        await in_block_of(one_thread)

    loops.run(main)
    (warning,) = warnings_of(caplog)
    assert f"{__file__}:{ends_with_value.__code__.co_firstlineno + 1}" in warning


def test_a_task_that_ends_inside_a_block_keeps_its_error(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is raised by whoever awaits the task, on the loop thread."""
    raised = ValueError("kept")

    async def child() -> None:
        await threadpool(one_thread).__aenter__()
        raise raised

    async def main() -> None:
        task = asyncio.create_task(child())
        with pytest.raises(ValueError, match="kept") as caught:
            await task
        assert caught.value is raised
        assert task.exception() is raised
        await in_block_of(one_thread)

    loops.run(main)
    assert len(warnings_of(caplog)) == 1


def test_a_task_that_ends_inside_a_block_with_cancelled_error_is_cancelled(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """As a task that raises CancelledError anywhere else."""

    async def child() -> None:
        await threadpool(one_thread).__aenter__()
        raise asyncio.CancelledError("message")

    async def main() -> None:
        task = asyncio.create_task(child())
        await asyncio.wait({task})
        assert task.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_block_of(one_thread)

    loops.run(main)
    assert len(warnings_of(caplog)) == 1


def test_a_task_that_ends_inside_nested_blocks_gives_all_workers_back(
    loops: LoopKind, one_thread: Executor, other: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The parked ones too."""

    async def child() -> str:
        await threadpool(one_thread).__aenter__()
        await threadpool(other).__aenter__()
        return "value"

    async def main() -> None:
        assert await asyncio.create_task(child()) == "value"
        await in_block_of(one_thread)
        await in_block_of(other)

    loops.run(main)
    assert len(warnings_of(caplog)) == 1


def test_a_task_that_ends_inside_a_block_calls_its_callbacks_on_the_loop_thread(
    loops: LoopKind, one_thread: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """Those who wait for the task do not notice where it ended."""
    called = []

    async def main() -> None:
        task = asyncio.create_task(ends_with_value(one_thread))
        task.add_done_callback(lambda task: called.append((task.result(), on_loop_thread())))
        assert await asyncio.gather(task) == ["value"]

    loops.run(main)
    assert called == [("value", True)]
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_a_task_that_ends_inside_a_block_with_exit_ends_the_loop(
    one_thread: Executor, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The block that was not left does not keep the process from ending."""

    async def main() -> None:
        await threadpool(one_thread).__aenter__()
        raise kind(3)

    with asyncio.Runner() as runner, pytest.raises(kind) as caught:
        runner.run(main())
    assert caught.value.args == (3,)
    assert len(warnings_of(caplog)) == 1


def test_a_block_that_is_left_says_nothing(
    loops: LoopKind, executor: Executor, other: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning is for what went wrong."""

    async def main() -> None:
        async with threadpool(executor), threadpool(other):
            pass
        with contextlib.suppress(ValueError):
            async with threadpool(executor):
                raise ValueError

    loops.run(main)
    assert warnings_of(caplog) == []


# --- leaving where nobody should ---


def test_leaving_a_block_in_another_task_is_refused(loops: LoopKind, one_thread: Executor) -> None:
    """The task that is in the block is not touched: its body goes on and leaves as usual."""
    block = threadpool(one_thread)
    go_on = threading.Event()

    async def child(inside: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        async with block:
            loop.call_soon_threadsafe(inside.set)
            assert go_on.wait(LIMIT)
            assert on_thread_of("single")
        return on_loop_thread()

    async def main() -> None:
        inside = asyncio.Event()
        task = asyncio.create_task(child(inside))
        await inside.wait()
        with pytest.raises(RuntimeError, match="task"):
            await block.__aexit__(None, None, None)
        go_on.set()
        assert await task
        await in_block_of(one_thread)

    loops.run(main)


def test_leaving_a_block_that_was_never_entered_is_refused(
    loops: LoopKind, executor: Executor
) -> None:
    """It neither hangs nor moves the task."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="task"):
            await threadpool(executor).__aexit__(None, None, None)
        assert on_loop_thread()
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="task"):
                await threadpool(executor).__aexit__(None, None, None)
            assert on_worker()
        assert on_loop_thread()

    loops.run(main)


def test_blocks_that_are_left_in_the_wrong_order_bring_the_task_home(
    loops: LoopKind, one_thread: Executor, other: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """As many exits as entries: no worker is kept, and the code is on the loop thread."""

    async def main() -> None:
        outer, inner = threadpool(one_thread), threadpool(other)
        await outer.__aenter__()
        await inner.__aenter__()
        await outer.__aexit__(None, None, None)
        await inner.__aexit__(None, None, None)
        assert on_loop_thread()
        await in_block_of(one_thread)
        await in_block_of(other)

    loops.run(main)
    assert warnings_of(caplog) == []
