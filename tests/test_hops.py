"""``hops()`` and ``print_hops()``: what waits for a worker, runs on one, or keeps one waiting."""

from __future__ import annotations

import asyncio
import dataclasses
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
from contextlib import nullcontext
from typing import Any

import pytest
from helpers.child import STEPS, run_in_child
from helpers.garbage import collect_until
from helpers.loops import LoopKind, on_every_loop, on_one_loop
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
    """In any order: hops of one moment are. (To ask takes long on PyPy: no second time.)"""
    found: list[Hop] = []

    def are_there() -> bool:
        found[:] = of(executor)
        return sorted((hop.what, hop.state) for hop in found) == sorted(wanted)

    await until(are_there)
    return found


async def named(name: str, func: Callable[..., Any], *args: Any) -> asyncio.Task[Any]:
    task = start(func(*args))
    task.set_name(name)
    return task


async def block(executor: Executor, gate: Gate) -> None:
    async with threadpool(executor):  # the block
        gate.stop_here()


def test_a_block_is_queued_and_then_runs(loops: LoopKind, one: ThreadPoolExecutor) -> None:
    """With the name of its task, its line, its executor and its worker; then it is gone.

    The repr of the task tells executor, worker and seconds, too.
    """
    gate = Gate()
    where = line_of(block, "# the block")
    pool = f"{type(one).__name__} one>"

    async def main() -> None:
        with busy(one):
            task = await named("mine", block, one, gate)
            (queued,) = await until_states(one, ("block", "queued"))
            assert f"for a worker of {pool}" in repr(task)
            assert f"in the block at {where}, waits for " in repr(task)
        assert (queued.name, queued.thread) == ("mine", None)
        if LOOKS_AT_COROUTINES:
            assert queued.where == where
        await until(gate.reached.is_set)
        (running,) = await until_states(one, ("block", "running"))
        assert (running.name, running.thread, running.where) == ("mine", "one_0", where)
        assert 0 <= running.seconds < LIMIT
        assert f" s on one_0 of {pool}" in repr(task)
        gate.open()
        await ended(task)
        await until_states(one)

    loops.run(main)


def test_a_loop_part_is_a_hop_beside_its_block_which_is_away(
    loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """The one names the worker that waits, the other the line that it waits for."""

    async def part() -> None:
        async with threadpool(one):  # the block
            async with eventloop():
                reached.set()
                await event.wait()  # it stands here

    async def main() -> None:
        task = await named("mine", part)
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

    reached, event = asyncio.Event(), asyncio.Event()
    loops.run(main)


@on_one_loop
async def test_a_block_in_a_block_of_another_executor_is_two(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """Queued or running: the outer worker waits."""
    gate = Gate()

    async def nested() -> None:
        async with threadpool(one), threadpool(other):
            gate.stop_here()

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


def as_task(executor: Executor, *call: Any) -> asyncio.Task[Any]:
    return start(AsyncExecutor(executor).run(*call))


@pytest.mark.parametrize("call", [exec_in_executor, exec_in_executor_threading_future, as_task])
@on_one_loop
async def test_a_call_has_the_name_and_the_line_of_its_function(
    one: ThreadPoolExecutor, call: Any
) -> None:
    """Whatever waits for it."""

    def work(gate: Gate) -> None:
        gate.stop_here()

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


@pytest.mark.parametrize("what", ["block", "call"])
@on_every_loop
async def test_exec_in_eventloop_is_a_loop_part(executor: Executor, what: str) -> None:
    """Of a block and of a call, with the name of what the loop does."""
    reached, event = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        reached.set()
        await event.wait()

    def ask() -> None:
        exec_in_eventloop(wait)  # it asks here

    async def ask_in_block() -> None:
        async with threadpool(executor):
            ask()

    future: Any = start(ask_in_block()) if what == "block" else exec_in_executor(executor, ask)
    await reached.wait()
    found = await until_states(executor, (what, "away"), ("loop part", "running"))
    (here,) = (hop for hop in found if hop.what == "loop part")
    assert here.name == wait.__qualname__
    stands = "await event.wait()" if LOOKS_AT_COROUTINES else "# it asks here"
    assert here.where == line_of(wait if LOOKS_AT_COROUTINES else ask, stands)
    event.set()
    await future
    await until_states(executor)


@on_one_loop
async def test_a_loop_that_does_not_look_leaves_the_loop_part_queued(executor: Executor) -> None:
    """Asked in another thread while the loop thread stands still."""
    gate = Gate()

    async def gated() -> None:
        async with threadpool(executor):
            gate.stop_here()
            async with eventloop():  # it asks here
                pass

    task = start(gated())
    await until(gate.reached.is_set)
    gate.open()
    wait_until(lambda: sorted(states(executor)) == [("block", "away"), ("loop part", "queued")])
    (queued,) = (hop for hop in of(executor) if hop.what == "loop part")
    assert queued.thread is None
    if LOOKS_AT_COROUTINES:
        assert queued.where == line_of(gated, "# it asks here")
    await task


@pytest.mark.parametrize("end", ["raises", "cancelled", "shut down"])
@on_one_loop
async def test_what_has_ended_otherwise_is_gone(one: ThreadPoolExecutor, end: str) -> None:
    """A block that raises; one that is cancelled while it waits; one that is dropped."""

    async def raises() -> None:
        async with threadpool(one):
            raise OopsError

    with busy(one) if end != "raises" else nullcontext():
        task = start(raises())
        if end != "raises":
            await until_states(one, ("block", "queued"))
        if end == "cancelled":
            task.cancel()
        elif end == "shut down":
            one.shutdown(wait=False, cancel_futures=True)
        await until(task.done)
        if end == "raises":  # The worker has yet to let go of it.
            await until_states(one)
        assert states(one) == []
    assert task.cancelled() or task.exception() is not None


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


@on_one_loop
async def test_the_oldest_comes_first_and_the_table_has_a_line_for_each(
    one: ThreadPoolExecutor,
) -> None:
    gate = Gate()
    first = await named("first", block, one, gate)
    await until(gate.reached.is_set)
    await asyncio.sleep(0.02)
    second = await named("second", block, one, gate)
    found = await until_states(one, ("block", "running"), ("block", "queued"))
    assert [hop.name for hop in found] == ["first", "second"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].name = "third"  # type: ignore[misc]
    file = io.StringIO()
    print_hops(file)
    titles, *lines = file.getvalue().splitlines()
    assert " ".join(titles.split()) == "seconds what state name where thread executor"
    (line,) = (line for line in lines if "first" in line)
    assert line.split()[1:4] == ["block", "running", "first"]
    assert f"one_0   {type(one).__name__} one" in line
    assert any("second" in line for line in lines)
    gate.open()
    await ended(first, second)


@on_one_loop
async def test_a_worker_on_its_way_out_is_no_hop(
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
    async with threadpool(one):
        pass
    await until(out.reached.is_set)
    assert states(one) == []
    out.open()


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
    collect_until(lambda: ref() is None)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="POSIX has it")
def test_a_signal_handler_prints_them_wherever_it_comes() -> None:
    """While the main thread starts threads, logs, writes to stderr: it waits for no lock."""
    child = run_in_child(
        STEPS
        + """
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
    for number in range(20):
        with (WorkerPool, ThreadPoolExecutor)[number % 2](2) as pool:
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


@on_one_loop
async def test_a_worker_of_a_worker_pool_tells_its_task_to_logs_and_other_threads(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In the body its own name is the plain one, and comes back to the others after it."""
    gate = Gate()
    own: list[str] = []
    log = logging.getLogger("mine")

    def work() -> None:
        gate.stop_here()
        log.warning("here")
        own.append(threading.current_thread().name)

    async def in_block(pool: WorkerPool) -> None:
        async with threadpool(pool):
            work()

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
    names = [record.threadName for record in caplog.records if record.name == "mine"]
    assert names == ["work_0 (mine)", f"work_0 ({work.__qualname__})", "work_0"]
    assert own == ["work_0"] * 3
