"""``exec_in_executor_threading_future``: the same call, and a future that threads wait for."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import functools
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.garbage import IS_PYPY, MAY_DEFER, Thing, collect_until
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, until, wait_until

from threadhop import (
    check_cancelled,
    configure,
    exec_in_eventloop,
    exec_in_executor_threading_future,
)

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")


class OopsError(Exception):
    """What a test raises on purpose."""


def plain(number: int, *, plus: int = 0) -> int:
    return number * 2 + plus


async def twice(number: int, *, plus: int = 0) -> int:
    await asyncio.sleep(0)
    return number * 2 + plus


class AsyncCallable:
    async def __call__(self, number: int, *, plus: int = 0) -> int:
        return await twice(number, plus=plus)


CALLABLES: dict[str, Callable[..., Any]] = {
    "function": plain,
    "coroutine-function": twice,
    "partial-of-a-coroutine-function": functools.partial(twice),
    "async-call": AsyncCallable(),
    "partial-of-async-call": functools.partial(AsyncCallable()),
}


class Stop:
    """A coroutine function that waits on its worker until it is cancelled."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.ended = threading.Event()
        self.was_cancelled = False

    async def __call__(self) -> None:
        try:
            self.started.set()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()


# --- what it calls, and where


@pytest.mark.parametrize("func", CALLABLES.values(), ids=CALLABLES)
def test_the_future_has_what_the_function_returned(
    executor: Executor, func: Callable[..., Any]
) -> None:
    future = exec_in_executor_threading_future(executor, func, 4, plus=1)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 9
    assert future.done()


def test_it_works_under_a_loop_too(loops: LoopKind, executor: Executor) -> None:
    async def main() -> None:
        future = exec_in_executor_threading_future(executor, twice, 4)
        assert await asyncio.wrap_future(future) == 8

    loops.run(main)


def test_a_thread_without_a_loop_may_call_it(executor: Executor) -> None:
    def work() -> int:
        return exec_in_executor_threading_future(executor, twice, 2).result(LIMIT)

    assert executor.submit(work).result(LIMIT) == 4


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
def test_the_function_runs_on_a_worker_of_the_executor(
    executor: Executor, asynchronous: bool
) -> None:
    def name() -> str:
        return threading.current_thread().name

    async def name_async() -> str:
        return name()

    func: Callable[[], Any] = name_async if asynchronous else name
    result = exec_in_executor_threading_future(executor, func).result(LIMIT)
    assert result.startswith("worker")


def test_the_function_sees_a_copy_of_the_callers_variables(executor: Executor) -> None:
    def paint(value: str) -> str:
        seen = color.get()
        color.set(value)
        return seen

    def work() -> tuple[str, str]:
        color.set("red")
        future = exec_in_executor_threading_future(executor, paint, "green")
        return future.result(LIMIT), color.get()

    assert contextvars.copy_context().run(work) == ("red", "red")


# --- which executor


@pytest.fixture
def configured(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    with executor_class(1, thread_name_prefix="configured") as pool:
        configure(executor=pool)
        try:
            yield pool
        finally:
            configure()


def prefix() -> str:
    return threading.current_thread().name.partition("_")[0]


def test_the_executor_that_is_named_comes_first(executor: Executor, configured: Executor) -> None:
    assert exec_in_executor_threading_future(executor, prefix).result(LIMIT) == "worker"


def test_the_configured_executor_comes_before_that_of_the_loop(
    current_task_loops: LoopKind, configured: Executor
) -> None:
    assert exec_in_executor_threading_future(None, prefix).result(LIMIT) == "configured"

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        future = exec_in_executor_threading_future(None, prefix)
        assert await asyncio.wrap_future(future) == "configured"

    current_task_loops.run(main)


def test_the_default_executor_of_a_running_loop_comes_next(current_task_loops: LoopKind) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        future = exec_in_executor_threading_future(None, prefix)
        assert await asyncio.wrap_future(future) == "default"

    current_task_loops.run(main)


@pytest.mark.parametrize("func", [plain, twice], ids=["plain", "coroutine"])
def test_a_loop_without_a_default_executor_makes_one(
    current_task_loops: LoopKind, func: Callable[..., Any]
) -> None:
    async def main() -> None:
        assert await asyncio.wrap_future(exec_in_executor_threading_future(None, func, 3)) == 6

    current_task_loops.run(main)


def test_without_a_loop_the_last_resort_is_a_shared_pool() -> None:
    """One for all; its threads are named after the library, and do not keep the process."""
    child = run_in_child(
        """
        import asyncio, threading
        from threadhop import exec_in_executor_threading_future as call

        def name():
            barrier.wait(5)
            return threading.current_thread().name

        async def name_async():
            return threading.current_thread().name

        barrier = threading.Barrier(2)
        futures = [call(None, name) for _ in range(2)]
        names = {future.result(5) for future in futures}
        assert len(names) == 2 and all(name.startswith("threadhop") for name in names), names
        assert call(None, name_async).result(5).startswith("threadhop")
        for _ in range(100):
            call(None, int).result(5)
        # A second pool would give its threads the same names again.
        names = [thread.name for thread in threading.enumerate()]
        assert len(names) == len(set(names)), names
        print("done")
        """
    )
    assert (child.stdout, child.stderr, child.returncode) == ("done\n", "", 0)


def test_threads_that_first_ask_at_once_share_one_pool() -> None:
    child = run_in_child(
        """
        import threading
        from threadhop import _functions

        class Slow(_functions.WorkerPool):
            def __init__(self, *args, **kwargs):
                made.append(self)
                started.set()
                second.wait(0.2)
                super().__init__(*args, **kwargs)

        made, started, second = [], threading.Event(), threading.Event()
        _functions.WorkerPool = Slow
        results = []

        def ask():
            results.append(_functions.exec_in_executor_threading_future(None, int).result(5))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        print(len(made), results)
        """
    )
    assert (child.stdout, child.stderr) == ("1 [0, 0, 0, 0]\n", "")


# --- what is refused


@pytest.mark.parametrize("executor", [3, "pool", object(), ThreadPoolExecutor])
def test_what_is_no_executor_is_a_type_error_at_the_call(executor: Any) -> None:
    with pytest.raises(TypeError, match=r"^exec_in_executor_threading_future\(\)"):
        exec_in_executor_threading_future(executor, plain, 1)


@pytest.mark.parametrize("func", [None, 3, "plain"])
def test_what_is_not_callable_is_a_type_error_at_the_call(executor: Executor, func: Any) -> None:
    with pytest.raises(TypeError, match=r"exec_in_executor_threading_future\(\) takes a function"):
        exec_in_executor_threading_future(executor, func)


def test_an_executor_that_was_shut_down_refuses_at_the_call(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    pool = executor_class(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        exec_in_executor_threading_future(pool, plain, 1)


# --- errors

ERRORS: list[BaseException] = [
    OopsError("oops"),
    KeyboardInterrupt("ctrl"),
    SystemExit(3),
    GeneratorExit("gone"),
    StopAsyncIteration("over"),
    asyncio.CancelledError("own"),
    concurrent.futures.CancelledError("theirs"),
]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_future_has_whatever_the_function_raised(
    executor: Executor, error: BaseException, asynchronous: bool
) -> None:
    def oops() -> None:
        raise error

    async def oops_async() -> None:
        await asyncio.sleep(0)
        raise error

    func: Callable[[], Any] = oops_async if asynchronous else oops
    for _ in range(3):
        future = exec_in_executor_threading_future(executor, func)
        raised = future.exception(LIMIT)
        assert type(raised) is type(error)
        assert raised.args == error.args
        assert future.done()
        assert not future.cancelled()
    assert exec_in_executor_threading_future(executor, twice, 1).result(LIMIT) == 2
    error.__traceback__ = None


def test_stop_iteration_comes_as_a_runtime_error(executor: Executor) -> None:
    """So it can be raised in a coroutine, or a generator, that waits for it."""
    future = exec_in_executor_threading_future(executor, next, iter(()))
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        future.result(LIMIT)
    assert type(caught.value.__cause__) is StopIteration


def test_a_call_that_the_executor_drops_raises_the_error_of_concurrent_futures(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    pool = executor_class(1)
    with busy(pool):
        futures = [exec_in_executor_threading_future(pool, plain, n) for n in range(3)]
        pool.shutdown(wait=False, cancel_futures=True)
        for future in futures:
            with pytest.raises(concurrent.futures.CancelledError):
                future.result(LIMIT)
    pool.shutdown()


def test_a_broken_initializer_is_told(
    executor_class: type[ThreadPoolExecutor], expect_loop_errors: list[logging.LogRecord]
) -> None:
    def oops() -> None:
        raise OopsError

    with executor_class(1, initializer=oops) as pool:
        for _ in range(3):
            with pytest.raises(BrokenExecutor):
                exec_in_executor_threading_future(pool, plain, 1).result(LIMIT)


# --- cancellation


def test_a_queued_call_that_is_cancelled_never_runs(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    ran: list[int] = []
    with executor_class(1) as pool:
        with busy(pool):
            futures = [exec_in_executor_threading_future(pool, ran.append, n) for n in range(4)]
            assert futures[1].cancel()
            assert futures[1].cancelled()
            assert futures[1].done()
            with pytest.raises(concurrent.futures.CancelledError):
                futures[1].result(0)
        del futures[1]
        concurrent.futures.wait(futures, LIMIT)
    assert ran == [0, 2, 3]


def test_a_future_may_be_cancelled_more_than_once(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """As with any future: it is True again, and nothing is logged."""
    with executor_class(1) as pool, busy(pool):
        future = exec_in_executor_threading_future(pool, plain, 1)
        assert [future.cancel() for _ in range(3)] == [True] * 3
        assert future.cancelled()


def test_a_call_that_has_ended_cannot_be_cancelled(executor: Executor) -> None:
    future = exec_in_executor_threading_future(executor, plain, 1)
    assert future.result(LIMIT) == 2
    assert not future.cancel()
    assert not future.cancelled()
    assert future.result(0) == 2


def test_a_running_coroutine_is_cancelled_with_its_future(executor: Executor) -> None:
    """The future at once, the coroutine on its worker."""
    stop = Stop()
    future = exec_in_executor_threading_future(executor, stop)
    assert stop.started.wait(LIMIT)
    assert future.cancel()
    assert future.cancelled()
    assert stop.ended.wait(LIMIT)
    assert stop.was_cancelled


def test_a_running_function_goes_on_when_its_future_is_cancelled(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """The future at once; the function ends at its next check."""
    gate = Gate()
    seen: list[str] = []

    def work() -> None:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        seen.append("went on")

    with executor_class(1) as pool:
        future = exec_in_executor_threading_future(pool, work)
        assert gate.reached.wait(LIMIT)
        assert future.running()
        assert future.cancel()
        assert future.cancelled()
        assert not future.running()
        with pytest.raises(concurrent.futures.CancelledError):
            future.result(0)
        gate.open()
    assert seen == ["cancelled"]


def test_the_future_of_a_task_that_is_cancelled_is_cancelled(
    loops: LoopKind, executor: Executor
) -> None:
    """``asyncio.wrap_future`` hands it on."""
    stop = Stop()

    async def wait() -> None:
        await asyncio.wrap_future(exec_in_executor_threading_future(executor, stop))

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(wait())
        await until(stop.started.is_set)
        task.cancel()
        await until(task.done)
        assert task.cancelled()
        await until(stop.ended.is_set)

    loops.run(main)
    assert stop.was_cancelled


def test_a_queued_call_of_a_loops_default_executor_is_cancelled_from_any_thread(
    current_task_loops: LoopKind,
) -> None:
    """Also where the loop does not show its default executor, and hands out its own futures."""
    ran: list[bool] = []

    async def main() -> None:
        pool = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(pool)
        with busy(pool), ThreadPoolExecutor(1) as other:
            future = exec_in_executor_threading_future(None, ran.append, True)
            assert other.submit(future.cancel).result(LIMIT)
            assert future.cancelled()
        await asyncio.wrap_future(exec_in_executor_threading_future(None, plain, 1))

    current_task_loops.run(main)
    assert not ran


def test_two_threads_that_cancel_at_once_agree(executor_class: type[ThreadPoolExecutor]) -> None:
    """Nothing is logged, both say yes, and waiters wake once. No forced order: many rounds."""
    barrier = threading.Barrier(2, timeout=LIMIT)

    with executor_class(1) as pool, busy(pool), ThreadPoolExecutor(2) as others:
        for _ in range(100):
            future = exec_in_executor_threading_future(pool, plain, 1)

            def cancel(future: Future[int] = future) -> bool:
                barrier.wait()
                return future.cancel()

            assert [f.result(LIMIT) for f in [others.submit(cancel) for _ in range(2)]] == [
                True
            ] * 2
            assert future.cancelled()


def test_a_cancellation_and_a_result_at_once_end_in_one_of_the_two(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """No forced order: many rounds. ``cancel()`` says what came of it."""
    outcomes = set()
    barrier = threading.Barrier(2, timeout=LIMIT)
    with executor_class(1) as pool:
        for _ in range(300):
            future = exec_in_executor_threading_future(pool, barrier.wait)
            barrier.wait()
            said = future.cancel()
            assert future.done()
            assert future.cancelled() == said
            assert said or future.exception(0) is None
            outcomes.add(said)
    assert outcomes


def test_a_function_that_hears_of_the_cancellation_at_once_does_not_overtake_it(
    executor_class: type[ThreadPoolExecutor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. cancel() tells the function; 2. it raises, and its end arrives; 3. cancel() goes on.

    The future is cancelled, and not one that failed with an error of asyncio.
    """
    from threadhop._cancel_token import CancelToken

    request = CancelToken.request
    started = threading.Event()
    told: list[Any] = []

    def tell_and_let_it_end(token: CancelToken, why: Any) -> None:
        request(token, why)
        told.append(why)
        pool.submit(str).result(LIMIT)

    def work() -> None:
        started.set()
        wait_until(check_cancelled)

    monkeypatch.setattr(CancelToken, "request", tell_and_let_it_end)
    with executor_class(1) as pool:
        future = exec_in_executor_threading_future(pool, work)
        assert started.wait(LIMIT)
        assert future.cancel()
        assert future.cancelled()
    assert told == [()]


# --- the rest of what such a future can do


def test_it_is_running_while_the_function_runs(executor_class: type[ThreadPoolExecutor]) -> None:
    gate = Gate()
    with executor_class(1) as pool:
        with busy(pool):
            future = exec_in_executor_threading_future(pool, gate.stop_here)
            assert not future.running()
            assert not future.done()
        assert gate.reached.wait(LIMIT)
        assert future.running()
        gate.open()
        future.result(LIMIT)
        assert not future.running()
        assert future.done()


def test_a_result_that_takes_too_long_is_a_timeout(executor: Executor) -> None:
    gate = Gate()
    future = exec_in_executor_threading_future(executor, gate.stop_here)
    with pytest.raises(TimeoutError):
        future.result(0.01)
    gate.open()
    assert future.result(LIMIT) is None


def test_wait_and_as_completed_know_it(executor_class: type[ThreadPoolExecutor]) -> None:
    """Beside futures of the standard library, and also one that is cancelled while they wait."""
    with executor_class(1) as pool, ThreadPoolExecutor(2) as others:
        with busy(pool):
            queued = exec_in_executor_threading_future(pool, plain, 1)
            doomed = exec_in_executor_threading_future(pool, plain, 2)
            theirs = others.submit(plain, 3)
            waiting = others.submit(concurrent.futures.wait, [doomed], LIMIT)
            # A waiter announces itself at the future.
            wait_until(lambda: doomed._waiters)  # type: ignore[attr-defined]
            doomed.cancel()
            assert waiting.result(LIMIT).done == {doomed}
            done, pending = concurrent.futures.wait(
                [queued, doomed, theirs], LIMIT, concurrent.futures.FIRST_COMPLETED
            )
            assert doomed in done
            assert queued in pending
        completed = set(concurrent.futures.as_completed([queued, doomed, theirs], LIMIT))
        assert completed == {queued, doomed, theirs}


def test_callbacks_are_called_with_the_future(executor: Executor) -> None:
    """Those that were added before it ended, in the worker; those after it, at once."""
    gate = Gate()
    called: list[tuple[Any, int]] = []

    def note(future: Any) -> None:
        called.append((future, here()))

    def work() -> int:
        gate.stop_here()
        return here()

    future = exec_in_executor_threading_future(executor, work)
    future.add_done_callback(note)
    gate.open()
    worker = future.result(LIMIT)
    wait_until(lambda: called)
    assert called == [(future, worker)]
    future.add_done_callback(note)
    assert called[1:] == [(future, here())]


def test_a_cancelled_call_calls_the_callbacks(executor_class: type[ThreadPoolExecutor]) -> None:
    called: list[Any] = []
    with executor_class(1) as pool, busy(pool):
        future = exec_in_executor_threading_future(pool, plain, 1)
        future.add_done_callback(called.append)
        future.cancel()
        assert called == [future]
        future.cancel()
        assert called == [future]


@pytest.mark.parametrize("error", [OopsError, asyncio.CancelledError, SystemExit])
def test_a_callback_that_raises_does_not_stop_the_pool(
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[logging.LogRecord],
    error: type[BaseException],
) -> None:
    """However often it happens, later calls run."""

    def oops(_: object) -> None:
        raise error

    with executor_class(2) as pool:
        try:
            for _ in range(5):
                gate = Gate()
                future = exec_in_executor_threading_future(pool, gate.stop_here)
                future.add_done_callback(oops)
                gate.open()
                future.result(LIMIT)
            last = exec_in_executor_threading_future(pool, plain, 1)
            assert last.result(1) == 2
        finally:
            pool.shutdown(cancel_futures=True)


# --- calling the loop from the function


def test_the_function_calls_the_loop_that_it_was_called_from(
    loops: LoopKind, executor: Executor
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = exec_in_executor_threading_future(
            executor, exec_in_eventloop, asyncio.get_running_loop
        )
        assert await asyncio.wrap_future(future) is loop

    loops.run(main)


def test_without_a_loop_there_is_none_to_call(executor: Executor) -> None:
    future = exec_in_executor_threading_future(executor, exec_in_eventloop, plain, 1)
    with pytest.raises(RuntimeError, match="works for no event loop"):
        future.result(LIMIT)


def test_the_coroutine_on_the_loop_is_cancelled_with_the_future(
    loops: LoopKind, executor: Executor
) -> None:
    stop = Stop()
    seen: list[bool] = []

    def work() -> None:
        try:
            exec_in_eventloop(stop)
        except asyncio.CancelledError:
            seen.append(True)

    async def main() -> None:
        future = exec_in_executor_threading_future(executor, work)
        await until(stop.started.is_set)
        assert future.cancel()
        await until(lambda: seen)
        assert stop.was_cancelled

    loops.run(main)


# --- odd executors


def test_an_inline_executor_makes_the_call_in_the_callers_thread() -> None:
    """A coroutine too, as no loop runs there. In a thread of its own: it makes a loop for it."""

    class Inline(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            future: Future[Any] = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    def work() -> None:
        assert exec_in_executor_threading_future(Inline(), here).result(LIMIT) == here()
        assert exec_in_executor_threading_future(Inline(), twice, 1).result(LIMIT) == 2

    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result(LIMIT)


def test_a_call_that_any_executor_drops_is_told() -> None:
    executor = HeldExecutor()
    future = exec_in_executor_threading_future(executor, plain, 1)
    executor.drop()
    assert future.done()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(0)


def test_a_cancelled_call_is_taken_out_of_any_executor() -> None:
    executor = HeldExecutor()
    future = exec_in_executor_threading_future(executor, plain, 1)
    assert future.cancel()
    assert executor.jobs[0][0].cancelled()
    executor.run()
    assert future.cancelled()


def test_an_executor_that_takes_the_call_and_then_refuses_does_not_make_it() -> None:
    ran: list[bool] = []

    def refuse() -> None:
        raise OopsError("after all")

    executor = HeldExecutor(after_submit=refuse)
    with pytest.raises(OopsError, match="after all"):
        exec_in_executor_threading_future(executor, ran.append, True)
    executor.run()
    assert not ran


# --- nothing stays behind


@pytest.mark.parametrize("ending", ["returns", "raises", "cancelled"])
def test_a_future_keeps_nothing_of_the_call(
    executor_class: type[ThreadPoolExecutor], ending: str
) -> None:
    """Not even while the job that was cancelled still lies in the queue of the executor."""
    refs: list[weakref.ref[Thing]] = []

    def work(thing: Thing) -> None:
        if ending == "raises":
            raise OopsError

    def start(pool: Executor) -> Future[None]:
        thing = Thing()
        refs.append(weakref.ref(thing))
        return exec_in_executor_threading_future(pool, work, thing)

    def is_freed() -> bool:
        return refs[0]() is None

    with executor_class(1) as pool:
        with busy(pool):
            future = start(pool)
            if ending == "cancelled":
                future.cancel()
                collect_until(is_freed)
        error = None if ending == "cancelled" else future.exception(LIMIT)
        if error is not None:
            error.__traceback__ = None
        collect_until(is_freed)


@pytest.mark.skipif(IS_PYPY or MAY_DEFER, reason="it counts on reference counts")
@pytest.mark.parametrize("kind", ["plain", "coroutine", "raising", "cancelled"])
def test_a_call_leaves_no_garbage(executor: Executor, kind: str) -> None:
    def oops() -> None:
        raise OopsError

    def call() -> None:
        if kind == "cancelled":
            with busy(executor, 2):
                exec_in_executor_threading_future(executor, plain, 1).cancel()
            return
        func: Any = {"plain": int, "coroutine": functools.partial(twice, 1), "raising": oops}[kind]
        with contextlib.suppress(OopsError):
            exec_in_executor_threading_future(executor, func).result(LIMIT)

    for _ in range(5):
        call()
    executor.submit(str).result(LIMIT)
    gc.collect()
    gc.disable()
    try:
        for _ in range(30):
            call()
        with busy(executor, 2):
            pass
        assert gc.collect() < 30
    finally:
        gc.enable()
