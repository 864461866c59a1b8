"""``_driver``: stepping a suspended coroutine, without threads and without loops."""

from __future__ import annotations

import gc
import types
import weakref
from collections.abc import Generator
from typing import Any

import pytest

from threadhop._driver import step, where_suspended

MARKER = object()


@types.coroutine
def bare_yield(value: object) -> Generator[object, Any, Any]:
    return (yield value)


def test_a_step_ends_at_the_marker_and_tells_how_the_coroutine_ended() -> None:
    """Its value, which may be an exception; or its error, of whatever kind."""
    ran = []
    value = ValueError()

    async def main() -> object:
        ran.append(1)
        await bare_yield(MARKER)
        ran.append(2)
        await bare_yield(MARKER)
        return value

    coro = main()
    assert step(coro, MARKER) is None
    assert ran == [1]
    assert step(coro, MARKER) is None
    assert ran == [1, 2]
    assert step(coro, MARKER) == (value, None)


@pytest.mark.parametrize(
    "kind",
    [ValueError, StopAsyncIteration, GeneratorExit, KeyboardInterrupt, SystemExit, MemoryError],
)
def test_an_error_is_returned(kind: type[BaseException]) -> None:
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
        with pytest.raises(ValueError, match="thrown") as caught:
            await bare_yield(MARKER)
        assert caught.value is raised
        return "caught"

    coro = main()
    assert step(coro, MARKER) is None
    assert step(coro, MARKER, raised) == ("caught", None)


def test_each_await_is_refused_where_it_stands() -> None:
    """The coroutine goes on from there. Only the marker is no await, and not what equals it."""

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    async def main() -> str:
        for value in (None, 1, object(), Equal()):
            with pytest.raises(RuntimeError, match="cannot await"):
                await bare_yield(value)
        await bare_yield(MARKER)
        return "value"

    coro = main()
    assert step(coro, MARKER) is None
    assert step(coro, MARKER) == ("value", None)


def test_nothing_of_an_ended_coroutine_is_kept() -> None:
    """The error that is returned does not lead to the coroutine by way of the driver's frame."""

    async def main() -> None:
        raise ValueError

    coro = main()
    gone = weakref.ref(coro)
    ended = step(coro, MARKER)
    assert ended is not None
    assert ended.error is not None
    assert ended.error.__traceback__ is not None
    frame = ended.error.__traceback__.tb_frame
    assert all(coro is not value for value in frame.f_locals.values())
    del coro, frame, ended
    gc.collect()
    assert gone() is None


def test_what_cannot_be_looked_into_is_an_unknown_line() -> None:
    """An object of another make that only has ``send``."""
    assert where_suspended(object()) == "an unknown line"


def test_an_awaitable_without_throw_that_yields_for_ever_is_refused_all_the_same() -> None:
    class ForEver:
        def __await__(self) -> ForEver:
            return self

        def __iter__(self) -> ForEver:
            return self

        def __next__(self) -> object:
            return object()

    async def body() -> None:
        await ForEver()  # type: ignore[misc]

    outcome = step(body(), MARKER)
    assert outcome is not None
    assert "cannot await" in str(outcome.error)
