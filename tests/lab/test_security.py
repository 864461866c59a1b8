"""Tasks that share workers see nothing of each other, and an idle worker keeps nothing of any."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.garbage import Thing, collect_until
from helpers.loops import LoopKind
from helpers.steps import sleep

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    iterate_in_executor,
    on_cancel,
    threadpool,
)

secret = contextvars.ContextVar["Secret | None"]("secret", default=None)

SHORT = 500
LONG = pytest.param(10_000, marks=[pytest.mark.storm, pytest.mark.timeout(120)])


class Secret(Thing):
    """What belongs to one task."""

    def __init__(self, number: int) -> None:
        self.number = number


class SecretError(Exception):
    def __init__(self, secret: Secret) -> None:
        super().__init__(secret.number)
        self.secret = secret


def look(mine: Secret | None) -> None:
    """On whatever thread: only what is *mine* is here."""
    assert secret.get() is mine, "the variables of another task"
    # (A handler of this very task is around, or none is.)
    error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
    seen = 0
    while error is not None:
        assert not isinstance(error, SecretError) or error.secret is mine, "another task's error"
        error, seen = error.__context__, seen + 1
        assert seen < 50


async def use(pool: ThreadPoolExecutor, mine: Secret, chance: random.Random) -> None:
    """One block, call or iterator; it may raise."""
    secret.set(mine)
    fails = chance.random() < 0.3
    local = [mine]

    def call() -> Secret:
        look(mine)
        if fails:
            raise SecretError(mine)
        return local[0]

    def rows() -> Iterator[Secret]:
        for _ in range(3):
            yield call()

    match chance.randrange(5):
        case 0:
            async with threadpool(pool):
                call()
        case 1:
            async with threadpool(pool):
                with on_cancel(call):
                    try:
                        call()
                    except SecretError:
                        look(mine)
                        async with eventloop():
                            look(mine)
                            await sleep(0)
                        raise
        case 2:
            async with threadpool(pool):
                assert exec_in_eventloop(call) is mine
        case 3:
            assert await AsyncExecutor(pool).run(call) is mine
        case _:
            async with iterate_in_executor(pool, rows, buffersize=2) as items:
                async for item in items:
                    assert item is mine
    look(mine)


async def look_at_workers(pool: ThreadPoolExecutor) -> None:
    """Nothing of anybody is left in a worker: a plain job, and a task that has no secret."""

    def empty() -> None:
        look(None)
        check_cancelled()

    pool.submit(empty).result(8)
    async with threadpool(pool):
        empty()
        # The frames below are the library's and the pool's: none of their locals is a secret.
        frame: Any = sys._getframe(1)
        while frame is not None:
            assert not any(isinstance(value, Secret) for value in frame.f_locals.values())
            frame = frame.f_back


@pytest.mark.trio
@pytest.mark.parametrize("blocks", [SHORT, LONG])
def test_no_task_sees_anything_of_another_one_on_its_worker(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], blocks: int
) -> None:
    chance = random.Random(1)
    failed: list[BaseException] = []

    async def one(number: int) -> None:
        mine = Secret(number)
        for _ in range(10):
            try:
                await use(pool, mine, random.Random(chance.random()))
            except SecretError as error:
                if error.secret is not mine:
                    failed.append(error)
            except AssertionError as error:
                failed.append(error)

    async def main() -> None:
        await together([one(number) for number in range(blocks // 10)])
        await look_at_workers(pool)

    with executor_class(3) as pool:
        loops.run(main, timeout=100)
    assert not failed, failed[:3]


async def together(coros: list[Any]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        async with trio.open_nursery() as nursery:
            for coro in coros:
                nursery.start_soon(lambda coro=coro: coro)
    else:
        await asyncio.gather(*coros)


@pytest.mark.trio
def test_nothing_of_a_task_is_reachable_when_its_worker_is_idle(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its variables, its locals, its errors; also of one that was cancelled."""
    chance = random.Random(2)
    watched: list[weakref.ref[Secret]] = []

    async def one(number: int) -> None:
        mine = Secret(number)
        watched.append(weakref.ref(mine))
        try:
            await use(pool, mine, random.Random(chance.random()))
        except SecretError:
            pass
        finally:
            del mine

    async def main() -> None:
        await together([one(number) for number in range(60)])

    with executor_class(3) as pool:
        loops.run(main, timeout=30)
        gc.collect()
        # Not after the pool: its threads are there, and wait.
        assert any(thread.is_alive() for thread in threading.enumerate())
        collect_until(lambda: not [ref for ref in watched if ref() is not None])
