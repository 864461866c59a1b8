"""When all workers of a pool wait for their tasks, a warning says which blocks hold them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.places import ended, start
from helpers.steps import LIMIT, turns, until, wait_until

from threadhop import WorkerPool, eventloop, exec_in_eventloop, threadpool
from threadhop._away import all_away_of


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Any:
    """The result, when called, returns the warnings about parked workers so far."""

    def messages() -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.name == "threadhop" and record.levelno == logging.WARNING
        ]

    return messages


def one_worker() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


a, b = pytest.fixture(one_worker, name="a"), pytest.fixture(one_worker, name="b")


def parked(pool: ThreadPoolExecutor) -> int:
    return len(all_away_of(pool))


def line_of(func: Any, text: str) -> str:
    """The ``file:line`` of the line of *func* that has *text* in it."""
    lines, first = inspect.getsourcelines(func)
    (at,) = (at for at, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(func)}:{first + at}"


async def part(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async with threadpool(pool):  # the block
        async with eventloop():
            await future


async def other_part(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async with threadpool(pool):  # the block
        async with eventloop():
            await future


async def call(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async def wait() -> None:
        await future

    async with threadpool(pool):  # the block
        exec_in_eventloop(wait)


async def nested(
    outer: ThreadPoolExecutor, inner: ThreadPoolExecutor, met: threading.Barrier
) -> None:
    async with threadpool(outer):  # the block
        met.wait()
        async with threadpool(inner):
            pass


async def park(pool: ThreadPoolExecutor, *aways: Any, warnings: Any = list, said: int = 0) -> None:
    """All of *aways* at once, until there are that many warnings."""
    future = asyncio.get_running_loop().create_future()
    tasks = [start(away(pool, future)) for away in aways]
    await until(lambda: parked(pool) == len(aways) and len(warnings()) >= said)
    await turns()
    future.set_result(None)
    await ended(*tasks)


@pytest.mark.parametrize("away", [part, call])
@pytest.mark.parametrize("kind", ["stock", "pool and view"])
def test_the_last_worker_that_is_parked_is_a_warning(
    loops: LoopKind, warnings: Any, away: Any, kind: str
) -> None:
    """The warning has the number of workers, the pool, the line of each block, and the remedy."""

    async def main() -> None:
        await park(pool, away)
        assert not warnings()
        await park(pool, away, on_other, warnings=warnings, said=1)

    def on_other(_: Any, future: asyncio.Future[None]) -> Any:
        return other_part(other, future)

    with ThreadPoolExecutor(2) if kind == "stock" else WorkerPool(1, max_threads=2) as pool:
        other: Any = pool.limited(2) if isinstance(pool, WorkerPool) else pool
        loops.run(main)
    (text,) = warnings()
    assert "all 2 workers" in text
    assert repr(pool) in text
    assert line_of(away, "# the block") in text
    assert line_of(other_part, "# the block") in text
    assert "a pool of their own" in text


@on_one_loop
async def test_workers_that_come_back_or_are_left_are_no_warning(
    warnings: Any, a: ThreadPoolExecutor, b: ThreadPoolExecutor
) -> None:
    """1 one of three is free all the time, 2 one is parked, and then another, 3 all workers are
    parked for a pool that works."""
    with ThreadPoolExecutor(3) as pool:
        for _ in range(5):
            await park(pool, part, part)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            async with threadpool(pool):
                for _ in range(10):
                    async with eventloop():
                        await asyncio.sleep(0)
                    exec_in_eventloop(asyncio.sleep, 0)
    await asyncio.gather(*(nested(a, b, threading.Barrier(1)) for _ in range(5)))
    assert not warnings()


@on_one_loop
async def test_it_is_said_once_for_each_set_of_lines(warnings: Any) -> None:
    """Ten times the same is one warning; another block, or another pool, is another one."""
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            await park(pool, part, part, warnings=warnings, said=1)
        assert len(warnings()) == 1
        for _ in range(5):
            await park(pool, part, other_part, warnings=warnings, said=2)
            await park(pool, other_part, part)
        await park(pool, part, part)
        assert len(warnings()) == 2
    with ThreadPoolExecutor(2) as pool:
        await park(pool, part, part, warnings=warnings, said=3)
    assert len(warnings()) == 3


def test_the_warning_does_not_keep_the_pool_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool itself keeps the lines that were said: there is no table of all pools."""
    said = threading.Event()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    # A record has the pool, and pytest keeps all that it sees.
    logger = logging.getLogger("threadhop")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [Handler()])

    async def main() -> weakref.ref[ThreadPoolExecutor]:
        future = asyncio.get_running_loop().create_future()
        with ThreadPoolExecutor(1) as pool:
            task = start(part(pool, future))
            await until(said.is_set)
            future.set_result(None)
            await task
            return weakref.ref(pool)

    ref = asyncio.run(main())

    def collected() -> bool:
        gc.collect()
        return ref() is None

    wait_until(collected)


# --- circles, and that they can be ended


@on_one_loop
async def test_pools_that_wait_for_each_other_are_said_and_ended_by_a_cancellation(
    warnings: Any, a: ThreadPoolExecutor, b: ThreadPoolExecutor
) -> None:
    """Each holds what the next one wants. One cancelled, the others come to their end."""

    async def cancel_one_of(*pairs: tuple[ThreadPoolExecutor, ThreadPoolExecutor]) -> None:
        met = threading.Barrier(len(pairs), timeout=LIMIT)
        tasks = [start(nested(outer, inner, met)) for outer, inner in pairs]
        await until(lambda: all(parked(outer) for outer, _ in pairs))
        await until(warnings)
        assert not any(task.done() for task in tasks)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True] + [False] * (len(pairs) - 1)

    await cancel_one_of((a, b), (b, a))
    assert 1 <= len(warnings()) <= 2  # one, or the two if both parked at the same moment
    with ThreadPoolExecutor(1) as c:
        await cancel_one_of((a, b), (b, c), (c, a))
    assert all(line_of(nested, "# the block") in text for text in warnings())
