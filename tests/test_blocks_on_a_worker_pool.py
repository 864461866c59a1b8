"""Blocks and calls on a ``WorkerPool`` and on its views, on every kind of loop."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, busy, turns, until, wait_until

import threadhop
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


def line_of(func: Any, text: str) -> str:
    """The ``file:line`` of the line of *func* that has *text* in it."""
    lines, first = inspect.getsourcelines(func)
    (at,) = (at for at, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(func)}:{first + at}"


async def block(executor: Executor | None) -> int:
    async with threadpool(executor):
        return here()


async def part(executor: Executor, future: asyncio.Future[None]) -> None:
    async with threadpool(executor):  # part
        async with eventloop():
            await future


async def other_part(executor: Executor, future: asyncio.Future[None]) -> None:
    async with threadpool(executor):  # other
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


def test_a_chain_of_blocks_through_the_loop_is_as_deep_as_there_are_threads(
    loops: LoopKind,
) -> None:
    """Each task waits in a loop part for the next one, with a block on the same pool."""

    async def chain(pool: WorkerPool, depth: int) -> int:
        async with threadpool(pool):
            if depth == 0:
                return 0
            async with eventloop():
                return 1 + await start(chain(pool, depth - 1))

    async def main() -> None:
        with WorkerPool(2) as pool:
            assert await chain(pool, 15) == 15
            wait_until(lambda: is_idle(pool))

    loops.run(main)


def test_threads_that_are_all_away_are_said_with_their_lines_once(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """Once for each set of lines, blocks on views of the pool included."""

    async def once(pool: WorkerPool, *parts: Coroutine[Any, Any, None]) -> None:
        tasks = [start(one) for one in parts]
        await until(lambda: numbers(pool)[1] == len(parts))
        await turns()
        futures.pop().set_result(None)
        await asyncio.gather(*tasks)

    def future() -> asyncio.Future[None]:
        if not futures:
            futures.append(asyncio.get_running_loop().create_future())
        return futures[0]

    futures: list[asyncio.Future[None]] = []

    async def main() -> None:
        with WorkerPool(1, max_threads=2) as pool:
            view = pool.limited(2)
            await once(pool, part(pool, future()))
            assert not warnings(caplog), "one thread is left"
            for _ in range(3):
                await once(pool, part(pool, future()), part(pool, future()))
                await until(lambda: len(warnings(caplog)) == 1)
            for _ in range(3):
                await once(pool, part(pool, future()), other_part(view, future()))
                await until(lambda: len(warnings(caplog)) == 2)
            said.append(repr(pool))

    said: list[str] = []
    loops.run(main)
    same, both = warnings(caplog)
    for text in (same, both):
        assert "all 2 workers" in text
        assert said[0] in text
        assert line_of(part, "# part") in text
    assert line_of(other_part, "# other") in both


def test_a_task_that_waits_for_an_exhausted_pool_can_be_given_up(
    current_task_loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with WorkerPool(1) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as timeout:
                    async with threadpool(pool):
                        async with eventloop():
                            inner = start(block(pool))
                            await until(lambda: warnings(caplog))
                            timeout.reschedule(asyncio.get_running_loop().time())
                            await inner
            await block(pool)
            wait_until(lambda: is_idle(pool))

    current_task_loops.run(main)
    assert len(warnings(caplog)) == 1


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


def test_one_that_comes_back_goes_on_and_no_job_begins_until_there_is_room(
    loops: LoopKind,
) -> None:
    async def main() -> None:
        with WorkerPool(2) as pool:
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            back, one, two, three = (Gate() for _ in range(4))

            async def visit() -> None:
                async with threadpool(pool):
                    async with eventloop():
                        await future
                    back.stop_here()

            tasks = [start(visit())]
            await until(lambda: numbers(pool) == (0, 1, 0, 0))
            tasks += [start(held(pool, one)), start(held(pool, two))]
            await until(lambda: one.reached.is_set() and two.reached.is_set())
            tasks.append(start(held(pool, three)))
            await until(lambda: numbers(pool) == (2, 1, 0, 1))
            future.set_result(None)
            await until(back.reached.is_set)
            assert numbers(pool) == (3, 0, 0, 1)
            one.open()
            await until(lambda: numbers(pool) == (2, 0, 1, 1))
            assert not three.reached.is_set()
            two.open()
            await until(three.reached.is_set)
            assert numbers(pool) == (2, 0, 1, 0)
            back.open()
            three.open()
            await asyncio.gather(*tasks)
            await until(lambda: is_idle(pool))

    loops.run(main)


def test_a_body_that_raises_or_is_cancelled_while_it_is_away_still_comes_back(
    loops: LoopKind,
) -> None:
    async def fail(pool: WorkerPool, future: asyncio.Future[None]) -> None:
        async with threadpool(pool):
            async with eventloop():
                await future

    async def main() -> None:
        with WorkerPool(1) as pool:
            future = asyncio.get_running_loop().create_future()
            task = start(fail(pool, future))
            await until(lambda: numbers(pool)[1] == 1)
            future.set_exception(LookupError("away"))
            with pytest.raises(LookupError, match="away"):
                await task
            task = start(fail(pool, asyncio.get_running_loop().create_future()))
            await until(lambda: numbers(pool)[1] == 1)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()
            await until(lambda: is_idle(pool))
            await block(pool)

    loops.run(main)


# --- views


def test_a_view_holds_its_limit_and_leaves_the_other_workers_alone(loops: LoopKind) -> None:
    """For blocks and for calls."""
    lock = threading.Lock()
    running = peak = 0

    def count() -> None:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        threading.Event().wait(0.001)
        with lock:
            running -= 1

    async def in_block(view: Executor) -> None:
        async with threadpool(view):
            count()

    async def main() -> None:
        with WorkerPool(4) as pool:
            view = pool.limited(2)
            blocks = [start(in_block(view)) for _ in range(20)]
            calls = [exec_in_executor(view, count) for _ in range(20)]
            await asyncio.gather(*blocks, *calls)
            assert peak == 2
            gates = [Gate(), Gate()]
            full = [start(held(view, gate)) for gate in gates]
            more = start(block(view))
            await until(lambda: all(gate.reached.is_set() for gate in gates))
            await block(pool)
            await exec_in_executor(pool.limited(1), str)
            assert not more.done()
            for gate in gates:
                gate.open()
            await asyncio.gather(*full, more)

    loops.run(main)


@pytest.mark.parametrize("outer", ["pool", "view", "same view"])
def test_executors_that_share_threads_may_be_nested(loops: LoopKind, outer: str) -> None:
    """They are two executors: the body moves to another thread, and comes back to its own.

    As many at once as there are threads for: each holds one while it is in the other.
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
    """To its own thread. It may be re-entered, other blocks are refused; what waits is told."""

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


def test_what_is_queued_in_a_pool_that_is_shut_down_is_done(loops: LoopKind) -> None:
    async def main() -> None:
        pool = WorkerPool(2)
        with busy(pool, 2):
            tasks = [start(block(executor)) for executor in (pool, pool.limited(1)) * 10]
            await turns()
            pool.shutdown(wait=False)
        await asyncio.gather(*tasks)
        pool.shutdown()

    loops.run(main)


def test_a_block_that_is_cancelled_while_it_waits_in_a_pool_or_view_never_runs(
    loops: LoopKind,
) -> None:
    async def main() -> None:
        with WorkerPool(1) as pool:
            view = pool.limited(1)
            with busy(pool):
                tasks = [start(never(executor)) for executor in (pool, view, view)]
                await turns()
                for task in tasks:
                    task.cancel("enough")
                await until(lambda: all(task.done() for task in tasks))
            assert all(task.cancelled() for task in tasks)
            await block(view)

    async def never(executor: Executor) -> None:
        async with threadpool(executor):
            ran.append(1)

    ran: list[int] = []
    loops.run(main)
    assert not ran


def test_the_error_of_an_initializer_is_no_cancellation(
    loops: LoopKind, caplog: pytest.LogCaptureFixture, expect_loop_errors: object
) -> None:
    """At entry, on the loop thread; in the views, too."""
    gate = Gate()

    def fail() -> None:
        gate.stop_here()
        raise LookupError("initializer")

    async def main() -> None:
        pool = WorkerPool(1, initializer=fail)
        tasks = [start(block(executor)) for executor in (pool, pool.limited(1)) * 3]
        await until(gate.reached.is_set)
        await turns()
        gate.open()
        await asyncio.wait(tasks)
        tasks.append(start(block(pool)))
        await asyncio.wait(tasks)
        errors = [task.exception() for task in tasks]
        assert {type(error).__name__ for error in errors} == {"BrokenThreadPool"}
        assert len({id(error) for error in errors}) == len(errors)
        pool.shutdown()

    loops.run(main)


# --- in the place of other executors


def shows_its_default_executor() -> bool:
    """On the loop."""
    return hasattr(asyncio.get_running_loop(), "_default_executor")


def test_it_may_be_the_default_executor_of_a_loop(current_task_loops: LoopKind) -> None:
    """For blocks, calls, ``to_thread``, ``getaddrinfo``, and the loop shuts it down."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(pool)
        shows_its_own = shows_its_default_executor()
        async with threadpool():
            assert threading.current_thread().name.startswith("default")
            thread = here()
            async with eventloop():
                assert await asyncio.to_thread(str, 1) == "1"
                assert await loop.getaddrinfo("127.0.0.1", 80)
            async with threadpool(pool):
                assert (here() == thread) is shows_its_own
        assert await exec_in_executor(None, threading.current_thread) in pool._threads
        await loop.shutdown_default_executor()
        assert not pool._threads
        with pytest.raises(RuntimeError, match="shutdown"):
            await block(None)

    pool = WorkerPool(2, "default")
    current_task_loops.run(main)
    pool.shutdown()


def test_asyncio_run_shuts_it_down_as_the_default_executor(current_task_loops: LoopKind) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(pool)
        await block(None)

    pool = WorkerPool(2)
    current_task_loops.run(main)
    assert not pool._threads
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(int)


@contextmanager
def configured(executor: Executor) -> Iterator[None]:
    threadhop.configure(executor=executor)
    try:
        yield
    finally:
        threadhop.configure(executor=None)


@pytest.mark.parametrize("of_view", [False, True], ids=["pool", "view"])
def test_it_may_be_the_executor_of_the_process(loops: LoopKind, of_view: bool) -> None:
    async def main() -> None:
        async with threadpool():
            assert threading.current_thread() in pool._threads
        thread = await exec_in_executor(None, threading.current_thread)
        assert thread in pool._threads

    with WorkerPool(2) as pool, configured(pool.limited(1) if of_view else pool):
        loops.run(main)


class CountingPool(WorkerPool):
    def __init__(self) -> None:
        super().__init__(2)
        self.seen = 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.seen += 1
        return super().submit(fn, *args, **kwargs)


def test_a_subclass_sees_blocks_and_calls_in_its_submit(loops: LoopKind) -> None:
    async def main() -> None:
        with CountingPool() as pool:
            await block(pool)
            await exec_in_executor(pool, str)
            assert pool.seen == 2

    loops.run(main)


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
            submit = executor.submit if where == "instance" else type(executor).submit

            def traced(*args: Any, **kwargs: Any) -> Any:
                seen.append(args)
                return submit(*args, **kwargs)

            monkeypatch.setattr(
                executor if where == "instance" else type(executor), "submit", traced
            )
            await block(executor)
            await exec_in_executor(executor, str)
            monkeypatch.undo()
            await block(executor)

    loops.run(main)
    assert len(seen) == 2


def test_no_thread_that_can_start_is_an_error_at_entry(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the loop thread, and the next block works."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with WorkerPool(2) as pool:
            for executor in (pool, pool.limited(1)):
                with monkeypatch.context() as patch:
                    patch.setattr(threading.Thread, "start", refuse)
                    with pytest.raises(RuntimeError, match="can't start new thread"):
                        await block(executor)
                assert is_idle(pool)
            await asyncio.gather(block(pool), block(pool.limited(1)))

    loops.run(main)


def test_a_loop_that_is_closed_under_a_body_leaves_the_worker_usable(
    caplog: pytest.LogCaptureFixture, expect_loop_errors: object
) -> None:
    gate = Gate()
    with WorkerPool(1) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(held(pool, gate))
        while not gate.reached.is_set():
            loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        gate.open()
        assert pool.submit(str, 1).result(LIMIT) == "1"
        wait_until(lambda: is_idle(pool))
        del task
    assert any("was closed" in text for text in warnings(caplog))
