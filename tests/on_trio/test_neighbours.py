"""trio beside asyncio in one thread: guest mode, trio-asyncio; and Ctrl+C, forks and lost runs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.child import STEPS, run_in_child
from helpers.places import on_loop_thread, on_worker

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    threadpool,
)

trio: Any = pytest.importorskip("trio")


async def hops(executor: Executor, library: Any) -> str:
    """A trip of each kind, in a task of *library*."""
    for _ in range(5):
        async with threadpool(executor):
            assert on_worker()
            async with eventloop():
                assert on_loop_thread()
                await library.sleep(0)
            assert exec_in_eventloop(on_loop_thread)
            exec_in_eventloop(library.sleep, 0)
            assert on_worker()
            check_cancelled()
        check_cancelled()
        assert on_loop_thread()
        assert await AsyncExecutor(executor).run(on_worker)
    return AsyncExecutor(executor).backend()


def test_in_guest_mode_tasks_of_both_libraries_go_their_own_ways(executor: Executor) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
        )
        names = await asyncio.gather(*(hops(executor, asyncio) for _ in range(5)))
        assert set(names) == {"asyncio"}
        assert await exec_in_executor(executor, on_worker)
        assert (await done).unwrap() == "trio"

    async def guest() -> str:
        with trio.move_on_after(0.01) as scope:
            async with threadpool(executor):
                with pytest.raises(trio.Cancelled):
                    while True:
                        check_cancelled()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                check_cancelled()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(hops, executor, trio)
        return await hops(executor, trio)

    asyncio.run(main())


def test_a_run_of_trio_that_blocks_a_task_of_asyncio_is_refused_blocks_and_costs_none(
    executor: Executor,
) -> None:
    """asyncio says that its task runs, and so it does: only trio's is within."""

    async def within() -> None:
        async with threadpool(executor):
            pytest.fail("the body ran")

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(TypeError, match=r"in the block .*, waits for 0\.0 s for a worker"):
                trio.run(within)
            assert await hops(executor, asyncio) == "asyncio"

    asyncio.run(main())


@pytest.mark.skipif(
    sys.version_info >= (3, 14) or importlib.util.find_spec("trio_asyncio") is None,
    reason="trio-asyncio is not installed, or not for this Python",
)
@pytest.mark.parametrize("first", ["trio_asyncio", "threadhop"])
def test_trio_asyncio_imported_before_or_after(first: str) -> None:
    child = run_in_child(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        import {first}
        import asyncio, threading, trio, trio_asyncio
        from concurrent.futures import ThreadPoolExecutor
        from threadhop import AsyncExecutor, eventloop, exec_in_eventloop, threadpool

        pool = ThreadPoolExecutor(2)
        here = threading.get_ident

        async def hops(library):
            home = here()
            async with threadpool(pool):
                assert here() != home
                async with eventloop():
                    await library.sleep(0)
                assert exec_in_eventloop(here) == home
                exec_in_eventloop(library.sleep, 0)
            assert here() == home
            assert await AsyncExecutor(pool).run(here) != home
            return AsyncExecutor(pool).backend()

        async def main():
            print(await hops(trio))
            async with trio_asyncio.open_loop():
                print(await hops(trio))
                print(await trio_asyncio.aio_as_trio(hops)(asyncio))
                print(await hops(trio))

        trio.run(main)
        """
    )
    assert (child.stdout, child.returncode) == ("trio\ntrio\nasyncio\ntrio\n", 0), child.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that a child sends itself")
@pytest.mark.parametrize("where", ["body", "call", "loop part"])
def test_ctrl_c_comes_out_of_the_run_when_the_body_has_ended(where: str) -> None:
    child = run_in_child(
        STEPS
        + f"""
import signal, threading, trio
from threadhop import WorkerPool, check_cancelled, eventloop, exec_in_eventloop, threadpool

def interrupt():
    os.kill(os.getpid(), {signal.SIGINT:d})

async def main():
    try:
        async with threadpool(pool):
            try:
                if {where!r} == "loop part":
                    async with eventloop():
                        threading.Timer(0.05, interrupt).start()
                        await trio.sleep_forever()
                elif {where!r} == "call":
                    threading.Timer(0.05, interrupt).start()
                    exec_in_eventloop(trio.sleep_forever)
                else:
                    interrupt()
                    time.sleep(0.1)
            finally:
                say("the body ends", threading.current_thread() is not threading.main_thread())
        say("not reached")
    finally:
        say("main ends", threading.current_thread() is threading.main_thread())

pool = WorkerPool(1)
try:
    trio.run(main)
except KeyboardInterrupt:
    say("interrupted")
async def again():
    async with threadpool(pool):
        say("usable")
trio.run(again)
"""
    )
    assert child.stdout == "the body ends True\nmain ends True\ninterrupted\nusable\n", child.stderr
    assert child.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a signal that a child sends itself")
def test_ctrl_c_while_a_coroutine_of_the_main_task_runs_on_a_worker_is_no_cancellation() -> None:
    """It cancels the coroutine there; the main task gets what Ctrl+C raises."""
    child = run_in_child(
        STEPS
        + f"""
import signal, threading, trio
from threadhop import AsyncExecutor, WorkerPool

async def wait():
    threading.Timer(0.05, os.kill, (os.getpid(), {signal.SIGINT:d})).start()
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        say("cancelled there")
        raise

async def main():
    async with AsyncExecutor(WorkerPool(1)) as executor:
        try:
            await executor.run(wait)
        except BaseException as error:
            say(type(error).__name__)
    await trio.sleep(0)
    say("the end")

trio.run(main)
"""
    )
    assert child.stdout == "cancelled there\nKeyboardInterrupt\nthe end\n", child.stderr
    assert child.returncode == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_guest_run_whose_host_ends_lets_the_process_end() -> None:
    child = run_in_child(
        """
        import asyncio, trio, warnings
        from threadhop import eventloop, threadpool

        async def guest():
            async with threadpool():
                async with eventloop():
                    started.set()
                    await trio.sleep_forever()

        async def main():
            loop = asyncio.get_running_loop()
            trio.lowlevel.start_guest_run(
                guest,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=print,
            )
            await started.wait()

        started = asyncio.Event()
        warnings.simplefilter("ignore")
        asyncio.run(main())
        print("end")
        """
    )
    assert child.stdout == "end\n"
