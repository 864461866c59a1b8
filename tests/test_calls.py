"""A call in an executor: what holds of every way to make one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import (
    KINDS,
    WAYS,
    AsyncCallable,
    Inline,
    Kind,
    OopsError,
    Way,
    error_of,
    oops,
    plain,
    prefix,
    twice,
    wrapped,
)
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns

from threadhop import (
    AsyncExecutor,
    configure,
    ensure_thread_event_loop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")

#: For a test that runs once with a plain function and once with a coroutine function.
each_sort = pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])


class EndedError(StopIteration):
    """A kind of StopIteration."""


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine-function": twice,
    "partial-of-a-function": functools.partial(plain),
    "partial-of-a-coroutine-function": functools.partial(twice),
    "partial-of-a-partial": functools.partial(functools.partial(twice)),
    "async-call": AsyncCallable(),
    "partial-of-async-call": functools.partial(AsyncCallable()),
    "bound-method": AsyncCallable().__call__,
    "lambda-that-returns-a-coroutine": lambda number, plus: twice(number, plus=plus),
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to make a call and to await its result."""
    return WAYS[request.param]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of call, to be started and looked at later."""
    return KINDS[request.param]


# --- what it calls, and where


@pytest.mark.parametrize("func", CALLABLES.values(), ids=CALLABLES)
def test_the_result_is_what_the_function_returned(
    loops: LoopKind, executor: Executor, way: Way, func: Callable[..., Any]
) -> None:
    """The arguments arrive, those with a name too. A worker awaits every kind of coroutine."""
    assert loops.run(way(executor, func, 4, plus=1)) == 9


def test_our_names_are_free_for_the_functions_arguments(executor: Executor, way: Way) -> None:
    def named(**kwargs: str) -> dict[str, str]:
        return kwargs

    names = {"executor": "e", "func": "f", "args": "a", "kwargs": "k", "self": "s", "loop": "l"}
    assert asyncio.run(way(executor, named, **names)) == names


def test_a_coroutine_runs_on_a_loop_of_its_worker(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], way: Way
) -> None:
    """The worker keeps one loop, that of ensure_thread_event_loop(), beside the caller's."""

    async def running() -> object:
        return asyncio.get_running_loop()

    async def main() -> None:
        with executor_class(1) as pool:
            first = await way(pool, running)
            assert first is not asyncio.get_running_loop()
            assert await way(pool, running) is first
            assert await way(pool, ensure_thread_event_loop) is first
            assert await way(pool, asyncio.get_event_loop) is first

    loops.run(main)


def test_a_coroutine_on_a_worker_may_make_a_call_in_its_turn(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor], way: Way
) -> None:
    """The future of the inner call belongs to the loop of the worker."""

    async def main() -> None:
        with executor_class(1, thread_name_prefix="other") as other:

            async def outer() -> tuple[str, str]:
                return prefix(), await way(other, prefix)

            assert await way(executor, outer) == ("worker", "other")

    loops.run(main)


# --- context variables


@each_sort
def test_the_function_sees_a_copy_of_the_callers_variables(
    loops: LoopKind, executor: Executor, kind: Kind, asynchronous: bool
) -> None:
    """The copy is made at the call. The function's own changes stay with it."""
    gate = Gate()

    def look() -> str:
        gate.stop_here()
        seen = color.get()
        color.set("green")
        return seen

    async def look_async() -> str:
        return look()

    async def main() -> None:
        color.set("red")
        call = kind.start(executor, look_async if asynchronous else look)
        color.set("blue")
        await turns()
        gate.open()
        assert await wrapped(call) == "red"
        assert color.get() == "blue"
        assert await wrapped(kind.start(executor, color.get)) == "blue"

    loops.run(main)


# --- errors

ERRORS: list[type[BaseException]] = [
    OopsError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopAsyncIteration,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    asyncio.InvalidStateError,
]


@each_sort
@pytest.mark.parametrize("error", ERRORS, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_whatever_the_function_raises_comes_out(
    executor: Executor, way: Way, error: type[BaseException], asynchronous: bool
) -> None:
    """The error is the same. No future stays pending, nobody logs it, and the workers go on."""

    def fail() -> None:
        raise error("why")

    async def fail_async() -> None:
        await asyncio.sleep(0)
        raise error("why")

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(error, match=r"^why$") as caught:
                await way(executor, fail_async if asynchronous else fail)
            assert caught.type is error
            names = [frame.name for frame in traceback.extract_tb(caught.tb)]
            assert names[-1] == ("fail_async" if asynchronous else "fail")
        assert await way(executor, twice, 1) == 2

    asyncio.run(main())


def test_stop_iteration_comes_as_a_runtime_error(
    loops: LoopKind, executor: Executor, way: Way
) -> None:
    """No future of a loop can hold a StopIteration. The cause is the original."""

    def end() -> None:
        raise EndedError

    async def end_async() -> None:
        raise StopIteration

    async def main() -> None:
        for func, cause in ((functools.partial(next, iter(())), StopIteration), (end, EndedError)):
            with pytest.raises(RuntimeError, match="StopIteration, which no future") as caught:
                await way(executor, func)
            assert type(caught.value.__cause__) is cause
        with pytest.raises(RuntimeError, match="StopIteration"):
            await way(executor, end_async)

    loops.run(main)


# --- what is refused

TAKES_AN_EXECUTOR: dict[str, Callable[[Any], object]] = {
    "exec_in_executor()": lambda executor: exec_in_executor(executor, plain, 1),
    "exec_in_executor_threading_future()": lambda executor: exec_in_executor_threading_future(
        executor, plain, 1
    ),
    "AsyncExecutor()": AsyncExecutor,
    "configure()": lambda executor: configure(executor=executor),
}


@pytest.mark.parametrize("name", TAKES_AN_EXECUTOR)
@pytest.mark.parametrize(
    "executor",
    [3, False, (), "pool", object(), threading.Thread()],
    ids=["int", "false", "empty", "str", "object", "thread"],
)
def test_what_is_no_executor_is_a_type_error_at_the_call(name: str, executor: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError) as caught:
            TAKES_AN_EXECUTOR[name](executor)
        assert str(caught.value).startswith(f"{name} takes a concurrent.futures.Executor, not ")

    asyncio.run(main())


@pytest.mark.parametrize("name", TAKES_AN_EXECUTOR)
def test_a_class_in_place_of_an_executor_gets_a_question(name: str) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"did you forget \(\)\?"):
            TAKES_AN_EXECUTOR[name](ThreadPoolExecutor)

    asyncio.run(main())


TAKES_A_FUNCTION: dict[str, Callable[[Executor, Any], object]] = {
    "exec_in_executor()": exec_in_executor,
    "exec_in_executor_threading_future()": exec_in_executor_threading_future,
    "AsyncExecutor.run()": lambda executor, func: AsyncExecutor(executor).run(func).send(None),
    "AsyncExecutor.map()": lambda executor, func: AsyncExecutor(executor).map(func, []),
}


@pytest.mark.parametrize("name", TAKES_A_FUNCTION)
@pytest.mark.parametrize("func", [None, 3, "plain", [plain]], ids=["none", "int", "str", "list"])
def test_what_is_not_callable_is_a_type_error_at_the_call(
    executor: Executor, name: str, func: Any
) -> None:
    async def main() -> None:
        with pytest.raises(TypeError) as caught:
            TAKES_A_FUNCTION[name](executor, func)
        assert str(caught.value).startswith(f"{name} takes a function, not ")

    asyncio.run(main())


# --- executors in trouble


def test_a_call_that_a_pool_drops_is_not_a_cancelled_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], kind: Kind
) -> None:
    """``shutdown(cancel_futures=True)``: the error is that of concurrent.futures, for each."""

    async def main() -> None:
        pool = executor_class(1)
        with busy(pool):
            calls = [kind.start(pool, func, 1) for func in (plain, twice, plain)]
            await turns()
            pool.shutdown(wait=False, cancel_futures=True)
            for call in calls:
                error = await error_of(call)
                assert type(error) is concurrent.futures.CancelledError
                assert "dropped" in str(error)
                assert not call.cancelled()
        pool.shutdown()

    loops.run(main)


def test_a_call_that_any_executor_drops_is_not_a_cancelled_task(
    loops: LoopKind, kind: Kind
) -> None:
    executor = HeldExecutor()

    async def main() -> None:
        call = kind.start(executor, plain, 1)
        await turns()
        executor.drop()
        assert type(await error_of(call)) is concurrent.futures.CancelledError
        assert not call.cancelled()

    loops.run(main)


def test_an_error_of_the_executor_is_not_taken_for_one_of_pickling(kind: Kind) -> None:
    """The executor's own error comes out, although an argument could not be pickled."""
    executor = HeldExecutor()

    async def main() -> None:
        call = kind.start(executor, print, threading.Lock())
        await turns()
        theirs, _ = executor.jobs[0]
        theirs.set_exception(BrokenExecutor("no more"))
        assert type(await error_of(call)) is BrokenExecutor

    asyncio.run(main())


def test_a_broken_initializer_is_told(
    executor_class: type[ThreadPoolExecutor],
    way: Way,
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """The future of the first call raises it. A later call may raise it at once."""

    async def main() -> None:
        with executor_class(1, initializer=oops) as pool:
            for _ in range(5):
                with pytest.raises(BrokenExecutor):
                    await way(pool, plain, 1)

    asyncio.run(main())


def test_an_inline_executor_makes_the_call_in_the_callers_thread(way: Way) -> None:
    async def main() -> None:
        assert await way(Inline(), here) == here()
        with pytest.raises(RuntimeError, match="StopIteration, which no future"):
            await way(Inline(), next, iter(()))

    asyncio.run(main())


def test_an_inline_executor_cannot_run_a_coroutine_under_a_loop(way: Way) -> None:
    """A loop runs in that thread already. The call closes the coroutine."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="executor with threads"):
            await way(Inline(), twice, 1)
        gc.collect()

    asyncio.run(main())


class Pickling(Inline):
    """Pickles a job when it gets it, as the executors of clusters do."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(pickle.loads(pickle.dumps(fn)))


def test_an_executor_that_pickles_at_the_call_gets_the_bare_call(way: Way) -> None:
    """The error of an argument that cannot be pickled names it. The cause is the original."""

    async def main() -> None:
        assert await way(Pickling(), divmod, 7, 2) == (3, 1)
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            await way(Pickling(), print, 1, threading.Lock())
        assert str(caught.value).startswith("argument 2 (<unlocked _thread.lock")
        assert caught.value.__cause__ is not None

    asyncio.run(main())


@pytest.mark.parametrize("start", [exec_in_executor, exec_in_executor_threading_future])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_executor_that_refuses_says_so_at_the_call_and_does_not_make_it(
    start: Callable[..., Any], moment: str
) -> None:
    """The caller was told that the call failed, even if the executor had taken it before."""
    ran: list[bool] = []

    def refuse() -> None:
        raise OopsError("closed on Sundays")

    async def run_async() -> None:
        ran.append(True)

    executor = HeldExecutor(**{f"{moment}_submit": refuse})

    async def main() -> None:
        for func in (functools.partial(ran.append, True), run_async):
            with pytest.raises(OopsError, match="closed on Sundays"):
                start(executor, func)
        for number in range(len(executor.jobs)):
            executor.start(number)
        executor.shutdown()
        await turns()

    asyncio.run(main())
    assert not ran
    assert len(executor.jobs) == (2 if moment == "after" else 0)


@pytest.mark.parametrize("start", [exec_in_executor, exec_in_executor_threading_future])
def test_an_executor_that_refuses_while_the_call_runs_comes_too_late(
    start: Callable[..., Any],
) -> None:
    """The function runs already: the caller gets its result."""
    gate = Gate()

    def refuse() -> None:
        executor.start()
        assert gate.reached.wait(LIMIT)
        raise OopsError("too late")

    executor = HeldExecutor(after_submit=refuse)

    async def main() -> None:
        call = start(executor, gate.stop_here)
        gate.open()
        executor.shutdown()
        assert await wrapped(call) is None

    asyncio.run(main())


def test_a_job_that_an_executor_runs_twice_is_one_call(kind: Kind) -> None:
    executor = HeldExecutor()
    ran: list[bool] = []

    async def main() -> None:
        call = kind.start(executor, ran.append, True)
        await turns()
        _, job = executor.jobs[0]
        job()
        job()
        await wrapped(call)
        assert ran == [True]

    asyncio.run(main())


# --- calling the loop from the function


def test_the_function_calls_the_loop_that_it_was_called_from(
    loops: LoopKind, executor: Executor, way: Way
) -> None:
    """Functions and coroutine functions run there. Context variables go there and back."""

    async def paint(value: str) -> tuple[object, str]:
        await asyncio.sleep(0)
        seen = color.get()
        color.set(value)
        return asyncio.get_running_loop(), seen

    def work() -> tuple[object, str, object, str]:
        loop, seen = exec_in_eventloop(paint, "green")
        return loop, seen, exec_in_eventloop(asyncio.get_running_loop), color.get()

    async def main() -> None:
        color.set("red")
        loop = asyncio.get_running_loop()
        assert await way(executor, work) == (loop, "red", loop, "green")
        assert color.get() == "red"

    loops.run(main)
