"""Many iterators in random trouble: every task ends, every source is closed, all items in order.

The seeds are fixed, the interleavings are not.
"""

from __future__ import annotations

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
from helpers.calls import OopsError
from helpers.garbage import IS_PYPY
from helpers.loops import LoopKind
from helpers.steps import until

from threadhop import (
    WorkerPool,
    check_cancelled,
    exec_in_eventloop,
    iterate_in_executor,
    threadpool,
)

#: In all, of each seed and kind of loop and pool.
ITERATORS = 100
AT_ONCE = 12


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


class Storm:
    def __init__(self, pool: Executor, seed: int) -> None:
        self.pool = pool
        self.chance = random.Random(seed)
        self.opened: set[int] = set()
        self.closed: set[int] = set()
        self.wrong: list[str] = []

    def source(self, number: int, count: int, fails: bool, seed: int) -> Iterator[int]:
        chance, thread = random.Random(seed), threading.get_ident()
        self.opened.add(number)
        try:
            for item in range(count):
                match chance.randrange(40):
                    case 0:
                        check_cancelled()
                    case 1:
                        exec_in_eventloop(str)
                    case 2:
                        threading.Event().wait(0.001)
                yield item
            if fails:
                raise OopsError(number)
        finally:
            if threading.get_ident() != thread:
                self.wrong.append(f"{number} was closed on another thread")
            self.closed.add(number)

    async def take(self, number: int) -> None:
        chance = self.chance
        count, fails = chance.randrange(120), chance.random() < 0.2
        leave_at = chance.choice([None, chance.randrange(120)])
        pause = chance.choice([None, 0, 0.0005])
        forget, nested = chance.random() < 0.2, chance.random() < 0.1
        items = iterate_in_executor(
            self.pool, self.source, number, count, fails, chance.random(),
            buffersize=chance.choice([1, 2, 7, 64]),
        )  # fmt: skip
        seen, left = 0, False
        try:
            async for item in items:
                if item != seen:
                    self.wrong.append(f"{number}: {item} came and not {seen}")
                seen += 1
                if pause is not None:
                    await asyncio.sleep(pause)
                if item == leave_at:
                    left = True
                    break
            if not left and (seen != count or fails):
                self.wrong.append(f"{number}: {seen} of {count} came, and no error")
        except OopsError:
            if not fails or seen != count:
                self.wrong.append(f"{number}: the error came after {seen} of {count}")
        finally:
            if not forget:
                await items.aclose()
                if number in self.opened - self.closed:
                    self.wrong.append(f"{number} is open after aclose()")
        if nested:
            async with threadpool(self.pool):
                pass

    def all_are_closed(self) -> bool:
        if IS_PYPY:
            gc.collect()
        return self.opened == self.closed

    async def run(self) -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with places:
                await self.take(number)

        tasks = [asyncio.ensure_future(one(number)) for number in range(ITERATORS)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.001)
            if IS_PYPY and self.chance.random() < 0.02:
                gc.collect()  # What was forgotten keeps a worker until then.
            for task in self.chance.choices(tasks, k=2):
                if self.chance.random() < 0.3:
                    task.cancel()
        for task in tasks:
            if not task.cancelled():
                task.result()
        del task
        tasks.clear()  # An error has the frame that has the iterator.
        gc.collect()
        await until(self.all_are_closed)
        assert not self.wrong


@pytest.mark.timeout(40)
@pytest.mark.parametrize(("executor_class", "seed"), [(ThreadPoolExecutor, 1), (WorkerPool, 2)])
def test_storm(loops: LoopKind, executor: Executor, seed: int) -> None:
    storm = Storm(executor, seed)
    loops.run(storm.run, timeout=30)
    assert storm.opened
