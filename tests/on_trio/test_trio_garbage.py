"""What trips on trio make is freed by reference counts alone."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.garbage import MAY_DEFER, ROUNDS, counts_references, no_collector
from helpers.loops import on_trio
from helpers.places import OopsError
from helpers.steps import LIMIT

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    threadpool,
)

trio: Any = pytest.importorskip("trio")

Scenario = Callable[[ThreadPoolExecutor], Coroutine[Any, Any, None]]


def oops() -> None:
    raise OopsError


async def plain(pool: ThreadPoolExecutor) -> None:
    async with threadpool(pool):
        pass


async def raising(pool: ThreadPoolExecutor) -> None:
    with contextlib.suppress(OopsError):
        async with threadpool(pool):
            oops()


async def part(pool: ThreadPoolExecutor) -> None:
    async with threadpool(pool):
        async with eventloop():
            await trio.sleep(0)


async def call_home(pool: ThreadPoolExecutor) -> None:
    async with threadpool(pool):
        exec_in_eventloop(trio.sleep, 0)
        with contextlib.suppress(OopsError):
            exec_in_eventloop(oops)


async def cancelled_before(pool: ThreadPoolExecutor) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await plain(pool)


async def cancelled_within(pool: ThreadPoolExecutor) -> None:
    with trio.CancelScope() as scope:
        async with threadpool(pool):
            exec_in_eventloop(scope.cancel)


async def call(pool: ThreadPoolExecutor) -> None:
    await AsyncExecutor(pool).run(exec_in_eventloop, trio.sleep, 0)


async def raising_call(pool: ThreadPoolExecutor) -> None:
    with contextlib.suppress(OopsError):
        await AsyncExecutor(pool).run(oops)


async def cancelled_call(pool: ThreadPoolExecutor) -> None:
    def work() -> None:
        exec_in_eventloop(scope.cancel)
        while True:
            check_cancelled()

    with trio.CancelScope() as scope:
        await AsyncExecutor(pool).run(work)
    del work


SCENARIOS = [
    plain,
    raising,
    part,
    call_home,
    cancelled_before,
    cancelled_within,
    call,
    raising_call,
    cancelled_call,
]


@counts_references
@pytest.mark.parametrize("scenario", SCENARIOS)
@on_trio
async def test_trips_leave_no_cyclic_garbage(scenario: Scenario) -> None:
    with ThreadPoolExecutor(1) as pool:

        async def rounds(count: int) -> None:
            for _ in range(count):
                await scenario(pool)
            await trio.sleep(0)
            pool.submit(str).result(LIMIT)

        await rounds(3)
        with no_collector():
            await rounds(ROUNDS)
            garbage = gc.collect()
    assert garbage <= (ROUNDS if MAY_DEFER else 0), f"{garbage} objects in {ROUNDS} rounds"
