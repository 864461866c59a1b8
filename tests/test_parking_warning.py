"""When all workers of a pool wait for their tasks, a warning says which blocks hold them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.places import ended, start
from helpers.steps import LIMIT, turns, until, wait_until

from threadhop import eventloop, exec_in_eventloop, threadpool
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


@pytest.fixture
def a() -> Any:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture
def b() -> Any:
    with ThreadPoolExecutor(1) as pool:
        yield pool


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


@pytest.mark.parametrize("away", [part, call])
def test_the_last_worker_that_is_parked_is_a_warning(
    loops: LoopKind, warnings: Any, away: Any
) -> None:
    """The warning has the number of workers, the pool, the line of each block, and the remedy."""
    pool = ThreadPoolExecutor(2)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [start(away(pool, future))]
        await until(lambda: parked(pool) == 1)
        assert not warnings()
        tasks.append(start(other_part(pool, future)))
        await until(warnings)
        future.set_result(None)
        await ended(*tasks)

    with pool:
        loops.run(main)
    (text,) = warnings()
    assert "all 2 workers" in text
    assert repr(pool) in text
    assert line_of(away, "# the block") in text
    assert line_of(other_part, "# the block") in text
    assert "a pool of their own" in text


def test_a_worker_that_is_left_is_no_warning(loops: LoopKind, warnings: Any) -> None:
    """One of three is free all the time."""

    async def main(pool: ThreadPoolExecutor) -> None:
        for _ in range(5):
            future = asyncio.get_running_loop().create_future()
            tasks = [start(part(pool, future)) for _ in range(2)]
            await until(lambda: parked(pool) == 2)
            future.set_result(None)
            await ended(*tasks)

    with ThreadPoolExecutor(3) as pool:
        loops.run(main(pool))
    assert not warnings()


def test_workers_that_are_parked_one_after_the_other_are_no_warning(
    loops: LoopKind, warnings: Any
) -> None:
    """Workers that came back do not count."""

    async def main(pool: ThreadPoolExecutor) -> None:
        for _ in range(2):
            async with threadpool(pool):
                for _ in range(10):
                    async with eventloop():
                        await asyncio.sleep(0)
                    exec_in_eventloop(asyncio.sleep, 0)

    with ThreadPoolExecutor(2) as pool:
        loops.run(main(pool))
    assert not warnings()


def test_workers_that_wait_for_a_pool_that_works_are_no_warning(
    loops: LoopKind, warnings: Any, a: ThreadPoolExecutor, b: ThreadPoolExecutor
) -> None:
    """All workers of the outer pool are parked, but they come back."""
    met = threading.Barrier(1)

    async def main() -> None:
        await asyncio.gather(*(nested(a, b, met) for _ in range(5)))

    loops.run(main)
    assert not warnings()


def test_it_is_said_once_for_each_set_of_lines(loops: LoopKind, warnings: Any) -> None:
    """Ten times the same is one warning; another block, or another pool, is another one."""

    async def once(pool: ThreadPoolExecutor, *aways: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [start(away(pool, future)) for away in aways]
        await until(lambda: parked(pool) == len(aways))
        await turns()
        future.set_result(None)
        await ended(*tasks)

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(5):
                await once(pool, part, part)
            await until(lambda: len(warnings()) == 1)
            for _ in range(5):
                await once(pool, part, other_part)
                await once(pool, other_part, part)
            await until(lambda: len(warnings()) == 2)
            await once(pool, part, part)
            assert len(warnings()) == 2
        with ThreadPoolExecutor(2) as pool:
            await once(pool, part, part)
            await until(lambda: len(warnings()) == 3)

    loops.run(main)
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


# --- circles, and that each of them can be ended


def test_a_part_that_waits_for_a_block_of_another_task_is_said_and_ended_by_a_timeout(
    current_task_loops: LoopKind, warnings: Any, a: ThreadPoolExecutor
) -> None:
    """The part waits for a block of the same pool, which waits for the worker of the part."""

    async def quick() -> None:
        async with threadpool(a):
            pass

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                async with threadpool(a):
                    async with eventloop():
                        inner = start(quick())
                        await until(warnings)
                        timeout.reschedule(asyncio.get_running_loop().time())
                        await inner
        await quick()  # the worker is free again

    current_task_loops.run(main)
    (text,) = warnings()
    assert "all 1 workers" in text
    assert f"{__file__}:" in text


def test_a_default_executor_full_of_parts_that_wait_for_it_is_said_and_ended(
    current_task_loops: LoopKind, warnings: Any
) -> None:
    """``asyncio.to_thread`` uses the same pool."""
    met = threading.Barrier(2, timeout=LIMIT)
    asking = 0

    async def block() -> None:
        async with threadpool():
            met.wait()
            async with eventloop():
                nonlocal asking
                asking += 1
                await asyncio.to_thread(str, 1)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        tasks = {start(block()), start(block())}
        await until(lambda: asking == 2)
        await until(lambda: len(warnings()) == 1)
        for task in tasks:
            assert task.cancel(), "it is not a circle"
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert await asyncio.to_thread(str, 1) == "1"

    current_task_loops.run(main)
    (text,) = warnings()
    assert "all 2 workers" in text


def test_pools_that_wait_for_each_other_are_said_and_ended_by_a_cancellation(
    loops: LoopKind, warnings: Any, a: ThreadPoolExecutor, b: ThreadPoolExecutor
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

    async def main() -> None:
        await cancel_one_of((a, b), (b, a))
        assert 1 <= len(warnings()) <= 2  # one, or the two if both parked at the same moment
        with ThreadPoolExecutor(1) as c:
            await cancel_one_of((a, b), (b, c), (c, a))

    loops.run(main)
    assert all(line_of(nested, "# the block") in text for text in warnings())
