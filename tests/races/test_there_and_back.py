"""The way to the loop and back, with somebody else between two steps of it."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, until, wait_until

from threadhop import (
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    threadpool,
)
from threadhop._block_job import BlockJob, WorkerSuspension
from threadhop._errors import WORKER_GONE
from threadhop._job import current
from threadhop._loops import _from_thread, current_strand
from threadhop._loops._attributes import LOOP, STRAND
from threadhop._loops._from_thread import FromThreadCall

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
    """In the loop thread, which stands still: until one task or call is on its way to it."""
    entry_queue = getattr(asyncio.get_running_loop(), LOOP)
    wait_until(lambda: len(entry_queue._queue) == 1)


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
def test_cancelled_around_the_moment_at_which_the_task_is_put_before_the_worker(
    loops: LoopKind, one: Executor, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """1 the part ends, 2 the task is put into the worker's inbox, cancelled just before or after.

    The body comes to its end on the worker, and the exit raises.
    """
    tasks: list[asyncio.Task[Any]] = []
    steps: list[str] = []
    put = BlockJob.unpark
    resumed = threading.Event()

    def lying_put(seat: BlockJob, worker_suspension: WorkerSuspension) -> None:
        if when == "before":
            tasks[0].cancel("now")
            put(seat, worker_suspension)
            return
        put(seat, worker_suspension)
        assert resumed.wait(LIMIT)  # the worker is faster than this line
        tasks[0].cancel("now")

    async def block() -> None:
        try:
            async with threadpool(one):
                worker = here()
                try:
                    async with eventloop():
                        await suspend()
                        monkeypatch.setattr(BlockJob, "unpark", lying_put)
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


class FakeLoop:
    asyncgen_hooks = (None, None)

    def is_closed(self) -> bool:
        return False

    def is_gone(self) -> bool:
        return False


class FakeToken:
    why = None
    queued_job: BlockJob | None = None


class FakeStrand:
    """A strand of one seat: it goes to the loop once, and comes back, or not."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.token = FakeToken()
        self.drives = 0
        self.abandoned = 0
        #: How often it was told, by the one that has the task, that the worker has gone.
        self.left_alone = 0
        #: Called by the parked worker, which then believes that nobody comes back any more.
        self.looks: Callable[[], object] = lambda: None
        self.away = True
        #: What it says when it is asked, after that.
        self.gone = True

    def drive(self, seat: BlockJob) -> bool:
        self.drives += 1
        if self.drives == 1:
            seat.prepare_to_park(None)
            return True
        return False

    def is_gone(self) -> bool:
        looks, self.looks = self.looks, lambda: None
        looks()
        return self.gone

    def is_in_loop_part_of(self, seat: BlockJob) -> bool:
        return self.away

    def abandon(self) -> None:
        self.abandoned += 1

    def worker_is_gone(self) -> None:
        self.left_alone += 1


class LyingInbox:
    """The inbox of a seat; runs something around a look that does not wait, or before one that
    does, or after a put.
    """

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[WorkerSuspension | None] = queue.SimpleQueue()
        self.before: Callable[[], object] = lambda: None
        self.after: Callable[[], object] = lambda: None
        self.after_put: Callable[[], object] = lambda: None
        self.before_wait: Callable[[], object] = lambda: None

    def get(self, block: bool, timeout: float) -> WorkerSuspension | None:
        before, self.before_wait = self.before_wait, lambda: None
        before()
        return self.tasks.get(block, timeout)

    def get_nowait(self) -> WorkerSuspension | None:
        before, self.before = self.before, lambda: None
        before()
        try:
            return self.tasks.get_nowait()
        finally:
            after, self.after = self.after, lambda: None
            after()

    def put(self, worker_suspension: WorkerSuspension | None) -> None:
        self.tasks.put(worker_suspension)
        self.after_put()


class LyingTask(WorkerSuspension):
    """A task that runs something before somebody takes it for the first time."""

    before_take: Callable[[], object] = staticmethod(lambda: None)

    def take(self) -> Any:
        before, self.before_take = self.before_take, lambda: None
        before()
        return super().take()


class ParkedSeat:
    """A seat whose worker, this thread, parks at once and then gives up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("threadhop._block_job.POLL", 0.001)
        self.strand = FakeStrand()
        self.pool = ThreadPoolExecutor(1)
        self.seat = BlockJob(self.pool, self.strand, None)  # type: ignore[arg-type]
        self.seat.code = sys._getframe().f_code
        self.inbox = LyingInbox()
        self.seat._inbox = self.inbox  # type: ignore[assignment]
        self.task = LyingTask(self.seat, self.strand)  # type: ignore[arg-type]
        #: Where the other thread stands still, see ``start_to_put``.
        self.gate = Gate()
        self.other = threading.Thread(target=self.put)

    def put(self) -> None:
        """As the loop thread does; here in the middle of what the worker does."""
        self.task.resume()

    def start_to_put(self) -> None:
        """Have another thread do it, up to the gate."""
        self.other.start()
        assert self.gate.reached.wait(LIMIT)

    def end_to_put(self) -> None:
        """Let the other thread go on to its end."""
        self.gate.open()
        self.other.join(LIMIT)
        assert not self.other.is_alive()

    def run(self) -> None:
        self.seat()

    def told(self) -> tuple[int, int, int]:
        """How often the worker drove the task, gave it up, and left it to the one who put it."""
        return self.strand.drives, self.strand.abandoned, self.strand.left_alone


def test_a_task_that_is_put_while_the_worker_looks_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker looks, 2 the task is put, 3 it gives up, 4 and sees the task: it goes on."""
    parked = ParkedSeat(monkeypatch)
    parked.strand.looks = parked.put
    parked.run()
    assert parked.told() == (2, 0, 0)


def test_a_task_that_is_put_after_the_worker_has_gone_stays_with_who_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up and leaves, 2 the task is put: who put it finds the worker gone."""
    parked = ParkedSeat(monkeypatch)
    parked.run()
    assert parked.told() == (1, 1, 0)
    parked.put()
    assert parked.told() == (1, 1, 1)
    assert parked.seat.take_failure() is WORKER_GONE


def test_a_task_that_is_put_just_before_the_last_look_and_taken_back_is_not_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up, 2 the task is put and who put it takes it back, 3 the last look.

    The worker leaves: who put the task has found it gone.
    """
    parked = ParkedSeat(monkeypatch)
    parked.inbox.before = parked.put
    parked.run()
    assert parked.told() == (1, 0, 1)
    assert parked.seat.has_given_up


def test_a_task_that_both_find_belongs_to_the_one_that_takes_it_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the worker gives up, 2 the task is put, 3 the worker's last look, 4 who put it takes it."""
    parked = ParkedSeat(monkeypatch)
    parked.inbox.after_put = parked.gate.stop_here
    parked.inbox.before = parked.start_to_put
    parked.inbox.after = parked.end_to_put
    parked.run()
    assert parked.told() == (1, 0, 1)


@pytest.mark.parametrize("stands", ["before it looks", "before it takes"])
def test_a_task_that_the_worker_takes_before_who_put_it_does_belongs_to_the_worker(
    monkeypatch: pytest.MonkeyPatch, stands: str
) -> None:
    """1 the worker gives up, 2 the task is put, 3 the worker's last look, 4 that of who put it.

    Who put it stands still before it looks, or when it has seen that the worker has given up.
    """
    parked = ParkedSeat(monkeypatch)
    if stands == "before it looks":
        parked.inbox.after_put = parked.gate.stop_here
    else:
        parked.task.before_take = parked.gate.stop_here
    parked.inbox.before = parked.start_to_put
    parked.run()
    assert parked.told() == (2, 0, 0)
    parked.end_to_put()
    assert parked.told() == (2, 0, 0)


def test_a_parked_worker_that_two_tasks_need_gives_up_only_if_both_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the first task is gone, 2 the worker looks again, 3 so is the second, 4 it gives up.

    The first one may come back as long as the second is there: it goes on.
    """
    parked = ParkedSeat(monkeypatch)
    seat, first, second = parked.seat, parked.strand, FakeStrand()
    looks: list[str] = []

    def look() -> None:
        looks.append("the second one")
        if len(looks) == 3:
            parked.put()
        second.gone = len(looks) > 3
        second.looks = look

    second.looks = look
    seat.holders = {first, second}  # type: ignore[arg-type]
    parked.run()
    assert len(looks) == 4
    assert parked.told()[0] == 2
    assert second.drives == 0
    assert seat.has_given_up


def test_a_parked_worker_that_two_tasks_need_stays_until_both_have_released_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 a second task needs it, 2 one of them is gone, and releases it, 3 so does the other."""
    parked = ParkedSeat(monkeypatch)
    seat, first, second = parked.seat, parked.strand, FakeStrand()
    for strand in (first, second):
        strand.looks = lambda: pytest.fail("it is needed, and gives up")

    def release_first() -> None:
        seat.release_worker(first)  # type: ignore[arg-type]
        assert seat.holders == {second}
        assert seat.strand is not None
        parked.inbox.before_wait = release_second

    def release_second() -> None:
        seat.release_worker(second)  # type: ignore[arg-type]
        assert not seat.holders
        assert seat.strand is None

    seat.holders = {first, second}  # type: ignore[arg-type]
    parked.inbox.before_wait = release_first
    parked.run()
    assert parked.told() == (1, 0, 0)
    assert second.drives == 0
    assert not parked.inbox.tasks.qsize()


def test_a_task_that_is_put_and_a_worker_that_gives_up_at_the_same_moment_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unforced, many times: either the worker goes on, or who put the task finds it gone."""
    for _ in range(ROUNDS):
        parked = ParkedSeat(monkeypatch)
        parked.strand.away = False
        barrier = threading.Barrier(2, timeout=LIMIT)
        parked.strand.looks = barrier.wait
        worker = threading.Thread(target=parked.run)
        worker.start()
        barrier.wait()
        parked.put()
        worker.join(LIMIT)
        assert not worker.is_alive()
        assert parked.told() in ((2, 0, 0), (1, 0, 1))


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
        """In the loop thread, which stands still: until the worker has posted its call."""
        self.gate.open()
        wait_until_posted()

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


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["function", "coroutine"])
def test_a_call_whose_result_is_there_when_its_caller_is_cancelled_returns_it(
    loops: LoopKind,
    one: Executor,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    asynchronous: bool,
) -> None:
    """1 the result is known, 2 it is put before the worker, cancelled just before or just after.

    The exit raises.
    """

    class Asynchronous(Call):
        def func(self) -> Any:
            return self.wait()

        async def wait(self) -> str:
            await suspend()
            self.steps.append("called")
            return "value"

    calls: list[Call] = []
    deliver = FromThreadCall.deliver

    def lying_deliver(self: FromThreadCall) -> None:
        ended = self._ended

        class LateQueue:
            get = ended.get  # for a worker that does not wait yet

            def put(self, result: Any) -> None:
                if when == "before":
                    calls[0].task.cancel("stop")
                ended.put(result)
                if when == "after":
                    calls[0].task.cancel("stop")

        lying: Any = LateQueue()
        self._ended = lying
        deliver(self)

    async def main() -> None:
        call = (Asynchronous if asynchronous else Call)(one)
        calls.append(call)
        await call.begin()
        monkeypatch.setattr(FromThreadCall, "deliver", lying_deliver)
        call.gate.open()
        await call.end()

    loops.run(main)
    assert calls.pop().steps == ["called", "value", "body ends"]


@pytest.mark.parametrize("by", ["a block", "a call"])
@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_a_caller_knows_the_call_that_its_worker_waits_for(
    loops: LoopKind, one: Executor, by: str, fails: bool
) -> None:
    """From before it is made until it has ended, however that was; and which task makes it."""
    seen: list[Any] = []

    def body() -> None:
        job: Any = current.slot.job
        caller = job.caller

        def function() -> None:
            seen.append(type(caller.calling))
            if fails:
                raise LookupError

        async def coroutine() -> None:
            await suspend()
            mine = current_strand()
            seen.append(caller.calling.is_made_by(mine))
            seen.append(caller.calling.is_made_by(caller))
            if fails:
                raise LookupError

        for func in (function, coroutine):
            assert caller.calling is None
            try:
                exec_in_eventloop(func)
            except LookupError:
                assert fails
            else:
                assert not fails
            assert caller.calling is None

    async def main() -> None:
        if by == "a call":
            await exec_in_executor(one, body)
            return
        async with threadpool(one):
            body()

    loops.run(main)
    assert seen == [FromThreadCall, True, False]


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


class ForgetfulCall(FromThreadCall):
    """Its task is gone as soon as somebody has looked: the worker is that fast."""

    __slots__ = ("_kept",)

    @property
    def _task(self) -> Any:
        task, self._kept = getattr(self, "_kept", None), None
        return task

    @_task.setter
    def _task(self, task: Any) -> None:
        self._kept = task


def test_a_call_may_end_while_it_is_being_cancelled(
    loops: LoopKind, one: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1 cancel looks for the task of the call, 2 the worker forgets it, 3 cancel goes on."""
    monkeypatch.setattr(_from_thread, "FromThreadCall", ForgetfulCall)
    begun = threading.Event()

    async def forever() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    async def block() -> None:
        async with threadpool(one):
            exec_in_eventloop(forever)

    async def main() -> None:
        task = start(block())
        await until(begun.is_set)
        assert task.cancel()
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
    monkeypatch.setattr(_from_thread, "POLL", 0.01)
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
        strand: Any = getattr(task, STRAND)
        is_gone = type(strand).is_gone

        def tell(self: Any) -> Any:
            polled.set()
            return is_gone(self)

        monkeypatch.setattr(type(strand), "is_gone", tell)
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
    monkeypatch.setattr(_from_thread, "POLL", 0.001)
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
        strand: Any = getattr(task, STRAND)
        is_gone = type(strand).is_gone

        def lying(self: Any) -> Any:
            looking.set()
            assert look.wait(LIMIT)
            return is_gone(self)

        monkeypatch.setattr(type(strand), "is_gone", lying)
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
