"""``_driver``: stepping a suspended coroutine, without threads and without loops."""

from __future__ import annotations

import asyncio
import gc
import sys
import types
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import pytest

from threadhop._driver import step, where_suspended

MARKER = object()


@types.coroutine
def bare_yield(value: object) -> Generator[object, Any, Any]:
    return (yield value)


def line_here(offset: int = 0) -> str:
    frame = sys._getframe(1)
    return f"{frame.f_code.co_filename}:{frame.f_lineno + offset}"


def test_a_step_ends_at_the_marker() -> None:
    """None: it is not at its end."""
    ran = []

    async def main() -> None:
        ran.append(1)
        await bare_yield(MARKER)
        ran.append(2)
        await bare_yield(MARKER)
        ran.append(3)

    coro = main()
    assert step(coro, MARKER) is None
    assert ran == [1]
    assert step(coro, MARKER) is None
    assert ran == [1, 2]
    assert step(coro, MARKER) == (None, None)
    assert ran == [1, 2, 3]


def test_the_marker_is_known_by_identity() -> None:
    """Something that equals it is an await like any other."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    async def main() -> None:
        with pytest.raises(RuntimeError, match="cannot await"):
            await bare_yield(Equal())

    assert step(main(), MARKER) == (None, None)


def test_a_bare_yield_of_none_is_refused() -> None:
    """A bare ``yield``, as ``asyncio.sleep(0)`` does it, is refused."""

    async def main() -> str:
        with pytest.raises(RuntimeError, match="cannot await"):
            await asyncio.sleep(0)
        return "value"

    assert step(main(), MARKER) == ("value", None)


def test_a_result_is_returned() -> None:
    """Also None, also an exception that is a value."""
    error = ValueError()

    async def main(value: object) -> object:
        return value

    assert step(main(1), MARKER) == (1, None)
    assert step(main(error), MARKER) == (error, None)


@pytest.mark.parametrize(
    "kind",
    [ValueError, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit, MemoryError],
)
def test_an_error_is_returned(kind: type[BaseException]) -> None:
    """Of whatever kind: nothing comes out of ``step`` but its result."""
    raised = kind("odd")

    async def main() -> None:
        raise raised

    ended = step(main(), MARKER)
    assert ended is not None
    assert ended.error is raised


def test_a_step_may_begin_with_an_error() -> None:
    """It is raised where the coroutine is suspended, and may be caught there."""
    raised = ValueError("thrown")

    async def main() -> str:
        try:
            await bare_yield(MARKER)
        except ValueError as error:
            assert error is raised
            return "caught"
        return "missed"

    coro = main()
    assert step(coro, MARKER) is None
    assert step(coro, MARKER, raised) == ("caught", None)


def test_each_await_is_refused_where_it_stands() -> None:
    """The coroutine goes on from there, as often as it likes."""
    refused = []

    async def main() -> str:
        for value in (None, 1, object()):
            try:
                await bare_yield(value)
            except RuntimeError as error:
                refused.append(error)
        await bare_yield(MARKER)
        return "value"

    coro = main()
    assert step(coro, MARKER) is None
    assert len(refused) == 3
    assert step(coro, MARKER) == ("value", None)


def test_a_refusal_is_not_the_context_of_a_later_error() -> None:
    """Nothing of the driver's own is being handled while the coroutine runs."""

    async def main() -> None:
        try:
            await bare_yield(None)
        except RuntimeError as error:
            assert error.__context__ is None
        assert sys.exc_info() == (None, None, None)
        raise ValueError

    ended = step(main(), MARKER)
    assert ended is not None
    assert isinstance(ended.error, ValueError)
    assert ended.error.__context__ is None


def test_a_refused_future_can_be_awaited_again() -> None:
    """The mark that its ``__await__`` has left is wiped off."""
    loop = asyncio.new_event_loop()
    try:
        future = loop.create_future()

        async def main() -> None:
            await future

        ended = step(main(), MARKER)
        assert ended is not None
        assert isinstance(ended.error, RuntimeError)
        assert future._asyncio_future_blocking is False
        future.cancel()
    finally:
        loop.close()


def test_nothing_of_an_ended_coroutine_is_kept() -> None:
    """The error that is returned does not lead to the coroutine by way of the driver's frame."""

    async def main() -> None:
        raise ValueError

    coro = main()
    gone = weakref.ref(coro)
    ended = step(coro, MARKER)
    assert ended is not None
    frames = []
    assert ended.error is not None
    traceback = ended.error.__traceback__
    while traceback is not None:
        frames.append(traceback.tb_frame)
        traceback = traceback.tb_next
    assert all(coro is not value for value in frames[0].f_locals.values())
    del coro, frames, ended
    gc.collect()
    assert gone() is None


# --- where ---

#: The line of the innermost frame wherever ``bare_yield`` suspends.
BARE_YIELD = f"{__file__}:{bare_yield.__code__.co_firstlineno + 2}"


async def plain() -> None:
    await bare_yield(MARKER)


async def nested() -> None:
    await plain()


@types.coroutine
def from_a_generator() -> Generator[Any, Any, None]:
    yield from plain()  # type: ignore[misc]


async def through_a_generator() -> None:
    await from_a_generator()


@pytest.mark.parametrize(
    "function", [plain, nested, through_a_generator], ids=lambda each: each.__name__
)
def test_the_innermost_line_is_named(function: Callable[[], Any]) -> None:
    """However many coroutines and generators are in between."""
    coro = function()
    coro.send(None)
    assert where_suspended(coro) == BARE_YIELD
    coro.close()


def test_a_line_of_asyncio_is_not_named() -> None:
    """The one that called asyncio is."""
    lines = []

    async def main() -> None:
        lines.append(line_here(1))
        await asyncio.sleep(0)

    coro = main()
    coro.send(None)
    assert where_suspended(coro) == lines[0]
    coro.close()


def test_where_an_async_generator_waits_is_named() -> None:
    """The line of the ``async for``: what is behind it cannot be seen from outside."""

    async def numbers() -> AsyncIterator[int]:
        await bare_yield(MARKER)
        yield 1

    async def main() -> None:
        lines.append(line_here(1))
        async for _ in numbers():
            pass

    lines: list[str] = []
    coro = main()
    coro.send(None)
    assert where_suspended(coro) in (lines[0], BARE_YIELD)
    coro.close()


def test_what_cannot_be_looked_into_is_an_unknown_line() -> None:
    """An object of another make that only has ``send``."""
    assert where_suspended(object()) == "an unknown line"
