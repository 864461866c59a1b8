"""The way to the loop and back, cancelled between two steps of it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, until, wait_until

from threadhop import check_cancelled, eventloop, exec_in_eventloop, threadpool
from threadhop._block_job import BlockJob
from threadhop._interface import WorkerSuspension
from threadhop._loops._attributes import LOOP

here = threading.get_ident

#: How often those race whose order cannot be forced.
ROUNDS = 30


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def suspend() -> None:
    await asyncio.sleep(0)


@pytest.fixture
def one(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1) as pool:
        yield pool


@pytest.mark.parametrize("way", ["into a part", "home"])
def test_cancelled_between_posting_and_arrival_it_is_raised_where_the_way_began_or_at_the_exit(
    loops: LoopKind, one: Executor, way: str
) -> None:
    """1 the worker posts, 2 cancel, 3 the loop resumes the task."""
    gate = Gate()
    steps: list[str] = []

    async def block() -> None:
        async with threadpool(one):
            worker = here()
            async with eventloop():
                await suspend()
            gate.stop_here()
            if way == "into a part":
                try:
                    async with eventloop():
                        raise AssertionError("the part ran")
                except asyncio.CancelledError:
                    assert here() == worker
                    steps.append("in the worker")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        task = start(block())
        await until(gate.reached.is_set)
        gate.open()
        wait_until(lambda: len(getattr(loop, LOOP)._queue) == 1)  # the loop stands still
        task.cancel("2")
        with pytest.raises(asyncio.CancelledError, match="2"):
            await task

    loops.run(main)
    assert steps == (["in the worker"] if way == "into a part" else [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_cancelled_around_the_moment_at_which_the_task_is_put_before_the_worker(
    loops: LoopKind, one: Executor, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """1 the part ends, 2 the task is put into the worker's inbox, cancelled just before or after.

    The body comes to its end on the worker, and the exit raises.
    """
    tasks: list[asyncio.Task[Any]] = []
    steps: list[str] = []
    put = BlockJob.unpark
    resumed = threading.Event()

    def lying_put(job: BlockJob, worker_suspension: WorkerSuspension) -> None:
        if when == "before":
            tasks[0].cancel("now")
        put(job, worker_suspension)
        if when == "after":
            assert resumed.wait(LIMIT)  # the worker is faster than this line
            tasks[0].cancel("now")

    async def block() -> None:
        try:
            async with threadpool(one):
                worker = here()
                try:
                    async with eventloop():
                        await suspend()
                        monkeypatch.setattr(BlockJob, "unpark", lying_put)
                finally:
                    resumed.set()
                    assert here() == worker
                    wait_until(tasks[0].cancelling)
                    steps.append("body ends")
        except asyncio.CancelledError as error:
            assert error.args == ("now",)
            steps.append("exit")
            raise

    async def main() -> None:
        tasks.append(start(block()))
        await until(tasks[0].done)
        monkeypatch.undo()
        assert tasks[0].cancelled()
        assert tasks[0].cancelling() == 1

    loops.run(main)
    assert steps == ["body ends", "exit"]


def test_cancelled_between_the_post_of_a_cancelled_booking_and_its_arrival(
    loops: LoopKind, one: Executor
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

    async def main() -> None:
        with HeldExecutor() as held:
            task = start(block(held))
            await until(lambda: held.jobs)
            task.cancel("1")
            task.cancel("2")
            await task
            held.start()  # the worker that comes too late

    loops.run(main)
    assert steps == [("1",)]


async def parts(executor: Executor, begun: Callable[[], object]) -> None:
    loop_thread = here()
    async with threadpool(executor):
        worker = here()
        try:
            while True:
                try:
                    begun()
                    async with eventloop():
                        try:
                            await suspend()
                        finally:
                            assert here() == loop_thread
                finally:
                    assert here() == worker
        finally:
            assert here() == worker


async def calls(executor: Executor, begun: Callable[[], object]) -> None:
    async with threadpool(executor):
        while True:
            begun()
            exec_in_eventloop(suspend)


@pytest.mark.parametrize("block", [parts, calls])
def test_cancelled_anywhere_on_many_ways_there_and_back(
    loops: LoopKind, one: Executor, block: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    """No order is forced. Each ``finally`` runs on its own thread, and the task ends cancelled."""

    async def main() -> None:
        for number in range(ROUNDS):
            begun = threading.Event()
            task = start(block(one, begun.set))
            await until(begun.is_set)
            for _ in range(number % 7):
                await suspend()
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
