"""The end of a process, and forks, while a ``WorkerPool`` has bodies that run or are away."""

from __future__ import annotations

import os
import textwrap

import pytest
from helpers.child import run_in_child

PRELUDE = """
import asyncio, os, threading, warnings
from threadhop import WorkerPool, eventloop, exec_in_eventloop, threadpool

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)

pool = WorkerPool(1, max_threads=2)
"""


def lines(source: str, deadline: float = 15) -> list[str]:
    child = run_in_child(PRELUDE + textwrap.dedent(source), deadline)
    assert child.returncode == 0, child.stderr
    return child.stdout.splitlines()


def test_a_process_ends_after_the_body_that_still_runs() -> None:
    """The loop was stopped under it."""
    assert lines("""
        began = threading.Event()

        async def block():
            async with threadpool(pool):
                began.set()
                threading.Event().wait(0.3)
                say("the body has ended")

        loop = asyncio.new_event_loop()
        task = loop.create_task(block())
        loop.run_until_complete(until(began.is_set))
        say("main ends")
    """) == ["main ends", "the body has ended"]


@pytest.mark.parametrize("executor", ["pool", "pool.limited(1)"])
def test_a_process_ends_while_a_worker_is_away_on_a_stopped_loop(executor: str) -> None:
    """Jobs that waited for its place are done."""
    assert lines(f"""
        async def part():
            async with threadpool({executor}):
                async with eventloop():
                    await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        task = loop.create_task(part())
        loop.run_until_complete(until(lambda: pool.statistics().away))
        pool.submit(say, "a job")
        say("main ends")
    """)[-1:] in (["a job"], ["main ends"])


def test_the_end_of_a_process_waits_for_tasks_whose_loop_runs_in_a_thread() -> None:
    """One is away, and its loop part waits for a block that needs another thread of the pool."""
    assert lines("""
        ending = threading.Event()

        async def inner():
            async with threadpool(pool):
                return "inner"

        async def outer():
            async with threadpool(pool):
                async with eventloop():
                    task = asyncio.create_task(inner())
                    say(await task)
                    ready.set()
                    await asyncio.sleep(0.2)
                say("back")

        ready = threading.Event()
        threading.Thread(target=asyncio.run, args=(outer(),)).start()
        ready.wait()
        say("main ends")
    """) == ["inner", "main ends", "back"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_child_of_a_fork_has_an_empty_pool_while_blocks_of_the_parent_go_on() -> None:
    """One runs, one is away, one waits: all in the parent only. The child uses the pool anew."""
    assert lines("""
        warnings.simplefilter("ignore")
        view = pool.limited(1)
        gate, began = threading.Event(), threading.Event()

        async def away(future):
            async with threadpool(view):
                async with eventloop():
                    await future
                return "away"

        async def runs():
            async with threadpool(pool):
                began.set()
                gate.wait()
                return "runs"

        async def waits():
            async with threadpool(view):
                return "waits"

        def fork():
            pid = os.fork()
            if pid:
                assert os.waitpid(pid, 0)[1] == 0
                return
            try:
                assert pool.statistics() == (1, 0, 0, 0, 0), pool.statistics()
                assert pool.submit(str, 1).result(5) == view.submit(str, 1).result(5) == "1"

                async def block(executor):
                    async with threadpool(executor):
                        async with eventloop():
                            async with threadpool(pool):
                                pass
                    say("child")

                # A loop of its own: that of the parent is known as running here.
                thread = threading.Thread(target=lambda: asyncio.run(block(view)))
                thread.start()
                thread.join()
                pool.shutdown()
            except BaseException as error:
                say("child failed", repr(error))
                os._exit(1)
            os._exit(0)

        async def main():
            future = asyncio.get_running_loop().create_future()
            tasks = [asyncio.create_task(away(future))]
            await until(lambda: pool.statistics().away)
            tasks.append(asyncio.create_task(runs()))
            await until(began.is_set)
            tasks.append(asyncio.create_task(waits()))
            await until(lambda: pool.statistics().queued)
            fork()
            gate.set()
            future.set_result(None)
            say(*await asyncio.gather(*tasks))

        asyncio.run(main())
    """) == ["child", "away runs waits"]
