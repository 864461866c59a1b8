"""``exec_in_eventloop``: a plain function, deep inside of a block, calls something on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, here, place, start, suspend
from helpers.steps import LIMIT, Gate, until

from threadhop import eventloop, exec_in_eventloop, threadpool

color = contextvars.ContextVar("color", default="unset")


def call_deep(level: int, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Legacy code is like this: plain functions that know nothing of blocks."""
    if level:
        return call_deep(level - 1, func, *args, **kwargs)
    return exec_in_eventloop(func, *args, **kwargs)


async def twice(number: int, *, plus: int = 0) -> int:
    await suspend()
    return number * 2 + plus


def plain(number: int, *, plus: int = 0) -> int:
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


def in_a_body(body: Callable[[], object]) -> None:
    """Call *body* in a block, where the kind of loop makes no difference."""

    async def main() -> None:
        async with threadpool():
            body()

    asyncio.run(main())


# --- functions and coroutines, and where they run


@pytest.mark.trio
def test_it_returns_what_the_function_returns(loops: LoopKind, executor: Executor) -> None:
    """Each kind of callable gets its arguments, those with a name too."""

    async def main() -> None:
        async with threadpool(executor):
            results = {kind: exec_in_eventloop(func, 4, plus=1) for kind, func in CALLABLES.items()}
            assert results == dict.fromkeys(CALLABLES, 9)

    loops.run(main)


def test_our_names_are_free_for_the_functions_arguments() -> None:
    def body() -> None:
        names = {"func": "f", "args": "a", "kwargs": "k", "self": "s", "loop": "l"}
        assert exec_in_eventloop(dict, **names) == names

    in_a_body(body)


def test_a_function_runs_on_the_loop_while_the_worker_waits(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    def where() -> tuple[str, asyncio.AbstractEventLoop]:
        return place(), asyncio.get_running_loop()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(one):
            assert exec_in_eventloop(where) == ("loop", loop)
            assert place() == "one_0"

    loops.run(main)


def test_a_coroutine_runs_on_the_loop_in_a_task_of_its_own(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def where() -> tuple[str, object]:
        await suspend()
        return place(), asyncio.current_task()

    async def main() -> None:
        task = asyncio.current_task()
        async with threadpool(executor):
            where_it_ran, inner = exec_in_eventloop(where)
            assert where_it_ran == "loop"
            assert type(inner) is type(task)  # made by the task factory of the loop
            assert inner is not task

    current_task_loops.run(main)


@pytest.mark.trio
def test_it_works_wherever_the_body_calls_it(loops: LoopKind, executor: Executor) -> None:
    """The call stands deep in the stack, in a callback of a library, in a decorated function."""

    async def main() -> None:
        assert await threadpool(executor)(call_deep)(10, twice, 4) == 8
        async with threadpool(executor):
            assert call_deep(100, twice, 4) == 8
            assert sorted([3, 1, 2], key=functools.partial(call_deep, 0, twice)) == [1, 2, 3]

    loops.run(main)


def test_any_awaitable_that_comes_back_is_awaited(loops: LoopKind, executor: Executor) -> None:
    """A future, the next item of a generator, an object of a library. A generator is a value."""

    class Request:
        def __await__(self) -> Generator[Any, None, str]:
            yield from asyncio.sleep(0).__await__()
            return "answer"

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await suspend()
            yield number

    async def collect(source: AsyncIterator[int]) -> list[int]:
        return [number async for number in source]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(executor):
            assert exec_in_eventloop(Request) == "answer"
            assert exec_in_eventloop(lambda: loop.run_in_executor(executor, int)) == 0
            source = exec_in_eventloop(numbers)
            assert exec_in_eventloop(source.__anext__) == 0
            assert exec_in_eventloop(collect, source) == [1, 2]

    loops.run(main)


# --- nested


@pytest.mark.trio
def test_the_coroutine_has_blocks_of_its_own_on_another_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """The task of the call is another one, so it does not get the waiting worker."""

    async def block() -> int:
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                await suspend()
            assert exec_in_eventloop(plain, 2) == 4
            return worker

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            assert exec_in_eventloop(block) != worker
            assert here() == worker

    loops.run(main)


@pytest.mark.trio
def test_it_works_in_nested_blocks_and_between_parts(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    async def main() -> None:
        results = []
        async with threadpool(one):
            results.append(exec_in_eventloop(twice, 1))
            async with threadpool(other):
                results.append(exec_in_eventloop(twice, 2))
                async with threadpool(one):
                    results.append(exec_in_eventloop(twice, 3))
                async with eventloop():
                    async with threadpool(one):
                        results.append(exec_in_eventloop(twice, 4))
                results.append(exec_in_eventloop(twice, 5))
            results.append(exec_in_eventloop(twice, 6))
        assert results == [2, 4, 6, 8, 10, 12]

    loops.run(main)


def test_the_loop_of_asyncio_run_in_the_body_is_the_one_for_its_own_blocks(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    async def inner(outer: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            exec_in_eventloop(plain, 1)  # this thread runs a loop
        async with threadpool(other):
            loop = exec_in_eventloop(asyncio.get_running_loop)
            assert loop is not outer

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(one):
            assert exec_in_eventloop(asyncio.get_running_loop) is loop
            asyncio.run(inner(loop))
            assert exec_in_eventloop(asyncio.get_running_loop) is loop

    loops.run(main)


# --- context variables


@pytest.mark.trio
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_function_sees_the_variables_of_the_body_and_what_it_sets_holds_after_it(
    loops: LoopKind, executor: Executor, asynchronous: bool, fails: bool
) -> None:
    """The body, its next call, and the code after the block see it; after an error too."""

    def set_now() -> None:
        assert color.get() == "body"
        color.set("called")
        if fails:
            raise OopsError

    async def set_later() -> None:
        await suspend()
        set_now()

    async def main() -> None:
        color.set("loop")
        async with threadpool(executor):
            color.set("body")
            with contextlib.suppress(OopsError):
                exec_in_eventloop(set_later if asynchronous else set_now)
            assert color.get() == "called"
            assert exec_in_eventloop(color.get) == "called"
        assert color.get() == "called"

    loops.run(main)


@pytest.mark.trio
def test_what_the_function_leaves_alone_or_resets_stays_as_the_body_set_it(
    loops: LoopKind, executor: Executor
) -> None:
    """The token of the body is good after the call."""

    async def set_and_reset() -> None:
        token = color.set("called")
        await suspend()
        color.reset(token)

    async def main() -> None:
        async with threadpool(executor):
            exec_in_eventloop(set_and_reset)
            assert color not in contextvars.copy_context()
            token = color.set("body")
            for func in (suspend, set_and_reset):
                exec_in_eventloop(func)
                assert color.get() == "body"
            color.reset(token)
            assert color.get() == "unset"

    loops.run(main)


# --- errors


@pytest.mark.trio
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_crosses_with_its_traceback_and_the_body_goes_on(
    loops: LoopKind, one: ThreadPoolExecutor, asynchronous: bool
) -> None:
    """The error is the object itself, with the frames of the function and of the caller."""
    error = OopsError("called")

    def fails() -> None:
        raise error

    async def fails_later() -> None:
        await suspend()
        fails()

    async def main() -> None:
        async with threadpool(one):
            with pytest.raises(OopsError) as caught:
                call_deep(2, fails_later if asynchronous else fails)
            assert place() == "one_0"
            assert caught.value is error
            assert error.__context__ is None
            names = [entry.name for entry in caught.traceback]
            assert names.count("call_deep") == 3
            assert names[-1] == "fails"
            assert exec_in_eventloop(twice, 2) == 4

    loops.run(main)


@pytest.mark.trio
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_an_odd_exception_is_raised_like_any_other(
    loops: LoopKind, executor: Executor, asynchronous: bool, kind: type[BaseException]
) -> None:
    """Only StopIteration of a coroutine becomes a RuntimeError, as everywhere."""
    error = kind("odd")

    def fails() -> None:
        raise error

    async def fails_later() -> None:
        raise error

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises((kind, RuntimeError)) as caught:
                exec_in_eventloop(fails_later if asynchronous else fails)
            if asynchronous and kind is StopIteration:
                assert type(caught.value) is RuntimeError
                assert caught.value.__cause__ is error
            else:
                assert caught.value is error

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_the_function_stops_the_loop_and_reaches_the_worker(
    executor: Executor, asynchronous: bool, kind: type[BaseException]
) -> None:
    """The loop stops as for any callback or task. The worker does not wait for it in vain."""
    reached = threading.Event()

    def fails() -> None:
        raise kind("exit")

    async def fails_later() -> None:
        fails()

    async def main() -> None:
        async with threadpool(executor):
            try:
                exec_in_eventloop(fails_later if asynchronous else fails)
            except kind:
                reached.set()

    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    with pytest.raises(kind):
        loop.run_until_complete(task)
    if not asynchronous:
        assert reached.wait(LIMIT)
    loop.run_until_complete(asyncio.wait({task}, timeout=LIMIT))
    loop.close()
    assert task.done()
    assert task.exception() is None
    assert reached.is_set()


# --- refused


def test_what_is_not_callable_or_not_with_these_arguments_is_a_type_error() -> None:
    """A coroutine in place of its function is refused, too."""
    coro: Any = suspend()

    def body() -> None:
        for got in (None, 1, "name", coro):
            with pytest.raises(TypeError, match=r"exec_in_eventloop\(\) takes a function"):
                exec_in_eventloop(got)
        with pytest.raises(TypeError, match="positional argument"):
            exec_in_eventloop(twice)  # type: ignore[call-arg, unused-ignore]

    in_a_body(body)
    coro.close()


@pytest.mark.trio
def test_on_a_loop_thread_it_is_refused(loops: LoopKind, executor: Executor) -> None:
    """The call would block the loop: outside of a block, in a part, in a function that it calls."""
    called: list[int] = []
    is_refused = pytest.raises(RuntimeError, match=r"exec_in_eventloop\(\).*await it")

    async def main() -> None:
        with is_refused:
            exec_in_eventloop(called.append, 1)
        async with threadpool(executor):
            with is_refused:
                exec_in_eventloop(call_deep, 0, called.append, 2)
            async with eventloop():
                with is_refused:
                    exec_in_eventloop(called.append, 3)

    loops.run(main)
    assert not called


def test_where_no_loop_is_known_it_is_refused(loops: LoopKind, executor: Executor) -> None:
    """A plain thread, a job of somebody else, and a thread that a body starts know none."""
    errors: list[BaseException] = []

    def try_it() -> None:
        try:
            exec_in_eventloop(plain, 1)
        except RuntimeError as error:
            errors.append(error)

    async def main() -> None:
        async with threadpool(executor):
            pass
        await asyncio.wrap_future(executor.submit(try_it))
        async with threadpool(executor):
            thread = threading.Thread(target=try_it)
            thread.start()
            thread.join(LIMIT)

    try_it()
    loops.run(main)
    assert len(errors) == 3
    for error in errors:
        assert "works for no event loop" in str(error)
        assert "run_coroutine_threadsafe" in str(error)


def test_on_a_closed_loop_it_is_refused(
    loops: LoopKind,
    executor: Executor,
    expect_loop_errors: list[Any],
) -> None:
    """The message says so, and no coroutine is left behind unawaited."""
    gate = Gate()
    errors: list[BaseException] = []
    has_ended = threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            for func in (plain, twice):
                try:
                    exec_in_eventloop(func, 1)
                except BaseException as error:
                    errors.append(error)
            has_ended.set()

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = start(block())
        await until(gate.reached.is_set)
        return task

    loop = loops.loop_factory()
    task = loop.run_until_complete(main())
    loop.close()
    gate.open()
    assert has_ended.wait(LIMIT)
    assert [type(error) for error in errors] == [RuntimeError, RuntimeError]
    assert all("loop that this worker works for is closed" in str(error) for error in errors)
    assert all(error.__context__ is None or error.__suppress_context__ for error in errors)
    assert not task.done()
    errors.clear()
    del task, loop
    for _ in range(3):  # the lost task speaks up here, and not in a later test
        gc.collect()
