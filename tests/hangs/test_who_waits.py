"""Who waits for too long says so: for a loop that does not answer, at the end of a loop, a process.

Each program runs in a process of its own, with a deadline. What is 5 s elsewhere is short there.
"""

from __future__ import annotations

import pytest
from helpers.child import STEPS, run_in_child

START = (
    STEPS
    + """
import gc, logging, threading
from concurrent.futures import ThreadPoolExecutor
import threadhop._block_job, threadhop._loops._from_thread, threadhop._patience
from threadhop import WorkerPool, eventloop, exec_in_eventloop, exec_in_executor, threadpool

threadhop._patience.LIMIT = LIMIT = 0.4
threadhop._block_job.POLL = threadhop._loops._from_thread.POLL = 0.1

def plain(record):
    return record.name == "threadhop"
handler = logging.StreamHandler(sys.stdout)
handler.addFilter(plain)
logging.getLogger().addHandler(handler)
"""
)


def line_of(source: str, text: str) -> str:
    """As a program of ``run_in_child`` says it."""
    (at,) = (at for at, line in enumerate(source.splitlines(), 1) if text in line)
    return f"<string>:{at}"


def run(program: str) -> tuple[str, list[str], list[str]]:
    """Run it; return it, and the lines of its stdout and stderr."""
    # As many lines are in front of it in the child.
    source = "\n" + (START + program).lstrip("\n")
    child = run_in_child(source)
    assert child.returncode == 0, child.stderr
    return source, child.stdout.splitlines(), child.stderr.splitlines()


@pytest.mark.parametrize(
    ("pool", "asks"),
    [
        ("WorkerPool(2)", "async with eventloop(): pass"),
        ("ThreadPoolExecutor(2)", "exec_in_eventloop(int)"),
    ],
    ids=["part", "call"],
)
def test_a_lock_that_the_worker_holds_is_told(pool: str, asks: str) -> None:
    """Once, with the line that asks and the line at which the loop stands; then all go on."""
    source, out, err = run(f"""
lock = threading.Lock()
asked = threading.Event()

async def body():
    async with threadpool({pool}):
        with lock:
            asked.set()
            wait_until(lambda: stands)
            {asks}  # it asks here
        say("done")

stands = []

async def main():
    task = asyncio.create_task(body())
    await until(asked.is_set)
    stands.append(1)
    lock.acquire(timeout=LIMIT * 4)  # it stands here
    await task

asyncio.run(main())
""")
    warning, done = out
    assert "the event loop does not answer" in warning
    assert f"asked at {line_of(source, '# it asks here')} " in warning
    assert f"stands at {line_of(source, '# it stands here')}." in warning
    assert (done, err) == ("done", [])


@pytest.mark.parametrize("where", ["app", ""])
def test_a_handler_of_logging_that_goes_to_the_loop_is_told_on_stderr(where: str) -> None:
    """It holds the handler's lock, for which the loop waits: so nothing can be logged.

    The handler may be that of the program's own logger, or of the root: that of the warning, too.
    """
    source, out, err = run(f"""
class Handler(logging.Handler):
    def emit(self, record):
        if threading.current_thread() is not threading.main_thread():
            exec_in_eventloop(int)  # it asks here

log = logging.getLogger("{where}")
handler = Handler()
log.addHandler(handler)

async def body():
    async with threadpool():
        log.warning("row")

def end():
    time.sleep(LIMIT * 4)
    os._exit(0)

async def main():
    asyncio.create_task(body())
    await asyncio.sleep(0)
    threading.Thread(target=end).start()
    time.sleep(0.1)
    log.warning("request")  # it stands here

asyncio.run(main())
""")
    (warning,) = err
    assert warning.startswith("WARNING:threadhop:the event loop does not answer")
    assert f"asked at {line_of(source, '# it asks here')} " in warning
    assert f"called from {line_of(source, '# it stands here')}." in warning
    assert not out


def test_a_handler_of_logging_that_waits_for_the_loop_is_told_on_stderr() -> None:
    """The worker itself is not in logging, but whoever logs would wait for the loop, too."""
    _, out, err = run("""
class Handler(logging.Handler):
    def emit(self, record):
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

threadhop._patience.LOGGING_TAKES = 0.2
logging.getLogger("threadhop").addHandler(Handler())
logging.getLogger("threadhop").propagate = False

async def body():
    async with threadpool():
        async with eventloop():
            pass

async def main():
    global loop
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    time.sleep(LIMIT * 4)
    await task

asyncio.run(main())
""")
    (warning,) = err
    assert "the event loop does not answer" in warning
    assert not out


def test_neither_a_loop_that_looks_nor_a_cancellation_is_told_however_long_it_takes() -> None:
    """A part and a call take long; a body and a call go on for long when they are cancelled.

    The loop goes on, too: that is not its end.
    """
    _, out, err = run("""
def work():
    time.sleep(LIMIT * 4)

async def body():
    async with threadpool():
        work()

async def call():
    await exec_in_executor(None, work)

async def main():
    tasks = [asyncio.create_task(body()), asyncio.create_task(call())]
    await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    async with threadpool():
        async with eventloop():
            await asyncio.sleep(LIMIT * 2)
        exec_in_eventloop(asyncio.sleep, LIMIT * 2)
    await asyncio.wait(tasks)
    await asyncio.sleep(LIMIT)

asyncio.run(main())
""")
    assert (out, err) == ([], [])


# --- the end


@pytest.mark.parametrize(
    ("kind", "pool"), [("asyncio", "None"), ("asyncio", "WorkerPool(1)"), ("uvloop", "None")]
)
def test_asyncio_run_that_waits_for_a_body_says_for_which(kind: str, pool: str) -> None:
    pytest.importorskip(kind)
    source, out, err = run(f"""
import {kind}

async def body(seconds):
    async with threadpool({pool}):  # the block
        time.sleep(seconds)

async def main():
    asyncio.create_task(body(LIMIT / 4), name="quick")
    asyncio.create_task(body(LIMIT * 3), name="slow")
    await asyncio.sleep(0.1)

{kind}.run(main())
say("over")
""")
    warning, over = out
    assert "the event loop comes to its end" in warning
    assert f": block of slow at {line_of(source, '# the block')} (0." in warning
    assert "quick" not in warning
    assert (over, err) == ("over", [])


@pytest.mark.parametrize("before", [True, False])
def test_asyncio_run_that_waits_for_a_call_says_for_which(before: bool) -> None:
    """A call that was cancelled long before the end, or by the end."""
    source, out, err = run(f"""
def work():  # the function
    time.sleep(LIMIT * 5)

async def call():
    await exec_in_executor(None, work)

async def main():
    task = asyncio.create_task(call())
    await asyncio.sleep(0.1)
    if {before}:
        task.cancel()
        await asyncio.sleep(LIMIT * 1.5)

asyncio.run(main())
say("over")
""")
    warning, over = out
    assert "the event loop comes to its end" in warning
    assert f": call of work at {line_of(source, '# the function')} (" in warning
    assert (over, err) == ("over", [])


@pytest.mark.parametrize(
    ("pool", "seconds"),
    [("WorkerPool(1)", 3), ("ThreadPoolExecutor(1)", 3), ("ThreadPoolExecutor(1)", 0.2)],
)
def test_a_process_that_waits_for_a_body_says_for_which(pool: str, seconds: float) -> None:
    source, out, _ = run(f"""
from threadhop import exec_in_executor_threading_future
begun = threading.Event()

def work():  # the function
    begun.set()
    time.sleep(LIMIT * {seconds})

exec_in_executor_threading_future({pool}, work)
begun.wait(5)
say("the main thread ends")
""")
    assert out.pop(0) == "the main thread ends"
    if seconds < 1:
        assert not out
    else:
        (warning,) = out
        assert "the process comes to its end" in warning
        assert f": call of work at {line_of(source, '# the function')} (0." in warning
