"""The rest of a block runs on its worker, whichever task leaves the loop part in it."""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.loops import LoopKind, on_every_loop
from helpers.places import Trail, assert_is_whole, ended, forever, here, place, start
from helpers.pools import on_a_stock_pool
from helpers.rows import Rows, close, take
from helpers.steps import LIMIT, Gate, turns, until

from threadhop import eventloop, exec_in_eventloop, threadpool

pytestmark = on_a_stock_pool

variable: ContextVar[str] = ContextVar("variable", default="unset")

#: Messages name the block of ``Rows`` so.
LINE = r"the block at \S+rows\.py:\d+"


# --- the task that goes on with a generator, and closes it


async def loops_hook(rows: Rows) -> None:
    """The consumer leaves by ``break``: the loop closes the generator, in a task of its own."""

    def is_closed() -> object:
        gc.collect()
        return rows.closed

    async for _ in rows():
        break
    await until(is_closed)
    await turns()


async def another_task(rows: Rows) -> None:
    source = rows()
    await take(source)
    await ended(start(close(source)))


async def a_task_made_of_the_closing(rows: Rows) -> None:
    """As ``shutdown_asyncgens`` makes it. It may start eagerly, within a call of this one."""
    source: Any = rows()
    await take(source)
    await ended(start(source.aclose()))


async def the_end_of_the_loop(rows: Rows) -> None:
    source = rows()
    await take(source)
    await asyncio.get_running_loop().shutdown_asyncgens()


async def another_task_when_the_first_has_ended(rows: Rows) -> None:
    source = rows()
    await ended(start(take(source)))
    await ended(start(close(source)))


async def a_task_for_each_item(rows: Rows) -> None:
    source = rows()
    for number in range(rows.count):
        assert await ended(start(take(source))) == [number]
    with pytest.raises((RuntimeError, StopAsyncIteration)):  # as the task wraps it, or not
        await ended(start(take(source)))


async def an_error_from_another_task(rows: Rows) -> None:
    source: Any = rows()
    await take(source)

    async def throw() -> None:
        with pytest.raises(LookupError, match="thrown"):
            await source.athrow(LookupError("thrown"))
        assert place() == "loop"

    await ended(start(throw()))


async def its_cancelled_consumer(rows: Rows) -> None:
    """The error passes coroutines that were suspended and still stand at an await."""

    async def consume() -> None:
        async with aclosing(rows()) as source:
            async for _ in source:
                await forever()

    async def outer() -> None:
        await consume()

    task = start(outer())
    await until(lambda: rows.workers)
    await turns()
    task.cancel()
    await until(task.done)
    assert task.cancelled()


CLOSERS = [
    loops_hook,
    another_task,
    a_task_made_of_the_closing,
    the_end_of_the_loop,
    another_task_when_the_first_has_ended,
    a_task_for_each_item,
    an_error_from_another_task,
    its_cancelled_consumer,
]


@pytest.mark.parametrize("closer", CLOSERS, ids=lambda closer: closer.__name__)
@on_every_loop
async def test_whoever_closes_a_generator_its_body_ends_on_its_worker(
    executor: Executor, closer: Callable[[Rows], Any]
) -> None:
    rows = Rows(executor)
    await closer(rows)
    rows.assert_closed_on_its_worker()
    await assert_is_whole(executor, 2)


@pytest.mark.parametrize("how", ["itself", "exit stack", "helpers", "managers"])
@on_every_loop
async def test_all_blocks_of_a_generator_are_left_on_their_workers(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, how: str
) -> None:
    """Helpers may have entered them, and have returned: those of contextlib, and of the user."""
    trail = Trail()

    @contextmanager
    def noting() -> Iterator[None]:
        trail.note("in")
        try:
            yield
        finally:
            trail.note("out")

    class On:
        def __init__(self, pool: Executor) -> None:
            self.block = threadpool(pool)

        async def __aenter__(self) -> None:
            await self.block.__aenter__()
            trail.note("in")

        async def __aexit__(self, *exc_info: Any) -> None:
            trail.note("out")
            await self.block.__aexit__(*exc_info)

    async def with_managers() -> AsyncIterator[int]:
        async with On(one), On(other), eventloop():
            yield 1

    @asynccontextmanager
    async def on(pool: Executor) -> AsyncIterator[None]:
        async with threadpool(pool):
            with noting():
                yield

    async def with_helpers() -> AsyncIterator[int]:
        async with on(one), on(other), eventloop():
            yield 1

    async def with_exit_stack() -> AsyncIterator[int]:
        async with AsyncExitStack() as stack:
            for pool in (one, other):
                await stack.enter_async_context(threadpool(pool))
                stack.enter_context(noting())
            await stack.enter_async_context(eventloop())
            yield 1

    async def by_itself() -> AsyncIterator[int]:
        async with threadpool(one):
            with noting():
                async with threadpool(other):
                    with noting():
                        async with eventloop(), eventloop():
                            yield 1

    sources = {
        "itself": by_itself,
        "exit stack": with_exit_stack,
        "helpers": with_helpers,
        "managers": with_managers,
    }

    source = sources[how]()
    await ended(start(take(source)))
    await ended(start(close(source)))
    await assert_is_whole(one, 1)
    await assert_is_whole(other, 1)
    workers = ["one_0", "other_0", "other_0", "one_0"]
    assert trail.steps == list(zip(["in", "in", "out", "out"], workers, strict=True))


@on_every_loop
async def test_a_generator_that_has_only_a_loop_part_leaves_the_block_around_it_alone(
    executor: Executor,
) -> None:
    """The generator has no worker: the closing task adopts none, and the owner keeps its own."""

    async def ticks() -> AsyncIterator[int]:
        async with eventloop():
            yield 1

    loop_thread = here()
    async with threadpool(executor):
        worker = here()

        async def close_and_block(source: Any) -> None:
            await source.aclose()
            async with threadpool(executor):
                assert here() not in (worker, loop_thread)
            assert here() == loop_thread

        async with eventloop():
            source = ticks()
            await take(source)
            await ended(start(close_and_block(source)))
            async with threadpool(executor):
                assert here() == worker
        assert here() == worker
    assert here() == loop_thread
    await assert_is_whole(executor, 2)


@pytest.mark.parametrize("where", ["loop", "other_0"])
@pytest.mark.parametrize("parts", [1, 2])
def test_a_part_whose_block_has_ended_is_left_by_another_task_where_that_is(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor, where: str, parts: int
) -> None:
    """The consumer of a generator that has only loop parts has left it, and its own block, too."""
    closed: list[str] = []

    async def ticks() -> AsyncIterator[int]:
        async with AsyncExitStack() as stack:
            stack.callback(lambda: closed.append(place()))
            for _ in range(parts):
                await stack.enter_async_context(eventloop())
            yield 1

    async def close_it(source: Any) -> None:
        if where == "loop":
            await source.aclose()
        else:
            async with threadpool(other):
                await source.aclose()
                assert place() == "other_0"
        assert place() == "loop"

    async def main() -> None:
        source = ticks()
        async with threadpool(one):
            async for _ in source:
                break
        assert place() == "loop"
        await ended(start(close_it(source)))
        assert closed == [where]
        await assert_is_whole(one, 1)
        await assert_is_whole(other, 1)

    loops.run(main)


@pytest.mark.parametrize("who", ["first task", "another task"])
@on_every_loop
async def test_a_leaver_that_is_on_a_worker_comes_back_to_it(
    executor: Executor, other: ThreadPoolExecutor, who: str
) -> None:
    rows = Rows(executor)
    source = rows()
    await take(source)

    async def leave() -> None:
        async with threadpool(other):
            await close(source)
            assert place() == "other_0"
        assert place() == "loop"

    if who == "first task":
        await leave()
    else:
        await ended(start(leave()))
    rows.assert_closed_on_its_worker()
    await assert_is_whole(executor, 2)
    await assert_is_whole(other, 1)


# --- cancellations and variables


@on_every_loop
async def test_a_leaver_that_is_cancelled_meanwhile_is_told_at_the_exit(executor: Executor) -> None:
    gate = Gate()

    rows = Rows(executor, at_end=gate.stop_here)
    source = rows()
    await take(source)
    task = start(close(source))
    await until(gate.reached.is_set)
    task.cancel("stop")
    await turns()
    assert not task.done()
    gate.open()
    await until(task.done)
    assert task.cancelled()
    rows.assert_closed_on_its_worker()
    await assert_is_whole(executor, 2)


@pytest.mark.parametrize("where", ["inner part", "on its way", "outer part"])
def test_a_cancellation_of_the_leaver_that_leaves_a_part_which_it_took_over_is_its_own(
    loops: LoopKind, executor: Executor, other: ThreadPoolExecutor, where: str
) -> None:
    """Whatever had been cancelled before: the first task was, and went on."""
    gate, waits, ends = Gate(), asyncio.Event(), []

    async def rows() -> AsyncIterator[int]:
        async with threadpool(executor):
            with suppress(asyncio.CancelledError):
                async with eventloop():
                    async with eventloop():
                        yield 1
                        if where == "inner part":
                            waits.set()
                            await forever()
                    waits.set()
                    await forever()
            ends.append(here())

    async def first(source: AsyncIterator[int]) -> None:
        with suppress(asyncio.CancelledError):
            await forever()
        await take(source)
        if where == "on its way":
            async with threadpool(other):
                gate.stop_here()

    async def main() -> None:
        source = rows()
        task = start(first(source))
        await turns()
        task.cancel()
        await (until(gate.reached.is_set) if where == "on its way" else ended(task))
        leaver = start(take(source))
        await (turns() if where == "on its way" else until(waits.is_set))
        leaver.cancel("stop")
        gate.open()
        await until(leaver.done)
        assert leaver.cancelled()
        assert ends
        assert here() not in ends
        await ended(task)
        await assert_is_whole(executor, 2)

    loops.run(main)


@pytest.mark.parametrize("is_cancelled", [False, True])
@on_every_loop
async def test_a_cancelled_error_that_the_body_swallows_comes_again_if_the_leaver_was_cancelled(
    one: ThreadPoolExecutor, is_cancelled: bool
) -> None:
    """A foreign CancelledError does not come again."""

    @asynccontextmanager
    async def forgiving() -> AsyncIterator[None]:
        async with threadpool(one):
            with suppress(asyncio.CancelledError):
                async with eventloop():
                    yield

    manager = forgiving()
    await ended(start(manager.__aenter__()))

    async def leave() -> str:
        try:
            await future
        except asyncio.CancelledError as error:
            await manager.__aexit__(type(error), error, error.__traceback__)
        return "went on"

    future = asyncio.get_running_loop().create_future()
    task = start(leave())
    await turns()
    if is_cancelled:
        task.cancel()
    else:
        future.cancel()
    await until(task.done)
    assert task.cancelled() == is_cancelled
    await assert_is_whole(one, 1)


@on_every_loop
async def test_the_rest_of_the_body_sees_the_variables_of_the_task_that_closes(
    executor: Executor,
) -> None:
    seen: list[str] = []

    def look_and_set() -> None:
        seen.append(variable.get())
        variable.set("set by the body")

    source = Rows(executor, at_end=look_and_set)()
    variable.set("first")
    await take(source)

    async def leave() -> None:
        variable.set("second")
        await close(source)
        seen.append(variable.get())

    await ended(start(leave()))
    assert seen == ["second", "set by the body"]
    assert variable.get() == "first"


# --- leavers that must not be suspended, or cannot


async def unknown_to_the_loop(rows: Rows) -> list[Any]:
    """Return the generator, in its first part: no hook closes it, and nobody awaits that."""
    source: list[Any] = [rows()]
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    step = source[0].__anext__()
    sys.set_asyncgen_hooks(*hooks)
    await step
    return source


@pytest.mark.parametrize("where", ["same task", "other task", "thread"])
def test_what_the_collector_closes_lets_its_worker_go_at_once_with_one_warning(
    loops: LoopKind, executor: Executor, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    caplog.set_level(logging.WARNING, "threadhop")

    async def main() -> None:
        rows = Rows(executor)
        source = await unknown_to_the_loop(rows)

        async def drop() -> None:
            source.clear()
            gc.collect()

        if where == "same task":
            await drop()
        elif where == "other task":
            await ended(start(drop()))
        else:
            thread = threading.Thread(target=source.clear)
            thread.start()
            thread.join(LIMIT)
            gc.collect()
        assert rows.closed
        asked = time.monotonic()
        await assert_is_whole(executor, 2)
        assert time.monotonic() - asked < 0.5, "found out by a look once a second"

    loops.run(main)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "threadhop"]
    assert re.search(LINE, warning)


@on_every_loop
async def test_what_the_collector_closes_leaves_the_worker_to_a_block_that_needs_it(
    one: ThreadPoolExecutor,
) -> None:
    async with threadpool(one):
        async with eventloop():
            source = await unknown_to_the_loop(Rows(one))
            source.clear()
            gc.collect()
            await turns()
        assert place() == "one_0"
    await assert_is_whole(one, 1)


def test_a_task_of_another_loop_cannot_leave_a_part_and_says_where(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker is let go, and the error passes the exits of the blocks around."""
    caplog.set_level(logging.WARNING, "threadhop")

    async def main() -> None:
        source = Rows(executor)()
        await take(source)
        errors: list[BaseException] = []

        def run() -> None:
            try:
                asyncio.run(close(source))
            except RuntimeError as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        await until(lambda: not thread.is_alive())
        assert re.search(LINE, str(errors[0]))
        await assert_is_whole(executor, 2)

    asyncio.run(main())
    assert len([r for r in caplog.records if "outside of the event loop" in r.getMessage()]) == 1


@on_every_loop
async def test_a_leaver_for_which_the_worker_waits_is_refused_with_the_line(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The body on the worker waits for the closing task, and that would wait for the worker."""
    caplog.set_level(logging.WARNING, "threadhop")

    source = Rows(executor)()
    await take(source)
    async with threadpool(executor):
        with pytest.raises(RuntimeError, match=LINE):
            exec_in_eventloop(close, source)
    await assert_is_whole(executor, 2)
    assert "the very task" in caplog.text
