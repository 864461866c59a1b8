"""``on_cancel()``: what a body waits for is told of the cancellation, at once and once."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Executor
from contextlib import ExitStack, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from helpers.calls import KINDS, Kind, OopsError
from helpers.cancelling import error_of, run_and_cancel_at
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import start
from helpers.steps import LIMIT, Gate, busy, turns, until

from threadhop import (
    WorkerPool,
    _on_cancel,
    _traps,
    eventloop,
    exec_in_eventloop,
    hops,
    on_cancel,
    threadpool,
)
from threadhop._cancel_token import CancelToken
from threadhop._strand import WorkerSuspension

here = threading.get_ident


@pytest.fixture
def executor_class() -> type[WorkerPool]:
    """The kind of pool makes no difference."""
    return WorkerPool


class Blocking:
    """A call that blocks until it is told to stop, as ``recv`` on a socket does.

    Attributes:
        begun: Whether it blocks.
        told: In which threads it was told.
        told_at: When, by ``time.perf_counter()``.
    """

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.told: list[int] = []
        self.told_at = 0.0
        self._stopped = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self._stopped.wait(LIMIT), "nobody told it to stop"

    def stop(self) -> None:
        self.told_at = time.perf_counter()
        self.told.append(here())
        self._stopped.set()

    def assert_was_told_once(self, *others: int) -> None:
        """In a thread that is none of *others*."""
        assert len(self.told) == 1
        assert self.told[0] not in others


async def cancel(
    body: Callable[[], Coroutine[Any, Any, None]],
    when: Callable[[], object],
    *messages: str,
) -> asyncio.CancelledError:
    """Run *body* in a task, cancel it *when* it is so, and return the error with which it ends."""
    task = start(body())
    await until(when)
    for message in messages or (None,):
        task.cancel(message)
    await until(task.done)
    return error_of(task)


@on_every_loop
async def test_a_body_that_blocks_ends_at_once_when_its_task_is_cancelled(
    executor: Executor,
) -> None:
    """The callback runs once, however often the task is cancelled, in a thread of its own."""
    blocking, threads = Blocking(), [here()]

    async def block() -> None:
        async with threadpool(executor):
            threads.append(here())
            with on_cancel(blocking.stop):
                blocking()

    assert (await cancel(block, blocking.begun.is_set, "first", "second")).args == ("first",)
    blocking.assert_was_told_once(*threads)


@on_one_loop
async def test_beside_a_thousand_tasks_the_callback_comes_within_20_milliseconds(
    executor: Executor,
) -> None:
    """Once in many times, for other programs use the processor, too."""

    async def neighbour() -> None:
        while True:
            await asyncio.sleep(0.01)

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                blocking()

    neighbours = [start(neighbour()) for _ in range(1000)]
    await turns(3)
    delays = [1.0]
    deadline = time.monotonic() + LIMIT
    while min(delays) >= 0.02 and time.monotonic() < deadline:
        blocking = Blocking()
        task = start(block())
        await until(blocking.begun.is_set)
        asked_at = time.perf_counter()
        task.cancel()
        await until(task.done)
        delays.append(blocking.told_at - asked_at)
    assert min(delays) < 0.02, delays
    for task in neighbours:
        task.cancel()
    await asyncio.wait(neighbours)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@on_one_loop
async def test_a_call_that_blocks_ends_when_its_future_is_cancelled(
    executor: Executor, kind: Kind
) -> None:
    blocking, threads = Blocking(), [here()]
    ended = threading.Event()

    def work() -> None:
        threads.append(here())
        with on_cancel(blocking.stop):
            blocking()
        ended.set()

    call = kind.start(executor, work)
    await until(blocking.begun.is_set)
    call.cancel(*kind.message)
    await until(ended.is_set)
    await until(call.done)
    assert call.cancelled()
    blocking.assert_was_told_once(*threads)


@pytest.mark.parametrize("away", ["block", "call"])
@on_every_loop
async def test_a_task_that_is_away_from_the_body_is_cancelled_there(
    executor: Executor, one: Executor, away: str
) -> None:
    """In a block of another executor, and in a call to the loop: what is open below is told."""
    blocking = Blocking()

    async def wait() -> None:
        blocking.begun.set()
        await asyncio.Event().wait()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                if away == "block":
                    async with threadpool(one):
                        blocking()
                else:
                    exec_in_eventloop(wait)

    await cancel(block, blocking.begun.is_set)
    blocking.assert_was_told_once()


@pytest.mark.parametrize("within", ["queued", "running", "shut down"])
@on_every_loop
async def test_a_cancellation_that_a_loop_part_swallows_is_not_told(
    executor: Executor, one: Executor, within: str
) -> None:
    """That of a block in there: it waits for a worker, runs, or could not even begin."""
    calls: list[int] = []
    gate = Gate()

    async def inner() -> None:
        async with threadpool(one):
            gate.stop_here()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(calls.append, 1):
                async with eventloop():
                    if within == "shut down":
                        one.shutdown()
                        task.cancel()
                    with suppress(asyncio.CancelledError):
                        await inner()
                assert not calls

    with busy(one) if within == "queued" else nullcontext():
        task = start(block())
        if within == "running":
            await until(gate.reached.is_set)
        elif within == "queued":
            await until(lambda: any(hop.what == "block" and hop.executor is one for hop in hops()))
        if within != "shut down":
            task.cancel()
        gate.open()
        await until(task.done)
    assert task.exception() is None
    assert not calls


@on_every_loop
async def test_a_cancellation_of_a_block_in_a_loop_part_is_told_when_it_leaves_that(
    executor: Executor, one: Executor
) -> None:
    """What is open within that block is told at once."""
    blocking, order = Blocking(), []

    async def inner() -> None:
        async with threadpool(one):
            with on_cancel(order.append, "inner"), on_cancel(blocking.stop):
                blocking()
            order.append("inner ends")

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(order.append, "outer"):
                async with eventloop():
                    await inner()

    await cancel(block, blocking.begun.is_set)
    assert order == ["inner", "inner ends", "outer"]


def have_cancelled_before(patch: pytest.MonkeyPatch, owner: Any, name: str, task: Any) -> None:
    """The next call of that function of *owner* first cancels *task*, as a signal handler may."""
    plain = getattr(owner, name)

    def cancel_first(argument: Any) -> Any:
        patch.undo()
        task().cancel()
        return plain(argument)

    patch.setattr(owner, name, cancel_first)


@pytest.mark.parametrize("moment", ["as it begins", "while it waits", "on the way back"])
@on_every_loop
async def test_a_cancellation_in_a_loop_part_that_the_body_swallows_is_told(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The exit of the block raises it again, so what blocks meanwhile need not go on.

    It may come by a signal handler, as asyncio's of Ctrl+C, in the step in which the task arrives;
    or when the task has left the part, before its worker goes on with the body.
    """
    blocking = Blocking()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                if moment == "as it begins":
                    have_cancelled_before(monkeypatch, _traps, "key_of", lambda: task)
                with suppress(asyncio.CancelledError):
                    async with eventloop():
                        if moment == "while it waits":
                            asyncio.get_running_loop().call_soon(task.cancel)
                        if moment != "on the way back":
                            await asyncio.sleep(LIMIT)
                        have_cancelled_before(monkeypatch, WorkerSuspension, "resume", lambda: task)
                blocking()

    task = start(block())
    await until(task.done)
    assert task.cancelled()
    blocking.assert_was_told_once()


@on_every_loop
async def test_left_after_its_block_it_is_told_of_a_cancellation_in_the_next_block(
    executor: Executor, one: Executor
) -> None:
    """Both blocks are in one loop part of a body around them."""
    blocking, watch = Blocking(), ExitStack()

    async def block() -> None:
        async with threadpool(executor):
            async with eventloop():
                async with threadpool(one):
                    watch.enter_context(on_cancel(blocking.stop))
                async with threadpool(one):
                    with watch:
                        blocking()

    await cancel(block, blocking.begun.is_set)
    blocking.assert_was_told_once()


@pytest.mark.parametrize("cancelled", ["on its way", "in the body"])
@on_every_loop
async def test_of_a_generator_the_task_that_goes_on_with_it_is_told(
    executor: Executor, one: Executor, monkeypatch: pytest.MonkeyPatch, cancelled: str
) -> None:
    """And not the task that began it, which is cancelled in a block of its own meanwhile."""
    blocking, own = Blocking(), Blocking()
    has_begun, goes_on = asyncio.Event(), asyncio.Event()

    async def items() -> AsyncIterator[int]:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                with suppress(asyncio.CancelledError):
                    async with eventloop():
                        yield 1
                blocking()

    async def begin() -> None:
        await anext(source)
        has_begun.set()
        await goes_on.wait()
        async with threadpool(one):
            with on_cancel(own.stop):
                own()

    async def go_on() -> None:
        if cancelled == "on its way":
            have_cancelled_before(monkeypatch, WorkerSuspension, "resume", lambda: second)
        await anext(source, None)

    source = items()
    first = start(begin())
    await has_begun.wait()
    second = start(go_on())
    if cancelled == "in the body":
        await until(blocking.begun.is_set)
        goes_on.set()
        await until(own.begun.is_set)
        first.cancel()
        await until(first.done)
        assert not blocking.told
        second.cancel()
    await until(second.done)
    first.cancel()
    await until(first.done)
    assert second.cancelled()
    blocking.assert_was_told_once()


@on_every_loop
async def test_one_of_a_suspended_generator_is_not_told_as_its_consumer_leaves_a_part_of_its_own(
    executor: Executor, one: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 a consumer begins the generator in a part, 2 leaves that, 3 is cancelled on its way.

    The generator goes on in another task, which nobody cancels.
    """
    calls: list[int] = []
    resume = WorkerSuspension.resume

    def cancel_first(suspension: WorkerSuspension) -> object:
        monkeypatch.undo()
        task.cancel()
        return resume(suspension)

    async def items() -> AsyncIterator[int]:
        async with threadpool(one):
            with on_cancel(calls.append, 1):
                async with eventloop():
                    yield 1

    async def consume() -> None:
        async with threadpool(executor):
            async with eventloop():
                await anext(source)
                monkeypatch.setattr(WorkerSuspension, "resume", cancel_first)

    source, loop = items(), asyncio.get_running_loop()
    task = loop.create_task(consume())
    await until(task.done)
    assert task.cancelled()
    assert await anext(source, None) is None
    assert not calls


@on_every_loop
async def test_left_after_its_block_it_goes_to_the_task_that_goes_on_with_the_generator(
    executor: Executor,
) -> None:
    """Not one that the first task has open on the same worker."""
    blocking, own = Blocking(), Blocking()

    async def items() -> AsyncIterator[int]:
        async with threadpool(executor):
            with ExitStack() as stack:
                async with threadpool(executor):
                    stack.enter_context(on_cancel(blocking.stop))
                async with eventloop():
                    yield 1
                blocking()

    async def begin() -> None:
        async with threadpool(executor):
            with on_cancel(own.stop):
                async with eventloop():
                    await anext(source)
                    task = loop.create_task(go_on())
                    await asyncio.wait({task, loop.create_task(cancel(task))})

    async def go_on() -> None:
        with suppress(asyncio.CancelledError):
            await anext(source, None)

    async def cancel(task: asyncio.Task[None]) -> None:
        await until(blocking.begun.is_set)
        task.cancel()

    source, loop = items(), asyncio.get_running_loop()
    await begin()
    blocking.assert_was_told_once()
    assert not own.told


def test_cancelled_before_it_is_entered_it_calls_back_before_its_body(
    loops: LoopKind, executor: Executor
) -> None:
    """In a thread of its own. One that is not open then calls nobody."""
    gate, order = Gate(), []
    threads: list[int] = []

    def note() -> None:
        threads.append(here())
        order.append("callback")

    async def block() -> None:
        async with threadpool(executor):
            threads.append(here())
            with on_cancel(order.append, "of one that has ended"):
                pass
            gate.stop_here()
            with on_cancel(note):
                order.append("body")

    assert run_and_cancel_at(gate, loops, block, "enough").cancelled()
    assert order == ["callback", "body"]
    assert len(set(threads)) == 2


def test_it_waits_for_its_callback_which_gets_the_arguments_and_the_context_variables(
    loops: LoopKind, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """The body has ended by itself meanwhile. An error of it is logged, and changes nothing."""
    var: ContextVar[str] = ContextVar("var", default="unset")
    seen: list[object] = []
    gate, slow = Gate(), Gate()

    def call_back(*args: object) -> None:
        seen.append((args, var.get()))
        var.set("of the callback")
        slow.stop_here()
        seen.append("end")
        raise OopsError("no connection")

    async def block() -> None:
        async with threadpool(executor):
            var.set("of the body")
            with on_cancel(call_back, 1, "two"):
                gate.stop_here()
                assert slow.reached.wait(LIMIT)
                threading.Timer(0.05, slow.open).start()
            seen.append(var.get())

    assert error_of(run_and_cancel_at(gate, loops, block, "enough")).args == ("enough",)
    assert seen == [((1, "two"), "of the body"), "end", "of the body"]
    (record,) = [record for record in caplog.records if record.name == "threadhop"]
    assert record.levelno >= logging.ERROR
    assert "call_back" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OopsError)


@on_one_loop
async def test_on_the_loop_it_is_refused_and_elsewhere_it_does_nothing(executor: Executor) -> None:
    """In a loop part, in a coroutine, in a loop that runs in a body; and in a plain thread."""

    async def refused() -> None:
        with pytest.raises(RuntimeError, match=r"threadpool\(\)"), on_cancel(print):
            raise AssertionError("it was entered")

    await refused()
    async with threadpool(executor):
        async with eventloop():
            await refused()
        asyncio.run(refused())
    executor.submit(on_cancel(print).__enter__).result(LIMIT)


def test_bad_input_is_refused_at_the_call_and_an_object_that_is_open_at_the_entry() -> None:
    with pytest.raises(TypeError, match=r"on_cancel\(\) takes a function, not 1"):
        on_cancel(1)  # type: ignore[arg-type]
    both = on_cancel(print)
    with both, pytest.raises(RuntimeError, match="entered already"), both:
        raise AssertionError("it was entered")
    with both:  # One after another it may be used again.
        pass


# --- interleavings


class Stage:
    """One watch of a call, the call's token, and a callback that counts."""

    def __init__(self) -> None:
        self.token = CancelToken()
        self.calls = 0
        self.watch = _on_cancel._Watch(partial(self._note), self)

    def _note(self) -> None:
        self.calls += 1


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError("can't start new thread")])
@pytest.mark.parametrize("recovers", [True, False])
def test_a_thread_that_does_not_begin_leaves_the_call_to_the_end_of_the_with(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Any, recovers: bool
) -> None:
    """1 the task is cancelled, 2 Ctrl+C, or no thread can start, 3 the ``with`` ends.

    The cancel does not fail. Where no thread can start at the end, either, that is logged.
    """

    def fail(*_: object) -> None:
        raise failure

    stage = Stage()
    stage.watch.begin()
    with monkeypatch.context() as patch:
        patch.setattr(_on_cancel, "start_new_thread", fail)
        with pytest.raises(KeyboardInterrupt) if failure is KeyboardInterrupt else nullcontext():
            stage.token.request(())
        if not recovers:
            patch.setattr(threading.Thread, "start", fail)
        stage.watch.end()
    logged = [record.getMessage() for record in caplog.records]
    if recovers:
        assert (stage.calls, logged) == (1, [])
    else:
        assert stage.calls == 0
        assert "_note" in "".join(logged)


def test_a_cancel_that_has_looked_up_the_listener_comes_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It requests when the end no longer listens, but has yet to look; or when that is over."""
    late, between = Stage(), Stage()
    late.watch.begin()
    (listener,) = late.token._listeners
    late.watch.end()
    listener(())
    assert late.calls == 0
    assert threading.active_count() == 1

    between.watch.begin()
    (listener,) = between.token._listeners
    plain = CancelToken.unregister

    def unregister(token: CancelToken, other: Any) -> None:
        plain(token, other)
        listener(())

    monkeypatch.setattr(CancelToken, "unregister", unregister)
    between.watch.end()
    between.token.request(())
    assert between.calls == 1


def test_a_cancel_that_the_body_sees_before_it_is_told_is_called_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 a cancel is noted, 2 the body checks, and raises: the ``with`` ends, 3 it is told."""
    stage = Stage()
    stage.watch.begin()
    plain = CancelToken.tell

    def tell(token: CancelToken, why: Any) -> None:
        assert token.why is not None
        stage.watch.end()
        assert stage.calls == 1
        plain(token, why)

    monkeypatch.setattr(CancelToken, "tell", tell)
    stage.token.request(())
    assert stage.calls == 1


class LateRequest(_on_cancel._Watch):
    """The first look at whether a cancellation has come is followed by one at once."""

    looks = 0
    _requested = False

    @property
    def _is_requested(self) -> bool:
        answer, self.looks = self._requested, self.looks + 1
        if self.looks == 2:  # (The first look is that of ``begin``.)
            self(())
            while self.claimed is None:
                time.sleep(0.001)
        return answer

    @_is_requested.setter
    def _is_requested(self, value: bool) -> None:
        self._requested = value


def test_a_cancel_right_after_the_look_of_the_end_is_waited_for() -> None:
    """1 the end sees no request, 2 a cancel comes and its thread begins, 3 the end goes on."""
    slow = Gate()
    watch = LateRequest(partial(slow.stop_here), Stage())
    watch.begin()
    threading.Timer(0.05, slow.open).start()
    watch.end()
    assert slow.is_open()
