"""``async with eventloop():`` in the body of a block: on the loop, and back to the same worker."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sqlite3
import traceback
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
from helpers.loops import LoopKind
from helpers.places import OopsError, Trail, assert_is_whole, here, place, start, suspend
from helpers.steps import Gate, turns, until

from threadhop import eventloop, exec_in_eventloop, threadpool

color = contextvars.ContextVar("color", default="unset")


# --- where it runs


def test_the_part_runs_on_the_loop_and_the_body_has_none(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """An await that belongs into a part is refused behind it as before it, and harms nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        async with threadpool(one):
            for _ in range(2):
                assert place() == "one_0"
                with pytest.raises(RuntimeError, match="no running event loop"):
                    asyncio.get_running_loop()
                with pytest.raises(RuntimeError, match="eventloop"):
                    await future
                async with eventloop() as bound:  # type: ignore[var-annotated, unused-ignore]
                    assert place() == "loop"
                    assert asyncio.get_running_loop() is loop
                    assert bound is None
                    await suspend()
            async with eventloop():
                loop.call_soon(future.set_result, "value")
                assert await future == "value"

    loops.run(main)


def test_the_part_is_the_same_task(current_task_loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        task = asyncio.current_task()
        async with threadpool(executor):
            async with eventloop():
                assert asyncio.current_task() is task
                await suspend()
                assert asyncio.current_task() is task

    current_task_loops.run(main)


@pytest.mark.trio
def test_the_same_worker_thread_goes_on_after_it(loops: LoopKind, executor: Executor) -> None:
    """A connection of sqlite3 checks its thread, and stays usable over many parts."""

    async def main() -> None:
        async with threadpool(executor):
            connection = sqlite3.connect(":memory:", check_same_thread=True)
            with contextlib.closing(connection):
                connection.execute("create table t (n)")
                for number in range(20):
                    connection.execute("insert into t values (?)", (number,))
                    async with eventloop():
                        with pytest.raises(sqlite3.ProgrammingError):
                            connection.execute("select 1")
                        await suspend()
                assert connection.execute("select sum(n) from t").fetchone() == (190,)

    loops.run(main)


def test_the_worker_does_nothing_else_meanwhile(loops: LoopKind, one: ThreadPoolExecutor) -> None:
    """A job of somebody else, on a pool of one, runs after the block and not within the part."""
    trail = Trail()

    async def main() -> None:
        async with threadpool(one):
            async with eventloop():
                job = one.submit(trail.note, "job")
                await turns(20)
                trail.note("part ends")
            trail.note("body ends")
        await asyncio.wrap_future(job)

    loops.run(main)
    assert trail.steps == [("part ends", "loop"), ("body ends", "one_0"), ("job", "one_0")]


def test_one_object_is_used_again_and_shared_by_tasks_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """Each task is in the part when the other one enters it; each goes back to its own worker."""
    part = eventloop()

    async def block(met: list[int], all_met: asyncio.Event) -> None:
        async with threadpool(executor):
            worker = here()
            for _ in range(3):
                async with part:
                    assert place() == "loop"
                    met.append(1)
                    if len(met) >= 2:
                        all_met.set()
                    await all_met.wait()
                assert here() == worker

    async def main() -> None:
        met: list[int] = []
        all_met = asyncio.Event()
        await asyncio.gather(block(met, all_met), block(met, all_met))
        assert len(met) == 6

    loops.run(main)


@pytest.mark.trio
def test_five_hundred_round_trips_in_one_block_lose_nothing(
    loops: LoopKind, executor: Executor
) -> None:
    """Parts and calls take turns, and each sees what the others have counted."""
    counter = contextvars.ContextVar("counter", default=0)

    def count() -> str:
        counter.set(counter.get() + 1)
        return place()

    async def main() -> None:
        async with threadpool(executor):
            worker = here()
            for number in range(250):
                async with eventloop():
                    assert count() == "loop"
                assert here() == worker
                assert exec_in_eventloop(count) == "loop"
                assert here() == worker
                count()
                assert counter.get() == 3 * (number + 1)
        assert counter.get() == 750

    loops.run(main)


def test_a_part_is_entered_while_the_pool_is_shut_down(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """The worker is reserved: neither the part nor a block that goes back to it needs the pool."""

    async def main() -> None:
        pool = executor_class(1)
        try:
            async with threadpool(pool):
                worker = here()
                pool.shutdown(wait=False, cancel_futures=True)
                async with eventloop():
                    await suspend()
                    async with threadpool(pool):
                        assert here() == worker
                assert here() == worker
        finally:
            await asyncio.to_thread(pool.shutdown)

    current_task_loops.run(main)


def test_a_task_that_ended_in_a_part_does_not_hold_its_worker(
    loops: LoopKind,
    one: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody keeps the task, for its result. A warning says that the part was not left."""
    monkeypatch.setattr("threadhop._block_job.POLL", 0.01)

    async def ends() -> str:
        await threadpool(one).__aenter__()
        await eventloop().__aenter__()
        return "value"

    async def main() -> None:
        task = start(ends())
        assert await task == "value"
        await assert_is_whole(one, 1)
        assert task.done()

    loops.run(main)
    assert "without leaving it" in caplog.text


# --- outside of any block


def test_outside_of_any_block_it_does_nothing(loops: LoopKind, executor: Executor) -> None:
    """The thread is the same, and the loop has no turn: nothing else runs between."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ran: list[bool] = []
        for _ in range(2):
            loop.call_soon(ran.append, True)
            async with eventloop():
                assert place() == "loop"
                assert not ran
            assert not ran
            await turns()
            assert ran.pop()
            with pytest.raises(OopsError):
                async with eventloop():
                    raise OopsError
            async with threadpool(executor):  # the second time in a task that had a block
                pass

    loops.run(main)


def test_without_a_loop_the_entry_says_so() -> None:
    """The coroutine is stepped by hand, in a thread that knows no loop."""

    async def main() -> None:
        async with eventloop():
            raise AssertionError("the part ran")

    with pytest.raises(RuntimeError, match=r"eventloop\(\).*threadpool\(\)"):
        main().send(None)


# --- ways out of it


@pytest.mark.trio
@pytest.mark.parametrize("how", ["end", "return", "break", "continue", "raise"])
def test_however_the_part_is_left_each_finally_runs_in_its_own_thread(
    loops: LoopKind, one: ThreadPoolExecutor, how: str
) -> None:
    trail = Trail()

    async def leave() -> str:
        for _ in range(1):
            async with threadpool(one):
                try:
                    async with eventloop():
                        try:
                            await suspend()
                            if how == "return":
                                return "value"
                            if how == "break":
                                break
                            if how == "continue":
                                continue
                            if how == "raise":
                                raise OopsError
                        finally:
                            trail.note("part")
                    trail.note("end")
                finally:
                    trail.note("body")
        return "end"

    async def main() -> None:
        try:
            assert await leave() == ("value" if how == "return" else "end")
        except OopsError:
            assert how == "raise"
        trail.note("outside")

    loops.run(main)
    at_end = [("end", "one_0")] if how == "end" else []
    assert trail.steps == [("part", "loop"), *at_end, ("body", "one_0"), ("outside", "loop")]


@pytest.mark.trio
def test_an_error_of_the_part_is_caught_on_the_worker(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The error is the object itself, with the lines of the part and no foreign context."""
    error = OopsError("part")

    async def fails() -> None:
        await suspend()
        raise error  # the line

    async def main() -> None:
        async with threadpool(one):
            try:
                async with eventloop():
                    await fails()
            except OopsError as caught:
                assert caught is error
                assert caught.__context__ is None
                assert place() == "one_0"
                lines = [frame.line for frame in traceback.extract_tb(caught.__traceback__)]
                assert lines == ["await fails()", "raise error  # the line"]
            else:
                raise AssertionError("nothing was raised")

    loops.run(main)


@pytest.mark.trio
@pytest.mark.parametrize(
    "kind",
    [
        OopsError,
        StopIteration,
        StopAsyncIteration,
        GeneratorExit,
        SystemExit,
        KeyboardInterrupt,
        asyncio.CancelledError,
    ],
)
def test_whatever_the_part_raises_comes_out_through_the_worker(
    loops: LoopKind, one: ThreadPoolExecutor, kind: type[BaseException]
) -> None:
    """An ``except`` of the body sees the object itself, and so does one around the block."""
    trail = Trail()

    async def main() -> None:
        error = kind("odd")
        try:
            async with threadpool(one):
                try:
                    async with eventloop():
                        await suspend()
                        raise error
                except kind as caught:
                    assert caught is error
                    trail.note("body")
                    raise
        except kind as caught:
            assert caught is error
            assert caught.__context__ is None
            trail.note("outside")

    loops.run(main)
    assert trail.steps == [("body", "one_0"), ("outside", "loop")]


@pytest.mark.trio
def test_an_error_that_the_body_handles_is_handled_in_its_part_too(
    loops: LoopKind, executor: Executor
) -> None:
    """A new error has the handled one as its context, and a bare ``raise`` raises that."""

    async def main() -> None:
        async with threadpool(executor):
            try:
                raise OopsError("body")
            except OopsError:
                with pytest.raises(LookupError) as caught:
                    async with eventloop():
                        await suspend()
                        raise LookupError("part") from None
                assert isinstance(caught.value.__context__, OopsError)
                with pytest.raises(OopsError, match="body"):
                    async with eventloop():
                        await suspend()
                        raise  # the handled one

    loops.run(main)


# --- context variables: see test_context_model.py, too


def test_tasks_that_share_a_context_are_in_parts_and_bodies_at_once(
    loops: LoopKind, executor: Executor
) -> None:
    """The worker never enters the Context of the task, so neither of them is lost."""

    async def block(gate: Gate, go: asyncio.Event) -> str:
        async with threadpool(executor):
            async with eventloop():
                await go.wait()
            gate.stop_here()
            async with eventloop():
                await suspend()
        return "ended"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared = contextvars.copy_context()
        gates = [Gate(), Gate()]
        go = asyncio.Event()
        tasks = [loop.create_task(block(gate, go), context=shared) for gate in gates]
        await turns()
        go.set()
        for gate in gates:
            await until(gate.reached.is_set)
        for gate in gates:
            gate.open()
        assert await asyncio.gather(*tasks) == ["ended", "ended"]

    loops.run(main)
