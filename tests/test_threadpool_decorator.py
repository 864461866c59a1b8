"""``@threadpool``: a plain function whose calls run on a worker.

A call stands for a block, and the tests of blocks run on every kind of loop. Here one is enough.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import pickle
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import NAMES
from helpers.loops import LoopKind, on_one_loop
from helpers.places import on_loop_thread, on_worker

from threadhop import exec_in_executor, threadpool

if sys.version_info >= (3, 12):
    from inspect import iscoroutinefunction
else:
    from asyncio import iscoroutinefunction


def describe(first: int, /, second: int = 2, *rest: int, key: str = "k", **more: str) -> Any:
    """Return what it was given."""
    return (first, second, rest, key, more)


@threadpool
def decorated(number: int) -> int:
    """Doubles it."""
    return number * 2


def greet(greeting: str, name: str) -> tuple[str, bool]:
    """The greeting, and whether it is said on the loop thread."""
    return f"{greeting} {name}", on_loop_thread()


class Greeter:
    """Methods of every kind."""

    @threadpool
    def bare(self, greeting: str = "hello") -> tuple[str, bool]:
        return greet(greeting, "Ada")

    @staticmethod
    @threadpool()
    def static(greeting: str) -> tuple[str, bool]:
        return greet(greeting, "")

    @threadpool
    @staticmethod
    def static_inside(greeting: str) -> tuple[str, bool]:
        return greet(greeting, "")

    @classmethod
    @threadpool
    def of_class(cls, greeting: str) -> tuple[str, bool]:
        return greet(greeting, cls.__name__)

    length = threadpool(len)

    def __call__(self, greeting: str) -> tuple[str, bool]:
        return greet(greeting, "Ada")


class Heir(Greeter):
    pass


ADA = Greeter()


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
    "through the class": (Greeter.bare, (ADA, "hey"), "hey Ada"),
    "static through the object": (ADA.static, ("hi",), "hi "),
    "static through the class": (Greeter.static, ("hi",), "hi "),
    "a static method object": (ADA.static_inside, ("hi",), "hi "),
    "the same through the class": (Greeter.static_inside, ("hi",), "hi "),
    "of the class, through the object": (ADA.of_class, ("hi",), "hi Greeter"),
    "of a subclass": (Heir.of_class, ("hi",), "hi Heir"),
    "a bound method": (threadpool(ADA.__call__), ("hi",), "hi Ada"),
    "an object with __call__": (threadpool(ADA), ("hi",), "hi Ada"),
    "a partial": (threadpool(functools.partial(ADA, greeting="hi")), (), "hi Ada"),
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
async def test_arguments_arrive_as_they_were_given(executor: Executor) -> None:
    """By any name. Builtins, and methods of an executor of their own, are like functions."""

    class Owner:
        @threadpool(executor)
        def where(self) -> bool:
            return on_worker()

    function = threadpool(executor)(describe)
    given = threadpool(executor)(lambda **kwargs: kwargs)

    assert await function(1) == (1, 2, (), "k", {})
    assert await function(1, 3, 4, 5, key="x", y="z") == (1, 3, (4, 5), "x", {"y": "z"})
    with pytest.raises(TypeError):
        await function()  # type: ignore[call-arg]
    assert on_loop_thread()
    assert await given(**NAMES) == NAMES
    async with threadpool(executor):
        assert given(**NAMES) == NAMES
    assert await threadpool(executor)(time.sleep)(0) is None
    assert await threadpool(executor)("-".join)(["a", "b"]) == "a-b"
    assert await Greeter.length([1]) == 1
    assert await Owner().where()


def test_the_function_keeps_its_face() -> None:
    """It is a function: it can be pickled, compared, bound and weakly referred to."""
    function: Any = threadpool(describe)
    assert function.__wrapped__ is describe
    assert inspect.signature(function) == inspect.signature(describe)
    assert "describe" in repr(function)
    assert type(decorated) is type(lambda: None)
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert (decorated.__name__, decorated.__module__) == ("decorated", __name__)  # type: ignore[attr-defined]
    assert decorated.__doc__ == "Doubles it."
    assert decorated.__annotations__ == {"number": "int", "return": "int"}
    assert ADA.bare == ADA.bare
    assert weakref.WeakMethod(ADA.bare)() == ADA.bare  # type: ignore[arg-type]


def test_frameworks_take_it_for_a_coroutine_function(executor: Executor) -> None:
    candidates: list[Any] = [
        decorated,
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
    """Not before: a coroutine that is closed has done nothing. Its name is that of the function."""
    ran = []
    function = threadpool(executor)(ran.append)

    unused = function(1)
    await asyncio.sleep(0)
    assert ran == []
    unused.close()
    await function(2)
    assert ran == [2]

    def forget() -> None:
        ADA.bare()  # type: ignore[unused-coroutine]
        gc.collect()

    with pytest.warns(RuntimeWarning, match="coroutine 'Greeter.bare' was never awaited"):
        forget()


@on_one_loop
async def test_an_error_crosses_with_its_traceback(executor: Executor) -> None:
    """But StopIteration, which nobody takes for a result: as in a coroutine function."""
    raised = ValueError("in the function")

    def culprit() -> None:
        raise raised

    with pytest.raises(ValueError, match="in the function") as caught:
        await threadpool(executor)(culprit)()
    assert caught.value is raised
    assert caught.traceback[-1].name == "culprit"
    with pytest.raises(RuntimeError, match="StopIteration"):
        await threadpool(executor)(next)(iter([]))
    assert on_loop_thread()


@on_one_loop
async def test_in_a_worker_a_call_runs_the_function_on_its_thread(
    executor: Executor, other: Executor
) -> None:
    """Whatever executor the function names. A coroutine that runs on a worker awaits it."""
    where = threadpool(other)(threading.current_thread)

    async def inner() -> int:
        return await decorated(2)

    async with threadpool(executor):
        assert where() is threading.current_thread()
        assert asyncio.run(inner()) == 4
        assert decorated(2) == 4
    assert (await where()).name.startswith("other")
    assert await exec_in_executor(executor, inner) == 4


@on_one_loop
async def test_sync_is_the_plain_function() -> None:
    """For code on the loop thread that wants the value at once."""
    function = threadpool(describe)
    assert function.sync is describe
    assert function.sync(7)[0] == 7
    assert Greeter.bare.sync(ADA, "hi") == ("hi Ada", True)
    assert ADA.bare.sync is Greeter.bare.sync
    assert Greeter.static.sync("hi") == ("hi ", True)


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


REFUSED: list[Any] = [
    coroutine_function,
    generator_function,
    async_generator_function,
    functools.partial(coroutine_function),
    functools.partial(functools.partial(async_generator_function)),
    Asynchronous(),
    functools.partial(Asynchronous()),
    Asynchronous().__call__,
    decorated,
]
NO_FUNCTIONS: list[Any] = [3, "name", None, int, Greeter, property(), ThreadPoolExecutor(1)]


def test_what_is_not_plain_or_no_function_is_refused() -> None:
    """At the decoration: calling it would not run it to its end.

    Not a class either: its instances are not awaitable. An executor in the place is a slip.
    """
    for form in (threadpool, threadpool()):
        for each in REFUSED:
            with pytest.raises(TypeError, match=r"coroutine|generator"):
                form(each)  # type: ignore[operator]
    for wrong in NO_FUNCTIONS:
        with pytest.raises(TypeError, match="function"):
            threadpool()(wrong)
