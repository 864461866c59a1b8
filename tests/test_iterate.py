"""``iterate_in_executor()`` and ``AsyncExecutor.iterate()``: what they promise of every source."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, nullcontext, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.calls import OopsError, prefix
from helpers.cancelling import error_of, run_with_task
from helpers.garbage import IS_PYPY
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, sleep, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    ExecutorIterator,
    WorkerPool,
    check_cancelled,
    configure,
    exec_in_eventloop,
    iterate_in_executor,
    on_cancel,
    threadpool,
)

here = threading.get_ident
variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """For a test to which the kind of executor makes no difference."""
    with WorkerPool(2) as pool:
        yield pool


class Source:
    """A generator function, and what its generator did, and where.

    Attributes:
        read: How many items it has yielded.
        threads: All threads in which it ran.
        closed: The threads in which its ``finally`` ran.
        at_end: Called in that.
    """

    def __init__(self, count: int = 3, at_end: Callable[[], object] = lambda: None) -> None:
        self.count = count
        self.read = 0
        self.threads: set[int] = set()
        self.closed: list[int] = []
        self.at_end = at_end

    def __call__(self) -> Generator[int, None, None]:
        self.threads.add(here())
        try:
            for number in range(self.count):
                self.threads.add(here())
                self.read += 1
                yield number
        finally:
            self.threads.add(here())
            self.closed.append(here())
            self.at_end()

    def assert_closed_on_its_worker(self) -> None:
        assert len(self.closed) == 1
        assert self.threads == set(self.closed)
        assert here() not in self.threads


class Blocking:
    """A generator function whose second ``next()`` blocks until it is told to end."""

    def __init__(
        self,
        on_stop: Callable[[], object] = lambda: None,
        at_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.gate = Gate()
        self.closed: list[int] = []
        self.told: list[int] = []
        self._on_stop = on_stop
        self._at_end = at_end

    def stop(self) -> None:
        self.told.append(here())
        self.gate.open()

    def __call__(self) -> Iterator[str]:
        try:
            with on_cancel(self.stop):
                yield "first"
                self.gate.stop_here()
                self._on_stop()
                yield "late"
        finally:
            self.closed.append(here())
            self._at_end()


class Plain:
    """An iterator that is no generator; it notes its calls, and raises in some of them."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = errors
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def _note(self, name: str) -> None:
        self.calls.append(name)
        self.threads.add(here())
        if name in self.errors:
            raise self.errors[name]

    def source(self) -> Plain:
        self._note("call")
        return self

    def __iter__(self) -> Plain:
        self._note("iter")
        return self

    def __next__(self) -> str:
        self._note("next")
        if self.calls.count("next") == 3:
            raise StopIteration
        return "item"

    def close(self) -> None:
        self._note("close")


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def cancelled_with(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    await until(task.done)
    with pytest.raises(asyncio.CancelledError) as caught:
        task.result()
    return caught.value


Way = Callable[..., ExecutorIterator[Any]]


def by_method(executor: Any, source: Any, /, *args: Any, **kwargs: Any) -> ExecutorIterator[Any]:
    return AsyncExecutor(executor).iterate(source, *args, **kwargs)


each_way = pytest.mark.parametrize(
    "way", [iterate_in_executor, by_method], ids=["iterate_in_executor", "iterate"]
)


# --- the items


@each_way
@pytest.mark.trio
@on_every_loop
async def test_all_items_come_in_order_from_one_worker(executor: Executor, way: Way) -> None:
    for buffersize in (1, 2, 3, 64, 1000):
        source = Source(300)
        assert await collect(way(executor, source, buffersize=buffersize)) == list(range(300))
        source.assert_closed_on_its_worker()


@on_one_loop
async def test_a_source_is_an_iterable_or_a_function_that_is_called_with_arguments(
    pool: WorkerPool,
) -> None:
    """Also a sequence by ``__getitem__``, and an iterable that can be called, with arguments."""

    class Sequence:
        def __getitem__(self, index: int) -> int:
            return [7, 8][index]

    class Both:
        def __iter__(self) -> Iterator[str]:
            return iter("ab")

        def __call__(self, *args: str) -> tuple[str, ...]:
            return args

    def keyed(*, key: int) -> range:
        return range(key)

    assert await collect(iterate_in_executor(pool, [1, 2])) == [1, 2]
    assert await collect(iterate_in_executor(pool, iter([1, 2]))) == [1, 2]
    assert await collect(iterate_in_executor(pool, range, 1, 3)) == [1, 2]
    assert await collect(iterate_in_executor(pool, keyed, key=2)) == [0, 1]
    assert await collect(iterate_in_executor(pool, Sequence())) == [7, 8]
    assert await collect(iterate_in_executor(pool, Both())) == ["a", "b"]
    assert await collect(iterate_in_executor(pool, Both(), "x", "y")) == ["x", "y"]
    assert await collect(iterate_in_executor(pool, [])) == []


@on_one_loop
async def test_one_thread_calls_the_source_reads_it_and_closes_it(executor: Executor) -> None:
    """So a cursor of sqlite3, which refuses every other thread, may be made and used there."""
    plain = Plain()
    with busy(executor):  # One of two: it will not change to the other.
        assert await collect(iterate_in_executor(executor, plain.source)) == ["item"] * 2
    assert plain.calls == ["call", "iter", "next", "next", "next", "close"]
    assert len(plain.threads) == 1


@on_one_loop
async def test_as_many_items_as_the_buffer_holds_are_read_ahead_and_no_more(
    executor: Executor,
) -> None:
    """And the worker reads on when the buffer is half empty, whoever sleeps."""
    source = Source(100)
    async with iterate_in_executor(executor, source, buffersize=8) as items:
        assert await anext(items) == 0
        await until(lambda: source.read >= 8)
        await turns(20)
        assert source.read <= 9
        for number in range(1, 6):
            assert await anext(items) == number
        await until(lambda: source.read > 9)
        assert source.read <= 6 + 8


@on_one_loop
async def test_what_is_ready_is_handed_over_without_a_trip_for_each_item(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One delivery, and not 64: the loop was held up until the buffer was full."""
    from threadhop._iterator_job import IteratorJob

    deliveries: list[bool] = []
    plain = IteratorJob.deliver

    def deliver(job: IteratorJob) -> None:
        deliveries.append(True)
        plain(job)

    monkeypatch.setattr(IteratorJob, "deliver", deliver)
    source = Source(60)
    asyncio.get_running_loop().call_soon(wait_until, lambda: source.closed)
    assert await collect(iterate_in_executor(pool, source)) == list(range(60))
    await turns()  # More of them would come behind it.
    assert len(deliveries) <= 2


@on_every_loop
async def test_the_loop_has_turns_although_there_is_always_an_item(pool: WorkerPool) -> None:
    source = Source(10**9)
    others: list[bool] = []
    async with iterate_in_executor(pool, source) as items:
        asyncio.get_running_loop().call_later(0.01, others.append, True)
        async for item in items:
            if others:
                break
            assert item < 1000
            time.sleep(0.0005)  # The worker is faster.
    source.assert_closed_on_its_worker()


@on_one_loop
async def test_a_worker_that_waits_for_room_counts_as_away() -> None:
    """So another job of the pool takes its place; and when there is room it counts again."""
    source = Source(10)
    with WorkerPool(1, max_threads=2) as pool:
        async with iterate_in_executor(pool, source, buffersize=2) as items:
            assert await anext(items) == 0
            await until(lambda: pool.statistics().away == 1)
            async with threadpool(pool):
                assert here() not in source.threads
            assert await collect(items) == list(range(1, 10))
        assert pool.statistics().away == 0


@on_one_loop
async def test_the_executor_is_the_argument_then_that_of_configure_then_the_loop_s() -> None:
    def names() -> Iterator[str]:
        yield prefix()

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "loop"))
    with ThreadPoolExecutor(1, "given") as given, WorkerPool(1, "configured") as configured:
        assert await collect(iterate_in_executor(None, names)) == ["loop"]
        configure(executor=configured)
        try:
            assert await collect(iterate_in_executor(None, names)) == ["configured"]
            assert await collect(iterate_in_executor(given, names)) == ["given"]
        finally:
            configure()


# --- errors


@pytest.mark.trio
@on_every_loop
async def test_an_error_comes_after_the_items_before_it(pool: WorkerPool) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError("third")

    seen = []
    with pytest.raises(OopsError, match="third") as caught:
        async for item in iterate_in_executor(pool, source):
            await sleep(0.01)
            seen.append(item)
    assert seen == [1, 2]
    assert any(entry.name == "source" for entry in caught.traceback)


@pytest.mark.parametrize("where", ["call", "iter", "next", "close"])
@pytest.mark.parametrize(
    "kind",
    [
        *(OopsError, StopIteration, StopAsyncIteration, GeneratorExit, SystemExit),
        *(KeyboardInterrupt, asyncio.CancelledError, concurrent.futures.CancelledError),
    ],
)
@on_one_loop
async def test_whatever_a_source_raises_ends_the_iteration_and_hangs_nobody(
    pool: WorkerPool, where: str, kind: type[BaseException]
) -> None:
    """Odd ones, too: no iterator may raise StopIteration but from ``next()``."""
    plain = Plain(**{where: kind("odd")})
    seen = []
    try:
        await collect(iterate_in_executor(pool, plain.source))
    except BaseException as error:
        seen.append(type(error))
    if kind is StopIteration and where == "next":
        assert not seen
    else:
        assert seen == [RuntimeError if kind in (StopIteration, StopAsyncIteration) else kind]
    assert ("close" in plain.calls) == (where in ("next", "close"))


@on_one_loop
async def test_the_error_of_close_has_that_of_next_as_its_context(pool: WorkerPool) -> None:
    plain = Plain(next=OopsError("of next"), close=OopsError("of close"))
    with pytest.raises(OopsError, match="of close") as caught:
        await collect(iterate_in_executor(pool, plain))
    assert str(caught.value.__context__) == "of next"


# --- left early


@pytest.mark.trio
@pytest.mark.parametrize("by", ["break", "an error"])
@on_every_loop
async def test_left_early_the_source_is_closed_on_its_worker_before_async_with_ends(
    executor: Executor, by: str
) -> None:
    source = Source(1000)
    with nullcontext() if by == "break" else pytest.raises(OopsError):
        async with iterate_in_executor(executor, source) as items:
            async for item in items:
                if item == 100:
                    if by == "break":
                        break
                    raise OopsError
    source.assert_closed_on_its_worker()
    assert source.read <= 101 + 64


@on_every_loop
async def test_aclose_waits_for_the_finally_of_the_source_and_raises_its_error(
    pool: WorkerPool,
) -> None:
    def end() -> None:
        gate.stop_here()
        raise OopsError("at the end")

    gate = Gate()
    source = Source(1000, end)
    items = iterate_in_executor(pool, source)
    assert await anext(items) == 0
    closing = asyncio.ensure_future(items.aclose())
    await until(gate.reached.is_set)
    await turns(20)
    assert not closing.done()
    gate.open()
    with pytest.raises(OopsError, match="at the end"):
        await closing
    source.assert_closed_on_its_worker()
    await items.aclose()  # Once more: nothing.
    assert await collect(items) == []


@on_every_loop
async def test_forgotten_after_a_break_it_is_closed_by_the_loop(pool: WorkerPool) -> None:
    source = Source(1000)
    async for _ in iterate_in_executor(pool, source):
        break
    if IS_PYPY:
        gc.collect()
    await until(lambda: source.closed)
    source.assert_closed_on_its_worker()


@pytest.mark.parametrize("cancelled", ["never", "in next()", "as it is left"])
@on_every_loop
async def test_a_source_that_blocks_is_told_and_closed_before_its_task_goes_on(
    pool: WorkerPool, cancelled: str
) -> None:
    """However often somebody cancels, the first error comes; in ``next()`` the source's is in it.

    ``on_cancel`` calls back, in another thread, and ``check_cancelled`` raises.
    """
    seen: list[tuple[Any, ...]] = []

    def stop() -> None:
        with pytest.raises(asyncio.CancelledError) as caught:
            check_cancelled()
        seen.append(caught.value.args)
        stopping.stop_here()
        if cancelled == "in next()":
            raise OopsError

    async def take() -> None:
        async with iterate_in_executor(pool, blocking) as items:
            assert await anext(items) == "first"
            if cancelled == "in next()":
                await anext(items)
            await until(blocking.gate.reached.is_set)

    stopping, closing = Gate(), Gate()
    blocking = Blocking(stop, closing.stop_here)
    task = asyncio.ensure_future(take())
    await until(blocking.gate.reached.is_set)
    await turns(20)
    if cancelled == "in next()":
        task.cancel("first")
        task.cancel("second")
    await until(stopping.reached.is_set)
    await turns()
    if cancelled == "as it is left":
        task.cancel("first")
    stopping.open()
    await until(closing.reached.is_set)
    await turns(20)
    if cancelled != "never":
        task.cancel("last")
        await turns()
    assert not task.done()
    closing.open()
    if cancelled == "never":
        await task
    else:
        error = await cancelled_with(task)
        assert error.args == ("first",)
        assert isinstance(error.__context__, OopsError) == (cancelled == "in next()")
    assert seen == [("first",) if cancelled == "in next()" else ()]
    assert len(blocking.told) == len(blocking.closed) == 1
    assert blocking.told[0] not in (here(), *blocking.closed)


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
@on_one_loop
async def test_a_streaming_response_closes_the_source_when_its_client_has_gone(
    pool: WorkerPool, spec_version: str
) -> None:
    """Starlette cancels the response in the middle of a send, or lets it raise.

    It closes nothing. In the first case, its own references keep the iterator until the collector
    comes, but it runs the background task; in the second it keeps nothing.
    """
    pytest.importorskip("starlette")
    from starlette.background import BackgroundTask
    from starlette.requests import ClientDisconnect
    from starlette.responses import StreamingResponse

    source, sent, gone = Source(10**9), [], asyncio.Event()

    async def receive() -> dict[str, Any]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 5:
            if spec_version == "2.4":
                raise OSError
            gone.set()
            await asyncio.Event().wait()

    def texts() -> Iterator[str]:
        with closing(source()) as numbers:
            yield from map(str, numbers)

    items = iterate_in_executor(pool, texts)
    response = StreamingResponse(items, background=BackgroundTask(items.aclose))
    del items
    with suppress(ClientDisconnect):
        await response({"type": "http", "asgi": {"spec_version": spec_version}}, receive, send)
    assert [message.get("body") for message in sent] == [None, b"0", b"1", b"2", b"3"]
    del response
    if IS_PYPY:
        gc.collect()
    await until(lambda: source.closed)
    source.assert_closed_on_its_worker()


# --- cancellation


@on_every_loop
async def test_cancelled_while_the_job_is_queued_it_never_begins(one: ThreadPoolExecutor) -> None:
    source = Source()
    with busy(one):
        task = asyncio.ensure_future(collect(iterate_in_executor(one, source)))
        await turns()
        task.cancel("enough")
        assert (await cancelled_with(task)).args == ("enough",)
    one.submit(str).result(LIMIT)
    assert not source.threads


def test_cancelled_before_the_first_item_it_never_begins(loops: LoopKind, pool: WorkerPool) -> None:
    source = Source()

    async def body(task: asyncio.Task[Any]) -> None:
        task.cancel("enough")
        await collect(iterate_in_executor(pool, source))

    assert error_of(run_with_task(loops, body)).args == ("enough",)
    assert not source.threads


@on_one_loop
async def test_a_keyboard_interrupt_of_the_source_wins_over_a_cancellation(
    pool: WorkerPool,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    blocking = Blocking(interrupt)
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            await collect(iterate_in_executor(pool, blocking))
        except BaseException as error:
            seen.append(error)

    task = asyncio.ensure_future(body())
    await until(blocking.gate.reached.is_set)
    task.cancel()
    await until(task.done)
    assert [type(error) for error in seen] == [KeyboardInterrupt]


# --- within the source


@on_one_loop
async def test_the_source_sees_the_variables_of_the_first_anext(pool: WorkerPool) -> None:
    """And what it sets stays with it."""

    def source() -> Iterator[str]:
        yield variable.get()
        variable.set("of the source")
        yield variable.get()

    token = variable.set("at the call")
    items = iterate_in_executor(pool, source)
    variable.set("at the first")
    first = await anext(items)
    variable.set("at the second")
    assert [first, *await collect(items)] == ["at the first", "of the source"]
    assert variable.get() == "at the second"
    variable.reset(token)
    plain = AsyncExecutor(pool, handle_contexts=False).iterate(source)
    variable.set("unseen")
    assert await anext(plain) == "unset"
    await plain.aclose()


@pytest.mark.trio
@on_every_loop
async def test_the_source_may_call_the_loop(pool: WorkerPool) -> None:
    """In ``next()``, and in its ``finally`` a plain function, when it was left."""
    places: list[int] = []

    async def on_loop() -> int:
        await sleep(0)
        return here()

    def source() -> Iterator[int]:
        try:
            while True:
                yield exec_in_eventloop(on_loop)
        finally:
            places.append(exec_in_eventloop(here))

    async with iterate_in_executor(pool, source, buffersize=1) as items:
        assert await anext(items) == here()
        assert await anext(items) == here()
    assert places == [here()]


@on_one_loop
async def test_an_iterator_that_is_read_inside_a_body_leaves_that_as_it_was(
    pool: WorkerPool,
) -> None:
    """By an executor that helps out while it waits."""
    held = HeldExecutor()
    items = iterate_in_executor(held, range(3))
    first = asyncio.ensure_future(anext(items))
    await until(lambda: held.jobs)
    async with threadpool(pool):
        worker = here()
        held.run()
        assert exec_in_eventloop(here) != worker
    assert [await first, *await collect(items)] == [0, 1, 2]


# --- what is refused


class AsyncIterable:
    def __aiter__(self) -> Any:
        raise AssertionError


async def a_coroutine_function() -> None: ...


async def an_async_generator_function() -> AsyncIterator[int]:
    yield 1


@threadpool
def decorated() -> list[int]:
    return []


BAD_SOURCES: list[tuple[Any, tuple[Any, ...], str]] = [
    (3, (), "takes an iterable, or a function that returns one, not 3"),
    (None, (), "takes an iterable"),
    ([1], (2,), "takes arguments for a function"),
    (AsyncIterable(), (), "an async iterable.*async for"),
    (a_coroutine_function, (), "a coroutine function"),
    (an_async_generator_function, (), "an async generator function"),
    (an_async_generator_function(), (), "an async iterable"),
    (decorated, (), "a coroutine function"),
]
BAD_BUFFERS = [
    *((wrong, TypeError, "buffersize must be an int") for wrong in (True, 1.0, "1", None)),
    *((small, ValueError, "buffersize must be greater than 0") for small in (0, -1)),
]


@each_way
@on_one_loop
async def test_bad_arguments_are_refused_at_the_call(way: Way, pool: WorkerPool) -> None:
    """A function that returns something async: by the worker. A coroutine is closed each time."""
    for source, args, text in BAD_SOURCES:
        with pytest.raises(TypeError, match=rf"iterate.*\(\).*{text}"):
            way(pool, source, *args)
    for buffersize, error, text in BAD_BUFFERS:
        with pytest.raises(error, match=text):
            way(pool, [], buffersize=buffersize)
    with pytest.raises(TypeError, match=r"takes a concurrent\.futures\.Executor, not 3"):
        way(3, [])
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        way(ThreadPoolExecutor, [])
    with pytest.raises(TypeError, match="takes an iterable"):
        way(pool, a_coroutine_function())
    for function in (a_coroutine_function, an_async_generator_function):
        with pytest.raises(TypeError, match="not iterable"):
            await collect(way(pool, lambda: function()))  # noqa: B023, PLW0108


def remote_executors() -> list[Any]:
    kinds: list[Any] = [ProcessPoolExecutor]
    if sys.version_info >= (3, 14) and sys.implementation.name == "cpython":
        from concurrent.futures import InterpreterPoolExecutor

        kinds.append(InterpreterPoolExecutor)
    return kinds


@pytest.mark.parametrize("kind", remote_executors())
@on_one_loop
async def test_an_executor_that_leaves_the_process_is_refused(kind: Any) -> None:
    """At the call; that of ``configure()`` at the first item."""
    text = f"{kind.__name__} has none.*ThreadPoolExecutor"
    with kind(1) as remote:
        for way in (iterate_in_executor, by_method):
            with pytest.raises(TypeError, match=text):
                way(remote, [])
        configure(executor=remote)
        try:
            with pytest.raises(TypeError, match=text):
                await collect(iterate_in_executor(None, [1]))
        finally:
            configure()


class Odd(Executor):
    """An executor of some other make, which does *submit* with a job."""

    def __init__(self, submit: Callable[[Any], Any]) -> None:
        self._submit = submit

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return self._submit(fn)


def done_at_once(_: object) -> concurrent.futures.Future[None]:
    future: concurrent.futures.Future[None] = concurrent.futures.Future()
    future.set_result(None)
    return future


def shut_down(kind: Callable[[int], Executor]) -> Executor:
    pool = kind(1)
    pool.shutdown()
    return pool


SHUT_DOWN = "cannot schedule new futures after shutdown"
CANNOT_BEGIN = r"test_iterate.py:\d+ cannot begin: "
REFUSALS: dict[str, tuple[Callable[[], Executor], type[BaseException], str]] = {
    "pickles the job": (
        lambda: Odd(pickle.dumps),
        TypeError,
        "Odd tried to pickle it.*ThreadPoolExecutor",
    ),
    "runs it inline": (
        lambda: Odd(lambda job: job()),
        RuntimeError,
        CANNOT_BEGIN + ".*must not be",
    ),
    "runs it never": (lambda: Odd(done_at_once), RuntimeError, CANNOT_BEGIN + ".*did not run"),
    "is shut down": (lambda: shut_down(ThreadPoolExecutor), RuntimeError, SHUT_DOWN),
    "is a pool of ours, shut down": (lambda: shut_down(WorkerPool), RuntimeError, SHUT_DOWN),
}


@pytest.mark.parametrize(("kind", "error", "text"), REFUSALS.values(), ids=REFUSALS)
@on_one_loop
async def test_an_executor_that_does_not_begin_is_an_error_at_the_first_item(
    kind: Callable[[], Executor], error: type[BaseException], text: str
) -> None:
    """One that was shut down raises its own."""
    source = Source()
    items = iterate_in_executor(kind(), source)
    with pytest.raises(error, match=text):
        await anext(items)
    assert await collect(items) == []
    assert not source.threads


@on_one_loop
async def test_a_job_that_the_executor_drops_is_an_error_and_no_cancellation(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    source = Source()
    with executor_class(1) as pool:
        with busy(pool):
            task = asyncio.ensure_future(collect(iterate_in_executor(pool, source)))
            await turns()
            pool.shutdown(wait=False, cancel_futures=True)
            await until(task.done)
        with pytest.raises(concurrent.futures.CancelledError, match="dropped the job"):
            task.result()
        assert not task.cancelled()
    assert not source.threads


@on_one_loop
async def test_a_broken_pool_raises_its_own_error(expect_loop_errors: object) -> None:
    with WorkerPool(1, initializer=Plain(call=OopsError()).source) as pool:
        with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
            await collect(iterate_in_executor(pool, [1]))


@on_one_loop
async def test_taken_off_its_loop_by_its_consumer_it_closes_and_hangs_nobody(
    pool: WorkerPool,
) -> None:
    """The next item would have to be waited for: in a body, or in another loop."""

    async def take(items: ExecutorIterator[Any]) -> None:
        with pytest.raises(RuntimeError, match=r"test_iterate.py:\d+ is asked .*eventloop\(\)"):
            await anext(items)

    for run in (asyncio.run, None):
        blocking = Blocking()
        items = iterate_in_executor(pool, blocking)
        assert await anext(items) == "first"
        async with threadpool(pool):
            if run is None:
                await take(items)
            else:
                run(take(items))
            # One that has not begun says what to do instead.
            with pytest.raises(RuntimeError, match="iterate over the source itself"):
                await anext(iterate_in_executor(pool, [1]))
        await until(lambda: blocking.closed)  # noqa: B023


@on_one_loop
async def test_a_warning_comes_when_the_consumer_needs_the_very_worker_that_waits_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A pool of one, a full buffer, and a block of that pool: nothing moves. Else it is quiet."""
    from threadhop import _iterator_job

    monkeypatch.setattr(_iterator_job, "POLL", 0.02)
    with ThreadPoolExecutor(1) as pool:
        async with iterate_in_executor(pool, Source(100), buffersize=1) as items:
            await anext(items)
            await asyncio.sleep(0.1)
            assert not caplog.records
            task = asyncio.ensure_future(AsyncExecutor(pool).run(here))
            await until(lambda: "test_iterate.py:" in caplog.text)
        await task
