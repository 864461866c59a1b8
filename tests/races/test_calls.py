"""A call, its cancellation and its end at the same moment: one of them has it, the other is told.

A signal handler runs in the loop thread, between any two lines. Some tests put one there: the
arrival takes the task's wake-up out of the future, settles that, and resumes the task by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, Self

import pytest
from helpers.calls import KINDS, OopsError, Stop, error_of, plain
from helpers.loops import LOOPS, LoopKind, on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    check_cancelled,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)
from threadhop._loops import _asyncio_futures
from threadhop._loops._asyncio_futures import AbandoningFuture

here = threading.get_ident

each_sort = pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])


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
@on_one_loop
async def test_a_cancellation_that_overtakes_the_worker_wins(asynchronous: bool) -> None:
    """1. the worker has found no claim; 2. cancel() claims the call; 3. the worker wants it."""
    executor = Futureless()
    ran: list[bool] = []
    loop = asyncio.get_running_loop()

    async def run() -> None:
        ran.append(True)

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


@on_one_loop
async def test_a_worker_that_comes_second_does_not_touch_the_call() -> None:
    """1. the worker finds no claim; 2. cancel() claims; 3. so does the worker; 4. cancel() goes on.

    Until then the call is whole, so nothing but the order of the claims keeps the worker from it.
    """
    executor = Futureless()
    ran: list[bool] = []
    claimed = threading.Event()
    loop, loop_thread = asyncio.get_running_loop(), here()
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


@each_sort
@on_one_loop
async def test_a_worker_that_overtakes_the_cancellation_is_told(asynchronous: bool) -> None:
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


@pytest.mark.parametrize("moment", ["before", "after"])
@on_one_loop
async def test_a_coroutine_that_is_cancelled_while_its_task_is_made_is_cancelled(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The worker tells who cancels which task it is, and then asks whether it was cancelled.

    Whoever cancels just before or just after it tells, reaches the task: it is not for nothing
    that each of the two writes before it reads.
    """
    from threadhop import _call_job
    from threadhop._cancel_token import CancelToken

    gate = Gate()
    stop = Stop()

    class Listeners(dict[Any, None]):
        def __setitem__(self, listener: Any, _: None) -> None:
            if moment == "before":
                gate.stop_here()
            super().__setitem__(listener, None)
            if moment == "after":
                gate.stop_here()

    class Paused(CancelToken):
        __slots__ = ()

        def __init__(self) -> None:
            super().__init__()
            self._listeners = Listeners()

    monkeypatch.setattr(_call_job, "CancelToken", Paused)

    future = exec_in_executor(executor, stop)
    await until(gate.reached.is_set)
    assert future.cancel("in between")
    gate.open()
    # Both workers are free again, so the coroutine has ended.
    barrier = threading.Barrier(2, timeout=LIMIT)
    await asyncio.gather(*(exec_in_executor(executor, barrier.wait) for _ in range(2)))
    assert future.cancelled()
    assert not stop.started.is_set(), "it began, and was told later"


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


#: Of other tasks an arrival knows nothing: they are resumed as by any future.
of_real_tasks = pytest.mark.parametrize(
    "loops", [kind for kind in LOOPS if kind.name != "pytask"], ids=str
)

each_call = pytest.mark.parametrize(
    ("fails", "patient"), [(False, False), (False, True), (True, False), (True, True)]
)


class AtLine:
    """Within the block, call *act* once, before the *number*-th line of an arrival is executed."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._left = number
        self._act = act
        self.happened = False

    def __enter__(self) -> Self:
        self._outer = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._outer)

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        if (
            frame.f_code.co_filename != _asyncio_futures.__file__
            or frame.f_code.co_name != "settle"
        ):
            return None
        if event == "line" and not self.happened:
            if not self._left:
                self.happened = True
                self._act()
            self._left -= 1
        return self._trace


class Call:
    """A task that awaits a call; *patient*: one that waits for its end when it is cancelled."""

    def __init__(self, executor: Executor, *, fails: bool, patient: bool = False) -> None:
        self.executor = executor
        self.argument = "x" if fails else "1"
        self.patient = patient
        #: How often it has gone on.
        self.resumed = 0
        self.task = asyncio.create_task(self._work())

    async def _work(self) -> Any:
        try:
            if self.patient:
                return await AsyncExecutor(self.executor).run(int, self.argument)
            return await exec_in_executor(self.executor, int, self.argument)
        finally:
            self.resumed += 1

    async def outcome(self) -> Any:
        """The value of the task, "error", or the arguments of its cancellation."""
        await asyncio.wait([self.task], timeout=LIMIT)
        assert self.task.done(), "it waits for ever"
        await turns()
        assert self.resumed == 1
        try:
            return self.task.result()
        except asyncio.CancelledError as error:
            return error.args
        except ValueError:
            return "error"


@on_every_loop
async def test_a_cancel_just_before_the_task_is_known_resumes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1. the task awaits the future; 2. a handler cancels that; 3. the task leaves its wake-up."""

    def cancelled_first(future: AbandoningFuture, *args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        future.cancel("now")
        future.add_done_callback(*args, **kwargs)

    monkeypatch.setattr(AbandoningFuture, "add_done_callback", cancelled_first)
    assert await Call(HeldExecutor(), fails=False).outcome() == ("now",)


@pytest.mark.parametrize("whom", ["future", "task"])
@each_call
def test_a_cancel_at_each_line_of_the_arrival_resumes_the_task_once(
    loops: LoopKind, whom: str, fails: bool, patient: bool
) -> None:
    """The task ends cancelled, or as the call has ended if the future is done already."""
    outcomes: list[Any] = []

    async def interrupted(number: int) -> tuple[Any, bool]:
        """How the task has ended, and whether there is such a line."""
        executor = HeldExecutor()
        call = Call(executor, fails=fails, patient=patient)
        await turns()
        waits_for: Any = call.task._fut_waiter  # type: ignore[attr-defined]
        cancelled = waits_for if whom == "future" else call.task
        with AtLine(number, partial(cancelled.cancel, "now")) as line:
            executor.run()
            return await call.outcome(), line.happened

    async def main() -> None:
        while True:
            outcome, happened = await interrupted(len(outcomes))
            if not happened:
                assert outcome == ("error" if fails else 1)
                return
            outcomes.append(outcome)

    loops.run(main)
    possible = [("now",), "error" if fails else 1]
    assert outcomes == sorted(outcomes, key=possible.index), "what is late once, is late later on"
    if whom == "future" or loops.name not in ("pytask", "asyncio-debug"):
        assert set(outcomes) == set(possible)


@of_real_tasks
@each_call
def test_a_task_is_resumed_by_the_callback_that_brings_the_result(
    loops: LoopKind, monkeypatch: pytest.MonkeyPatch, fails: bool, patient: bool
) -> None:
    """Not one turn of the loop later, as by a plain future.

    In debug mode it is one: asyncio names the task if its step is slow.
    """
    calls: list[Call] = []
    resumed: list[int] = []
    settle = AbandoningFuture.settle

    def noted(future: AbandoningFuture, value: Any, error: BaseException | None) -> None:
        resumed.append(calls[0].resumed)
        settle(future, value, error)
        resumed.append(calls[0].resumed)

    monkeypatch.setattr(AbandoningFuture, "settle", noted)

    async def main() -> None:
        executor = HeldExecutor()
        calls.append(Call(executor, fails=fails, patient=patient))
        await turns()
        executor.run()
        await calls[0].outcome()

    loops.run(main)
    assert resumed == [0, 0 if loops.debug else 1]


@on_every_loop
async def test_all_who_wait_for_one_future_are_told_once() -> None:
    """Two tasks and a callback: in the order in which they came. One that was removed is not."""
    executor = HeldExecutor()
    steps: list[str] = []

    async def work(name: str, future: asyncio.Future[int]) -> None:
        assert await future == 1
        steps.append(name)

    future = exec_in_executor(executor, int, "1")
    first = asyncio.create_task(work("first", future))
    await turns()
    removed = steps.append
    future.add_done_callback(removed)
    assert future.remove_done_callback(removed) == 1
    future.add_done_callback(lambda _: steps.append("callback"))
    second = asyncio.create_task(work("second", future))
    await turns()
    executor.run()
    await asyncio.wait([first, second], timeout=LIMIT)
    await turns()
    assert steps == ["first", "callback", "second"]


@on_every_loop
async def test_a_callback_that_is_a_method_of_a_task_is_called_when_the_future_is_done() -> None:
    """A future takes such a method for a task that awaits it; it need not be one."""
    executor = HeldExecutor()
    future = exec_in_executor(executor, str)
    executor.run()
    await future
    task = asyncio.create_task(asyncio.sleep(LIMIT))
    await turns()
    future.add_done_callback(task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


# --- many calls in random trouble

#: The seeds are fixed, the interleavings are not.
CALLS = 500


@pytest.fixture
def _switch_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    # PyPy has no such thing, and says so by ignoring it.
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def checking(number: int) -> int:
    for _ in range(number % 50):
        check_cancelled()
    return number


def raising(number: int) -> int:
    raise OopsError(number)


async def on_worker(number: int) -> int:
    for _ in range(number % 5):
        await asyncio.sleep(0)
    return number


def there_and_back(number: int) -> int:
    return exec_in_eventloop(on_worker, number)


def stopping(number: int) -> int:
    raise StopIteration(number)


FUNCTIONS = [checking, checking, checking, raising, on_worker, on_worker, there_and_back, stopping]


def ending_of(func: Any, number: int, future: Any) -> str:
    """How a call ended that was not cancelled, which must be how its function ends."""
    error = future.exception()
    if func in (raising, stopping):
        assert type(error) is (OopsError if func is raising else RuntimeError)
        return "error"
    assert error is None
    assert future.result() == number
    return "value"


@pytest.mark.usefixtures("_switch_often")
@pytest.mark.parametrize("seed", [1, 2])
def test_every_future_of_a_storm_ends(loops: LoopKind, seed: int) -> None:
    """Every other call is cancelled some time, queued, running or done."""
    chance = random.Random(seed)
    endings: Counter[str] = Counter()

    async def main() -> None:
        with ThreadPoolExecutor(3) as pool:
            cancelled: set[Any] = set()
            started: list[tuple[Any, int, Any]] = []
            for number in range(CALLS):
                func: Any = chance.choice(FUNCTIONS)
                kind = chance.choice([*KINDS.values()])
                started.append((func, number, kind.start(pool, func, number)))
                if chance.random() < 0.5:
                    _, _, victim = chance.choice(started[-20:])
                    if victim.cancel():
                        cancelled.add(victim)
                if chance.random() < 0.1:
                    await asyncio.sleep(0)
            futures = [future for _, _, future in started]
            _, pending = await asyncio.wait(filter(asyncio.isfuture, futures), timeout=15)
            assert not pending, f"{len(pending)} futures stay pending"
            await until(lambda: all(future.done() for future in futures))
            for func, number, future in started:
                if future.cancelled():
                    assert future in cancelled, "cancelled by nobody"
                    endings["cancelled"] += 1
                else:
                    assert future not in cancelled or isinstance(future, asyncio.Task)
                    endings[ending_of(func, number, future)] += 1

    loops.run(main, timeout=18)
    assert sum(endings.values()) == CALLS
    assert min(endings[ending] for ending in ("value", "error", "cancelled")) > CALLS / 50
