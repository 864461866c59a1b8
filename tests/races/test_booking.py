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
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import _block_job, threadpool
from threadhop._block_job import BlockJob
from threadhop._strand import Strand

here = threading.get_ident

#: How often those race that begin at the same moment.
ROUNDS = 60


def start(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


# --- one after the other


def test_a_worker_that_comes_after_the_cancellation_does_nothing(loops: LoopKind) -> None:
    """1 submit, 2 cancel, 3 the task is told, 4 the worker takes the job."""
    began = []

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            began.append(True)

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            task.cancel("2")
            await until(task.done)
            assert task.cancelled()
            pool.start()

    loops.run(main)
    assert not began


def test_a_worker_between_the_cancellation_and_the_task_does_nothing(loops: LoopKind) -> None:
    """1 submit, 2 cancel, 3 the worker takes the job, 4 the task is told."""
    began = []

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            began.append(True)

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            task.cancel("2")
            pool.start()
            pool.shutdown()  # the worker has ended, and the loop did not run meanwhile
            assert not task.done()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert not began


def test_a_cancellation_that_comes_after_the_worker_waits_for_the_body(loops: LoopKind) -> None:
    """1 submit, 2 the worker takes the job, 3 cancel, 4 the body ends, 5 the exit raises."""
    gate = Gate()
    ended = []

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            gate.stop_here()
            ended.append(True)

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            pool.start()
            await until(gate.reached.is_set)
            task.cancel("3")
            await turns()
            assert not task.done()
            gate.open()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert ended


def test_a_job_that_is_dropped_after_the_cancellation_stays_a_cancellation(loops: LoopKind) -> None:
    """1 submit, 2 cancel, 3 the executor drops the job, 4 the task is told."""

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            raise AssertionError("the body ran")

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            task.cancel("2")
            pool.drop()
            await until(task.done)
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.args == ("2",)

    loops.run(main)


def test_a_cancellation_that_comes_after_the_drop_is_not_lost(loops: LoopKind) -> None:
    """1 submit, 2 the executor drops the job, 3 cancel, 4 the task is told: it was cancelled."""

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            raise AssertionError("the body ran")

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            pool.drop()
            task.cancel("3")
            await until(task.done)
            assert task.cancelled()

    loops.run(main)


def test_a_job_that_is_dropped_and_run_all_the_same_is_not_run(loops: LoopKind) -> None:
    """1 submit, 2 the executor drops the job, 3 a worker calls it, 4 the task is told."""
    began = []

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            began.append(True)

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            pool.drop()
            _, job = pool.jobs[-1]
            thread = threading.Thread(target=job)
            thread.start()
            thread.join(LIMIT)
            await until(task.done)
            assert isinstance(task.exception(), RuntimeError)
            assert "dropped" in str(task.exception())

    loops.run(main)
    assert not began


def test_a_job_that_is_called_twice_runs_the_body_once(loops: LoopKind) -> None:
    began = []

    async def block(pool: Executor) -> str:
        async with threadpool(pool):
            began.append(True)
        return "value"

    async def main() -> None:
        with HeldExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            _, job = pool.jobs[-1]
            threads = [threading.Thread(target=job) for _ in range(3)]
            for thread in threads:
                thread.start()
            assert await task == "value"
            for thread in threads:
                thread.join(LIMIT)
            await turns()

    loops.run(main)
    assert began == [True]


# --- at the very same moment


class Racers:
    """Threads that all begin their part of each round at the same moment as the loop's."""

    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count + 1, timeout=LIMIT)
        self.pool = ThreadPoolExecutor(count)

    def run(self, *parts: Callable[[], object]) -> list[Future[object]]:
        """In the loop thread: let the others begin *parts*; the caller goes on with its own."""

        def run_part(part: Callable[[], object]) -> object:
            self.barrier.wait()
            return part()

        futures = [self.pool.submit(run_part, part) for part in parts]
        self.barrier.wait()
        return futures

    def __enter__(self) -> Racers:
        return self

    def __exit__(self, *_: object) -> None:
        self.barrier.abort()
        self.pool.shutdown()


def test_a_cancellation_and_a_worker_at_the_same_moment_have_one_winner(loops: LoopKind) -> None:
    """Either the body runs from end to end, or not at all; the task is cancelled in any case."""
    began: list[int] = []
    ended: list[int] = []
    after: list[int] = []

    async def block(pool: Executor, number: int) -> None:
        try:
            async with threadpool(pool):
                began.append(number)
                ended.append(number)
        finally:
            after.append(number)

    async def main() -> None:
        with Racers(1) as racers:
            for number in range(ROUNDS):
                pool = HeldExecutor()
                task = start(block(pool, number))
                await until(lambda pool=pool: pool.jobs)
                (future,) = racers.run(pool.run)
                task.cancel(str(number))
                await until(task.done)
                assert task.cancelled()
                future.result(LIMIT)

    loops.run(main)
    assert began == ended
    assert len(set(began)) == len(began)
    assert after == list(range(ROUNDS))


def test_a_drop_a_cancellation_and_a_worker_at_the_same_moment_have_one_winner(
    loops: LoopKind,
) -> None:
    """Three sides; with a worker that does not ask whether the job was dropped."""
    began: list[int] = []
    after: list[int] = []

    async def block(pool: Executor, number: int) -> None:
        try:
            async with threadpool(pool):
                began.append(number)
        finally:
            after.append(number)

    async def main() -> None:
        with Racers(2) as racers:
            for number in range(ROUNDS):
                pool = HeldExecutor()
                task = start(block(pool, number))
                await until(lambda pool=pool: pool.jobs)
                _, job = pool.jobs[-1]
                futures = racers.run(job, pool.drop)
                task.cancel()
                await until(task.done)
                # Cancelled before anything could come home, so that is what the task is.
                assert task.cancelled()
                for future in futures:
                    future.result(LIMIT)

    loops.run(main)
    assert len(set(began)) == len(began)
    assert after == list(range(ROUNDS))


def test_a_drop_and_a_worker_at_the_same_moment_have_one_winner(loops: LoopKind) -> None:
    """The body ran and the task has its value, or it did not and the task has the error."""
    began: list[int] = []

    async def block(pool: Executor, number: int) -> int:
        async with threadpool(pool):
            began.append(number)
        return number

    async def main() -> None:
        with Racers(2) as racers:
            for number in range(ROUNDS):
                pool = HeldExecutor()
                task = start(block(pool, number))
                await until(lambda pool=pool: pool.jobs)
                _, job = pool.jobs[-1]
                futures = racers.run(job, pool.drop)
                await until(task.done)
                for future in futures:
                    future.result(LIMIT)
                if task.exception() is None:
                    assert task.result() == began[-1] == number
                else:
                    assert "dropped" in str(task.exception())
                    assert number not in began

    loops.run(main)


# --- a submit that raises


def test_a_submit_that_raises_before_a_worker_begins_is_the_error_of_the_entry(
    loops: LoopKind,
) -> None:
    """And the worker that takes the job nevertheless, afterwards, does nothing."""

    def refuse() -> None:
        raise OSError("full")

    began = []

    async def main() -> None:
        loop_thread = here()
        with HeldExecutor(after_submit=refuse) as pool:
            with pytest.raises(OSError, match="full"):
                async with threadpool(pool):
                    began.append(True)
            assert here() == loop_thread
            pool.start()

    loops.run(main)
    assert not began


def test_a_submit_that_raises_after_a_worker_has_begun_is_not_for_the_task(
    loops: LoopKind,
) -> None:
    """1 the worker begins the body, 2 submit raises, 3 the body ends, the task goes on once."""
    gate = Gate()

    def begin_and_raise() -> None:
        pool.start()
        assert gate.reached.wait(LIMIT)
        raise OSError("too late")

    pool = HeldExecutor(after_submit=begin_and_raise)
    steps = []

    async def block() -> str:
        async with threadpool(pool):
            gate.stop_here()
            steps.append("body")
        steps.append("after")
        await turns()
        return "value"

    async def main() -> None:
        task = start(block())
        await until(gate.reached.is_set)
        await turns()
        assert not task.done()
        gate.open()
        assert await task == "value"

    with pool:
        loops.run(main)
    assert steps == ["body", "after"]


def test_ctrl_c_in_a_submit_whose_worker_has_begun_is_for_the_loop() -> None:
    """The loop stops with it; run again, it finds the task on its way."""
    gate = Gate()

    def begin_and_interrupt() -> None:
        pool.start()
        assert gate.reached.wait(LIMIT)
        raise KeyboardInterrupt

    pool = HeldExecutor(after_submit=begin_and_interrupt)

    async def block() -> str:
        async with threadpool(pool):
            gate.stop_here()
        return "value"

    loop = asyncio.new_event_loop()
    with pool:
        task = loop.create_task(block())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert not task.done()
        gate.open()
        assert loop.run_until_complete(task) == "value"
    loop.close()


def test_ctrl_c_in_a_submit_whose_worker_has_not_begun_ends_the_task() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    async def block() -> None:
        async with threadpool(HeldExecutor(after_submit=interrupt)):
            raise AssertionError("the body ran")

    loop = asyncio.new_event_loop()
    task = loop.create_task(block())
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    assert isinstance(task.exception(), KeyboardInterrupt)
    loop.close()


@pytest.mark.parametrize(
    ("owner", "line"),
    [(Strand, "leave_loop"), (BlockJob, "request_worker"), (_block_job, "submit")],
)
def test_ctrl_c_before_the_job_is_submitted_leaves_a_task_that_can_be_cancelled(
    monkeypatch: pytest.MonkeyPatch, owner: Any, line: str
) -> None:
    """1 the task is suspended, 2 Ctrl+C, with nothing submitted yet: nobody else will resume it."""
    original = getattr(owner, line)

    def interrupted(*_: object) -> None:
        monkeypatch.setattr(owner, line, original)
        raise KeyboardInterrupt

    pool = ThreadPoolExecutor(1)

    async def block() -> None:
        async with threadpool(pool):
            pass

    loop = asyncio.new_event_loop()
    task = loop.create_task(block())
    monkeypatch.setattr(owner, line, interrupted)
    with pool, pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    if not task.done():
        task.cancel()
        loop.run_until_complete(asyncio.wait({task}, timeout=1))
    assert task.done(), "the task hangs, and asyncio.run() would wait for it for ever"
    assert task.cancelled() or isinstance(task.exception(), KeyboardInterrupt)
    loop.close()


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


def test_a_drop_under_the_executors_own_lock_does_not_submit_again(loops: LoopKind) -> None:
    """What the task does next with this executor happens later, on the loop."""
    began = []

    async def block(pool: Executor) -> None:
        with pytest.raises(RuntimeError, match="dropped"):
            async with threadpool(pool):
                began.append("dropped")
        async with threadpool(pool):
            began.append("second")

    async def main() -> None:
        with LockedExecutor() as pool:
            task = start(block(pool))
            await until(lambda: pool.jobs)
            pool.drop()
            await until(lambda: len(pool.jobs) == 2)
            pool.start()
            await task

    loops.run(main)
    assert began == ["second"]


def test_a_nested_drop_under_the_executors_own_lock_does_not_submit_again(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    steps = []

    async def block(outer: Executor, pool: Executor) -> None:
        async with threadpool(outer):
            thread = here()
            with pytest.raises(RuntimeError, match="dropped"):
                async with threadpool(pool):
                    steps.append("dropped")
            assert here() == thread
            async with threadpool(pool):
                steps.append("second")
            assert here() == thread

    async def main() -> None:
        with executor_class(1) as outer, LockedExecutor() as pool:
            task = start(block(outer, pool))
            await until(lambda: pool.jobs)
            pool.drop()
            await until(lambda: len(pool.jobs) == 2)
            pool.start()
            await task

    loops.run(main)
    assert steps == ["second"]


def test_shutdown_with_cancel_futures_is_an_error_at_the_entry(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """A real executor drops its queue under its lock. The task does not look cancelled."""

    async def block(pool: Executor) -> None:
        async with threadpool(pool):
            raise AssertionError("the body ran")

    async def main() -> None:
        pool = executor_class(1)
        with busy(pool):
            tasks = [start(block(pool)) for _ in range(5)]
            await turns()
            pool.shutdown(wait=False, cancel_futures=True)
            await asyncio.wait(tasks)
        for task in tasks:
            assert isinstance(task.exception(), RuntimeError)

    loops.run(main)


# --- a booking of an inner worker, from an outer one


async def nested_block(outer: Executor, inner: Executor, steps: list[str]) -> None:
    """What the next tests cancel at different moments of the booking of *inner*."""
    loop_thread = here()
    try:
        async with threadpool(outer):
            outer_thread = here()
            try:
                async with threadpool(inner):
                    steps.append("inner body")
                steps.append("inner exit")
            except asyncio.CancelledError as error:
                assert here() == outer_thread
                assert error.args == ("stop",)
                steps.append("cancelled in the outer thread")
    except asyncio.CancelledError as error:
        assert here() == loop_thread
        assert error.args == ("stop",)
        steps.append("cancelled on the loop")
        raise


class CancelFrom:
    """Cancels the task from another thread, through its loop, and waits until that was done."""

    def __init__(self) -> None:
        self.task: asyncio.Task[Any]
        self.loop: asyncio.AbstractEventLoop
        self.ready = threading.Event()

    def start(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        self.loop = asyncio.get_running_loop()
        self.task = self.loop.create_task(coro)
        self.ready.set()
        return self.task

    def __call__(self) -> None:
        assert self.ready.wait(LIMIT)
        done = threading.Event()

        def cancel() -> None:
            self.task.cancel("stop")
            done.set()

        self.loop.call_soon_threadsafe(cancel)
        assert done.wait(LIMIT)


def test_a_cancellation_before_the_inner_job_is_known_ends_the_inner_booking(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 the booking is written, 2 cancel, 3 the job is submitted, 4 a worker takes it."""
    steps: list[str] = []
    cancel = CancelFrom()

    async def main() -> None:
        with executor_class(1) as outer, HeldExecutor(before_submit=cancel) as inner:
            task = cancel.start(nested_block(outer, inner, steps))
            await until(lambda: inner.jobs)
            inner.start()
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["cancelled in the outer thread", "cancelled on the loop"]


def test_a_cancellation_before_submit_returns_ends_the_inner_booking(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 the job is known, 2 cancel, 3 a worker takes the job, 4 submit returns."""
    steps: list[str] = []
    cancel = CancelFrom()

    def cancel_and_run() -> None:
        cancel()
        inner.start()
        inner.shutdown()

    inner = HeldExecutor(after_submit=cancel_and_run)

    async def main() -> None:
        with executor_class(1) as outer:
            task = cancel.start(nested_block(outer, inner, steps))
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["cancelled in the outer thread", "cancelled on the loop"]


def test_a_cancellation_after_the_inner_worker_has_begun_waits_for_its_body(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 a worker takes the inner job and runs the body, 2 cancel, 3 submit returns.

    The outer worker is still in ``submit`` when it gets the task back.
    """
    steps: list[str] = []
    cancel = CancelFrom()

    def run_and_cancel() -> None:
        inner.start()
        wait_until(lambda: steps)
        cancel()

    inner = HeldExecutor(after_submit=run_and_cancel)

    async def main() -> None:
        with executor_class(1) as outer, inner:
            task = cancel.start(nested_block(outer, inner, steps))
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    # The inner body may be back before or after the cancellation.
    assert steps[0] == "inner body"
    assert steps[1] in ("inner exit", "cancelled in the outer thread")
    assert steps[2:] == ["cancelled on the loop"]


def test_a_cancellation_before_the_inner_entry_beats_the_fastest_worker(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """1 cancel, in the outer body, 2 the inner job is submitted, 3 a worker takes it at once.

    The task was cancelled before the entry, so the inner body must not run, whoever is fast.
    """
    steps: list[str] = []
    cancel = CancelFrom()

    def be_fast() -> None:
        inner.start()
        inner.shutdown()

    inner = HeldExecutor(after_submit=be_fast)

    async def block(outer: Executor) -> None:
        async with threadpool(outer):
            cancel()
            try:
                async with threadpool(inner):
                    steps.append("inner body")
            except asyncio.CancelledError:
                steps.append("inner entry")

    async def main() -> None:
        with executor_class(1) as outer:
            task = cancel.start(block(outer))
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["inner entry"]


def test_a_cancellation_before_the_entry_of_a_parked_worker_is_raised_there(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """In A, in B, and then A again: its worker waits already, and needs no booking."""
    steps: list[str] = []
    cancel = CancelFrom()

    async def block(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer), threadpool(inner):
            thread = here()
            cancel()
            try:
                async with threadpool(outer):
                    steps.append("body")
            except asyncio.CancelledError:
                assert here() == thread
                steps.append("entry")

    async def main() -> None:
        with executor_class(1) as outer, executor_class(1) as inner:
            task = cancel.start(block(outer, inner))
            await until(task.done)
            assert task.cancelled()

    loops.run(main)
    assert steps == ["entry"]


def test_a_cancellation_and_an_inner_worker_at_the_same_moment_have_one_winner(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """However it ends: the task is cancelled, once, and each part ran in its own thread."""

    async def main() -> None:
        with executor_class(1) as outer, Racers(1) as racers:
            for _ in range(ROUNDS):
                steps: list[str] = []
                inner = HeldExecutor()
                task = start(nested_block(outer, inner, steps))
                await until(lambda inner=inner: inner.jobs)
                (future,) = racers.run(inner.run)
                task.cancel("stop")
                await until(task.done)
                future.result(LIMIT)
                assert task.cancelled()
                assert steps in (
                    ["cancelled in the outer thread", "cancelled on the loop"],
                    ["inner body", "cancelled in the outer thread", "cancelled on the loop"],
                    ["inner body", "inner exit", "cancelled on the loop"],
                )

    loops.run(main)
