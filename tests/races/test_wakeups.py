"""The way home: no wake-up is lost and none comes twice, whoever stands between two lines."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.pool_jobs import LyingDeque
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, until

from threadhop import threadpool
from threadhop._loops import _eventfd
from threadhop._loops._entry_queue import EntryQueue


def in_another_thread(func: Callable[[], object]) -> None:
    thread = threading.Thread(target=func)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()


# --- the queue of a loop, by itself


class FakeLoop:
    """Keeps the callbacks until the test runs them."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], object]] = []
        self.closed = False
        #: Whether it is closed by the time the thread that wakes it goes on.
        self.closes_when_woken = False
        #: The error of each attempt to wake it, although it is open.
        self.error: BaseException | None = None

    def is_closed(self) -> bool:
        return self.closed

    def call_soon_threadsafe(self, callback: Callable[..., None], *args: object) -> None:
        if self.error is not None:
            raise self.error
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.callbacks.append(partial(callback, *args))
        if self.closes_when_woken:
            self.close()

    call_soon = call_soon_threadsafe

    def get_debug(self) -> bool:
        return False

    def turn(self) -> None:
        """One callback, in this thread."""
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(self)  # type: ignore[arg-type]
        try:
            self.callbacks.pop(0)()
        finally:
            asyncio._set_running_loop(outer)

    def run(self) -> None:
        """All that is there, and what comes of it."""
        while self.callbacks:
            self.turn()

    def close(self) -> None:
        """Its callbacks are forgotten."""
        self.callbacks.clear()
        self.closed = True


class FakeEntry:
    """Calls *note* when it is delivered, and counts."""

    def __init__(self, note: Callable[[], object]) -> None:
        self.note = note
        #: Called once, while it is delivered.
        self.arriving: Callable[[], object] = lambda: None
        self.delivered = 0
        self.abandoned = 0

    def deliver(self) -> None:
        self.delivered += 1
        self.note()
        arriving, self.arriving = self.arriving, lambda: None
        arriving()

    def abandon(self) -> None:
        self.abandoned += 1


class LyingWakers(deque[bool]):
    """The token of a queue; runs something around a look, a take or a return, once each."""

    def __init__(self) -> None:
        super().__init__([True], maxlen=1)
        self.hooks: dict[str, Callable[[], object]] = {}

    def _hook(self, name: str) -> None:
        self.hooks.pop(name, lambda: None)()

    def __len__(self) -> int:
        self._hook("before look")
        count = super().__len__()
        self._hook("after look")
        return count

    def pop(self) -> bool:  # type: ignore[override]
        self._hook("before take")
        token = super().pop()
        self._hook("after take")
        return token

    def append(self, token: bool) -> None:
        self._hook("before return")
        super().append(token)
        self._hook("after return")


class Street:
    """A queue with lying parts, its loop and some entries."""

    def __init__(self) -> None:
        self.entry_queue = EntryQueue()
        self.loop: Any = FakeLoop()
        self.wakers = LyingWakers()
        self.hooks = self.wakers.hooks
        self.waiting = LyingDeque()
        self.entry_queue._wakers = self.wakers
        self.entry_queue._begin_to_look = partial(self.wakers.append, True)
        self.entry_queue._queue = self.waiting
        self.entry_queue._next_ones = iter(self.waiting.popleft, None)
        self.order: list[int] = []
        self.entries = [FakeEntry(partial(self.order.append, number)) for number in range(4)]

    def post(self, *numbers: int) -> None:
        for number in numbers:
            in_another_thread(partial(self.post_here, number))

    def post_here(self, number: int) -> None:
        self.entry_queue.post(self.entries[number], self.loop)

    def look(self) -> None:
        self.entry_queue.post_again(self.loop)

    def delivered(self) -> list[int]:
        return [entry.delivered for entry in self.entries]

    def abandoned(self) -> list[int]:
        return [entry.abandoned for entry in self.entries]

    def assert_each_of(self, count: int) -> None:
        """Run the loop: each of the first *count* comes once; then the next post wakes it again."""
        self.loop.run()
        assert self.delivered() == [1] * count + [0] * (4 - count)
        self.post(3)
        assert len(self.loop.callbacks) == 1
        self.loop.run()
        assert self.entries[3].delivered == 1


@pytest.fixture
def street() -> Street:
    return Street()


OF_A_POST = ["before look", "after look", "before take", "after take"]
OF_A_DRAIN = ["before return", "after return", "before count"]
#: The second post finds no token to take.
MOMENTS = [
    *(("first", at) for at in OF_A_POST + OF_A_DRAIN),
    *(("second", at) for at in OF_A_POST[:2]),
]


@pytest.mark.parametrize("intruder", ["post", "drain", "post, drain"])
@pytest.mark.parametrize(("of", "moment"), MOMENTS)
def test_nothing_is_lost_whoever_comes_in_at_any_moment_of_a_post_or_a_drain(
    street: Street, of: str, moment: str, intruder: str
) -> None:
    """Two posts, and a third one, or the loop, in the middle. Many posts wake the loop once.

    For example: 1 post 0 takes the token, 2 post 1 appends, 3 the loop drains both, 4 post 1 looks.
    """
    posts = "post" in intruder

    def intrude() -> None:
        if posts:
            street.post(2)
        if "drain" in intruder:
            street.loop.run()

    if of == "second":
        street.post(0)
    if moment == "before count":
        street.waiting.before_look = intrude
    else:
        street.hooks[moment] = intrude
    for number in (0, 1) if of == "first" else (1,):
        street.post(number)
        assert len(street.loop.callbacks) <= 1
    street.loop.run()
    assert not street.hooks
    assert street.waiting.before_look is None
    street.assert_each_of(2 + posts)


def test_a_post_out_of_a_resumed_step_waits_for_the_next_turn(street: Street) -> None:
    """The loop's other callbacks have a turn in between."""
    street.entries[0].arriving = lambda: street.post_here(1)
    street.post(0)
    street.loop.turn()
    assert street.delivered() == [1, 0, 0, 0]
    street.assert_each_of(2)


@pytest.mark.parametrize("posts", [False, True], ids=["alone", "with a post at once"])
def test_an_interrupt_out_of_one_step_leaves_the_others_for_the_next_turn(
    street: Street, posts: bool
) -> None:
    """The interrupted one comes first again: it alone knows how far it came.

    If a post has woken the loop already, one look finds all, another one nothing.
    """

    def raise_it() -> None:
        if posts:
            street.post(3)
        raise KeyboardInterrupt

    street.post(0, 1, 2)
    street.entries[1].arriving = raise_it
    with pytest.raises(KeyboardInterrupt):
        street.loop.run()
    assert street.order == [0, 1]
    street.loop.turn()
    assert street.order == [0, 1, 1, 2] + [3] * posts
    street.loop.run()
    assert street.order == [0, 1, 1, 2] + [3] * posts
    assert street.wakers


@pytest.mark.parametrize(
    ("ends", "another"), [("at its beginning", "post"), ("at its beginning", "look"), ("", "look")]
)
def test_a_wake_up_that_does_not_begin_to_deliver_leaves_that_to_the_next_one(
    street: Street, monkeypatch: pytest.MonkeyPatch, ends: str, another: str
) -> None:
    """1 a post wakes the loop, 2 Ctrl+C as the drain begins, 3 a post or a cancelled task comes.

    Or the loop has lost the callback. Then it takes a cancelled task to have it look.
    """

    def interrupted(_: EntryQueue) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if ends:
            patch.setattr(EntryQueue, "run_all_bounded", interrupted)
        street.post(0)
    if ends:
        with pytest.raises(KeyboardInterrupt):
            street.loop.run()
    street.loop.callbacks.clear()
    if another == "post":
        street.post(1)
    else:
        street.look()
    assert len(street.loop.callbacks) == 1
    street.assert_each_of(2 if another == "post" else 1)


def test_a_look_brings_nothing_twice_and_wakes_no_loop_for_nothing(street: Street) -> None:
    """1 a post wakes the loop, 2 a cancelled task has it look as well: the second finds nothing."""
    street.look()
    assert not street.loop.callbacks
    street.post(0)
    street.look()
    street.assert_each_of(1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_post_that_cannot_wake_an_open_loop_raises_and_the_next_one_brings_both(
    street: Street, error: type[BaseException]
) -> None:
    street.loop.error = error()
    with pytest.raises(error):
        street.post_here(0)
    street.loop.error = None
    street.post(1)
    street.assert_each_of(2)
    assert street.abandoned() == [0, 0, 0, 0]


def test_a_drain_nested_in_a_step_takes_the_rest(street: Street) -> None:
    """As under a loop that is run within a step of its own (nest_asyncio)."""

    def run_nested() -> None:
        street.post(2)
        street.loop.run()

    street.entries[0].arriving = run_nested
    street.post(0, 1)
    street.assert_each_of(3)


@pytest.mark.parametrize(
    "closes", ["before", "as it is woken", "with a wake-up under way", "in a post"]
)
def test_what_is_posted_to_a_loop_that_closes_is_lost_aloud(street: Street, closes: str) -> None:
    """1 post 0, perhaps with the token, 2 the loop is closed, 3 post 1 finds no token.

    Or it did find one, and another post was faster.
    """

    def post_and_close() -> None:
        street.post(0)
        street.loop.close()

    if closes == "before":
        street.loop.close()
    street.loop.closes_when_woken = closes == "as it is woken"
    if closes == "in a post":
        street.hooks["before take"] = post_and_close
    elif closes == "with a wake-up under way":
        post_and_close()
    else:
        street.post(0)
        assert street.abandoned() == [1, 0, 0, 0]
    street.post(1)
    assert street.abandoned() == [1, 1, 0, 0]
    assert street.wakers or closes != "before"


# --- tasks of a real loop


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_a_task_whose_loop_cannot_be_woken_is_told_of_and_comes_home_with_the_next_one(
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    is_closed: bool,
) -> None:
    """The future of the job has the error. If the loop says that it is closed, the task is lost.

    A warning names the block then. The next block of this loop is undisturbed.
    """

    gate = Gate()

    async def block() -> str:
        async with threadpool(pool):
            gate.stop_here()
        return "value"

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the loop cannot be woken")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        first = loop.create_task(block())
        await until(lambda: pool.jobs)
        pool.start()
        await until(gate.reached.is_set)
        with monkeypatch.context() as patch:
            patch.setattr(_eventfd, "write", broken)
            patch.setattr(loop, "call_soon_threadsafe", broken)
            patch.setattr(loop, "is_closed", lambda: is_closed)
            gate.open()
            error = pool.jobs[0][0].exception(LIMIT)
        assert not first.done()
        second = loop.create_task(block())
        await until(lambda: len(pool.jobs) == 2)
        pool.start()
        assert await asyncio.wait_for(second, LIMIT) == "value"
        if not is_closed:
            assert "cannot be woken" in str(error)
            assert await asyncio.wait_for(first, LIMIT) == "value"
            return
        assert error is None
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert __file__ in record.getMessage()
        assert not first.done()

    with HeldExecutor() as pool:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()


# --- what the Task tells its suspension


class TaskWithoutCoroutine(asyncio.Task[Any]):
    def get_coro(self) -> Any:
        raise LookupError("no coroutine")


def test_an_error_while_the_task_is_suspended_is_raised_at_the_entry() -> None:
    """``add_done_callback`` must not raise: the task would hang and could not be cancelled."""

    async def main() -> str:
        with pytest.raises(LookupError, match="no coroutine"):
            async with threadpool(pool):
                raise AssertionError("the body ran")
        return "went on"

    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1) as pool:
        task = TaskWithoutCoroutine(main(), loop=loop)
        assert loop.run_until_complete(asyncio.wait_for(task, LIMIT)) == "went on"
    loop.close()


def test_a_wake_up_that_belongs_to_no_task_is_called_and_the_error_is_raised_there() -> None:
    """A driver that is no Task gives a plain function as its wake-up, and no Context."""

    async def block() -> str:
        with pytest.raises(RuntimeError, match="cannot move this task"):
            async with threadpool(pool):
                raise AssertionError("the body ran")
        return "went on"

    async def drive() -> None:
        """In the name of the task that runs this."""
        coro = block()
        suspension: Any = coro.send(None)
        suspension._asyncio_future_blocking = False
        resumed = asyncio.Event()
        suspension.add_done_callback(lambda _: resumed.set())
        await asyncio.wait_for(resumed.wait(), LIMIT)
        suspension.result()
        with pytest.raises(StopIteration, match="went on"):
            coro.send(None)

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(drive())


def test_a_wake_up_runs_in_a_callback_of_its_own_and_never_in_the_step_of_another_task(
    loops: LoopKind,
) -> None:
    """A task that cancels a queued one goes on before that one is resumed."""
    steps = []

    async def queued(pool: ThreadPoolExecutor) -> None:
        try:
            async with threadpool(pool):
                raise AssertionError("the body ran")
        finally:
            steps.append("resumed")

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool, busy(pool):
            task = asyncio.get_running_loop().create_task(queued(pool))
            await asyncio.sleep(0)
            task.cancel()
            steps.append("step ends")
            await until(task.done)

    loops.run(main)
    assert steps == ["step ends", "resumed"]
