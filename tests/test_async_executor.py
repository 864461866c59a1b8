"""``AsyncExecutor``: any executor, for coroutines.

What holds of every way to make a call stands in ``test_calls`` and ``test_call_cancellation``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import AsyncCallable, OopsError, error_of, plain, twice
from helpers.garbage import Thing, collect_until
from helpers.garbage import collect as collect_garbage
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until

from threadhop import AsyncExecutor, exec_in_eventloop, unwrap_future

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")

# --- what it wraps, and the backend


def test_it_tells_what_it_wraps(executor: Executor) -> None:
    wrapper = AsyncExecutor(executor)
    assert wrapper.wrapped is executor
    assert repr(executor) in repr(wrapper)
    with pytest.raises(TypeError, match=r"AsyncExecutor\(\) takes a concurrent.futures.Executor"):
        AsyncExecutor(None)  # type: ignore[type-var]


def test_the_backend_is_found_at_each_call(loops: LoopKind, executor: Executor) -> None:
    """A backend that was given is known everywhere."""
    found, given = AsyncExecutor(executor), AsyncExecutor(executor, "asyncio")

    async def main() -> None:
        assert found.backend() == "asyncio"
        assert given.backend() == "asyncio"

    loops.run(main)
    assert given.backend() == "asyncio"
    with pytest.raises(RuntimeError, match="running event loop"):
        found.backend()


@pytest.mark.parametrize("backend", ["curio", "", 3, "Asyncio"])
def test_another_backend_is_a_value_error(executor: Executor, backend: Any) -> None:
    with pytest.raises(ValueError, match="'asyncio' or 'trio'"):
        AsyncExecutor(executor, backend)
    with pytest.raises(ValueError, match="'asyncio' or 'trio'"):
        unwrap_future(executor.submit(str), backend).send(None)


@pytest.mark.parametrize("backend", [None, "asyncio"])
def test_off_the_loop_everything_that_waits_is_a_runtime_error(
    executor: Executor, backend: str | None
) -> None:
    wrapper = AsyncExecutor(executor, backend)
    future = executor.submit(str)
    for coroutine in (wrapper.run(plain, 1), wrapper.shutdown(), unwrap_future(future, backend)):
        with pytest.raises(RuntimeError, match="running event loop"):
            coroutine.send(None)
    with pytest.raises(RuntimeError, match="running event loop"):
        wrapper.map(plain, [1])
    assert executor.submit(plain, 1).result(LIMIT) == 2


@pytest.mark.trio
@pytest.mark.parametrize("handle_contexts", [True, False])
def test_the_function_sees_the_callers_variables_unless_told_not_to(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], handle_contexts: bool
) -> None:
    """A function without handle_contexts sees, and sets, the variables of its thread."""

    def paint(value: str) -> str:
        seen = color.get()
        color.set(value)
        return seen

    async def paint_async(value: str) -> str:
        return paint(value)

    async def main() -> None:
        color.set("red")
        with executor_class(1, initializer=lambda: color.set("of the worker")) as pool:
            wrapper = AsyncExecutor(pool, handle_contexts=handle_contexts)
            expected = ["red", "red"] if handle_contexts else ["of the worker", "green"]
            assert [await wrapper.run(paint, "green") for _ in range(2)] == expected
            assert await wrapper.run(exec_in_eventloop, here) == here()
            assert await wrapper.run(paint_async, "blue") == ("red" if handle_contexts else "green")
            assert color.get() == "red"

    loops.run(main)


# --- map


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("func", [plain, twice, AsyncCallable()], ids=["plain", "async", "call"])
@pytest.mark.parametrize("buffersize", [None, 1, 2, 100])
def test_map_gives_the_results_in_order(
    loops: LoopKind, executor: Executor, func: Callable[..., Any], buffersize: int | None
) -> None:
    async def main() -> None:
        results = AsyncExecutor(executor).map(func, range(20), buffersize=buffersize)
        assert await collect(results) == [number * 2 for number in range(20)]

    loops.run(main)


def test_map_takes_many_iterables_and_ends_with_the_shortest(executor: Executor) -> None:
    async def main() -> None:
        wrapper = AsyncExecutor(executor)
        results = wrapper.map(divmod, [7, 8, 9], itertools.repeat(2))
        assert await collect(results) == [(3, 1), (4, 0), (4, 1)]
        assert await collect(wrapper.map(plain, [])) == []
        assert await collect(wrapper.map(plain)) == []

    asyncio.run(main())


def test_map_starts_at_once_and_gives_the_first_result_first(loops: LoopKind) -> None:
    """All calls start before anybody asks for a result. The order of their ends does not count."""
    executor = HeldExecutor()

    async def main() -> None:
        results = AsyncExecutor(executor).map(plain, range(2))
        assert len(executor.jobs) == 2
        executor.run(1)
        asyncio.get_running_loop().call_soon(executor.run, 0)
        assert await collect(results) == [0, 2]

    loops.run(main)


@pytest.mark.trio
@pytest.mark.parametrize("size", [1, 3])
def test_map_runs_no_further_ahead_than_its_buffersize(loops: LoopKind, size: int) -> None:
    """The call starts exactly that many. Each result that is asked for starts one more.

    The iterables may be infinite.
    """
    executor = HeldExecutor()

    async def main() -> None:
        results = AsyncExecutor(executor).map(plain, itertools.count(), buffersize=size)
        await turns()
        assert len(executor.jobs) == size
        for taken in range(5):
            executor.run(taken)
            assert await anext(results) == taken * 2
            assert len(executor.jobs) == size + taken + 1
        await results.aclose()

    loops.run(main)


@pytest.mark.parametrize(
    ("buffersize", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_a_buffersize_that_is_none_is_refused_at_the_call(
    executor: Executor, buffersize: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        with pytest.raises(error, match="buffersize"):
            AsyncExecutor(executor).map(plain, [1], buffersize=buffersize)

    asyncio.run(main())


@pytest.mark.trio
@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_raises_an_error_in_its_place_and_ends(
    loops: LoopKind, executor: Executor, buffersize: int | None
) -> None:
    """The results before it come, and nothing after it. Nobody logs the errors behind it."""

    def work(number: int) -> int:
        if number in (2, 3):
            raise OopsError(number)
        return number

    async def main() -> None:
        results = AsyncExecutor(executor).map(work, range(6), buffersize=buffersize)
        assert [await anext(results), await anext(results)] == [0, 1]
        with pytest.raises(OopsError, match="2"):
            await anext(results)
        with pytest.raises(StopAsyncIteration):
            await anext(results)

    loops.run(main)


# Ways in which a map ends before its time. The list has the one reference to the map.


async def _by_an_error(maps: list[Any], executor: HeldExecutor) -> None:
    asyncio.get_running_loop().call_soon(executor.start, len(executor.threads))
    with pytest.raises(OopsError):
        await anext(maps[0])


async def _by_aclose(maps: list[Any], _: HeldExecutor) -> None:
    await maps[0].aclose()


async def _by_athrow(maps: list[Any], _: HeldExecutor) -> None:
    with pytest.raises(LookupError):
        await maps[0].athrow(LookupError)


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
    [_by_an_error, _by_aclose, _by_athrow, _by_a_cancelled_task, _by_being_forgotten],
)
def test_a_map_that_ends_early_takes_back_what_has_not_begun(
    loops: LoopKind, end: Callable[[list[Any], HeldExecutor], Awaitable[None]], taken: int
) -> None:
    """The map may be unused, or begun."""
    executor = HeldExecutor()

    def work(number: int) -> None:
        if number == taken:
            raise OopsError

    async def main() -> None:
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

    loops.run(main)


@pytest.mark.trio
def test_an_iterable_that_raises_takes_back_what_was_started(loops: LoopKind) -> None:
    """The call raises the error, as ``map()`` reads the whole iterable there."""
    executor = HeldExecutor()

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError

    async def main() -> None:
        with pytest.raises(OopsError):
            AsyncExecutor(executor).map(plain, numbers())
        assert [theirs.cancelled() for theirs, _ in executor.jobs] == [True, True]

    loops.run(main)


def test_a_cancelled_map_takes_back_the_rest_at_once_and_waits_for_what_runs(
    loops: LoopKind,
) -> None:
    """The task waits for the one call that runs, as in ``run()``."""
    executor = HeldExecutor()
    gate = Gate()

    async def main() -> None:
        results = AsyncExecutor(executor).map(lambda _: gate.stop_here(), range(3))
        task = asyncio.get_running_loop().create_task(collect(results))
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

    loops.run(main)


@pytest.mark.trio
def test_calls_of_a_closed_map_that_fail_are_not_logged(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """One call has failed before the end of the map, one fails after it."""
    gate = Gate()

    def work(number: int) -> None:
        if number == 2:
            gate.stop_here()
        if number:
            raise OopsError

    async def main() -> None:
        with executor_class(1) as pool:
            results = AsyncExecutor(pool).map(work, range(3))
            await anext(results)
            await until(gate.reached.is_set)
            await turns()
            await results.aclose()
            gate.open()
            assert await AsyncExecutor(pool).run(plain, 1) == 2

    loops.run(main)


def test_a_map_that_waits_for_a_result_has_let_go_of_the_one_before(loops: LoopKind) -> None:
    executor = HeldExecutor()

    async def main() -> None:
        results = AsyncExecutor(executor).map(lambda _: Thing(), range(2))
        executor.run(0)
        ref = weakref.ref(await anext(results))
        task = asyncio.get_running_loop().create_task(collect(results))
        await turns()
        collect_until(lambda: ref() is None)
        executor.run(1)
        assert len(await task) == 1

    loops.run(main)


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


def test_shutdown_never_blocks_the_loop(current_task_loops: LoopKind) -> None:
    """The loop's own executor may have no thread to spare."""
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
            pool.gate.open()
            await task
        assert pool.calls == [(True, True)]
        with pytest.raises(RuntimeError, match="shutdown"):
            await AsyncExecutor(pool).run(plain, 1)

    current_task_loops.run(main)


@pytest.mark.parametrize("closed", [False, True], ids=["loop-runs", "loop-closed"])
def test_a_task_that_is_cancelled_in_shutdown_stops_waiting(loops: LoopKind, closed: bool) -> None:
    """The executor is shut down all the same, even if the loop closes before."""
    pool = SlowToEnd()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(AsyncExecutor(pool).shutdown())
        await until(pool.gate.reached.is_set)
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        if not closed:
            pool.gate.open()
            await until(lambda: pool._shutdown)
            await turns(20)

    loops.run(main)
    pool.gate.open()
    for thread in threading.enumerate():
        if thread.name == "threadhop-shutdown":
            thread.join(LIMIT)
    assert pool._shutdown


@pytest.mark.trio
def test_what_shutdown_raises_comes_out(loops: LoopKind) -> None:
    """An executor that knows no *cancel_futures* hears of it only if the caller asks for it."""

    class Stubborn(HeldExecutor):
        def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]
            raise OopsError(wait)

    async def main() -> None:
        wrapper = AsyncExecutor(Stubborn())
        with pytest.raises(OopsError, match="True"):
            await wrapper.shutdown()
        with pytest.raises(OopsError, match="False"):
            wrapper.shutdown_nowait()
        with pytest.raises(TypeError, match="cancel_futures"):
            await wrapper.shutdown(cancel_futures=True)

    loops.run(main)


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
def test_async_with_shuts_it_down(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], raises: bool
) -> None:
    """The exit waits for the calls that were started. An error of the body comes out."""

    async def main() -> None:
        pool = executor_class(1)
        wrapper = AsyncExecutor(pool)
        with pytest.raises(OopsError) if raises else contextlib.nullcontext():
            async with wrapper as bound:
                assert bound is wrapper
                with busy(pool):
                    task = asyncio.get_running_loop().create_task(bound.run(plain, 1))
                    await turns()
                if raises:
                    raise OopsError
        assert task.done()
        assert await task == 2
        with pytest.raises(RuntimeError, match="shutdown"):
            await wrapper.run(plain, 1)

    loops.run(main)
