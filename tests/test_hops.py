"""``hops()`` and ``print_hops()``: what waits for a worker, runs on one, or keeps one waiting."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import inspect
import io
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import STEPS, run_in_child
from helpers.loops import LoopKind
from helpers.places import OopsError, ended, start
from helpers.steps import LIMIT, Gate, busy, until, wait_until

from threadhop import (
    AsyncExecutor,
    Hop,
    WorkerPool,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    hops,
    print_hops,
    threadpool,
)

#: Without a GIL a coroutine that another thread may resume is not looked at.
LOOKS_AT_COROUTINES = getattr(sys, "_is_gil_enabled", lambda: True)()


def line_of(func: Any, text: str) -> str:
    lines, first = inspect.getsourcelines(func)
    (at,) = (at for at, line in enumerate(lines) if text in line)
    return f"{inspect.getsourcefile(func)}:{first + at}"


def of(executor: Executor) -> list[Hop]:
    """The oldest first."""
    return [hop for hop in hops() if hop.executor is executor]


def states(executor: Executor) -> list[tuple[str, str]]:
    return [(hop.what, hop.state) for hop in of(executor)]


async def until_states(executor: Executor, *wanted: tuple[str, str]) -> list[Hop]:
    """In any order: hops of one moment are."""
    await until(lambda: sorted(states(executor)) == sorted(wanted))
    return of(executor)


async def named(name: str, func: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
    task = start(func(*args))
    task.set_name(name)
    return task


async def block(executor: Executor, gate: Gate) -> None:
    async with threadpool(executor):  # the block
        gate.stop_here()


async def part(executor: Executor, reached: asyncio.Event, event: asyncio.Event) -> None:
    async with threadpool(executor):  # the block
        async with eventloop():
            reached.set()
            await event.wait()  # it stands here


def test_a_block_is_queued_and_then_runs(loops: LoopKind, one: ThreadPoolExecutor) -> None:
    """With the name of its task, its line, its executor and its worker; then it is gone."""
    gate = Gate()

    async def main() -> None:
        with busy(one):
            task = await named("mine", block, one, gate)
            (queued,) = await until_states(one, ("block", "queued"))
        assert (queued.name, queued.thread) == ("mine", None)
        if LOOKS_AT_COROUTINES:
            assert queued.where == line_of(block, "# the block")
        await until(gate.reached.is_set)
        (running,) = await until_states(one, ("block", "running"))
        assert (running.name, running.thread) == ("mine", "one_0")
        assert running.where == line_of(block, "# the block")
        assert 0 <= running.seconds < LIMIT
        gate.open()
        await ended(task)
        await until_states(one)

    loops.run(main)


def test_a_loop_part_is_a_hop_beside_its_block_which_is_away(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The one names the worker that waits, the other the line that it waits for."""

    async def main() -> None:
        event = asyncio.Event()
        reached = asyncio.Event()
        task = await named("mine", part, one, reached, event)
        await reached.wait()
        found = await until_states(one, ("block", "away"), ("loop part", "running"))
        away, here = sorted(found, key=lambda hop: hop.what)
        assert (away.name, away.thread) == ("mine", "one_0")
        assert away.where == line_of(part, "# the block")
        assert (here.name, here.thread) == ("mine", threading.current_thread().name)
        stands = "# it stands here" if LOOKS_AT_COROUTINES else "# the block"
        assert here.where == line_of(part, stands)
        event.set()
        await ended(task)
        await until_states(one)

    loops.run(main)


def test_a_block_in_a_block_of_another_executor_is_two(
    loops: LoopKind, one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """Queued or running: the outer worker waits."""
    gate = Gate()

    async def nested() -> None:
        async with threadpool(one), threadpool(other):
            gate.stop_here()

    async def main() -> None:
        with busy(other):
            task = await named("mine", nested)
            await until_states(other, ("block", "queued"))
            await until_states(one, ("block", "away"))
        (inner,) = await until_states(other, ("block", "running"))
        (outer,) = await until_states(one, ("block", "away"))
        assert (inner.name, inner.thread) == ("mine", "other_0")
        assert (outer.name, outer.thread) == ("mine", "one_0")
        gate.open()
        await ended(task)

    loops.run(main)


def as_task(executor: Executor, *call: Any) -> asyncio.Task[Any]:
    return start(AsyncExecutor(executor).run(*call))


@pytest.mark.parametrize("call", [exec_in_executor, exec_in_executor_threading_future, as_task])
def test_a_call_has_the_name_and_the_line_of_its_function(
    loops: LoopKind, one: ThreadPoolExecutor, call: Any
) -> None:
    """Whatever waits for it."""

    def work(gate: Gate) -> None:
        gate.stop_here()

    async def main() -> None:
        gate = Gate()
        with busy(one):
            future = call(one, work, gate)
            (queued,) = await until_states(one, ("call", "queued"))
        assert queued.name == work.__qualname__
        assert queued.where == f"{__file__}:{work.__code__.co_firstlineno}"
        await until(gate.reached.is_set)
        (running,) = await until_states(one, ("call", "running"))
        assert (running.name, running.where) == (queued.name, queued.where)
        assert running.thread == "one_0"
        gate.open()
        await until(future.done)
        await until_states(one)

    loops.run(main)


@pytest.mark.parametrize("in_block", [True, False])
def test_exec_in_eventloop_is_a_loop_part(
    loops: LoopKind, one: ThreadPoolExecutor, in_block: bool
) -> None:
    """Of a block and of a call, with the name of what the loop does."""

    async def main() -> None:
        event = asyncio.Event()

        reached = asyncio.Event()

        async def wait() -> None:
            reached.set()
            await event.wait()

        def ask() -> None:
            exec_in_eventloop(wait)  # it asks here

        async def ask_in_block() -> None:
            async with threadpool(one):
                ask()

        future: Any = start(ask_in_block()) if in_block else exec_in_executor(one, ask)
        await reached.wait()
        what = "block" if in_block else "call"
        found = await until_states(one, (what, "away"), ("loop part", "running"))
        (here,) = (hop for hop in found if hop.what == "loop part")
        assert here.name == wait.__qualname__
        stands = "await event.wait()" if LOOKS_AT_COROUTINES else "# it asks here"
        assert here.where == line_of(wait if LOOKS_AT_COROUTINES else ask, stands)
        event.set()
        await future
        await until_states(one)

    loops.run(main)


def test_a_loop_that_does_not_look_leaves_the_loop_part_queued(executor: Executor) -> None:
    """Asked in another thread while the loop thread stands still."""

    async def main() -> None:
        event = asyncio.Event()
        event.set()
        gate = Gate()

        async def gated() -> None:
            async with threadpool(executor):
                gate.stop_here()
                async with eventloop():  # it asks here
                    pass

        task = start(gated())
        await until(gate.reached.is_set)
        gate.open()
        while sorted(states(executor)) != [("block", "away"), ("loop part", "queued")]:
            pass  # The loop stands still.
        (queued,) = (hop for hop in of(executor) if hop.what == "loop part")
        assert queued.thread is None
        if LOOKS_AT_COROUTINES:
            assert queued.where == line_of(gated, "# it asks here")
        await task

    asyncio.run(main())


@pytest.mark.parametrize("end", ["raises", "cancelled", "shut down"])
def test_what_has_ended_otherwise_is_gone(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], end: str
) -> None:
    """A block that raises; one that is cancelled while it waits; one that is dropped."""
    pool = executor_class(1)

    async def raises() -> None:
        async with threadpool(pool):
            raise OopsError

    async def main() -> None:
        if end == "raises":
            with pytest.raises(OopsError):
                await raises()
        else:
            with busy(pool):
                task = start(raises())
                await until_states(pool, ("block", "queued"))
                if end == "cancelled":
                    task.cancel()
                else:
                    pool.shutdown(wait=False, cancel_futures=True)
                await until(task.done)
                assert states(pool) == []
            with pytest.raises(BaseException):  # noqa: B017, PT011 - told apart elsewhere
                task.result()
        await until_states(pool)

    loops.run(main)
    pool.shutdown()


def test_a_view_and_all_loops_of_the_process() -> None:
    """Jobs that wait in the queue of a view are seen; loops of other threads as well."""
    gate = Gate()
    with WorkerPool(2) as pool:
        view = pool.limited(1)

        async def main() -> None:
            await asyncio.gather(block(view, gate), block(view, gate))

        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()

        async def look() -> None:
            await until_states(view, ("block", "running"), ("block", "queued"))

        asyncio.run(look())
        gate.open()
        thread.join(LIMIT)
    assert not thread.is_alive()


def test_the_oldest_comes_first_and_the_table_has_a_line_for_each(
    one: ThreadPoolExecutor,
) -> None:
    gate = Gate()

    async def main() -> None:
        first = await named("first", block, one, gate)
        await until(gate.reached.is_set)
        await asyncio.sleep(0.02)
        second = await named("second", block, one, gate)
        found = await until_states(one, ("block", "running"), ("block", "queued"))
        assert [hop.name for hop in found] == ["first", "second"]
        file = io.StringIO()
        print_hops(file)
        titles, *lines = file.getvalue().splitlines()
        assert " ".join(titles.split()) == "seconds what state name where thread executor"
        (line,) = (line for line in lines if "first" in line)
        assert line.split()[1:4] == ["block", "running", "first"]
        assert f"one_0   {type(one).__name__} one" in line
        gate.open()
        await ended(first, second)

    asyncio.run(main())


def test_a_worker_on_its_way_out_is_no_hop(
    monkeypatch: pytest.MonkeyPatch, one: ThreadPoolExecutor
) -> None:
    """The task is home, and the worker has yet to let go of the job."""
    out = Gate()

    class LyingSys:
        """``set_asyncgen_hooks`` is the last thing that the worker does."""

        calls = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(sys, name)

        def set_asyncgen_hooks(self, *hooks: Any) -> None:
            sys.set_asyncgen_hooks(*hooks)
            self.calls += 1
            if self.calls == 2:
                out.stop_here()

    monkeypatch.setattr("threadhop._block_job.sys", LyingSys())

    async def main() -> None:
        async with threadpool(one):
            pass
        await until(out.reached.is_set)
        assert states(one) == []
        out.open()

    asyncio.run(main())


def test_a_stream_that_is_just_being_written_to_gets_the_table_by_its_descriptor() -> None:
    """A signal handler may come in the middle of a write: the stream refuses a second one."""

    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call")

        def fileno(self) -> int:
            return there

    here, there = os.pipe()
    print_hops(Busy())
    assert os.read(here, 100000)
    os.close(here)
    os.close(there)


def test_a_hop_is_frozen() -> None:
    assert [field.name for field in dataclasses.fields(Hop)] == [
        *("what", "name", "where", "state", "seconds", "executor", "thread")
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hop("call", "f", "a.py:1", "queued", 0.0, WorkerPool(1), None).name = "g"  # type: ignore[misc]


def test_who_has_asked_keeps_nothing(one: ThreadPoolExecutor) -> None:
    """No job, and no task."""

    async def main() -> weakref.ref[asyncio.Task[Any]]:
        gate = Gate()
        with busy(one):
            task = await named("mine", block, one, gate)
            await until_states(one, ("block", "queued"))
            gate.open()
        await task
        return weakref.ref(task)

    ref = asyncio.run(main())

    def is_collected() -> bool:
        gc.collect()
        return ref() is None

    wait_until(is_collected)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX has it")
@pytest.mark.parametrize("pool", ["WorkerPool", "ThreadPoolExecutor"])
def test_a_signal_handler_prints_them_wherever_it_comes(pool: str) -> None:
    """While the main thread starts threads, logs, writes to stderr: it waits for no lock."""
    child = run_in_child(
        STEPS
        + f"""
import signal, threading
from concurrent.futures import ThreadPoolExecutor
from threadhop import WorkerPool, print_hops, threadpool
over, printed = threading.Event(), threading.Semaphore(0)

def handle(*_):
    print_hops()
    printed.release()

signal.signal(signal.SIGUSR1, handle)

def send():
    # (On PyPy it takes long to ask.)
    while not over.wait(0.1 if sys.implementation.name == "pypy" else 0.002):
        os.kill(os.getpid(), signal.SIGUSR1)
        printed.acquire(timeout=1)  # Or a slow machine would do nothing else.

async def main():
    sender = threading.Thread(target=send)
    sender.start()
    for _ in range(20):
        with {pool}(2) as pool:
            async def block():
                async with threadpool(pool):
                    time.sleep(0.002)
            sys.stderr.write("x" * 100 + "\\n")
            await asyncio.gather(*(block() for _ in range(10)))
    over.set()
    sender.join()

asyncio.run(main())
say("done")
"""
    )
    assert (child.stdout, child.returncode) == ("done\n", 0)
    assert "Traceback" not in child.stderr
    assert "block" in child.stderr


# --- names


def test_the_repr_of_a_task_names_executor_worker_and_seconds(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    gate = Gate()

    async def main() -> None:
        with busy(one):
            task = start(block(one, gate))
            await until_states(one, ("block", "queued"))
            assert f"for a worker of {type(one).__name__} one>" in repr(task)
            assert f"in the block at {line_of(block, '# the block')}, waits for " in repr(task)
        await until(gate.reached.is_set)
        assert f" s on one_0 of {type(one).__name__} one>" in repr(task)
        gate.open()
        await ended(task)

    loops.run(main)


def test_a_worker_of_a_worker_pool_tells_its_task_to_logs_and_other_threads(
    loops: LoopKind, caplog: pytest.LogCaptureFixture
) -> None:
    """In the body its own name is the plain one, and comes back to the others after it."""
    gate = Gate()
    own: list[str] = []
    log = logging.getLogger("mine")

    def work() -> threading.Thread:
        gate.stop_here()
        log.warning("here")
        own.append(threading.current_thread().name)
        return threading.current_thread()

    async def in_block(pool: WorkerPool) -> threading.Thread:
        async with threadpool(pool):
            return work()

    async def main() -> None:
        with WorkerPool(1, "work") as pool:
            task = await named("mine", in_block, pool)
            await until(gate.reached.is_set)
            (thread,) = pool._threads
            assert thread.name == "work_0 (mine)"
            gate.open()
            await ended(task)
            await until(lambda: thread.name == "work_0")
            await exec_in_executor(pool, work)
            pool.submit(work).result(LIMIT)
            thread.name = "renamed"
            assert thread.name == "renamed"

    loops.run(main)
    names = [record.threadName for record in caplog.records if record.name == "mine"]
    assert names == ["work_0 (mine)", f"work_0 ({work.__qualname__})", "work_0"]
    assert own == ["work_0"] * 3
