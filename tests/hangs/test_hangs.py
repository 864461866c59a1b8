"""Programs that end, whatever was abandoned on the way. Each runs in a process of its own."""

from __future__ import annotations

import os
import sys

import pytest
from helpers.child import STEPS, run_in_child

posix = pytest.mark.skipif(
    os.name != "posix", reason="sends SIGINT to a thread, which only POSIX can"
)

#: All the programs begin with this.
START = (
    STEPS
    + """
import asyncio, contextlib, gc, logging, signal, threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
import threadhop._block_job
from threadhop import WorkerPool, threadpool

logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message).60s")

def ctrl_c():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

class Never(Executor):
    "Drops what it is given, and says nothing."
    submitted = threading.Event()
    def submit(self, fn, /, *args, **kwargs):
        self.submitted.set()
        return Future()

started = threading.Event()
go = threading.Event()
"""
)

#: A parked worker looks every second whether its loop is still there. ``test_parked.py`` tests the
#: second; this saves the time elsewhere.
QUICK = """
threadhop._block_job.POLL = 0.05
"""


def lines(source: str) -> list[str]:
    """The program ends by itself and with success. Returns its output."""
    __tracebackhide__ = True
    child = run_in_child(START + source)
    assert child.returncode == 0, child.stdout + child.stderr
    assert "Exception ignored" not in child.stderr, child.stderr
    return child.stdout.splitlines()


# --- Ctrl+C


def interrupted(source: str) -> list[str]:
    """Run a program whose ``main`` sends Ctrl+C to its loop."""
    return lines(
        source
        + """
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""
    )


@posix
def test_ctrl_c_lets_the_bodies_end_and_the_cleanup_run() -> None:
    """KeyboardInterrupt comes out of ``asyncio.run`` after both."""
    assert interrupted("""
def is_main():
    return threading.current_thread() is threading.main_thread()

async def main():
    task = asyncio.current_task()
    try:
        async with threadpool(ThreadPoolExecutor(1)):
            try:
                async with threadpool(ThreadPoolExecutor(1)):
                    ctrl_c()
                    wait_until(task.cancelling)
                    say("inner ends", is_main())
            finally:
                say("outer cleans up", is_main())
    except asyncio.CancelledError:
        say("cancelled", is_main())
        raise
""") == ["inner ends False", "outer cleans up False", "cancelled True", "KeyboardInterrupt"]


@posix
def test_ctrl_c_reaches_a_queued_block_at_once() -> None:
    assert interrupted("""
pool = ThreadPoolExecutor(1)
pool.submit(go.wait)

async def main():
    threading.Timer(0.05, ctrl_c).start()
    try:
        async with threadpool(pool):
            say("the body ran")
    finally:
        say("cleans up")
        go.set()
""") == ["cleans up", "KeyboardInterrupt"]


@posix
def test_a_second_ctrl_c_still_waits_for_the_body() -> None:
    """The loop stops at once; the Runner then cancels the tasks that are left, and waits."""
    assert interrupted("""
async def main():
    task = asyncio.current_task()
    try:
        async with threadpool():
            ctrl_c()
            wait_until(lambda: task.cancelling() == 1)
            ctrl_c()
            wait_until(lambda: task.cancelling() == 2)
            say("body ends")
    finally:
        say("cleans up")
""") == ["body ends", "cleans up", "KeyboardInterrupt"]


# --- the end of the process


@pytest.mark.parametrize("kind", ["ThreadPoolExecutor", "WorkerPool"])
def test_a_process_ends_after_the_bodies_that_still_run(kind: str) -> None:
    """The loop was stopped and never closed; the pools were never shut down."""
    program = """
async def block():
    async with threadpool(KIND(1)):
        async with threadpool(KIND(1)):
            started.set()
            go.wait()
            say("inner ends")
        say("outer ends")
    say("went on")

async def main():
    global task
    task = asyncio.create_task(block())
    await until(started.is_set)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
threading.Timer(0.05, go.set).start()
say("main ends")
"""
    assert lines(program.replace("KIND", kind)) == ["main ends", "inner ends", "outer ends"]


@pytest.mark.parametrize(
    "outer", ["", "threadpool(ThreadPoolExecutor(1)), "], ids=["flat", "nested"]
)
def test_asyncio_run_ends_with_a_block_that_never_begins(outer: str) -> None:
    """An executor that loses jobs: the task waits, and is cancelled like any other."""
    program = """
async def block():
    try:
        async with OUTER threadpool(Never()):
            say("the body ran")
    finally:
        say("cleans up")

async def main():
    asyncio.create_task(block())
    await until(Never.submitted.is_set)

asyncio.run(main())
say("main ends")
"""
    assert lines(program.replace("OUTER ", outer)) == ["cleans up", "main ends"]


def test_a_loop_closed_under_a_queued_block_hangs_nothing() -> None:
    """A worker takes the job up later: it does not begin the body, and goes on to other jobs."""
    child = run_in_child(
        START
        + """
pool = ThreadPoolExecutor(1)
pool.submit(go.wait)

async def block():
    async with threadpool(pool):
        say("the body ran")

async def main():
    global task
    task = asyncio.create_task(block())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
go.set()
say(pool.submit(str, 1).result())
"""
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.splitlines() == ["1"]
    assert "threadhop WARNING" in child.stderr


# --- coroutines and tasks that nobody holds any more


def test_a_process_ends_while_a_worker_is_parked_for_a_block_that_never_begins() -> None:
    """The inner executor lost the job. The loop is closed, so the outer worker need not wait, and
    GeneratorExit goes through the outer body's finally when the task is collected.

    PyPy frees a suspended coroutine without closing it.
    """
    closes = sys.implementation.name != "pypy"
    program = """
pool = ThreadPoolExecutor(1)

async def block():
    try:
        async with threadpool(pool):
            try:
                async with threadpool(Never()):
                    say("the body ran")
            finally:
                say("outer body cleans up")
    finally:
        say("cleans up")

async def main():
    asyncio.create_task(block())
    await until(Never.submitted.is_set)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
loop.close()
del loop
say(pool.submit(str, 1).result())  # the parked worker has gone
for _ in range(3):
    gc.collect()
say("main ends")
"""
    cleanups = ["outer body cleans up", "cleans up"] if closes else []
    assert lines(QUICK + program) == ["1", *cleanups, "main ends"]


def test_a_running_body_keeps_its_abandoned_task_alive() -> None:
    """Only the worker refers to it, and that is enough: it ends as any other."""
    assert lines("""
pool = ThreadPoolExecutor(1)

async def block():
    async with threadpool(pool):
        started.set()
        go.wait()
    say("went on")
    done.set()

async def main():
    global done
    done = asyncio.Event()
    asyncio.create_task(block())
    await until(started.is_set)
    for _ in range(3):
        gc.collect()
    go.set()
    await asyncio.wait_for(done.wait(), 8)

asyncio.run(main())
""") == ["went on"]


def test_a_worker_that_dies_with_its_daemon_threads_does_not_hold_up_the_exit() -> None:
    """An executor of daemon threads: the process does not wait for the body."""
    assert lines("""
class Daemons(Executor):
    def submit(self, fn, /, *args, **kwargs):
        threading.Thread(target=fn, args=args, kwargs=kwargs, daemon=True).start()

async def block():
    async with threadpool(Daemons()):
        started.set()
        threading.Event().wait()

async def main():
    global task
    task = asyncio.create_task(block())
    await until(started.is_set)

loop = asyncio.new_event_loop()
loop.run_until_complete(main())
say("main ends")
""") == ["main ends"]
