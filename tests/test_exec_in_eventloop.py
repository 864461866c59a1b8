"""``exec_in_eventloop``: a plain function, deep inside of a block, calls something on the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns, until

from threadhop import eventloop, exec_in_eventloop, threadpool

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")


class OopsError(Exception):
    """What a test raises on purpose."""


async def suspend() -> None:
    """Really leave the loop to others for a moment."""
    await asyncio.sleep(0.001)


def call(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """What legacy code is like: a plain function that knows nothing of blocks."""
    return exec_in_eventloop(func, *args, **kwargs)


def call_deep(level: int, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    if level:
        return call_deep(level - 1, func, *args, **kwargs)
    return call(func, *args, **kwargs)


async def twice(number: int, *, plus: int = 0) -> int:
    await suspend()
    return number * 2 + plus


class AsyncCallable:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)


class Methods:
    async def twice(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)

    def __call__(self, number: int, *, plus: int = 0) -> int:
        return number * 2 + plus


def plain(number: int, *, plus: int = 0) -> int:
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


@pytest.fixture(autouse=True)
def _no_caller_is_left() -> Iterator[None]:
    yield
    with pytest.raises(RuntimeError, match="works for no event loop"):
        exec_in_eventloop(plain, 1)


# --- what it calls, and where


def test_it_returns_what_the_function_returns(loops: LoopKind, executor: Executor) -> None:
    """Whatever kind of callable that is; with its arguments, those with a name too."""

    async def main() -> None:
        async with threadpool(executor):
            results = {kind: exec_in_eventloop(func, 4, plus=1) for kind, func in CALLABLES.items()}
            assert results == dict.fromkeys(CALLABLES, 9)

    loops.run(main)


def test_our_names_are_free_for_the_functions_arguments(
    loops: LoopKind, executor: Executor
) -> None:
    def named(**kwargs: str) -> dict[str, str]:
        return kwargs

    async def main() -> None:
        async with threadpool(executor):
            names = {"func": "f", "args": "a", "kwargs": "k", "self": "s", "loop": "l"}
            assert exec_in_eventloop(named, **names) == names

    loops.run(main)


def test_a_function_runs_on_the_loop_thread_while_the_worker_waits(
    loops: LoopKind, executor: Executor
) -> None:
    def where() -> tuple[int, asyncio.AbstractEventLoop]:
        return here(), asyncio.get_running_loop()

    async def main() -> None:
        loop_thread, loop = here(), asyncio.get_running_loop()
        async with threadpool(executor):
            worker = here()
            assert exec_in_eventloop(where) == (loop_thread, loop)
            assert here() == worker

    loops.run(main)


def test_a_coroutine_runs_on_the_loop_in_a_task_of_its_own(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def where() -> tuple[int, object]:
        await suspend()
        return here(), asyncio.current_task()

    async def main() -> None:
        loop_thread, task = here(), asyncio.current_task()
        async with threadpool(executor):
            thread, inner = exec_in_eventloop(where)
            assert thread == loop_thread
            assert type(inner) is type(task)  # made by the task factory of the loop
            assert inner is not task

    current_task_loops.run(main)


def test_the_loop_serves_others_while_the_coroutine_waits(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def wait() -> str:
            return await future

        async def answer() -> None:
            await suspend()
            future.set_result("answer")

        helper = loop.create_task(answer())
        async with threadpool(executor):
            assert exec_in_eventloop(wait) == "answer"
        await helper

    loops.run(main)


def test_it_works_deep_in_the_call_stack(loops: LoopKind, executor: Executor) -> None:
    """No ``async`` between the block and the call."""

    async def main() -> None:
        async with threadpool(executor):
            assert call_deep(100, twice, 4) == 8

    loops.run(main)


def test_it_works_in_a_decorated_function(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        assert await threadpool(executor)(call_deep)(10, twice, 4) == 8

    loops.run(main)


def test_it_works_in_a_callback_of_a_library(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        async with threadpool(executor):
            assert sorted([3, 1, 2], key=functools.partial(call, twice)) == [1, 2, 3]

    loops.run(main)


def test_what_is_awaitable_and_no_coroutine_is_returned_as_it_is(
    loops: LoopKind, executor: Executor
) -> None:
    """A future that a plain function returns is its value."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(executor):
            future = exec_in_eventloop(loop.create_future)
        assert isinstance(future, asyncio.Future)
        future.cancel()

    loops.run(main)


def test_an_async_generator_function_returns_its_generator(
    loops: LoopKind, executor: Executor
) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            await suspend()
            yield number

    async def collect(source: AsyncIterator[int]) -> list[int]:
        return [number async for number in source]

    async def main() -> None:
        async with threadpool(executor):
            source = exec_in_eventloop(numbers)
            assert exec_in_eventloop(collect, source) == [0, 1, 2]

    loops.run(main)


def test_five_hundred_calls_in_one_block_lose_nothing(loops: LoopKind, executor: Executor) -> None:
    counter = contextvars.ContextVar("counter", default=0)

    def count() -> int:
        counter.set(counter.get() + 1)
        return here()

    async def main() -> None:
        loop_thread = here()
        async with threadpool(executor):
            worker = here()
            for number in range(500):
                assert exec_in_eventloop(count) == loop_thread
                assert here() == worker
                assert counter.get() == number + 1
        assert counter.get() == 500

    loops.run(main)


def test_calls_of_many_tasks_find_their_own_results(loops: LoopKind, executor: Executor) -> None:
    async def block(number: int) -> int:
        async with threadpool(executor):
            assert call(plain, number) == 2 * number
            return call(twice, number)  # type: ignore[no-any-return]

    async def main() -> None:
        assert await asyncio.gather(*map(block, range(30))) == list(range(0, 60, 2))

    loops.run(main)


# --- nested


def test_the_coroutine_has_blocks_of_its_own_on_another_worker(
    loops: LoopKind, executor: Executor
) -> None:
    """It is another task, so it does not get the waiting worker."""

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


def test_it_works_in_nested_blocks_and_between_parts(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def main() -> None:
        with executor_class(1) as one, executor_class(1) as other:
            async with threadpool(one):
                assert call(twice, 1) == 2
                async with threadpool(other):
                    assert call(twice, 2) == 4
                    async with threadpool(one):
                        assert call(twice, 3) == 6
                    async with eventloop():
                        async with threadpool(one):
                            assert call(twice, 4) == 8
                    assert call(twice, 5) == 10
                assert call(twice, 6) == 12

    loops.run(main)


def test_the_loop_of_asyncio_run_in_the_body_is_the_one_for_its_own_blocks(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    async def inner(outer: asyncio.AbstractEventLoop, pool: Executor) -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            exec_in_eventloop(plain, 1)  # this thread runs a loop
        async with threadpool(pool):
            loop = exec_in_eventloop(asyncio.get_running_loop)
            assert loop is not outer

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with executor_class(1) as one, executor_class(1) as other:
            async with threadpool(one):
                assert exec_in_eventloop(asyncio.get_running_loop) is loop
                asyncio.run(inner(loop, other))
                assert exec_in_eventloop(asyncio.get_running_loop) is loop

    loops.run(main)


# --- context variables


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_function_sees_the_variables_of_the_body(
    loops: LoopKind, executor: Executor, asynchronous: bool
) -> None:
    async def get_later() -> str:
        await suspend()
        return color.get()

    async def main() -> None:
        color.set("loop")
        async with threadpool(executor):
            color.set("body")
            assert exec_in_eventloop(get_later if asynchronous else color.get) == "body"

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_what_the_function_sets_holds_after_it(
    loops: LoopKind, executor: Executor, asynchronous: bool, fails: bool
) -> None:
    """In the body, in its next call, and after the block; after an error too."""

    def set_now() -> None:
        color.set("called")
        if fails:
            raise OopsError

    async def set_later() -> None:
        await suspend()
        set_now()

    async def main() -> None:
        async with threadpool(executor):
            with contextlib.suppress(OopsError):
                exec_in_eventloop(set_later if asynchronous else set_now)
            assert color.get() == "called"
            assert exec_in_eventloop(color.get) == "called"
        assert color.get() == "called"

    loops.run(main)


def test_what_the_function_leaves_alone_stays_as_the_body_set_it(
    loops: LoopKind, executor: Executor
) -> None:
    """The token of the body is good after the call."""

    async def main() -> None:
        async with threadpool(executor):
            token = color.set("body")
            exec_in_eventloop(suspend)
            color.reset(token)
            assert color.get() == "unset"

    loops.run(main)


def test_a_variable_that_the_function_set_and_reset_is_as_it_was(
    loops: LoopKind, executor: Executor
) -> None:
    async def set_and_reset() -> None:
        token = color.set("called")
        await suspend()
        color.reset(token)

    async def main() -> None:
        async with threadpool(executor):
            exec_in_eventloop(set_and_reset)
            assert color not in contextvars.copy_context()
            color.set("body")
            exec_in_eventloop(set_and_reset)
            assert color.get() == "body"

    loops.run(main)


# --- errors


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_error_crosses_with_its_traceback(
    loops: LoopKind, executor: Executor, asynchronous: bool
) -> None:
    """The object itself; its frames are those of the function and those of the caller."""
    error = OopsError("called")

    def fails() -> None:
        raise error

    async def fails_later() -> None:
        await suspend()
        fails()

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            with pytest.raises(OopsError) as caught:
                call_deep(2, fails_later if asynchronous else fails)
            assert here() == worker
            assert caught.value is error
            assert error.__context__ is None
            names = [entry.name for entry in caught.traceback]
            assert names.count("call_deep") == 3
            assert names[-1] == "fails"

    loops.run(main)


def test_the_body_goes_on_after_an_error(loops: LoopKind, executor: Executor) -> None:
    async def fails() -> None:
        raise OopsError

    async def main() -> None:
        async with threadpool(executor):
            for _ in range(3):
                with pytest.raises(OopsError):
                    exec_in_eventloop(fails)
                assert exec_in_eventloop(twice, 2) == 4

    loops.run(main)


def test_an_error_that_leaves_the_body_leaves_the_block(
    loops: LoopKind, executor: Executor
) -> None:
    def fails() -> None:
        raise OopsError("called")

    async def main() -> None:
        with pytest.raises(OopsError, match="called"):
            async with threadpool(executor):
                exec_in_eventloop(fails)

    loops.run(main)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit])
def test_an_odd_exception_of_a_function_is_raised_like_any_other(
    loops: LoopKind, executor: Executor, kind: type[BaseException]
) -> None:
    error = kind("odd")

    def fails() -> None:
        raise error

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(kind) as caught:
                exec_in_eventloop(fails)
            assert caught.value is error

    loops.run(main)


def test_stop_iteration_of_a_coroutine_becomes_a_runtime_error(
    loops: LoopKind, executor: Executor
) -> None:
    """As in every coroutine."""

    async def fails() -> None:
        raise StopIteration("odd")

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="StopIteration") as caught:
                exec_in_eventloop(fails)
            assert isinstance(caught.value.__cause__, StopIteration)

    loops.run(main)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_the_function_stops_the_loop_and_reaches_the_worker(
    executor: Executor, asynchronous: bool, kind: type[BaseException]
) -> None:
    """As out of any callback or task. The worker is not left waiting for a loop that stopped."""
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


@pytest.mark.parametrize("got", [None, 1, "name"])
def test_what_is_not_callable_is_a_type_error(
    loops: LoopKind, executor: Executor, got: Any
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(TypeError, match=r"exec_in_eventloop\(\) takes a function"):
                exec_in_eventloop(got)

    loops.run(main)


def test_a_coroutine_in_place_of_its_function_is_a_type_error(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            coro: Any = suspend()
            with pytest.raises(TypeError, match="function"):
                exec_in_eventloop(coro)
            coro.close()

    loops.run(main)


def test_wrong_arguments_are_the_functions_own_type_error(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(TypeError, match="positional argument"):
                exec_in_eventloop(twice)  # type: ignore[call-arg, unused-ignore]

    loops.run(main)


def test_on_a_loop_thread_it_is_refused(loops: LoopKind, executor: Executor) -> None:
    """It would block the loop: outside of a block, and in a part of one."""
    called: list[int] = []

    async def main() -> None:
        with pytest.raises(RuntimeError, match=r"exec_in_eventloop\(\).*await it"):
            exec_in_eventloop(called.append, 1)
        async with threadpool(executor):
            async with eventloop():
                with pytest.raises(RuntimeError, match=r"exec_in_eventloop\(\).*await it"):
                    exec_in_eventloop(called.append, 2)

    loops.run(main)
    assert not called


def test_in_a_function_that_it_calls_it_is_refused(loops: LoopKind, executor: Executor) -> None:
    """That one is on the loop already."""

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(RuntimeError, match="await it"):
                exec_in_eventloop(call, plain, 1)

    loops.run(main)


def test_where_no_loop_is_known_it_is_refused(loops: LoopKind, executor: Executor) -> None:
    """A plain thread, a job of somebody else on a worker, a thread that a body starts."""
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
    assert all("run_coroutine_threadsafe" in str(error) for error in errors)


def test_on_a_closed_loop_it_is_refused(
    loops: LoopKind,
    executor: Executor,
    expect_loop_errors: list[Any],
) -> None:
    """Its message says so; a coroutine is not left behind unawaited."""
    gate = Gate()
    errors: list[BaseException] = []
    ended = threading.Event()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            for func in (plain, twice):
                try:
                    exec_in_eventloop(func, 1)
                except BaseException as error:
                    errors.append(error)
            ended.set()

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        return task

    loop = loops.loop_factory()
    task = loop.run_until_complete(main())
    loop.close()
    gate.open()
    assert ended.wait(LIMIT)
    assert [type(error) for error in errors] == [RuntimeError, RuntimeError]
    assert all("loop that this worker works for is closed" in str(error) for error in errors)
    assert all(error.__context__ is None or error.__suppress_context__ for error in errors)
    assert not task.done()
    errors.clear()
    del task, loop
    for _ in range(3):  # the lost task speaks up here, and not in a later test
        gc.collect()


# --- cancellation


class Calling:
    """A task whose body calls *func*; cancelled with "stop" once *func* has reached its gate."""

    def __init__(self, loops: LoopKind, executor: Executor) -> None:
        self.executor = executor
        self.reached = threading.Event()
        #: What happened, and in which thread.
        self.steps: list[tuple[str, int]] = []
        self.task: asyncio.Task[Any]
        loops.run(self._main)

    def note(self, what: str) -> None:
        self.steps.append((what, here()))

    async def wait(self) -> Any:
        """What the body calls, by default: it never comes to an end by itself."""
        self.reached.set()
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as error:
            assert error.args == ("stop",)
            self.note("inner")
            raise

    def body(self) -> Any:
        return exec_in_eventloop(self.wait)

    async def block(self) -> Any:
        async with threadpool(self.executor):
            self.worker = here()
            return self.body()

    async def _main(self) -> None:
        self.loop_thread = here()
        self.task = asyncio.get_running_loop().create_task(self.block())
        await until(self.reached.is_set)
        await turns()
        self.task.cancel("stop")
        await until(self.task.done)


def test_the_coroutine_is_cancelled_with_the_task_of_the_block(
    loops: LoopKind, executor: Executor
) -> None:
    """With the message; then CancelledError is raised in the body, in its thread."""

    class Run(Calling):
        def body(self) -> None:
            try:
                exec_in_eventloop(self.wait)
            except asyncio.CancelledError as error:
                assert error.args == ("stop",)
                self.note("body")
                raise

    run = Run(loops, executor)
    assert run.steps == [("inner", run.loop_thread), ("body", run.worker)]
    assert run.task.cancelled()


def test_a_cancellation_that_the_body_swallows_is_raised_again_at_the_exit(
    loops: LoopKind, executor: Executor
) -> None:
    class Run(Calling):
        def body(self) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                exec_in_eventloop(self.wait)
            self.note("body went on")

    run = Run(loops, executor)
    assert run.steps == [("inner", run.loop_thread), ("body went on", run.worker)]
    assert run.task.cancelled()


def test_a_cancellation_that_the_coroutine_swallows_is_raised_at_the_exit(
    loops: LoopKind, executor: Executor
) -> None:
    """Its value is the result of the call; the task stays cancelled all the same."""

    class Run(Calling):
        async def wait(self) -> str:
            with contextlib.suppress(asyncio.CancelledError):
                await super().wait()
            await suspend()
            return "value"

        def body(self) -> None:
            self.note(exec_in_eventloop(self.wait))

    run = Run(loops, executor)
    assert run.steps == [("inner", run.loop_thread), ("value", run.worker)]
    assert run.task.cancelled()


def test_an_error_of_the_cancelled_coroutine_is_raised_in_the_body(
    loops: LoopKind, executor: Executor
) -> None:
    """And the exit of the block still raises the cancellation, with it as the context."""

    class Run(Calling):
        async def wait(self) -> None:
            try:
                await super().wait()
            finally:
                raise OopsError

        def body(self) -> None:
            try:
                exec_in_eventloop(self.wait)
            except OopsError:
                self.note("body")
                raise

        async def block(self) -> None:
            try:
                await super().block()
            except asyncio.CancelledError as error:
                assert isinstance(error.__context__, OopsError)
                self.note("exit")
                raise

    run = Run(loops, executor)
    assert run.steps == [
        ("inner", run.loop_thread),
        ("body", run.worker),
        ("exit", run.loop_thread),
    ]
    assert run.task.cancelled()


def test_the_body_waits_for_the_cleanup_of_the_cancelled_coroutine(
    loops: LoopKind, executor: Executor
) -> None:
    """Nothing is abandoned: what the coroutine awaits in its ``finally`` comes first."""

    class Run(Calling):
        async def wait(self) -> None:
            try:
                await super().wait()
            finally:
                await suspend()
                self.note("cleaned up")

        def body(self) -> None:
            try:
                exec_in_eventloop(self.wait)
            finally:
                self.note("body")

    run = Run(loops, executor)
    assert [what for what, _ in run.steps] == ["inner", "cleaned up", "body"]


def test_each_call_after_the_cancellation_is_refused_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """The function is not called any more."""

    class Run(Calling):
        def body(self) -> None:
            for _ in range(3):
                with pytest.raises(asyncio.CancelledError) as caught:
                    exec_in_eventloop(self.wait)
                assert caught.value.args == ("stop",)
                self.note("body")
            with pytest.raises(asyncio.CancelledError):
                exec_in_eventloop(self.note, "called")

    run = Run(loops, executor)
    assert [what for what, _ in run.steps] == ["inner", "body", "body", "body"]
    assert run.task.cancelled()


def test_a_call_of_a_task_that_was_cancelled_before_is_refused_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """The loop need not even run: it stands still until the call has returned."""
    gate = Gate()
    refused = threading.Event()
    called: list[int] = []

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()
            try:
                exec_in_eventloop(called.append, 1)
            except asyncio.CancelledError as error:
                assert error.args == ("stop",)
                refused.set()
                raise

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        await until(gate.reached.is_set)
        task.cancel("stop")
        gate.open()
        assert refused.wait(LIMIT)  # the loop stands still
        await until(task.done)
        assert task.cancelled()

    loops.run(main)
    assert not called


def test_a_foreign_cancelled_error_is_not_taken_for_the_tasks_own(
    loops: LoopKind, executor: Executor
) -> None:
    """A coroutine that awaits something cancelled: whoever catches it has dealt with it."""

    async def wait_for_a_cancelled_future() -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel("foreign")
        await future

    async def block() -> str:
        async with threadpool(executor):
            with pytest.raises(asyncio.CancelledError):
                exec_in_eventloop(wait_for_a_cancelled_future)
        return "not cancelled"

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(block())
        assert await task == "not cancelled"
        assert task.cancelling() == 0

    loops.run(main)


def test_an_inner_task_that_cancels_itself_raises_in_the_body_only(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def cancel_myself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("myself")
        await suspend()

    async def block() -> str:
        async with threadpool(executor):
            with pytest.raises(asyncio.CancelledError, match="myself"):
                exec_in_eventloop(cancel_myself)
        return "not cancelled"

    async def main() -> None:
        assert await asyncio.get_running_loop().create_task(block()) == "not cancelled"

    current_task_loops.run(main)


def test_a_timeout_around_the_block_cancels_the_coroutine(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    steps: list[str] = []

    async def wait(timeout: asyncio.Timeout) -> None:
        timeout.reschedule(asyncio.get_running_loop().time())
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            steps.append("inner")

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                async with threadpool(executor):
                    exec_in_eventloop(wait, timeout)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    current_task_loops.run(main)
    assert steps == ["inner"]


def test_a_timeout_in_the_coroutine_stays_in_it(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    async def wait() -> None:
        async with asyncio.timeout(0.005):
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        async with threadpool(executor):
            with pytest.raises(TimeoutError):
                exec_in_eventloop(wait)
            assert exec_in_eventloop(twice, 2) == 4

    current_task_loops.run(main)


def test_a_call_deep_in_a_nested_block_is_cancelled_with_the_task(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """And the ``finally`` of each body runs in its own thread."""
    steps: list[tuple[str, str]] = []
    reached = threading.Event()

    def note(what: str) -> None:
        steps.append((what, threading.current_thread().name))

    async def wait() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    async def block(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer):
            try:
                async with threadpool(inner):
                    try:
                        call_deep(5, wait)
                    finally:
                        note("inner")
            finally:
                note("outer")

    async def main() -> None:
        with executor_class(1, "outer") as outer, executor_class(1, "inner") as inner:
            task = asyncio.get_running_loop().create_task(block(outer, inner))
            await until(reached.is_set)
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == [("inner", "inner_0"), ("outer", "outer_0")]
