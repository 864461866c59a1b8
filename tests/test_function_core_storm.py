"""Many calls in random trouble: every future ends, and nothing stays open.

The seeds are fixed, the interleavings are not.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import OopsError
from helpers.loops import LoopKind
from helpers.steps import until

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)

#: How many calls the storms make in all.
CALLS = 5_000

HAS_PROC = os.path.isdir("/proc/self/fd")


@pytest.fixture(autouse=True)
def _switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    # PyPy has no such thing, and says so by ignoring it.
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def plain(number: int) -> int:
    for _ in range(number % 50):
        check_cancelled()
    return number


def raising(number: int) -> int:
    raise OopsError(number)


async def on_worker(number: int) -> int:
    for _ in range(number % 5):
        await asyncio.sleep(0)
    return number


def there_and_back(number: int) -> int:
    return exec_in_eventloop(on_worker, number)


def stopping(number: int) -> int:
    raise StopIteration(number)


KINDS = [plain, plain, plain, raising, on_worker, on_worker, there_and_back, stopping]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if HAS_PROC else 0


def check_result(kind: Any, number: int, result: object, error: BaseException | None) -> str:
    """How an uncancelled call ended, which must be how its function ends."""
    if kind is raising:
        assert type(error) is OopsError
        assert error.args == (number,)
        return "error"
    if kind is stopping:
        assert type(error) is RuntimeError
        return "error"
    assert error is None
    assert result == number
    return "value"


@pytest.mark.parametrize("seed", [1, 2])
def test_every_future_of_a_storm_ends(loops: LoopKind, seed: int) -> None:
    """5,000 calls over all kinds of loop and seeds, every other one of them cancelled some time."""
    chance = random.Random(seed)
    calls = CALLS // 10
    worker_loops: set[asyncio.AbstractEventLoop] = set()
    lock = threading.Lock()
    endings: Counter[str] = Counter()

    async def note_loop(_: int) -> int:
        with lock:
            worker_loops.add(asyncio.get_running_loop())
        return _

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(3) as pool:
            wrapper = AsyncExecutor(pool)
            cancelled: set[Any] = set()
            started: list[tuple[Any, int, Any]] = []
            for number in range(calls):
                kind: Any = note_loop if number % 100 == 0 else chance.choice(KINDS)
                how = chance.randrange(3)
                future: Any
                if how == 0:
                    future = exec_in_executor(pool, kind, number)
                elif how == 1:
                    future = exec_in_executor_threading_future(pool, kind, number)
                else:
                    future = loop.create_task(wrapper.run(kind, number))
                started.append((kind, number, future))
                if chance.random() < 0.5:
                    _, _, victim = chance.choice(started[-20:])
                    if victim.cancel():
                        cancelled.add(victim)
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
            asyncs = [future for _, _, future in started if asyncio.isfuture(future)]
            threadings = [future for _, _, future in started if not asyncio.isfuture(future)]
            _, pending = await asyncio.wait(asyncs, timeout=15)
            assert not pending, f"{len(pending)} futures stay pending"
            await until(lambda: all(future.done() for future in threadings))
            for kind, number, future in started:
                if future.cancelled():
                    assert future in cancelled, "cancelled by nobody"
                    endings["cancelled"] += 1
                    continue
                assert future not in cancelled or isinstance(future, asyncio.Task)
                error = future.exception()
                result = None if error is not None else future.result()
                endings[check_result(kind, number, result, error)] += 1

    loops.run(asyncio.sleep(0))  # uvloop keeps two files from its first loop on
    before = open_files()
    loops.run(main, timeout=18)
    assert open_files() <= before
    assert worker_loops, "nothing was looked at"
    assert all(loop.is_closed() for loop in worker_loops)
    assert sum(endings.values()) == calls
    assert min(endings[ending] for ending in ("value", "error", "cancelled")) > calls / 50


def test_a_pool_that_is_shut_down_in_a_storm_leaves_no_future_pending(loops: LoopKind) -> None:
    """Some calls are refused, some dropped, some end; each of them in one of these ways."""

    async def main() -> None:
        for _ in range(20):
            pool = ThreadPoolExecutor(2)
            futures: list[asyncio.Future[int]] = []
            closer = threading.Timer(0.001, pool.shutdown, (False,), {"cancel_futures": True})
            closer.start()
            try:
                for number in range(5_000):
                    futures.append(exec_in_executor(pool, plain, number))
                    if number % 50 == 0:
                        await asyncio.sleep(0)
            except RuntimeError as error:
                assert "shutdown" in str(error)
            closer.join()
            pool.shutdown()
            if not futures:
                continue
            _, pending = await asyncio.wait(futures, timeout=10)
            assert not pending, f"{len(pending)} futures stay pending"
            for number, future in enumerate(futures):
                error = future.exception()
                if error is None:
                    assert future.result() == number
                else:
                    assert type(error) is concurrent.futures.CancelledError

    loops.run(main, timeout=18)


def queue_many(count: int) -> None:
    """*count* calls that wait at once, of which every third is cancelled, and all of which end."""
    held = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            try:
                for _ in range(2):
                    exec_in_executor(pool, held.wait)
                futures = [
                    exec_in_executor(pool, on_worker if number % 1000 == 0 else plain, number)
                    for number in range(count)
                ]
                for future in futures[::3]:
                    assert future.cancel()
            finally:
                held.set()
            await asyncio.wait(futures)
            for number, future in enumerate(futures):
                if number % 3 == 0:
                    assert future.cancelled()
                else:
                    assert future.result() == number

    asyncio.run(main())


def test_many_calls_that_are_queued_at_once_all_end() -> None:
    queue_many(5_000)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_hundred_thousand_calls_that_are_queued_at_once_all_end() -> None:
    queue_many(100_000)
