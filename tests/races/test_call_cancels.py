"""A call and its cancellation at the same moment: one of the two has it, and the other is told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import Stop, error_of, plain
from helpers.loops import LOOPS, LoopKind
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    check_cancelled,
    exec_in_executor,
    exec_in_executor_threading_future,
)

here = threading.get_ident

each_sort = pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])


@pytest.fixture(params=[kind for kind in LOOPS if kind.task_factory is None], ids=str)
def loops(request: pytest.FixtureRequest) -> LoopKind:
    """Each kind of loop. A call knows nothing of tasks."""
    kind: LoopKind = request.param
    return kind


class Futureless(HeldExecutor):
    """An executor that returns no future, so the claims of a call alone decide who has it."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        super().submit(fn, *args, **kwargs)


class LyingClaim(dict[str, Any]):
    """The attributes of a call: *before* happens once, just before somebody claims it."""

    def __init__(self, call: Any, before: Callable[[], object]) -> None:
        super().__init__(call.__dict__)
        self._before = [before]
        call.__dict__ = self

    def setdefault(self, name: str, claim: Any = None) -> Any:
        if name == "claimed" and self._before:
            self._before.pop()()
        return super().setdefault(name, claim)


@each_sort
def test_a_cancellation_that_overtakes_the_worker_wins(loops: LoopKind, asynchronous: bool) -> None:
    """1. the worker has found no claim; 2. cancel() claims the call; 3. the worker wants it."""
    executor = Futureless()
    ran: list[bool] = []

    async def run() -> None:
        ran.append(True)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        func: Callable[[], Any] = run if asynchronous else lambda: ran.append(True)
        future: Any = exec_in_executor(executor, func)

        async def cancel() -> None:
            future.cancel("first")

        def cancel_from_worker() -> None:
            asyncio.run_coroutine_threadsafe(cancel(), loop).result(LIMIT)

        LyingClaim(future.call, cancel_from_worker)
        executor.start()
        error = await error_of(future)
        assert (type(error), error.args) == (asyncio.CancelledError, ("first",))
        await until(lambda: not executor.threads[0].is_alive())
        assert not ran

    loops.run(main)


def test_a_worker_that_comes_second_does_not_touch_the_call(loops: LoopKind) -> None:
    """1. the worker finds no claim; 2. cancel() claims; 3. so does the worker; 4. cancel() goes on.

    Until then the call is whole, so nothing but the order of the claims keeps the worker from it.
    """
    executor = Futureless()
    ran: list[bool] = []
    claimed = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop_thread = here()
        future: Any = exec_in_executor(executor, ran.append, True)

        class Claim(dict[str, Any]):
            def setdefault(self, name: str, claim: Any = None) -> Any:
                if here() == loop_thread:
                    first = super().setdefault(name, claim)
                    claimed.set()
                    executor.shutdown()  # waits for the worker
                    return first
                loop.call_soon_threadsafe(future.cancel, "first")
                assert claimed.wait(LIMIT)
                return super().setdefault(name, claim)

        future.call.__dict__ = Claim(future.call.__dict__)
        executor.start()
        error = await error_of(future)
        assert (type(error), error.args) == (asyncio.CancelledError, ("first",))
        assert not ran

    loops.run(main)


@each_sort
def test_a_worker_that_overtakes_the_cancellation_is_told(
    loops: LoopKind, asynchronous: bool
) -> None:
    """1. cancel() begins; 2. the worker claims, and the function begins; 3. cancel() goes on.

    The future is cancelled all the same, and the function learns of it.
    """
    executor = Futureless()
    stop = Stop()
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    def work() -> None:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError as error:
            seen.append(error.args)

    async def main() -> None:
        future: Any = exec_in_executor(executor, stop if asynchronous else work)

        def let_the_worker_in() -> None:
            executor.start()
            assert (stop.started if asynchronous else gate.reached).wait(LIMIT)

        LyingClaim(future.call, let_the_worker_in)
        assert future.cancel("too late")
        assert future.cancelled()
        gate.open()
        executor.shutdown()
        assert (stop.seen if asynchronous else seen) == [("too late",)]
        await turns()

    loops.run(main)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_coroutine_that_is_cancelled_while_its_task_is_made_is_cancelled(
    loops: LoopKind, executor: Executor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The worker tells who cancels which task it is, and then asks whether it was cancelled.

    Whoever cancels just before or just after it tells, reaches the task: it is not for nothing
    that each of the two writes before it reads.
    """
    from threadhop import _call_job
    from threadhop._cancel_token import CancelToken

    gate = Gate()
    stop = Stop()

    class Paused(CancelToken):
        __slots__ = ()

        @property
        def _listeners(self) -> Any:
            return self.__dict__.get("_listeners", ())

        @_listeners.setter
        def _listeners(self, value: Any) -> None:
            if value and moment == "before":
                gate.stop_here()
            self.__dict__["_listeners"] = value
            if value and moment == "after":
                gate.stop_here()

    monkeypatch.setattr(_call_job, "CancelToken", Paused)

    async def main() -> None:
        future = exec_in_executor(executor, stop)
        await until(gate.reached.is_set)
        assert future.cancel("in between")
        gate.open()
        # Both workers are free again, so the coroutine has ended.
        barrier = threading.Barrier(2, timeout=LIMIT)
        await asyncio.gather(*(exec_in_executor(executor, barrier.wait) for _ in range(2)))
        assert future.cancelled()
        assert not stop.started.is_set(), "it began, and was told later"

    loops.run(main)


def test_two_threads_that_cancel_at_once_agree(executor_class: type[ThreadPoolExecutor]) -> None:
    """Both say yes, and nobody logs an error. Many rounds stand for a forced order."""
    barrier = threading.Barrier(2, timeout=LIMIT)

    def cancel(future: Future[int]) -> bool:
        barrier.wait()
        return future.cancel()

    with executor_class(1) as pool, busy(pool), ThreadPoolExecutor(2) as others:
        for _ in range(100):
            future = exec_in_executor_threading_future(pool, plain, 1)
            said = [others.submit(cancel, future) for _ in range(2)]
            assert [answer.result(LIMIT) for answer in said] == [True, True]
            assert future.cancelled()


def test_a_cancellation_and_a_result_at_once_end_in_one_of_the_two(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """``cancel()`` tells which of the two. Many rounds stand for a forced order."""
    barrier = threading.Barrier(2, timeout=LIMIT)
    with executor_class(1) as pool:
        for _ in range(300):
            future = exec_in_executor_threading_future(pool, barrier.wait)
            barrier.wait()
            said = future.cancel()
            assert future.done()
            assert future.cancelled() == said
            assert said or future.exception(0) is None


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
