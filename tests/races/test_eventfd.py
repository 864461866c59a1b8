"""The eventfd of a loop: no wake-up is lost, and whatever cannot have one does without."""

from __future__ import annotations

import asyncio
import gc
import os
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from helpers.child import STEPS, run_in_child
from helpers.garbage import Thing
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, wait_until

from threadhop import AsyncExecutor, WorkerPool, threadpool
from threadhop._loops import _eventfd
from threadhop._loops._entry_queue import EntryQueue

pytestmark = pytest.mark.skipif(
    not hasattr(os, "eventfd") or sys.implementation.name != "cpython",
    reason="loops have an eventfd on CPython and Linux only",
)


def in_another_thread(func: Callable[[], object]) -> None:
    thread = threading.Thread(target=func)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()


class Street:
    """A loop, its queue, and hooks around each read and write of the eventfd, used up by a call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.new_event_loop()
        self.hooks: dict[str, Callable[[], object]] = {}
        for name in ("read", "write"):
            monkeypatch.setattr(_eventfd, name, partial(self._call, name, getattr(_eventfd, name)))
        self.queue = EntryQueue(self.loop)
        assert self.queue._eventfd() is not None
        self.delivered: list[int] = []

    def _call(self, name: str, func: Callable[..., Any], *args: Any) -> Any:
        self.hooks.pop(f"before {name}", lambda: None)()
        result = func(*args)
        self.hooks.pop(f"after {name}", lambda: None)()
        return result

    def post_here(self, number: int, also: Callable[[], object] = lambda: None) -> None:
        self.queue.post(Entry(self.delivered, number, also), self.loop)

    def post(self, number: int) -> None:
        in_another_thread(partial(self.post_here, number))

    def look(self) -> None:
        """As after a write of somebody else."""
        self.loop.call_soon(self.queue.answer, self.queue._eventfd())
        self.turn()

    def turn(self) -> None:
        """One turn of the loop, which waits for nothing."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def assert_all_come(self, count: int) -> None:
        """Each once, by what the eventfd tells; the next post is heard, and then all is silent."""
        for _ in range(5):
            self.turn()
        assert sorted(self.delivered) == list(range(count))
        self.post(count)
        self.turn()
        self.turn()
        assert sorted(self.delivered) == list(range(count + 1))
        eventfd = self.queue._eventfd()
        assert eventfd is not None
        with pytest.raises(BlockingIOError):
            os.eventfd_read(eventfd.number)


class Entry:
    def __init__(self, delivered: list[int], number: int, also: Callable[[], object]) -> None:
        self.delivered, self.number, self.also = delivered, number, also

    def deliver(self) -> None:
        self.delivered.append(self.number)
        self.also()

    def abandon(self) -> None:
        self.delivered.append(-1)


@pytest.fixture
def street(monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    made = Street(monkeypatch)
    yield made
    made.loop.close()


@pytest.mark.parametrize("moment", ["during delivery", "before read", "after read"])
def test_a_post_around_the_read_is_not_lost(street: Street, moment: str) -> None:
    """1 the loop delivers, 2 another thread posts, before or after 3 the loop reads."""
    if moment == "during delivery":
        street.post_here(0, partial(street.post, 1))
    else:
        street.hooks[moment] = partial(street.post, 1)
        street.post(0)
    street.assert_all_come(2)


def test_a_post_that_has_taken_the_token_and_writes_late_loses_nothing(street: Street) -> None:
    """1 post 0 has the token, 2 the loop looks all the same, 3 post 0 writes."""
    gate = Gate()
    street.hooks["before write"] = gate.stop_here
    late = threading.Thread(target=partial(street.post_here, 0))
    late.start()
    wait_until(gate.reached.is_set)
    street.look()
    street.post(1)
    street.look()
    gate.open()
    late.join(LIMIT)
    street.assert_all_come(2)


def test_ctrl_c_between_the_read_and_the_look_after_it_leaves_the_wake_up(street: Street) -> None:
    """1 a post comes before the read, which swallows its count, 2 Ctrl+C, 3 the loop runs again."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    street.hooks["before read"] = partial(street.post, 1)
    street.hooks["after read"] = interrupted
    street.post(0)
    with pytest.raises(KeyboardInterrupt):
        street.turn()
    street.assert_all_come(2)


def test_a_step_that_raises_leaves_the_count(street: Street) -> None:
    interrupts: list[type[BaseException]] = [KeyboardInterrupt]

    def interrupted() -> None:
        if interrupts:
            street.delivered.clear()
            raise interrupts.pop()

    street.post_here(0, interrupted)
    street.post(1)
    with pytest.raises(KeyboardInterrupt):
        street.turn()
    street.assert_all_come(2)


def test_a_loop_that_runs_nested_in_a_step_may_read_first(street: Street) -> None:
    def run_nested() -> None:
        eventfd = street.queue._eventfd()
        assert eventfd is not None
        street.queue.answer(eventfd)

    street.post_here(0, run_nested)
    street.assert_all_come(1)


# --- what has none, and its end


def count_eventfds() -> int:
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # That of the listing itself is closed.
            count += os.readlink(f"/proc/self/fd/{number}") == "anon_inode:[eventfd]"
    return count


async def block_of(pool: WorkerPool) -> None:
    async with threadpool(pool):
        pass


def test_the_eventfd_is_closed_with_its_loop(loops: LoopKind) -> None:
    loops.run(asyncio.sleep(0))  # The first loop of uvloop opens some for good.
    gc.collect()  # What other tests have left.
    before = count_eventfds()
    with WorkerPool(1) as pool:
        for _ in range(10):
            loops.run(block_of(pool))
    # (Without the GIL the worker's last look at it may end later.)
    wait_until(lambda: count_eventfds() == before)


def test_an_error_that_somebody_keeps_does_not_keep_it_open() -> None:
    """The frames of its traceback lead back to the callback that resumed the task."""

    async def fails(pool: WorkerPool) -> None:
        await AsyncExecutor(pool).run(int, "no number")

    gc.collect()
    before = count_eventfds()
    with WorkerPool(1) as pool:
        loop = asyncio.new_event_loop()
        task = loop.create_task(fails(pool))
        with pytest.raises(ValueError, match="no number") as kept:
            loop.run_until_complete(task)
        del task
        loop.close()
        del loop
        wait_until(lambda: count_eventfds() == before)
    assert kept.value.__traceback__ is not None


class OwnSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Nobody knows what it waits for."""


class OwnReaders(asyncio.SelectorEventLoop):
    def add_reader(self, fd: Any, callback: Any, *args: Any) -> None:
        raise NotImplementedError


def too_many(*_: object) -> int:
    raise OSError(24, "Too many open files")


@pytest.mark.parametrize("lacks", ["descriptors", "a known selector", "epoll", "add_reader"])
def test_a_loop_that_cannot_have_one_is_woken_by_call_soon_threadsafe(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    if lacks == "descriptors":
        monkeypatch.setattr(os, "eventfd", too_many)
        loop = asyncio.new_event_loop()
    elif lacks == "a known selector":
        loop = asyncio.SelectorEventLoop(OwnSelector())
    elif lacks == "epoll":  # A high descriptor would end a loop that uses ``select``.
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    else:
        loop = OwnReaders()
    wakers: list[object] = []
    plain = loop.call_soon_threadsafe

    def noted(callback: Any, *args: Any, **options: Any) -> Any:
        wakers.append(callback)
        return plain(callback, *args, **options)

    loop.call_soon_threadsafe = noted  # type: ignore[method-assign]
    gc.collect()
    before = count_eventfds()
    with WorkerPool(1) as pool:
        loop.run_until_complete(asyncio.wait_for(block_of(pool), LIMIT))
    assert wakers == [any]
    assert count_eventfds() == before
    loop.close()


def test_a_loop_with_one_is_not_woken_by_call_soon_threadsafe(loops: LoopKind) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        plain = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = None  # type: ignore[method-assign, assignment]
        try:
            await block_of(pool)
        finally:
            loop.call_soon_threadsafe = plain  # type: ignore[method-assign]

    with WorkerPool(1) as pool:
        loops.run(main)


def test_the_reader_keeps_nothing_of_the_task_that_was_the_first() -> None:
    var: ContextVar[Thing] = ContextVar("var")

    async def first(pool: WorkerPool) -> weakref.ref[Thing]:
        thing = Thing()
        var.set(thing)
        await block_of(pool)
        return weakref.ref(thing)

    loop = asyncio.new_event_loop()
    with WorkerPool(1) as pool:
        ref = loop.run_until_complete(loop.create_task(first(pool)))
    loop.run_until_complete(asyncio.sleep(0))
    assert ref() is None
    loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_the_child_of_a_fork_wakes_the_loop_otherwise_and_reads_no_wake_up_of_its_parent() -> None:
    """1 a task is about to come home, 2 a fork, 3 child and parent run the loop."""
    child = run_in_child(
        STEPS
        + """
import asyncio, os, warnings
from threadhop import threadpool, WorkerPool
warnings.simplefilter("ignore")

async def block():
    async with threadpool(pool):
        say("in")

loop, pool = asyncio.new_event_loop(), WorkerPool(1)
loop.run_until_complete(block())
first = loop.create_task(block())
loop.call_soon(loop.stop)
loop.run_forever()
wait_until(lambda: not pool.statistics().busy)
child = os.fork()
if child == 0:
    pool = WorkerPool(1)
    loop.run_until_complete(block())
    say("child")
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
loop.run_until_complete(asyncio.wait_for(first, 5))
loop.run_until_complete(asyncio.wait_for(block(), 5))
say("parent")
"""
    )
    assert child.returncode == 0, child.stdout + child.stderr
    assert not child.stderr
    assert child.stdout.split() == ["in", "in", "in", "child", "in", "parent"]
