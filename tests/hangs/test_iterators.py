"""Programs that end although a worker waits with a full buffer for somebody who never comes.

Each runs in a process of its own, with a deadline.
"""

from __future__ import annotations

import os
import sys

import pytest
from helpers.child import STEPS, run_in_child

START = (
    STEPS
    + """
import asyncio, gc, logging, os, threading, time
from concurrent.futures import ThreadPoolExecutor
import threadhop._iterator_job
from threadhop import AsyncExecutor, WorkerPool, exec_in_executor, iterate_in_executor

threadhop._iterator_job.POLL = 0.05
logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

closed = threading.Event()
read = []

def source():
    try:
        for number in range(1_000_000):
            read.append(number)
            yield number
    finally:
        say("closed", len(read) < 100)
        closed.set()

async def begin(pool, wait=True):
    global items
    items = iterate_in_executor(pool, source, buffersize=4)
    await anext(items)
    await until(lambda: len(read) >= 4)
    await asyncio.sleep(0.02)
"""
)

END = """
assert closed.wait(8)
pool.submit(say, "the worker is free").result(8)
"""

LOOP_CLOSED = """
loop = asyncio.new_event_loop()
loop.run_until_complete(begin(pool))
loop.close()
"""


@pytest.mark.parametrize(
    ("pool", "way"),
    [
        ("ThreadPoolExecutor(1)", LOOP_CLOSED),
        ("WorkerPool(1)", LOOP_CLOSED + "del loop, items; gc.collect()"),
    ],
    ids=["the loop is closed", "and thrown away, and so is the iterator"],
)
def test_it_closes_when(pool: str, way: str) -> None:
    """The source is closed on its worker, which is free; a warning says so, once."""
    child = run_in_child(f"{START}pool = {pool}\n{way}{END}")
    assert child.stdout.split("\n")[:2] == ["closed True", "the worker is free"], child.stderr
    assert child.returncode == 0
    assert child.stderr.count("threadhop WARNING") == 1, child.stderr


@pytest.mark.parametrize("pool", ["ThreadPoolExecutor(1)", "WorkerPool(1)"])
def test_a_process_ends_although_its_loop_was_only_stopped(pool: str) -> None:
    child = run_in_child(
        f"""{START}
pool = {pool}
loop = asyncio.new_event_loop()
loop.run_until_complete(begin(pool))
say("end")
"""
    )
    assert child.stdout.split() == ["end", "closed", "True"], child.stderr
    assert child.returncode == 0
    assert child.stderr.count("threadhop WARNING") == 1, child.stderr


def test_ctrl_c_in_the_consumer_closes_the_source_and_ends_the_process() -> None:
    child = run_in_child(
        START
        + """
import signal
pool = WorkerPool(1)
async def main():
    async with iterate_in_executor(pool, source) as items:
        async for number in items:
            if number == 5:
                signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    say("KeyboardInterrupt")
"""
    )
    assert child.stdout.split() == ["closed", "True", "KeyboardInterrupt"]
    assert (child.returncode, child.stderr) == (0, "")


#: How a source ends that nobody wants any more: full it waits for room; blocked it must be told.
FORGOTTEN = {"full": "source", "blocked": "blocked"}


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="forgets when the collector comes")
@pytest.mark.parametrize("run", ["asyncio.run(main())", "import trio; trio.run(main)"])
@pytest.mark.parametrize("state", FORGOTTEN)
@pytest.mark.parametrize("pool", ["ThreadPoolExecutor(1)", "WorkerPool(1)"])
def test_a_pool_that_the_loop_thread_waits_for_gets_the_worker_of_a_forgotten_iterator(
    pool: str, state: str, run: str
) -> None:
    """The loop would close the iterator, and stands still meanwhile."""
    if "trio" in run:
        pytest.importorskip("trio")
    child = run_in_child(
        START
        + f"""
from threadhop import on_cancel
reached = threading.Event()
def blocked():
    told = threading.Event()
    try:
        yield 0
        with on_cancel(told.set):
            reached.set()
            told.wait()
    finally:
        say("closed", told.is_set())
async def main():
    with {pool} as pool:
        async for number in iterate_in_executor(pool, {FORGOTTEN[state]}):
            assert {state == "full"} or reached.wait(8)
            break
    say("left")
{run}
"""
    )
    assert child.stdout.split() == ["closed", "True", "left"], child.stderr
    assert child.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_in_the_child_of_a_fork_the_worker_works_for_nobody() -> None:
    """Its source comes to its end there; nothing is told to the loop of the parent."""
    child = run_in_child(
        START
        + """
import warnings
warnings.simplefilter("ignore")
pool = ThreadPoolExecutor(1)

def forking():
    yield 1
    pid = os.fork()
    try:
        yield 2 if pid else 20
        yield 3 if pid else 30
    finally:
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

async def main():
    async with iterate_in_executor(pool, forking, buffersize=1) as items:
        say([item async for item in items])

asyncio.run(main())
"""
    )
    assert (child.returncode, child.stdout) == (0, "[1, 2, 3]\n"), child.stderr
