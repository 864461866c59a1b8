"""A task that uses ``eventloop()`` is cancelled, at each moment of the way there and back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, Trail, ended, forever, place, start
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

from threadhop import check_cancelled, eventloop, threadpool
from threadhop._loops._attributes import LOOP

# --- two levels: each stage of one > loop > other > loop

STAGES = ["entry", "one", "loop", "other", "inner loop", "other again", "loop again", "one again"]

#: Where the cancellation passes, in order, when it comes at that stage.
PASSES = {
    "entry": ["out"],
    "one": ["one", "out"],
    "loop": ["loop", "one", "out"],
    "other": ["other", "loop", "one", "out"],
    "inner loop": ["inner loop", "other", "loop", "one", "out"],
    # The body comes to its end first, so nothing passes in it.
    "other again": ["loop", "one", "out"],
    "loop again": ["loop", "one", "out"],
    "one again": ["out"],
}

PLACES = {"out": "loop", "one": "one_0", "loop": "loop", "other": "other_0", "inner loop": "loop"}


class Stages:
    """A task that goes one > loop > other > loop and back, and is cancelled at one of the stages.

    A CancelledError is swallowed at the place *swallows*.
    """

    def __init__(
        self, one: ThreadPoolExecutor, other: ThreadPoolExecutor, stage: str, swallows: str = ""
    ) -> None:
        self.one, self.other = one, other
        self.stage = stage
        self.swallows = swallows
        self.gate = Gate()
        self.trail = Trail()

    @contextlib.contextmanager
    def watch(self, name: str) -> Any:
        try:
            with self.trail.watch(name):
                yield
        except asyncio.CancelledError:
            if self.swallows != name:
                raise
        finally:
            assert place() == PLACES[name]

    def work(self, stage: str) -> None:
        """Let the cancellation come while the body works, if this is the stage."""
        if stage == self.stage:
            self.gate.stop_here()
            with pytest.raises(asyncio.CancelledError, match="stop"):
                check_cancelled()

    async def wait(self, stage: str) -> None:
        """Let the cancellation come at an await on the loop, if this is the stage."""
        if stage == self.stage:
            self.gate.reached.set()
            await forever()

    async def block(self) -> None:
        with self.watch("out"):
            async with threadpool(self.one):
                with self.watch("one"):
                    self.work("one")
                    async with eventloop():
                        with self.watch("loop"):
                            await self.wait("loop")
                            async with threadpool(self.other):
                                with self.watch("other"):
                                    self.work("other")
                                    async with eventloop():
                                        with self.watch("inner loop"):
                                            await self.wait("inner loop")
                                    self.work("other again")
                            await self.wait("loop again")
                    self.work("one again")

    async def run(self, *messages: str) -> asyncio.Task[None]:
        with busy(self.one) if self.stage == "entry" else contextlib.nullcontext():
            task = start(self.block())
            if self.stage == "entry":
                await turns()
            else:
                await until(self.gate.reached.is_set)
            for message in messages or ("stop",):
                task.cancel(message)
            self.gate.open()
            await until(task.done)
        for pool in (self.one, self.other):  # all workers are free again
            assert await asyncio.wrap_future(pool.submit(str, 1)) == "1"
        return task


@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_at_any_stage_it_passes_each_place_in_its_own_thread(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor, stage: str
) -> None:
    """The error is one object with its message and no context, and is raised once."""

    async def main() -> None:
        stages = Stages(one, other, stage)
        task = await stages.run()
        assert task.cancelled()
        assert task.cancelling() == 1
        assert stages.trail.steps == [(name, PLACES[name]) for name in PASSES[stage]]
        assert len({id(error) for error in stages.trail.errors}) == 1
        assert stages.trail.errors.pop().__context__ is None

    loops.run(main)


@pytest.mark.parametrize("stage", STAGES[1:])
def test_what_a_place_of_two_levels_swallows(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor, stage: str
) -> None:
    """The end of a block on a worker raises it again. The loop is done with it.

    A place that it would not have passed changes nothing.
    """

    async def main() -> None:
        for swallows in ("one", "loop", "other", "inner loop"):
            passes = PASSES[stage]
            if swallows in passes and swallows in ("loop", "inner loop"):
                # The await that raised it has dealt with it: nothing outside of the part sees it.
                passes = passes[: passes.index(swallows) + 1]
            stages = Stages(one, other, stage, swallows)
            task = await stages.run()
            assert [name for name, _ in stages.trail.steps] == passes, swallows
            assert task.cancelled() == (passes[-1] == "out"), swallows

    loops.run(main)


@pytest.mark.parametrize("stage", ["one", "other"])
def test_of_several_cancellations_each_is_counted_and_the_first_message_wins(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor, stage: str
) -> None:
    async def main() -> None:
        stages = Stages(one, other, stage)  # which watches for "stop"
        task = await stages.run("stop", "second", "third")
        assert task.cancelled()
        assert task.cancelling() == 3
        assert stages.trail.steps[-1] == ("out", "loop")

    loops.run(main)


# --- the moments around a part


def test_each_part_of_a_body_that_was_cancelled_before_is_refused_at_once(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The worker need not ask the loop, which stands still meanwhile."""
    trail, gate, refused = Trail(), Gate(), threading.Event()

    async def block() -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                gate.stop_here()
                for _ in range(3):
                    with contextlib.suppress(asyncio.CancelledError), trail.watch("entry"):
                        async with eventloop():
                            trail.note("part")
                refused.set()

    async def main() -> None:
        task = start(block())
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        assert refused.wait(LIMIT)  # the loop stands still
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert trail.steps == [*[("entry", "one_0")] * 3, ("exit", "loop")]


@pytest.mark.parametrize("swallowed", [False, True])
def test_cancelled_on_its_way_to_the_loop_it_is_raised_in_the_worker(
    loops: LoopKind, one: ThreadPoolExecutor, swallowed: bool
) -> None:
    """The task is posted, and has not arrived. The ``finally`` of the body must not run there."""
    trail, gate = Trail(), Gate()

    async def block() -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                gate.stop_here()
                try:
                    with trail.watch("entry"):
                        async with eventloop():
                            trail.note("part")
                except asyncio.CancelledError:
                    if not swallowed:
                        raise
                finally:
                    trail.note("finally")

    async def main() -> None:
        task = start(block())
        await until(gate.reached.is_set)
        gate.open()
        home = getattr(asyncio.get_running_loop(), LOOP)
        wait_until(lambda: len(home._queue) == 1)  # the loop stands still
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()
        assert task.cancelling() == 1

    loops.run(main)
    assert trail.steps == [("entry", "one_0"), ("finally", "one_0"), ("exit", "loop")]


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("awaits", [False, True])
def test_a_part_that_cancels_its_own_task_hears_of_it_at_its_next_await_or_at_its_end(
    loops: LoopKind, one: ThreadPoolExecutor, awaits: bool, swallowed: bool
) -> None:
    """A pending cancellation goes along to the worker. A worker that swallows loses neither."""
    trail = Trail()
    tasks: list[asyncio.Task[Any]] = []

    async def block() -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                try:
                    with trail.watch("end of the part"):
                        async with eventloop():
                            tasks[0].cancel("stop")
                            trail.note("went on")
                            if awaits:
                                with trail.watch("await"):
                                    await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if not swallowed:
                        raise

    async def main() -> None:
        with busy(one):  # an eager task must not be faster than the list
            tasks.append(start(block()))
        await until(tasks[0].done)
        assert tasks[0].cancelled()
        assert tasks[0].cancelling() == 1

    loops.run(main)
    at_await = [("await", "loop")] if awaits else []
    assert trail.steps == [
        ("went on", "loop"),
        *at_await,
        ("end of the part", "one_0"),
        ("exit", "loop"),
    ]


def test_cancelled_on_its_way_back_the_body_comes_to_its_end(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The first callback after the step that left the part cancels; the worker just wakes up."""

    async def block(tasks: list[asyncio.Task[Any]], trail: Trail) -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                try:
                    async with eventloop():
                        asyncio.get_running_loop().call_soon(tasks[0].cancel, "stop")
                finally:
                    wait_until(tasks[0].cancelling)
                    trail.note("finally")

    async def main() -> None:
        for _ in range(20):
            trail = Trail()
            tasks: list[asyncio.Task[Any]] = []
            with busy(one):
                tasks.append(start(block(tasks, trail)))
            await until(tasks[0].done)
            assert tasks[0].cancelled()
            assert trail.steps == [("finally", "one_0"), ("exit", "loop")]

    loops.run(main)


# --- swallowed, here and there


async def part_that_waits(reached: asyncio.Event) -> None:
    """Wait in a part of a body, to be cancelled there."""
    async with eventloop():
        reached.set()
        await forever()


@pytest.mark.parametrize("how", ["swallow", "return", OopsError, SystemExit, KeyboardInterrupt])
def test_a_worker_that_makes_something_else_of_it_meets_it_again_at_the_exit(
    loops: LoopKind, one: ThreadPoolExecutor, how: Any
) -> None:
    """The error has that of the body as its context; exits win. Until then parts are refused."""

    async def block(reached: asyncio.Event) -> object:
        try:
            async with threadpool(one):
                try:
                    await part_that_waits(reached)
                except asyncio.CancelledError:
                    with pytest.raises(asyncio.CancelledError, match="stop"):
                        check_cancelled()
                    with pytest.raises(asyncio.CancelledError, match="stop"):
                        async with eventloop():
                            raise AssertionError("the part ran") from None
                    if how == "return":
                        return "value"
                    if how != "swallow":
                        raise how("instead") from None
        except (asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            return error
        return "nothing was raised"

    async def main() -> None:
        reached = asyncio.Event()
        task = start(block(reached))
        await reached.wait()
        task.cancel("stop")
        error = await task
        assert task.cancelling() == 1
        if how in (SystemExit, KeyboardInterrupt):
            assert type(error) is how
        else:
            assert type(error) is asyncio.CancelledError
            assert error.args == ("stop",)
            assert isinstance(error.__context__, OopsError) == (how is OopsError)

    loops.run(main)


@pytest.mark.parametrize("instead", [None, OopsError])
def test_what_the_part_makes_of_it_belongs_to_that_await(
    loops: LoopKind, one: ThreadPoolExecutor, instead: type[BaseException] | None
) -> None:
    """The body goes on, further parts too, and the block is left as if nothing had been."""

    async def block(reached: asyncio.Event) -> str:
        async with threadpool(one):
            with pytest.raises(instead) if instead else contextlib.nullcontext():
                async with eventloop():
                    try:
                        reached.set()
                        await forever()
                    except asyncio.CancelledError:
                        await asyncio.sleep(0)
                        if instead is not None:
                            raise instead from None
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


def test_a_second_cancellation_comes_through_after_the_first_was_swallowed(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    async def block(reached: list[asyncio.Event]) -> None:
        async with threadpool(one):
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


def test_a_task_is_usable_after_its_cancellation_was_caught(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    async def block(reached: asyncio.Event) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            async with threadpool(one):
                await part_that_waits(reached)
        for _ in range(3):
            async with threadpool(one):
                for _ in range(2):
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


# --- errors that only look like a cancellation


async def cancelled_future() -> None:
    """Raise a CancelledError that has nothing to do with the task."""
    future = asyncio.get_running_loop().create_future()
    future.cancel("foreign")
    await future


async def cancelled_child() -> None:
    child = start(forever())
    await turns(2)
    child.cancel("foreign")
    await child


@pytest.mark.parametrize("awaited", [cancelled_future, cancelled_child])
@pytest.mark.parametrize("caught_on", ["worker", "loop"])
def test_a_foreign_cancelled_error_that_leaves_a_part_is_not_the_tasks_own(
    loops: LoopKind, one: ThreadPoolExecutor, awaited: Any, caught_on: str
) -> None:
    """An ``except`` on the worker has dealt with it. The block lets it out as it is."""

    async def block() -> str:
        async with threadpool(one):
            try:
                async with eventloop():
                    await awaited()
            except asyncio.CancelledError:
                if caught_on == "loop":
                    raise
            check_cancelled()
            async with eventloop():
                await asyncio.sleep(0)
        return "worker"

    async def main() -> None:
        async def catching() -> str:
            try:
                return await block()
            except asyncio.CancelledError:
                return "loop"

        task = start(catching())
        assert await ended(task) == [caught_on]
        assert task.cancelling() == 0

    loops.run(main)


def test_a_foreign_cancelled_error_after_a_swallowed_cancellation_is_not_the_tasks_own(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """``cancelling()`` is still 1 from an earlier part, and from before the block."""

    async def block(reached: list[asyncio.Event]) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            reached[0].set()
            await forever()
        async with threadpool(one):
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
