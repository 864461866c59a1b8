"""Blocks and calls on a ``WorkerPool`` and on its views.

(The tests of blocks and of calls run on a ``WorkerPool``, too, and on every kind of loop.)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.steps import until

from threadhop import (
    WorkerPool,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    threadpool,
)

here = threading.get_ident


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


def numbers(pool: WorkerPool) -> tuple[int, int, int, int]:
    """Busy, away, idle, queued."""
    return pool.statistics()[1:]


def is_idle(pool: WorkerPool) -> bool:
    busy, away, _, queued = numbers(pool)
    return busy == away == queued == 0


async def block(executor: Executor | None) -> int:
    async with threadpool(executor):
        return here()


@contextlib.contextmanager
def comes_back() -> Iterator[None]:
    thread = here()
    try:
        yield
    finally:
        assert here() == thread


async def part(executor: Executor, wait: Any, _: object) -> None:
    async with threadpool(executor):
        with comes_back():
            async with eventloop():
                await wait()


async def call(executor: Executor, wait: Any, _: object) -> None:
    async with threadpool(executor):
        with comes_back():
            exec_in_eventloop(wait)


async def call_of_call(executor: Executor, wait: Any, _: object) -> None:
    """``exec_in_eventloop`` in what ``exec_in_executor`` runs."""

    def ask() -> None:
        with comes_back():
            exec_in_eventloop(wait)

    await exec_in_executor(executor, ask)


async def inner_block(executor: Executor, wait: Any, inner: Executor) -> None:
    async with threadpool(executor):
        outer = here()
        with comes_back():
            async with threadpool(inner):
                assert here() != outer
                exec_in_eventloop(wait)


@pytest.mark.parametrize("away", [part, call, call_of_call, inner_block])
@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@on_one_loop
async def test_a_body_that_is_away_leaves_its_place_and_comes_back_however_it_ends(
    away: Any, of_view: bool
) -> None:
    """Others go on meanwhile. It comes back to its thread."""
    with WorkerPool(1, max_threads=2) as pool, ThreadPoolExecutor(1) as inner:
        executor = pool.limited(1) if of_view else pool
        for ending in ("return", "error", "cancellation"):
            future = asyncio.get_running_loop().create_future()

            async def wait(future: asyncio.Future[None] = future) -> None:
                await future

            task = start(away(executor, wait, inner))
            await until(lambda: numbers(pool)[:2] == (0, 1))
            await block(executor)
            await exec_in_executor(executor, str, 1)
            if ending == "return":
                future.set_result(None)
                await task
            elif ending == "error":
                future.set_exception(LookupError("away"))
                with pytest.raises(LookupError, match="away"):
                    await task
            else:
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
                future.cancel()
            await until(lambda: is_idle(pool))
            await block(executor)


# --- views


def test_executors_that_share_threads_may_be_nested(loops: LoopKind) -> None:
    """A pool and its view are two executors: the body moves to another thread and comes back.

    As many tasks run at once as there are threads for: each holds one while it is in the other.
    """

    async def nested(outside: Executor, inside: Executor) -> None:
        async with threadpool(outside):
            thread = here()
            async with threadpool(inside):
                assert (here() == thread) is (outside is inside)
            assert here() == thread

    async def main() -> None:
        with WorkerPool(2) as pool:
            view = pool.limited(2)
            for pair in ((pool, view), (view, pool), (view, view)):
                await asyncio.gather(*(nested(*pair) for _ in range(15)))
            await asyncio.gather(*(nested(pool.limited(1), pool.limited(1)) for _ in range(7)))
            await until(lambda: is_idle(pool))

    loops.run(main)


# --- shutdown


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize("drop", [False, True], ids=["keep", "cancel"])
@on_one_loop
async def test_a_shutdown_while_a_body_is_away_lets_it_come_back(of_view: bool, drop: bool) -> None:
    """The body comes back to its own thread and may re-enter. Other blocks are refused."""

    async def visit() -> None:
        async with threadpool(executor):
            with comes_back():
                thread = here()
                async with eventloop():
                    executor.shutdown(wait=False, cancel_futures=drop)
                    async with threadpool(executor):
                        assert here() == thread
                    with pytest.raises(RuntimeError, match="after shutdown"):
                        await start(block(executor))

    pool = WorkerPool(1, max_threads=2)
    executor = pool.limited(1) if of_view else pool
    await visit()
    pool.shutdown()
    assert not pool._threads


# --- in the place of other executors


def test_it_may_be_the_default_executor_of_a_loop(current_task_loops: LoopKind) -> None:
    """For blocks, calls, ``to_thread``, ``getaddrinfo``. The Runner shuts it down at its end."""
    done: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        async with threadpool():
            thread = threading.current_thread()
            assert thread in pool._threads
            async with eventloop():
                assert await asyncio.to_thread(str, 1) == "1"
                assert await loop.getaddrinfo("127.0.0.1", 80)
            async with threadpool(pool):
                assert threading.current_thread() is thread
        assert await exec_in_executor(None, threading.current_thread) in pool._threads
        for number in range(20):
            loop.run_in_executor(None, done.append, number)

    pool = WorkerPool(2)
    current_task_loops.run(main)
    assert sorted(done) == list(range(20))
    assert not pool._threads


@pytest.mark.parametrize("kind", ["stock", "pool", "view"])
@on_one_loop
async def test_who_replaces_submit_sees_blocks_and_calls(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """As tools do that trace or limit what goes into threads."""
    seen: list[Any] = []

    def trace(owner: Any, patch: pytest.MonkeyPatch) -> None:
        submit = owner.submit

        def traced(*args: Any, **kwargs: Any) -> Any:
            seen.append(args)
            return submit(*args, **kwargs)

        patch.setattr(owner, "submit", traced)

    with ThreadPoolExecutor(2) if kind == "stock" else WorkerPool(2) as pool:
        executor: Any = pool.limited(2) if kind == "view" else pool  # type: ignore[attr-defined]
        for owner in (executor, type(executor)):
            await block(executor)
            with monkeypatch.context() as patch:
                trace(owner, patch)
                await block(executor)
                await exec_in_executor(executor, str)
            await block(executor)
            assert len(seen) == 2
            seen.clear()


@on_one_loop
async def test_a_subclass_sees_blocks_and_calls_in_its_submit() -> None:
    seen: list[Any] = []

    class TracingPool(WorkerPool):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            seen.append(fn)
            return super().submit(fn, *args, **kwargs)

    with TracingPool(2) as pool:
        await block(pool)
        await exec_in_executor(pool, str)
    assert len(seen) == 2
