"""Programs that end although a worker waits for a task that never comes back from the loop.

Each runs in a process of its own, with a deadline. A worker looks every second whether its loop is
still there; in all programs but the first it does so more often, to save time.
"""

from __future__ import annotations

import os

import pytest
from helpers.child import STEPS, run_in_child

START = (
    STEPS
    + """
import asyncio, gc, logging, os, threading, time
from concurrent.futures import ThreadPoolExecutor
import threadhop._block_job
import threadhop._loops._from_thread
from threadhop import eventloop, exec_in_eventloop, threadpool

logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
# The warnings of asyncio about tasks that were pending do not matter here.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# Of two workers one is free, so that it is not a matter of all of them being parked.
pool, other = ThreadPoolExecutor(2), ThreadPoolExecutor(2)
reached = threading.Event()

def all_workers_are_free():
    gc.collect()  # On PyPy a loop part that everybody forgot may still be left until then.
    for executor in (pool, other):
        barrier = threading.Barrier(3)
        for _ in range(2):
            executor.submit(barrier.wait, 8)
        barrier.wait(8)

async def forever():
    reached.set()
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        say("cancelled")
        raise

def call_forever():
    try:
        exec_in_eventloop(forever)
    except RuntimeError as error:
        say("RuntimeError", "went away" in str(error))

async def part():
    async with threadpool(pool), eventloop():
        await forever()

async def nested_part():
    async with threadpool(pool), eventloop(), threadpool(other), eventloop():
        await forever()

async def call():
    async with threadpool(pool):
        call_forever()

async def nested_call():
    async with threadpool(pool), threadpool(other):
        call_forever()

async def main(coro):
    global task
    task = asyncio.create_task(coro)
    await until(reached.is_set)
"""
)

QUICK = """
threadhop._block_job.POLL = 0.05
threadhop._loops._from_thread.POLL = 0.05
"""

#: ``await_looks()`` waits, in any thread, until the parked worker has looked several times more.
LOOKS = """
from threadhop._strand import Strand

looks = 0

def look(strand, is_gone=Strand.is_gone):
    global looks
    gone = is_gone(strand)
    looks += 1  # in one thread: there is one parked worker
    return gone

Strand.is_gone = look

def await_looks():
    now = looks
    wait_until(lambda: looks >= now + 3)
"""


class Program:
    """The program ends by itself, in time, and with success."""

    def __init__(self, source: str, deadline: float = 6, quick: bool = True) -> None:
        __tracebackhide__ = True
        child = run_in_child(START + (QUICK if quick else "") + source, deadline)
        assert child.returncode == 0, child.stdout + child.stderr
        # Not in any traceback. (asyncio's own, when the interpreter is half gone, are not ours.)
        assert f"threadhop{os.sep}_" not in child.stderr, child.stderr
        self.lines = child.stdout.splitlines()
        #: Of lost tasks. Some programs park all workers of a pool: that warning is left out.
        self.warnings = [
            line
            for line in child.stderr.splitlines()
            if "threadhop WARNING" in line and "are parked" not in line
        ]


IN_A_THREAD = """
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=DAEMON)
thread.start()
"""
IN_A_DAEMON = IN_A_THREAD.replace("DAEMON", "True")

# --- however the loop goes away, whatever the worker waits for

#: The program's way with its loop, and the reason that a warning gives then.
ENDS = {
    "closed": (
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(main(WAITS()))
loop.close()
all_workers_are_free()
say("main ends")
""",
        "the event loop was closed",
    ),
    "stopped": (
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(main(WAITS()))
say("main ends")
""",
        "the loop of a task that is in an eventloop() part",
    ),
    "daemon": (
        IN_A_DAEMON
        + """
kept = asyncio.run_coroutine_threadsafe(WAITS(), loop)  # Else the collector may close the task.
reached.wait(8)
say("main ends")
""",
        "the loop of a task that is in an eventloop() part",
    ),
    "asyncio.run": ("asyncio.run(main(WAITS())); say('main ends')", ""),
}


#: How the loop ends, what the worker waits for, what the program says, how many warnings come.
TABLE: list[tuple[str, str, list[str], set[int]]] = [
    ("closed", "nested_part", ["main ends"], {1}),
    ("closed", "nested_call", ["RuntimeError True", "main ends"], {1}),
    ("stopped", "nested_part", ["main ends"], {1}),
    # Its worker comes back to a loop that stands still: said when that is collected, if it is.
    ("stopped", "call", ["main ends", "RuntimeError True"], {0, 1}),
    # There is a warning if the outer worker gives up before the body that was told comes back.
    ("stopped", "nested_call", ["main ends", "RuntimeError True"], {0, 1}),
    ("daemon", "nested_part", ["main ends"], {1}),
    ("daemon", "call", ["main ends", "RuntimeError True"], {0}),
    ("asyncio.run", "nested_part", ["cancelled", "main ends"], {0}),
    ("asyncio.run", "nested_call", ["cancelled", "main ends"], {0}),
]


@pytest.mark.parametrize(
    ("end", "waits", "lines", "warnings"), TABLE, ids=[f"{row[0]}-{row[1]}" for row in TABLE]
)
def test_a_process_ends_whose_worker_waits_for_a_loop_that_goes_away(
    end: str, waits: str, lines: list[str], warnings: set[int]
) -> None:
    """The task is lost with one warning, which names its block and says why.

    A body that waits for a call is told with a RuntimeError, and goes on.
    """
    source, reason = ENDS[end]
    # A worker that comes back to a loop which stands still is lost with that.
    reasons = [reason, "the event loop was closed"] if "call" in waits else [reason]
    program = Program(source.replace("WAITS", waits))
    assert program.lines == lines
    assert len(program.warnings) in warnings
    for warning in program.warnings:
        assert any(reason in warning for reason in reasons)
        assert "<string>:" in warning


def test_a_loop_closed_while_a_worker_is_parked_frees_it_within_its_second() -> None:
    program = Program(
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(main(part()))
loop.close()
began = time.monotonic()
all_workers_are_free()
say(time.monotonic() - began < 3, task.done())
os._exit(0)
""",
        quick=False,
    )
    assert program.lines == ["True False"]


# --- loops that come back


def test_a_stopped_loop_may_go_on_later_and_finds_its_worker() -> None:
    """Nothing is given up while the process lives."""
    program = Program(
        LOOKS
        + """
async def come_back(go):
    async with threadpool(pool):
        me = threading.get_ident()
        async with eventloop():
            reached.set()
            await go
        say(threading.get_ident() == me)
    return "value"

loop = asyncio.new_event_loop()
go = loop.create_future()
loop.run_until_complete(main(come_back(go)))
await_looks()
go.set_result(None)
say(loop.run_until_complete(task))
loop.close()
"""
    )
    assert program.lines == ["True", "value"]
    assert not program.warnings


def test_the_end_of_a_process_waits_for_a_task_whose_loop_runs_in_a_plain_thread() -> None:
    """The process waits for that thread, so the task comes back and nothing is lost."""
    program = Program(
        LOOKS
        + IN_A_THREAD.replace("DAEMON", "False")
        + """
main_has_ended = threading.Event()

async def come_back():
    async with threadpool(pool):
        async with eventloop():
            reached.set()
            await until(main_has_ended.is_set)
            await_looks()  # on the loop thread, which has nothing else to do
        say("back on the worker")
    say("ends")
    loop.stop()

asyncio.run_coroutine_threadsafe(come_back(), loop)
reached.wait(8)
# Called before those that were registered earlier, and one of them joins the workers of pools.
threading._register_atexit(main_has_ended.set)
say("main ends")
"""
    )
    assert program.lines == ["main ends", "back on the worker", "ends"]
    assert not program.warnings


def test_a_body_that_is_left_behind_by_a_daemon_loop_does_not_run_on_its_thread() -> None:
    """The parked worker has gone, and then the part ends: the body must not go on on the loop."""
    program = Program(
        IN_A_DAEMON
        + """
gone = threading.Event()
ended = threading.Event()

class Warned(logging.Handler):
    def emit(self, record):
        gone.set()

logging.getLogger("threadhop").addHandler(Warned())

async def come_back():
    try:
        async with threadpool(pool):
            async with eventloop():
                reached.set()
                await until(gone.is_set)
                say("the part ends")
            say("the body ran on the loop", threading.current_thread() is thread)
    finally:
        ended.set()

# A worker of somebody else keeps the process until the part has ended.
ThreadPoolExecutor(1).submit(ended.wait, 3)
asyncio.run_coroutine_threadsafe(come_back(), loop)
reached.wait(8)
"""
    )
    assert program.lines == ["the part ends"]


# --- the task is abandoned


def test_a_task_that_the_collector_closes_in_two_parts_is_warned_about_once() -> None:
    """In one go, on the loop thread. No worker looks meanwhile. (PyPy closes no coroutine: there
    the workers find out by themselves.)
    """
    program = Program(
        """
async def forget():
    global task
    await main(nested_part())
    del task
    gc.collect()
    await asyncio.to_thread(all_workers_are_free)
    say("free")

asyncio.run(forget())
""",
        quick=False,
    )
    assert program.lines == ["free"]
    assert len(program.warnings) == 1
