"""``async with threadpool(executor):`` and awaits in its body: which are refused, and how."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.loops import on_every_loop, on_one_loop
from helpers.places import on_loop_thread, on_worker
from helpers.pools import on_a_stock_pool
from helpers.steps import turns

from threadhop import threadpool

pytestmark = on_a_stock_pool

#: What an error about an await in the body tells the reader to do instead.
REMEDY = "eventloop()"


@types.coroutine
def bare_yield(value: object) -> Generator[object, object, object]:
    return (yield value)


# Each gets a pending future, and the list that takes the lines at which it awaits something.


async def await_a_future(future: asyncio.Future[None], lines: list[int]) -> None:
    lines.append(sys._getframe().f_lineno + 1)
    await future


async def await_within_asyncio(_: asyncio.Future[None], lines: list[int]) -> None:
    """The await that suspends stands in a file of asyncio, whose line would help nobody."""
    lines.append(sys._getframe().f_lineno + 1)
    await asyncio.sleep(0)


@types.coroutine
def yield_by_hand(_: asyncio.Future[None], lines: list[int]) -> Generator[Any, Any, None]:
    lines.append(sys._getframe().f_lineno + 1)
    yield


@types.coroutine
def old_style(future: asyncio.Future[None], lines: list[int]) -> Generator[Any, Any, None]:
    yield from await_a_future(future, lines)


async def await_in_a_helper(future: asyncio.Future[None], lines: list[int]) -> None:
    await old_style(future, lines)


async def await_in_an_async_generator(future: asyncio.Future[None], lines: list[int]) -> None:
    """Python does not always show what is behind an ``async for``: then that line is named."""

    async def numbers() -> AsyncIterator[None]:
        await await_a_future(future, lines)
        yield

    lines.append(sys._getframe().f_lineno + 1)
    async for _ in numbers():
        pass


AWAITS = [
    await_a_future,
    await_within_asyncio,
    yield_by_hand,
    await_in_a_helper,
    await_in_an_async_generator,
]


@pytest.mark.parametrize("attempt", AWAITS, ids=lambda attempt: attempt.__name__)
@on_every_loop
async def test_a_refused_await_names_the_line_of_the_user_and_the_remedy(
    executor: Executor, attempt: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    future = asyncio.get_running_loop().create_future()
    lines: list[int] = []
    with pytest.raises(RuntimeError, match="cannot await") as caught:
        async with threadpool(executor):
            await attempt(future, lines)
    assert any(f"{__file__}:{line}:" in str(caught.value) for line in lines)
    assert REMEDY in str(caught.value)
    assert on_loop_thread()
    future.cancel()


@on_every_loop
async def test_an_await_is_refused_in_the_body_which_goes_on(executor: Executor) -> None:
    """Whatever it yields, on the worker, and without a trace in later errors."""

    class EqualsAll:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    refused = []
    future = asyncio.get_running_loop().create_future()
    with pytest.raises(ValueError, match="later") as caught:
        async with threadpool(executor):
            for value in (future, None, 0, EqualsAll(), threadpool(executor)):
                try:
                    await bare_yield(value)
                except RuntimeError as error:
                    refused.append((error.__context__, on_worker()))
                finally:
                    assert on_worker()
            raise ValueError("later")
    assert on_loop_thread()
    assert refused == [(None, True)] * 5
    assert caught.value.__context__ is None


@on_every_loop
async def test_what_was_refused_stays_usable_by_all(executor: Executor) -> None:
    """A future, which said "await wasn't used with future" once, and a task others wait for."""

    async def child(release: asyncio.Future[str]) -> str:
        return await release

    async def friend(task: asyncio.Task[str]) -> str:
        return await task

    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()
    task = loop.create_task(child(future))
    waiting = loop.create_task(friend(task))
    await turns()  # Without the GIL an await that begins at the same moment would fail.
    async with threadpool(executor):
        for each in (future, task):
            with pytest.raises(RuntimeError, match="cannot await"):
                await each
    loop.call_soon(future.set_result, "value")
    assert [await future, await task, await waiting] == ["value"] * 3


# --- what asyncio refuses by itself ---


async def make_a_task() -> None:
    with contextlib.closing(asyncio.sleep(1)) as coro:
        asyncio.create_task(coro)  # noqa: RUF006


async def gather_coroutines() -> None:
    with contextlib.closing(asyncio.sleep(1)) as coro:
        await asyncio.gather(coro)


ASYNCIO_REFUSES: dict[str, Callable[[], Any]] = {
    "sleep": lambda: asyncio.sleep(1),
    "a queue": lambda: asyncio.Queue[None]().get(),
    "an event": lambda: asyncio.Event().wait(),
    "create_task": make_a_task,
    "gather": gather_coroutines,
    "a timeout": lambda: asyncio.timeout(1).__aenter__(),
    "a TaskGroup": lambda: asyncio.TaskGroup().__aenter__(),
    "to_thread": lambda: asyncio.to_thread(int),
}


@pytest.mark.parametrize("attempt", ASYNCIO_REFUSES.values(), ids=ASYNCIO_REFUSES)
@on_one_loop
async def test_an_error_of_asyncio_leaves_the_body_with_a_note(
    executor: Executor, other: Executor, attempt: Callable[[], Any]
) -> None:
    """The error stays asyncio's own; the note says what to do instead, once for all blocks."""
    with pytest.raises((RuntimeError, AttributeError)) as caught:
        async with threadpool(executor), threadpool(other), threadpool(other):
            try:
                await attempt()
            except BaseException as exc:
                original = exc
                assert not hasattr(exc, "__notes__")
                raise
    assert caught.value is original
    (note,) = caught.value.__notes__
    assert REMEDY in note


@on_one_loop
async def test_a_primitive_that_belongs_to_a_loop_leaves_the_body_with_a_note(
    executor: Executor,
) -> None:
    """A queue for which a task of the loop waits says something else than one without a loop."""
    queue: asyncio.Queue[int] = asyncio.Queue()
    getter = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    with pytest.raises((RuntimeError, AttributeError)) as caught:
        async with threadpool(executor):
            await queue.get()
    (note,) = caught.value.__notes__
    assert REMEDY in note
    queue.put_nowait(1)
    assert await getter == 1


@pytest.mark.parametrize("error", [RuntimeError("mine"), AttributeError("mine")], ids=repr)
@on_one_loop
async def test_other_errors_get_no_note(executor: Executor, error: Exception) -> None:
    with pytest.raises(type(error), match="mine"):
        async with threadpool(executor):
            raise error
    assert not hasattr(error, "__notes__")
