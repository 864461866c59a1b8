"""Everybody who may end a booking, at the worst moment.

The claim on a booking is taken once: by the worker, by a cancellation, by the executor that drops
the job, or by a ``submit`` that raises. The executors below lie, so that each order of these can
be forced.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, nullcontext
from typing import Any

import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.pool_jobs import before
from helpers.steps import LIMIT, Gate, HeldExecutor, turns, until, wait_until

from threadhop import threadpool
from threadhop._block_job import BlockJob
from threadhop._loops._asyncio import AsyncioSuspension

here = threading.get_ident

#: How often those race that begin at the same moment.
ROUNDS = 60


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


def in_a_thread(func: Callable[[], object]) -> None:
    """From beginning to end; a loop that calls this stands still meanwhile."""
    thread = threading.Thread(target=func)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()


# --- a booking from the loop


async def noted_block(pool: Executor, began: list[object]) -> str:
    async with threadpool(pool):
        began.append("body")
    return "value"


async def outcome_of(task: asyncio.Task[Any]) -> Any:
    """The value of *task*, "cancelled" or "dropped"."""
    await until(task.done)
    try:
        return task.result()
    except asyncio.CancelledError as error:
        assert error.args == ("stop",)
        return "cancelled"
    except RuntimeError as error:
        assert "dropped" in str(error)
        return "dropped"


#: What happens one after the other, before the loop has a turn; the outcome; whether the body runs.
ORDERS: list[tuple[list[str], str, list[object]]] = [
    (["cancel", "the task is told", "worker"], "cancelled", []),
    (["cancel", "worker"], "cancelled", []),
    (["cancel", "drop"], "cancelled", []),
    (["drop", "cancel"], "cancelled", []),
    (["drop", "job is called"], "dropped", []),
    (["worker", "cancel"], "cancelled", ["body"]),
    (["worker", "drop"], "value", ["body"]),
    (["job is called", "job is called"], "value", ["body"]),
    (["job is called", "drop"], "value", ["body"]),
]


def test_the_first_who_ends_a_booking_decides_whether_the_body_runs(loops: LoopKind) -> None:
    """A cancellation is never lost."""

    async def main(steps: list[str], outcome: str, began: list[object]) -> None:
        bodies: list[object] = []
        with HeldExecutor() as pool:
            task = start(noted_block(pool, bodies))
            await until(lambda: pool.jobs)
            _, job = pool.jobs[0]
            for step in steps:
                if step == "cancel":
                    task.cancel("stop")
                elif step == "drop":
                    pool.drop()
                elif step == "worker":
                    in_a_thread(pool.run)
                elif step == "job is called":  # by one who does not ask whether it was dropped
                    in_a_thread(job)
                else:
                    await until(task.done)
            assert await outcome_of(task) == outcome, steps
            await turns()
        assert bodies == began, steps

    for order in ORDERS:
        loops.run(main(*order))


@on_one_loop
async def test_a_cancellation_before_the_entry_beats_the_fastest_worker() -> None:
    """1 cancel, 2 the task wants to leave, 3 a worker takes the job at once."""
    began: list[object] = []
    pool = HeldExecutor(after_submit=lambda: in_a_thread(pool.run))

    async def cancelled_block() -> str:
        await turns()
        task.cancel("stop")
        return await noted_block(pool, began)

    task = start(cancelled_block())
    assert await outcome_of(task) == "cancelled"
    assert not began


@on_one_loop
async def test_who_comes_after_an_interrupted_drop_finishes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 the drop has the claim, 2 Ctrl+C before the task is told, 3 cancel: the task is told."""
    began: list[object] = []

    def interrupted(_: AsyncioSuspension) -> None:
        raise KeyboardInterrupt

    with HeldExecutor() as pool:
        task = start(noted_block(pool, began))
        await until(lambda: pool.jobs)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(AsyncioSuspension, "resume", interrupted)
            pool.drop()
        task.cancel("stop")
        assert await outcome_of(task) == "cancelled"
    assert not began


@pytest.mark.parametrize("others", ["worker", "worker and drop"])
@pytest.mark.parametrize("cancels", [False, True], ids=["", "cancelled"])
@on_one_loop
async def test_all_who_end_a_booking_at_the_same_moment_have_one_winner(
    others: str, cancels: bool
) -> None:
    """Unforced. The body runs once, or not at all, and the task hears of that.

    Cancelled before anything could come home, it is that in any case.
    """
    count = 1 if others == "worker" else 2
    barrier = threading.Barrier(count + 1, timeout=LIMIT)

    def run(part: Callable[[], object]) -> None:
        barrier.wait()
        part()

    with ThreadPoolExecutor(count) as racers:
        for _ in range(ROUNDS):
            began: list[object] = []
            pool = HeldExecutor()
            task = start(noted_block(pool, began))
            await until(lambda pool=pool: pool.jobs)
            _, job = pool.jobs[0]
            parts = [pool.run] if others == "worker" else [job, pool.drop]
            futures = [racers.submit(run, part) for part in parts]
            barrier.wait()
            if cancels:
                task.cancel("stop")
            outcome = await outcome_of(task)
            for future in futures:
                future.result(LIMIT)
            assert len(began) <= 1
            if cancels:
                assert outcome == "cancelled"
            else:
                assert outcome == ("value" if began else "dropped")


# --- a submit that raises


@on_one_loop
async def test_a_submit_that_raises_before_a_worker_begins_is_the_error_of_the_entry() -> None:
    """And the worker that takes the job nevertheless, afterwards, does nothing."""

    def refuse() -> None:
        raise OSError("full")

    began: list[object] = []
    loop_thread = here()
    with HeldExecutor(after_submit=refuse) as pool:
        with pytest.raises(OSError, match="full"):
            await noted_block(pool, began)
        assert here() == loop_thread
        pool.start()
    assert not began


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_submit_that_raises_after_a_worker_has_begun_is_not_for_the_task(
    error: type[BaseException],
) -> None:
    """1 the worker begins the body, 2 submit raises, 3 the body ends, the task goes on once.

    Ctrl+C is for the loop, which stops. Run again, it finds the task on its way.
    """
    gate = Gate()
    steps = []

    def begin_and_raise() -> None:
        pool.start()
        assert gate.reached.wait(LIMIT)
        raise error

    async def block() -> str:
        async with threadpool(pool):
            gate.stop_here()
            steps.append("body")
        steps.append("after")
        await turns()
        return "value"

    loop = asyncio.new_event_loop()
    with HeldExecutor(after_submit=begin_and_raise) as pool:
        task, others = loop.create_task(block()), loop.create_task(turns())
        with pytest.raises(error) if error is KeyboardInterrupt else nullcontext():
            loop.run_until_complete(others)
        assert not task.done()
        gate.open()
        assert loop.run_until_complete(task) == "value"
        loop.run_until_complete(others)
    loop.close()
    assert steps == ["body", "after"]


# --- an executor with locks of its own


class LockedExecutor(HeldExecutor):
    """Holds its lock, which is not reentrant, whenever it calls anybody."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        assert self.lock.acquire(timeout=LIMIT), "submit was called under the executor's own lock"
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            self.lock.release()

    def drop(self, index: int = -1) -> None:
        with self.lock:
            super().drop(index)


@pytest.mark.parametrize("is_nested", [False, True], ids=["from the loop", "from a worker"])
@on_one_loop
async def test_a_drop_under_the_executors_own_lock_does_not_submit_again(
    one: Executor, is_nested: bool
) -> None:
    """The task goes on with this executor later, in the thread that it came from."""
    began: list[object] = []

    async def twice() -> None:
        thread = here()
        with pytest.raises(RuntimeError, match="dropped"):
            await noted_block(pool, began)
        assert here() == thread
        await noted_block(pool, began)
        assert here() == thread

    async def nested() -> None:
        async with threadpool(one):
            await twice()

    with LockedExecutor() as pool:
        task = start(nested() if is_nested else twice())
        await until(lambda: pool.jobs)
        pool.drop()
        assert not began
        await until(lambda: len(pool.jobs) == 2)
        pool.start()
        await task
    assert began == ["body"]


# --- a booking of an inner worker, from an outer one


class Nested:
    """A task whose block is nested in those of other executors, and what becomes of it."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.steps: list[str] = []
        self.task: asyncio.Task[Any]
        #: Called in the outer body, before the entry of the inner block.
        self.before_entry: Callable[[], object] = lambda: None

    def start(self, *outer: Executor) -> asyncio.Task[Any]:
        self._loop = asyncio.get_running_loop()
        self._ready = threading.Event()
        self.task = start(self._block(outer))
        self._ready.set()
        return self.task

    async def _block(self, outer: tuple[Executor, ...]) -> None:
        loop_thread = here()
        try:
            async with AsyncExitStack() as stack:
                for executor in outer:
                    await stack.enter_async_context(threadpool(executor))
                outer_thread = here()
                self.before_entry()
                try:
                    async with threadpool(self.inner):
                        self.steps.append("inner body")
                    self.steps.append("inner exit")
                except asyncio.CancelledError as error:
                    assert here() == outer_thread
                    assert error.args == ("stop",)
                    self.steps.append("cancelled in the outer thread")
        except asyncio.CancelledError as error:
            assert here() == loop_thread
            assert error.args == ("stop",)
            self.steps.append("cancelled on the loop")
            raise

    def cancel(self) -> None:
        """In another thread: through the loop, and wait until that was done."""
        assert self._ready.wait(LIMIT)
        done = threading.Event()

        def cancel() -> None:
            self.task.cancel("stop")
            done.set()

        self._loop.call_soon_threadsafe(cancel)
        assert done.wait(LIMIT)


CANCELLED_AT_ENTRY = ["cancelled in the outer thread", "cancelled on the loop"]


MOMENTS = (
    "before the entry",
    "before the request",
    "before submit",
    "before submit returns",
    "after the body",
)


@pytest.mark.parametrize("moment", MOMENTS)
@on_one_loop
async def test_a_cancellation_before_the_inner_worker_comes_ends_the_booking(
    one: Executor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """1 cancel, 2 the inner job is known, 3 a worker takes it at once, 4 submit returns.

    Once the body has begun, the cancellation waits for it: the outer worker is still in ``submit``
    when it gets the task back.
    """
    inner = HeldExecutor()
    nested = Nested(inner)

    def be_fast() -> None:
        if moment == "after the body":
            inner.start()
            wait_until(lambda: nested.steps)
        if moment in ("before submit returns", "after the body"):
            nested.cancel()
        if moment not in ("before the request", "after the body"):
            in_a_thread(inner.run)

    inner.after_submit = be_fast
    if moment == "before the entry":
        nested.before_entry = nested.cancel
    elif moment == "before the request":  # seen when submit has returned
        before(
            monkeypatch,
            BlockJob,
            "request_worker",
            nested.cancel,
            lambda job: job.executor is inner,
        )
    elif moment == "before submit":
        inner.before_submit = nested.cancel
    with inner:
        task = nested.start(one)
        await until(task.done)
        assert task.cancelled()
    if moment == "after the body":  # It may be back before or after the cancellation.
        assert nested.steps.pop(0) == "inner body"
        if nested.steps[0] == "inner exit":
            nested.steps[0] = CANCELLED_AT_ENTRY[0]
    assert nested.steps == CANCELLED_AT_ENTRY


@on_one_loop
async def test_a_cancellation_before_the_entry_of_a_parked_worker_is_raised_there(
    one: Executor, other: Executor
) -> None:
    """In A, in B, and then A again: its worker waits already, and needs no booking."""
    nested = Nested(one)
    nested.before_entry = nested.cancel
    task = nested.start(one, other)
    await until(task.done)
    assert task.cancelled()
    assert nested.steps == CANCELLED_AT_ENTRY
