"""Blocks and calls on a ``WorkerPool`` and on its views, on every kind of loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import Gate, busy, turns, until, wait_until

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


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "threadhop" and record.levelno == logging.WARNING
    ]


async def block(executor: Executor | None) -> int:
    async with threadpool(executor):
        return here()


async def part(executor: Executor, future: asyncio.Future[None]) -> None:
    async with threadpool(executor):
        async with eventloop():
            await future


async def held(executor: Executor, gate: Gate) -> int:
    async with threadpool(executor):
        gate.stop_here()
        return here()


# --- blocks that wait for blocks of their own pool


def test_parts_that_wait_for_blocks_of_their_own_pool_do_not_block_each_other(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """All of them are away at once, up to the last threads that do the work of the others."""

    async def outer(pool: WorkerPool, all_in: asyncio.Event) -> tuple[int, int]:
        nonlocal inside
        async with threadpool(pool):
            before = here()
            async with eventloop():
                inside += 1
                if inside == 14:
                    all_in.set()
                await all_in.wait()
                await start(block(pool))
            return before, here()

    async def main() -> None:
        with WorkerPool(2) as pool:  # 16 threads
            all_in = asyncio.Event()
            for before, after in await asyncio.gather(*(outer(pool, all_in) for _ in range(14))):
                assert before == after
            wait_until(lambda: is_idle(pool))
            assert len(pool._threads) <= 16

    inside = 0
    loops.run(main)
    assert not warnings(caplog)


def test_threads_that_are_all_away_are_said_once_with_the_lines_of_their_blocks(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Blocks on views of the pool included."""

    async def park(pool: WorkerPool, *executors: Executor) -> None:
        future = asyncio.get_running_loop().create_future()
        tasks = [start(part(executor, future)) for executor in executors]
        await until(lambda: numbers(pool)[1] == len(tasks))
        await turns()
        future.set_result(None)
        await asyncio.gather(*tasks)

    async def main() -> str:
        with WorkerPool(1, max_threads=2) as pool:
            view = pool.limited(2)
            await park(pool, pool)
            assert not warnings(caplog), "one thread is left"
            for _ in range(3):
                await park(pool, pool, view)
                await until(lambda: len(warnings(caplog)) == 1)
            return f"all 2 workers of {pool!r} are parked"

    text = loops.run(main)
    (warning,) = warnings(caplog)
    assert text in warning
    assert warning.count(f"{__file__}:{part.__code__.co_firstlineno + 1}") == 1


def test_a_pool_of_one_is_one_thread_and_may_be_nested_through_the_loop(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """The idiom for things that are bound to their thread."""

    async def work(one: WorkerPool) -> set[int]:
        threads = set()
        for _ in range(3):
            async with threadpool(one):
                threads.add(here())
                async with eventloop():
                    await asyncio.sleep(0)
                    async with threadpool(one):
                        threads.add(here())
                threads.add(here())
        return threads

    async def main() -> None:
        with WorkerPool(1) as one:
            threads = await asyncio.gather(*(work(one) for _ in range(10)))
            assert len(set().union(*threads)) == 1

    loops.run(main)


# --- what counts


def test_a_block_of_another_executor_leaves_its_place_and_comes_back_to_its_thread(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def nested(pool: WorkerPool, inner: Executor, gate: Gate) -> None:
        async with threadpool(pool):
            thread = here()
            async with threadpool(inner):
                assert here() != thread
                gate.stop_here()
            assert here() == thread
            assert numbers(pool)[1] == 0

    async def main() -> None:
        with WorkerPool(1, max_threads=2) as pool, executor_class(1) as inner:
            gate = Gate()
            task = start(nested(pool, inner, gate))
            await until(lambda: gate.reached.is_set() and numbers(pool) == (0, 1, 0, 0))
            await block(pool)
            gate.open()
            await task

    loops.run(main)


def test_a_call_of_the_loop_in_a_function_leaves_its_place(loops: LoopKind) -> None:
    """``exec_in_eventloop`` in what ``exec_in_executor`` runs: others go on meanwhile."""

    async def main() -> None:
        with WorkerPool(1, max_threads=2) as pool:

            async def ask() -> str:
                await until(lambda: numbers(pool) == (0, 1, 0, 0))
                return await exec_in_executor(pool, str, 1)

            def call() -> tuple[int, str, int, int]:
                return here(), exec_in_eventloop(ask), here(), numbers(pool)[1]

            before, value, after, away = await exec_in_executor(pool, call)
            assert (value, away) == ("1", 0)
            assert before == after

    loops.run(main)


@pytest.mark.parametrize("ends", ["by an error", "by a cancellation"])
def test_a_body_that_ends_while_it_is_away_still_comes_back(loops: LoopKind, ends: str) -> None:
    async def main() -> None:
        with WorkerPool(1) as pool:
            future = asyncio.get_running_loop().create_future()
            task = start(part(pool, future))
            await until(lambda: numbers(pool)[1] == 1)
            if ends == "by an error":
                future.set_exception(LookupError("away"))
                with pytest.raises(LookupError, match="away"):
                    await task
            else:
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
            await until(lambda: is_idle(pool))
            await block(pool)

    loops.run(main)


# --- views


def test_a_full_view_holds_back_blocks_and_calls_and_leaves_the_other_workers_alone(
    loops: LoopKind,
) -> None:
    async def main() -> None:
        with WorkerPool(3) as pool:
            view = pool.limited(2)
            gates = [Gate(), Gate()]
            full = [start(held(view, gates[0])), exec_in_executor(view, gates[1].stop_here)]
            await until(lambda: all(gate.reached.is_set() for gate in gates))
            more = [start(block(view)), exec_in_executor(view, here)]
            await block(pool)
            await exec_in_executor(pool.limited(1), str)
            await until(lambda: numbers(pool) == (2, 0, 1, 0))
            assert not any(future.done() for future in more)
            for gate in gates:
                gate.open()
            await asyncio.gather(*full, *more)

    loops.run(main)


@pytest.mark.parametrize("outer", ["pool", "view", "same view"])
def test_executors_that_share_threads_may_be_nested(loops: LoopKind, outer: str) -> None:
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
            pairs: dict[str, tuple[Executor, Executor]] = {
                "pool": (pool, view),
                "view": (view, pool),
                "same view": (view, view),
            }
            await asyncio.gather(*(nested(*pairs[outer]) for _ in range(15)))
            await asyncio.gather(*(nested(pool.limited(1), pool.limited(1)) for _ in range(7)))
            await until(lambda: is_idle(pool))

    loops.run(main)


def test_a_block_of_a_view_that_is_away_gives_its_turn_to_the_next(loops: LoopKind) -> None:
    async def main() -> None:
        with WorkerPool(2) as pool:
            view = pool.limited(1)
            future = asyncio.get_running_loop().create_future()
            tasks = [start(part(view, future)) for _ in range(5)]
            await until(lambda: numbers(pool)[1] == 5)
            await block(view)
            future.set_result(None)
            await asyncio.gather(*tasks)
            await until(lambda: is_idle(pool))

    loops.run(main)


# --- shutdown


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
@pytest.mark.parametrize("drop", [False, True], ids=["keep", "cancel"])
def test_a_shutdown_while_a_body_is_away_lets_it_come_back(
    loops: LoopKind, of_view: bool, drop: bool
) -> None:
    """The body comes back to its own thread and may re-enter. Other blocks are refused."""

    async def visit(executor: Executor, future: asyncio.Future[None]) -> None:
        async with threadpool(executor):
            thread = here()
            async with eventloop():
                await future
                async with threadpool(executor):
                    assert here() == thread
                with pytest.raises(RuntimeError, match="after shutdown"):
                    await start(block(executor))
            assert here() == thread

    async def main() -> None:
        pool = WorkerPool(1, max_threads=2)
        executor = pool.limited(1) if of_view else pool
        future = asyncio.get_running_loop().create_future()
        gate = Gate()
        task = start(visit(executor, future))
        await until(lambda: numbers(pool)[1] == 1)
        running = start(held(executor, gate))
        await until(gate.reached.is_set)
        waiting = start(block(executor))
        await turns()
        executor.shutdown(wait=False, cancel_futures=drop)
        if drop:
            with pytest.raises(RuntimeError, match="dropped the job"):
                await waiting
        future.set_result(None)
        gate.open()
        await asyncio.gather(task, running, *([] if drop else [waiting]))
        pool.shutdown()
        assert not pool._threads

    loops.run(main)


def test_a_block_that_is_cancelled_while_it_waits_in_a_pool_or_view_never_runs(
    loops: LoopKind,
) -> None:
    async def main() -> None:
        with WorkerPool(1) as pool:
            view = pool.limited(1)
            gate = Gate()
            with busy(pool):
                tasks = [start(held(executor, gate)) for executor in (pool, view, view)]
                await turns()
                for task in tasks:
                    task.cancel("enough")
                await until(lambda: all(task.done() for task in tasks))
            assert all(task.cancelled() for task in tasks)
            await block(view)
            assert not gate.reached.is_set()

    loops.run(main)


# --- in the place of other executors


def test_it_may_be_the_default_executor_of_a_loop(current_task_loops: LoopKind) -> None:
    """For blocks, calls, ``to_thread``, ``getaddrinfo``. The Runner shuts it down at its end."""
    done: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        async with threadpool():
            assert threading.current_thread() in pool._threads
            thread = here()
            async with eventloop():
                assert await asyncio.to_thread(str, 1) == "1"
                assert await loop.getaddrinfo("127.0.0.1", 80)
            async with threadpool(pool):
                assert here() == thread
        assert await exec_in_executor(None, threading.current_thread) in pool._threads
        for number in range(20):
            loop.run_in_executor(None, done.append, number)

    pool = WorkerPool(2, "default")
    current_task_loops.run(main)
    assert sorted(done) == list(range(20))
    assert not pool._threads
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


def test_a_subclass_sees_blocks_and_calls_in_its_submit(loops: LoopKind) -> None:
    seen: list[Any] = []

    class TracingPool(WorkerPool):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            seen.append(fn)
            return super().submit(fn, *args, **kwargs)

    async def main() -> None:
        with TracingPool(2) as pool:
            await block(pool)
            await exec_in_executor(pool, str)

    loops.run(main)
    assert len(seen) == 2


@pytest.mark.parametrize("where", ["instance", "class"])
@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_who_replaces_submit_sees_blocks_and_calls(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch, where: str, of_view: bool
) -> None:
    """As tools do that trace or limit what goes into threads."""
    seen: list[Any] = []

    async def main() -> None:
        with WorkerPool(2) as pool:
            executor: Any = pool.limited(2) if of_view else pool
            owner: Any = executor if where == "instance" else type(executor)
            submit = owner.submit

            def traced(*args: Any, **kwargs: Any) -> Any:
                seen.append(args)
                return submit(*args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(owner, "submit", traced)
                await block(executor)
                await exec_in_executor(executor, str)
            await block(executor)

    loops.run(main)
    assert len(seen) == 2
