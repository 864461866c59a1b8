"""Programs that end, or fork, with a ``WorkerPool`` in any state. Each runs in its own process."""

from __future__ import annotations

import os
import sys

import pytest
from helpers.child import STEPS, run_in_child

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

START = (
    STEPS
    + """
import atexit, os, sys, threading, time, warnings
from threadhop import WorkerPool, _lifetime, eventloop, threadpool

# Forking a process with threads is what this is about.
warnings.simplefilter("ignore", DeprecationWarning)

def child_of_fork(main):
    pid = os.fork()
    if not pid:
        status = 1
        try:
            main()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    say("child", os.waitstatus_to_exitcode(status))

go = threading.Event()
"""
)


def lines(source: str) -> list[str]:
    """The program ends by itself, with success, and logs nothing. Returns its output."""
    __tracebackhide__ = True
    child = run_in_child(START + source)
    assert child.returncode == 0, child.stdout + child.stderr
    assert not child.stderr
    return child.stdout.splitlines()


# the end of the process


def test_idle_workers_do_not_hold_up_the_end_of_the_process_and_what_is_queued_is_done() -> None:
    """Neither those that are parked, nor those in the reserve, nor those of a pool that was thrown
    away, nor those that a daemon thread uses. Those are daemons, as in the standard library."""
    said = lines("""
pool, unused = WorkerPool(4), WorkerPool(4)
list(pool.map(str, range(100)))

small = WorkerPool(1, max_threads=2)
away, come = threading.Event(), threading.Event()
def trip():
    small.away("job")
    away.set()
    come.wait(8)
    small.back("job")
    go.wait(8)
small.submit(trip)
away.wait(8)
small.submit(int).result()
wait_until(lambda: small.statistics().idle == 1)
come.set()
wait_until(lambda: len(small._workers._spare) == 1)
go.set()

def use():
    pool = WorkerPool(1)
    say(pool.submit(lambda: threading.current_thread().daemon).result(8))
    pool.submit(lambda: (wait_until(_lifetime.is_ending), say("thrown away")))
thread = threading.Thread(target=use, daemon=True)
thread.start()
thread.join()

for executor in (pool, small):
    wait_until(lambda: executor.statistics().busy == 0)
say("end")
began = time.monotonic()
atexit.register(lambda: say(time.monotonic() - began < 5, threading.active_count()))
    """)
    assert said == ["True", "end", "thrown away", "True 1"]


def test_what_is_queued_is_done_in_its_order_before_the_process_ends() -> None:
    assert lines("""
pool = WorkerPool(1)
view = pool.limited(1)
pool.submit(wait_until, _lifetime.is_ending)
for number in range(3):
    pool.submit(say, "job", number)
    view.submit(say, "view", number)
say("end")
    """) == ["end", "job 0", "view 0", "job 1", "job 2", "view 1", "view 2"]


def test_a_job_that_is_put_at_the_end_of_the_process_is_refused() -> None:
    """Also by a pool that has no threads, and after all threads were joined."""
    said = lines("""
pool, unused = WorkerPool(1), WorkerPool(1)
view = pool.limited(1)

def late():
    for executor in (pool, unused, view):
        try:
            executor.submit(say, "never")
        except RuntimeError as error:
            say(error)

pool.submit(lambda: (wait_until(lambda: pool._shutdown), late()))
atexit.register(late)
    """)
    assert said == ["cannot schedule new futures after interpreter shutdown"] * 6


def test_a_worker_that_is_away_at_the_end_of_the_process_gets_its_helper() -> None:
    """The body waits for a job of the same pool, which needs another thread.

    Early releases of Python 3.12 start none at that time.
    """
    assert lines("""
pool = WorkerPool(1, max_threads=2)
arrived = threading.Event()

def trip():
    wait_until(_lifetime.is_ending)
    try:
        threading.Thread(target=int).start()
        starts = True
    except RuntimeError:
        starts = False
    pool.away("job")
    say("as it should", arrived.wait(8 if starts else 0.1) == starts)
    pool.back("job")

pool.submit(trip)
pool.submit(arrived.set)
    """) == ["as it should True"]


def test_a_process_ends_while_a_worker_is_away_on_a_stopped_loop() -> None:
    """Jobs that waited for its place are done."""
    child = run_in_child(
        START
        + """
async def part(executor):
    async with threadpool(executor):
        async with eventloop():
            await asyncio.Event().wait()

loop = asyncio.new_event_loop()
pools = [WorkerPool(1, max_threads=2) for _ in range(2)]
tasks = [loop.create_task(part(executor)) for executor in (pools[0], pools[1].limited(1))]
for pool in pools:
    loop.run_until_complete(until(lambda: pool.statistics().away))
    pool.submit(say, "a job")
say("main ends")
"""
    )
    assert child.returncode == 0, child.stderr
    assert sorted(child.stdout.splitlines()) == ["a job", "a job", "main ends"]


def test_the_end_of_a_process_waits_for_tasks_whose_loop_runs_in_a_thread() -> None:
    """One is away, and its loop part waits for a block that needs another thread of the pool."""
    assert lines("""
pool = WorkerPool(1, max_threads=2)

async def inner():
    async with threadpool(pool):
        return "inner"

async def outer():
    async with threadpool(pool):
        async with eventloop():
            say(await asyncio.create_task(inner()))
            go.set()
            await until(_lifetime.is_ending)
        say("back")

threading.Thread(target=asyncio.run, args=(outer(),)).start()
go.wait()
say("main ends")
    """) == ["inner", "main ends", "back"]


# fork


@forks
def test_pools_work_in_the_child_of_a_fork() -> None:
    """The child has threads of its own, and nothing waits there, also where the lock was held at
    the fork, and where the queue has a limit. A pool that was shut down stays so. The parent does
    the jobs that were queued, once."""
    assert lines("""
pool, counted, ended = WorkerPool(2), WorkerPool(1, max_queued=1), WorkerPool(1)
views = pool.limited(1), counted.limited(1, max_queued=1)
for executor in (pool, pool, counted):
    executor.submit(go.wait, 8)
queued = [pool.submit(lambda: "queued in the parent"), views[0].submit(lambda: "and in a view")]
views[1].submit(int)
ended.submit(int).result(8)
ended.shutdown()

held, locked = threading.Event(), WorkerPool(2)
locked.submit(int).result(8)
def hold():
    with locked._workers._lock:
        held.set()
        go.wait(8)
thread = threading.Thread(target=hold)
thread.start()
held.wait(8)

def main():
    say(tuple(pool.statistics()), len(pool._threads))
    for executor in (pool, *views, counted, locked):
        assert executor.submit(pow, 2, 3).result(8) == 8
    assert [list(pool.map(abs, [-1, -2])) for _ in range(50)]
    say(len(pool._threads) <= 2)
    for executor in (*views, pool, counted, locked, ended):
        executor.shutdown()
    try:
        ended.submit(int)
    except RuntimeError as error:
        say(error)
    say("threads", threading.active_count())

child_of_fork(main)
go.set()
for future in queued:
    say(future.result(8))
    """) == [
        "(2, 0, 0, 0, 0) 0",
        "True",
        "cannot schedule new futures after shutdown",
        "threads 1",
        "child 0",
        "queued in the parent",
        "and in a view",
    ]


@forks
def test_a_job_may_fork_and_so_may_a_process_with_idle_threads() -> None:
    """The worker that forked is there in its child, and has its place. The other child ends by
    itself: it joins no thread of the parent."""
    assert lines("""
pool = WorkerPool(2, max_threads=4)

def main():
    say(tuple(pool.statistics()), len(pool._threads))
    say(pool.submit(pow, 2, 3).result(8))
    pool.away("job")
    pool.back("job")
    say(len(pool._threads))

pool.submit(child_of_fork, main).result(8)
list(pool.map(str, range(100)))
wait_until(lambda: pool.statistics().busy == 0)
pid = os.fork()
if pid:
    _, status = os.waitpid(pid, 0)
    say("child", os.waitstatus_to_exitcode(status))
else:
    say(pool.submit(pow, 2, 4).result(8))
    """) == ["(2, 1, 0, 0, 0) 1", "8", "2", "child 0", "16", "child 0"]


@forks
def test_a_child_of_a_fork_has_an_empty_pool_while_blocks_of_the_parent_go_on() -> None:
    """One runs, one is away, one waits: all in the parent only. The child uses the pool anew."""
    assert lines("""
pool = WorkerPool(1, max_threads=2)
view = pool.limited(1)
began = threading.Event()

async def away(future):
    async with threadpool(view):
        async with eventloop():
            await future
        return "away"

async def runs():
    async with threadpool(pool):
        began.set()
        go.wait()
        return "runs"

async def waits():
    async with threadpool(view):
        return "waits"

async def there_and_back():
    async with threadpool(view), eventloop(), threadpool(pool):
        say("there")

def in_child():
    assert pool.statistics() == (1, 0, 0, 0, 0), pool.statistics()
    assert pool.submit(str, 1).result(5) == view.submit(str, 1).result(5) == "1"
    # A loop of its own: that of the parent is known as running here.
    thread = threading.Thread(target=asyncio.run, args=(there_and_back(),))
    thread.start()
    thread.join()
    pool.shutdown()

async def main():
    future = asyncio.get_running_loop().create_future()
    tasks = [asyncio.create_task(away(future))]
    await until(lambda: pool.statistics().away)
    tasks.append(asyncio.create_task(runs()))
    await until(began.is_set)
    tasks.append(asyncio.create_task(waits()))
    await until(lambda: pool.statistics().queued)
    child_of_fork(in_child)
    go.set()
    future.set_result(None)
    say(*await asyncio.gather(*tasks))

asyncio.run(main())
    """) == ["there", "child 0", "away runs waits"]


# subinterpreters


@pytest.mark.skipif(sys.version_info < (3, 14), reason="interpreters are new in Python 3.14")
def test_a_pool_works_in_another_interpreter() -> None:
    assert lines("""
from concurrent import interpreters
interpreter = interpreters.create()
interpreter.exec(f'''
import sys
sys.path[:0] = {sys.path!r}
from threadhop import WorkerPool
pool = WorkerPool(2)
print(sum(pool.map(abs, range(-10, 0))), flush=True)
pool.submit(print, "queued", flush=True)
''')
interpreter.close()
    """) == ["55", "queued"]
