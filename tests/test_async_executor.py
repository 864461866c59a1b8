"""``AsyncExecutor``: any executor, for coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import itertools
import sys
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import AsyncExecutor, check_cancelled, exec_in_eventloop

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")


class OopsError(Exception):
    """What a test raises on purpose."""


def plain(number: int, *, plus: int = 0) -> int:
    return number * 2 + plus


async def twice(number: int, *, plus: int = 0) -> int:
    await asyncio.sleep(0)
    return number * 2 + plus


class AsyncCallable:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine-function": twice,
    "partial-of-a-coroutine-function": functools.partial(twice),
    "async-call": AsyncCallable(),
    "lambda-that-returns-a-coroutine": lambda number, plus: twice(number, plus=plus),
}


def chain_of(error: BaseException | None) -> list[type[BaseException]]:
    """The kinds of *error* and of its contexts."""
    kinds = []
    while error is not None:
        kinds.append(type(error))
        error = error.__context__
    return kinds


async def error_of(task: asyncio.Task[Any]) -> BaseException:
    """What *task*, which is done, raises to who awaits it."""
    try:
        await task
    except BaseException as error:
        return error
    raise AssertionError("it raised nothing")


# --- what it wraps


def test_it_tells_what_it_wraps(executor: Executor) -> None:
    wrapper = AsyncExecutor(executor)
    assert wrapper.wrapped is executor
    assert repr(executor) in repr(wrapper)


@pytest.mark.parametrize("executor", [None, 3, "pool", object()])
def test_what_is_no_executor_is_a_type_error(executor: Any) -> None:
    with pytest.raises(TypeError, match=r"AsyncExecutor\(\) takes a concurrent.futures.Executor"):
        AsyncExecutor(executor)


def test_a_class_gets_a_question() -> None:
    with pytest.raises(TypeError, match=r"did you forget \(\)\?"):
        AsyncExecutor(ThreadPoolExecutor)  # type: ignore[type-var]


def test_the_backend_is_found_at_each_call(loops: LoopKind, executor: Executor) -> None:
    """Or it is given, and then known everywhere."""
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


def test_trio_is_yet_to_come(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, or found."""
    with pytest.raises(NotImplementedError, match="trio"):
        AsyncExecutor(executor, "trio")
    trio: Any = types.ModuleType("trio")
    trio.lowlevel = types.SimpleNamespace(in_trio_run=lambda: True)
    monkeypatch.setitem(sys.modules, "trio", trio)
    wrapper = AsyncExecutor(executor)
    with pytest.raises(NotImplementedError, match="trio"):
        wrapper.backend()
    with pytest.raises(NotImplementedError, match="trio"):
        wrapper.run(plain, 1).send(None)


@pytest.mark.parametrize("backend", [None, "asyncio"])
def test_off_the_loop_everything_that_waits_is_a_runtime_error(
    executor: Executor, backend: str | None
) -> None:
    wrapper = AsyncExecutor(executor, backend)
    for coroutine in (wrapper.run(plain, 1), wrapper.shutdown()):
        with pytest.raises(RuntimeError, match="running event loop"):
            coroutine.send(None)
    with pytest.raises(RuntimeError, match="running event loop"):
        wrapper.map(plain, [1])
    assert executor.submit(plain, 1).result(LIMIT) == 2


# --- run


@pytest.mark.parametrize("func", CALLABLES.values(), ids=CALLABLES)
def test_run_returns_what_the_function_returns(
    loops: LoopKind, executor: Executor, func: Callable[..., Any]
) -> None:
    async def main() -> None:
        assert await AsyncExecutor(executor).run(func, 4, plus=1) == 9

    loops.run(main)


def test_our_names_are_free_for_the_functions_arguments(
    loops: LoopKind, executor: Executor
) -> None:
    def named(**kwargs: str) -> dict[str, str]:
        return kwargs

    async def main() -> None:
        names = {"self": "s", "func": "f", "args": "a", "kwargs": "k", "executor": "e"}
        assert await AsyncExecutor(executor).run(named, **names) == names

    loops.run(main)


@pytest.mark.parametrize("func", [None, 3])
def test_what_is_not_callable_is_a_type_error(
    loops: LoopKind, executor: Executor, func: Any
) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match="takes a function"):
            await AsyncExecutor(executor).run(func)
        with pytest.raises(TypeError, match="takes a function"):
            AsyncExecutor(executor).map(func, [1])

    loops.run(main)


@pytest.mark.parametrize(
    "error",
    [OopsError("oops"), GeneratorExit("gone"), concurrent.futures.CancelledError("theirs")],
    ids=lambda error: type(error).__name__,
)
def test_run_raises_what_the_function_raises(
    loops: LoopKind, executor: Executor, error: BaseException
) -> None:
    def oops() -> None:
        raise error

    async def main() -> None:
        try:
            await AsyncExecutor(executor).run(oops)
        except BaseException as raised:
            assert raised is error
        else:
            raise AssertionError("nothing was raised")

    loops.run(main)
    error.__traceback__ = None


def test_stop_iteration_comes_as_a_runtime_error(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await AsyncExecutor(executor).run(next, iter(()))

    loops.run(main)


@pytest.mark.parametrize("handle_contexts", [True, False])
def test_the_function_sees_the_callers_variables_unless_told_not_to(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], handle_contexts: bool
) -> None:
    """Without it, it sees those of its thread, and what it sets stays there."""

    def paint(value: str) -> str:
        seen = color.get()
        color.set(value)
        return seen

    async def main() -> None:
        color.set("red")
        with executor_class(1, initializer=lambda: color.set("of the worker")) as pool:
            wrapper = AsyncExecutor(pool, handle_contexts=handle_contexts)
            expected = ["red", "red"] if handle_contexts else ["of the worker", "green"]
            assert [await wrapper.run(paint, "green") for _ in range(2)] == expected
            assert color.get() == "red"

    loops.run(main)


@pytest.mark.parametrize("handle_contexts", [True, False])
def test_the_function_may_call_the_loop(
    loops: LoopKind, executor: Executor, handle_contexts: bool
) -> None:
    async def main() -> None:
        wrapper = AsyncExecutor(executor, handle_contexts=handle_contexts)
        assert await wrapper.run(exec_in_eventloop, twice, 2) == 4
        assert await wrapper.run(exec_in_eventloop, here) == here()

    loops.run(main)


def test_a_call_that_the_executor_drops_is_not_a_cancelled_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        pool = executor_class(1)
        wrapper = AsyncExecutor(pool)
        with busy(pool):
            task = asyncio.get_running_loop().create_task(wrapper.run(plain, 1))
            await turns()
            wrapper.shutdown_nowait(cancel_futures=True)
            await until(task.done)
            assert not task.cancelled()
            with pytest.raises(concurrent.futures.CancelledError):
                await task
        pool.shutdown()

    loops.run(main)


# --- cancelling run


def test_a_cancelled_task_takes_back_a_call_that_waits(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """CancelledError at once, with the message, and it never runs."""
    ran: list[bool] = []

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            task = asyncio.get_running_loop().create_task(AsyncExecutor(pool).run(ran.append, True))
            await turns()
            task.cancel("enough")
            await until(task.done)
            assert task.cancelled()
            assert (await error_of(task)).args == ("enough",)

    loops.run(main)
    assert not ran


@pytest.mark.parametrize("ending", ["returns", "raises", "exits"])
def test_a_cancelled_task_waits_for_a_function_that_runs(
    loops: LoopKind, executor: Executor, ending: str
) -> None:
    """Then it is cancelled, whatever the function did. Its error is the context of that."""
    gate = Gate()
    errors = {"returns": None, "raises": OopsError(), "exits": SystemExit(3)}

    def work() -> str:
        gate.stop_here()
        if (error := errors[ending]) is not None:
            raise error
        return "late"

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(AsyncExecutor(executor).run(work))
        await until(gate.reached.is_set)
        task.cancel("enough")
        await turns(20)
        assert not task.done(), "it did not wait"
        task.cancel("again")
        await turns()
        assert not task.done(), "the second one made it stop waiting"
        gate.open()
        await until(task.done)
        assert task.cancelled()
        error = await error_of(task)
        assert type(error) is asyncio.CancelledError
        assert error.args == ("enough",)
        expected = errors[ending]
        assert expected is None or type(expected) in chain_of(error)

    loops.run(main)


def test_a_cancelled_function_ends_at_its_next_check(loops: LoopKind, executor: Executor) -> None:
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    def work() -> None:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise
        seen.append(("went on",))

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(AsyncExecutor(executor).run(work))
        await until(gate.reached.is_set)
        task.cancel("enough")
        await turns()
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert seen == [("enough",)]

    loops.run(main)


@pytest.mark.parametrize("swallow", [False, True])
def test_a_cancelled_task_cancels_a_coroutine_that_runs(
    loops: LoopKind, executor: Executor, swallow: bool
) -> None:
    """On its worker; the task waits for its cleanup, and is cancelled also if it swallows that."""
    started = threading.Event()
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    async def work() -> str:
        try:
            started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            gate.stop_here()
            if not swallow:
                raise
        return "late"

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(AsyncExecutor(executor).run(work))
        await until(started.is_set)
        task.cancel("enough")
        await until(gate.reached.is_set)
        assert not task.done()
        gate.open()
        await until(task.done)
        assert task.cancelled()
        assert seen == [("enough",)]

    loops.run(main)


def test_a_timeout_around_run_is_a_timeout_error(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """When the function has ended, with another error. ``wait_for`` is no different."""

    def work() -> None:
        try:
            wait_until(check_cancelled)
        except asyncio.CancelledError:
            raise OopsError from None

    async def main() -> None:
        wrapper = AsyncExecutor(executor)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await wrapper.run(work)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wrapper.run(work), 0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert await wrapper.run(plain, 1) == 2

    current_task_loops.run(main)


def test_a_task_group_is_cancelled_like_any_other(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()

    async def oops() -> None:
        await until(gate.reached.is_set)
        asyncio.get_running_loop().call_soon(gate.open)
        raise OopsError

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(AsyncExecutor(executor).run(gate.stop_here))
                group.create_task(oops())
        assert [type(error) for error in caught.value.exceptions] == [OopsError]
        assert running.cancelled()

    current_task_loops.run(main)


def test_a_cancellation_that_was_caught_leaves_the_task_usable(
    loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()

    async def work() -> int:
        wrapper = AsyncExecutor(executor)
        try:
            await wrapper.run(gate.stop_here)
        except asyncio.CancelledError:
            return await wrapper.run(plain, 21)
        raise AssertionError("not cancelled")

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(work())
        await until(gate.reached.is_set)
        task.cancel()
        gate.open()
        assert await task == 42

    loops.run(main)


# --- map


async def collect(results: Any) -> list[Any]:
    return [result async for result in results]


@pytest.mark.parametrize("func", [plain, twice, AsyncCallable()], ids=["plain", "async", "call"])
def test_map_gives_the_results_in_order(
    loops: LoopKind, executor: Executor, func: Callable[..., Any]
) -> None:
    """Whatever the buffersize."""

    async def main() -> None:
        for buffersize in (None, 1, 2, 100):
            results = AsyncExecutor(executor).map(func, range(20), buffersize=buffersize)
            assert await collect(results) == [number * 2 for number in range(20)]

    loops.run(main)


def test_map_takes_many_iterables_and_ends_with_the_shortest(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        results = AsyncExecutor(executor).map(divmod, [7, 8, 9], itertools.repeat(2))
        assert await collect(results) == [(3, 1), (4, 0), (4, 1)]
        assert await collect(AsyncExecutor(executor).map(plain, [])) == []
        assert await collect(AsyncExecutor(executor).map(plain)) == []

    loops.run(main)


def test_map_is_in_order_whatever_ends_first(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    second = threading.Event()

    def work(number: int) -> int:
        if number:
            second.set()
        else:
            assert second.wait(LIMIT)
        return number

    async def main() -> None:
        with executor_class(2) as pool:
            assert await collect(AsyncExecutor(pool).map(work, [0, 1])) == [0, 1]

    loops.run(main)


def test_map_starts_at_once(loops: LoopKind, executor_class: type[ThreadPoolExecutor]) -> None:
    """At the call: before anybody asks for a result, and before the loop has a turn."""
    barrier = threading.Barrier(4, timeout=LIMIT)

    async def main() -> None:
        with executor_class(3) as pool:
            results = AsyncExecutor(pool).map(lambda _: barrier.wait(), range(3))
            barrier.wait()
            assert len(await collect(results)) == 3

    loops.run(main)


def test_map_with_a_buffersize_takes_infinite_iterables(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        results = AsyncExecutor(executor).map(plain, itertools.count(), buffersize=3)
        got = []
        async with contextlib.aclosing(results):  # type: ignore[type-var]
            async for result in results:
                got.append(result)
                if len(got) == 50:
                    break
        assert got == [number * 2 for number in range(50)]

    loops.run(main)


@pytest.mark.parametrize("size", [1, 3])
def test_map_runs_no_further_ahead_than_its_buffersize(loops: LoopKind, size: int) -> None:
    """At the call exactly that many are started; each result that is asked for starts one more."""
    executor = HeldExecutor()

    async def main() -> None:
        results = AsyncExecutor(executor).map(plain, itertools.count(), buffersize=size)
        assert len(executor.jobs) == size
        await turns()
        assert len(executor.jobs) == size
        for taken in range(5):
            executor.start(taken)
            assert await anext(results) == taken * 2
            assert len(executor.jobs) <= size + taken + 1
        await results.aclose()  # type: ignore[attr-defined]
        executor.shutdown()

    loops.run(main)


@pytest.mark.parametrize(
    ("buffersize", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)],
)
def test_a_buffersize_that_is_none_is_refused_at_the_call(
    loops: LoopKind, executor: Executor, buffersize: Any, error: type[Exception]
) -> None:
    async def main() -> None:
        with pytest.raises(error, match="buffersize"):
            AsyncExecutor(executor).map(plain, [1], buffersize=buffersize)

    loops.run(main)


@pytest.mark.parametrize("buffersize", [None, 2])
def test_map_raises_an_error_in_its_place_and_ends(
    loops: LoopKind, executor: Executor, buffersize: int | None
) -> None:
    """What comes before it comes; nothing comes after it. The errors behind it are not logged."""

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


def test_an_error_cancels_what_has_not_begun(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    ran: list[int] = []
    gate = Gate()

    def work(number: int) -> None:
        ran.append(number)
        if number == 0:
            raise OopsError
        gate.stop_here()

    async def main() -> None:
        with executor_class(1) as pool:
            results = AsyncExecutor(pool).map(work, range(10))
            with pytest.raises(OopsError):
                await anext(results)
            gate.open()
        assert ran in ([0], [0, 1])

    loops.run(main)


def test_an_iterable_that_raises_takes_back_what_was_started(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """At the call, as map() does it that has to read all of it."""
    ran: list[int] = []

    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool), pytest.raises(OopsError):
                AsyncExecutor(pool).map(ran.append, numbers())

    loops.run(main)
    assert not ran


@pytest.mark.parametrize("taken", [0, 1], ids=["unused", "begun"])
def test_a_map_that_is_closed_takes_back_what_has_not_begun(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], taken: int
) -> None:
    """Whether or not somebody has taken a result from it."""
    ran: list[int] = []
    gate = Gate()

    def work(number: int) -> None:
        if number >= taken:
            gate.stop_here()
        ran.append(number)

    async def main() -> None:
        with executor_class(1) as pool:
            results = AsyncExecutor(pool).map(work, range(5))
            for _ in range(taken):
                await anext(results)
            await until(gate.reached.is_set)
            try:
                await results.aclose()  # type: ignore[attr-defined]
            finally:
                gate.open()
        assert ran == list(range(taken + 1))

    loops.run(main)


def test_a_task_that_is_cancelled_in_a_map_takes_back_what_has_not_begun(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """It waits for the call whose result it waits for, as in run()."""
    ran: list[int] = []
    first, second = Gate(), Gate()

    def work(number: int) -> None:
        (second if number else first).stop_here()
        ran.append(number)

    async def main() -> None:
        with executor_class(1) as pool:
            task = asyncio.get_running_loop().create_task(
                collect(AsyncExecutor(pool).map(work, range(5)))
            )
            await until(first.reached.is_set)
            await turns()
            try:
                task.cancel()
                await turns()
                assert not task.done(), "it did not wait"
                first.open()
                await until(task.done)
                assert task.cancelled()
            finally:
                first.open()
                second.open()
        # The worker may have taken up the second one before the task knew.
        assert ran in ([0], [0, 1])

    loops.run(main)


@pytest.mark.parametrize("taken", [0, 1], ids=["unused", "begun"])
def test_a_map_that_is_left_and_forgotten_takes_back_what_has_not_begun(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], taken: int
) -> None:
    """By ``break``, or before its first item: the loop closes it, as any async generator."""
    ran: list[int] = []
    gate = Gate()

    def work(number: int) -> None:
        if number >= taken:
            gate.stop_here()
        ran.append(number)

    async def main() -> None:
        with executor_class(1) as pool:
            results = AsyncExecutor(pool).map(work, range(100))
            if taken:
                async for _ in results:
                    break
            await until(gate.reached.is_set)
            try:
                del results
                gc.collect()
                await turns()
            finally:
                gate.open()
        assert ran == list(range(taken + 1))

    loops.run(main)


def test_calls_of_a_closed_map_that_fail_later_are_not_logged(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()

    def work(number: int) -> None:
        if number:
            gate.stop_here()
            raise OopsError

    async def main() -> None:
        with executor_class(1) as pool:
            results = AsyncExecutor(pool).map(work, range(2))
            await anext(results)
            await until(gate.reached.is_set)
            await results.aclose()  # type: ignore[attr-defined]
            gate.open()
            assert await AsyncExecutor(pool).run(plain, 1) == 2

    loops.run(main)


# --- the end


class SlowToEnd(ThreadPoolExecutor):
    """Its ``shutdown`` blocks until the gate is open."""

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
    """Not even when the loop's own executor has no thread to spare."""
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


def test_a_task_that_is_cancelled_in_shutdown_stops_waiting(loops: LoopKind) -> None:
    """The executor is shut down all the same."""
    pool = SlowToEnd()

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(AsyncExecutor(pool).shutdown())
        await until(pool.gate.reached.is_set)
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        pool.gate.open()
        await until(lambda: pool._shutdown)

    loops.run(main)


def test_shutdown_waits_for_a_call_that_needs_the_loop(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """It would be a deadlock if it blocked."""
    gate = Gate()

    def work() -> int:
        gate.stop_here()
        return exec_in_eventloop(twice, 2)

    async def main() -> None:
        wrapper = AsyncExecutor(executor_class(1))
        task = asyncio.get_running_loop().create_task(wrapper.run(work))
        await until(gate.reached.is_set)
        gate.open()
        await wrapper.shutdown()
        assert await task == 4

    loops.run(main)


def test_what_shutdown_raises_comes_out(loops: LoopKind) -> None:
    class Stubborn(HeldExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            raise OopsError

    async def main() -> None:
        with pytest.raises(OopsError):
            await AsyncExecutor(Stubborn()).shutdown()

    loops.run(main)


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_shutdown_nowait_returns_at_once(cancel_futures: bool) -> None:
    """From anywhere: it needs no loop."""
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
    """After what was started in it; an error of the body comes out."""

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
        assert await task == 2
        with pytest.raises(RuntimeError, match="shutdown"):
            await wrapper.run(plain, 1)

    loops.run(main)
