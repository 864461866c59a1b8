"""``@threadpool``: a plain function whose calls run on a worker.

A call stands for a block, and the tests of blocks run on every kind of loop. Here one is enough.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.places import on_loop_thread, on_worker

from threadhop import threadpool

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:
    from asyncio import iscoroutinefunction


def describe(first: int, /, second: int = 2, *rest: int, key: str = "k", **more: str) -> Any:
    """Return what it was given."""
    return (first, second, rest, key, more)


class Greeter:
    """Methods of every kind: each returns its greeting, and whether it ran on the loop thread."""

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

    @threadpool
    @staticmethod
    def static_inside(greeting: str) -> tuple[str, bool]:
        return greeting, on_loop_thread()

    @classmethod
    @threadpool
    def of_class(cls, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {cls.__name__}", on_loop_thread()

    length = threadpool(len)

    def plain(self, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {self.name}", on_loop_thread()

    def __call__(self, greeting: str) -> tuple[str, bool]:
        return f"{greeting} {self.name}", on_loop_thread()


class Heir(Greeter):
    pass


ADA = Greeter("Ada")


# --- what can be decorated ---


@pytest.mark.parametrize("form", ["bare", "called", "executor", "block"])
def test_every_form_runs_the_function_on_a_worker(
    current_task_loops: LoopKind, executor: Executor, form: str
) -> None:
    decorators: dict[str, Any] = {
        "bare": threadpool,
        "called": threadpool(),
        "executor": threadpool(executor),
        "block": (block := threadpool(executor)),
    }
    where = decorators[form](threading.current_thread)
    other = decorators[form](describe)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(executor)  # type: ignore[arg-type]
        assert (await where()).name.startswith("worker")
        assert on_loop_thread()
        assert (await other(1))[0] == 1
        async with block:  # It is still a block, too.
            assert on_worker()

    current_task_loops.run(main)


METHODS: dict[str, tuple[Any, tuple[Any, ...], str]] = {
    "through the object": (ADA.bare, (), "hello Ada"),
    "with parentheses": (ADA.called, ("hi",), "hi Ada"),
    "through the class": (Greeter.bare, (ADA, "hey"), "hey Ada"),
    "static through the object": (ADA.static, ("hi",), "hi"),
    "static through the class": (Greeter.static, ("hi",), "hi"),
    "a static method object": (ADA.static_inside, ("hi",), "hi"),
    "the same through the class": (Greeter.static_inside, ("hi",), "hi"),
    "of the class": (Greeter.of_class, ("hi",), "hi Greeter"),
    "of the class, through the object": (ADA.of_class, ("hi",), "hi Greeter"),
    "of a subclass": (Heir.of_class, ("hi",), "hi Heir"),
    "a bound method": (threadpool(ADA.plain), ("hi",), "hi Ada"),
    "an object with __call__": (threadpool(ADA), ("hi",), "hi Ada"),
    "a partial": (threadpool(functools.partial(ADA.plain, greeting="hi")), (), "hi Ada"),
}


@pytest.mark.parametrize("method", METHODS)
def test_methods_keep_their_object(method: str) -> None:
    """On a worker when awaited; right there where no loop runs, and with the value."""
    function, args, greeting = METHODS[method]

    async def main() -> None:
        assert await function(*args) == (greeting, False)
        assert on_loop_thread()

    asyncio.run(main())
    assert function(*args) == (greeting, True)


@on_one_loop
async def test_a_bound_method_keeps_its_executor(executor: Executor) -> None:
    class Owner:
        @threadpool(executor)
        def where(self) -> bool:
            return on_worker()

    assert await Owner().where()


@on_one_loop
async def test_builtins_are_awaited_like_functions(executor: Executor) -> None:
    assert await threadpool(executor)(len)([1, 2]) == 2
    assert await threadpool(executor)(time.sleep)(0) is None
    assert await threadpool(executor)("-".join)(["a", "b"]) == "a-b"
    assert await Greeter.length([1]) == 1


@on_one_loop
async def test_arguments_arrive_as_they_were_given(executor: Executor) -> None:
    function = threadpool(executor)(describe)

    assert await function(1) == (1, 2, (), "k", {})
    assert await function(1, 3, 4, 5, key="x", y="z") == (1, 3, (4, 5), "x", {"y": "z"})
    with pytest.raises(TypeError):
        await function()  # type: ignore[call-arg]
    assert on_loop_thread()


def test_keyword_arguments_may_have_any_name(executor: Executor) -> None:
    function = threadpool(executor)(lambda **kwargs: kwargs)
    given = dict.fromkeys(["self", "func", "function", "executor", "args", "block", "task"], 1)

    async def main() -> None:
        assert await function(**given) == given

    asyncio.run(main())
    assert function(**given) == given


def test_the_function_keeps_its_face(executor: Executor) -> None:
    function = threadpool(executor)(describe)
    assert function.__name__ == "describe"  # type: ignore[attr-defined]
    assert function.__doc__ == describe.__doc__
    assert function.__module__ == __name__
    assert function.__wrapped__ is describe  # type: ignore[attr-defined]
    assert inspect.signature(function) == inspect.signature(describe)
    assert "describe" in repr(function)


def test_frameworks_take_it_for_a_coroutine_function(executor: Executor) -> None:
    candidates: list[Any] = [
        threadpool(describe),
        threadpool()(describe),
        threadpool(executor)(len),
        threadpool(executor)(functools.partial(describe, 1)),
        ADA.bare,
        Greeter.static,
        Greeter.of_class,
        ADA.of_class,
    ]
    assert [iscoroutinefunction(each) for each in candidates] == [True] * len(candidates)


# --- the call ---


@on_one_loop
async def test_the_function_runs_when_the_call_is_awaited(executor: Executor) -> None:
    """Not before: a coroutine that is closed has done nothing."""
    ran = []
    function = threadpool(executor)(ran.append)

    unused = function(1)
    await asyncio.sleep(0)
    assert ran == []
    unused.close()
    await function(2)
    assert ran == [2]


def test_an_error_crosses_with_its_traceback(executor: Executor) -> None:
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

    asyncio.run(main())
    with pytest.raises(ValueError, match="in the function"):
        culprit()


@on_one_loop
async def test_stop_iteration_becomes_a_runtime_error(executor: Executor) -> None:
    """As in the coroutine function that the decorator stands for; nobody takes it for a result."""
    function = threadpool(executor)(next)

    with pytest.raises(RuntimeError, match="StopIteration"):
        await function(iter([]))
    assert on_loop_thread()


@on_one_loop
async def test_in_a_worker_a_call_runs_the_function_on_its_thread(
    executor: Executor, other: Executor
) -> None:
    """Whatever executor the function names."""
    where = threadpool(other)(threading.current_thread)

    async with threadpool(executor):
        assert where() is threading.current_thread()
    assert (await where()).name.startswith("other")


@on_one_loop
async def test_sync_is_the_plain_function(executor: Executor) -> None:
    """For code on the loop thread that wants the value at once."""
    function = threadpool(executor)(describe)

    assert function.sync is describe
    assert function.sync(7)[0] == 7
    assert Greeter.bare.sync(ADA, "hi") == ("hi Ada", True)
    assert ADA.bare.sync is Greeter.bare.sync
    assert Greeter.static.sync("hi") == ("hi", True)


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
    "partial of object": functools.partial(Asynchronous()),
    "method": Asynchronous().method,
    "decorated": threadpool(describe),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("form", [threadpool, threadpool()], ids=["bare", "called"])
def test_what_is_not_plain_is_refused(
    form: Callable[[Any], object], wrong: Callable[..., object]
) -> None:
    """At the decoration: calling it would not run it to its end."""
    with pytest.raises(TypeError, match=r"coroutine|generator"):
        form(wrong)


NO_FUNCTIONS = [3, "name", None, int, Greeter, property(), ThreadPoolExecutor(1)]


@pytest.mark.parametrize("wrong", NO_FUNCTIONS, ids=lambda wrong: type(wrong).__name__)
def test_what_is_no_function_is_refused(wrong: Any) -> None:
    """Not a class either: its instances are not awaitable. An executor there is a slip."""
    with pytest.raises(TypeError, match="function"):
        threadpool()(wrong)
