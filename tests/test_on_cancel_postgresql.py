"""``on_cancel`` with a real PostgreSQL: a query ends when its task is cancelled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

import pytest
from helpers.loops import TRIO, LoopKind
from helpers.postgresql import REASON, find_programs, postgresql
from helpers.steps import LIMIT, until

from threadhop import WorkerPool, check_cancelled, on_cancel, threadpool

pytest.importorskip("psycopg", reason="the extra 'libraries' is not installed")

import psycopg

pytestmark = [
    pytest.mark.libraries,
    pytest.mark.skipif(find_programs() is None, reason=REASON),
    pytest.mark.timeout(60),  # the first one makes the cluster
]

#: Seconds. A query that is not cancelled takes thirty.
AT_ONCE = 1.0


@pytest.fixture
def executor_class() -> type[WorkerPool]:
    """The kind of pool makes no difference."""
    return WorkerPool


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture
def connection(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url) as connection:
        yield connection


@pytest.fixture
def asleep(url: str, connection: psycopg.Connection[Any]) -> Iterator[Callable[[], bool]]:
    """Tells whether the server runs the query of *connection*."""
    query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    with psycopg.connect(url, autocommit=True) as other:
        pid = connection.info.backend_pid
        yield lambda: other.execute(query, [pid]).fetchone() is not None


def sleep_and_be_cancelled(connection: psycopg.Connection[Any]) -> None:
    """On a worker."""
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(30)")


async def cancel(
    block: Callable[[], Coroutine[Any, Any, None]],
    when: Callable[[], bool],
) -> float:
    """Run *block* in a task, and cancel it *when* it is so. Returns how long that took."""
    if TRIO is not None:
        import trio

        if trio.lowlevel.in_trio_task():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(block)
                await until(when)
                started = time.monotonic()
                nursery.cancel_scope.cancel()
            assert nursery.cancel_scope.cancelled_caught
            return time.monotonic() - started
    task = asyncio.get_running_loop().create_task(block())
    await until(when)
    started = time.monotonic()
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    return time.monotonic() - started


@pytest.mark.trio
def test_a_query_ends_when_its_task_is_cancelled_and_the_connection_goes_on(
    loops: LoopKind,
    executor: Executor,
    connection: psycopg.Connection[Any],
    asleep: Callable[[], bool],
) -> None:
    """By ``cancel_safe``; the table in the how-to says so."""

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(connection.cancel_safe):
                sleep_and_be_cancelled(connection)
            connection.rollback()

    async def main() -> None:
        assert await cancel(block, asleep) < AT_ONCE
        async with threadpool(executor):
            assert connection.execute("SELECT 1").fetchone() == (1,)

    loops.run(main)


@contextmanager
def cancelled_with_the_task(
    connection: psycopg.Connection[Any], told: threading.Event
) -> Iterator[None]:
    """That of the how-to; *told* is set after the first call."""
    over = threading.Event()
    over.set()

    def cancel() -> None:
        connection.cancel_safe()
        told.set()
        while not over.wait(0.1):
            connection.cancel_safe()

    with on_cancel(cancel):
        over.clear()
        try:
            check_cancelled()
            yield
        finally:
            over.set()


@pytest.mark.trio
def test_a_task_that_is_cancelled_between_two_queries_ends_the_second_one(
    loops: LoopKind, executor: Executor, connection: psycopg.Connection[Any]
) -> None:
    """The server forgets a cancel that meets no query: so the callback repeats it."""
    between, told = threading.Event(), threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            with cancelled_with_the_task(connection, told):
                connection.execute("SELECT 1")
                between.set()
                assert told.wait(LIMIT)
                sleep_and_be_cancelled(connection)
            connection.rollback()
            assert connection.execute("SELECT 1").fetchone() == (1,)

    async def main() -> None:
        assert await cancel(block, between.is_set) < AT_ONCE

    loops.run(main)


@pytest.mark.trio
def test_a_task_that_is_cancelled_before_begins_no_query(
    loops: LoopKind, executor: Executor, connection: psycopg.Connection[Any]
) -> None:
    """The entry of ``on_cancel`` waits for its callback, and the callback not for the body."""
    before, told, go_on = threading.Event(), threading.Event(), threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(go_on.set):
                before.set()
                assert go_on.wait(LIMIT)
            with cancelled_with_the_task(connection, told):
                raise AssertionError("the body has begun")

    async def main() -> None:
        assert await cancel(block, before.is_set) < AT_ONCE
        assert told.is_set()

    loops.run(main)
