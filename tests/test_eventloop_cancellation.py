"""A task that uses ``eventloop()`` is cancelled, at the moments between here and there.

``test_cancellation.py`` cancels it at each stage of its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import on_every_loop
from helpers.places import OopsError, Trail, ended, forever, start, suspend
from helpers.pools import on_a_stock_pool
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, until, wait_until

from threadhop import check_cancelled, eventloop, threadpool
from threadhop._block_job import BlockJob
from threadhop._interface import WorkerSuspension
from threadhop._loops._attributes import LOOP

pytestmark = on_a_stock_pool


# --- the moments around a part


@on_every_loop
async def test_each_part_of_a_body_that_was_cancelled_before_is_refused_at_once(
    one: ThreadPoolExecutor,
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

    task = start(block())
    await until(gate.reached.is_set)
    task.cancel("stop")
    gate.open()
    assert refused.wait(LIMIT)  # the loop stands still
    await until(task.done)
    assert task.cancelled()
    assert trail.steps == [*[("entry", "one_0")] * 3, ("exit", "loop")]


@pytest.mark.parametrize("way", ["into a part", "into a part, swallowed", "home"])
@on_every_loop
async def test_cancelled_before_its_arrival_it_is_raised_where_the_way_began_or_at_the_exit(
    one: ThreadPoolExecutor, way: str
) -> None:
    """1 the worker posts, 2 cancel, 3 the loop resumes the task.

    The ``finally`` of the body must not run there.
    """
    trail, gate = Trail(), Gate()

    async def block() -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                gate.stop_here()
                if way == "home":
                    return
                try:
                    with trail.watch("entry"):
                        async with eventloop():
                            trail.note("part")
                except asyncio.CancelledError:
                    if way == "into a part":
                        raise
                finally:
                    trail.note("finally")

    task = start(block())
    await until(gate.reached.is_set)
    gate.open()
    home = getattr(asyncio.get_running_loop(), LOOP)
    wait_until(lambda: len(home._queue) == 1)  # the loop stands still
    task.cancel("stop")
    await until(task.done)
    assert task.cancelled()
    assert task.cancelling() == 1
    in_worker = [] if way == "home" else [("entry", "one_0"), ("finally", "one_0")]
    assert trail.steps == [*in_worker, ("exit", "loop")]


@pytest.mark.parametrize("when", ["before", "after"])
@on_every_loop
async def test_cancelled_around_the_moment_at_which_the_task_is_put_before_the_worker(
    one: Executor, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """1 the part ends, 2 the task is put into the worker's inbox, cancelled just before or after.

    The body comes to its end on the worker, and the exit raises.
    """
    tasks: list[asyncio.Task[Any]] = []
    trail = Trail()
    put = BlockJob.unpark
    resumed = threading.Event()

    def lying_put(job: BlockJob, worker_suspension: WorkerSuspension) -> None:
        if when == "before":
            tasks[0].cancel("stop")
        put(job, worker_suspension)
        if when == "after":
            assert resumed.wait(LIMIT)  # the worker is faster than this line
            tasks[0].cancel("stop")

    async def block() -> None:
        with trail.watch("exit"):
            async with threadpool(one):
                try:
                    async with eventloop():
                        await suspend()
                        monkeypatch.setattr(BlockJob, "unpark", lying_put)
                finally:
                    resumed.set()
                    wait_until(tasks[0].cancelling)
                    trail.note("body ends")

    tasks.append(start(block()))
    await until(tasks[0].done)
    monkeypatch.undo()
    assert tasks[0].cancelled()
    assert tasks[0].cancelling() == 1
    assert trail.steps == [("body ends", "one_0"), ("exit", "loop")]


@on_every_loop
async def test_cancelled_between_the_post_of_a_cancelled_booking_and_its_arrival(
    one: Executor,
) -> None:
    """one > loop > held: 1 cancel ends the booking and posts, 2 cancel, 3 arrival. Raised once."""
    steps: list[tuple[str, ...]] = []

    async def block(held: Executor) -> None:
        async with threadpool(one):
            async with eventloop():
                try:
                    async with threadpool(held):
                        raise AssertionError("the body ran")
                except asyncio.CancelledError as error:
                    steps.append(error.args)
                await suspend()
            check_cancelled()

    with HeldExecutor() as held:
        task = start(block(held))
        await until(lambda: held.jobs)
        task.cancel("1")
        task.cancel("2")
        await task
        held.start()  # the worker that comes too late
    assert steps == [("1",)]


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("awaits", [False, True])
@on_every_loop
async def test_a_part_that_cancels_its_own_task_hears_of_it_at_its_next_await_or_at_its_end(
    one: ThreadPoolExecutor, awaits: bool, swallowed: bool
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

    with busy(one):  # an eager task must not be faster than the list
        tasks.append(start(block()))
    await until(tasks[0].done)
    assert tasks[0].cancelled()
    assert tasks[0].cancelling() == 1
    at_await = [("await", "loop")] if awaits else []
    assert trail.steps == [
        ("went on", "loop"),
        *at_await,
        ("end of the part", "one_0"),
        ("exit", "loop"),
    ]


# --- swallowed, here and there


async def part_that_waits(reached: asyncio.Event) -> None:
    """Wait in a part of a body, to be cancelled there."""
    async with eventloop():
        reached.set()
        await forever()


@pytest.mark.parametrize("how", ["swallow", "return", OopsError, SystemExit, KeyboardInterrupt])
@on_every_loop
async def test_a_worker_that_makes_something_else_of_it_meets_it_again_at_the_exit(
    one: ThreadPoolExecutor, how: Any
) -> None:
    """The error has that of the body as its context; exits win. Until then parts are refused."""
    reached = asyncio.Event()

    async def block() -> object:
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

    task = start(block())
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


@pytest.mark.parametrize("instead", [None, OopsError])
@on_every_loop
async def test_what_the_part_makes_of_it_belongs_to_that_await(
    one: ThreadPoolExecutor, instead: type[BaseException] | None
) -> None:
    """The body goes on, a further part too, which can be cancelled like the first one."""
    reached = [asyncio.Event(), asyncio.Event()]

    async def block() -> None:
        async with threadpool(one):
            with pytest.raises(instead) if instead else contextlib.nullcontext():
                async with eventloop():
                    try:
                        reached[0].set()
                        await forever()
                    except asyncio.CancelledError:
                        await asyncio.sleep(0)
                        if instead is not None:
                            raise instead from None
            check_cancelled()
            await part_that_waits(reached[1])

    task = start(block())
    for event, message in zip(reached, ("first", "second"), strict=True):
        await event.wait()
        task.cancel(message)
    with pytest.raises(asyncio.CancelledError, match="second"):
        await task
    assert task.cancelling() == 2


# --- errors that only look like a cancellation


async def cancelled_future() -> None:
    """Raise a CancelledError that has nothing to do with the task."""
    future = asyncio.get_running_loop().create_future()
    future.cancel("foreign")
    await future


@pytest.mark.parametrize("caught_on", ["worker", "loop"])
@on_every_loop
async def test_a_foreign_cancelled_error_that_leaves_a_part_is_not_the_tasks_own(
    one: ThreadPoolExecutor, caught_on: str
) -> None:
    """An ``except`` on the worker has dealt with it. The block lets it out as it is."""

    async def block() -> str:
        try:
            async with threadpool(one):
                try:
                    async with eventloop():
                        await cancelled_future()
                except asyncio.CancelledError:
                    if caught_on == "loop":
                        raise
                check_cancelled()
                async with eventloop():
                    await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            assert error.args == ("foreign",)
            return "loop"
        return "worker"

    task = start(block())
    assert await ended(task) == [caught_on]
    assert task.cancelling() == 0


@on_every_loop
async def test_a_foreign_cancelled_error_after_a_swallowed_cancellation_is_not_the_tasks_own(
    one: ThreadPoolExecutor,
) -> None:
    """``cancelling()`` is still 1 from an earlier part, and from before the block."""
    reached = [asyncio.Event(), asyncio.Event()]

    async def block() -> str:
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

    task = start(block())
    for event in reached:
        await event.wait()
        task.cancel("stop")
    assert await task == "went on"
    assert task.cancelling() == 2
