"""What code of others may do around a block: loggers, loops, tasks, exceptions from outside."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import importlib.util
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.places import OopsError, assert_is_whole, in_block_of, on_loop_thread, place, start
from helpers.steps import LIMIT, Gate, until, wait_until

from threadhop import (
    WorkerPool,
    _block_job,
    cancellation_guard,
    ensure_thread_event_loop,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    on_cancel,
    threadpool,
)

# --- loggers


@pytest.fixture
def raising_filter() -> Iterator[None]:
    """One that asks for the running task, as on a loop; in a worker there is none."""

    def ask(_: logging.LogRecord) -> bool:
        return asyncio.current_task() is not None

    logger = logging.getLogger("threadhop")
    logger.addFilter(ask)
    yield
    logger.removeFilter(ask)


@on_every_loop
@pytest.mark.usefixtures("raising_filter")
async def test_a_filter_that_raises_changes_nothing(one: ThreadPoolExecutor) -> None:
    """The warnings that all workers are parked, and that a task ends in a block."""

    async def ends() -> str:
        await threadpool(one).__aenter__()
        return "value"

    async with threadpool(one):
        async with eventloop():
            assert on_loop_thread()
        exec_in_eventloop(on_loop_thread)
    assert await asyncio.create_task(ends()) == "value"
    await assert_is_whole(one, 1)


# --- loops


@on_every_loop
async def test_a_loop_that_is_set_as_running_in_the_worker_is_not_the_tasks(
    one: ThreadPoolExecutor,
) -> None:
    """As after sync Playwright has started: the task's own strand knows where the task is."""
    other = asyncio.new_event_loop()
    try:
        async with threadpool(one):
            asyncio._set_running_loop(other)
            try:
                async with eventloop():
                    assert on_loop_thread()
                assert place() == "one_0"
                assert exec_in_eventloop(on_loop_thread)
                async with threadpool(one):
                    assert place() == "one_0"
            finally:
                asyncio._set_running_loop(None)
            asyncio._set_running_loop(other)
        assert on_loop_thread()
        await one_without_a_running_loop(one)
    finally:
        other.close()


async def one_without_a_running_loop(one: Executor) -> None:
    await asyncio.wrap_future(one.submit(asyncio._set_running_loop, None))


@on_one_loop
async def test_the_loop_that_a_call_was_offered_is_not_met_by_a_later_block(
    one: ThreadPoolExecutor,
) -> None:
    """A task that is made on it would be lost in silence. The user's own wish is kept."""
    await exec_in_executor(one, asyncio.get_event_loop)
    with pytest.raises(RuntimeError, match="no current event loop") as caught:
        async with threadpool(one):
            asyncio.get_event_loop()
    assert "ensure_thread_event_loop()" in caught.value.__notes__[0]
    await exec_in_executor(one, asyncio.get_event_loop)
    async with threadpool(one):
        ensure_thread_event_loop()
    async with threadpool(one):
        assert asyncio.get_event_loop() is ensure_thread_event_loop()


@pytest.mark.parametrize("parked_goes_first", [False, True])
def test_a_loop_that_is_closed_under_a_nested_body_leaves_both_workers_usable(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
    parked_goes_first: bool,
) -> None:
    """The body comes to its end; a warning says that the task is lost, and where.

    The parked outer worker does not wait for an inner body that may run for long. The warning also
    comes if that worker has gone, and nobody takes the task over when the inner body has ended.
    """
    monkeypatch.setattr(_block_job, "POLL", 0.01 if parked_goes_first else LIMIT)
    gate = Gate()

    async def block(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer), threadpool(inner):
            gate.stop_here()

    async def main(outer: Executor, inner: Executor) -> asyncio.Task[None]:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = start(block(outer, inner))
        await until(gate.reached.is_set)
        return task

    with executor_class(1) as outer, executor_class(1) as inner:
        loop = loops.loop_factory()
        task = loop.run_until_complete(main(outer, inner))
        loop.close()
        if not parked_goes_first:
            gate.open()
        assert outer.submit(str, 1).result(LIMIT) == "1"
        gate.open()
        assert inner.submit(str, 2).result(LIMIT) == "2"
        assert not task.done()
    (record,) = [record for record in caplog.records if record.name == "threadhop"]
    assert record.levelno == logging.WARNING
    assert parked_goes_first or __file__ in record.getMessage()
    del task
    gc.collect()


# --- tasks


class NoFuture:
    """Runs like a task, and is none of asyncio's."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


@pytest.mark.parametrize("missing", ["a coroutine", "cancelling", "the base class"])
def test_a_task_that_a_block_could_lose_is_refused_at_its_first_block(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    async def block() -> None:
        task: Any = asyncio.current_task()
        if missing == "a coroutine":
            odd = NoFuture(task)
            odd.get_coro = lambda: None
        elif missing == "cancelling":
            odd = type("Odd", (), {"get_coro": task.get_coro, "cancel": task.cancel})()
        else:
            odd = NoFuture(task)
        monkeypatch.setattr(asyncio, "current_task", lambda _: odd)
        try:
            async with threadpool():
                raise AssertionError("the body ran")
        finally:
            monkeypatch.undo()

    with pytest.raises(RuntimeError, match=f"cannot move this task.*lacks {missing}"):
        asyncio.run(block())


def test_a_task_that_was_never_initialised_is_refused_and_the_process_lives() -> None:
    """As Granian's in Rust."""
    child = run_in_child(
        """
        import asyncio
        from threadhop import threadpool

        class Odd(asyncio.Task):
            def __init__(self): pass
            def cancelling(self): return 0
            def cancel(self, msg=None): return False

        async def block():
            async with threadpool():
                print("the body ran")

        def step(loop):
            task = Odd()
            asyncio.tasks._enter_task(loop, task)
            try:
                block().send(None)
            except RuntimeError as error:
                print(error)
            finally:
                asyncio.tasks._leave_task(loop, task)
                loop.stop()

        loop = asyncio.new_event_loop()
        loop.call_soon(step, loop)
        loop.run_forever()
        loop.close()
        """
    )
    assert child.returncode == 0, child.stderr
    assert "lacks what Task.__init__() sets" in child.stdout


@on_every_loop
async def test_an_exit_outside_of_the_handler_of_its_error_raises_that(executor: Executor) -> None:
    """A coroutine that mypyc compiles looks like that after it has changed the thread."""
    block = threadpool(executor)
    error = OopsError("the body's")
    await block.__aenter__()
    with pytest.raises(OopsError) as caught:
        await block.__aexit__(OopsError, error, None)
    assert caught.value is error
    assert on_loop_thread()


@on_one_loop
async def test_the_future_that_a_task_in_a_block_waits_for_is_not_done(executor: Executor) -> None:
    """Tools ask for it: anyio's ``wait_all_tasks_blocked``."""
    gate = Gate()

    async def block() -> None:
        async with threadpool(executor):
            gate.stop_here()

    task: Any = asyncio.create_task(block())
    await until(gate.reached.is_set)
    assert not task._fut_waiter.done()
    assert not task._fut_waiter.cancelled()
    gate.open()
    await task


class WithoutThrow:
    """Its iterator has ``__next__`` and no ``throw``, as one written in C may have."""

    def __init__(self, coro: Any) -> None:
        self._coro = coro

    def __await__(self) -> WithoutThrow:
        return self

    def __iter__(self) -> WithoutThrow:
        return self

    def __next__(self) -> Any:
        return self._coro.send(None)


@on_every_loop
async def test_an_awaitable_without_throw_does_not_leave_its_block_behind(
    executor: Executor,
) -> None:
    """The refused await raises in the body, which ends on its worker."""
    steps: list[str] = []
    future = asyncio.get_running_loop().create_future()

    async def block() -> None:
        async with threadpool(executor):
            try:
                await future
            finally:
                steps.append("on the loop" if on_loop_thread() else "on a worker")

    with pytest.raises(RuntimeError):
        await WithoutThrow(block())  # type: ignore[misc]
    assert on_loop_thread()
    assert steps == ["on a worker"]
    future.set_result("usable")
    assert await future == "usable"


# --- exceptions that another thread raises in a worker


class StopItError(Exception):
    pass


def raise_in(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread), ctypes.py_object(StopItError)
    )


needs_ctypes = pytest.mark.skipif(
    not hasattr(ctypes, "pythonapi"), reason="PyPy has another way to raise in a thread"
)


@needs_ctypes
@on_every_loop
@pytest.mark.parametrize("away", ["in a loop part", "in a block of another pool"])
async def test_an_exception_that_is_raised_in_a_parked_worker_comes_out_in_its_body(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, away: str
) -> None:
    steps = []
    with pytest.raises(StopItError):
        async with threadpool(one):
            thread = threading.get_ident()
            try:
                async with eventloop() if away == "in a loop part" else threadpool(other):
                    wait_until(lambda: sys._current_frames()[thread].f_code.co_name == "_wait")
                    raise_in(thread)
                steps.append("the body went on")
            finally:
                steps.append(place())
    assert steps == ["one_0"]
    await in_block_of(one, other)


@needs_ctypes
@on_every_loop
async def test_an_exception_that_is_raised_in_a_parked_worker_hides_no_cancellation(
    one: ThreadPoolExecutor,
) -> None:
    """The task is cancelled in the loop part. The body swallows the exception, and blocks."""
    told = threading.Event()

    async def block() -> None:
        async with threadpool(one):
            thread = threading.get_ident()
            with on_cancel(told.set):
                with contextlib.suppress(StopItError):
                    async with eventloop():
                        wait_until(lambda: sys._current_frames()[thread].f_code.co_name == "_wait")
                        raise_in(thread)
                        task.cancel()
                told.wait(LIMIT)

    task = asyncio.get_running_loop().create_task(block())
    await asyncio.wait([task])
    assert task.cancelled()
    assert told.is_set()


@needs_ctypes
@on_one_loop
@pytest.mark.usefixtures("expect_loop_errors")
async def test_an_exception_that_is_raised_in_a_worker_whose_task_has_left_is_logged(
    one: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No body will get it. The worker is free."""
    monkeypatch.setattr(_block_job, "POLL", 0.01)

    async def ends() -> None:
        await threadpool(one).__aenter__()
        thread = threading.get_ident()
        await eventloop().__aenter__()
        wait_until(lambda: sys._current_frames()[thread].f_code.co_name == "_wait")
        raise_in(thread)

    await asyncio.create_task(ends())
    await in_block_of(one)
    (record,) = (record for record in caplog.records if record.exc_info)
    assert record.exc_info is not None
    assert record.exc_info[0] is StopItError
    assert f"{__file__}:" in record.getMessage()
    await assert_is_whole(one, 1)


@needs_ctypes
def test_an_exception_that_is_raised_in_an_idle_worker_costs_no_worker(
    expect_loop_errors: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    with WorkerPool(1) as pool:
        thread = pool.submit(threading.get_ident).result(LIMIT)
        wait_until(lambda: pool.statistics().idle == 1)
        raise_in(thread)
        assert pool.submit(int).result(LIMIT) == 0
        wait_until(lambda: pool.statistics().idle == 1)
        assert pool.submit(threading.get_ident).result(LIMIT) == thread
        assert pool.statistics().max_workers == 1
    assert "idle worker" in caplog.text


# --- errors that say "no loop here"


def wrapped(func: Callable[[], object]) -> Callable[[], object]:
    """As a client library does it: network down."""

    def call() -> None:
        try:
            try:
                func()
            except RuntimeError as error:
                raise ConnectionError("no answer") from error
        except ConnectionError:
            raise TimeoutError("gave up")  # noqa: B904 - only the context tells

    return call


def as_sniffio() -> None:
    raise RuntimeError("unknown async library, or not in async context")


REMEDIES: list[tuple[str, Callable[[], object], str]] = [
    ("asyncio", asyncio.get_running_loop, "async with eventloop():"),
    ("sniffio", as_sniffio, "async with eventloop():"),
    ("signal", lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN), "asyncio.timeout()"),
    ("wrapped", wrapped(asyncio.get_running_loop), "async with eventloop():"),
]
if importlib.util.find_spec("anyio") is not None:
    import anyio.from_thread

    REMEDIES += [
        ("anyio", anyio.get_current_task, "async with eventloop():"),
        ("from_thread.run_sync", lambda: anyio.from_thread.run_sync(int), "exec_in_eventloop("),
        ("from_thread.run", lambda: anyio.from_thread.run(anyio.sleep, 0), "exec_in_eventloop("),
        ("from_thread.check_cancelled", anyio.from_thread.check_cancelled, "check_cancelled()"),
    ]


@on_one_loop
@pytest.mark.parametrize(("words", "func", "remedy"), REMEDIES, ids=[row[0] for row in REMEDIES])
async def test_an_error_that_says_no_loop_here_carries_the_remedy_once(
    executor: Executor, other: Executor, words: str, func: Callable[[], object], remedy: str
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each library has its own
        async with threadpool(executor), threadpool(other):
            func()
    (note,) = caught.value.__notes__
    assert remedy in note


# --- debug mode, guards


@pytest.mark.parametrize("after", ["a block", "a call"])
def test_debug_mode_names_the_task_that_blocks_the_loop(
    executor: Executor, caplog: pytest.LogCaptureFixture, after: str
) -> None:
    async def slow() -> None:
        if after == "a block":
            async with threadpool(executor):
                pass
        else:
            await exec_in_executor(executor, int)
        time.sleep(0.3)  # This is what is measured.

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.2
        await asyncio.create_task(slow(), name="the slow one")

    asyncio.run(main(), debug=True)
    slow_ones = [text for text in caplog.messages if text.startswith("Executing")]
    assert any("the slow one" in text for text in slow_ones)
    assert not any("_entry_queue" in text for text in slow_ones)


@on_one_loop
async def test_a_guard_that_a_closed_generator_leaves_is_over() -> None:
    """One that shares its object with it is not mistaken for it."""
    guard = cancellation_guard()

    async def numbers() -> Any:
        async with guard:
            yield 1

    async def body() -> None:
        async with guard:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                generator = numbers()
                await anext(generator)
                await generator.aclose()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@on_one_loop
async def test_a_guard_that_another_task_leaves_raises() -> None:
    guard = cancellation_guard()
    await asyncio.create_task(guard.__aenter__())
    with pytest.raises(RuntimeError, match="left by a task that has not entered it"):
        await guard.__aexit__(None, None, None)
    error = asyncio.CancelledError()
    await guard.__aexit__(type(error), error, None)  # A cancellation is never replaced.
