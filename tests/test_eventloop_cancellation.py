"""What a cancelled task sees of ``eventloop()``, at each moment of the way there and back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import check_cancelled, eventloop, threadpool

here = threading.get_ident


class OopsError(Exception):
    """What a test raises on purpose."""


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


async def forever_under(timeout: asyncio.Timeout) -> None:
    """Wait for a timeout that fires when this waits, and not before."""
    timeout.reschedule(asyncio.get_running_loop().time())
    await forever()


async def cancelled_future() -> None:
    """Raises a CancelledError that has nothing to do with the task."""
    future = asyncio.get_running_loop().create_future()
    future.cancel("foreign")
    await future


def wait_until_posted(count: int = 1) -> None:
    """In the loop thread, which stands still: until that many tasks are on their way to it."""
    home = asyncio.get_running_loop()._threadhop_loop  # type: ignore[attr-defined]
    wait_until(lambda: len(home._queue) == count)


class Trail:
    """What happened, and where: "loop", or the name of the worker."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, str]] = []
        self.loop_thread = here()

    def note(self, what: str) -> None:
        name = threading.current_thread().name
        self.steps.append((what, "loop" if here() == self.loop_thread else name))

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Note where a CancelledError leaves the block, and that it has the message."""
        try:
            yield
        except asyncio.CancelledError as error:
            assert error.args == ("stop",), error.args
            self.note(what)
            raise


@pytest.fixture
def a(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1, thread_name_prefix="A") as pool:
        yield pool


@pytest.fixture
def b(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1, thread_name_prefix="B") as pool:
        yield pool


# --- one part: each moment of the way


def test_cancelled_on_the_worker_before_the_part_it_is_raised_at_its_entry(
    loops: LoopKind, a: Executor
) -> None:
    """In the worker, at once: the loop stands still meanwhile, and the part never begins."""

    async def block(trail: Trail, gate: Gate, raised: threading.Event) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                gate.stop_here()
                try:
                    with trail.watch("entry of the part"):
                        async with eventloop():
                            trail.note("part")
                finally:
                    raised.set()

    async def main() -> None:
        trail, gate, raised = Trail(), Gate(), threading.Event()
        task = start(block(trail, gate, raised))
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        assert raised.wait(LIMIT)  # the loop stands still
        await until(task.done)
        assert task.cancelled()
        assert trail.steps == [("entry of the part", "A_0"), ("exit", "loop")]

    loops.run(main)


def test_each_later_part_of_a_cancelled_body_is_refused(loops: LoopKind, a: Executor) -> None:
    async def block(trail: Trail, gate: Gate) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                gate.stop_here()
                for _ in range(3):
                    with contextlib.suppress(asyncio.CancelledError):
                        with trail.watch("entry"):
                            async with eventloop():
                                trail.note("part")

    async def main() -> None:
        trail, gate = Trail(), Gate()
        task = start(block(trail, gate))
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert trail.steps == [*[("entry", "A_0")] * 3, ("exit", "loop")]

    loops.run(main)


@pytest.mark.parametrize("swallowed", [False, True])
def test_cancelled_on_its_way_to_the_loop_it_is_raised_in_the_worker(
    loops: LoopKind, a: Executor, swallowed: bool
) -> None:
    """Posted, and not yet arrived. On the loop it would run the ``finally`` of the body there."""

    async def block(trail: Trail, gate: Gate) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                gate.stop_here()
                try:
                    with trail.watch("entry of the part"):
                        async with eventloop():
                            trail.note("part")
                except asyncio.CancelledError:
                    if not swallowed:
                        raise
                finally:
                    trail.note("finally")

    async def main() -> None:
        trail, gate = Trail(), Gate()
        task = start(block(trail, gate))
        await until(gate.reached.is_set)
        gate.open()
        wait_until_posted()
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()
        assert task.cancelling() == 1
        assert trail.steps == [
            ("entry of the part", "A_0"),
            ("finally", "A_0"),
            ("exit", "loop"),
        ]

    loops.run(main)


def test_cancelled_at_an_await_it_travels_through_the_worker(loops: LoopKind, a: Executor) -> None:
    """One error: raised at the await, through the part of the worker, out of the block."""
    seen: list[BaseException] = []

    async def block(trail: Trail, reached: asyncio.Event) -> None:
        try:
            with trail.watch("exit"):
                async with threadpool(a):
                    with trail.watch("body"):
                        async with eventloop():
                            with trail.watch("await"):
                                try:
                                    reached.set()
                                    await forever()
                                except asyncio.CancelledError as error:
                                    seen.append(error)
                                    raise
        except asyncio.CancelledError as error:
            seen.append(error)
            raise

    async def main() -> None:
        trail, reached = Trail(), asyncio.Event()
        task = start(block(trail, reached))
        await reached.wait()
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()
        assert trail.steps == [("await", "loop"), ("body", "A_0"), ("exit", "loop")]
        assert seen[0] is seen[1]
        assert seen[0].__context__ is None
        seen.clear()

    loops.run(main)


def test_cancelled_before_its_first_await_the_part_raises_there(
    loops: LoopKind, a: Executor
) -> None:
    """A part that cancels its own task goes on to its next await, as any code on the loop."""

    async def block(trail: Trail, tasks: list[asyncio.Task[Any]]) -> None:
        async with threadpool(a):
            with trail.watch("body"):
                async with eventloop():
                    tasks[0].cancel("stop")
                    trail.note("went on")
                    with trail.watch("await"):
                        await asyncio.sleep(0)

    async def main() -> None:
        trail = Trail()
        tasks: list[asyncio.Task[Any]] = []
        with busy(a):  # an eager task must not be faster than the list
            tasks.append(start(block(trail, tasks)))
        await until(tasks[0].done)
        assert tasks[0].cancelled()
        assert trail.steps == [("went on", "loop"), ("await", "loop"), ("body", "A_0")]

    loops.run(main)


@pytest.mark.parametrize("swallowed", [False, True])
def test_cancelled_as_it_leaves_the_part_it_is_raised_on_the_worker_and_at_the_exit(
    loops: LoopKind, a: Executor, swallowed: bool
) -> None:
    """The part has no further await: what is pending goes along, and is not lost."""

    async def block(trail: Trail, tasks: list[asyncio.Task[Any]]) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                try:
                    with trail.watch("end of the part"):
                        async with eventloop():
                            tasks[0].cancel("stop")
                            trail.note("part")
                except asyncio.CancelledError:
                    if not swallowed:
                        raise
                finally:
                    trail.note("finally")

    async def main() -> None:
        trail = Trail()
        tasks: list[asyncio.Task[Any]] = []
        with busy(a):
            tasks.append(start(block(trail, tasks)))
        await until(tasks[0].done)
        assert tasks[0].cancelled()
        assert tasks[0].cancelling() == 1
        assert trail.steps == [
            ("part", "loop"),
            ("end of the part", "A_0"),
            ("finally", "A_0"),
            ("exit", "loop"),
        ]

    loops.run(main)


def test_cancelled_on_its_way_back_the_body_comes_to_its_end(loops: LoopKind, a: Executor) -> None:
    """By the first callback after the step that left the part; the worker is just waking up."""

    async def block(tasks: list[asyncio.Task[Any]], trail: Trail) -> None:
        try:
            async with threadpool(a):
                try:
                    async with eventloop():
                        asyncio.get_running_loop().call_soon(tasks[0].cancel, "stop")
                finally:
                    trail.note("finally")
                    wait_until(tasks[0].cancelling)
        except asyncio.CancelledError as error:
            assert error.args == ("stop",)
            trail.note("exit")
            raise

    async def main() -> None:
        for _ in range(20):
            trail = Trail()
            tasks: list[asyncio.Task[Any]] = []
            with busy(a):
                tasks.append(start(block(tasks, trail)))
            await until(tasks[0].done)
            assert tasks[0].cancelled()
            assert trail.steps == [("finally", "A_0"), ("exit", "loop")]

    loops.run(main)


def test_cancelled_on_the_worker_after_the_part_it_is_raised_at_the_exit(
    loops: LoopKind, a: Executor
) -> None:
    async def block(trail: Trail, gate: Gate) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                async with eventloop():
                    await asyncio.sleep(0)
                gate.stop_here()
                with pytest.raises(asyncio.CancelledError, match="stop"):
                    check_cancelled()
                trail.note("body ends")

    async def main() -> None:
        trail, gate = Trail(), Gate()
        task = start(block(trail, gate))
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert trail.steps == [("body ends", "A_0"), ("exit", "loop")]

    loops.run(main)


def test_cancelled_while_queued_neither_body_nor_part_begins(loops: LoopKind, a: Executor) -> None:
    async def block(trail: Trail) -> None:
        with trail.watch("entry"):
            async with threadpool(a):
                async with eventloop():
                    trail.note("part")

    async def main() -> None:
        trail = Trail()
        with busy(a):
            task = start(block(trail))
            await turns()
            task.cancel("stop")
            await until(task.done)
        assert task.cancelled()
        assert trail.steps == [("entry", "loop")]

    loops.run(main)


def test_of_several_cancellations_each_is_counted_and_the_first_message_wins(
    loops: LoopKind, a: Executor
) -> None:
    async def block(trail: Trail, gate: Gate) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                gate.stop_here()
                async with eventloop():
                    trail.note("part")

    async def main() -> None:
        trail, gate = Trail(), Gate()
        task = start(block(trail, gate))
        await until(gate.reached.is_set)
        for message in ("stop", "second", "third"):
            task.cancel(message)
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert task.cancelling() == 3
        assert trail.steps == [("exit", "loop")]

    loops.run(main)


def test_a_task_is_usable_after_its_cancellation_was_caught(loops: LoopKind, a: Executor) -> None:
    """Blocks and parts that follow are undisturbed."""

    async def block(reached: asyncio.Event) -> str:
        try:
            async with threadpool(a):
                async with eventloop():
                    reached.set()
                    await forever()
        except asyncio.CancelledError:
            pass
        for _ in range(3):
            async with threadpool(a):
                async with eventloop():
                    await asyncio.sleep(0)
                async with eventloop():
                    await asyncio.sleep(0)
        return "usable"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel()
        assert await task == "usable"

    loops.run(main)


# --- who swallows it, and where


def test_swallowed_on_the_worker_it_is_raised_again_at_the_exit(
    loops: LoopKind, a: Executor
) -> None:
    """With the message; between the two, the body goes on, and each further part is refused."""

    async def block(trail: Trail, reached: asyncio.Event) -> None:
        with trail.watch("exit"):
            async with threadpool(a):
                with contextlib.suppress(asyncio.CancelledError):
                    async with eventloop():
                        reached.set()
                        await forever()
                trail.note("went on")
                with pytest.raises(asyncio.CancelledError, match="stop"):
                    check_cancelled()
                with pytest.raises(asyncio.CancelledError, match="stop"):
                    async with eventloop():
                        trail.note("part")

    async def main() -> None:
        trail, reached = Trail(), asyncio.Event()
        task = start(block(trail, reached))
        await reached.wait()
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()
        assert task.cancelling() == 1
        assert trail.steps == [("went on", "A_0"), ("exit", "loop")]

    loops.run(main)


@pytest.mark.parametrize("how", ["raise", "return"])
def test_turned_into_something_else_on_the_worker_it_is_raised_again_at_the_exit(
    loops: LoopKind, a: Executor, how: str
) -> None:
    """What the body raised instead is the context of the cancellation."""

    async def block(reached: asyncio.Event) -> str:
        async with threadpool(a):
            try:
                async with eventloop():
                    reached.set()
                    await forever()
            except asyncio.CancelledError:
                if how == "raise":
                    raise OopsError from None
                return "value"
        return "not cancelled"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        await until(task.done)
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("stop",)
        assert task.cancelled()

    loops.run(main)


def test_the_error_of_the_body_is_the_context_of_the_cancellation_at_the_exit(
    loops: LoopKind, a: Executor
) -> None:
    async def block(reached: asyncio.Event) -> str:
        try:
            async with threadpool(a):
                try:
                    async with eventloop():
                        reached.set()
                        await forever()
                finally:
                    raise OopsError
        except asyncio.CancelledError as error:
            assert isinstance(error.__context__, OopsError)
            return "caught"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        assert await task == "caught"

    loops.run(main)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_wins_over_the_cancellation(
    loops: LoopKind, a: Executor, kind: type[BaseException]
) -> None:
    async def block(reached: asyncio.Event) -> str:
        try:
            async with threadpool(a):
                try:
                    async with eventloop():
                        reached.set()
                        await forever()
                except asyncio.CancelledError:
                    raise kind("exit") from None
        except kind:
            return "caught"
        return "nothing was raised"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        assert await task == "caught"

    loops.run(main)


def test_swallowed_within_the_part_it_belongs_to_that_await(loops: LoopKind, a: Executor) -> None:
    """The body goes on, further parts too, and the block is left as if nothing had been."""

    async def block(reached: asyncio.Event) -> str:
        async with threadpool(a):
            async with eventloop():
                with contextlib.suppress(asyncio.CancelledError):
                    reached.set()
                    await forever()
                await asyncio.sleep(0)
            check_cancelled()
            async with eventloop():
                await asyncio.sleep(0)
        return "not cancelled"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        assert await task == "not cancelled"
        assert task.cancelling() == 1

    loops.run(main)


def test_an_error_in_its_place_that_leaves_the_part_belongs_to_that_await(
    loops: LoopKind, a: Executor
) -> None:
    """The part has dealt with it: a timeout of its own making, for example."""

    async def block(reached: asyncio.Event) -> str:
        async with threadpool(a):
            with pytest.raises(OopsError):
                async with eventloop():
                    try:
                        reached.set()
                        await forever()
                    except asyncio.CancelledError:
                        raise OopsError from None
            check_cancelled()
        return "not cancelled"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        assert await task == "not cancelled"

    loops.run(main)


def test_a_second_cancellation_comes_through_after_the_first_was_swallowed(
    loops: LoopKind, a: Executor
) -> None:
    async def block(reached: list[asyncio.Event]) -> None:
        async with threadpool(a):
            for event in reached:
                async with eventloop():
                    try:
                        event.set()
                        await forever()
                    except asyncio.CancelledError as error:
                        if error.args == ("second",):
                            raise

    async def main() -> None:
        reached = [asyncio.Event(), asyncio.Event()]
        task = start(block(reached))
        for event, message in zip(reached, ("first", "second"), strict=True):
            await event.wait()
            task.cancel(message)
        await until(task.done)
        with pytest.raises(asyncio.CancelledError, match="second"):
            await task

    loops.run(main)


# --- errors that only look like a cancellation


def test_a_foreign_cancelled_error_that_leaves_a_part_is_not_the_tasks_own(
    loops: LoopKind, a: Executor
) -> None:
    """Whoever swallows it on the worker has dealt with it."""

    async def block() -> str:
        async with threadpool(a):
            with pytest.raises(asyncio.CancelledError, match="foreign"):
                async with eventloop():
                    await cancelled_future()
            check_cancelled()
            async with eventloop():
                await asyncio.sleep(0)
        return "not cancelled"

    async def main() -> None:
        task = start(block())
        assert await task == "not cancelled"
        assert task.cancelling() == 0

    loops.run(main)


def test_a_foreign_cancelled_error_comes_out_of_the_block_by_itself(
    loops: LoopKind, a: Executor
) -> None:
    async def block() -> str:
        with pytest.raises(asyncio.CancelledError, match="foreign"):
            async with threadpool(a):
                async with eventloop():
                    await cancelled_future()
        return "caught"

    async def main() -> None:
        assert await start(block()) == "caught"

    loops.run(main)


def test_a_foreign_cancelled_error_after_a_swallowed_cancellation_is_not_the_tasks_own(
    loops: LoopKind, a: Executor
) -> None:
    """``cancelling()`` is still 1 from an earlier part, and from before the block."""

    async def block(reached: list[asyncio.Event]) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            reached[0].set()
            await forever()
        async with threadpool(a):
            async with eventloop():
                with contextlib.suppress(asyncio.CancelledError):
                    reached[1].set()
                    await forever()
            with pytest.raises(asyncio.CancelledError, match="foreign"):
                async with eventloop():
                    await cancelled_future()
            check_cancelled()
        return "went on"

    async def main() -> None:
        reached = [asyncio.Event(), asyncio.Event()]
        task = start(block(reached))
        for event in reached:
            await event.wait()
            task.cancel("stop")
        assert await task == "went on"
        assert task.cancelling() == 2

    loops.run(main)


def test_a_cancelled_child_task_does_not_cancel_the_one_that_awaits_it_in_a_part(
    loops: LoopKind, a: Executor
) -> None:
    async def block() -> str:
        async with threadpool(a):
            with pytest.raises(asyncio.CancelledError):
                async with eventloop():
                    child = start(forever())
                    await turns(2)
                    child.cancel("child")
                    await child
        return "not cancelled"

    async def main() -> None:
        assert await start(block()) == "not cancelled"

    loops.run(main)


# --- two levels: each stage of A > loop > B > loop

STAGES = ["entry", "A", "loop", "B", "inner loop", "B again", "loop again", "A again"]

#: Where the cancellation passes, in order, when it comes at that stage.
PASSES = {
    "entry": [("out", "loop")],
    "A": [("A", "A_0"), ("out", "loop")],
    "loop": [("loop", "loop"), ("A", "A_0"), ("out", "loop")],
    "B": [("B", "B_0"), ("loop", "loop"), ("A", "A_0"), ("out", "loop")],
    "inner loop": [
        ("inner loop", "loop"),
        ("B", "B_0"),
        ("loop", "loop"),
        ("A", "A_0"),
        ("out", "loop"),
    ],
    # The body comes to its end first, so nothing passes in it.
    "B again": [("loop", "loop"), ("A", "A_0"), ("out", "loop")],
    "loop again": [("loop", "loop"), ("A", "A_0"), ("out", "loop")],
    "A again": [("out", "loop")],
}


class Stages:
    """A task that goes A > loop > B > loop and back, and stops at one of the stages."""

    def __init__(self, a: Executor, b: Executor, stage: str, swallows: str = "") -> None:
        self.a, self.b = a, b
        self.stage = stage
        #: At which place a CancelledError is swallowed.
        self.swallows = swallows
        self.gate = Gate()
        self.trail = Trail()
        self.finallies: list[tuple[str, str]] = []

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[None]:
        trail = self.trail
        try:
            with trail.watch(name):
                yield
        except asyncio.CancelledError:
            if self.swallows != name:
                raise
        finally:
            steps, trail.steps = trail.steps, self.finallies
            trail.note(name)
            trail.steps = steps

    def work(self, stage: str) -> None:
        if stage == self.stage:
            self.gate.stop_here()

    async def wait(self, stage: str) -> None:
        if stage == self.stage:
            self.gate.reached.set()
            await forever()

    async def block(self) -> None:
        with self.place("out"):
            async with threadpool(self.a):
                with self.place("A"):
                    self.work("A")
                    async with eventloop():
                        with self.place("loop"):
                            await self.wait("loop")
                            async with threadpool(self.b):
                                with self.place("B"):
                                    self.work("B")
                                    async with eventloop():
                                        with self.place("inner loop"):
                                            await self.wait("inner loop")
                                    self.work("B again")
                            await self.wait("loop again")
                    self.work("A again")

    async def run(self) -> asyncio.Task[None]:
        if self.stage == "entry":
            with busy(self.a):
                task = start(self.block())
                await turns()
                task.cancel("stop")
                await until(task.done)
        else:
            task = start(self.block())
            await until(self.gate.reached.is_set)
            task.cancel("stop")
            self.gate.open()
            await until(task.done)
        for pool in (self.a, self.b):  # all workers are free again
            assert await asyncio.wrap_future(pool.submit(str, 1)) == "1"
        return task


@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_at_any_stage_it_passes_each_place_on_its_own_thread(
    loops: LoopKind, a: Executor, b: Executor, stage: str
) -> None:
    """Once, with its message; and each ``finally`` runs on the thread of its block."""
    homes = {"out": "loop", "A": "A_0", "loop": "loop", "B": "B_0", "inner loop": "loop"}

    async def main() -> None:
        stages = Stages(a, b, stage)
        task = await stages.run()
        assert task.cancelled()
        assert task.cancelling() == 1
        assert stages.trail.steps == PASSES[stage]
        assert all(homes[name] == where for name, where in stages.finallies)

    loops.run(main)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_what_a_place_of_two_levels_swallows(
    loops: LoopKind, a: Executor, b: Executor, stage: str
) -> None:
    """On a worker it is raised again at the end of that block; on the loop it is done with.

    A place that it would not have passed changes nothing.
    """

    async def main() -> None:
        for swallows in ("A", "loop", "B", "inner loop"):
            passes = PASSES[stage]
            names = [name for name, _ in passes]
            if swallows in names and swallows in ("loop", "inner loop"):
                # It belongs to the await that raised it, and nothing outside of the part sees it.
                passes = passes[: names.index(swallows) + 1]
            stages = Stages(a, b, stage, swallows)
            task = await stages.run()
            assert stages.trail.steps == passes, swallows
            assert task.cancelled() == (passes[-1] == ("out", "loop")), swallows

    loops.run(main)


# --- the tools of asyncio


def test_a_timeout_around_the_block_ends_a_part_that_waits(
    current_task_loops: LoopKind, a: Executor
) -> None:
    """Through the worker; the count of the task is as before."""

    async def main() -> None:
        trail = Trail()
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                async with threadpool(a):
                    try:
                        async with eventloop():
                            await forever_under(timeout)
                    finally:
                        trail.note("body")
        assert task.cancelling() == 0
        assert trail.steps == [("body", "A_0")]

    current_task_loops.run(main)


def test_a_timeout_around_the_block_is_not_lost_on_a_worker_that_swallows(
    current_task_loops: LoopKind, a: Executor
) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                async with threadpool(a):
                    with contextlib.suppress(asyncio.CancelledError):
                        async with eventloop():
                            await forever_under(timeout)

    current_task_loops.run(main)


@pytest.mark.parametrize("caught_on", ["loop", "worker", "outside"])
def test_a_timeout_in_a_part_stays_in_it(
    current_task_loops: LoopKind, a: Executor, caught_on: str
) -> None:
    """Its TimeoutError is an error like any other, and nothing is cancelled afterwards."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with contextlib.suppress(TimeoutError) if caught_on == "outside" else _nothing():
            async with threadpool(a):
                with contextlib.suppress(TimeoutError) if caught_on == "worker" else _nothing():
                    async with eventloop():
                        with (
                            contextlib.suppress(TimeoutError) if caught_on == "loop" else _nothing()
                        ):
                            async with asyncio.timeout(0.005):
                                await forever()
                check_cancelled()
                async with eventloop():
                    await asyncio.sleep(0)
        assert task.cancelling() == 0
        await asyncio.sleep(0)

    current_task_loops.run(main)


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def test_a_timeout_in_a_part_ends_a_body_that_went_back_to_the_worker(
    current_task_loops: LoopKind, a: Executor
) -> None:
    """A > loop with a timeout > A: the inner body ends, then the timeout, then the outer body."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        async with threadpool(a):
            worker = here()
            with pytest.raises(TimeoutError):
                async with eventloop():
                    async with asyncio.timeout(None) as timeout:
                        async with threadpool(a):
                            loop.call_soon_threadsafe(timeout.reschedule, loop.time())
                            wait_until(task.cancelling)
            assert here() == worker
            check_cancelled()
        assert task.cancelling() == 0

    current_task_loops.run(main)


def test_an_inner_timeout_within_an_outer_one(current_task_loops: LoopKind, a: Executor) -> None:
    """The inner one fires in a part and is caught; the outer one still works."""

    async def main() -> None:
        fired = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as outer:
                async with threadpool(a):
                    try:
                        async with eventloop():
                            async with asyncio.timeout(None) as inner:
                                await forever_under(inner)
                    except TimeoutError:
                        fired.append("inner")
                    async with eventloop():
                        await forever_under(outer)
        assert fired == ["inner"]

    current_task_loops.run(main)


def test_wait_for_ends_a_part_that_waits(current_task_loops: LoopKind, a: Executor) -> None:
    async def block(ended: list[bool]) -> None:
        async with threadpool(a):
            try:
                async with eventloop():
                    await forever()
            finally:
                ended.append(True)

    async def main() -> None:
        ended: list[bool] = []
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(block(ended), 0.2)
        assert ended == [True]

    current_task_loops.run(main)


def test_wait_for_works_in_a_part(current_task_loops: LoopKind, a: Executor) -> None:
    async def main() -> None:
        async with threadpool(a):
            with pytest.raises(TimeoutError):
                async with eventloop():
                    await asyncio.wait_for(forever(), 0.005)
            check_cancelled()

    current_task_loops.run(main)


def test_a_task_group_cancels_a_child_that_waits_in_a_part(
    current_task_loops: LoopKind, a: Executor
) -> None:
    steps: list[str] = []

    async def block(reached: asyncio.Event) -> None:
        async with threadpool(a):
            try:
                async with eventloop():
                    reached.set()
                    await forever()
            finally:
                steps.append(threading.current_thread().name)

    async def fail(reached: asyncio.Event) -> None:
        await reached.wait()
        raise OopsError

    async def main() -> None:
        reached = asyncio.Event()
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                sibling = group.create_task(block(reached))
                group.create_task(fail(reached))
        assert caught.group_contains(OopsError)
        assert len(caught.value.exceptions) == 1
        assert sibling.cancelled()

    current_task_loops.run(main)
    assert steps == ["A_0"]


def test_a_task_group_works_in_a_part(current_task_loops: LoopKind, a: Executor) -> None:
    """A child that fails cancels the body of the group, which is the part, and nothing else."""

    async def fail() -> None:
        raise OopsError

    async def main() -> None:
        async with threadpool(a):
            worker = here()
            async with eventloop():
                async with asyncio.TaskGroup() as group:
                    child = group.create_task(asyncio.sleep(0, "value"))
            assert child.result() == "value"
            with pytest.raises(ExceptionGroup):
                async with eventloop():
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fail())
                        await forever()
            assert here() == worker
            check_cancelled()
            async with eventloop():
                await asyncio.sleep(0)

    current_task_loops.run(main)


def test_a_task_group_around_the_block_is_ended_by_a_child_while_its_body_is_in_a_part(
    current_task_loops: LoopKind, a: Executor
) -> None:
    async def main() -> None:
        trail = Trail()
        reached = asyncio.Event()

        async def fail() -> None:
            await reached.wait()
            raise OopsError

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                async with threadpool(a):
                    try:
                        async with eventloop():
                            reached.set()
                            await forever()
                    finally:
                        trail.note("body")
        assert caught.group_contains(OopsError)
        assert trail.steps == [("body", "A_0")]

    current_task_loops.run(main)


def test_a_shielded_await_in_a_part_goes_on_without_it(loops: LoopKind, a: Executor) -> None:
    async def block(inner: asyncio.Future[str], reached: asyncio.Event) -> None:
        async with threadpool(a):
            async with eventloop():
                reached.set()
                await asyncio.shield(inner)

    async def main() -> None:
        inner = asyncio.get_running_loop().create_future()
        reached = asyncio.Event()
        task = start(block(inner, reached))
        await reached.wait()
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        assert not inner.done()

    loops.run(main)


def test_asyncio_run_cancels_a_task_that_it_finds_in_a_part(
    current_task_loops: LoopKind, a: Executor
) -> None:
    trails: list[Trail] = []

    async def block(reached: asyncio.Event) -> None:
        async with threadpool(a):
            try:
                async with eventloop():
                    reached.set()
                    await forever()
            finally:
                trails[0].note("body")

    async def main() -> asyncio.Task[None]:
        trails.append(Trail())
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        return task

    task = current_task_loops.run(main)
    assert task.cancelled()
    assert trails[0].steps == [("body", "A_0")]


# --- how fast


def test_a_cancelled_part_frees_its_worker_within_a_tenth_of_a_second(
    loops: LoopKind, a: Executor
) -> None:
    """The parked worker is woken, and does not wait until it looks for itself."""

    async def block(reached: asyncio.Event) -> None:
        async with threadpool(a):
            async with eventloop():
                reached.set()
                await forever()

    async def main() -> None:
        took = []
        for _ in range(5):
            reached = asyncio.Event()
            task = start(block(reached))
            await reached.wait()
            freed = asyncio.wrap_future(a.submit(str, 1))
            began = time.monotonic()
            task.cancel()
            await freed
            took.append(time.monotonic() - began)
            await until(task.done)
        assert sorted(took)[2] < 0.1, took  # the machine may be busy with other things, once

    loops.run(main)
