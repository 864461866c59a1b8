"""``ensure_thread_event_loop``: the event loop of a thread's own."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import selectors
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind
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


def test_it_is_the_same_loop_in_every_call() -> None:
    def work() -> None:
        loop = ensure_thread_event_loop()
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert ensure_thread_event_loop() is loop
        assert loop.run_until_complete(twice(2)) == 4
        assert ensure_thread_event_loop() is loop

    in_thread(work)


def test_each_thread_has_its_own() -> None:
    barrier = threading.Barrier(2, timeout=LIMIT)

    def work() -> asyncio.AbstractEventLoop:
        barrier.wait()
        return ensure_thread_event_loop()

    with ThreadPoolExecutor(2) as pool:
        one, other = [future.result(LIMIT) for future in [pool.submit(work) for _ in range(2)]]
    assert one is not other


def test_get_event_loop_finds_it() -> None:
    def work() -> None:
        loop = ensure_thread_event_loop()
        assert asyncio.get_event_loop() is loop

    in_thread(work)


def test_it_does_what_a_loop_does() -> None:
    """Tasks, timers, threads and calls from other threads."""

    async def main(other: Executor) -> int:
        loop = asyncio.get_running_loop()
        called: asyncio.Future[int] = loop.create_future()
        other.submit(loop.call_soon_threadsafe, called.set_result, 1)
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as group:
            task = group.create_task(twice(2))
            await asyncio.sleep(0.001)
            thread = await asyncio.to_thread(threading.get_ident)
            assert thread != threading.get_ident()
        return await called + task.result()

    with ThreadPoolExecutor(1) as other:
        assert in_thread(lambda: ensure_thread_event_loop().run_until_complete(main(other))) == 5


def test_a_running_loop_is_the_one(loops: LoopKind) -> None:
    async def main() -> None:
        assert ensure_thread_event_loop() is asyncio.get_running_loop()

    loops.run(main)
    in_thread(lambda: loops.run(main))


def test_it_is_an_initializer_for_pools() -> None:
    """For code that asks for get_event_loop() in plain submissions."""

    def work() -> int:
        return asyncio.get_event_loop().run_until_complete(twice(4))

    with ThreadPoolExecutor(2, initializer=ensure_thread_event_loop) as pool:
        assert [pool.submit(work).result(LIMIT) for _ in range(4)] == [8] * 4


def test_a_loop_that_was_closed_is_replaced() -> None:
    def work() -> None:
        first = ensure_thread_event_loop()
        first.run_until_complete(twice(1))
        first.close()
        second = ensure_thread_event_loop()
        assert second is not first
        assert asyncio.get_event_loop() is second
        assert second.run_until_complete(twice(2)) == 4

    in_thread(work)


def test_a_loop_that_was_closed_before_its_first_use_is_closed() -> None:
    """Like any other loop: it cannot be used any more, and is replaced."""

    def work() -> None:
        loop = ensure_thread_event_loop()
        loop.close()
        assert loop.is_closed()
        coroutine = twice(1)
        try:
            with pytest.raises(RuntimeError, match="Event loop is closed"):
                loop.run_until_complete(coroutine)
        finally:
            coroutine.close()
        assert ensure_thread_event_loop() is not loop

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
def test_a_worker_whose_functions_never_ask_holds_no_open_loop(loops: LoopKind) -> None:
    barrier = threading.Barrier(8, timeout=LIMIT)

    async def main() -> None:
        with ThreadPoolExecutor(8) as pool:
            await exec_in_executor(pool, int)
            before = open_files()
            for _ in range(3):
                await asyncio.gather(*(exec_in_executor(pool, barrier.wait) for _ in range(8)))
            assert open_files() == before

    loops.run(main)


@pytest.mark.parametrize(
    ("change", "look"),
    [
        (lambda loop: loop.set_debug(True), lambda loop: loop.get_debug()),
        (
            lambda loop: loop.set_exception_handler(print),
            lambda loop: loop.get_exception_handler() is print,
        ),
        (
            lambda loop: loop.set_task_factory(_task_factory),
            lambda loop: loop.get_task_factory() is _task_factory,
        ),
        (
            lambda loop: setattr(loop, "slow_callback_duration", 7.0),
            lambda loop: loop.slow_callback_duration == 7.0,
        ),
    ],
    ids=["debug", "exception-handler", "task-factory", "attribute"],
)
def test_what_is_set_before_its_first_use_is_kept(
    change: Callable[[Any], object], look: Callable[[Any], object]
) -> None:
    """When it is opened is nobody's business but ours."""

    def work() -> None:
        loop = ensure_thread_event_loop()
        change(loop)
        assert loop.run_until_complete(twice(1)) == 2
        assert look(loop)

    in_thread(work)


def _task_factory(loop: Any, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
    return asyncio.Task(coro, loop=loop, **kwargs)


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


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_it_is_closed_when_the_thread_ends(used: bool) -> None:
    def work() -> asyncio.AbstractEventLoop:
        loop = ensure_thread_event_loop()
        if used:
            loop.run_until_complete(twice(1))
        return loop

    loop = in_thread(work)
    if used:
        assert loop.is_closed()
    else:
        loop.close()


@pytest.mark.skipif(not HAS_PROC, reason="it counts files in /proc/self/fd")
def test_threads_that_ended_hold_no_files() -> None:
    before = open_files()
    for _ in range(20):
        in_thread(lambda: ensure_thread_event_loop().run_until_complete(twice(1)))
    assert open_files() == before


def test_its_tasks_are_cancelled_when_the_thread_ends() -> None:
    """In that thread, and they may await in their cleanup."""
    seen: list[object] = []

    async def background() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            seen.append(threading.current_thread())

    async def start() -> None:
        kept.append(asyncio.create_task(background()))
        await asyncio.sleep(0)

    def work() -> threading.Thread:
        ensure_thread_event_loop().run_until_complete(start())
        return threading.current_thread()

    kept: list[asyncio.Task[None]] = []
    assert seen == []
    thread = in_thread(work)
    assert seen == [thread]
    assert kept[0].cancelled()


def test_its_async_generators_are_shut_down_when_the_thread_ends() -> None:
    seen: list[object] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            seen.append(threading.current_thread())

    async def start() -> None:
        kept.append(numbers())
        await anext(kept[0])

    def work() -> threading.Thread:
        ensure_thread_event_loop().run_until_complete(start())
        return threading.current_thread()

    kept: list[AsyncIterator[int]] = []
    thread = in_thread(work)
    assert seen == [thread]


def test_its_own_threads_have_ended_when_the_thread_has() -> None:
    """Those of its default executor, from ``asyncio.to_thread``."""
    threads: list[threading.Thread] = []

    async def main() -> None:
        threads.append(await asyncio.to_thread(threading.current_thread))

    in_thread(lambda: ensure_thread_event_loop().run_until_complete(main()))
    assert not threads[0].is_alive()


def test_a_plain_thread_closes_it_too() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def work() -> None:
        loops.append(ensure_thread_event_loop())
        loops[0].run_until_complete(twice(1))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(LIMIT)
    assert loops[0].is_closed()
    assert thread not in threading.enumerate()


def test_a_thread_that_is_not_pythons_has_one() -> None:
    """Made by ``_thread``, as C libraries make theirs. It is closed when its turn comes."""
    child = run_in_child(
        """
        import _thread, asyncio, gc, threading
        from threadhop import ensure_thread_event_loop

        async def twice(number):
            return number * 2

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
        """,
        options=["-W", "error"],
    )
    assert (child.stdout, child.stderr, child.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("what", ["task", "generator", "nothing"])
def test_workers_close_theirs_when_the_process_ends(what: str) -> None:
    """Also those of a pool that nobody shut down."""
    child = run_in_child(
        f"""
        import asyncio
        from concurrent.futures import ThreadPoolExecutor
        from threadhop import exec_in_executor

        async def background():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                print("cleaned up")

        async def generator():
            try:
                yield
            finally:
                print("cleaned up")

        async def work():
            if {what!r} == "task":
                kept.append(asyncio.create_task(background()))
                await asyncio.sleep(0)
            elif {what!r} == "generator":
                kept.append(generator())
                await anext(kept[0])
            else:
                print("cleaned up")

        async def main():
            await exec_in_executor(pool, work)

        kept = []
        pool = ThreadPoolExecutor(1)
        asyncio.run(main())
        """,
        options=["-W", "error", "-X", "dev"],
    )
    assert (child.stdout, child.stderr, child.returncode) == ("cleaned up\n", "", 0)


# --- the main thread


def test_the_main_thread_has_one_too() -> None:
    """It is closed at the end of the process, with its tasks cancelled."""
    child = run_in_child(
        """
        import asyncio
        from threadhop import ensure_thread_event_loop

        async def background():
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                print("cleaned up")

        async def main():
            kept.append(asyncio.create_task(background()))
            await asyncio.sleep(0)
            assert ensure_thread_event_loop() is loop

        kept = []
        loop = ensure_thread_event_loop()
        assert ensure_thread_event_loop() is loop
        assert asyncio.get_event_loop() is loop
        loop.run_until_complete(main())
        print("ending")
        """,
        options=["-W", "error", "-X", "dev"],
    )
    assert (child.stdout, child.stderr, child.returncode) == ("ending\ncleaned up\n", "", 0)


# --- the loops of the user

_RESPECTS = """
    import asyncio, threading
    from threadhop import ensure_thread_event_loop

    async def twice(number):
        return number * 2

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

    if {in_main_thread}:
        work()
    else:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
"""


@pytest.mark.parametrize("in_main_thread", [False, True], ids=["thread", "main-thread"])
def test_a_current_loop_of_the_users_stays_the_current_one(in_main_thread: bool) -> None:
    """And ours is another one: nobody closes, or runs, what the user made."""
    child = run_in_child(
        _RESPECTS.format(in_main_thread=in_main_thread), options=["-W", "error", "-X", "dev"]
    )
    assert (child.stdout, child.stderr, child.returncode) == ("respected\n", "", 0)


def test_a_loop_that_the_user_set_later_stays_the_current_one(loops: LoopKind) -> None:
    """From one call to the next, too."""
    users: list[asyncio.AbstractEventLoop] = []

    def set_it() -> None:
        users.append(asyncio.new_event_loop())
        asyncio.set_event_loop(users[0])

    def unset_it() -> None:
        asyncio.set_event_loop(None)
        users[0].close()

    async def main() -> None:
        with ThreadPoolExecutor(1) as pool:
            await exec_in_executor(pool, set_it)
            assert await exec_in_executor(pool, asyncio.get_event_loop) is users[0]
            assert await exec_in_executor(pool, twice, 1) == 2
            assert await exec_in_executor(pool, asyncio.get_event_loop) is users[0]
            await exec_in_executor(pool, unset_it)

    loops.run(main)


def test_get_event_loop_works_again_after_an_asyncio_run() -> None:
    """``asyncio.run`` leaves the thread without a current loop. The one of before is back."""

    def work() -> None:
        loop = ensure_thread_event_loop()
        assert asyncio.run(twice(1)) == 2
        assert ensure_thread_event_loop() is loop
        assert asyncio.get_event_loop() is loop
        assert loop.run_until_complete(twice(2)) == 4

    in_thread(work)
