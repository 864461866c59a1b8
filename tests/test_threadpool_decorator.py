"""``@threadpool``: a plain function whose calls run on a worker."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.loops import LoopKind

from threadhop import threadpool

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:
    from asyncio import iscoroutinefunction


@pytest.fixture
def other(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    with executor_class(max_workers=1, thread_name_prefix="other") as pool:
        yield pool


def on_loop_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def on_worker() -> bool:
    return threading.current_thread().name.startswith("worker")


def describe(first: int, /, second: int = 2, *rest: int, key: str = "k", **more: str) -> Any:
    """Return what it was given, and on which thread."""
    return (first, second, rest, key, more, threading.current_thread().name)


class Greeter:
    """Methods of every kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    @threadpool
    def bare(self, greeting: str = "hello") -> tuple[str, bool]:
        return f"{greeting} {self.name}", on_loop_thread()

    @threadpool()
    def called(self, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {self.name}", on_loop_thread()

    @staticmethod
    @threadpool
    def static(greeting: str) -> tuple[str, bool]:
        return greeting, on_loop_thread()

    @classmethod
    @threadpool
    def of_class(cls, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {cls.__name__}", on_loop_thread()

    def plain(self, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {self.name}", on_loop_thread()


class Callable_:  # noqa: N801
    """An object that is called like a function."""

    def __call__(self, value: int) -> tuple[int, bool]:
        return value, on_loop_thread()


# --- forms ---


def test_without_parentheses(current_task_loops: LoopKind) -> None:
    """``@threadpool`` uses the default executor."""

    @threadpool
    def where(value: int) -> tuple[int, bool]:
        return value, on_loop_thread()

    async def main() -> None:
        assert await where(1) == (1, False)
        assert on_loop_thread()

    current_task_loops.run(main)


def test_with_empty_parentheses(current_task_loops: LoopKind) -> None:
    """``@threadpool()`` is the same."""

    @threadpool()
    def where(value: int) -> tuple[int, bool]:
        return value, on_loop_thread()

    async def main() -> None:
        assert await where(1) == (1, False)
        assert on_loop_thread()

    current_task_loops.run(main)


def test_with_an_executor(loops: LoopKind, executor: Executor) -> None:
    """``@threadpool(executor)`` uses that one."""

    @threadpool(executor)
    def where(value: int) -> tuple[int, bool]:
        return value, on_worker()

    async def main() -> None:
        assert await where(1) == (1, True)
        assert on_loop_thread()

    loops.run(main)


def test_one_block_decorates_many_functions(loops: LoopKind, executor: Executor) -> None:
    """It is still a block, too."""
    block = threadpool(executor)
    first, second = block(describe), block(on_worker)

    async def main() -> None:
        assert (await first(1))[0] == 1
        assert await second()
        async with block:
            assert on_worker()

    loops.run(main)


# --- what can be decorated ---


def test_arguments_arrive_as_they_were_given(loops: LoopKind, executor: Executor) -> None:
    """Positional, keyword, defaults, rest."""
    function = threadpool(executor)(describe)

    async def main() -> None:
        assert (await function(1))[:5] == (1, 2, (), "k", {})
        assert (await function(1, 3, 4, 5, key="x", y="z"))[:5] == (1, 3, (4, 5), "x", {"y": "z"})
        with pytest.raises(TypeError):
            await function()  # type: ignore[call-arg]
        assert on_loop_thread()

    loops.run(main)


def test_keyword_arguments_may_have_any_name(loops: LoopKind, executor: Executor) -> None:
    """The decorator's own parameters share no names with those of the function."""
    function = threadpool(executor)(lambda **kwargs: kwargs)
    given = dict.fromkeys(["self", "func", "function", "executor", "args", "block", "task"], 1)

    async def main() -> None:
        assert await function(**given) == given

    loops.run(main)
    assert function(**given) == given


def test_methods(current_task_loops: LoopKind) -> None:
    """Bound to their object, through the object and through the class."""
    greeter = Greeter("Ada")

    async def main() -> None:
        assert await greeter.bare() == ("hello Ada", False)
        assert await greeter.called("hi") == ("hi Ada", False)
        assert await Greeter.bare(greeter, "hey") == ("hey Ada", False)
        assert on_loop_thread()

    current_task_loops.run(main)


def test_static_and_class_methods(current_task_loops: LoopKind) -> None:
    """Through the object and through the class, also a subclass."""

    class Sub(Greeter):
        pass

    async def main() -> None:
        for owner in (Greeter, Greeter("Ada")):
            assert await owner.static("hi") == ("hi", False)
            assert await owner.of_class("hi") == ("hi Greeter", False)
        assert await Sub.of_class("hi") == ("hi Sub", False)

    current_task_loops.run(main)


def test_a_static_method_object(current_task_loops: LoopKind) -> None:
    """The decorators in the other order."""

    class Owner:
        @threadpool
        @staticmethod
        def static(greeting: str) -> tuple[str, bool]:
            return greeting, on_loop_thread()

    async def main() -> None:
        assert await Owner.static("hi") == ("hi", False)
        assert await Owner().static("hi") == ("hi", False)

    current_task_loops.run(main)


def test_a_bound_method(loops: LoopKind, executor: Executor) -> None:
    """It keeps its object."""
    function = threadpool(executor)(Greeter("Ada").plain)

    async def main() -> None:
        assert await function("hi") == ("hi Ada", False)

    loops.run(main)


def test_a_builtin(loops: LoopKind, executor: Executor) -> None:
    """Functions in C, and their methods, also as attributes of a class."""

    class Owner:
        length = threadpool(executor)(len)

    async def main() -> None:
        assert await threadpool(executor)(len)([1, 2]) == 2
        assert await threadpool(executor)(time.sleep)(0) is None
        assert await threadpool(executor)("-".join)(["a", "b"]) == "a-b"
        assert await Owner.length([1]) == 1
        assert await Owner().length([1]) == 1

    loops.run(main)


def test_a_partial(loops: LoopKind, executor: Executor) -> None:
    """With its arguments."""
    function = threadpool(executor)(functools.partial(describe, 1, key="partial"))

    async def main() -> None:
        first, second, _, key, _, thread = await function(5)
        assert (first, second, key) == (1, 5, "partial")
        assert thread.startswith("worker")

    loops.run(main)


def test_an_object_that_can_be_called(loops: LoopKind, executor: Executor) -> None:
    """``__call__`` makes a function of it."""
    function = threadpool(executor)(Callable_())

    async def main() -> None:
        assert await function(1) == (1, False)

    loops.run(main)


def test_the_function_keeps_its_face(executor: Executor) -> None:
    """Name, docstring, module and signature are those of the function."""
    function = threadpool(executor)(describe)
    assert function.__name__ == "describe"  # type: ignore[attr-defined]
    assert function.__doc__ == describe.__doc__
    assert function.__module__ == __name__
    assert function.__wrapped__ is describe  # type: ignore[attr-defined]
    assert inspect.signature(function) == inspect.signature(describe)
    assert "describe" in repr(function)


# --- the call ---


def test_the_function_runs_on_the_worker_when_it_is_awaited(
    loops: LoopKind, executor: Executor
) -> None:
    """Not before: a coroutine that is closed has done nothing."""
    ran = []
    function = threadpool(executor)(ran.append)

    async def main() -> None:
        unused = function(1)
        await asyncio.sleep(0)
        assert ran == []
        unused.close()
        await function(2)
        assert ran == [2]

    loops.run(main)


def test_calls_may_run_at_once(loops: LoopKind, executor: Executor) -> None:
    """As tasks, each on its own worker."""
    both = threading.Barrier(2)

    @threadpool(executor)
    def meet(number: int) -> int:
        both.wait(5)
        return number

    async def main() -> None:
        assert await asyncio.gather(meet(1), meet(2)) == [1, 2]

    loops.run(main)


def test_an_error_crosses_with_its_traceback(loops: LoopKind, executor: Executor) -> None:
    """The object that the function raised, with its line."""
    raised = ValueError("in the function")

    @threadpool(executor)
    def culprit() -> None:
        raise raised

    async def main() -> None:
        with pytest.raises(ValueError, match="in the function") as caught:
            await culprit()
        assert caught.value is raised
        assert caught.traceback[-1].name == "culprit"
        assert on_loop_thread()

    loops.run(main)


def test_stop_iteration_becomes_a_runtime_error(loops: LoopKind, executor: Executor) -> None:
    """As in the coroutine function that the decorator stands for; nobody takes it for a result."""
    function = threadpool(executor)(next)

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await function(iter([]))
        assert on_loop_thread()

    loops.run(main)


def test_context_variables_go_in_and_come_out(loops: LoopKind, executor: Executor) -> None:
    """As with the block."""
    var: ContextVar[str] = ContextVar("var")

    @threadpool(executor)
    def change() -> str:
        before = var.get()
        var.set("function")
        return before

    async def main() -> None:
        var.set("loop")
        assert await change() == "loop"
        assert var.get() == "function"

    loops.run(main)


def test_without_a_loop_a_call_runs_the_function(executor: Executor) -> None:
    """In a plain thread: right there, and it returns the value."""
    assert threadpool(executor)(on_loop_thread)() is True
    assert Greeter("Ada").bare() == ("hello Ada", True)
    assert Greeter.static("hi") == ("hi", True)
    with pytest.raises(ZeroDivisionError):
        threadpool(executor)(divmod)(1, 0)


def test_in_a_worker_a_call_runs_the_function(
    loops: LoopKind, executor: Executor, other: Executor
) -> None:
    """In the body of a block: on its thread, whatever executor the function names."""
    where = threadpool(other)(threading.current_thread)

    async def main() -> None:
        async with threadpool(executor):
            assert where() is threading.current_thread()
        assert (await where()).name.startswith("other")

    loops.run(main)


def test_sync_is_the_plain_function(loops: LoopKind, executor: Executor) -> None:
    """For code on the loop thread that wants the value at once."""
    function = threadpool(executor)(describe)
    greeter = Greeter("Ada")

    async def main() -> None:
        assert function.sync is describe
        assert function.sync(7)[0] == 7
        assert greeter.bare.sync("hi") == ("hi Ada", True)
        assert Greeter.bare.sync(greeter) == ("hello Ada", True)
        assert Greeter.static.sync("hi") == ("hi", True)

    loops.run(main)


def test_frameworks_take_it_for_a_coroutine_function(executor: Executor) -> None:
    """Those that ask before they call."""
    greeter = Greeter("Ada")
    candidates: list[Any] = [
        threadpool(describe),
        threadpool()(describe),
        threadpool(executor)(len),
        threadpool(executor)(functools.partial(describe, 1)),
        greeter.bare,
        Greeter.static,
        Greeter.of_class,
        greeter.of_class,
    ]
    assert [iscoroutinefunction(each) for each in candidates] == [True] * len(candidates)


# --- refused ---


async def coroutine_function() -> None:
    pass


def generator_function() -> Iterator[int]:
    yield 1


async def async_generator_function() -> AsyncIterator[int]:
    yield 1


class Asynchronous:
    async def __call__(self) -> None:
        pass

    async def method(self) -> None:
        pass


REFUSED = {
    "coroutine": coroutine_function,
    "generator": generator_function,
    "async generator": async_generator_function,
    "partial": functools.partial(coroutine_function),
    "partial of partial": functools.partial(functools.partial(async_generator_function)),
    "object": Asynchronous(),
    "method": Asynchronous().method,
    "decorated": threadpool(describe),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("form", [threadpool, threadpool()], ids=["bare", "called"])
def test_what_is_not_plain_is_refused(
    form: Callable[[Any], object], wrong: Callable[..., object]
) -> None:
    """TypeError at the decoration: calling it would not run it to its end."""
    with pytest.raises(TypeError, match=r"coroutine|generator"):
        form(wrong)


@pytest.mark.parametrize("wrong", [3, "name", None, int, Greeter, property()])
def test_what_is_no_function_is_refused(wrong: Any) -> None:
    """TypeError; a class is none, its instances are not awaitable."""
    with pytest.raises(TypeError, match="function"):
        threadpool()(wrong)


def test_an_executor_where_a_function_belongs_is_refused(executor: Executor) -> None:
    """``threadpool()(executor)`` is a slip."""
    with pytest.raises(TypeError, match="function"):
        threadpool()(executor)  # type: ignore[arg-type]
