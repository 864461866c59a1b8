"""``async with eventloop():`` in the body of a block: on the loop, and back to the same worker."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from typing import Any

import pytest
from helpers.loops import LoopKind, on_every_loop
from helpers.places import (
    OopsError,
    Trail,
    assert_is_whole,
    here,
    in_block_of,
    place,
    start,
    suspend,
)
from helpers.steps import turns

from threadhop import eventloop, exec_in_eventloop, threadpool

# --- where it runs


@on_every_loop
async def test_the_part_runs_on_the_loop_in_the_same_task_and_the_body_has_none(
    one: ThreadPoolExecutor,
) -> None:
    """An await that belongs into a part is refused behind it as before it, and harms nothing."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    future = loop.create_future()
    async with threadpool(one):
        for _ in range(2):
            assert place() == "one_0"
            with pytest.raises(RuntimeError, match="no running event loop"):
                asyncio.get_running_loop()
            with pytest.raises(RuntimeError, match="eventloop"):
                await future
            async with eventloop() as bound:  # type: ignore[var-annotated, unused-ignore]
                assert place() == "loop"
                assert asyncio.get_running_loop() is loop
                assert bound is None
                await suspend()
                assert asyncio.current_task() is task
        async with eventloop():
            loop.call_soon(future.set_result, "value")
            assert await future == "value"


@on_every_loop
async def test_one_object_is_used_again_and_shared_by_tasks_at_once(executor: Executor) -> None:
    """Each task is in the part when the other one enters it; each goes back to its own worker."""
    part = eventloop()
    met: list[int] = []
    all_met = asyncio.Event()

    async def block() -> None:
        async with threadpool(executor):
            worker = here()
            for _ in range(3):
                async with part:
                    assert place() == "loop"
                    met.append(1)
                    if len(met) >= 2:
                        all_met.set()
                    await all_met.wait()
                assert here() == worker

    await asyncio.gather(block(), block())
    assert len(met) == 6


@pytest.mark.trio
@on_every_loop
async def test_five_hundred_round_trips_in_one_block_lose_nothing(executor: Executor) -> None:
    """Parts and calls take turns, and each sees what the others have counted."""
    counter = contextvars.ContextVar("counter", default=0)

    def count() -> str:
        counter.set(counter.get() + 1)
        return place()

    async with threadpool(executor):
        worker = here()
        for number in range(250):
            async with eventloop():
                assert count() == "loop"
            assert here() == worker
            assert exec_in_eventloop(count) == "loop"
            assert here() == worker
            count()
            assert counter.get() == 3 * (number + 1)
    assert counter.get() == 750


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


@pytest.mark.parametrize("is_set", [False, True])
def test_the_default_executor_is_found_again_from_a_part(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor], is_set: bool
) -> None:
    """The task holds its worker already, although the block names no executor."""

    async def main() -> None:
        with executor_class(1) as pool:
            if is_set:
                asyncio.get_running_loop().set_default_executor(pool)
            async with threadpool():
                worker = here()
                async with eventloop():
                    async with threadpool():
                        assert here() == worker
                    await suspend()
                assert here() == worker

    current_task_loops.run(main)


@on_every_loop
async def test_a_task_that_ended_in_a_part_does_not_hold_its_worker(
    one: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody keeps the task, for its result. A warning says that the part was not left."""
    monkeypatch.setattr("threadhop._block_job.POLL", 0.01)

    async def ends() -> str:
        await threadpool(one).__aenter__()
        await eventloop().__aenter__()
        return "value"

    task = start(ends())
    assert await task == "value"
    await assert_is_whole(one, 1)
    assert task.done()
    assert "without leaving it" in caplog.text


@on_every_loop
async def test_outside_of_any_block_it_does_nothing(executor: Executor) -> None:
    """The thread is the same, and the loop has no turn: nothing else runs between."""
    loop = asyncio.get_running_loop()
    ran: list[bool] = []
    for _ in range(2):
        loop.call_soon(ran.append, True)
        async with eventloop():
            assert place() == "loop"
            assert not ran
        assert not ran
        await turns()
        assert ran.pop()
        with pytest.raises(OopsError):
            async with eventloop():
                raise OopsError
        async with threadpool(executor):  # the second time in a task that had a block
            pass


# --- loop parts within blocks within loop parts

#: Managers that are entered in order, and the places to which they lead.
WAYS = {
    "one loop": "one_0 loop",
    "one loop loop": "one_0 loop loop",
    "one one loop": "one_0 one_0 loop",
    "one other one other": "one_0 other_0 one_0 other_0",
    "one other loop one loop": "one_0 other_0 loop one_0 loop",
    "one loop other loop one loop": "one_0 loop other_0 loop one_0 loop",
    # A pool of one would wait for itself, were its worker not found again.
    " ".join(["one loop"] * 10): " ".join(["one_0 loop"] * 10),
}


async def nest(trail: Trail, *managers: Any) -> None:
    """Enter all of them, one by one; note where, on the way in and on the way out."""
    if not managers:
        return
    async with managers[0]:
        trail.note("in")
        if place() == "loop":
            await suspend()
        try:
            await nest(trail, *managers[1:])
        finally:
            trail.note("out")


async def stack(trail: Trail, *managers: Any) -> None:
    """Do the same without frames that wait in between."""
    async with AsyncExitStack() as entered:
        for manager in managers:
            await entered.enter_async_context(manager)
            trail.note("in")
            entered.callback(trail.note, "out")


async def wrap(trail: Trail, *managers: Any) -> None:
    """Do the same by functions that hide what they enter."""

    @asynccontextmanager
    async def hidden(manager: Any) -> AsyncIterator[None]:
        async with manager:
            yield

    await nest(trail, *(hidden(manager) for manager in managers))


@pytest.mark.trio
@pytest.mark.parametrize("how", [nest, stack, wrap], ids=lambda how: how.__name__)
@pytest.mark.parametrize("fails", [False, True])
@on_every_loop
async def test_the_way_back_is_the_way_there(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, how: Callable[..., Any], fails: bool
) -> None:
    """Each step of it runs in the thread of its own block or part, also after an error."""

    @asynccontextmanager
    async def innermost() -> AsyncIterator[None]:
        yield
        if fails:
            raise OopsError

    managers = {"one": threadpool(one), "other": threadpool(other), "loop": eventloop()}
    for way, names in WAYS.items():
        trail = Trail()
        try:
            await how(trail, *(managers[name] for name in way.split()), innermost())
        except OopsError as error:
            assert fails, way
            assert error.__context__ is None
        else:
            assert not fails, way
        trail.note("outside")
        places = names.split()
        there = [("in", place) for place in [*places, places[-1]]]
        back = [("out", place) for place in [places[-1], *reversed(places)]]
        assert trail.steps == [*there, *back, ("outside", "loop")], way


# --- in generators and context managers


@pytest.mark.trio
@on_every_loop
async def test_a_generator_yields_from_a_part_to_a_consumer_on_the_loop(
    one: ThreadPoolExecutor,
) -> None:
    """That awaits, and has blocks on the worker that its task holds already. It may close it later:
    GeneratorExit goes through the part, and through the body.
    """
    trail = Trail()

    async def rows() -> AsyncIterator[int]:
        async with threadpool(one):
            try:
                for number in range(3):
                    trail.note("row")
                    async with eventloop():
                        try:
                            yield number
                        finally:
                            await suspend()
                            trail.note("part")
            finally:
                trail.note("body")

    source: Any = rows()
    async for number in source:
        trail.note("item")
        await suspend()
        async with threadpool(one):
            trail.note("block")
        if number == 1:
            break
    trail.note("break")
    await suspend()
    await source.aclose()
    trail.note("outside")
    row = [("row", "one_0"), ("item", "loop"), ("block", "one_0")]
    end = [("part", "loop"), ("body", "one_0"), ("outside", "loop")]
    assert trail.steps == [*row, ("part", "loop"), *row, ("break", "loop"), *end]
    await in_block_of(one)


@pytest.mark.parametrize("forgives", [False, True])
@on_every_loop
async def test_a_context_manager_yields_from_a_part_within_its_block(
    one: ThreadPoolExecutor, forgives: bool
) -> None:
    """Setup and teardown share a worker. The user's body runs on the loop, and may await."""
    trail = Trail()

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        async with threadpool(one):
            trail.note("open")
            try:
                async with eventloop():
                    yield
            except OopsError:
                trail.note("error")
                if not forgives:
                    raise
            finally:
                trail.note("close")

    async with connection():
        assert place() == "loop"
        await suspend()
    assert place() == "loop"
    with nullcontext() if forgives else pytest.raises(OopsError):
        async with connection():
            raise OopsError
    assert place() == "loop"
    assert trail.steps == [(step, "one_0") for step in ("open", "close", "open", "error", "close")]
