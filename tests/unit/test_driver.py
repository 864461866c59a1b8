"""``_driver``, by itself. ``test_threadpool_awaits.py`` tests what it refuses, and where."""

from __future__ import annotations

import gc
import weakref

from threadhop._driver import step, where_suspended

MARKER = object()


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
