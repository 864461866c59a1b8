"""The way home: no wake-up is lost and none comes twice, whoever stands between two lines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, until, wait_until

from threadhop import threadpool
from threadhop._loops._asyncio import AsyncioSuspension
from threadhop._loops._attributes import LOOP
from threadhop._loops._entry_queue import EntryQueue

here = threading.get_ident


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
        #: What waking it raises, although it is open.
        self.error: BaseException | None = None

    def is_closed(self) -> bool:
        return self.closed

    def call_soon_threadsafe(self, callback: Callable[..., None], *args: object) -> None:
        if self.error is not None:
            raise self.error
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.callbacks.append(partial(callback, *args))

    call_soon = call_soon_threadsafe

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


class FakeEntry:
    def __init__(self) -> None:
        #: Called once, while it is delivered.
        self.arriving: Callable[[], object] = lambda: None
        self.delivered = 0
        self.abandoned = 0

    def deliver(self) -> None:
        self.delivered += 1
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


class LyingDeque(deque[Any]):
    """Runs something before its length is told, once."""

    hook: Callable[[], object] | None = None

    def __len__(self) -> int:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return super().__len__()


class Street:
    """A queue with lying parts, its loop and some entries."""

    def __init__(self) -> None:
        self.entry_queue = EntryQueue()
        self.loop = FakeLoop()
        self.wakers = LyingWakers()
        self.waiting = LyingDeque()
        self.entry_queue._wakers = self.wakers
        self.entry_queue._begin_to_look = partial(self.wakers.append, True)
        self.entry_queue._queue = self.waiting
        self.entry_queue._next_ones = iter(self.waiting.popleft, None)
        self.entries = [FakeEntry() for _ in range(4)]

    def post(self, number: int) -> None:
        in_another_thread(lambda: self.post_here(number))

    def post_here(self, number: int) -> None:
        self.entry_queue.post(self.entries[number], self.loop)  # type: ignore[arg-type]

    def delivered(self) -> list[int]:
        return [entry.delivered for entry in self.entries]

    def abandoned(self) -> list[int]:
        return [entry.abandoned for entry in self.entries]


def test_many_posts_wake_the_loop_once() -> None:
    street = Street()
    for number in range(4):
        street.post(number)
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 1, 1]


def test_a_post_after_the_drain_wakes_the_loop_again() -> None:
    street = Street()
    street.post(0)
    street.loop.run()
    street.post(1)
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]


@pytest.mark.parametrize("moment", ["before return", "after return"])
def test_a_post_while_the_drain_disarms_is_not_lost(moment: str) -> None:
    """1 the drain begins, 2 a post comes before or after it disarms, 3 the drain counts."""
    street = Street()
    street.post(0)
    street.wakers.hooks[moment] = lambda: street.post(1)
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]
    street.post(2)  # and nothing stayed armed
    street.loop.run()
    assert street.delivered() == [1, 1, 1, 0]


def test_a_post_while_the_drain_counts_is_not_lost() -> None:
    """1 the drain has disarmed, 2 a post comes, 3 the drain counts and resumes both or one."""
    street = Street()
    street.post(0)
    street.waiting.hook = lambda: street.post(1)
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]


@pytest.mark.parametrize("moment", ["before look", "after look"])
def test_a_drain_in_the_middle_of_a_post_loses_nothing(moment: str) -> None:
    """1 post 0 arms, 2 post 1 appends, 3 the loop drains both, 4 post 1 goes on."""
    street = Street()
    street.post(0)
    street.wakers.hooks[moment] = street.loop.run
    street.post(1)
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]
    street.post(2)
    street.loop.run()
    assert street.delivered() == [1, 1, 1, 0]


@pytest.mark.parametrize("moment", ["after look", "before take", "after take"])
@pytest.mark.parametrize("drains", [False, True], ids=["posted", "and drained"])
def test_two_posts_of_which_both_could_wake_the_loop_lose_nothing(
    moment: str, drains: bool
) -> None:
    """1 post 0 finds nobody, 2 post 1 does all of its own, perhaps a drain, 3 post 0 goes on."""
    street = Street()

    def post_all() -> None:
        street.post(1)
        if drains:
            street.loop.run()

    street.wakers.hooks[moment] = post_all
    street.post(0)
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]
    street.post(2)  # and nothing stayed armed
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 1, 0]


def test_a_post_out_of_a_resumed_step_waits_for_the_next_turn() -> None:
    """The loop's other callbacks have a turn in between."""
    street = Street()
    street.entries[0].arriving = lambda: street.post_here(1)
    street.post(0)
    street.loop.turn()
    assert street.delivered() == [1, 0, 0, 0]
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_out_of_one_step_leaves_the_others_for_the_next_turn(
    interrupt: type[BaseException],
) -> None:
    """The interrupted one comes first again: it alone knows how far it came."""
    street = Street()

    def raise_it() -> None:
        raise interrupt

    for number in range(4):
        street.post(number)
    street.entries[1].arriving = raise_it
    with pytest.raises(interrupt):
        street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]
    street.loop.turn()
    assert street.delivered() == [1, 2, 1, 1]
    assert not street.loop.callbacks


def test_an_interrupt_and_a_post_at_once_bring_all_in_the_next_turn() -> None:
    """The post has woken the loop already: one look finds all, another one nothing."""
    street = Street()

    def post_and_raise() -> None:
        street.post(3)
        raise KeyboardInterrupt

    for number in range(3):
        street.post(number)
    street.entries[0].arriving = post_and_raise
    with pytest.raises(KeyboardInterrupt):
        street.loop.run()
    street.loop.turn()
    assert street.delivered() == [2, 1, 1, 1]  # number 0 was interrupted
    street.loop.run()
    assert street.delivered() == [2, 1, 1, 1]
    assert street.wakers  # nothing stayed armed


@contextlib.contextmanager
def interrupt_at_the_beginning_of(function: Callable[..., Any]) -> Iterator[None]:
    """Raise KeyboardInterrupt before its first line, as a signal handler may."""
    outer = sys.gettrace()

    def trace(frame: FrameType, event: str, arg: object) -> None:
        if frame.f_code is function.__code__:
            raise KeyboardInterrupt

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(outer)


@pytest.mark.parametrize("another", ["post", "look"])
def test_an_interrupt_at_the_very_beginning_of_the_drain_leaves_the_next_one_free_to_wake(
    another: str,
) -> None:
    """1 a post wakes the loop, 2 Ctrl+C as the drain begins, 3 a post or a cancelled task comes.

    Whoever that is has the loop look: nothing stayed armed, and nothing is lost.
    """
    street = Street()
    street.post(0)
    with (
        interrupt_at_the_beginning_of(EntryQueue.run_all_bounded),
        pytest.raises(KeyboardInterrupt),
    ):
        street.loop.run()
    assert street.delivered() == [0, 0, 0, 0]
    assert not street.loop.callbacks
    if another == "post":
        street.post(1)
    else:
        street.entry_queue.post_again(street.loop)  # type: ignore[arg-type]
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, int(another == "post"), 0, 0]
    street.post(2)
    street.loop.run()
    assert street.delivered()[2] == 1


def test_a_look_brings_what_a_wake_up_that_never_began_should_have_brought() -> None:
    """1 a post wakes the loop, 2 that callback is lost, 3 a cancelled task has the loop look."""
    street = Street()
    street.post(0)
    street.loop.callbacks.clear()
    street.entry_queue.post_again(street.loop)  # type: ignore[arg-type]
    street.loop.run()
    assert street.delivered() == [1, 0, 0, 0]
    street.post(1)  # and nothing stayed armed
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]


def test_a_look_at_an_empty_queue_does_not_wake_the_loop() -> None:
    street = Street()
    street.entry_queue.post_again(street.loop)  # type: ignore[arg-type]
    assert not street.loop.callbacks


def test_a_look_and_a_post_at_once_bring_each_entry_once() -> None:
    """1 a post wakes the loop, 2 a cancelled task has it look as well: the second finds nothing."""
    street = Street()
    street.post(0)
    street.entry_queue.post_again(street.loop)  # type: ignore[arg-type]
    street.loop.run()
    assert street.delivered() == [1, 0, 0, 0]
    street.post(1)
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_post_that_cannot_wake_an_open_loop_raises_and_the_next_one_brings_both(
    error: type[BaseException],
) -> None:
    street = Street()
    street.loop.error = error()
    with pytest.raises(error):
        street.post_here(0)
    street.loop.error = None
    street.post(1)
    assert len(street.loop.callbacks) == 1
    street.loop.run()
    assert street.delivered() == [1, 1, 0, 0]
    assert street.abandoned() == [0, 0, 0, 0]


def test_a_drain_nested_in_a_step_takes_the_rest() -> None:
    """As under a loop that is run within a step of its own (nest_asyncio)."""
    street = Street()
    for number in range(4):
        street.post(number)

    def run_nested() -> None:
        street.post(3)
        street.loop.run()

    street.entries[0].arriving = run_nested
    street.loop.run()
    assert street.delivered() == [1, 1, 1, 2]  # number 3 was posted twice


def test_each_post_to_a_closed_loop_is_lost_once_and_nothing_stays_armed() -> None:
    street = Street()
    street.loop.closed = True
    street.post(0)
    street.post(1)
    assert street.abandoned() == [1, 1, 0, 0]
    assert street.wakers


def test_a_loop_that_closes_with_a_wake_up_under_way_loses_what_comes_later_aloud() -> None:
    """1 post 0 arms, 2 the loop is closed and forgets its callbacks, 3 post 1 finds it armed."""
    street = Street()
    street.post(0)
    street.loop.callbacks.clear()
    street.loop.closed = True
    street.post(1)
    assert street.abandoned() == [1, 1, 0, 0]


def test_a_post_that_another_one_is_faster_than_is_lost_aloud_when_the_loop_is_closed() -> None:
    """1 post 0 finds nobody, 2 post 1 wakes the loop, 3 that is closed, 4 post 0 goes on."""
    street = Street()

    def post_and_close() -> None:
        street.post(1)
        street.loop.callbacks.clear()
        street.loop.closed = True

    street.wakers.hooks["before take"] = post_and_close
    street.post(0)
    assert street.abandoned() == [1, 1, 0, 0]


def test_many_posts_from_many_threads_all_arrive() -> None:
    """No forced order: eight threads against one drain."""
    entry_queue = EntryQueue()
    loop = FakeLoop()
    entries = [[FakeEntry() for _ in range(400)] for _ in range(8)]
    barrier = threading.Barrier(9, timeout=LIMIT)

    def post_all(mine: list[FakeEntry]) -> None:
        barrier.wait()
        for entry in mine:
            entry_queue.post(entry, loop)  # type: ignore[arg-type]

    threads = [threading.Thread(target=post_all, args=(mine,)) for mine in entries]
    for thread in threads:
        thread.start()
    barrier.wait()
    while any(thread.is_alive() for thread in threads):
        loop.run()
    loop.run()
    for thread in threads:
        thread.join(LIMIT)
    assert {entry.delivered for mine in entries for entry in mine} == {1}


# --- tasks of a real loop


def test_tasks_that_come_home_while_the_loop_stands_still_are_all_resumed(loops: LoopKind) -> None:
    """One after the other, in the order in which their bodies ended."""
    order: list[int] = []
    homeward: list[int] = []

    async def block(pool: ThreadPoolExecutor, number: int) -> None:
        async with threadpool(pool):
            homeward.append(number)
        order.append(number)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            tasks = [loop.create_task(block(pool, number)) for number in range(20)]
            if not homeward:  # tasks that are not eager
                await asyncio.sleep(0)
            wait_until(lambda: len(homeward) == 20)  # the loop stands still
            await asyncio.wait(tasks)

    loops.run(main)
    assert order == list(range(20))


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_out_of_one_task_loses_none_that_came_home_with_it(
    interrupt: type[BaseException],
) -> None:
    """The loop stops. Run again, it resumes the others."""
    gate = Gate()

    async def block(number: int) -> int:
        async with threadpool(pool):
            gate.stop_here()
        if number == 2:
            raise interrupt
        return number

    async def main() -> None:
        await until(gate.reached.is_set)
        gate.open()
        home = getattr(loop, LOOP)
        wait_until(lambda: len(home._queue) == 8)  # the loop stands still until all are there
        await asyncio.wait(tasks)

    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(8) as pool:
        tasks = [loop.create_task(block(number)) for number in range(8)]
        main_task = loop.create_task(main())
        with pytest.raises(interrupt):
            loop.run_until_complete(main_task)
        assert not main_task.done()
        loop.run_until_complete(asyncio.wait({main_task}, timeout=LIMIT))
        assert all(task.done() for task in tasks)
        assert type(tasks[2].exception()) is interrupt
        values = [task.result() for task in tasks if task is not tasks[2]]
    assert values == [0, 1, 3, 4, 5, 6, 7]
    loop.close()


def test_a_wake_up_that_raises_in_the_worker_is_a_warning_and_leaves_both_usable(
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop says that it is closed; the next block of this loop is undisturbed."""
    gate = Gate()

    async def block() -> str:
        async with threadpool(pool):
            gate.stop_here()
        return "value"

    def closed(*_: object, **__: object) -> None:
        raise RuntimeError("Event loop is closed")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lost = loop.create_task(block())
        await until(gate.reached.is_set)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", closed)
            patch.setattr(loop, "is_closed", lambda: True)
            gate.open()
            assert pool.submit(str, 1).result(LIMIT) == "1"  # the worker has left the block
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert __file__ in caplog.records[0].getMessage()
        assert not lost.done()
        assert await loop.create_task(block()) == "value"

    with ThreadPoolExecutor(1) as pool:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()


class KeepingExecutor(Executor):
    """Keeps the futures of its jobs."""

    def __init__(self, pool: Executor) -> None:
        self.pool = pool
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self.pool.submit(fn, *args, **kwargs)
        self.futures.append(future)
        return future


def test_a_wake_up_that_raises_although_the_loop_is_open_is_told_and_made_up_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The future of the job has the error; the next task that comes home brings the first one."""
    gate = Gate()

    async def block(executor: Executor, gate: Gate) -> str:
        async with threadpool(executor):
            gate.stop_here()
        return "value"

    def broken(*_: object, **__: object) -> None:
        raise OSError("the loop cannot be woken")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        executor = KeepingExecutor(pool)
        first = loop.create_task(block(executor, gate))
        await until(gate.reached.is_set)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "call_soon_threadsafe", broken)
            gate.open()
            assert isinstance(executor.futures[0].exception(LIMIT), OSError)
        assert not first.done()
        undisturbed = Gate()
        undisturbed.open()
        second = loop.create_task(block(executor, undisturbed))
        assert await asyncio.wait_for(asyncio.gather(first, second), LIMIT) == ["value", "value"]

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(main())


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
    """What drives the coroutine is not a Task, and its wake-up is a plain function."""

    async def main() -> str:
        with pytest.raises(AttributeError, match="__self__"):
            async with threadpool(pool):
                raise AssertionError("the body ran")
        return "went on"

    class Driver:
        """Steps a coroutine as a Task does, in the name of the task that runs *drive*."""

        def __init__(self, coro: Coroutine[Any, Any, Any]) -> None:
            self.coro = coro
            self.ended = asyncio.get_running_loop().create_future()

        def step(self, *_: object) -> None:
            try:
                suspension = self.coro.send(None)
            except StopIteration as stop:
                self.ended.set_result(stop.value)
                return
            assert isinstance(suspension, AsyncioSuspension)
            suspension._asyncio_future_blocking = False

            def wakeup(future: Any) -> None:
                future.result()
                self.step()

            suspension.add_done_callback(wakeup)

    async def drive() -> str:
        driver = Driver(main())
        driver.step()
        result: str = await driver.ended
        return result

    with ThreadPoolExecutor(1) as pool:
        assert asyncio.run(asyncio.wait_for(drive(), LIMIT)) == "went on"


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
        gate = Gate()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(gate.stop_here)
            task = asyncio.get_running_loop().create_task(queued(pool))
            await asyncio.sleep(0)
            task.cancel()
            steps.append("step ends")
            await until(task.done)
            gate.open()

    loops.run(main)
    assert steps == ["step ends", "resumed"]
