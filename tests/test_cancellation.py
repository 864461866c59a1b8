"""A cancelled task hears of it at the entry or at the exit of a block, never in between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import pytest
from helpers.cancelling import run_and_cancel_at, run_with_task
from helpers.loops import LoopKind, on_every_loop
from helpers.places import Trail, forever, here, in_block_of, on_worker, place, start
from helpers.pools import on_a_stock_pool
from helpers.steps import Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import check_cancelled, eventloop, threadpool

# --- at each stage of a way through blocks and loop parts

#: By the way of a task: the stages at which it is cancelled, and the places that this passes then.
#: "to" a block: while that waits for a worker.
WAYS = {
    "one part other inner": {
        "to one": "out",
        "one": "one out",
        "part": "part one out",
        "to other": "part one out",
        "other": "other part one out",
        "inner": "inner other part one out",
        # The body comes to its end first, so nothing passes in it.
        "other again": "part one out",
        "part again": "part one out",
        "one again": "out",
    },
    "one other": {
        "one": "one out",
        "to other": "one out",
        "other": "one out",
        "one again": "out",
    },
    # Nothing moves at the exit of the inner one: the outer body is still the same running body.
    "one same": {"one": "out", "same": "out", "one again": "out"},
}
STAGES = [(way, stage) for way, stages in WAYS.items() for stage in stages]

#: Where they run.
PLACES = {"out": "loop", "one": "one_0", "same": "one_0", "other": "other_0"} | dict.fromkeys(
    ("part", "inner"), "loop"
)


class Journey:
    """A task that goes a way there and back, and is cancelled at one of the stages.

    A CancelledError is swallowed at the place *swallows*.
    """

    def __init__(self, pools: dict[str, Any], way: str, stage: str, swallows: str) -> None:
        self.pools = pools
        self.way = way.split()
        self.stage = stage
        self.swallows = swallows
        self.gate = Gate()
        self.trail = Trail()
        self.entered: list[str] = []

    @contextmanager
    def watch(self, name: str) -> Any:
        try:
            with self.trail.watch(name):
                yield
        except asyncio.CancelledError:
            if self.swallows != name:
                raise
        finally:
            assert place() == PLACES[name]

    async def be_at(self, stage: str) -> None:
        """Let the cancellation come, if this is the stage: to a body that works, or at an await."""
        if stage != self.stage:
            return
        if place() == "loop":
            self.gate.reached.set()
            await forever()
        self.gate.stop_here()
        with pytest.raises(asyncio.CancelledError, match="stop"):
            check_cancelled()

    async def go(self, depth: int = 0) -> None:
        with self.watch(self.way[depth - 1] if depth else "out"):
            if depth:
                self.entered.append(self.way[depth - 1])
                await self.be_at(self.way[depth - 1])
            if depth < len(self.way):
                pool = self.pools.get(self.way[depth])
                async with eventloop() if pool is None else threadpool(pool):
                    await self.go(depth + 1)
                if depth:
                    await self.be_at(f"{self.way[depth - 1]} again")

    def reached(self) -> list[str]:
        """The places that it may enter: nothing begins any more when the cancellation has come."""
        name = self.stage.removeprefix("to ")
        if name not in self.way or "same" in self.way:
            return self.way
        return self.way[: self.way.index(name) + (name == self.stage)]

    async def run(self) -> asyncio.Task[None]:
        queue = self.pools[self.stage[3:]] if self.stage.startswith("to ") else None
        with nullcontext() if queue is None else busy(queue):
            task = start(self.go())
            await until(self.gate.reached.is_set if queue is None else queue._work_queue.qsize)
            task.cancel("stop")
            if PLACES.get(self.stage.split()[0], "loop") != "loop":
                await turns()
                assert not task.done(), "the thread was abandoned"
            self.gate.open()
            await until(task.done)
        await in_block_of(*self.pools.values())  # all workers are free again
        return task


@pytest.mark.parametrize(("way", "stage"), STAGES)
@on_every_loop
async def test_cancelled_at_any_stage_it_passes_each_place_in_its_own_thread(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, way: str, stage: str
) -> None:
    """The error is one object with its message and no context, and is raised once.

    Swallowed on a worker, it is raised again by the end of the block. The loop is done with it.
    """
    pools = {"one": one, "same": one, "other": other}
    places = WAYS[way][stage].split()
    for swallows in ("", *places[:-1]):
        passes = places
        if swallows in ("part", "inner"):
            # The await that raised it has dealt with it: nothing outside of the part sees it.
            passes = places[: places.index(swallows) + 1]
        journey = Journey(pools, way, stage, swallows)
        task = await journey.run()
        assert journey.trail.steps == [(name, PLACES[name]) for name in passes], swallows
        assert journey.entered == journey.reached(), swallows
        assert task.cancelled() == (passes[-1] == "out"), swallows
        assert task.cancelling() == 1
        if not swallows:
            assert len({id(error) for error in journey.trail.errors}) == 1
            assert journey.trail.errors.pop().__context__ is None


# --- before and within the body


@pytest.mark.parametrize("message", ["enough", None])
def test_a_task_that_cancelled_itself_never_begins_the_body(
    loops: LoopKind, message: str | None
) -> None:
    """1 cancel, 2 the entry, where a worker that is asked would run the body at once."""
    began = []

    def be_fast() -> None:
        executor.start()
        executor.shutdown()

    executor = HeldExecutor(after_submit=be_fast)

    async def body(task: asyncio.Task[Any]) -> None:
        loop_thread = here()
        task.cancel(message)
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                began.append(True)
        assert here() == loop_thread
        assert caught.value.args == (() if message is None else (message,))

    run_with_task(loops, body).result()
    assert not began


@on_every_loop
async def test_a_cancellation_of_a_running_body_that_is_taken_back_is_raised_all_the_same(
    executor: Executor,
) -> None:
    """As with ``asyncio.to_thread``, ``uncancel()`` counts down and unsends nothing."""
    gate = Gate()

    async def block() -> str:
        async with threadpool(executor):
            gate.stop_here()
            return "value"

    task = start(block())
    await until(gate.reached.is_set)
    assert task.cancel("stop")
    assert task.uncancel() == 0
    gate.open()
    with pytest.raises(asyncio.CancelledError, match="stop"):
        await task


@pytest.mark.parametrize(
    "raised",
    [
        LookupError("body"),
        ValueError("stop"),
        asyncio.CancelledError("mine"),
        asyncio.CancelledError(),
        KeyboardInterrupt("mine"),
        SystemExit("mine"),
    ],
    ids=repr,
)
def test_what_the_body_raised_is_the_context_of_the_cancellation_or_wins(
    loops: LoopKind, executor: Executor, raised: BaseException
) -> None:
    """A CancelledError that is not the task's own cancellation is like any error; exits win."""
    gate = Gate()

    async def block() -> str:
        loop_thread = here()
        with pytest.raises(BaseException, match=r"stop|mine") as caught:
            async with threadpool(executor):
                gate.stop_here()
                raise raised
        assert here() == loop_thread
        if isinstance(raised, (KeyboardInterrupt, SystemExit)):
            assert caught.value is raised
        else:
            assert type(caught.value) is asyncio.CancelledError
            assert (caught.value.args, caught.value.__context__) == (("stop",), raised)
        await turns()  # Nothing comes later.
        return "went on"

    assert run_and_cancel_at(gate, loops, block, "stop").result() == "went on"


def test_an_interrupt_out_of_submit_wins_over_the_cancellation(loops: LoopKind) -> None:
    """1 cancel, while the job is submitted, 2 Ctrl+C in there, 3 the entry raises."""

    async def body(task: asyncio.Task[Any]) -> None:
        def interrupt() -> None:
            task.cancel("stop")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            async with threadpool(HeldExecutor(before_submit=interrupt)):
                pass

    run_with_task(loops, body).result()


def test_several_cancellations_are_raised_once_and_the_task_is_usable_afterwards(
    loops: LoopKind, executor: Executor
) -> None:
    """Each counts in ``cancelling()``; one error, with the first message, is raised for all."""
    gate = Gate()

    async def block() -> str:
        with pytest.raises(asyncio.CancelledError) as caught:
            async with threadpool(executor):
                gate.stop_here()
        assert caught.value.args == ("first",)
        await turns()
        async with threadpool(executor), eventloop():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "usable"

    task = run_and_cancel_at(gate, loops, block, "first", "second", None)
    assert task.result() == "usable"
    assert task.cancelling() == 3


# --- with the tools of asyncio


class Work:
    """A block whose body waits until its task is cancelled, and then ends in some way."""

    def __init__(self, executor: Executor, body: Callable[[Work], Awaitable[None]]) -> None:
        self.executor = executor
        self.body = body
        self.has_begun = threading.Event()
        self.has_ended = False

    async def __call__(self) -> None:
        self.task = asyncio.current_task()
        async with threadpool(self.executor):
            try:
                await self.body(self)
            finally:
                self.has_ended = on_worker()

    def wait(self) -> None:
        assert self.task is not None
        self.has_begun.set()
        wait_until(self.task.cancelling)

    async def then(self, do: Callable[[], object]) -> None:
        """Call *do* when the body has begun."""
        await until(self.has_begun.is_set)
        do()


async def returns(work: Work) -> None:
    work.wait()


async def checks(work: Work) -> None:
    work.wait()
    check_cancelled()


async def raises(work: Work) -> None:
    work.wait()
    fail()


async def in_a_part(work: Work) -> None:
    async with eventloop():
        work.has_begun.set()
        await forever()


async def swallows_it_from_a_part(work: Work) -> None:
    with suppress(asyncio.CancelledError):
        await in_a_part(work)


def fail() -> None:
    raise LookupError("on purpose")


async def by_a_timeout(work: Work) -> None:
    """``asyncio.timeout`` around the block; nothing stays counted."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(None) as limit:
            end_it = loop.create_task(work.then(lambda: limit.reschedule(loop.time())))
            await work()
    await end_it
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert (work.body is raises) is isinstance(caught.value.__cause__.__context__, LookupError)
    assert task.cancelling() == 0
    await turns()


async def by_wait_for(work: Work) -> None:
    task = start(work())
    await until(work.has_begun.is_set)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(task, 0.01)


async def by_a_sibling_in_a_group(work: Work) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work())
            group.create_task(work.then(fail))
    assert caught.group_contains(LookupError, match="on purpose")
    assert task.cancelled()


async def by_the_end_of_the_run(work: Work) -> None:
    """``asyncio.run`` cancels what is left, and waits for it."""
    work.kept = start(work())  # type: ignore[attr-defined]
    await until(work.has_begun.is_set)


TOOLS = [by_a_timeout, by_wait_for, by_a_sibling_in_a_group, by_the_end_of_the_run]
BODIES = [returns, checks, raises, in_a_part, swallows_it_from_a_part]


@on_a_stock_pool
@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.__name__)
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_a_body_that_is_cancelled_ends_first(
    current_task_loops: LoopKind,
    executor: Executor,
    tool: Callable[[Work], Awaitable[None]],
    body: Callable[[Work], Awaitable[None]],
) -> None:
    """asyncio's tools mean by a cancellation what they always mean, once the body has ended."""
    work = Work(executor, body)

    async def main() -> None:
        await tool(work)
        if tool is not by_the_end_of_the_run:
            assert work.has_ended

    current_task_loops.run(main)
    assert work.has_ended
