"""The way to the loop and back, with somebody else between two steps of it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from _loops import LoopKind
from _steps import LIMIT, Gate, HeldExecutor, until, wait_until

from threadhop import check_cancelled, eventloop, exec_in_eventloop, threadpool
from threadhop._backends import _loop_call
from threadhop._backends._loop_call import LoopCall
from threadhop._seat import Seat

here = threading.get_ident

#: How often those race whose order cannot be forced.
ROUNDS = 30


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


async def suspend() -> None:
    await asyncio.sleep(0)


def lose_quietly(task: asyncio.Task[Any]) -> None:
    """Its loop is closed. asyncio would say so when it is collected, perhaps in a later test."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def wait_until_posted() -> None:
    """In the loop thread, which stands still: until one task is on its way to it."""
    home = asyncio.get_running_loop()._threadhop_home  # type: ignore[attr-defined]
    wait_until(lambda: len(home._ready) == 1)


@pytest.fixture
def one(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1, thread_name_prefix="one") as pool:
        yield pool


# --- a cancellation on the way


def test_cancelled_between_posting_and_arrival_at_the_end_of_a_block_after_a_part(
    loops: LoopKind, one: Executor
) -> None:
    """1 the body ends and posts, 2 cancel, 3 the loop resumes the task: the exit raises."""
    gate = Gate()

    async def block() -> str:
        try:
            async with threadpool(one):
                async with eventloop():
                    await suspend()
                gate.stop_here()
        except asyncio.CancelledError as error:
            assert error.args == ("2",)
            return "raised at the exit"
        return "nothing was raised"

    async def main() -> None:
        task = start(block())
        await until(gate.reached.is_set)
        gate.open()
        wait_until_posted()
        task.cancel("2")
        assert await task == "raised at the exit"

    loops.run(main)


def test_a_cancellation_that_the_worker_sends_ahead_of_itself_is_raised_in_the_worker(
    loops: LoopKind, one: Executor
) -> None:
    """1 the worker asks the loop to cancel its task, 2 it posts, 3 cancel, 4 arrival."""
    raised: list[int] = []

    async def block(tasks: list[asyncio.Task[Any]], gate: Gate) -> None:
        loop = asyncio.get_running_loop()
        async with threadpool(one):
            gate.stop_here()
            worker = here()
            loop.call_soon_threadsafe(tasks[0].cancel, "1")
            try:
                async with eventloop():
                    await suspend()
                    raise AssertionError("the part went on")
            except asyncio.CancelledError:
                assert here() == worker
                raised.append(worker)
                raise

    async def main() -> None:
        for _ in range(10):
            gate = Gate()
            tasks: list[asyncio.Task[Any]] = []
            tasks.append(start(block(tasks, gate)))
            gate.open()
            await until(tasks[0].done)
            assert tasks[0].cancelled()

    loops.run(main)
    assert len(raised) == 10


@pytest.mark.parametrize("when", ["before", "after"])
def test_cancelled_around_the_moment_at_which_the_gate_opens(
    loops: LoopKind, one: Executor, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """1 the part ends, 2 the gate of the worker opens, cancelled just before or just after it.

    The body comes to its end on the worker, and the exit raises.
    """
    tasks: list[asyncio.Task[Any]] = []
    steps: list[str] = []
    open_gate = Seat.open_gate
    resumed = threading.Event()

    def lying_open_gate(seat: Seat) -> bool:
        if when == "before":
            tasks[0].cancel("now")
            return open_gate(seat)
        opened = open_gate(seat)
        assert resumed.wait(LIMIT)  # the worker is faster than this line
        tasks[0].cancel("now")
        return opened

    async def block() -> None:
        try:
            async with threadpool(one):
                worker = here()
                try:
                    async with eventloop():
                        await suspend()
                        monkeypatch.setattr(Seat, "open_gate", lying_open_gate)
                finally:
                    resumed.set()
                    assert here() == worker
                    wait_until(tasks[0].cancelling)
                    steps.append("body ends")
        except asyncio.CancelledError as error:
            assert error.args == ("now",)
            steps.append("exit")
            raise

    async def main() -> None:
        tasks.append(start(block()))
        await until(tasks[0].done)
        monkeypatch.undo()
        assert tasks[0].cancelled()
        assert tasks[0].cancelling() == 1

    loops.run(main)
    assert steps == ["body ends", "exit"]


def test_cancelled_between_the_post_of_a_cancelled_booking_and_its_arrival(
    loops: LoopKind, one: Executor
) -> None:
    """one > loop > held: 1 cancel ends the booking and posts, 2 cancel, 3 arrival. Raised once."""
    steps: list[tuple[str, ...]] = []

    async def block(held: Executor) -> None:
        async with threadpool(one):
            async with eventloop():
                try:
                    async with threadpool(held):
                        raise AssertionError("the body ran")
                except asyncio.CancelledError as error:
                    steps.append(error.args)
                await suspend()
            check_cancelled()

    async def main() -> None:
        with HeldExecutor() as held:
            task = start(block(held))
            await until(lambda: held.jobs)
            task.cancel("1")
            task.cancel("2")
            await task
            held.start()  # the worker that comes too late

    loops.run(main)
    assert steps == [("1",)]


def test_cancelled_while_the_worker_takes_the_inner_job_of_a_part(
    loops: LoopKind, one: Executor
) -> None:
    """Either the inner body never begins, or it runs to its end. The part sees it either way."""
    ran: list[str] = []

    async def block(held: Executor) -> None:
        async with threadpool(one):
            worker = here()
            try:
                async with eventloop():
                    try:
                        async with threadpool(held):
                            ran.append("body")
                    except asyncio.CancelledError:
                        ran.append("part")
                        raise
            finally:
                assert here() == worker

    async def main() -> None:
        for _ in range(ROUNDS):
            ran.clear()
            barrier = threading.Barrier(2, timeout=LIMIT)
            with HeldExecutor() as held:
                task = start(block(held))
                await until(lambda held=held: held.jobs)
                future, job = held.jobs[0]
                held.jobs[0] = (future, lambda job=job, barrier=barrier: (barrier.wait(), job()))
                held.start()
                barrier.wait()
                task.cancel()
                await until(task.done)
                assert task.cancelled()
                assert ran in (["part"], ["body", "part"])

    loops.run(main)


def test_cancelled_anywhere_on_a_hundred_ways_there_and_back(
    loops: LoopKind, one: Executor
) -> None:
    """No order is forced. Each ``finally`` runs on its own thread, and the task ends cancelled."""

    async def block(begun: threading.Event) -> None:
        loop_thread = here()
        async with threadpool(one):
            worker = here()
            try:
                while True:
                    try:
                        begun.set()
                        async with eventloop():
                            try:
                                await suspend()
                            finally:
                                assert here() == loop_thread
                    finally:
                        assert here() == worker
            finally:
                assert here() == worker

    async def main() -> None:
        for number in range(ROUNDS):
            begun = threading.Event()
            task = start(block(begun))
            await until(begun.is_set)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)


# --- a parked worker that gives up


class FakeStrand:
    """A strand of one seat: it goes to the loop once, and comes back, or not."""

    def __init__(self) -> None:
        self.asyncgen_hooks = (None, None)
        self.booking: Seat | None = None
        self.failure: Any = None
        self.drives = 0
        self.lost = 0
        #: Called by the parked worker, which then believes that nobody comes back any more.
        self.looks: Callable[[], object] = lambda: None
        self.away = True

    def drive_in_worker(self, seat: Seat) -> bool:
        self.drives += 1
        if self.drives == 1:
            seat.close_gate(None)
            return True
        return False

    def home_is_closed(self) -> bool:
        return False

    def home_is_gone(self) -> bool:
        self.looks()
        return True

    def left_for_home(self, seat: Seat) -> bool:
        return self.away

    def lose(self) -> None:
        self.lost += 1


class LyingGate:
    """The gate of a seat; runs something before or after a try that does not wait."""

    def __init__(self, gate: Any) -> None:
        self.gate = gate
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if blocking:
            return bool(self.gate.acquire(timeout=timeout))
        before, self.before = self.before, lambda: None
        before()
        taken = bool(self.gate.acquire(False))
        after, self.after = self.after, lambda: None
        after()
        return taken

    def release(self) -> None:
        self.gate.release()


class ParkedSeat:
    """A seat whose worker, this thread, parks at once and then gives up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("threadhop._seat.POLL", 0.001)
        self.strand = FakeStrand()
        self.pool = ThreadPoolExecutor(1)
        self.seat = Seat(self.pool, self.strand, None)  # type: ignore[arg-type]
        self.seat.note_line(sys._getframe())
        self.seat._gate = self.gate = LyingGate(threading.Lock())
        self.gate.gate.acquire()
        self.opened: list[bool] = []

    def open_gate(self) -> None:
        """As the task does in the loop thread; here in the middle of what the worker does."""
        self.opened.append(self.seat.open_gate())

    def run(self) -> None:
        self.seat()


def test_a_gate_that_opens_while_the_worker_looks_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker looks, 2 the gate opens, 3 it gives up, 4 and sees the gate: it goes on."""
    parked = ParkedSeat(monkeypatch)
    parked.strand.looks = parked.open_gate
    parked.run()
    assert parked.opened == [True]
    assert (parked.strand.drives, parked.strand.lost) == (2, 0)


def test_a_gate_that_opens_after_the_worker_has_gone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up and leaves, 2 the gate opens: who opens it keeps the task."""
    parked = ParkedSeat(monkeypatch)
    parked.run()
    parked.open_gate()
    assert parked.opened == [False]
    assert (parked.strand.drives, parked.strand.lost) == (1, 1)


def test_a_gate_that_opens_just_before_the_last_look_goes_to_one_of_the_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up, 2 the gate opens and who opened it takes it back, 3 the last look."""
    parked = ParkedSeat(monkeypatch)
    # Told apart by this: the look of the worker comes first, and within it the one of open_gate.
    parked.gate.before = parked.open_gate
    parked.strand.away = False
    parked.run()
    assert parked.opened == [False]
    assert (parked.strand.drives, parked.strand.lost) == (1, 0)


def test_a_gate_that_the_worker_takes_before_who_opened_it_looks_belongs_to_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up, 2 the gate is released, 3 the worker's last look, 4 the opener's."""
    parked = ParkedSeat(monkeypatch)
    seat, gate = parked.seat, parked.gate

    def release_only() -> None:
        gate.release()

    def look_back() -> None:
        parked.opened.append(not seat._vacant or not gate.gate.acquire(False))

    gate.before = release_only
    gate.after = look_back
    parked.run()
    assert parked.opened == [True]
    assert (parked.strand.drives, parked.strand.lost) == (2, 0)


def test_a_gate_and_a_worker_that_gives_up_at_the_same_moment_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unforced, many times: the worker goes on if and only if the opener was told so."""
    for _ in range(ROUNDS):
        parked = ParkedSeat(monkeypatch)
        parked.strand.away = False
        barrier = threading.Barrier(2, timeout=LIMIT)

        def look_once(parked: ParkedSeat = parked, barrier: threading.Barrier = barrier) -> None:
            parked.strand.looks = lambda: None
            barrier.wait()

        parked.strand.looks = look_once
        worker = threading.Thread(target=parked.run)
        worker.start()
        barrier.wait()
        parked.open_gate()
        worker.join(LIMIT)
        assert not worker.is_alive()
        assert parked.strand.drives == (2 if parked.opened == [True] else 1)


# --- exec_in_eventloop: when the cancellation comes


class Call:
    """A task whose body makes one call; *func* notes that it was called."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.gate = Gate()
        self.steps: list[str] = []
        self.task: asyncio.Task[Any]

    def func(self) -> Any:
        self.steps.append("called")
        return "value"

    async def block(self) -> None:
        async with threadpool(self.executor):
            self.gate.stop_here()
            try:
                self.steps.append(exec_in_eventloop(self.func))
            except asyncio.CancelledError as error:
                assert error.args == ("stop",)
                self.steps.append("raised")
                raise
            self.steps.append("body ends")

    async def begin(self) -> None:
        self.task = start(self.block())
        await until(self.gate.reached.is_set)

    def let_it_call(self) -> None:
        """In the loop thread, which stands still: until the worker waits for its call."""
        strand = self.task._threadhop_strand  # type: ignore[attr-defined]
        posted = threading.Event()
        loop = asyncio.get_running_loop()
        call_soon_threadsafe = loop.call_soon_threadsafe
        with pytest.MonkeyPatch.context() as patch:

            def tell(callback: Any, *args: Any, **kwargs: Any) -> Any:
                handle = call_soon_threadsafe(callback, *args, **kwargs)
                posted.set()
                return handle

            with contextlib.suppress(AttributeError):  # uvloop's methods are read-only
                patch.setattr(loop, "call_soon_threadsafe", tell)
            self.gate.open()
            if getattr(loop, "call_soon_threadsafe", None) is tell:
                assert posted.wait(LIMIT)
            else:
                wait_until(lambda: strand.inner is not None)

    async def end(self) -> None:
        await until(self.task.done)
        assert self.task.cancelled()


def test_a_call_that_is_cancelled_before_it_is_made_is_not_made(
    loops: LoopKind, one: Executor
) -> None:
    """1 cancel, 2 the worker calls."""
    calls: list[Call] = []

    async def main() -> None:
        call = Call(one)
        calls.append(call)
        await call.begin()
        call.task.cancel("stop")
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["raised"]


def test_a_call_that_is_cancelled_before_its_callback_runs_is_not_made(
    loops: LoopKind, one: Executor
) -> None:
    """1 the worker posts its call, 2 cancel, 3 the callback."""
    calls: list[Call] = []

    async def main() -> None:
        call = Call(one)
        calls.append(call)
        await call.begin()
        call.let_it_call()
        call.task.cancel("stop")
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["raised"]


def test_a_function_that_cancels_its_own_caller_still_returns_its_value(
    loops: LoopKind, one: Executor
) -> None:
    """1 the callback begins, 2 cancel, 3 it ends: a plain function cannot be stopped."""

    class Cancelling(Call):
        def func(self) -> str:
            self.task.cancel("stop")
            return "value"

    calls: list[Call] = []

    async def main() -> None:
        call = Cancelling(one)
        calls.append(call)
        await call.begin()
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["value", "body ends"]


def test_a_coroutine_whose_caller_is_cancelled_while_it_is_made_is_cancelled(
    loops: LoopKind, one: Executor
) -> None:
    """1 func is called, 2 cancel, 3 it returns its coroutine, 4 that becomes a task.

    It is cancelled at its first await at the latest.
    """

    class Cancelling(Call):
        def func(self) -> Any:
            self.task.cancel("stop")
            return self.wait()

        async def wait(self) -> None:
            await asyncio.get_running_loop().create_future()

    calls: list[Call] = []

    async def main() -> None:
        call = Cancelling(one)
        calls.append(call)
        await call.begin()
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["raised"]


def test_a_coroutine_that_is_done_when_its_caller_is_cancelled_returns_its_value(
    loops: LoopKind, one: Executor
) -> None:
    """1 the coroutine ends, 2 cancel, 3 the worker is told: the exit raises."""

    class Cancelling(Call):
        def func(self) -> Any:
            return self.wait()

        async def wait(self) -> str:
            await suspend()
            # Before the callbacks of the inner task, which are called one turn after its end.
            asyncio.get_running_loop().call_soon(self.task.cancel, "stop")
            return "value"

    calls: list[Call] = []

    async def main() -> None:
        call = Cancelling(one)
        calls.append(call)
        await call.begin()
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["value", "body ends"]


def test_a_call_whose_result_is_there_when_its_caller_is_cancelled_returns_it(
    loops: LoopKind, one: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 the result is written, 2 cancel, 3 the worker is woken: the exit raises."""
    calls: list[Call] = []
    end = LoopCall._end

    def lying_end(self: LoopCall, value: Any, error: BaseException | None) -> None:
        release = self._gate.release
        gate = self._gate

        class LateGate:
            acquire = gate.acquire

            def release(self) -> None:
                calls[0].task.cancel("stop")
                release()

        monkeypatch.setattr(LoopCall, "_end", end)
        lying: Any = LateGate()
        self._gate = lying
        self._end(value, error)

    async def main() -> None:
        call = Call(one)
        calls.append(call)
        await call.begin()
        monkeypatch.setattr(LoopCall, "_end", lying_end)
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["called", "value", "body ends"]


def test_calls_that_are_cancelled_at_any_moment_end(loops: LoopKind, one: Executor) -> None:
    """No order is forced. The task ends cancelled, and the worker is free."""

    async def block(begun: threading.Event) -> None:
        async with threadpool(one):
            while True:
                begun.set()
                exec_in_eventloop(suspend)

    async def main() -> None:
        for number in range(ROUNDS):
            begun = threading.Event()
            task = start(block(begun))
            await until(begun.is_set)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            task.cancel()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)


# --- a loop that closes while a worker waits


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_call_raises_when_its_loop_is_closed_while_it_waits(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[Any],
    asynchronous: bool,
) -> None:
    """Before its callback has run, and while its coroutine waits."""
    monkeypatch.setattr(_loop_call, "POLL", 0.01)
    errors: list[str] = []
    reached = threading.Event()

    async def forever() -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    async def block(gate: Gate) -> None:
        async with threadpool(one):
            gate.stop_here()
            try:
                exec_in_eventloop(forever if asynchronous else reached.set)
            except RuntimeError as error:
                errors.append(str(error))

    async def main(gate: Gate) -> asyncio.Task[Any]:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = start(block(gate))
        await until(gate.reached.is_set)
        if asynchronous:
            gate.open()
            await until(reached.is_set)
        return task

    gate = Gate()
    loop = loops.loop_factory()
    task = loop.run_until_complete(main(gate))
    if not asynchronous:
        # The loop has stopped, so the callback never runs. That one poll of the worker goes by
        # shows that it waits.
        polled = threading.Event()
        strand: Any = task._threadhop_strand  # type: ignore[attr-defined]
        home_is_gone = type(strand).home_is_gone

        def tell(self: Any) -> Any:
            polled.set()
            return home_is_gone(self)

        monkeypatch.setattr(type(strand), "home_is_gone", tell)
        gate.open()
        assert polled.wait(LIMIT)
    loop.close()
    one.submit(str, 1).result(LIMIT)
    assert not task.done()
    (error,) = errors
    assert "went away" in error
    assert reached.is_set() == asynchronous
    lose_quietly(task)


def test_a_result_that_comes_just_before_the_loop_is_closed_is_not_lost(
    one: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, expect_loop_errors: list[Any]
) -> None:
    """1 the worker has waited long enough, 2 the result, 3 the loop is closed, 4 it looks."""
    monkeypatch.setattr(_loop_call, "POLL", 0.001)
    results: list[str] = []
    looking, look = threading.Event(), threading.Event()

    async def block(gate: Gate) -> None:
        async with threadpool(one):
            gate.stop_here()
            results.append(exec_in_eventloop(str, "value"))

    async def main() -> asyncio.Task[Any]:
        gate = Gate()
        task = start(block(gate))
        await until(gate.reached.is_set)
        strand: Any = task._threadhop_strand  # type: ignore[attr-defined]
        home_is_gone = type(strand).home_is_gone

        def lying(self: Any) -> Any:
            looking.set()
            assert look.wait(LIMIT)
            return home_is_gone(self)

        monkeypatch.setattr(type(strand), "home_is_gone", lying)
        gate.open()
        assert looking.wait(LIMIT)  # the loop stands still
        await suspend()
        await suspend()
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(main())
    loop.close()
    look.set()
    one.submit(str, 1).result(LIMIT)
    assert not task.done()
    lose_quietly(task)
    assert results == ["value"]
