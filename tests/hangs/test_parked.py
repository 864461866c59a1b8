"""Programs that end although a worker waits for a task that never comes back from the loop.

Each runs in a process of its own, with a deadline. A worker looks every second whether its loop is
still there; in all programs but the first it does so more often, to save time.
"""

from __future__ import annotations

import os
import time

from helpers.child import STEPS, run_in_child

START = (
    STEPS
    + """
import asyncio, atexit, gc, logging, os, sys, threading, time, weakref
from concurrent.futures import Executor, ThreadPoolExecutor
import threadhop._block_job
import threadhop._loops._from_thread
from threadhop import eventloop, exec_in_eventloop, threadpool

logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
# What asyncio says about tasks that were pending is not the matter here.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

# Of two workers one is free, so that it is not a matter of all of them being parked.
pool = ThreadPoolExecutor(2)
reached = threading.Event()

def both_workers_are_free():
    gc.collect()  # On PyPy a loop part that everybody forgot may still be left until then.
    barrier = threading.Barrier(3)
    for _ in range(2):
        pool.submit(barrier.wait, 8)
    barrier.wait(8)
    return True

async def forever():
    reached.set()
    await asyncio.get_running_loop().create_future()

async def part():
    try:
        async with threadpool(pool):
            try:
                async with eventloop():
                    await forever()
            finally:
                say("body cleans up")
    finally:
        say("cleans up")

async def call():
    async with threadpool(pool):
        try:
            exec_in_eventloop(forever)
        except RuntimeError as error:
            say("RuntimeError", "went away" in str(error))

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
    """It must end by itself, in time, and with success."""

    def __init__(self, source: str, deadline: float = 6, quick: bool = True) -> None:
        __tracebackhide__ = True
        began = time.monotonic()
        child = run_in_child(START + (QUICK if quick else "") + source, deadline)
        self.took = time.monotonic() - began
        assert child.returncode == 0, child.stdout + child.stderr
        # Not in any traceback. (asyncio's own, when the interpreter is half gone, are not ours.)
        assert f"threadhop{os.sep}_" not in child.stderr, child.stderr
        self.lines = child.stdout.splitlines()
        #: Of what was lost. That all workers of a pool are parked is true of some, and not asked.
        self.warnings = [
            line
            for line in child.stderr.splitlines()
            if "threadhop WARNING" in line and "are parked" not in line
        ]


# --- the loop is closed


def test_a_loop_closed_while_a_worker_is_parked_frees_it_within_its_second() -> None:
    """The task is lost, and a warning names the block."""
    program = Program(
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(main(part()))
loop.close()
began = time.monotonic()
both_workers_are_free()
say(time.monotonic() - began < 3, task.done())
os._exit(0)
""",
        quick=False,
    )
    assert program.lines == ["True False"]
    (warning,) = program.warnings
    assert "the event loop was closed" in warning
    assert "<string>:" in warning


def test_a_process_ends_whose_loop_was_closed_while_a_worker_is_parked() -> None:
    program = Program("""
loop = asyncio.new_event_loop()
loop.run_until_complete(main(part()))
loop.close()
say("main ends")
""")
    assert program.lines[0] == "main ends"
    assert len(program.warnings) == 1


def test_each_parked_worker_of_a_closed_loop_is_freed_and_warned_about() -> None:
    """Two of one task too: one warning for each task."""
    program = Program("""
other = ThreadPoolExecutor(2)

async def nested():
    async with threadpool(pool), eventloop(), threadpool(other), eventloop():
        await forever()

loop = asyncio.new_event_loop()
loop.run_until_complete(main(nested()))
reached.clear()
loop.run_until_complete(main(part()))
loop.close()
both_workers_are_free()
pool = other
both_workers_are_free()
say("free")
os._exit(0)
""")
    assert program.lines == ["free"]
    assert len(program.warnings) == 2


def test_a_call_of_a_loop_that_is_closed_meanwhile_raises_in_the_worker() -> None:
    """The body goes on with a RuntimeError, and then the task is lost."""
    program = Program("""
loop = asyncio.new_event_loop()
loop.run_until_complete(main(call()))
loop.close()
both_workers_are_free()
say("main ends")
""")
    assert program.lines == ["RuntimeError True", "main ends"]
    assert len(program.warnings) == 1


# --- the loop is stopped, and nobody closes it


def test_a_process_ends_whose_loop_was_stopped_and_never_closed() -> None:
    """The task is lost, and the warning says why: it did not end."""
    program = Program("""
loop = asyncio.new_event_loop()
loop.run_until_complete(main(part()))
say("main ends")
""")
    assert program.lines[0] == "main ends"
    (warning,) = program.warnings
    assert "<string>:" in warning
    assert "a task ended" not in warning


def test_a_process_ends_that_waits_for_a_call_of_a_loop_that_was_stopped() -> None:
    """The body is told, with a RuntimeError."""
    program = Program("""
loop = asyncio.new_event_loop()
loop.run_until_complete(main(call()))
say("main ends")
""")
    assert program.lines == ["main ends", "RuntimeError True"]


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


def test_a_process_ends_with_a_nested_part_of_a_stopped_loop() -> None:
    """Two parked workers, of two pools."""
    program = Program("""
async def nested():
    async with threadpool(pool), eventloop(), threadpool(ThreadPoolExecutor(1)), eventloop():
        await forever()

loop = asyncio.new_event_loop()
loop.run_until_complete(main(nested()))
say("main ends")
""")
    assert program.lines[0] == "main ends"
    assert len(program.warnings) == 1


def test_a_process_ends_while_a_body_waits_for_a_call_in_a_nested_block() -> None:
    program = Program("""
async def nested():
    async with threadpool(pool):
        async with threadpool(ThreadPoolExecutor(1)):
            try:
                exec_in_eventloop(forever)
            except RuntimeError:
                say("RuntimeError")

loop = asyncio.new_event_loop()
loop.run_until_complete(main(nested()))
say("main ends")
""")
    assert program.lines == ["main ends", "RuntimeError"]
    # The loop was stopped, and there is no part at all here.
    assert all("a task ended in an eventloop() part" not in line for line in program.warnings)


# --- the task is abandoned, or ends in its part


def test_a_task_abandoned_in_a_part_is_closed_and_its_worker_is_freed() -> None:
    """Its loop runs on. Only the parked worker knew it, and that holds no reference to it."""
    program = Program("""
import warnings
warnings.simplefilter("ignore")

async def abandon():
    async with threadpool(pool):
        async with eventloop():
            reached.set()
            await asyncio.Future()

async def run():
    task = asyncio.create_task(abandon())
    await until(reached.is_set)
    ref = weakref.ref(task)
    del task
    deadline = time.monotonic() + 4
    while ref() is not None and time.monotonic() < deadline:
        gc.collect()
        await asyncio.sleep(0.01)
    say(ref() is None)
    await asyncio.to_thread(both_workers_are_free)
    say("free")

asyncio.run(run())
""")
    assert program.lines == ["True", "free"]
    # Closed by the collector, a coroutine goes through the end of its part, which lets the worker
    # go and says so. PyPy does not close it, so the worker finds out by itself.
    (warning,) = program.warnings
    assert "the garbage collector closes" in warning or "without leaving it" in warning


def test_a_task_that_ends_in_a_part_frees_its_worker() -> None:
    """It entered both by hand and left neither. Its value is kept; a warning says so."""
    program = Program("""
async def ends():
    await threadpool(pool).__aenter__()
    await eventloop().__aenter__()
    return "value"

async def run():
    say(await asyncio.create_task(ends()))
    await asyncio.to_thread(both_workers_are_free)
    say("free")

asyncio.run(run())
""")
    assert program.lines == ["value", "free"]
    (warning,) = program.warnings
    assert "without leaving it" in warning


def test_a_generator_abandoned_in_a_part_hangs_nothing() -> None:
    """``break`` without ``aclose()``: its task ends, and the loop closes the generator."""
    program = Program("""
async def rows():
    async with threadpool(pool):
        async with eventloop():
            yield 1

async def consume():
    async for _ in rows():
        break
    await asyncio.sleep(0)
    return "value"

async def run():
    say(await asyncio.create_task(consume()))
    await asyncio.sleep(0)

asyncio.run(run())
both_workers_are_free()
say("free")
""")
    assert program.lines == ["value", "free"]


# --- a loop in a thread of its own

IN_A_THREAD = """
loop = asyncio.new_event_loop()
thread = threading.Thread(target=loop.run_forever, daemon=DAEMON)
thread.start()
"""


def test_a_process_ends_whose_daemon_thread_runs_the_loop_of_a_parked_worker() -> None:
    """A daemon thread is not waited for, so the task cannot be either: a warning says so."""
    program = Program(
        IN_A_THREAD.replace("DAEMON", "True")
        + """
asyncio.run_coroutine_threadsafe(part(), loop)
reached.wait(8)
say("main ends")
"""
    )
    assert program.lines[0] == "main ends"
    assert len(program.warnings) == 1


def test_a_process_ends_whose_daemon_thread_runs_the_loop_of_a_call() -> None:
    program = Program(
        IN_A_THREAD.replace("DAEMON", "True")
        + """
asyncio.run_coroutine_threadsafe(call(), loop)
reached.wait(8)
say("main ends")
"""
    )
    assert program.lines == ["main ends", "RuntimeError True"]


def test_the_end_of_a_process_waits_for_a_task_whose_loop_runs_in_a_plain_thread() -> None:
    """That one is waited for by the process itself, so the task comes back and nothing is lost."""
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
        IN_A_THREAD.replace("DAEMON", "True")
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


# --- the garbage collector


def test_a_task_that_the_collector_closes_in_two_parts_is_warned_about_once() -> None:
    program = Program("""
other = ThreadPoolExecutor(2)

async def nested():
    async with threadpool(pool), eventloop(), threadpool(other), eventloop():
        await forever()

async def forget():
    global task, pool
    await main(nested())
    del task
    for pool in (pool, other):
        await asyncio.to_thread(both_workers_are_free)
    say("free")

asyncio.run(forget())
""")
    assert program.lines == ["free"]
    assert len(program.warnings) == 1


# --- asyncio.run


def test_asyncio_run_ends_with_a_part_in_flight() -> None:
    """It cancels the task: through the worker, and nothing is lost."""
    program = Program("""
asyncio.run(main(part()))
say("main ends")
""")
    assert program.lines == ["body cleans up", "cleans up", "main ends"]
    assert not program.warnings


def test_asyncio_run_ends_with_a_call_in_flight() -> None:
    program = Program("""
asyncio.run(main(call()))
say(task.cancelled())
""")
    assert program.lines == ["True"]
    assert not program.warnings
