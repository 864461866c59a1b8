"""When all workers of a pool wait for their tasks, a warning says which blocks hold them."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import turns, until, wait_until

from threadhop import eventloop, exec_in_eventloop, threadpool


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said about parked workers."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "threadhop" and record.levelno == logging.WARNING
    ]


def line_of(func: Any, text: str) -> str:
    """The ``file:line`` of the line of *func* that has *text* in it."""
    lines, first = inspect.getsourcelines(func)
    (at,) = (at for at, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(func)}:{first + at}"


async def part(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async with threadpool(pool):  # part
        async with eventloop():
            await future


async def other_part(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async with threadpool(pool):  # other
        async with eventloop():
            await future


async def call(pool: ThreadPoolExecutor, future: asyncio.Future[None]) -> None:
    async def wait() -> None:
        await future

    async with threadpool(pool):  # call
        exec_in_eventloop(wait)


@pytest.mark.parametrize("away", [part, call])
def test_the_last_worker_that_is_parked_is_a_warning(
    loops: LoopKind, caplog: pytest.LogCaptureFixture, away: Any
) -> None:
    """With the number of workers, the pool, the line of each block, and the remedy."""
    pool = ThreadPoolExecutor(2)

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [start(away(pool, future))]
        await until(lambda: len(pool.__dict__.get("_threadhop_parked", ())) == 1)
        assert not warnings(caplog)
        tasks.append(start(other_part(pool, future)))
        await until(lambda: warnings(caplog))
        future.set_result(None)
        await asyncio.gather(*tasks)

    with pool:
        loops.run(main)
    (text,) = warnings(caplog)
    assert "all 2 workers" in text
    assert repr(pool) in text
    assert line_of(away, "# part" if away is part else "# call") in text
    assert line_of(other_part, "# other") in text
    assert "a pool of their own" in text


def test_a_worker_that_is_left_is_no_warning(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """One of three is free all the time."""

    async def main() -> None:
        for _ in range(5):
            future = asyncio.get_running_loop().create_future()
            with ThreadPoolExecutor(3) as pool:
                tasks = [start(part(pool, future)) for _ in range(2)]
                await until(lambda pool=pool: len(pool.__dict__.get("_threadhop_parked", ())) == 2)
                future.set_result(None)
                await asyncio.gather(*tasks)

    loops.run(main)
    assert not warnings(caplog)


def test_workers_that_are_parked_one_after_the_other_are_no_warning(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that came back do not count."""

    async def one_after_the_other(pool: ThreadPoolExecutor) -> None:
        async with threadpool(pool):
            for _ in range(10):
                async with eventloop():
                    await asyncio.sleep(0)
                exec_in_eventloop(asyncio.sleep, 0)

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            await one_after_the_other(pool)
            await one_after_the_other(pool)

    loops.run(main)
    assert not warnings(caplog)


def test_it_is_said_once_for_each_set_of_lines(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten times the same is one warning; another block is another one."""

    async def once(pool: ThreadPoolExecutor, *aways: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [start(away(pool, future)) for away in aways]
        await until(lambda: len(pool.__dict__.get("_threadhop_parked", ())) == len(aways))
        await turns()
        future.set_result(None)
        await asyncio.gather(*tasks)

    async def main() -> None:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(5):
                await once(pool, part, part)
            await until(lambda: len(warnings(caplog)) == 1)
            for _ in range(5):
                await once(pool, part, other_part)
                await once(pool, other_part, part)
            await until(lambda: len(warnings(caplog)) == 2)
            await once(pool, part, part)
            assert len(warnings(caplog)) == 2
        with ThreadPoolExecutor(2) as pool:  # another pool has its own
            await once(pool, part, part)
            await until(lambda: len(warnings(caplog)) == 3)

    loops.run(main)
    assert len(warnings(caplog)) == 3


def test_the_warning_does_not_keep_the_pool_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said is kept with the pool, not in a table of all pools."""
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
    current_task_loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """The part waits for a block of the same pool, which waits for the worker of the part."""

    async def quick(pool: ThreadPoolExecutor) -> None:
        async with threadpool(pool):
            pass

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    async with threadpool(pool):  # circle
                        async with eventloop():
                            inner = start(quick(pool))
                            await until(lambda: warnings(caplog))
                            timeout.reschedule(asyncio.get_running_loop().time())
                            await inner
            await quick(pool)  # the worker is free again

    current_task_loops.run(main)
    (text,) = warnings(caplog)
    assert "all 1 workers" in text
    assert f"{__file__}:" in text


def test_a_default_executor_full_of_parts_that_wait_for_it_is_said_and_ended(
    current_task_loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """``asyncio.to_thread`` uses the same pool. On uvloop, which hides it, that is not said."""
    met = threading.Barrier(2, timeout=5)
    shown: list[bool] = []
    asking = 0

    async def block() -> None:
        async with threadpool():
            met.wait()
            async with eventloop():
                nonlocal asking
                asking += 1
                await asyncio.to_thread(str, 1)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        shown.append(hasattr(loop, "_default_executor"))
        tasks = {start(block()), start(block())}
        await until(lambda: asking == 2)
        await until(lambda: len(warnings(caplog)) == shown[0])
        for task in tasks:
            assert task.cancel(), "it is not a circle"
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert await asyncio.to_thread(str, 1) == "1"

    current_task_loops.run(main)
    assert len(warnings(caplog)) == shown.pop()
    assert all("all 2 workers" in text for text in warnings(caplog))


async def nested(
    outer: ThreadPoolExecutor, inner: ThreadPoolExecutor, met: threading.Barrier
) -> None:
    async with threadpool(outer):  # nested
        met.wait()
        async with threadpool(inner):
            pass


def test_a_in_b_against_b_in_a_is_said_and_ended_by_a_cancellation(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Each holds what the other wants. One cancelled, the other one comes to its end."""
    met = threading.Barrier(2, timeout=5)

    async def main() -> None:
        with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b:
            one, other = start(nested(a, b, met)), start(nested(b, a, met))
            await until(lambda: warnings(caplog))
            assert not one.done()
            assert not other.done()
            one.cancel()
            await other
            await until(one.done)
            assert one.cancelled()

    loops.run(main)
    assert 1 <= len(warnings(caplog)) <= 2  # one, or the two if both parked at the same moment
    assert all(line_of(nested, "# nested") in text for text in warnings(caplog))


def test_a_in_b_alone_is_no_warning(loops: LoopKind, caplog: pytest.LogCaptureFixture) -> None:
    """All workers of the outer pool are parked, but in a pool that works: they come back."""
    met = threading.Barrier(1)

    async def main() -> None:
        with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b:
            await asyncio.gather(*(nested(a, b, met) for _ in range(5)))

    loops.run(main)
    assert not warnings(caplog)


def test_three_pools_in_a_circle_are_ended_by_a_cancellation(loops: LoopKind) -> None:
    met = threading.Barrier(3, timeout=5)

    async def main() -> None:
        with (
            ThreadPoolExecutor(1) as a,
            ThreadPoolExecutor(1) as b,
            ThreadPoolExecutor(1) as c,
        ):
            tasks = [start(nested(x, y, met)) for x, y in ((a, b), (b, c), (c, a))]
            await until(lambda: all(pool.__dict__.get("_threadhop_parked") for pool in (a, b, c)))
            assert not any(task.done() for task in tasks)
            tasks[0].cancel()
            await asyncio.wait(tasks)
            assert [task.cancelled() for task in tasks] == [True, False, False]

    loops.run(main)


def test_parts_of_two_pools_against_each_other_are_ended_by_a_timeout(
    current_task_loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """A > loop > B in one task, B > loop > A in another."""
    met = threading.Barrier(2, timeout=5)

    async def through_the_loop(outer: ThreadPoolExecutor, inner: ThreadPoolExecutor) -> None:
        async with threadpool(outer):
            met.wait()
            async with eventloop():
                async with threadpool(inner):
                    pass

    async def main() -> None:
        with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    tasks = [start(through_the_loop(a, b)), start(through_the_loop(b, a))]
                    await until(lambda: len(warnings(caplog)) == 2)
                    timeout.reschedule(asyncio.get_running_loop().time())
                    await asyncio.gather(*tasks)
            await asyncio.wait(tasks)

    current_task_loops.run(main)
    assert len(warnings(caplog)) == 2  # each pool has all of its workers parked on the loop


def test_generators_that_hold_all_workers_are_said(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Each yields from a part: between two rows its worker is parked."""

    async def rows(pool: ThreadPoolExecutor) -> AsyncIterator[int]:
        async with threadpool(pool):
            async with eventloop():
                yield 1

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            async with aclosing(rows(pool)) as source:
                async for _ in source:
                    await until(lambda: warnings(caplog))

    loops.run(main)
    assert len(warnings(caplog)) == 1
