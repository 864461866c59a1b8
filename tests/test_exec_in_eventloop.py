"""``exec_in_eventloop``: a plain function, deep inside of a block, calls something on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.calls import CALLABLES, NAMES, plain, twice
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import OopsError, Trail, forever, here, on_loop_thread, place, start, suspend
from helpers.steps import LIMIT, until

from threadhop import eventloop, exec_in_eventloop, threadpool

color = contextvars.ContextVar("color", default="unset")


def call_deep(level: int, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Legacy code is like this: plain functions that know nothing of blocks."""
    if level:
        return call_deep(level - 1, func, *args, **kwargs)
    return exec_in_eventloop(func, *args, **kwargs)


# --- functions and coroutines, and where they run


@pytest.mark.trio
@on_every_loop
async def test_it_returns_what_the_function_returns_wherever_the_body_calls_it(
    executor: Executor,
) -> None:
    """Deep in the stack, in a callback of a library, in a decorated function, of any callable."""
    assert await threadpool(executor)(call_deep)(10, twice, 4) == 8
    async with threadpool(executor):
        assert sorted([3, 1, 2], key=functools.partial(call_deep, 0, twice)) == [1, 2, 3]
        assert call_deep(100, twice, 4) == 8
        assert exec_in_eventloop(dict, **NAMES) == NAMES
        results = {name: exec_in_eventloop(func, 4, plus=1) for name, func in CALLABLES.items()}
        assert results == dict.fromkeys(CALLABLES, 9)


def test_it_runs_on_the_loop_while_the_worker_waits(
    current_task_loops: LoopKind, one: Executor
) -> None:
    """A coroutine in a task of its own, which the task factory of the loop has made."""

    def where() -> tuple[str, object]:
        return place(), asyncio.get_running_loop()

    async def whose() -> tuple[str, object]:
        await suspend()
        return place(), asyncio.current_task()

    async def main() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        async with threadpool(one):
            assert exec_in_eventloop(where) == ("loop", loop)
            where_it_ran, inner = exec_in_eventloop(whose)
            assert where_it_ran == "loop"
            assert type(inner) is type(task)
            assert inner is not task
            assert place() == "one_0"

    current_task_loops.run(main)


@on_every_loop
async def test_any_awaitable_that_comes_back_is_awaited(executor: Executor) -> None:
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

    loop = asyncio.get_running_loop()
    async with threadpool(executor):
        assert exec_in_eventloop(Request) == "answer"
        assert exec_in_eventloop(lambda: loop.run_in_executor(executor, int)) == 0
        source = exec_in_eventloop(numbers)
        assert exec_in_eventloop(source.__anext__) == 0
        assert exec_in_eventloop(collect, source) == [1, 2]


# --- nested


@pytest.mark.trio
@on_every_loop
async def test_the_coroutine_has_blocks_of_its_own_on_another_worker(
    executor: Executor, other: Executor
) -> None:
    """The task of the call is another one, so it does not get the waiting worker; nested or not."""

    async def block() -> int:
        async with threadpool(executor):
            worker = here()
            async with eventloop():
                await suspend()
            assert exec_in_eventloop(plain, 2) == 4
            return worker

    async with threadpool(executor):
        worker = here()
        assert exec_in_eventloop(block) != worker
        assert here() == worker
        async with threadpool(other), threadpool(executor):
            assert here() == worker
            assert exec_in_eventloop(block) != worker
            async with eventloop(), threadpool(other):
                assert exec_in_eventloop(twice, 1) == 2


@on_every_loop
async def test_the_loop_of_asyncio_run_in_the_body_is_the_one_for_its_own_blocks(
    one: Executor, other: Executor
) -> None:
    """Its tasks are not the block's, and stay where they are outside of any block of their own."""

    async def inner(outer: asyncio.AbstractEventLoop) -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            exec_in_eventloop(plain, 1)  # this thread runs a loop
        async with eventloop():
            assert not on_loop_thread()
        async with threadpool(other):
            loop = exec_in_eventloop(asyncio.get_running_loop)
            assert loop is not outer

    loop = asyncio.get_running_loop()
    async with threadpool(one):
        assert exec_in_eventloop(asyncio.get_running_loop) is loop
        asyncio.run(inner(loop))
        assert exec_in_eventloop(asyncio.get_running_loop) is loop
    assert on_loop_thread()


# --- context variables


@pytest.mark.trio
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
@on_every_loop
async def test_the_function_sees_the_variables_of_the_body_and_what_it_sets_holds_after_it(
    executor: Executor, asynchronous: bool, fails: bool
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

    color.set("loop")
    async with threadpool(executor):
        color.set("body")
        with contextlib.suppress(OopsError):
            exec_in_eventloop(set_later if asynchronous else set_now)
        assert color.get() == "called"
        assert exec_in_eventloop(color.get) == "called"
    assert color.get() == "called"


@pytest.mark.trio
@on_every_loop
async def test_what_the_function_leaves_alone_or_resets_stays_as_the_body_set_it(
    executor: Executor,
) -> None:
    """The token of the body is good after the call."""

    async def set_and_reset() -> None:
        token = color.set("called")
        await suspend()
        color.reset(token)

    async with threadpool(executor):
        exec_in_eventloop(set_and_reset)
        assert color not in contextvars.copy_context()
        token = color.set("body")
        for func in (suspend, set_and_reset):
            exec_in_eventloop(func)
            assert color.get() == "body"
        color.reset(token)
        assert color.get() == "unset"


# --- errors


@pytest.mark.trio
@pytest.mark.parametrize("asynchronous", [False, True])
@on_every_loop
async def test_an_error_crosses_with_its_traceback_and_the_body_goes_on(
    one: Executor, asynchronous: bool
) -> None:
    """The error is the object itself, with the frames of the function and of the caller.

    Only StopIteration of a coroutine becomes a RuntimeError, as everywhere.
    """

    def fails(error: BaseException) -> None:
        raise error

    async def fails_later(error: BaseException) -> None:
        await suspend()
        fails(error)

    async with threadpool(one):
        for kind in (OopsError, StopAsyncIteration, GeneratorExit, StopIteration):
            error = kind("called")
            is_replaced = asynchronous and kind is StopIteration
            with pytest.raises(RuntimeError if is_replaced else kind) as caught:
                call_deep(2, fails_later if asynchronous else fails, error)
            assert place() == "one_0"
            if is_replaced:
                assert caught.value.__cause__ is error
                continue
            assert caught.value is error
            assert error.__context__ is None
            names = [entry.name for entry in caught.traceback]
            assert names.count("call_deep") == 3
            assert names[-1] == "fails"
        assert exec_in_eventloop(twice, 2) == 4


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


@on_one_loop
async def test_what_is_not_callable_or_not_with_these_arguments_is_a_type_error() -> None:
    """A coroutine in place of its function is refused, too."""
    coro: Any = suspend()
    async with threadpool():
        for got in (None, 1, "name", coro):
            with pytest.raises(TypeError, match=r"exec_in_eventloop\(\) takes a function"):
                exec_in_eventloop(got)
        with pytest.raises(TypeError, match="positional argument"):
            exec_in_eventloop(twice)  # type: ignore[call-arg, unused-ignore]
    coro.close()


@pytest.mark.trio
@on_every_loop
async def test_on_a_loop_thread_it_is_refused(executor: Executor) -> None:
    """The call would block the loop: outside of a block, in a part, in a function that it calls."""
    called: list[int] = []
    is_refused = pytest.raises(RuntimeError, match=r"exec_in_eventloop\(\).*await it")

    with is_refused:
        exec_in_eventloop(called.append, 1)
    async with threadpool(executor):
        with is_refused:
            exec_in_eventloop(call_deep, 0, called.append, 2)
        async with eventloop():
            with is_refused:
                exec_in_eventloop(called.append, 3)
    assert not called


@on_one_loop
async def test_where_no_loop_is_known_it_is_refused(executor: Executor) -> None:
    """A plain thread, a job of somebody else, and a thread that a body starts know none."""
    errors: list[str] = []

    def try_it() -> None:
        try:
            exec_in_eventloop(plain, 1)
        except RuntimeError as error:
            errors.append(str(error))

    def try_it_in_a_thread() -> None:
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join(LIMIT)

    try_it_in_a_thread()
    async with threadpool(executor):
        try_it_in_a_thread()
    await asyncio.wrap_future(executor.submit(try_it))
    assert len(errors) == 3
    assert all("works for no event loop" in error for error in errors)
    assert all("run_coroutine_threadsafe" in error for error in errors)


#: The outcome of the call, by the reaction of its coroutine to the cancellation.
COMES_OUT = {"passes": "CancelledError", "swallows": "value", "raises": "OopsError"}


@pytest.mark.parametrize("body", ["passes", "swallows"])
@pytest.mark.parametrize("coroutine", COMES_OUT)
def test_the_coroutine_is_cancelled_with_the_task_of_the_block(
    loops: LoopKind, one: Executor, other: Executor, coroutine: str, body: str
) -> None:
    """The body waits for its cleanup. The exit raises, whatever either makes of the cancellation.

    No further call is made. The ``finally`` of each body runs in its own thread.
    """
    trail, reached = Trail(), threading.Event()

    async def wait() -> str:
        reached.set()
        try:
            with trail.watch("cancelled"):
                await forever()
        except asyncio.CancelledError:
            if coroutine == "passes":
                raise
            if coroutine == "raises":
                raise OopsError from None
        finally:
            await suspend()
            trail.note("cleaned up")
        return "value"

    def call() -> None:
        try:
            trail.note(exec_in_eventloop(wait))
        except BaseException as error:
            trail.note(type(error).__name__)
            if body == "passes":
                raise
        finally:
            with pytest.raises(asyncio.CancelledError, match="stop"):
                exec_in_eventloop(wait)

    async def block() -> None:
        try:
            with trail.watch("exit"):
                async with threadpool(one):
                    try:
                        async with threadpool(other):
                            call()
                    finally:
                        trail.note("outer")
        except asyncio.CancelledError as error:
            is_context = coroutine == "raises" and body == "passes"
            assert isinstance(error.__context__, OopsError) == is_context
            raise

    async def main() -> None:
        task = start(block())
        await until(reached.is_set)
        task.cancel("stop")
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert trail.steps == [
        ("cancelled", "loop"),
        ("cleaned up", "loop"),
        (COMES_OUT[coroutine], "other_0"),
        ("outer", "one_0"),
        ("exit", "loop"),
    ]


async def cancelled_future() -> None:
    future = asyncio.get_running_loop().create_future()
    future.cancel("foreign")
    await future


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel("foreign")
    await suspend()


@pytest.mark.parametrize("func", [cancelled_future, cancels_itself])
def test_a_foreign_cancelled_error_is_not_taken_for_the_tasks_own(
    current_task_loops: LoopKind, executor: Executor, func: Callable[[], Any]
) -> None:
    """An ``except`` of the body has dealt with it."""

    async def block() -> str:
        async with threadpool(executor):
            with pytest.raises(asyncio.CancelledError, match="foreign"):
                exec_in_eventloop(func)
            async with eventloop():
                await suspend()
        return "not cancelled"

    async def main() -> None:
        task = start(block())
        assert await task == "not cancelled"
        assert task.cancelling() == 0

    current_task_loops.run(main)
