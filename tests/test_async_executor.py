"""``AsyncExecutor``: any executor, for coroutines. ``unwrap_future``: any future of theirs.

What holds of every way to make a call stands in ``test_calls`` and ``test_call_cancellation``. The
futures of other processes are in ``test_remote_executors``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import AsyncCallable, OopsError, error_of, plain, twice
from helpers.garbage import Thing, collect_until
from helpers.garbage import collect as collect_garbage
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor_threading_future,
    threadpool,
    unwrap_future,
)

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")

# --- what it wraps, and the backend


@pytest.mark.parametrize("backend", [None, "asyncio"])
def test_a_backend_is_given_or_found_and_what_waits_needs_a_loop(
    executor: Executor, backend: str | None
) -> None:
    """Off the loop only a backend that was given is known. (What is refused: ``test_calls``.)"""
    wrapper = AsyncExecutor(executor, backend)
    assert wrapper.wrapped is executor
    assert repr(executor) in repr(wrapper)

    async def main() -> None:
        assert wrapper.backend() == "asyncio"

    asyncio.run(main())
    needs_loop = pytest.raises(RuntimeError, match="running event loop")
    if backend is None:
        with needs_loop:
            wrapper.backend()
    else:
        assert wrapper.backend() == "asyncio"
    future = executor.submit(str)
    for coroutine in (wrapper.run(plain, 1), wrapper.shutdown(), unwrap_future(future, backend)):
        with needs_loop:
            coroutine.send(None)
    with needs_loop:
        wrapper.map(plain, [1])
    assert executor.submit(plain, 1).result(LIMIT) == 2


@pytest.mark.trio
@pytest.mark.parametrize("handle_contexts", [True, False])
@on_every_loop
async def test_the_function_sees_the_callers_variables_unless_told_not_to(
    executor_class: type[ThreadPoolExecutor], handle_contexts: bool
) -> None:
    """A function without handle_contexts sees, and sets, the variables of its thread."""

    def paint(value: str) -> str:
        seen = color.get()
        color.set(value)
        return seen

    async def paint_async(value: str) -> str:
        return paint(value)

    color.set("red")
    with executor_class(1, initializer=lambda: color.set("of the worker")) as pool:
        wrapper = AsyncExecutor(pool, handle_contexts=handle_contexts)
        expected = ["red", "red"] if handle_contexts else ["of the worker", "green"]
        assert [await wrapper.run(paint, "green") for _ in range(2)] == expected
        assert await wrapper.run(exec_in_eventloop, here) == here()
        assert await wrapper.run(paint_async, "blue") == ("red" if handle_contexts else "green")
        assert color.get() == "red"


# --- map


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


@on_every_loop
async def test_map_gives_the_results_in_order(executor: Executor) -> None:
    """It takes many iterables, and ends with the shortest."""
    wrapper = AsyncExecutor(executor)
    for func in (plain, twice, AsyncCallable()):
        for buffersize in (None, 1, 2, 100):
            results = wrapper.map(func, range(20), buffersize=buffersize)
            assert await collect(results) == [number * 2 for number in range(20)]
    results = wrapper.map(divmod, [7, 8, 9], itertools.repeat(2))
    assert await collect(results) == [(3, 1), (4, 0), (4, 1)]
    assert await collect(wrapper.map(plain, [])) == []
    assert await collect(wrapper.map(plain)) == []


@pytest.mark.trio
@pytest.mark.parametrize("size", [1, 3])
@on_every_loop
async def test_map_runs_no_further_ahead_than_its_buffersize(size: int) -> None:
    """The call starts exactly that many. Each result that is asked for starts one more.

    The iterables may be infinite.
    """
    executor = HeldExecutor()
    results = AsyncExecutor(executor).map(plain, itertools.count(), buffersize=size)
    await turns()
    assert len(executor.jobs) == size
    for taken in range(5):
        executor.run(taken)
        assert await anext(results) == taken * 2
        assert len(executor.jobs) == size + taken + 1
    await results.aclose()


@pytest.mark.trio
@on_every_loop
async def test_map_raises_an_error_in_its_place_and_ends() -> None:
    """The results before it come, and nothing after it. Nobody logs the errors behind it.

    One call has failed before the end of the map, one fails after it.
    """
    executor = HeldExecutor()
    gate = Gate()

    def work(number: int) -> int:
        if number == 4:
            gate.stop_here()
        if number >= 2:
            raise OopsError(number)
        return number

    results = AsyncExecutor(executor).map(work, range(6))
    for number in (1, 0, 3, 2):
        executor.run(number)
    executor.start(4)
    assert [await anext(results), await anext(results)] == [0, 1]
    with pytest.raises(OopsError, match="2"):
        await anext(results)
    with pytest.raises(StopAsyncIteration):
        await anext(results)
    await until(gate.reached.is_set)
    gate.open()
    executor.shutdown()
    await turns()


# Ways in which a map ends before its time. The list has the one reference to the map.


async def _by_an_error(maps: list[Any], executor: HeldExecutor) -> None:
    asyncio.get_running_loop().call_soon(executor.start, len(executor.threads))
    with pytest.raises(OopsError):
        await anext(maps[0])


async def _by_aclose(maps: list[Any], _: HeldExecutor) -> None:
    await maps[0].aclose()


async def _by_a_cancelled_task(maps: list[Any], _: HeldExecutor) -> None:
    task = asyncio.get_running_loop().create_task(collect(maps[0]))
    await turns()
    task.cancel("enough")
    assert (await error_of(task)).args == ("enough",)
    assert task.cancelled()


async def _by_being_forgotten(maps: list[Any], _: HeldExecutor) -> None:
    """The loop closes a map that was left by ``break``, as any async generator."""
    maps.clear()
    collect_garbage()
    await turns()


@pytest.mark.parametrize("taken", [0, 1], ids=["unused", "begun"])
@pytest.mark.parametrize(
    "end",
    [_by_an_error, _by_aclose, _by_a_cancelled_task, _by_being_forgotten],
)
@on_every_loop
async def test_a_map_that_ends_early_takes_back_what_has_not_begun(
    end: Callable[[list[Any], HeldExecutor], Awaitable[None]], taken: int
) -> None:
    """The map may be unused, or begun."""
    executor = HeldExecutor()

    def work(number: int) -> None:
        if number == taken:
            raise OopsError

    maps = [AsyncExecutor(executor).map(work, range(5))]
    for number in range(taken):
        executor.start(number)
        await anext(maps[0])
    await end(maps, executor)
    ran = len(executor.threads)
    assert [theirs.cancelled() for theirs, _ in executor.jobs] == [
        number >= ran for number in range(5)
    ]
    executor.shutdown()


@pytest.mark.trio
@on_every_loop
async def test_an_iterable_that_raises_takes_back_what_was_started() -> None:
    """The call raises the error, as ``map()`` reads the whole iterable there."""
    executor = HeldExecutor()

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError

    with pytest.raises(OopsError):
        AsyncExecutor(executor).map(plain, numbers())
    assert [theirs.cancelled() for theirs, _ in executor.jobs] == [True, True]


@on_one_loop
async def test_a_cancelled_map_takes_back_the_rest_at_once_and_waits_for_what_runs() -> None:
    """The task waits for the one call that runs, as in ``run()``."""
    executor = HeldExecutor()
    gate = Gate()
    results = AsyncExecutor(executor).map(lambda _: gate.stop_here(), range(3))
    task = asyncio.create_task(collect(results))
    executor.start(0)
    await until(gate.reached.is_set)
    await turns()
    task.cancel("enough")
    await turns()
    assert [theirs.cancelled() for theirs, _ in executor.jobs] == [False, True, True]
    assert not task.done()
    gate.open()
    assert (await error_of(task)).args == ("enough",)
    assert task.cancelled()
    executor.shutdown()


@on_one_loop
async def test_a_map_that_waits_for_a_result_has_let_go_of_the_one_before() -> None:
    executor = HeldExecutor()
    results = AsyncExecutor(executor).map(lambda _: Thing(), range(2))
    executor.run(0)
    ref = weakref.ref(await anext(results))
    task = asyncio.create_task(collect(results))
    await turns()
    collect_until(lambda: ref() is None)
    executor.run(1)
    assert len(await task) == 1


# --- the end


class SlowToEnd(ThreadPoolExecutor):
    """A pool whose ``shutdown`` blocks until the gate is open."""

    def __init__(self) -> None:
        super().__init__(1)
        self.gate = Gate()
        self.calls: list[tuple[bool, bool]] = []

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.calls.append((wait, cancel_futures))
        if wait:
            self.gate.stop_here()
        super().shutdown(wait, cancel_futures=cancel_futures)


@pytest.mark.parametrize("ends", ["", "cancelled", "cancelled, and its loop closed"])
def test_shutdown_never_blocks_the_loop_and_is_done_whoever_waits(
    current_task_loops: LoopKind, ends: str
) -> None:
    """The loop's own executor may have no thread to spare. A task that is cancelled waits no more.

    The executor is shut down all the same, even if the loop closes before.
    """
    pool = SlowToEnd()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        default = ThreadPoolExecutor(1)
        loop.set_default_executor(default)
        with busy(default):
            task = loop.create_task(AsyncExecutor(pool).shutdown(cancel_futures=True))
            await until(pool.gate.reached.is_set)
            await turns(50)
            assert not task.done()
            if ends:
                task.cancel()
                await until(task.done)
                assert task.cancelled()
            if ends != "cancelled, and its loop closed":
                pool.gate.open()
                await until(lambda: pool._shutdown)
                await turns(20)
        assert pool.calls == [(True, True)]
        if not ends:
            await task
            with pytest.raises(RuntimeError, match="shutdown"):
                await AsyncExecutor(pool).run(plain, 1)

    current_task_loops.run(main)
    pool.gate.open()
    for thread in threading.enumerate():
        if thread.name == "threadhop-shutdown":
            thread.join(LIMIT)
    assert pool._shutdown


@pytest.mark.trio
@on_every_loop
async def test_what_shutdown_raises_comes_out() -> None:
    """An executor that knows no *cancel_futures* hears of it only if the caller asks for it."""

    class Stubborn(HeldExecutor):
        def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
            raise OopsError(wait)

    wrapper = AsyncExecutor(Stubborn())
    with pytest.raises(OopsError, match="True"):
        await wrapper.shutdown()
    with pytest.raises(OopsError, match="False"):
        wrapper.shutdown_nowait()
    with pytest.raises(TypeError, match="cancel_futures"):
        await wrapper.shutdown(cancel_futures=True)


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_nowait_returns_at_once(cancel_futures: bool) -> None:
    """The caller needs no loop."""
    pool = SlowToEnd()
    with busy(pool):
        AsyncExecutor(pool).shutdown_nowait(cancel_futures=cancel_futures)
        assert pool.calls == [(False, cancel_futures)]
    with pytest.raises(RuntimeError):
        pool.submit(str)
    ThreadPoolExecutor.shutdown(pool)


@pytest.mark.parametrize("raises", [False, True])
@on_one_loop
async def test_async_with_shuts_it_down(
    executor_class: type[ThreadPoolExecutor], raises: bool
) -> None:
    """The exit waits for the calls that were started. An error of the body comes out."""
    pool = executor_class(1)
    wrapper = AsyncExecutor(pool)
    with pytest.raises(OopsError) if raises else contextlib.nullcontext():
        async with wrapper as bound:
            assert bound is wrapper
            with busy(pool):
                task = asyncio.create_task(bound.run(plain, 1))
                await turns()
            if raises:
                raise OopsError
    assert task.done()
    assert await task == 2
    with pytest.raises(RuntimeError, match="shutdown"):
        await wrapper.run(plain, 1)


@on_every_loop
async def test_it_returns_the_result(executor: Executor) -> None:
    """To many, if many wait. A future that is done already gives it, too, and again."""
    assert await unwrap_future(executor.submit(int, "42"), "asyncio") == 42
    future: Future[int] = Future()
    waiting = asyncio.gather(*(unwrap_future(future) for _ in range(5)))
    await turns()
    executor.submit(future.set_result, 42).result(LIMIT)
    assert await waiting == [42] * 5
    assert await unwrap_future(future) == 42


@pytest.mark.trio
def test_stop_iteration_comes_as_a_runtime_error(loops: LoopKind, executor: Executor) -> None:
    """A future of threads can hold StopIteration, one of a loop cannot. Nobody waits for ever."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration, which no future can hold"):
            await unwrap_future(executor.submit(next, iter(())))

    loops.run(main, timeout=3)


class Stubborn(Future[Any]):
    """Cannot be cancelled by who waits for it."""

    def cancel(self) -> bool:
        return False


@pytest.mark.parametrize("moment", ["before", "while-awaited"])
@on_every_loop
async def test_a_future_that_somebody_else_cancelled_is_no_cancelled_task(moment: str) -> None:
    """The task gets the error of concurrent.futures."""
    future: Future[Any] = Future()
    if moment == "before":
        future.cancel()
    task = asyncio.get_running_loop().create_task(unwrap_future(future))
    await turns()
    future.cancel()
    assert type(await error_of(task)) is concurrent.futures.CancelledError
    assert not task.cancelled()


@pytest.mark.parametrize("ends", ["cancelled", "with a result", "with an error"])
@on_every_loop
async def test_a_cancelled_task_waits_for_the_end_of_the_future(ends: str) -> None:
    """However it ends: by somebody else's cancellation, too. The task's own attempt had failed."""
    future = Stubborn()
    task = asyncio.get_running_loop().create_task(unwrap_future(future))
    await turns()
    task.cancel("enough")
    await turns()
    assert not task.done()
    if ends == "cancelled":
        Future.cancel(future)
    elif ends == "with a result":
        future.set_result("late")
    else:
        future.set_exception(LookupError("late"))
    assert (await error_of(task)).args == ("enough",)
    assert task.cancelled()


@pytest.mark.parametrize("moment", ["queued", "running"])
def test_a_call_of_ours_is_taken_back_or_waited_for_and_told(
    loops: LoopKind, executor: Executor, moment: str
) -> None:
    """Its future says yes to every cancel, also while a worker makes the call."""
    gate, steps = Gate(), []

    def work() -> None:
        gate.stop_here()
        steps.append("works")
        check_cancelled()
        steps.append("not told")

    async def main() -> None:
        workers = executor._max_workers  # type: ignore[attr-defined]
        with busy(executor, workers if moment == "queued" else workers - 1):
            future = exec_in_executor_threading_future(executor, work)
            task = asyncio.get_running_loop().create_task(unwrap_future(future))
            await turns()
            if moment == "running":
                await until(gate.reached.is_set)
            task.cancel("enough")
            await turns()
            assert task.done() == (moment == "queued")
            gate.open()
            assert (await error_of(task)).args == ("enough",)
        assert steps == (["works"] if moment == "running" else [])

    loops.run(main)


def test_a_worker_that_is_the_first_to_meet_the_loop_is_not_taken_for_its_thread(
    loops: LoopKind, executor: Executor
) -> None:
    """The result comes from a thread, and it may be the first thing that the loop has of us.

    Async generators that begin in a block later are still the loop's to finalize.
    """
    closed: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(threading.get_ident())

    async def main() -> None:
        gate = Gate()
        future = executor.submit(gate.stop_here)
        task = asyncio.get_running_loop().create_task(unwrap_future(future))
        await turns()
        gate.open()
        await task
        async with threadpool(executor):
            generator = numbers()
            async for _ in generator:
                break
        kept.append(generator)

    kept: list[Any] = []
    loops.run(main)
    assert closed == [threading.get_ident()]
