"""A call in an executor: what holds of every way to make one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import functools
import gc
import pickle
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import (
    CALLABLES,
    KINDS,
    NAMES,
    WAYS,
    Inline,
    Kind,
    OopsError,
    Way,
    error_of,
    oops,
    plain,
    prefix,
    twice,
    wrapped,
)
from helpers.loops import on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns

from threadhop import (
    AsyncExecutor,
    configure,
    ensure_thread_event_loop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    unwrap_future,
)

here = threading.get_ident
color = contextvars.ContextVar("color", default="unset")

each_start = pytest.mark.parametrize("start", [exec_in_executor, exec_in_executor_threading_future])


class EndedError(StopIteration):
    """A kind of StopIteration."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to make a call and to await its result."""
    return WAYS[request.param]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of call, to be started and looked at later."""
    return KINDS[request.param]


# --- what it calls, and where


@on_every_loop
async def test_the_result_is_what_the_function_returned(executor: Executor, way: Way) -> None:
    """The arguments arrive, those with a name too. A worker awaits every kind of coroutine."""
    results = {name: await way(executor, func, 4, plus=1) for name, func in CALLABLES.items()}
    assert results == dict.fromkeys(CALLABLES, 9)
    assert await way(executor, dict, **NAMES) == NAMES


@on_one_loop
async def test_a_coroutine_runs_on_a_loop_of_its_worker(
    one: Executor, other: Executor, way: Way
) -> None:
    """The worker keeps one loop, that of ensure_thread_event_loop(), beside the caller's.

    The coroutine may make a call in its turn.
    """

    async def running() -> tuple[object, str, str]:
        return asyncio.get_running_loop(), prefix(), await way(other, prefix)

    first, *names = await way(one, running)
    assert first is not asyncio.get_running_loop()
    assert names == ["one", "other"]
    assert (await way(one, running))[0] is first
    assert await way(one, ensure_thread_event_loop) is first
    assert await way(one, asyncio.get_event_loop) is first


# --- context variables


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "coroutine"])
@on_every_loop
async def test_the_function_sees_a_copy_of_the_callers_variables(
    executor: Executor, kind: Kind, asynchronous: bool
) -> None:
    """The copy is made at the call. The function's own changes stay with it."""
    gate = Gate()

    def look() -> str:
        gate.stop_here()
        seen = color.get()
        color.set("green")
        return seen

    async def look_async() -> str:
        return look()

    color.set("red")
    call = kind.start(executor, look_async if asynchronous else look)
    color.set("blue")
    await turns()
    gate.open()
    assert await wrapped(call) == "red"
    assert color.get() == "blue"
    assert await wrapped(kind.start(executor, color.get)) == "blue"


@on_every_loop
async def test_the_function_calls_the_loop_that_it_was_called_from(
    executor: Executor, way: Way
) -> None:
    """Functions and coroutine functions run there. Context variables go there and back."""

    async def paint(value: str) -> tuple[object, str]:
        await asyncio.sleep(0)
        seen = color.get()
        color.set(value)
        return asyncio.get_running_loop(), seen

    def work() -> tuple[object, str, object, str]:
        loop, seen = exec_in_eventloop(paint, "green")
        return loop, seen, exec_in_eventloop(asyncio.get_running_loop), color.get()

    color.set("red")
    loop = asyncio.get_running_loop()
    assert await way(executor, work) == (loop, "red", loop, "green")
    assert color.get() == "red"


# --- errors

ERRORS: list[type[BaseException]] = [
    OopsError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    StopAsyncIteration,
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    asyncio.InvalidStateError,
]


@on_every_loop
async def test_whatever_the_function_raises_comes_out(executor: Executor, way: Way) -> None:
    """The error is the same. No future stays pending, nobody logs it, and the workers go on."""

    def fail(error: type[BaseException]) -> None:
        raise error("why")

    async def fail_async(error: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise error("why")

    for error in ERRORS:
        for func in (fail, fail_async):
            with pytest.raises(error, match=r"^why$") as caught:
                await way(executor, func, error)
            assert caught.type is error
            assert traceback.extract_tb(caught.tb)[-1].name == func.__name__
    assert await way(executor, twice, 1) == 2


@on_every_loop
async def test_stop_iteration_comes_as_a_runtime_error(executor: Executor, way: Way) -> None:
    """No future of a loop can hold a StopIteration. The cause is the original."""

    def end() -> None:
        raise EndedError

    async def end_async() -> None:
        raise StopIteration

    for func, cause in ((functools.partial(next, iter(())), StopIteration), (end, EndedError)):
        with pytest.raises(RuntimeError, match="StopIteration, which no future") as caught:
            await way(executor, func)
        assert type(caught.value.__cause__) is cause
    with pytest.raises(RuntimeError, match="StopIteration"):
        await way(executor, end_async)


# --- what is refused


TAKES_AN_EXECUTOR: dict[str, Callable[[Any], object]] = {
    "exec_in_executor()": lambda it: exec_in_executor(it, plain, 1),
    "exec_in_executor_threading_future()": lambda it: exec_in_executor_threading_future(
        it, plain, 1
    ),
    "AsyncExecutor()": AsyncExecutor,
    "configure()": lambda it: configure(executor=it),
}
TAKES_A_FUNCTION: dict[str, Callable[[Any], object]] = {
    "exec_in_executor()": lambda it: exec_in_executor(Inline(), it),
    "exec_in_executor_threading_future()": lambda it: exec_in_executor_threading_future(
        Inline(), it
    ),
    "AsyncExecutor.run()": lambda it: AsyncExecutor(Inline()).run(it).send(None),
    "AsyncExecutor.map()": lambda it: AsyncExecutor(Inline()).map(it, []),
}


def map_ahead(size: Any) -> object:
    return AsyncExecutor(Inline()).map(plain, [1], buffersize=size)


def unwrap(future: Any, backend: Any = None) -> object:
    return unwrap_future(future, backend).send(None)


NO_EXECUTOR: list[Any] = [3, False, (), "pool", object(), threading.Thread()]
BACKENDS: list[Any] = ["curio", "", 3, "Asyncio"]
#: What is called with what, the error, and its words.
REFUSED: list[tuple[Callable[[Any], object], list[Any], type[Exception], str]] = [
    *(
        (call, NO_EXECUTOR, TypeError, f"{name} takes a concurrent.futures.Executor, not ")
        for name, call in TAKES_AN_EXECUTOR.items()
    ),
    *(
        (call, [ThreadPoolExecutor], TypeError, f"{name} takes an instance of ThreadPoolExecutor, ")
        for name, call in TAKES_AN_EXECUTOR.items()
    ),
    *(
        (call, [None, 3, "plain", [plain]], TypeError, f"{name} takes a function, not ")
        for name, call in TAKES_A_FUNCTION.items()
    ),
    (AsyncExecutor, [None], TypeError, "AsyncExecutor() takes"),
    (unwrap, [None, 3, "future"], TypeError, "unwrap_future() takes a concurrent"),
    (lambda it: unwrap(Future(), it), BACKENDS, ValueError, "'asyncio' or 'trio'"),
    (lambda it: AsyncExecutor(Inline(), it), BACKENDS, ValueError, "'asyncio' or 'trio'"),
    (map_ahead, [0, -1], ValueError, "buffersize"),
    (map_ahead, [1.5, True], TypeError, "buffersize"),
]


@on_one_loop
async def test_what_cannot_be_is_refused_at_the_call() -> None:
    """The error says what was called, and what was expected."""
    theirs: list[Any] = [asyncio.get_running_loop().create_future()]
    of_asyncio = (unwrap, theirs, TypeError, "unwrap_future() takes a concurrent")
    for call, wrong, error, text in [*REFUSED, of_asyncio]:
        for each in wrong:
            with pytest.raises(error) as caught:
                call(each)
            assert caught.type is error
            assert text in str(caught.value)


# --- executors in trouble


@on_every_loop
async def test_a_call_that_a_pool_drops_is_not_a_cancelled_task(
    executor_class: type[ThreadPoolExecutor], kind: Kind
) -> None:
    """``shutdown(cancel_futures=True)``: the error is that of concurrent.futures, for each."""
    pool = executor_class(1)
    with busy(pool):
        calls = [kind.start(pool, func, 1) for func in (plain, twice, plain)]
        await turns()
        pool.shutdown(wait=False, cancel_futures=True)
        for call in calls:
            error = await error_of(call)
            assert type(error) is concurrent.futures.CancelledError
            assert "dropped" in str(error)
            assert not call.cancelled()
    pool.shutdown()


@pytest.mark.parametrize("fault", ["drops it", "breaks"])
@on_one_loop
async def test_the_error_of_any_executor_comes_out(kind: Kind, fault: str) -> None:
    """Also if an argument could not be pickled: that is not taken for the cause."""
    executor = HeldExecutor()
    call = kind.start(executor, print, threading.Lock())
    await turns()
    if fault == "breaks":
        executor.jobs[0][0].set_exception(BrokenExecutor("no more"))
        assert type(await error_of(call)) is BrokenExecutor
    else:
        executor.drop()
        assert type(await error_of(call)) is concurrent.futures.CancelledError
        assert not call.cancelled()


@pytest.mark.usefixtures("expect_loop_errors")
@on_one_loop
async def test_a_broken_initializer_is_told(
    executor_class: type[ThreadPoolExecutor], way: Way
) -> None:
    """The future of the first call raises it. A later call may raise it at once."""
    with executor_class(1, initializer=oops) as pool:
        for _ in range(5):
            with pytest.raises(BrokenExecutor):
                await way(pool, plain, 1)


@on_one_loop
async def test_an_inline_executor_makes_the_call_in_the_callers_thread(way: Way) -> None:
    """But no coroutine: a loop runs in that thread already. The call closes the coroutine."""
    assert await way(Inline(), here) == here()
    with pytest.raises(RuntimeError, match="StopIteration, which no future"):
        await way(Inline(), next, iter(()))
    with pytest.raises(RuntimeError, match="executor with threads"):
        await way(Inline(), twice, 1)
    gc.collect()


class Pickling(Inline):
    """Pickles a job when it gets it, as the executors of clusters do."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return super().submit(pickle.loads(pickle.dumps(fn)))


@on_one_loop
async def test_an_executor_that_pickles_at_the_call_gets_the_bare_call(way: Way) -> None:
    """The error of an argument that cannot be pickled names it. The cause is the original."""
    assert await way(Pickling(), divmod, 7, 2) == (3, 1)
    with pytest.raises(TypeError, match="cannot be pickled") as caught:
        await way(Pickling(), print, 1, threading.Lock())
    assert str(caught.value).startswith("argument 2 (<unlocked _thread.lock")
    assert caught.value.__cause__ is not None


@each_start
@pytest.mark.parametrize("moment", ["before", "after"])
@on_one_loop
async def test_an_executor_that_refuses_says_so_at_the_call_and_does_not_make_it(
    start: Callable[..., Any], moment: str
) -> None:
    """The caller was told that the call failed, even if the executor had taken it before."""
    ran: list[bool] = []

    def refuse() -> None:
        raise OopsError("closed on Sundays")

    async def run_async() -> None:
        ran.append(True)

    executor = HeldExecutor(**{f"{moment}_submit": refuse})
    for func in (functools.partial(ran.append, True), run_async):
        with pytest.raises(OopsError, match="closed on Sundays"):
            start(executor, func)
    assert len(executor.jobs) == (2 if moment == "after" else 0)
    for number in range(len(executor.jobs)):
        executor.start(number)
    executor.shutdown()
    await turns()
    assert not ran


@each_start
@on_one_loop
async def test_an_executor_that_refuses_while_the_call_runs_comes_too_late(
    start: Callable[..., Any],
) -> None:
    """The function runs already: the caller gets its result."""
    gate = Gate()

    def refuse() -> None:
        executor.start()
        assert gate.reached.wait(LIMIT)
        raise OopsError("too late")

    executor = HeldExecutor(after_submit=refuse)
    call = start(executor, gate.stop_here)
    gate.open()
    executor.shutdown()
    assert await wrapped(call) is None


@on_one_loop
async def test_a_job_that_an_executor_runs_twice_is_one_call(kind: Kind) -> None:
    executor = HeldExecutor()
    ran: list[bool] = []
    call = kind.start(executor, ran.append, True)
    await turns()
    _, job = executor.jobs[0]
    job()
    job()
    await wrapped(call)
    assert ran == [True]
