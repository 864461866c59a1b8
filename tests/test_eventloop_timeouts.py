"""asyncio's own tools that cancel, around a block whose task is in a loop part, and within it."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, Trail, forever, place
from helpers.steps import wait_until

from threadhop import check_cancelled, eventloop, threadpool


async def forever_under(timeout: asyncio.Timeout) -> None:
    """Wait for a timeout that fires when this waits, and not before."""
    timeout.reschedule(asyncio.get_running_loop().time())
    await forever()


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_timeout_around_the_block_ends_a_part_that_waits(
    current_task_loops: LoopKind, one: ThreadPoolExecutor, swallowed: bool
) -> None:
    """The worker may swallow the cancellation. The count of the task is as before."""
    trail = Trail()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                async with threadpool(one):
                    with contextlib.suppress(asyncio.CancelledError if swallowed else OopsError):
                        try:
                            async with eventloop():
                                await forever_under(timeout)
                        finally:
                            trail.note("body")
        assert cancelling() == 0

    current_task_loops.run(main)
    assert trail.steps == [("body", "one_0")]


@pytest.mark.parametrize("caught_on", ["loop", "worker", "outside"])
@pytest.mark.parametrize("tool", ["timeout", "wait_for"])
def test_a_timeout_in_a_part_stays_in_it(
    current_task_loops: LoopKind, one: ThreadPoolExecutor, caught_on: str, tool: str
) -> None:
    """The TimeoutError is an error like any other, and nothing is cancelled afterwards."""

    def catching(where: str) -> contextlib.AbstractContextManager[object]:
        return contextlib.suppress(TimeoutError) if caught_on == where else contextlib.nullcontext()

    async def main() -> None:
        with catching("outside"):
            async with threadpool(one):
                with catching("worker"):
                    async with eventloop():
                        with catching("loop"):
                            if tool == "wait_for":
                                await asyncio.wait_for(forever(), 0.005)
                            async with asyncio.timeout(0.005):
                                await forever()
                check_cancelled()
                async with eventloop():
                    await asyncio.sleep(0)
        assert cancelling() == 0
        await asyncio.sleep(0)

    current_task_loops.run(main)


def test_a_timeout_in_a_part_ends_a_body_that_went_back_to_the_worker(
    current_task_loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """one > loop with a timeout > one: the inner body ends, the timeout, then the outer body."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        async with threadpool(one):
            with pytest.raises(TimeoutError):
                async with eventloop():
                    async with asyncio.timeout(None) as timeout:
                        async with threadpool(one):
                            loop.call_soon_threadsafe(timeout.reschedule, loop.time())
                            wait_until(task.cancelling)
            assert place() == "one_0"
            check_cancelled()
        assert cancelling() == 0

    current_task_loops.run(main)


@pytest.mark.parametrize("who", ["child", "body"])
def test_a_task_group_cancels_its_child_or_its_body_that_is_in_a_part(
    current_task_loops: LoopKind, one: ThreadPoolExecutor, who: str
) -> None:
    trail = Trail()

    async def block(reached: asyncio.Event) -> None:
        async with threadpool(one):
            try:
                async with eventloop():
                    reached.set()
                    await forever()
            finally:
                trail.note("body")

    async def fail(reached: asyncio.Event) -> None:
        await reached.wait()
        raise OopsError

    async def main() -> None:
        reached = asyncio.Event()
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(reached))
                if who == "child":
                    child = group.create_task(block(reached))
                else:
                    await block(reached)
        assert caught.group_contains(OopsError)
        assert len(caught.value.exceptions) == 1
        if who == "child":
            assert child.cancelled()

    current_task_loops.run(main)
    assert trail.steps == [("body", "one_0")]


def test_a_task_group_works_in_a_part(
    current_task_loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """A child that fails cancels the body of the group, which is the part, and nothing else."""

    async def fail() -> None:
        raise OopsError

    async def main() -> None:
        async with threadpool(one):
            async with eventloop():
                async with asyncio.TaskGroup() as group:
                    child = group.create_task(asyncio.sleep(0, "value"))
            assert child.result() == "value"
            with pytest.raises(ExceptionGroup):
                async with eventloop():
                    async with asyncio.TaskGroup() as group:
                        group.create_task(fail())
                        await forever()
            assert place() == "one_0"
            check_cancelled()
            async with eventloop():
                await asyncio.sleep(0)

    current_task_loops.run(main)
