"""``ensure_thread_event_loop``: the event loop of a thread's own."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import selectors
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind, on_one_loop
from helpers.steps import LIMIT

from threadhop import ensure_thread_event_loop, exec_in_executor

T = TypeVar("T")

HAS_PROC = os.path.isdir("/proc/self/fd")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def twice(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def in_thread(func: Callable[[], T]) -> T:
    """Run *func* in a thread that then ends."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(func).result(LIMIT)


# --- one loop for each thread


def test_each_thread_has_its_own_which_get_event_loop_finds() -> None:
    """The same in every call. The function may be the initializer of a pool."""
    barrier = threading.Barrier(2, timeout=LIMIT)

    def work() -> asyncio.AbstractEventLoop:
        barrier.wait()
        loop = asyncio.get_event_loop()
        for _ in range(2):
            assert ensure_thread_event_loop() is loop
            assert asyncio.get_event_loop() is loop
            assert loop.run_until_complete(twice(2)) == 4
        return loop

    with ThreadPoolExecutor(2, initializer=ensure_thread_event_loop) as pool:
        one, other = [future.result(LIMIT) for future in [pool.submit(work) for _ in range(2)]]
    assert isinstance(one, asyncio.AbstractEventLoop)
    assert one is not other


def test_a_running_loop_is_the_one(loops: LoopKind) -> None:
    async def main() -> None:
        assert ensure_thread_event_loop() is asyncio.get_running_loop()

    loops.run(main)
    in_thread(lambda: loops.run(main))


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_a_loop_that_was_closed_cannot_be_used_and_is_replaced(used: bool) -> None:
    def work() -> None:
        first = ensure_thread_event_loop()
        if used:
            first.run_until_complete(twice(1))
        first.close()
        assert first.is_closed()
        coroutine = twice(1)
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            first.run_until_complete(coroutine)
        coroutine.close()
        second = ensure_thread_event_loop()
        assert second is not first
        assert asyncio.get_event_loop() is second
        assert second.run_until_complete(twice(2)) == 4

    in_thread(work)


def test_many_loops_in_one_thread_are_closed_one_by_one() -> None:
    """A function that always closes the loop behind itself costs nothing that adds up."""

    def work() -> int:
        for _ in range(1200):
            ensure_thread_event_loop().run_until_complete(twice(1))
            ensure_thread_event_loop().close()
        return ensure_thread_event_loop().run_until_complete(twice(2))

    threads = threading.active_count()
    assert in_thread(work) == 4
    assert threading.active_count() == threads


# --- opened when it is used


@pytest.mark.skipif(not HAS_PROC, reason="it counts files in /proc/self/fd")
def test_it_opens_nothing_before_it_is_used() -> None:
    """Asking for it, asking it whether it runs, and printing it are no use of it."""

    def work() -> None:
        before = open_files()
        loop = ensure_thread_event_loop()
        assert asyncio.get_event_loop() is loop
        assert not loop.is_running()
        assert not loop.is_closed()
        repr(loop)
        assert open_files() == before
        loop.run_until_complete(twice(1))
        assert open_files() > before

    in_thread(work)


@pytest.mark.skipif(not HAS_PROC, reason="it counts files in /proc/self/fd")
@on_one_loop
async def test_a_worker_whose_functions_never_ask_holds_no_open_loop() -> None:
    barrier = threading.Barrier(8, timeout=LIMIT)
    with ThreadPoolExecutor(8) as pool:
        await exec_in_executor(pool, int)
        before = open_files()
        for _ in range(3):
            await asyncio.gather(*(exec_in_executor(pool, barrier.wait) for _ in range(8)))
        assert open_files() == before


def test_what_is_set_before_its_first_use_is_kept() -> None:
    """By a method, or as an attribute. Nobody need know when it is opened."""

    def set_debug(loop: Any) -> object:
        loop.set_debug(True)
        loop.run_until_complete(twice(1))
        return loop.get_debug()

    def set_handler(loop: Any) -> object:
        loop.set_exception_handler(print)
        loop.run_until_complete(twice(1))
        return loop.get_exception_handler()

    def set_attribute(loop: Any) -> object:
        loop.slow_callback_duration = 7.0
        loop.run_until_complete(twice(1))
        return loop.slow_callback_duration

    for way, value in (set_debug, True), (set_handler, print), (set_attribute, 7.0):
        assert in_thread(lambda: way(ensure_thread_event_loop())) == value  # noqa: B023


def test_a_loop_that_could_not_be_opened_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, for a moment: that must not spoil the thread for ever."""

    class NoMoreFiles(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

    def use() -> int:
        coroutine = twice(2)
        try:
            return ensure_thread_event_loop().run_until_complete(coroutine)
        finally:
            coroutine.close()

    def work() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(selectors, "DefaultSelector", NoMoreFiles)
            with pytest.raises(OSError, match="too many open files"):
                use()
        assert use() == 4

    in_thread(work)
    gc.collect()


# --- the end of the thread


def test_it_is_closed_and_its_tasks_and_async_generators_end_when_the_thread_ends() -> None:
    """In that thread, and they may await in their cleanup."""
    seen: list[object] = []

    async def task() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            seen.extend(("task", threading.current_thread()))

    async def generator() -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.sleep(0)
            seen.extend(("generator", threading.current_thread()))

    async def start() -> None:
        kept.extend((asyncio.create_task(task()), generator()))
        await anext(kept[1])

    def work() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
        loop = ensure_thread_event_loop()
        loop.run_until_complete(start())
        assert not seen
        return loop, threading.current_thread()

    kept: list[Any] = []
    loop, thread = in_thread(work)
    assert loop.is_closed()
    assert thread not in threading.enumerate()
    assert seen == ["task", thread, "generator", thread]
    assert kept[0].cancelled()


#: What the programs of child processes begin with.
_START = """
import _thread, asyncio, gc, threading
from concurrent.futures import ThreadPoolExecutor
from threadhop import ensure_thread_event_loop, exec_in_executor

async def twice(number):
    return number * 2
"""


def run_strictly(program: str) -> str:
    """Run it in a child process, which must end well and warn of nothing; return its output."""
    child = run_in_child(_START + program, options=["-W", "error", "-X", "dev"])
    assert (child.stderr, child.returncode) == ("", 0)
    return child.stdout


def test_a_thread_that_is_not_pythons_has_one() -> None:
    """C libraries make such threads, as ``_thread`` does. The finalizer closes the loop."""
    out = run_strictly("""
def work():
    loop = ensure_thread_event_loop()
    assert ensure_thread_event_loop() is loop
    assert loop.run_until_complete(twice(2)) == 4
    loops.append(loop)
    done.set()

loops, done = [], threading.Event()
_thread.start_new_thread(work, ())
assert done.wait(5)
for _ in range(50):
    if loops[0].is_closed():
        break
    gc.collect()
    threading.Event().wait(0.02)
assert loops[0].is_closed()
print("done")
""")
    assert out == "done\n"


def test_it_is_closed_with_its_tasks_and_generators_when_the_process_ends() -> None:
    """That of a worker, although nobody shut its pool down; and that of the main thread."""
    out = run_strictly("""
async def task(name):
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        print("task", name)

async def generator(name):
    try:
        yield
    finally:
        print("generator", name)

async def work(name):
    kept.extend((asyncio.create_task(task(name)), generator(name)))
    await anext(kept[-1])

async def call_worker():
    await exec_in_executor(pool, work, "worker")

kept, pool = [], ThreadPoolExecutor(1)
asyncio.run(call_worker())
loop = ensure_thread_event_loop()
assert asyncio.get_event_loop() is loop
loop.run_until_complete(work("main"))
print("ending")
""")
    assert out == "ending\ntask worker\ngenerator worker\ntask main\ngenerator main\n"


# --- the loops of the user


def test_a_current_loop_of_the_users_stays_the_current_one() -> None:
    """In any thread. Ours is another one: nobody closes, or runs, what the user made."""
    out = run_strictly("""
def work():
    users = asyncio.new_event_loop()
    asyncio.set_event_loop(users)
    ours = ensure_thread_event_loop()
    assert ours is not users
    assert asyncio.get_event_loop() is users, "taken away"
    assert ours.run_until_complete(twice(1)) == 2
    assert asyncio.get_event_loop() is users, "taken away by its use"
    asyncio.set_event_loop(None)
    users.close()
    print("respected")

work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
""")
    assert out == "respected\n" * 2


@on_one_loop
async def test_a_loop_that_the_user_set_later_stays_the_current_one() -> None:
    """From one call to the next, too."""
    users: list[asyncio.AbstractEventLoop] = []

    def set_it() -> None:
        users.append(asyncio.new_event_loop())
        asyncio.set_event_loop(users[0])

    def unset_it() -> None:
        asyncio.set_event_loop(None)
        users[0].close()

    with ThreadPoolExecutor(1) as pool:
        await exec_in_executor(pool, set_it)
        assert await exec_in_executor(pool, asyncio.get_event_loop) is users[0]
        assert await exec_in_executor(pool, twice, 1) == 2
        assert await exec_in_executor(pool, asyncio.get_event_loop) is users[0]
        await exec_in_executor(pool, unset_it)


def test_get_event_loop_works_again_after_an_asyncio_run() -> None:
    """``asyncio.run`` leaves the thread without a current loop. The one of before is back."""

    def work() -> None:
        loop = ensure_thread_event_loop()
        assert asyncio.run(twice(1)) == 2
        assert ensure_thread_event_loop() is loop
        assert asyncio.get_event_loop() is loop
        assert loop.run_until_complete(twice(2)) == 4

    in_thread(work)
