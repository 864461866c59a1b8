"""``on_cancel()``: what a body waits for is told of the cancellation, at once and once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Executor
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
from helpers.calls import KINDS, Kind, OopsError
from helpers.cancelling import error_of, run_and_cancel_at
from helpers.loops import LoopKind, on_every_loop
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

    def __call__(self) -> str:
        self.begun.set()
        assert self._stopped.wait(LIMIT), "nobody told it to stop"
        return "stopped"

    def stop(self) -> None:
        self.told_at = time.perf_counter()
        self.told.append(here())
        self._stopped.set()

    def assert_was_told_once(self, *others: int) -> None:
        """In a thread that is none of *others*."""
        assert len(self.told) == 1
        assert self.told[0] not in others


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
                assert blocking() == "stopped"

    task = asyncio.get_running_loop().create_task(block())
    await until(blocking.begun.is_set)
    task.cancel("first")
    task.cancel("second")
    await until(task.done)
    assert error_of(task).args == ("first",)
    blocking.assert_was_told_once(*threads)


def test_beside_a_thousand_tasks_the_callback_comes_within_20_milliseconds(
    executor: Executor,
) -> None:
    """The best of five, for other programs use the processor, too."""

    async def neighbour() -> None:
        while True:
            await asyncio.sleep(0.01)

    async def block(blocking: Blocking) -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                blocking()

    async def seconds() -> float:
        blocking = Blocking()
        task = asyncio.get_running_loop().create_task(block(blocking))
        await until(blocking.begun.is_set)
        asked_at = time.perf_counter()
        task.cancel()
        await until(task.done)
        return blocking.told_at - asked_at

    async def main() -> None:
        neighbours = [asyncio.get_running_loop().create_task(neighbour()) for _ in range(1000)]
        await turns(3)
        assert min([await seconds() for _ in range(5)]) < 0.02
        for task in neighbours:
            task.cancel()
        await asyncio.wait(neighbours)

    asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_call_that_blocks_ends_when_its_future_is_cancelled(
    loops: LoopKind, executor: Executor, kind: Kind
) -> None:
    blocking, threads = Blocking(), [here()]
    ended = threading.Event()

    def work() -> None:
        threads.append(here())
        with on_cancel(blocking.stop):
            blocking()
        ended.set()

    async def main() -> None:
        call = kind.start(executor, work)
        await until(blocking.begun.is_set)
        call.cancel(*kind.message)
        await until(ended.is_set)
        await until(call.done)
        assert call.cancelled()

    loops.run(main)
    blocking.assert_was_told_once(*threads)


@on_every_loop
async def test_a_task_that_is_away_from_the_body_is_cancelled_there(executor: Executor) -> None:
    """In a block of another executor, and in a call to the loop: what is open below is told."""
    for away in ("block", "call"):
        blocking = Blocking()

        async def block(away: str = away, blocking: Blocking = blocking) -> None:
            async with threadpool(executor):
                with on_cancel(blocking.stop):
                    if away == "block":
                        async with threadpool(other):
                            blocking()
                    else:
                        blocking.begun.set()
                        exec_in_eventloop(asyncio.Event().wait)

        with WorkerPool(1) as other:
            task = asyncio.get_running_loop().create_task(block())
            await until(blocking.begun.is_set)
            await turns()
            task.cancel()
            await until(task.done)
        assert task.cancelled()
        blocking.assert_was_told_once()


@on_every_loop
async def test_a_cancellation_that_left_a_loop_part_and_was_swallowed_is_told(
    executor: Executor,
) -> None:
    """The exit of the block raises it again, so what blocks meanwhile need not go on."""
    blocking, gate = Blocking(), Gate()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                try:
                    async with eventloop():
                        gate.reached.set()
                        await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
                blocking()

    task = asyncio.get_running_loop().create_task(block())
    await until(gate.reached.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()
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
                    with contextlib.suppress(asyncio.CancelledError):
                        await inner()
                assert not calls

    with busy(one) if within == "queued" else contextlib.nullcontext():
        task = asyncio.get_running_loop().create_task(block())
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

    task = asyncio.get_running_loop().create_task(block())
    await until(blocking.begun.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    assert order == ["inner", "inner ends", "outer"]


@on_every_loop
async def test_a_cancellation_while_the_task_comes_back_from_a_loop_part_is_told(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 the task leaves the loop part, 2 it is cancelled, 3 its worker goes on with the body."""
    blocking = Blocking()
    resume = WorkerSuspension.resume

    def cancel_first(suspension: WorkerSuspension) -> object:
        monkeypatch.undo()
        task.cancel()
        return resume(suspension)

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                with contextlib.suppress(asyncio.CancelledError):
                    async with eventloop():
                        monkeypatch.setattr(WorkerSuspension, "resume", cancel_first)
                blocking()

    task = asyncio.get_running_loop().create_task(block())
    await until(task.done)
    assert task.cancelled()
    blocking.assert_was_told_once()


@on_every_loop
async def test_a_signal_handler_that_cancels_as_a_loop_part_begins_is_told_when_it_leaves_that(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As asyncio's handler of Ctrl+C does, in the step in which the task arrives on the loop."""
    blocking = Blocking()
    key_of = _traps.key_of

    def cancel_first(frame: Any) -> Any:
        monkeypatch.undo()
        task.cancel()
        return key_of(frame)

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                monkeypatch.setattr(_traps, "key_of", cancel_first)
                with contextlib.suppress(asyncio.CancelledError):
                    async with eventloop():
                        await asyncio.sleep(LIMIT)
                blocking()

    task = asyncio.get_running_loop().create_task(block())
    await until(task.done)
    assert task.cancelled()
    blocking.assert_was_told_once()


@on_every_loop
async def test_left_after_its_block_it_is_told_of_a_cancellation_in_the_next_block(
    executor: Executor, one: Executor
) -> None:
    """Both blocks are in one loop part of a body around them."""
    blocking, watch = Blocking(), contextlib.ExitStack()

    async def block() -> None:
        async with threadpool(executor):
            async with eventloop():
                async with threadpool(one):
                    watch.enter_context(on_cancel(blocking.stop))
                async with threadpool(one):
                    with watch:
                        blocking()

    task = asyncio.get_running_loop().create_task(block())
    await until(blocking.begun.is_set)
    task.cancel()
    await until(task.done)
    assert task.cancelled()
    blocking.assert_was_told_once()


@pytest.mark.parametrize("cancelled", ["on its way", "in the body"])
@on_every_loop
async def test_of_a_generator_the_task_that_goes_on_with_it_is_told(
    executor: Executor, one: Executor, monkeypatch: pytest.MonkeyPatch, cancelled: str
) -> None:
    """And not the task that began it, which is cancelled in a block of its own meanwhile."""
    blocking, own = Blocking(), Blocking()
    has_begun, goes_on = asyncio.Event(), asyncio.Event()
    resume = WorkerSuspension.resume

    def cancel_first(suspension: WorkerSuspension) -> object:
        monkeypatch.undo()
        second.cancel()
        return resume(suspension)

    async def items() -> AsyncIterator[int]:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                with contextlib.suppress(asyncio.CancelledError):
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
            monkeypatch.setattr(WorkerSuspension, "resume", cancel_first)
        await anext(source, None)

    source, loop = items(), asyncio.get_running_loop()
    first = loop.create_task(begin())
    await has_begun.wait()
    second = loop.create_task(go_on())
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


def test_cancelled_before_it_is_entered_it_calls_back_before_its_body(
    loops: LoopKind, executor: Executor
) -> None:
    gate, order = Gate(), []
    threads: list[int] = []

    def note() -> None:
        threads.append(here())
        order.append("callback")

    async def block() -> None:
        async with threadpool(executor):
            threads.append(here())
            gate.stop_here()
            with on_cancel(note):
                order.append("body")

    assert run_and_cancel_at(gate, loops, block, "enough").cancelled()
    assert order == ["callback", "body"]
    assert len(set(threads)) == 2


@on_every_loop
async def test_one_that_is_not_open_when_the_task_is_cancelled_calls_nobody(
    executor: Executor,
) -> None:
    blocking, gate = Blocking(), Gate()

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(blocking.stop):
                pass
            gate.stop_here()

    task = asyncio.get_running_loop().create_task(block())
    await until(gate.reached.is_set)
    task.cancel()
    gate.open()
    await until(task.done)
    assert task.cancelled()
    assert not blocking.told


def test_it_waits_for_a_callback_that_was_called(loops: LoopKind, executor: Executor) -> None:
    """The body has ended by itself meanwhile; what the callback works on is still needed."""
    gate, order = Gate(), []
    slow = Gate()

    def call_back() -> None:
        slow.stop_here()
        order.append("callback")

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(call_back):
                gate.stop_here()
                assert slow.reached.wait(LIMIT)
                threading.Timer(0.05, slow.open).start()
            order.append("with")

    assert run_and_cancel_at(gate, loops, block, "enough").cancelled()
    assert order == ["callback", "with"]


def test_an_error_of_the_callback_is_logged_and_changes_nothing(
    loops: LoopKind, executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    gate, called = Gate(), threading.Event()

    def call_back() -> None:
        called.set()
        raise OopsError("no connection")

    async def block() -> None:
        async with threadpool(executor):
            with on_cancel(call_back):
                gate.stop_here()
                assert called.wait(LIMIT)

    assert error_of(run_and_cancel_at(gate, loops, block, "enough")).args == ("enough",)
    (record,) = [r for r in caplog.records if r.name == "threadhop"]
    assert record.levelno >= logging.ERROR
    assert "call_back" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], OopsError)


def test_the_callback_gets_its_arguments_and_sees_the_context_variables(executor: Executor) -> None:
    var: ContextVar[str] = ContextVar("var", default="unset")
    seen: list[object] = []
    gate, called = Gate(), threading.Event()

    def call_back(*args: object) -> None:
        seen.append((args, var.get()))
        var.set("of the callback")
        called.set()

    async def main() -> None:
        async def block() -> None:
            async with threadpool(executor):
                var.set("of the body")
                with on_cancel(call_back, 1, "two"):
                    gate.stop_here()
                    assert called.wait(LIMIT)
                seen.append(var.get())

        task = asyncio.create_task(block())
        await until(gate.reached.is_set)
        task.cancel()
        gate.open()
        await until(task.done)

    asyncio.run(main())
    assert seen == [((1, "two"), "of the body"), "of the body"]


def test_on_the_loop_it_is_refused_and_elsewhere_it_does_nothing(executor: Executor) -> None:
    """In a loop part, in a coroutine, in a loop that runs in a body; and in a plain thread."""

    async def refused() -> None:
        with pytest.raises(RuntimeError, match=r"threadpool\(\)"), on_cancel(print):
            raise AssertionError("it was entered")

    async def main() -> None:
        await refused()
        async with threadpool(executor):
            async with eventloop():
                await refused()
            asyncio.run(refused())

    asyncio.run(main())
    with on_cancel(print):
        pass


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


def test_ctrl_c_before_the_thread_begins_leaves_the_call_to_the_end_of_the_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the task is cancelled in the main thread, 2 Ctrl+C there, 3 the ``with`` ends."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    stage = Stage()
    stage.watch.begin()
    with monkeypatch.context() as patch:
        patch.setattr(_on_cancel, "start_new_thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stage.token.request(())
    stage.watch.end()
    assert stage.calls == 1


def test_where_no_thread_can_start_now_the_cancel_does_not_fail(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And where none can start at the end, either, that is logged."""

    def cannot(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    for recovers in (True, False):
        stage = Stage()
        stage.watch.begin()
        with monkeypatch.context() as patch:
            patch.setattr(_on_cancel, "start_new_thread", cannot)
            if not recovers:
                patch.setattr(threading.Thread, "start", cannot)
            stage.token.request(())
            stage.watch.end()
        assert stage.calls == recovers
    (record,) = caplog.records
    assert "_note" in record.getMessage()


def test_a_cancel_that_has_looked_up_the_listener_comes_late_to_a_with_that_has_ended() -> None:
    stage = Stage()
    stage.watch.begin()
    (listener,) = stage.token._listeners
    stage.watch.end()
    listener(())
    assert stage.calls == 0
    assert threading.active_count() == 1


def test_a_cancel_between_the_end_s_two_looks_is_called_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the end no longer listens, 2 a cancel that has the listener requests, 3 the end looks."""
    stage = Stage()
    stage.watch.begin()
    (listener,) = stage.token._listeners
    plain = CancelToken.unregister

    def unregister(token: CancelToken, other: Any) -> None:
        plain(token, other)
        listener(())

    monkeypatch.setattr(CancelToken, "unregister", unregister)
    stage.watch.end()
    assert stage.calls == 1
    monkeypatch.undo()
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
