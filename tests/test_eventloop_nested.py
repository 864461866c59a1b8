"""Loop parts within blocks within loop parts; and where others stand between the two."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, Trail, here, place, start, suspend
from helpers.steps import turns

from threadhop import eventloop, threadpool

# --- ways there and back

#: Managers that are entered in order, and the places to which they lead.
WAYS = {
    "one loop": "one_0 loop",
    "one loop loop": "one_0 loop loop",
    "one one loop": "one_0 one_0 loop",
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
@pytest.mark.parametrize("way", WAYS)
def test_the_way_back_is_the_way_there(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    other: ThreadPoolExecutor,
    how: Callable[..., Any],
    fails: bool,
    way: str,
) -> None:
    @contextlib.asynccontextmanager
    async def innermost() -> AsyncIterator[None]:
        yield
        if fails:
            raise OopsError

    trail = Trail()

    async def main() -> None:
        managers = {"one": threadpool(one), "other": threadpool(other), "loop": eventloop()}
        try:
            await how(trail, *(managers[name] for name in way.split()), innermost())
        except OopsError as error:
            assert fails
            assert error.__context__ is None
        else:
            assert not fails
        trail.note("outside")

    loops.run(main)
    places = WAYS[way].split()
    there = [("in", place) for place in [*places, places[-1]]]
    back = [("out", place) for place in [places[-1], *reversed(places)]]
    assert trail.steps == [*there, *back, ("outside", "loop")]


@pytest.mark.trio
def test_a_part_stands_deep_in_functions_that_the_body_awaits(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The whole chain of awaits moves."""

    async def deep(level: int) -> str:
        if level:
            return await deep(level - 1)
        async with eventloop():
            await suspend()
            return place()

    async def main() -> None:
        async with threadpool(one):
            assert await deep(50) == "loop"
            assert place() == "one_0"

    loops.run(main)


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


@pytest.mark.trio
def test_a_decorated_function_that_the_part_awaits_runs_on_the_parked_worker(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    async def main() -> None:
        where = threadpool(one)(place)
        async with threadpool(one):
            async with eventloop():
                assert await where() == "one_0"

    loops.run(main)


def test_a_child_task_of_the_part_has_blocks_of_its_own(
    loops: LoopKind, executor: Executor
) -> None:
    """The parked worker belongs to the task: the child does not share it."""

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
                assert await start(child()) != worker

    loops.run(main)


def test_parts_and_blocks_that_are_left_in_the_wrong_order_bring_the_task_home(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """Both ends take place, and the worker is free afterwards."""

    async def main() -> None:
        block, part = threadpool(one), eventloop()
        await block.__aenter__()
        await part.__aenter__()
        assert place() == "loop"
        await block.__aexit__(None, None, None)
        await part.__aexit__(None, None, None)
        assert place() == "loop"
        assert await asyncio.wrap_future(one.submit(place)) == "one_0"

    loops.run(main)


def test_asyncio_run_in_a_body_has_blocks_and_parts_of_its_own(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """A part in there goes to the inner loop, which runs on the worker of the outer block."""

    async def inner() -> str:
        loop = asyncio.get_running_loop()
        async with eventloop():  # outside of any block of this task
            assert place() == "one_0"
        async with threadpool(other):
            async with eventloop():
                async with threadpool(other):
                    assert place() == "other_0"
                assert place() == "one_0"
                assert asyncio.get_running_loop() is loop
                await suspend()
            assert place() == "other_0"
        return "inner"

    async def main() -> None:
        async with threadpool(one):
            assert asyncio.run(inner()) == "inner"
            async with eventloop():
                async with threadpool(one):
                    assert asyncio.run(inner()) == "inner"
                    assert place() == "one_0"
                assert place() == "loop"
                await suspend()

    loops.run(main)


# --- in generators and context managers


@pytest.mark.trio
def test_an_async_generator_with_parts_is_iterated_in_the_body(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The generator awaits in parts and yields on the worker."""

    async def numbers() -> AsyncIterator[int]:
        for number in range(5):
            async with eventloop():
                await suspend()
            yield number

    async def main() -> None:
        async with threadpool(one):
            seen = []
            async with aclosing(numbers()) as source:
                async for number in source:
                    assert place() == "one_0"
                    seen.append(number)
            assert seen == [0, 1, 2, 3, 4]

    loops.run(main)


@pytest.mark.trio
def test_a_generator_yields_from_a_part_to_a_consumer_on_the_loop(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The consumer awaits, and has blocks on the worker that the task holds already."""

    async def rows() -> AsyncIterator[tuple[int, str]]:
        async with threadpool(one):
            for number in range(5):
                worker = place()
                async with eventloop():
                    yield number, worker

    async def main() -> None:
        seen = []
        async with aclosing(rows()) as source:
            async for row in source:
                assert place() == "loop"
                await suspend()
                async with threadpool(one):
                    assert place() == "one_0"
                seen.append(row)
        assert seen == [(number, "one_0") for number in range(5)]

    loops.run(main)


def test_the_consumer_of_such_a_generator_may_break_and_close_it(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """GeneratorExit goes through the part on the loop, and through the body on the worker."""
    trail = Trail()

    async def rows() -> AsyncIterator[int]:
        async with threadpool(one):
            try:
                async with eventloop():
                    try:
                        yield 1
                        raise AssertionError("went on")
                    finally:
                        await suspend()
                        trail.note("part")
            finally:
                trail.note("body")

    async def main() -> None:
        async with aclosing(rows()) as source:
            async for _ in source:
                break
        trail.note("outside")
        assert await asyncio.wrap_future(one.submit(place)) == "one_0"

    loops.run(main)
    assert trail.steps == [("part", "loop"), ("body", "one_0"), ("outside", "loop")]


def test_an_abandoned_generator_that_yielded_from_a_part_leaves_its_consumer_on_the_loop(
    loops: LoopKind, executor: Executor
) -> None:
    """The block is not left yet. The consumer goes on where it was, and may still await."""

    async def rows() -> AsyncIterator[int]:
        async with threadpool(executor):
            async with eventloop():
                yield 1

    async def consume(kept: list[Any]) -> str:
        source = rows()
        kept.append(source)
        async for _ in source:
            break
        assert place() == "loop"
        await suspend()
        await turns()
        await kept.pop().aclose()
        return place()

    async def main() -> None:
        assert await start(consume([])) == "loop"

    loops.run(main)


@pytest.mark.parametrize("forgives", [False, True])
def test_a_context_manager_yields_from_a_part_within_its_block(
    loops: LoopKind, one: ThreadPoolExecutor, forgives: bool
) -> None:
    """Setup and teardown share a worker. The user's body runs on the loop, and may await."""
    trail = Trail()

    @asynccontextmanager
    async def connection() -> AsyncIterator[str]:
        async with threadpool(one):
            trail.note("open")
            try:
                async with eventloop():
                    yield "connection"
            except OopsError:
                trail.note("error")
                if not forgives:
                    raise
            finally:
                trail.note("close")

    async def main() -> None:
        async with connection() as value:
            assert value == "connection"
            assert place() == "loop"
            await suspend()
        assert place() == "loop"
        with contextlib.nullcontext() if forgives else pytest.raises(OopsError):
            async with connection():
                raise OopsError
        assert place() == "loop"

    loops.run(main)
    assert trail.steps == [(step, "one_0") for step in ("open", "close", "open", "error", "close")]
