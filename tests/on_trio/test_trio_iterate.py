"""``iterate_in_executor`` on trio."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from helpers.calls import OopsError
from helpers.steps import LIMIT, Gate

from threadhop import (
    AsyncExecutor,
    WorkerPool,
    check_cancelled,
    exec_in_eventloop,
    iterate_in_executor,
    on_cancel,
)

trio = pytest.importorskip("trio")


class Source:
    """Rows, and the threads that have made and closed them."""

    def __init__(self, count: int = 200) -> None:
        self.count = count
        self.threads: set[int] = set()
        self.closed = threading.Event()

    def rows(self) -> Iterator[int]:
        self.threads.add(threading.get_ident())
        try:
            yield from range(self.count)
        finally:
            self.threads.add(threading.get_ident())
            self.closed.set()


def test_all_items_come_in_order_from_one_worker(shared_pool: WorkerPool) -> None:
    """Of the executor that is named, and of the shared one."""

    async def main() -> None:
        with WorkerPool(2) as pool:
            for executor in (pool, None):
                source = Source()
                items = [item async for item in iterate_in_executor(executor, source.rows)]
                assert items == list(range(200))
                assert len(source.threads) == 1
                assert threading.get_ident() not in source.threads
            source = Source(3)
            assert [item async for item in AsyncExecutor(pool).iterate(source.rows)] == [0, 1, 2]

    trio.run(main)


def test_an_error_comes_after_the_items_before_it() -> None:
    def rows() -> Iterator[int]:
        yield 1
        raise OopsError("the cursor is gone")

    async def main() -> None:
        items = []
        with WorkerPool(1) as pool, pytest.raises(OopsError):
            async for item in iterate_in_executor(pool, rows):
                items.append(item)  # noqa: PERF401 - the error leaves those before it
        assert items == [1]

    trio.run(main)


def test_left_early_it_closes_the_source_on_its_worker() -> None:
    async def main() -> None:
        with WorkerPool(1) as pool:
            source = Source(10**9)
            async with iterate_in_executor(pool, source.rows, buffersize=4) as rows:
                async for item in rows:
                    if item == 10:
                        break
            assert source.closed.is_set()
            source = Source(10**9)
            async with aclosing(iterate_in_executor(pool, source.rows)) as rows:
                assert await anext(rows) == 0
            assert source.closed.is_set()
            assert len(source.threads) == 1

    trio.run(main)


@pytest.mark.parametrize("by", ["check_cancelled", "on_cancel"])
def test_a_cancelled_task_waits_until_the_source_is_closed(by: str) -> None:
    gate, stopped = Gate(), threading.Event()
    seen: list[str] = []

    def rows() -> Iterator[int]:
        try:
            yield 1
            gate.reached.set()
            if by == "on_cancel":
                with on_cancel(stopped.set):
                    assert stopped.wait(LIMIT)
            else:
                while True:
                    check_cancelled()
                    stopped.wait(0.001)
        finally:
            seen.append("closed")

    async def main() -> None:
        with WorkerPool(1) as pool:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel, scope)
                    async for item in iterate_in_executor(pool, rows):
                        seen.append(str(item))  # noqa: PERF401
            assert scope.cancelled_caught
            assert seen == ["1", "closed"]

    async def cancel(scope: trio.CancelScope) -> None:
        while not (gate.reached.is_set() and seen):
            await trio.sleep(0.001)
        scope.cancel()

    trio.run(main)


def test_cancelled_before_its_first_item_nothing_begins() -> None:
    async def main() -> None:
        with WorkerPool(1) as pool, trio.CancelScope() as scope:
            scope.cancel()
            source = Source()
            async for _ in iterate_in_executor(pool, source.rows):
                raise AssertionError("an item came")
        assert scope.cancelled_caught
        assert not source.threads

    trio.run(main)


def test_the_source_may_call_the_run() -> None:
    def rows() -> Iterator[int]:
        for _ in range(3):
            yield exec_in_eventloop(threading.get_ident)

    async def main() -> None:
        with WorkerPool(1) as pool:
            here = threading.get_ident()
            assert [item async for item in iterate_in_executor(pool, rows)] == [here] * 3

    trio.run(main)
