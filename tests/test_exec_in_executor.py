"""``exec_in_executor``: a call in an executor, and a future of the loop for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import logging
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.garbage import IS_PYPY, MAY_DEFER, Thing, collect_until
from helpers.loops import LOOPS, LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    check_cancelled,
    configure,
    ensure_thread_event_loop,
    exec_in_eventloop,
    exec_in_executor,
    threadpool,
)

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")


class OopsError(Exception):
    """What a test raises on purpose."""


class WeirdError(BaseException):
    """What no ``except Exception`` stops."""


class EndedError(StopIteration):
    """A kind of StopIteration."""


def plain(number: int, *, plus: int = 0) -> int:
    return number * 2 + plus


async def twice(number: int, *, plus: int = 0) -> int:
    await asyncio.sleep(0)
    return number * 2 + plus


class AsyncCallable:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)


class Methods:
    async def twice(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)

    def __call__(self, number: int, *, plus: int = 0) -> int:
        return number * 2 + plus


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine-function": twice,
    "partial-of-a-function": functools.partial(plain),
    "partial-of-a-coroutine-function": functools.partial(twice),
    "partial-of-a-partial": functools.partial(functools.partial(twice)),
    "async-call": AsyncCallable(),
    "partial-of-async-call": functools.partial(AsyncCallable()),
    "call": Methods(),
    "bound-method": Methods().twice,
    "lambda-that-returns-a-coroutine": lambda number, plus: twice(number, plus=plus),
}


class Stop:
    """A coroutine function that waits on its worker until it is cancelled, and tells what it saw.

    Attributes:
        started: It waits now.
        seen: The arguments of each cancellation that it caught.
        ended: It is at its end, after an await in its cleanup.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.seen: list[tuple[Any, ...]] = []
        self.ended = threading.Event()

    async def __call__(self) -> None:
        try:
            self.started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            self.seen.append(error.args)
            raise
        finally:
            await asyncio.sleep(0)
            self.ended.set()


async def outcome(future: asyncio.Future[Any]) -> Any:
    """What it returned or raised, without raising it: KeyboardInterrupt would end the loop."""
    await asyncio.wait({future}, timeout=LIMIT)
    assert future.done(), "it stays pending"
    try:
        return future.result()
    except BaseException as error:
        return error


@pytest.fixture(params=[kind for kind in LOOPS if kind.task_factory is None], ids=str)
def loops(request: pytest.FixtureRequest) -> LoopKind:
    """Each kind of loop. A call knows nothing of tasks: one test below sees to their kinds."""
    kind: LoopKind = request.param
    return kind


def is_free(executor: Executor) -> None:
    """A worker of it takes up something new."""
    executor.submit(str).result(LIMIT)


# --- what it calls, when and where


@pytest.mark.parametrize("func", CALLABLES.values(), ids=CALLABLES)
def test_the_future_has_what_the_function_returned(
    loops: LoopKind, executor: Executor, func: Callable[..., Any]
) -> None:
    """With its arguments, those with a name too. Coroutines are awaited, however they are made."""

    async def main() -> None:
        assert await exec_in_executor(executor, func, 4, plus=1) == 9

    loops.run(main)


def test_our_names_are_free_for_the_functions_arguments(
    loops: LoopKind, executor: Executor
) -> None:
    def named(**kwargs: str) -> dict[str, str]:
        return kwargs

    async def main() -> None:
        names = {"executor": "e", "func": "f", "args": "a", "kwargs": "k", "self": "s", "loop": "l"}
        assert await exec_in_executor(executor, named, **names) == names

    loops.run(main)


@pytest.mark.parametrize("kind", LOOPS, ids=str)
def test_every_kind_of_task_can_await_it(kind: LoopKind, executor: Executor) -> None:
    """Its result, its error, and its cancellation."""

    def oops() -> None:
        raise OopsError

    async def wait(stop: Stop) -> None:
        await exec_in_executor(executor, stop)

    async def main() -> None:
        assert await exec_in_executor(executor, plain, 1) == 2
        with pytest.raises(OopsError):
            await exec_in_executor(executor, oops)
        stop = Stop()
        task = asyncio.get_running_loop().create_task(wait(stop))
        await until(stop.started.is_set)
        await turns()
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        await until(stop.ended.is_set)

    kind.run(main)


def test_many_tasks_may_await_the_same_call(loops: LoopKind, executor: Executor) -> None:
    """And it may have callbacks beside them; each is told once."""
    gate = Gate()
    called: list[Any] = []

    def work() -> int:
        gate.stop_here()
        return 42

    async def wait(future: asyncio.Future[int]) -> int:
        return await future

    async def main() -> None:
        future = exec_in_executor(executor, work)
        removed = called.append
        future.add_done_callback(removed)
        tasks = [asyncio.get_running_loop().create_task(wait(future)) for _ in range(3)]
        future.add_done_callback(lambda future: called.append(future.result()))
        await turns()
        assert future.remove_done_callback(removed) == 1
        gate.open()
        assert [await task for task in tasks] == [42] * 3
        await turns()
        assert called == [42]

    loops.run(main)


def test_a_shield_keeps_the_cancellation_from_the_call(loops: LoopKind, executor: Executor) -> None:
    gate = Gate()

    async def wait(future: asyncio.Future[None]) -> None:
        await asyncio.shield(future)

    async def main() -> None:
        future = exec_in_executor(executor, gate.stop_here)
        task = asyncio.get_running_loop().create_task(wait(future))
        await turns()
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        assert not future.done()
        gate.open()
        assert await future is None

    loops.run(main)


def test_an_await_that_a_block_refuses_leaves_the_future_usable(
    loops: LoopKind, executor: Executor
) -> None:
    """For an await on the loop, and for callbacks."""
    gate = Gate()
    called: list[Any] = []

    async def main() -> None:
        future = exec_in_executor(executor, gate.stop_here)
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="eventloop"):
                await future
        future.add_done_callback(called.append)
        asyncio.get_running_loop().call_soon(gate.open)
        assert await future is None
        await turns()
        assert called == [future]

    loops.run(main)


def test_a_task_wakes_when_somebody_else_ends_the_future() -> None:
    """It is a future like any other. What the function returns later is lost.

    In a child: a task that waits for a future that is done can neither go on nor be cancelled.
    """
    child = run_in_child(
        """
        import asyncio, threading
        from concurrent.futures import ThreadPoolExecutor
        from threadhop import exec_in_executor

        async def wait(future):
            return await future

        async def main():
            held = threading.Event()
            with ThreadPoolExecutor(2) as pool:
                futures = [exec_in_executor(pool, held.wait) for _ in range(2)]
                tasks = [asyncio.create_task(wait(future)) for future in futures]
                await asyncio.sleep(0)  # now both wait
                futures[0].set_result("mine")
                futures[1].set_exception(LookupError("mine"))
                held.set()
                print(await asyncio.gather(*tasks, return_exceptions=True))

        asyncio.run(main())
        """,
        deadline=5,
    )
    assert (child.stdout, child.stderr) == ("['mine', LookupError('mine')]\n", "")


def test_it_returns_a_future_of_the_running_loop(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        assert asyncio.isfuture(future)
        assert isinstance(future, asyncio.Future)
        assert future.get_loop() is asyncio.get_running_loop()
        await future

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_the_function_runs_on_a_worker_of_the_executor(
    loops: LoopKind, executor: Executor, asynchronous: bool
) -> None:
    def name() -> str:
        return threading.current_thread().name

    async def name_async() -> str:
        await asyncio.sleep(0)
        return name()

    async def main() -> None:
        func: Callable[[], Any] = name_async if asynchronous else name
        assert (await exec_in_executor(executor, func)).startswith("worker")

    loops.run(main)


def test_the_call_begins_without_an_await(loops: LoopKind, executor: Executor) -> None:
    """The loop does nothing between the call and the moment at which the function runs."""
    gate = Gate()

    async def main() -> None:
        future = exec_in_executor(executor, gate.stop_here)
        assert gate.reached.wait(LIMIT)
        gate.open()
        await future

    loops.run(main)


def test_code_that_is_not_async_may_call_it_under_a_loop(
    loops: LoopKind, executor: Executor
) -> None:
    """A callback of the loop, for example."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        futures: asyncio.Future[asyncio.Future[int]] = loop.create_future()
        loop.call_soon(lambda: futures.set_result(exec_in_executor(executor, plain, 21)))
        assert await (await futures) == 42

    loops.run(main)


def test_as_many_calls_run_at_once_as_there_are_workers(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    barrier = threading.Barrier(3, timeout=LIMIT)

    async def main() -> None:
        with executor_class(3) as pool:
            await asyncio.gather(*(exec_in_executor(pool, barrier.wait) for _ in range(3)))

    loops.run(main)


def test_calls_begin_in_their_order(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    ran: list[int] = []

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                futures = [exec_in_executor(pool, ran.append, number) for number in range(20)]
            await asyncio.gather(*futures)
        assert ran == list(range(20))

    loops.run(main)


def test_a_coroutine_runs_on_a_loop_of_its_worker(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Not on the caller's; always on the same one, which is that of ensure_thread_event_loop()."""

    async def running() -> object:
        return asyncio.get_running_loop()

    async def main() -> None:
        with executor_class(1) as pool:
            first = await exec_in_executor(pool, running)
            assert first is not asyncio.get_running_loop()
            assert await exec_in_executor(pool, running) is first
            assert await exec_in_executor(pool, ensure_thread_event_loop) is first

    loops.run(main)


def test_a_coroutine_on_a_worker_may_call_it_in_its_turn(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The future then belongs to the loop of the worker."""

    async def main() -> None:
        with executor_class(1, thread_name_prefix="other") as other:

            async def outer() -> tuple[str, str]:
                inner = await exec_in_executor(other, lambda: threading.current_thread().name)
                return threading.current_thread().name, inner

            names = await exec_in_executor(executor, outer)
            assert [name.partition("_")[0].partition("-")[0] for name in names] == [
                "worker",
                "other",
            ]

    loops.run(main)


# --- which executor


@pytest.fixture
def configured(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1, thread_name_prefix="configured") as pool:
        configure(executor=pool)
        try:
            yield pool
        finally:
            configure()


def prefix() -> str:
    return threading.current_thread().name.partition("_")[0]


def test_the_executor_that_is_named_comes_first(
    loops: LoopKind, executor: Executor, configured: Executor
) -> None:
    async def main() -> None:
        assert await exec_in_executor(executor, prefix) == "worker"

    loops.run(main)


def test_the_configured_executor_comes_before_that_of_the_loop(
    current_task_loops: LoopKind, configured: Executor
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        assert await exec_in_executor(None, prefix) == "configured"

    current_task_loops.run(main)


def test_the_default_executor_of_the_loop_comes_last(current_task_loops: LoopKind) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        assert await exec_in_executor(None, prefix) == "default"

    current_task_loops.run(main)


@pytest.mark.parametrize("func", [plain, twice], ids=["plain", "coroutine"])
def test_a_loop_without_a_default_executor_makes_one(
    current_task_loops: LoopKind, func: Callable[..., Any]
) -> None:
    async def main() -> None:
        results = [exec_in_executor(None, func, number) for number in range(3)]
        assert [await result for result in results] == [0, 2, 4]

    current_task_loops.run(main)


def test_a_queued_call_of_the_default_executor_is_cancelled(current_task_loops: LoopKind) -> None:
    """uvloop does not show its default executor: there it goes a longer way."""
    ran: list[bool] = []

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(pool)
        with busy(pool):
            future = exec_in_executor(None, ran.append, True)
            assert future.cancel()
            assert future.cancelled()
        await exec_in_executor(None, plain, 1)
        assert not ran

    current_task_loops.run(main)


# --- what is refused


@pytest.mark.parametrize(
    "executor",
    [3, "pool", object(), asyncio, threading.Thread()],
    ids=["int", "str", "object", "module", "thread"],
)
def test_what_is_no_executor_is_a_type_error_at_the_call(loops: LoopKind, executor: Any) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"exec_in_executor\(\) takes a concurrent.*Executor"):
            exec_in_executor(executor, plain, 1)

    loops.run(main)


def test_a_class_in_place_of_an_executor_gets_a_question(loops: LoopKind) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"did you forget \(\)\?"):
            exec_in_executor(ThreadPoolExecutor, plain, 1)  # type: ignore[arg-type]

    loops.run(main)


@pytest.mark.parametrize("func", [None, 3, "plain", [plain]])
def test_what_is_not_callable_is_a_type_error_at_the_call(
    loops: LoopKind, executor: Executor, func: Any
) -> None:
    async def main() -> None:
        with pytest.raises(TypeError, match=r"exec_in_executor\(\) takes a function"):
            exec_in_executor(executor, func)

    loops.run(main)


def test_without_a_running_loop_it_is_a_runtime_error(executor: Executor) -> None:
    """In the main thread and in a worker. The error names what to use instead."""
    expected = "exec_in_executor_threading_future"
    with pytest.raises(RuntimeError, match=expected):
        exec_in_executor(executor, plain, 1)
    with pytest.raises(RuntimeError, match=expected):
        executor.submit(exec_in_executor, executor, plain, 1).result(LIMIT)


# --- context variables


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_the_function_sees_a_copy_of_the_callers_variables(
    loops: LoopKind, executor: Executor, asynchronous: bool
) -> None:
    """As they were at the call. What it sets stays with it."""
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
        func: Callable[[], Any] = look_async if asynchronous else look
        future = exec_in_executor(executor, func)
        color.set("blue")
        gate.open()
        assert await future == "red"
        assert color.get() == "blue"
        assert await exec_in_executor(executor, color.get) == "blue"

    loops.run(main)


def test_a_worker_keeps_no_variables_of_a_call(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1) as pool:
            await exec_in_executor(pool, color.set, "red")
            assert await asyncio.wrap_future(pool.submit(color.get)) == "unset"

    loops.run(main)


# --- errors

ERRORS: list[BaseException] = [
    OopsError("oops"),
    WeirdError("weird"),
    KeyboardInterrupt("ctrl"),
    SystemExit(3),
    GeneratorExit("gone"),
    StopAsyncIteration("over"),
    asyncio.CancelledError("own"),
    concurrent.futures.CancelledError("theirs"),
    asyncio.InvalidStateError("state"),
    BaseExceptionGroup("both", [OopsError(), WeirdError()]),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_future_has_whatever_the_function_raised(
    loops: LoopKind, executor: Executor, error: BaseException, asynchronous: bool
) -> None:
    """No future stays pending, nothing is logged, and the worker goes on."""

    def oops() -> None:
        raise error

    async def oops_async() -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        func: Callable[[], Any] = oops_async if asynchronous else oops
        for _ in range(3):
            raised = await outcome(exec_in_executor(executor, func))
            assert type(raised) is type(error)
            assert raised.args == error.args
        assert await exec_in_executor(executor, twice, 1) == 2

    loops.run(main)
    error.__traceback__ = None


@pytest.mark.parametrize("kind", [StopIteration, EndedError])
def test_stop_iteration_comes_as_a_runtime_error(
    loops: LoopKind, executor: Executor, kind: type[StopIteration]
) -> None:
    """No future can hold it. The cause is the original."""

    def end() -> None:
        raise kind("over")

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await exec_in_executor(executor, end)
        assert type(caught.value.__cause__) is kind
        assert caught.value.__cause__.args == ("over",)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await exec_in_executor(executor, next, iter(()))

    loops.run(main)


def test_stop_iteration_out_of_a_coroutine_comes_as_a_runtime_error(
    loops: LoopKind, executor: Executor
) -> None:
    async def end() -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await exec_in_executor(executor, end)

    loops.run(main)


def test_the_traceback_tells_the_line_in_the_function(loops: LoopKind, executor: Executor) -> None:
    def oops() -> None:
        raise OopsError

    async def main() -> None:
        with pytest.raises(OopsError) as caught:
            await exec_in_executor(executor, oops)
        assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "oops"

    loops.run(main)


def test_wrong_arguments_are_an_error_of_the_future(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        for func in (plain, twice):
            with pytest.raises(TypeError, match="missing 1 required"):
                await exec_in_executor(executor, func)  # type: ignore[call-overload]

    loops.run(main)


def test_an_error_that_nobody_asks_for_is_reported(
    loops: LoopKind, executor: Executor, expect_loop_errors: list[logging.LogRecord]
) -> None:
    """As with every future: the counterpart of "what was awaited is not logged", all over here."""

    def oops() -> None:
        raise OopsError

    async def main() -> None:
        future = exec_in_executor(executor, oops)
        await asyncio.wait({future}, timeout=LIMIT)
        del future
        for _ in range(5):
            gc.collect()
            await turns()
        assert "never retrieved" in expect_loop_errors[0].getMessage()

    loops.run(main)


# --- cancelling a call that waits for a worker


def test_a_queued_call_that_is_cancelled_never_runs(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its future is cancelled at once; those before and behind it run."""
    ran: list[int] = []

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                futures = [exec_in_executor(pool, ran.append, number) for number in range(5)]
                assert futures[2].cancel("not this one")
                assert futures[2].cancelled()
                with pytest.raises(asyncio.CancelledError) as caught:
                    await futures[2]
                assert caught.value.args == ("not this one",)
            del futures[2]
            await asyncio.gather(*futures)
        assert ran == [0, 1, 3, 4]

    loops.run(main)


def test_a_queued_coroutine_that_is_cancelled_is_never_made(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """So there is none that "was never awaited"."""

    async def main() -> None:
        with executor_class(1) as pool:
            with busy(pool):
                future = exec_in_executor(pool, twice, 1)
                assert future.cancel()
            is_free(pool)
            assert future.cancelled()
        gc.collect()

    loops.run(main)


def test_a_queued_call_that_is_cancelled_is_taken_out_of_any_executor(loops: LoopKind) -> None:
    """Its own future says so."""
    executor = HeldExecutor()

    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        assert future.cancel()
        theirs, _ = executor.jobs[0]
        assert theirs.cancelled()
        executor.run()
        await turns()
        assert future.cancelled()

    loops.run(main)


def test_a_task_that_is_cancelled_cancels_the_call_that_it_awaits(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    ran: list[bool] = []

    async def wait(pool: Executor) -> None:
        await exec_in_executor(pool, ran.append, True)

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            task = asyncio.get_running_loop().create_task(wait(pool))
            await turns()
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert not ran


def test_a_call_that_has_ended_cannot_be_cancelled(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        assert await future == 2
        assert not future.cancel()
        assert future.result() == 2

    loops.run(main)


def test_only_the_first_of_two_cancellations_is_one(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            future = exec_in_executor(pool, plain, 1)
            assert future.cancel()
            assert not future.cancel()

    loops.run(main)


# --- cancelling a call that runs


@pytest.mark.parametrize("args", [(), ("enough",)], ids=["bare", "message"])
def test_a_running_coroutine_is_cancelled_with_its_future(
    loops: LoopKind, executor: Executor, args: tuple[Any, ...]
) -> None:
    """The future at once, the coroutine on its worker, where its cleanup may await."""
    stop = Stop()

    async def main() -> None:
        future = exec_in_executor(executor, stop)
        await until(stop.started.is_set)
        assert future.cancel(*args)
        assert future.cancelled()
        await until(stop.ended.is_set)
        assert stop.seen == [args]
        with pytest.raises(asyncio.CancelledError) as caught:
            await future
        assert caught.value.args == args

    loops.run(main)


def test_what_a_cancelled_coroutine_raises_is_not_logged(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    started = threading.Event()

    async def oops() -> None:
        try:
            started.set()
            await asyncio.get_running_loop().create_future()
        finally:
            raise OopsError

    async def main() -> None:
        with executor_class(1) as pool:
            future = exec_in_executor(pool, oops)
            await until(started.is_set)
            future.cancel()
            assert await exec_in_executor(pool, plain, 1) == 2
            assert future.cancelled()

    loops.run(main)


def test_the_next_coroutine_of_the_worker_is_not_cancelled(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1) as pool:
            for _ in range(20):
                stop = Stop()
                future = exec_in_executor(pool, stop)
                await until(stop.started.is_set)
                after = exec_in_executor(pool, twice, 2)
                future.cancel()
                assert await after == 4

    loops.run(main)


def test_a_running_function_goes_on_when_its_future_is_cancelled(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The future is cancelled at once; the thread ends by itself, and its result is lost."""
    gate = Gate()
    ended = threading.Event()

    def work() -> str:
        gate.stop_here()
        ended.set()
        return "late"

    async def main() -> None:
        with executor_class(1) as pool:
            future = exec_in_executor(pool, work)
            await until(gate.reached.is_set)
            assert future.cancel("enough")
            assert future.cancelled()
            assert not ended.is_set()
            gate.open()
            assert await exec_in_executor(pool, plain, 1) == 2
            assert ended.is_set()
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await future

    loops.run(main)


def test_what_a_cancelled_function_raises_is_not_logged(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()

    def oops() -> None:
        gate.stop_here()
        raise OopsError

    async def main() -> None:
        with executor_class(1) as pool:
            future = exec_in_executor(pool, oops)
            await until(gate.reached.is_set)
            future.cancel()
            gate.open()
            assert await exec_in_executor(pool, plain, 1) == 2

    loops.run(main)


def test_a_cancelled_function_ends_at_its_next_check(loops: LoopKind, executor: Executor) -> None:
    """With the message. Swallowing it does not help: the next check raises it again."""
    gate = Gate()
    seen: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def work() -> None:
        check_cancelled()
        gate.stop_here()
        try:
            for _ in range(2):
                try:
                    check_cancelled()
                except asyncio.CancelledError as error:
                    seen.append(error.args)
            check_cancelled()
            seen.append(("went on",))
        finally:
            ended.set()

    async def main() -> None:
        future = exec_in_executor(executor, work)
        await until(gate.reached.is_set)
        future.cancel("enough")
        gate.open()
        await until(ended.is_set)
        assert seen == [("enough",)] * 2

    loops.run(main)


def test_a_check_in_the_next_call_of_the_worker_is_quiet(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    gate = Gate()

    async def main() -> None:
        with executor_class(1) as pool:
            future = exec_in_executor(pool, gate.stop_here)
            await until(gate.reached.is_set)
            future.cancel()
            gate.open()
            assert await exec_in_executor(pool, check_cancelled) is None
            assert await asyncio.wrap_future(pool.submit(check_cancelled)) is None

    loops.run(main)


def test_a_timeout_around_a_running_function_does_not_wait_for_it(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    gate = Gate()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await exec_in_executor(executor, gate.stop_here)
        gate.open()

    current_task_loops.run(main)


# --- cancellation and the worker at the same moment


class LyingClaim(dict[str, Any]):
    """The attributes of a call: *before* happens once, just before somebody claims it."""

    def __init__(self, call: Any, before: Callable[[], object]) -> None:
        super().__init__(call.__dict__)
        self._before = [before]
        call.__dict__ = self

    def setdefault(self, name: str, claim: Any = None) -> Any:
        if name == "claimed" and self._before:
            self._before.pop()()
        return super().setdefault(name, claim)


class Futureless(HeldExecutor):
    """Returns no future, so the claims alone decide."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        super().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_a_cancellation_that_overtakes_the_worker_wins(loops: LoopKind, asynchronous: bool) -> None:
    """1. the worker has the job in hand; 2. cancel() claims it; 3. the worker wants it.

    Or has looked before, and found no claim.
    """
    executor = Futureless()
    ran: list[bool] = []

    async def run() -> None:
        ran.append(True)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        func: Callable[[], Any] = run if asynchronous else lambda: ran.append(True)
        future: Any = exec_in_executor(executor, func)

        async def cancel() -> None:
            future.cancel("first")

        def cancel_from_worker() -> None:
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(LIMIT)

        LyingClaim(future.call, cancel_from_worker)
        executor.start()
        error = await outcome(future)
        assert (type(error), error.args) == (asyncio.CancelledError, ("first",))
        await until(lambda: not executor.threads[0].is_alive())
        assert not ran

    loops.run(main)


def test_a_worker_that_comes_second_does_not_touch_the_call(loops: LoopKind) -> None:
    """1. the worker finds no claim; 2. cancel() claims; 3. so does the worker; 4. cancel() goes on.

    Until then the call is whole, so nothing but the order of the claims keeps the worker from it.
    """
    executor = Futureless()
    ran: list[bool] = []
    claimed = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop_thread = here()
        future: Any = exec_in_executor(executor, ran.append, True)

        class Claim(dict[str, Any]):
            def setdefault(self, name: str, claim: Any = None) -> Any:
                if here() == loop_thread:
                    first = super().setdefault(name, claim)
                    claimed.set()
                    executor.shutdown()  # waits for the worker
                    return first
                loop.call_soon_threadsafe(future.cancel, "first")
                assert claimed.wait(LIMIT)
                return super().setdefault(name, claim)

        future.call.__dict__ = Claim(future.call.__dict__)
        executor.start()
        error = await outcome(future)
        assert (type(error), error.args) == (asyncio.CancelledError, ("first",))
        assert not ran

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_a_worker_that_overtakes_the_cancellation_is_told(
    loops: LoopKind, asynchronous: bool
) -> None:
    """1. cancel() begins; 2. the worker claims, and the function begins; 3. cancel() goes on.

    The future is cancelled all the same, and the function learns of it.
    """
    executor = Futureless()
    stop = Stop()
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    def work() -> None:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError as error:
            seen.append(error.args)

    async def main() -> None:
        future: Any = exec_in_executor(executor, stop if asynchronous else work)

        def let_the_worker_in() -> None:
            executor.start()
            assert (stop.started if asynchronous else gate.reached).wait(LIMIT)

        LyingClaim(future.call, let_the_worker_in)
        assert future.cancel("too late")
        assert future.cancelled()
        gate.open()
        executor.shutdown()
        assert (stop.seen if asynchronous else seen) == [("too late",)]
        await turns()

    loops.run(main)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_coroutine_that_is_cancelled_while_its_task_is_made_is_cancelled(
    loops: LoopKind, executor: Executor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The worker tells who cancels which task it is, and then asks whether it was cancelled.

    Whoever cancels just before or just after it tells, reaches the task: it is not for nothing
    that each of the two writes before it reads.
    """
    from threadhop import _call_job
    from threadhop._cancel_token import CancelToken

    gate = Gate()
    stop = Stop()

    class Paused(CancelToken):
        __slots__ = ()

        @property
        def _listeners(self) -> Any:
            return self.__dict__.get("_listeners", ())

        @_listeners.setter
        def _listeners(self, value: Any) -> None:
            if value and moment == "before":
                gate.stop_here()
            self.__dict__["_listeners"] = value
            if value and moment == "after":
                gate.stop_here()

    monkeypatch.setattr(_call_job, "CancelToken", Paused)

    async def main() -> None:
        future = exec_in_executor(executor, stop)
        await until(gate.reached.is_set)
        assert future.cancel("in between")
        gate.open()
        # Both workers are free again, so the coroutine has ended.
        barrier = threading.Barrier(2, timeout=LIMIT)
        await asyncio.gather(*(exec_in_executor(executor, barrier.wait) for _ in range(2)))
        assert future.cancelled()
        assert not stop.started.is_set(), "it began, and was told later"

    loops.run(main)


# --- executors in trouble


def test_a_call_that_the_executor_drops_is_not_a_cancelled_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """``shutdown(cancel_futures=True)``: the error is that of concurrent.futures, for each."""

    async def main() -> None:
        pool = executor_class(1)
        with busy(pool):
            futures = [exec_in_executor(pool, func, 1) for func in (plain, twice, plain, plain)]
            pool.shutdown(wait=False, cancel_futures=True)
            for future in futures:
                with pytest.raises(concurrent.futures.CancelledError, match="dropped"):
                    await future
                assert not future.cancelled()
        pool.shutdown()

    loops.run(main)


def test_a_call_that_any_executor_drops_is_told(loops: LoopKind) -> None:
    executor = HeldExecutor()

    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        executor.drop()
        assert type(await outcome(future)) is concurrent.futures.CancelledError
        assert not future.cancelled()

    loops.run(main)


@pytest.mark.parametrize("waiting", [0, 1, 2, 3])
def test_an_executor_that_was_shut_down_refuses_at_the_call(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], waiting: int
) -> None:
    """However many calls still wait in it. Those that it has taken before are made."""
    ran: list[int] = []
    gate = Gate()

    async def main() -> None:
        pool = executor_class(1)
        try:
            before = [exec_in_executor(pool, gate.stop_here)] if waiting else []
            before += [exec_in_executor(pool, ran.append, n) for n in range(1, waiting)]
            pool.shutdown(wait=False)
            with pytest.raises(RuntimeError, match="shutdown"):
                exec_in_executor(pool, ran.append, -1)
        finally:
            gate.open()
            pool.shutdown()
        await asyncio.gather(*before)
        assert ran == list(range(1, waiting))

    loops.run(main)


def test_a_broken_initializer_is_told(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """From the future of the first call, and at the call, or from the future, of later ones."""

    def oops() -> None:
        raise OopsError

    async def main() -> None:
        with executor_class(1, initializer=oops) as pool:
            for _ in range(5):
                with pytest.raises(BrokenExecutor):
                    await exec_in_executor(pool, plain, 1)

    loops.run(main)


class Inline(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_an_inline_executor_makes_the_call_in_the_callers_thread(loops: LoopKind) -> None:
    async def main() -> None:
        assert await exec_in_executor(Inline(), here) == here()
        raised = await outcome(exec_in_executor(Inline(), next, iter(())))
        assert type(raised) is RuntimeError

    loops.run(main)


def test_an_inline_executor_cannot_run_a_coroutine(loops: LoopKind) -> None:
    """A loop runs in that thread already. The coroutine is closed, not forgotten."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="executor with threads"):
            await exec_in_executor(Inline(), twice, 1)
        gc.collect()

    loops.run(main)


@pytest.mark.parametrize("func", [plain, twice], ids=["plain", "coroutine"])
def test_an_executor_that_returns_no_future_makes_the_call(
    loops: LoopKind, func: Callable[..., Any]
) -> None:
    executor = Futureless()

    async def main() -> None:
        future = exec_in_executor(executor, func, 2)
        executor.start()
        assert await future == 4
        executor.shutdown()

    loops.run(main)


def test_an_executor_that_refuses_says_so_at_the_call(loops: LoopKind) -> None:
    def refuse() -> None:
        raise OopsError("closed on Sundays")

    async def main() -> None:
        with pytest.raises(OopsError, match="closed on Sundays"):
            exec_in_executor(HeldExecutor(before_submit=refuse), plain, 1)

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_an_executor_that_takes_the_call_and_then_refuses_does_not_make_it(
    loops: LoopKind, asynchronous: bool
) -> None:
    """The caller was told that it failed: that it runs all the same would be a surprise."""
    ran: list[bool] = []

    def refuse() -> None:
        raise OopsError("after all")

    async def run() -> None:
        ran.append(True)

    executor = HeldExecutor(after_submit=refuse)

    async def main() -> None:
        func: Callable[[], Any] = run if asynchronous else lambda: ran.append(True)
        with pytest.raises(OopsError, match="after all"):
            exec_in_executor(executor, func)
        executor.start()
        executor.shutdown()
        await turns()
        assert not ran

    loops.run(main)


def test_an_executor_that_refuses_while_the_call_runs_leaves_no_trouble(loops: LoopKind) -> None:
    """The error at the call, or a future with the result; nothing hangs, and nothing is logged."""
    gate = Gate()

    def refuse() -> None:
        executor.start()
        assert gate.reached.wait(LIMIT)
        raise OopsError("too late")

    executor = HeldExecutor(after_submit=refuse)

    async def main() -> None:
        future = None
        with contextlib.suppress(OopsError):
            future = exec_in_executor(executor, gate.stop_here)
        gate.open()
        executor.shutdown()
        await turns()
        assert future is None or await outcome(future) is None

    loops.run(main)


def test_a_call_that_never_runs_can_be_cancelled(loops: LoopKind) -> None:
    executor = HeldExecutor()

    async def main() -> None:
        future = exec_in_executor(executor, plain, 1)
        await turns()
        assert not future.done()
        future.cancel()
        assert type(await outcome(future)) is asyncio.CancelledError

    loops.run(main)


def test_a_job_that_an_executor_runs_twice_is_one_call(loops: LoopKind) -> None:
    executor = HeldExecutor()
    ran: list[bool] = []

    async def main() -> None:
        future = exec_in_executor(executor, ran.append, True)
        _, job = executor.jobs[0]
        job()
        job()
        await future
        assert ran == [True]

    loops.run(main)


def test_a_loop_that_closes_meanwhile_leaves_the_worker_alive(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], caplog: pytest.LogCaptureFixture
) -> None:
    """The result is lost, and a warning says so."""
    gate = Gate()

    async def main() -> None:
        kept.append(exec_in_executor(pool, gate.stop_here))
        await until(gate.reached.is_set)

    kept: list[Any] = []
    with executor_class(1) as pool:
        loops.run(main)
        gate.open()
        is_free(pool)
        wait_until(lambda: any("lost" in record.getMessage() for record in caplog.records))
        assert {record.levelno for record in caplog.records if record.name == "threadhop"} == {
            logging.WARNING
        }
        assert not kept[0].done()

        async def again() -> None:
            assert await exec_in_executor(pool, twice, 1) == 2

        loops.run(again)


# --- calling the loop from the function


def test_the_function_calls_the_loop_that_it_was_called_from(
    loops: LoopKind, executor: Executor
) -> None:
    """A function or a coroutine function, with the context variables there and back."""

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
        assert await exec_in_executor(executor, work) == (loop, "red", loop, "green")
        assert color.get() == "red"

    loops.run(main)


def test_a_coroutine_on_the_worker_cannot_call_the_loop(
    loops: LoopKind, executor: Executor
) -> None:
    """It would block the loop that it runs on: it is told to await."""

    async def work() -> None:
        exec_in_eventloop(plain, 1)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="would block this event loop"):
            await exec_in_executor(executor, work)

    loops.run(main)


def test_the_coroutine_on_the_loop_is_cancelled_with_the_future(
    loops: LoopKind, executor: Executor
) -> None:
    """And the function that waits for it gets the error."""
    stop = Stop()
    seen: list[tuple[Any, ...]] = []
    ended = threading.Event()

    def work() -> None:
        try:
            exec_in_eventloop(stop)
        except asyncio.CancelledError as error:
            seen.append(error.args)
        try:
            exec_in_eventloop(plain, 1)
        except asyncio.CancelledError as error:
            seen.append(error.args)
        ended.set()

    async def main() -> None:
        future = exec_in_executor(executor, work)
        await until(stop.started.is_set)
        future.cancel("enough")
        assert future.cancelled()
        await until(ended.is_set)
        assert stop.seen == [("enough",)]
        assert seen == [("enough",)] * 2

    loops.run(main)


def test_an_error_on_the_loop_crosses_both_borders(loops: LoopKind, executor: Executor) -> None:
    async def oops() -> None:
        raise OopsError("there and back")

    async def main() -> None:
        with pytest.raises(OopsError, match="there and back"):
            await exec_in_executor(executor, exec_in_eventloop, oops)

    loops.run(main)


# --- get_event_loop() in the function


def test_get_event_loop_works_in_the_function(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """It is the loop of the worker, the same in each call, and can be used."""

    def work() -> object:
        loop = asyncio.get_event_loop()
        assert loop.run_until_complete(twice(3)) == 6
        return loop

    async def main() -> None:
        with executor_class(1) as pool:
            first = await exec_in_executor(pool, work)
            assert await exec_in_executor(pool, work) is first
            assert first is not asyncio.get_running_loop()
            assert await exec_in_executor(pool, ensure_thread_event_loop) is first

    loops.run(main)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda: asyncio.run(twice(1)),
        lambda: asyncio.set_event_loop(None),
        lambda: asyncio.get_event_loop().close(),
        lambda: asyncio.get_event_loop().run_until_complete(twice(1)),
    ],
    ids=["run", "set-none", "close", "use"],
)
def test_get_event_loop_works_whatever_the_call_before_did(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], spoil: Callable[[], object]
) -> None:
    def work() -> int:
        coroutine = twice(3)
        try:
            return asyncio.get_event_loop().run_until_complete(coroutine)
        finally:
            coroutine.close()

    async def main() -> None:
        with executor_class(1) as pool:
            for _ in range(2):
                assert await exec_in_executor(pool, work) == 6
                await exec_in_executor(pool, spoil)
                assert await exec_in_executor(pool, work) == 6
                await exec_in_executor(pool, spoil)
                assert await exec_in_executor(pool, twice, 3) == 6

    loops.run(main)


# --- nothing stays behind


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_future_keeps_nothing_of_the_call(
    loops: LoopKind, executor: Executor, asynchronous: bool, ending: str
) -> None:
    """Its arguments are free when it has ended, although the future with its result is kept."""
    refs: list[weakref.ref[Thing]] = []

    def work(thing: Thing) -> str:
        if ending == "raises":
            raise OopsError
        return "result"

    async def work_async(thing: Thing) -> str:
        return work(thing)

    def start() -> asyncio.Future[str]:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return exec_in_executor(executor, work_async if asynchronous else work, thing)

    async def main() -> None:
        future: Any = start()
        result = await outcome(future)
        if isinstance(result, BaseException):
            # As everywhere: an error keeps the frames that it went through.
            del future, result
        collect_until(lambda: refs[0]() is None)

    loops.run(main)


def test_a_queued_call_that_was_cancelled_keeps_nothing(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The executor may hold the job for long: the worker is still busy."""
    refs: list[weakref.ref[Any]] = []

    def start(pool: Executor) -> None:
        thing = Thing()
        future = exec_in_executor(pool, print, thing)
        refs.extend([weakref.ref(thing), weakref.ref(future)])
        future.cancel()

    async def main() -> None:
        with executor_class(1) as pool, busy(pool):
            start(pool)
            await turns()
            collect_until(lambda: [ref() for ref in refs] == [None, None])

    loops.run(main)


def test_an_idle_worker_keeps_nothing_of_the_last_call(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    refs: list[weakref.ref[Thing]] = []

    async def make() -> Thing:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return thing

    async def main() -> None:
        with executor_class(1) as pool:
            await exec_in_executor(pool, make)
            await turns()
            collect_until(lambda: refs[0]() is None)

    loops.run(main)


@pytest.mark.skipif(IS_PYPY or MAY_DEFER, reason="it counts on reference counts")
@pytest.mark.parametrize("kind", ["plain", "coroutine", "raising", "cancelled", "calling-the-loop"])
def test_a_call_leaves_no_garbage(executor: Executor, kind: str) -> None:
    """What is freed is freed without the collector: many calls leave no more than few."""

    def oops() -> None:
        raise OopsError

    async def call() -> None:
        if kind == "plain":
            await exec_in_executor(executor, plain, 1)
        elif kind == "coroutine":
            await exec_in_executor(executor, twice, 1)
        elif kind == "raising":
            with contextlib.suppress(OopsError):
                await exec_in_executor(executor, oops)
        elif kind == "cancelled":
            with busy(executor, 2):
                exec_in_executor(executor, plain, 1).cancel()
        else:
            await exec_in_executor(executor, exec_in_eventloop, twice, 1)

    async def main() -> int:
        for _ in range(5):
            await call()
        gc.collect()
        gc.disable()
        try:
            for _ in range(30):
                await call()
            await turns()
            is_free(executor)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(main()) < 30


def test_an_executor_that_made_calls_is_freed(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its threads end with it, also if nobody shut it down."""
    refs: list[weakref.ref[Any]] = []
    threads: list[threading.Thread] = []

    async def name() -> None:
        threads.append(threading.current_thread())

    async def main() -> None:
        pool = executor_class(1)
        refs.append(weakref.ref(pool))
        await exec_in_executor(pool, name)

    loops.run(main)
    collect_until(lambda: refs[0]() is None)
    threads[0].join(LIMIT)
    assert not threads[0].is_alive()


def test_a_loop_that_made_calls_is_freed(executor: Executor) -> None:
    async def main() -> weakref.ref[Any]:
        await exec_in_executor(executor, twice, 1)
        await exec_in_executor(None, twice, 1)
        return weakref.ref(asyncio.get_running_loop())

    ref = asyncio.run(main())
    collect_until(lambda: ref() is None)
