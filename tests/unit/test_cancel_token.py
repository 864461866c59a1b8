"""The token tells a cancellation to all who listen, whoever of the two is first."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.steps import LIMIT, HeldExecutor, until

from threadhop import _block_job, threadpool
from threadhop._cancel_token import CancelToken
from threadhop._job import current


class LyingToken(CancelToken):
    """Calls back once after somebody has looked for a cancellation, and has seen none."""

    after_look: Callable[[], object] | None = None
    _why: Any = None

    @property
    def why(self) -> Any:  # type: ignore[override]
        seen = self._why
        hook, self.after_look = self.after_look, None
        if hook is not None:
            hook()
        return seen

    @why.setter
    def why(self, why: Any) -> None:
        self._why = why


def test_a_cancellation_just_after_the_look_of_a_listener_finds_it() -> None:
    """1 the listener notes itself and looks, 2 cancel."""
    token = LyingToken()
    told: list[Any] = []
    token.after_look = lambda: token.request(("stop",))
    token.register(told.append)
    assert told == [("stop",)]


def test_a_listener_that_was_taken_out_is_not_told_and_the_others_are() -> None:
    token = CancelToken()
    told: list[Any] = []
    other: list[Any] = []
    token.register(told.append)
    token.register(other.append)
    token.unregister(told.append)
    token.request(("stop",))
    assert (told, other) == ([], [("stop",)])


class Listener:
    """All are compared with all. Then what is in ``meanwhile`` is called, once."""

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[], object]] = []
        self.told: list[Any] = []

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        if self.meanwhile:
            self.meanwhile.pop()()
        return self is other

    def __call__(self, why: Any) -> None:
        self.told.append(why)


def test_one_that_begins_to_listen_while_another_thread_takes_one_out_is_told() -> None:
    """The garbage collector ends an ``on_cancel`` in any thread."""
    token = CancelToken()
    stays, begins, leaves = Listener(), Listener(), Listener()
    token.register(stays)
    token.register(leaves)
    stays.meanwhile = [lambda: token.register(begins)]
    token.unregister(leaves)
    assert not stays.meanwhile
    token.request("stop")
    assert (stays.told, begins.told, leaves.told) == (["stop"], ["stop"], [])


def test_the_cancellation_is_there_when_a_listener_is_told() -> None:
    """Whoever is told may look for it at once, perhaps in another thread."""
    token = CancelToken()
    seen: list[Any] = []
    token.register(lambda _: seen.append(token.why))
    token.request(("stop",))
    assert seen == [("stop",)]


def test_a_cancellation_just_before_the_job_is_requested_takes_it_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 a worker asks for another worker, 2 cancel, 3 the job has its mark, 4 and is submitted."""

    held = HeldExecutor()

    async def block(outer: ThreadPoolExecutor) -> None:
        async with threadpool(outer), threadpool(held):
            raise AssertionError("nobody runs the job")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        def cancel() -> None:
            task.cancel("stop")
            cancelled.set()

        def before_mark() -> float:
            if held.jobs or cancelled.is_set() or threading.get_ident() == here:
                return time.monotonic()
            if current.slot.job is not None:  # Not yet that of the outer block itself.
                loop.call_soon_threadsafe(cancel)
                assert cancelled.wait(LIMIT)
            return time.monotonic()

        here = threading.get_ident()
        monkeypatch.setattr(_block_job, "monotonic", before_mark)
        with ThreadPoolExecutor(1) as outer:
            task = loop.create_task(block(outer))
            await until(task.done)
            assert task.cancelled()

    asyncio.run(main())
