"""A worker that two tasks need: the one that entered, and the one that closes a generator."""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncContextDecorator, AsyncExitStack, nullcontext
from typing import Any

import pytest
from helpers.garbage import IS_PYPY
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import assert_is_whole, ended, here, place, start
from helpers.pools import on_a_stock_pool
from helpers.rows import Rows, close, take
from helpers.steps import Gate, turns, until

from threadhop import check_cancelled, eventloop, threadpool
from threadhop._strand import Strand

pytestmark = on_a_stock_pool


# --- one object of eventloop() for two


@on_every_loop
async def test_a_part_object_that_two_tasks_share_is_left_by_each_to_its_own_worker(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """1 a generator is suspended in it, 2 a task passes it, 3 another one is suspended in it, too,
    4 yet another one closes the generator.
    """
    part = eventloop()

    rows = Rows(one, part=lambda: part)
    source = rows()
    await take(source)
    is_in_part = asyncio.Event()

    async def passes() -> None:
        async with threadpool(other), part:
            pass

    async def second() -> None:
        async with threadpool(other):
            async with part:
                is_in_part.set()
                await until(lambda: rows.closed)
            assert place() == "other_0"
        assert place() == "loop"

    await ended(start(passes()))
    task = start(second())
    await until(is_in_part.is_set)
    await ended(start(close(source)))
    rows.assert_closed_on_its_worker()
    await ended(task)
    await assert_is_whole(one, 1)
    await assert_is_whole(other, 1)


@on_one_loop
async def test_a_part_object_that_two_generators_of_a_task_share_is_left_to_the_worker_of_each(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """The generator that was entered first is left first."""
    part = eventloop()

    both = [Rows(pool, part=lambda: part) for pool in (one, other)]
    sources = [rows() for rows in both]
    for source in sources:
        await take(source)
    for source in sources:
        await close(source)
        assert place() == "loop"
    for rows in both:
        rows.assert_closed_on_its_worker()
    assert both[0].workers[0] != both[1].workers[0]
    await assert_is_whole(one, 1)
    await assert_is_whole(other, 1)


class Managed:
    """An async context manager that enters others, and has no frame of its own in between."""

    def __init__(self, *managers: Any) -> None:
        self.managers = managers

    async def __aenter__(self) -> None:
        for manager in self.managers:
            await manager.__aenter__()

    async def __aexit__(self, *exc_info: Any) -> None:
        for manager in reversed(self.managers):
            await manager.__aexit__(*exc_info)


class Functions(Managed):
    """The same, by functions of other names."""

    async def __aenter__(self) -> None:
        await self.set_up()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.tear_down(exc_info)

    async def set_up(self) -> None:
        await super().__aenter__()

    async def tear_down(self, exc_info: tuple[Any, ...]) -> None:
        await super().__aexit__(*exc_info)


def wrapped(method: Any) -> Any:
    @functools.wraps(method)
    async def wrapper(*args: Any) -> None:
        await method(*args)

    return wrapper


class Wrapped(Managed):
    """The same, by a decorator: all its frames have the same code, often at the same address."""

    __aenter__ = wrapped(Managed.__aenter__)
    __aexit__ = wrapped(Managed.__aexit__)


class Moved(Managed):
    """An exit stack that was filled by a function, which has returned."""

    stack: AsyncExitStack

    async def __aenter__(self) -> None:
        self.stack = await self.fill()

    async def fill(self) -> AsyncExitStack:
        async with AsyncExitStack() as stack:
            for manager in self.managers:
                await stack.enter_async_context(manager)
            return stack.pop_all()

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.stack.__aexit__(*exc_info)


@pytest.mark.parametrize("helper", [Managed, Functions, Moved, Wrapped])
@pytest.mark.parametrize("leaves", ["first", "last"])
def test_tasks_for_which_a_helper_enters_one_part_object_go_back_to_their_own_workers(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    other: ThreadPoolExecutor,
    helper: type[Managed],
    leaves: str,
) -> None:
    """The frame that has entered is gone at the exit."""
    part = eventloop()

    async def passes(pool: Executor, name: str, go: asyncio.Event, entered: list[str]) -> None:
        async with helper(threadpool(pool)):
            async with helper(part):
                entered.append(name)
                await go.wait()
                assert place() == "loop"
            assert place() == name
        assert place() == "loop"

    async def main() -> None:
        entered: list[str] = []
        goes = [asyncio.Event(), asyncio.Event()]
        tasks = [
            start(passes(pool, name, go, entered))
            for pool, name, go in zip((one, other), ("one_0", "other_0"), goes, strict=True)
        ]
        await until(lambda: len(entered) == 2)
        for at in (0, 1) if leaves == "first" else (1, 0):
            goes[at].set()
            await ended(tasks[at])
        await assert_is_whole(one, 1)
        await assert_is_whole(other, 1)

    loops.run(main)


@pytest.mark.parametrize("who", ["a task", "a task of another loop", "the collector"])
@pytest.mark.parametrize("helper", [None, Functions, Wrapped])
def test_a_task_in_a_part_object_is_left_alone_by_what_passes_that_outside_of_any_block(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    helper: type[Managed] | None,
    who: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    part = eventloop()
    around = part if helper is None else helper(part)

    async def passes() -> None:
        name = threading.current_thread().name
        async with around, around:
            await asyncio.sleep(0)
        assert threading.current_thread().name == name

    async def first(is_in_part: asyncio.Event, go: asyncio.Event) -> None:
        async with threadpool(one):
            async with part:
                is_in_part.set()
                await go.wait()
            assert place() == "one_0"
        assert place() == "loop"

    async def main() -> None:
        is_in_part, go = asyncio.Event(), asyncio.Event()
        task = start(first(is_in_part, go))
        await is_in_part.wait()
        if who == "a task":
            await ended(start(passes()))
        elif who == "a task of another loop":
            passed: list[None] = []
            thread = threading.Thread(target=lambda: passed.append(asyncio.run(passes())))
            thread.start()
            await until(lambda: not thread.is_alive())
            assert passed
        else:
            coro = passes()
            coro.send(None)
            coro.close()
        await turns()
        go.set()
        await ended(task)
        await assert_is_whole(one, 1)

    loops.run(main)
    assert not [r for r in caplog.records if r.name == "threadhop" and "parked" not in r.msg]


@pytest.mark.skipif(IS_PYPY, reason="PyPy closes it some time later")
def test_what_a_decorator_has_entered_lets_its_worker_go_when_the_collector_closes_it(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """With the frames of the task above, in which the collector runs."""
    part = eventloop()

    class Decorator(AsyncContextDecorator, Managed):
        pass

    async def main() -> None:
        async with part:
            pass
        is_in_part = asyncio.Event()

        @Decorator(threadpool(one), part)
        async def stays() -> None:
            is_in_part.set()
            await asyncio.get_running_loop().create_future()

        task = start(stays())
        await is_in_part.wait()
        await turns()
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        del task
        gc.collect()
        await assert_is_whole(one, 1)
        assert not part._part.entered

    loops.run(main)


def test_a_block_object_that_a_generator_and_its_consumer_share_is_left_by_each(
    loops: LoopKind, executor: Executor
) -> None:
    """1 a task begins the generator, 2 another one goes on with it in a block made by that object,
    3 leaves this block, 4 and goes on with the generator, on the worker of that.
    """
    block = threadpool(executor)
    workers: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        async with block:
            for number in range(3):
                workers.append(here())
                async with eventloop():
                    yield number

    async def second(source: AsyncIterator[int]) -> None:
        async with block:
            assert here() != workers[0]
            assert await take(source) == 1
        assert place() == "loop"
        assert await take(source) == 2
        await close(source)
        assert place() == "loop"

    async def main() -> None:
        source = numbers()
        await ended(start(take(source)))
        await ended(start(second(source)))
        assert workers == workers[:1] * 3
        await assert_is_whole(executor, 2)

    loops.run(main)


# --- both need the worker


@pytest.mark.parametrize("ends", [False, True], ids=["comes home", "ends there"])
@on_every_loop
async def test_the_leaver_waits_until_the_first_task_is_at_home(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, ends: bool
) -> None:
    """1 the first task is in a block, 2 another one closes, 3 the first comes home, or ends there.

    If it ends, the leaver is told that and goes on.
    """
    gate = Gate()
    rows = Rows(one)
    source = rows()

    async def first() -> None:
        await take(source)
        block = threadpool(other if ends else one)
        await block.__aenter__()
        rows.workers.append(here())
        gate.stop_here()
        assert not rows.closed
        if not ends:
            await block.__aexit__(None, None, None)

    task = start(first())
    await until(gate.reached.is_set)
    closing = start(close(source))
    await turns()
    assert not closing.done()
    gate.open()
    with pytest.raises(RuntimeError, match="not inside the block") if ends else nullcontext():
        await ended(task, closing)
    task.result()
    if not ends:
        rows.assert_closed_on_its_worker()
    await assert_is_whole(one, 1)
    await assert_is_whole(other, 1)


@on_every_loop
async def test_a_block_of_the_first_task_around_the_generator_keeps_its_worker(
    one: ThreadPoolExecutor,
) -> None:
    """The worker drives the task that comes, and ends with the last of the two."""

    rows = Rows(one)
    async with threadpool(one):
        worker = here()
        async with eventloop():
            source = rows()
            await take(source)
            await ended(start(take(source)))
            await ended(start(close(source)))
        assert here() == worker
    assert here() == rows.loop_thread
    rows.assert_closed_on_its_worker()
    assert rows.workers[0] == worker
    await assert_is_whole(one, 1)


@on_every_loop
async def test_a_worker_that_drives_one_closer_keeps_its_identity_while_another_one_adopts(
    one: ThreadPoolExecutor,
) -> None:
    """1 the first body ends, 2 a second task adopts, 3 the first one is cancelled, and sees it."""
    gate = Gate()
    seen: list[str] = []

    def end_first() -> None:
        gate.stop_here()
        with pytest.raises(asyncio.CancelledError):
            check_cancelled()
        seen.append("first")

    def end_second() -> None:
        check_cancelled()
        seen.append("second")

    both = [Rows(one, at_end=end_first), Rows(one, at_end=end_second)]
    first, second = [rows() for rows in both]
    await take(first)
    await take(second)
    closing = [start(close(first))]
    await until(gate.reached.is_set)
    closing.append(start(close(second)))
    await turns()
    closing[0].cancel()
    gate.open()
    await until(lambda: all(task.done() for task in closing))
    assert [task.cancelled() for task in closing] == [True, False]
    closing[1].result()
    assert seen == ["first", "second"]
    for rows in both:
        rows.assert_closed_on_its_worker()
    await assert_is_whole(one, 1)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What parked workers, which look often, are told: whether a task is gone."""
    looks: list[bool] = []
    is_gone = Strand.is_gone

    def noted(strand: Strand) -> bool:
        looks.append(is_gone(strand))
        return looks[-1]

    monkeypatch.setattr("threadhop._block_job.POLL", 0.001)
    monkeypatch.setattr(Strand, "is_gone", noted)
    return looks


@on_every_loop
async def test_a_worker_does_not_give_up_while_another_task_may_close_what_an_ended_one_left(
    one: ThreadPoolExecutor, looks: list[bool]
) -> None:
    rows = Rows(one)
    source = rows()
    await ended(start(take(source)))
    looks.clear()
    await until(lambda: len(looks) > 3)
    await ended(start(close(source)))
    rows.assert_closed_on_its_worker()
    await assert_is_whole(one, 1)
    assert not any(looks)


@on_every_loop
async def test_a_shared_worker_does_not_give_up_while_one_task_needs_it(
    one: ThreadPoolExecutor, looks: list[bool]
) -> None:
    """The task that it drove last has ended; the one that it waits for has not."""

    rows = Rows(one)
    async with threadpool(one):
        worker = here()
        async with eventloop():
            source = rows()
            await take(source)
            await ended(start(close(source)))
            looks.clear()
            await until(lambda: len(looks) > 3)
        assert here() == worker
    assert not all(looks)
    rows.assert_closed_on_its_worker()
    await assert_is_whole(one, 1)


@on_every_loop
async def test_two_tasks_that_close_each_others_generators_both_come_to_their_end(
    executor: Executor,
) -> None:
    """None of them waits for the other to be at home."""

    both = [Rows(executor), Rows(executor)]
    sources = [rows() for rows in both]
    taken: list[int] = []
    go = asyncio.Event()

    async def close_the_other(mine: int) -> None:
        taken.append(await take(sources[mine]))
        await go.wait()
        await close(sources[1 - mine])
        assert place() == "loop"

    tasks = [start(close_the_other(mine)) for mine in (0, 1)]
    await until(lambda: len(taken) == 2)
    go.set()
    await ended(*tasks)
    for rows in both:
        rows.assert_closed_on_its_worker()
    await assert_is_whole(executor, 2)


# --- one of them ends in a block


@on_every_loop
async def test_a_task_that_ends_within_its_block_does_not_take_a_shared_worker_from_the_other_one(
    one: ThreadPoolExecutor,
) -> None:
    """1 a second task adopts, 2 the first one ends on the worker, 3 the second goes on there."""

    rows = Rows(one)
    source, kept = rows(), Rows(one)()
    has_taken, has_adopted = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        await take(source)
        await take(kept)
        has_taken.set()
        await has_adopted.wait()
        await threadpool(one).__aenter__()
        assert here() == rows.workers[0]

    async def second() -> None:
        await has_taken.wait()
        await take(source)
        has_adopted.set()
        await until(tasks[0].done)
        await close(source)
        assert place() == "loop"

    tasks = [start(first()), start(second())]
    await ended(*tasks)
    assert len(rows.workers) == 2
    rows.assert_closed_on_its_worker()
    await assert_is_whole(one, 1)
