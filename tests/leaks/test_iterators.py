"""An iterator that has ended, or was left, leaves nothing behind; nor does one that waits."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from helpers.calls import OopsError
from helpers.garbage import (
    IS_PYPY,
    MAY_DEFER,
    Scenario,
    Thing,
    assert_its_task_is_freed,
    assert_no_cyclic_garbage,
    collect_until,
    counts_references,
)
from helpers.loops import on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, turns, until

from threadhop import check_cancelled, iterate_in_executor


def things(count: int) -> Iterator[Thing]:
    for _ in range(count):
        yield Thing()


def failing() -> Iterator[Thing]:
    yield Thing()
    raise OopsError


async def to_the_end(pool: Executor, _: Executor) -> None:
    async for _thing in iterate_in_executor(pool, things, 10, buffersize=2):
        pass


async def left(pool: Executor, _: Executor) -> None:
    async with iterate_in_executor(pool, things, 1000) as items:
        await anext(items)


async def forgotten(pool: Executor, _: Executor) -> None:
    async for _thing in iterate_in_executor(pool, things, 1000):
        break
    await turns(2)
    await asyncio.get_running_loop().run_in_executor(pool, str)


async def with_an_error(pool: Executor, _: Executor) -> None:
    with suppress(OopsError):
        async for _thing in iterate_in_executor(pool, failing):
            pass


async def never_begun(pool: Executor, _: Executor) -> None:
    items = iterate_in_executor(pool, things, 10)
    await items.aclose()


async def cancelled(pool: Executor, _: Executor) -> None:
    gate = Gate()

    def source() -> Iterator[Thing]:
        yield Thing()
        gate.stop_here()
        check_cancelled()

    async def take() -> None:
        async for _thing in iterate_in_executor(pool, source):
            pass

    task = asyncio.get_running_loop().create_task(take())
    await until(gate.reached.is_set)
    task.cancel()
    await turns(1)
    gate.open()
    await until(task.done)
    assert task.cancelled()


async def refused(_: Executor, __: Executor) -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with suppress(RuntimeError):
        await anext(iterate_in_executor(pool, things, 10))


SCENARIOS = [to_the_end, left, forgotten, with_an_error, never_begun, cancelled, refused]
each = pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)


@counts_references
@each
def test_no_cyclic_garbage(scenario: Scenario) -> None:
    assert_no_cyclic_garbage(scenario)


@counts_references
@each
def test_its_task_is_freed(scenario: Scenario) -> None:
    assert_its_task_is_freed(scenario)


@on_one_loop
async def test_an_item_that_the_task_is_done_with_is_kept_by_nobody(
    one: ThreadPoolExecutor,
) -> None:
    """Neither by the worker, which waits for the next one, nor by the generator."""
    gate = Gate()

    class Items:
        count = 0

        def __iter__(self) -> Items:
            return self

        def __next__(self) -> Thing:
            self.count += 1
            if self.count == 2:
                gate.stop_here()
                raise StopIteration
            return Thing()

    items = iterate_in_executor(one, Items())
    dead = weakref.ref(await anext(items))
    await until(gate.reached.is_set)
    if IS_PYPY or MAY_DEFER:  # (The worker, held, merges no counts.)
        collect_until(lambda: dead() is None)
    await until(lambda: dead() is None)
    gate.open()
    await items.aclose()


@on_one_loop
async def test_the_source_is_kept_no_longer_than_it_is_read(one: ThreadPoolExecutor) -> None:
    """Not by an iterator that has ended, nor by an executor that keeps a job it never runs."""

    class Source(Thing):
        def __iter__(self) -> Iterator[int]:
            return iter((1, 2))

    source = Source()
    ref = weakref.ref(source)
    items = iterate_in_executor(one, source)
    assert [item async for item in items] == [1, 2]
    del source
    one.submit(str).result(LIMIT)
    collect_until(lambda: ref() is None)

    held = HeldExecutor()
    source = Source()
    ref = weakref.ref(source)
    task: asyncio.Task[Any] = asyncio.ensure_future(anext(iterate_in_executor(held, source)))  # type: ignore[arg-type]
    del source
    await until(lambda: held.jobs)
    task.cancel()
    await until(task.done)
    del task
    collect_until(lambda: ref() is None)
    assert held.jobs
