"""What a cancelled task sees of a block, and when: at the entry, at the exit, never in between."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

import threadhop._block_job
from threadhop import threadpool

here = threading.get_ident

# --- before the entry


def test_a_task_that_cancelled_itself_never_begins_the_body(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """A cancellation that was asked for before the entry is raised there, with its message."""
    began = []

    async def main() -> None:
        for _ in range(20):  # a fast worker must not win even once
            task = asyncio.current_task()
            assert task is not None
            task.cancel("enough")
            with pytest.raises(asyncio.CancelledError) as caught:
                async with threadpool(executor):
                    began.append(True)
            assert caught.value.args == ("enough",)
            task.uncancel()

    current_task_loops.run(main)
    assert not began


def test_the_error_at_the_entry_is_raised_on_the_loop_thread(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        loop_thread = here()
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            async with threadpool(executor):
                raise AssertionError("the body ran")
        except asyncio.CancelledError as error:
            assert here() == loop_thread
            assert error.args == ()

    current_task_loops.run(main)


def test_a_task_cancelled_before_its_first_step_ends_cancelled(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """An eager task has begun by then: it waits for the busy worker, and never gets it."""
    began = []

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            began.append(True)

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            task = asyncio.get_running_loop().create_task(block(pool))
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert not began


def test_a_cancellation_that_was_caught_before_the_block_does_not_come_again(
    loops: LoopKind, executor: Executor
) -> None:
    async def block() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            async with threadpool(executor):
                return "ran"
        raise AssertionError("not cancelled")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await turns()
        task.cancel()
        assert await task == "ran"

    loops.run(main)


# --- while the block waits for a worker


def test_a_queued_block_is_cancelled_before_the_worker_is_free(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The task does not wait for its turn in the queue, and the body never runs."""
    began = []
    threads = []

    async def block(pool: Executor) -> None:
        try:
            async with threadpool(pool):
                began.append(True)
        finally:
            threads.append(here())

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                task = asyncio.get_running_loop().create_task(block(pool))
                await turns()
                task.cancel("no longer")
                await until(task.done)  # the worker is still busy
                assert task.cancelled()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await task
                assert caught.value.args == ("no longer",)
            assert threads == [here()]

    loops.run(main)
    assert not began


def test_a_cancelled_queued_block_costs_the_others_nothing(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The blocks before and behind it in the queue run, in their order."""
    ran = []

    async def block(pool: Executor, number: int) -> None:
        async with threadpool(pool):
            ran.append(number)

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                tasks = []
                for number in range(5):
                    tasks.append(asyncio.get_running_loop().create_task(block(pool, number)))
                    await turns()
                tasks[1].cancel()
                tasks[3].cancel()
                await until(lambda: tasks[1].done() and tasks[3].done())
            await asyncio.wait(tasks)

    loops.run(main)
    assert ran == [0, 2, 4]


def test_a_queued_block_can_be_tried_again_after_its_cancellation(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def block(pool: Executor) -> str:
        try:
            async with threadpool(pool):
                raise AssertionError("the body ran")
        except asyncio.CancelledError:
            async with threadpool(pool):
                return "second"

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                task = asyncio.get_running_loop().create_task(block(pool))
                await turns()
                task.cancel()
                await turns()
                assert not task.done()
            assert await task == "second"

    loops.run(main)


def test_a_timeout_reaches_a_queued_block_at_once(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    began = []

    async def main() -> None:
        with executor_class(1) as pool, busy(pool), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                async with threadpool(pool):
                    began.append(True)

    current_task_loops.run(main)
    assert not began


def test_a_block_queued_in_the_default_executor_is_cancelled_at_once(
    current_task_loops: LoopKind,
) -> None:
    began = []

    async def block() -> None:
        async with threadpool():
            began.append(True)

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        with busy(pool):
            task = loop.create_task(block())
            await turns()
            task.cancel("default")
            await until(task.done)
            assert task.cancelled()

    current_task_loops.run(main)
    assert not began


# --- while the body runs


class Run:
    """One task whose body waits at a gate; cancelled there as often as there are messages."""

    def __init__(self, loops: LoopKind, executor: Executor, *messages: Any) -> None:
        self.executor = executor
        self.gate = Gate()
        self.messages = messages
        self.task: asyncio.Task[Any]
        loops.run(self._main)

    async def block(self) -> None:
        raise NotImplementedError

    async def _main(self) -> None:
        self.loop_thread = here()
        self.task = asyncio.get_running_loop().create_task(self.block())
        await until(self.gate.reached.is_set)
        for message in self.messages:
            assert self.task.cancel(message)
        await turns()
        assert not self.task.done(), "the thread was abandoned"
        self.gate.open()
        await until(self.task.done)


def test_a_running_body_comes_to_its_end_and_then_the_exit_raises(
    loops: LoopKind, executor: Executor
) -> None:
    """The error is raised once the body has ended, on the loop thread, with the message."""

    class Block(Run):
        steps: list[str]

        async def block(self) -> None:
            self.steps = []
            try:
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    self.steps.append("body")
                self.steps.append("after the block")
            except asyncio.CancelledError as error:
                assert here() == self.loop_thread
                assert error.args == ("stop",)
                assert error.__context__ is None
                self.steps.append("cancelled")
                raise

    run = Block(loops, executor, "stop")
    assert run.steps == ["body", "cancelled"]
    assert run.task.cancelled()


def test_a_return_out_of_a_cancelled_body_raises_too(loops: LoopKind, executor: Executor) -> None:
    class Block(Run):
        async def block(self) -> str:  # type: ignore[override]
            async with threadpool(self.executor):
                self.gate.stop_here()
                return "value"

    assert Block(loops, executor, None).task.cancelled()


def test_break_and_continue_out_of_a_cancelled_body_raise_too(
    loops: LoopKind, executor: Executor
) -> None:
    class Block(Run):
        async def block(self) -> str:  # type: ignore[override]
            while True:
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    break
            return "went on"

    assert Block(loops, executor, None).task.cancelled()


def test_what_the_body_raised_is_the_context_of_the_cancellation(
    loops: LoopKind, executor: Executor
) -> None:
    seen: list[BaseException | None] = []

    class Block(Run):
        async def block(self) -> None:
            try:
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    raise LookupError("body")
            except asyncio.CancelledError as error:
                assert error.args == ("stop",)
                seen.append(error.__context__)
                raise

    assert Block(loops, executor, "stop").task.cancelled()
    (context,) = seen
    assert isinstance(context, LookupError)
    assert context.args == ("body",)


def test_nothing_that_the_body_catches_swallows_the_cancellation(
    loops: LoopKind, executor: Executor
) -> None:
    """Nothing is raised inside the body, so it cannot catch it."""
    caught = []

    class Block(Run):
        async def block(self) -> None:
            async with threadpool(self.executor):
                try:
                    self.gate.stop_here()
                except BaseException as error:
                    caught.append(error)

    assert Block(loops, executor, None).task.cancelled()
    assert not caught


@pytest.mark.parametrize("stronger", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_out_of_the_body_wins_over_the_cancellation(
    loops: LoopKind, executor: Executor, stronger: type[BaseException]
) -> None:
    class Block(Run):
        async def block(self) -> str:  # type: ignore[override]
            try:
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    raise stronger("mine")
            except stronger as error:
                assert error.args == ("mine",)
                assert here() == self.loop_thread
            await turns()  # and the cancellation does not come later instead
            return "stronger"

    assert Block(loops, executor, "stop").task.result() == "stronger"


def test_a_cancelled_error_that_the_body_raises_by_itself_is_no_cancellation_of_ours(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        error = asyncio.CancelledError("mine")
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                raise error
        assert caught.value is error
        async with threadpool(executor):
            pass

    loops.run(main)


@pytest.mark.parametrize("body_raises", [False, True])
def test_the_first_of_several_messages_wins(
    loops: LoopKind, executor: Executor, body_raises: bool
) -> None:
    args: list[tuple[Any, ...]] = []

    class Block(Run):
        async def block(self) -> None:
            try:
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    if body_raises:
                        raise LookupError
            except asyncio.CancelledError as error:
                args.append(error.args)
                raise

    assert Block(loops, executor, "first", "second", None).task.cancelled()
    assert args == [("first",)]


def test_several_cancellations_are_raised_once_and_the_task_is_usable_afterwards(
    loops: LoopKind, executor: Executor
) -> None:
    """Each counts in ``cancelling()``; one error is raised for all; what follows is undisturbed."""

    class Block(Run):
        async def block(self) -> list[str]:  # type: ignore[override]
            steps = []
            try:
                async with threadpool(self.executor):
                    self.gate.stop_here()
            except asyncio.CancelledError:
                steps.append(f"cancelled {self.task.cancelling()}")
            await turns()
            async with threadpool(self.executor):
                steps.append("another block")
            await asyncio.sleep(0)
            return steps

    run = Block(loops, executor, "a", "b", "c")
    assert run.task.result() == ["cancelled 3", "another block"]
    assert run.task.cancelling() == 3


def test_a_cancellation_that_is_taken_back_is_raised_all_the_same(
    loops: LoopKind, executor: Executor
) -> None:
    """As with ``asyncio.to_thread``: ``uncancel()`` counts down and unsends nothing."""
    gate = Gate()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        task.cancel()
        assert task.uncancel() == 0
        gate.open()
        await until(task.done)
        assert task.cancelled()

    loops.run(main)


def test_a_cancellation_between_the_end_of_the_body_and_the_loop_is_not_lost(
    loops: LoopKind, executor: Executor
) -> None:
    """The body has ended, and the task has yet to be resumed."""
    gate = Gate()
    ended = threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            ended.set()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        gate.open()
        assert ended.wait(LIMIT)  # the loop stands still meanwhile
        task.cancel("late")
        await until(task.done)
        assert task.cancelled()

    loops.run(main)


# --- with the tools of asyncio


def test_a_timeout_while_the_body_runs_becomes_a_timeout_error(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """The body ends first; the cause is the CancelledError, and nothing stays counted."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        ended = False
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                async with threadpool(executor):
                    wait_until(task.cancelling)
                    ended = True
        assert ended
        assert isinstance(caught.value.__cause__, asyncio.CancelledError)
        assert task.cancelling() == 0
        await turns()

    current_task_loops.run(main)


def test_a_timeout_of_a_body_that_raises_keeps_its_error(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.01):
                async with threadpool(executor):
                    wait_until(task.cancelling)
                    raise LookupError("body")
        cause = caught.value.__cause__
        assert isinstance(cause, asyncio.CancelledError)
        assert isinstance(cause.__context__, LookupError)

    current_task_loops.run(main)


def test_wait_for_waits_for_the_body(current_task_loops: LoopKind, executor: Executor) -> None:
    ended = []

    async def block() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with threadpool(executor):
            wait_until(task.cancelling)
            ended.append(True)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(block(), 0.3)  # by then the body has begun
        assert ended

    current_task_loops.run(main)


def test_a_task_group_waits_for_the_body_of_a_sibling_of_the_failed_one(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()
    ended = []

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            ended.append(True)

    async def fail() -> None:
        await until(gate.reached.is_set)
        asyncio.get_running_loop().call_later(0.01, gate.open)
        raise LookupError("sibling")

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                sibling = group.create_task(block())
                group.create_task(fail())
        assert caught.group_contains(LookupError, match="sibling")
        assert ended
        assert sibling.cancelled()

    current_task_loops.run(main)


def test_a_failing_child_cancels_the_block_of_the_groups_own_body(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        gate = Gate()

        async def fail() -> None:
            await until(gate.reached.is_set)
            raise LookupError("child")

        ended = False
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                async with threadpool(executor):
                    gate.reached.set()
                    wait_until(task.cancelling)
                    ended = True
        assert caught.group_contains(LookupError, match="child")
        assert ended

    current_task_loops.run(main)


def test_a_shielded_block_goes_on_without_the_one_who_waited(
    loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()

    async def block() -> str:
        async with threadpool(executor):
            gate.stop_here()
        return "value"

    async def wait(inner: asyncio.Task[str]) -> None:
        await asyncio.shield(inner)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        inner = loop.create_task(block())
        outer = loop.create_task(wait(inner))
        await until(gate.reached.is_set)
        outer.cancel()
        await until(outer.done)
        assert outer.cancelled()
        assert not inner.done()
        gate.open()
        assert await inner == "value"

    loops.run(main)


def test_a_cancelled_gather_cancels_each_of_its_blocks(loops: LoopKind, executor: Executor) -> None:
    gates = [Gate(), Gate()]
    ended = []

    async def block(gate: Gate) -> None:
        async with threadpool(executor):
            gate.stop_here()
            ended.append(gate)

    async def both() -> None:
        await asyncio.gather(*map(block, gates))

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(both())
        await until(lambda: all(gate.reached.is_set() for gate in gates))
        task.cancel()
        await turns()
        assert not task.done()
        for gate in gates:
            gate.open()
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert set(ended) == set(gates)


def test_asyncio_run_waits_for_a_body_in_flight(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """Its task is cancelled, the body ends, and only then does the run."""
    steps = []
    tasks: list[asyncio.Task[None]] = []
    started = threading.Event()

    async def block() -> None:
        try:
            async with threadpool(executor):
                started.set()
                wait_until(lambda: tasks and tasks[0].cancelling())
                steps.append("body ended")
        finally:
            steps.append("cleaned up")

    async def main() -> None:
        tasks.append(asyncio.get_running_loop().create_task(block()))
        await until(started.is_set)

    current_task_loops.run(main)
    assert steps == ["body ended", "cleaned up"]
    assert tasks[0].cancelled()


# --- nested in a block of another executor


class Pools:
    """Two pools of one worker each, whose thread names are ``outer_0`` and ``inner_0``."""

    def __init__(self, executor_class: type[ThreadPoolExecutor]) -> None:
        self.outer = executor_class(1, thread_name_prefix="outer")
        self.inner = executor_class(1, thread_name_prefix="inner")

    def __enter__(self) -> Pools:
        return self

    def __exit__(self, *_: object) -> None:
        self.outer.shutdown()
        self.inner.shutdown()


def test_the_exit_of_an_inner_block_raises_in_the_outer_workers_thread(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """And what it raised goes on through the outer exit as one error."""
    gate = Gate()
    steps: list[str] = []

    async def block(pools: Pools) -> None:
        try:
            async with threadpool(pools.outer):
                outer = here()
                try:
                    async with threadpool(pools.inner):
                        assert here() != outer
                        gate.stop_here()
                        steps.append("inner body ended")
                    steps.append("went on")
                except asyncio.CancelledError as error:
                    assert here() == outer
                    assert error.args == ("stop",)
                    steps.append("inner exit")
                    raise
        except asyncio.CancelledError as error:
            assert error.args == ("stop",)
            assert error.__context__ is None
            steps.append("outer exit")
            raise

    async def main() -> None:
        with Pools(executor_class) as pools:
            task = asyncio.get_running_loop().create_task(block(pools))
            await until(gate.reached.is_set)
            task.cancel("stop")
            gate.open()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["inner body ended", "inner exit", "outer exit"]


def test_a_cancellation_swallowed_at_the_inner_exit_is_raised_again_at_the_outer_one(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()
    steps: list[str] = []

    async def block(pools: Pools) -> None:
        loop_thread = here()
        try:
            async with threadpool(pools.outer):
                try:
                    async with threadpool(pools.inner):
                        gate.stop_here()
                except asyncio.CancelledError:
                    steps.append("swallowed")
                steps.append("outer body ended")
        except asyncio.CancelledError as error:
            assert here() == loop_thread
            assert error.args == ("stop",)
            steps.append("raised again")
        await turns()
        steps.append("and only once")

    async def main() -> None:
        with Pools(executor_class) as pools:
            task = asyncio.get_running_loop().create_task(block(pools))
            await until(gate.reached.is_set)
            task.cancel("stop")
            gate.open()
            await task

    loops.run(main)
    assert steps == ["swallowed", "outer body ended", "raised again", "and only once"]


def test_an_error_of_the_inner_body_is_the_context_of_the_inner_cancellation(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()
    contexts: list[BaseException | None] = []

    async def block(pools: Pools) -> None:
        async with threadpool(pools.outer):
            try:
                async with threadpool(pools.inner):
                    gate.stop_here()
                    raise LookupError("inner")
            except asyncio.CancelledError as error:
                contexts.append(error.__context__)
                raise

    async def main() -> None:
        with Pools(executor_class) as pools:
            task = asyncio.get_running_loop().create_task(block(pools))
            await until(gate.reached.is_set)
            task.cancel("stop")
            gate.open()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert [type(context) for context in contexts] == [LookupError]


def test_a_block_that_waits_for_an_inner_worker_is_cancelled_at_once_in_the_outer_thread(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """At the inner entry, while the inner worker is still busy; the inner body never runs."""
    steps: list[str] = []

    async def block(pools: Pools, asked: threading.Event) -> None:
        try:
            async with threadpool(pools.outer):
                outer = here()
                asked.set()
                try:
                    async with threadpool(pools.inner):
                        steps.append("inner body")
                except asyncio.CancelledError as error:
                    assert here() == outer
                    assert error.args == ("stop",)
                    steps.append("inner entry")
                steps.append("outer body ended")
        except asyncio.CancelledError as error:
            assert error.args == ("stop",)
            steps.append("outer exit")

    async def main() -> None:
        with Pools(executor_class) as pools, busy(pools.inner):
            asked = threading.Event()
            task = asyncio.get_running_loop().create_task(block(pools, asked))
            await until(asked.is_set)
            task.cancel("stop")
            await until(task.done)  # the inner worker is still busy
            await task
            assert task.cancelling() == 1

    loops.run(main)
    assert steps == ["inner entry", "outer body ended", "outer exit"]


def test_a_block_that_is_nested_after_the_cancellation_never_begins(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The task was cancelled before the inner entry: that one raises, however fast its worker."""
    steps: list[str] = []

    async def block(pools: Pools, gate: Gate) -> None:
        async with threadpool(pools.inner):
            pass  # its worker exists, and is idle
        async with threadpool(pools.outer):
            outer = here()
            gate.stop_here()
            for _ in range(20):
                try:
                    async with threadpool(pools.inner):
                        steps.append("inner body")
                except asyncio.CancelledError:
                    assert here() == outer
                    steps.append("inner entry")

    async def main() -> None:
        with Pools(executor_class) as pools:
            gate = Gate()
            task = asyncio.get_running_loop().create_task(block(pools, gate))
            await until(gate.reached.is_set)
            task.cancel("stop")
            gate.open()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["inner entry"] * 20


def test_a_block_nested_in_one_of_the_same_executor_leaves_the_error_to_the_outer_exit(
    loops: LoopKind, executor: Executor
) -> None:
    """Nothing moved at the inner exit, so the outer body is still the same running body."""

    class Block(Run):
        steps: list[str]

        async def block(self) -> None:
            self.steps = []
            async with threadpool(self.executor):
                async with threadpool(self.executor):
                    self.gate.stop_here()
                    self.steps.append("inner")
                self.steps.append("outer")

    run = Block(loops, executor, None)
    assert run.steps == ["inner", "outer"]
    assert run.task.cancelled()


# --- a loop that is closed


@pytest.mark.parametrize("nested", [False, True])
def test_a_loop_that_is_closed_under_a_running_body_leaves_the_worker_usable(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
    nested: bool,
) -> None:
    """The body comes to its end; a warning says that the task is lost, and where."""
    gate = Gate()
    ended = threading.Event()

    async def block(pools: Pools) -> None:
        async with threadpool(pools.outer):
            if nested:
                async with threadpool(pools.inner):
                    gate.stop_here()
                    ended.set()
            else:
                gate.stop_here()
                ended.set()

    async def main(pools: Pools) -> asyncio.Task[None]:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = asyncio.get_running_loop().create_task(block(pools))
        await until(gate.reached.is_set)
        return task

    with Pools(executor_class) as pools:
        loop = loops.loop_factory()
        task = loop.run_until_complete(main(pools))
        loop.close()
        gate.open()
        assert ended.wait(LIMIT)
        assert pools.outer.submit(str, 1).result(LIMIT) == "1"
        assert pools.inner.submit(str, 2).result(LIMIT) == "2"
        assert not task.done()
    (record,) = [record for record in caplog.records if record.name == "threadhop"]
    assert record.levelno == logging.WARNING
    assert __file__ in record.getMessage()
    del task
    gc.collect()


def test_a_parked_worker_of_a_closed_loop_goes_and_the_task_is_still_reported(
    executor_class: type[ThreadPoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The outer worker does not wait for an inner body that may run for long.

    Once it has gone nobody takes the task over when the inner body has ended. That must be said.
    """
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01)
    gate = Gate()

    async def block(pools: Pools) -> None:
        async with threadpool(pools.outer), threadpool(pools.inner):
            gate.stop_here()

    async def main(pools: Pools) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(block(pools))
        await until(gate.reached.is_set)
        return task

    with Pools(executor_class) as pools:
        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(main(pools))
        loop.close()
        assert pools.outer.submit(str, 1).result(LIMIT) == "1"  # while the inner body runs
        gate.open()
        assert pools.inner.submit(str, 2).result(LIMIT) == "2"
        assert not task.done()
    records = [record for record in caplog.records if record.name == "threadhop"]
    assert [record.levelno for record in records] == [logging.WARNING]
    del task
    gc.collect()
