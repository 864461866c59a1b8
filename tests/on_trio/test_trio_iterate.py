"""``iterate_in_executor`` on trio: what is trio's own. The rest of the tests run on trio, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from helpers.loops import on_trio
from helpers.steps import LIMIT, Gate, until

from threadhop import WorkerPool, check_cancelled, iterate_in_executor, on_cancel

trio = pytest.importorskip("trio")


@on_trio
async def test_without_an_executor_it_takes_the_shared_one(shared_pool: WorkerPool) -> None:
    def names() -> Iterator[str]:
        yield threading.current_thread().name

    assert [name async for name in iterate_in_executor(None, names)] == ["threadhop_0"]


@pytest.mark.parametrize("by", ["check_cancelled", "on_cancel"])
@on_trio
async def test_a_cancelled_task_waits_until_the_source_is_closed(by: str) -> None:
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

    async def cancel(scope: trio.CancelScope) -> None:
        await until(lambda: gate.reached.is_set() and seen)
        scope.cancel()

    with WorkerPool(1) as pool:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel, scope)
                async for item in iterate_in_executor(pool, rows):
                    seen.append(str(item))  # noqa: PERF401
        assert scope.cancelled_caught
        assert seen == ["1", "closed"]


@on_trio
async def test_cancelled_before_its_first_item_nothing_begins() -> None:
    begun: list[bool] = []

    def rows() -> Iterator[None]:
        begun.append(True)
        yield

    with WorkerPool(1) as pool, trio.CancelScope() as scope:
        scope.cancel()
        async for _ in iterate_in_executor(pool, rows):
            raise AssertionError("an item came")
    assert scope.cancelled_caught
    assert not begun
