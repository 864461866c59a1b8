"""``iterate_in_executor()`` and ``AsyncExecutor.iterate()``: what they promise of every source."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, suppress
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.calls import OopsError, prefix
from helpers.garbage import IS_PYPY
from helpers.loops import LoopKind, on_every_loop, on_one_loop
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

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

    def __init__(self, on_stop: Callable[[], object] = lambda: None) -> None:
        self.gate = Gate()
        self.closed: list[int] = []
        self.told: list[int] = []
        self._on_stop = on_stop

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


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


Way = Callable[..., ExecutorIterator[Any]]


def by_method(executor: Any, source: Any, /, *args: Any, **kwargs: Any) -> ExecutorIterator[Any]:
    return AsyncExecutor(executor).iterate(source, *args, **kwargs)


WAYS: dict[str, Way] = {"iterate_in_executor": iterate_in_executor, "iterate": by_method}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


# --- the items


@each_way
@pytest.mark.parametrize("buffersize", [1, 2, 3, 64, 1000])
def test_all_items_come_in_order_from_one_worker(
    loops: LoopKind, executor: Executor, way: Way, buffersize: int
) -> None:
    source = Source(300)
    items = loops.run(lambda: collect(way(executor, source, buffersize=buffersize)))
    assert items == list(range(300))
    source.assert_closed_on_its_worker()


@on_every_loop
async def test_a_source_is_an_iterable_or_a_function_that_is_called_with_arguments(
    executor: Executor,
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

    assert await collect(iterate_in_executor(executor, [1, 2])) == [1, 2]
    assert await collect(iterate_in_executor(executor, iter([1, 2]))) == [1, 2]
    assert await collect(iterate_in_executor(executor, range, 1, 3)) == [1, 2]
    assert await collect(iterate_in_executor(executor, keyed, key=2)) == [0, 1]
    assert await collect(iterate_in_executor(executor, Sequence())) == [7, 8]
    assert await collect(iterate_in_executor(executor, Both())) == ["a", "b"]
    assert await collect(iterate_in_executor(executor, Both(), "x", "y")) == ["x", "y"]
    assert await collect(iterate_in_executor(executor, [])) == []


@on_every_loop
async def test_a_cursor_of_sqlite3_is_made_read_and_closed_on_one_thread(
    executor: Executor,
) -> None:
    """sqlite3 refuses every other thread; the calls are those of the iterator itself."""
    calls: list[tuple[str, int]] = []

    class Rows:
        def __init__(self) -> None:
            self._db = sqlite3.connect(":memory:")
            self._rows = self._db.execute("WITH n(i) AS (VALUES (1), (2)) SELECT i FROM n")
            calls.append(("call", here()))

        def __iter__(self) -> Rows:
            calls.append(("iter", here()))
            return self

        def __next__(self) -> Any:
            calls.append(("next", here()))
            return next(self._rows)

        def close(self) -> None:
            calls.append(("close", here()))
            self._rows.close()
            self._db.close()

    with busy(executor):  # One of two: it will not change to the other.
        assert await collect(iterate_in_executor(executor, Rows)) == [(1,), (2,)]
    assert [name for name, _ in calls] == ["call", "iter", "next", "next", "next", "close"]
    assert len({thread for _, thread in calls}) == 1


@on_every_loop
async def test_nothing_begins_before_the_first_item_is_asked_for(executor: Executor) -> None:
    source = Source()
    items = iterate_in_executor(executor, source)
    await turns()
    executor.submit(str).result(LIMIT)
    await items.aclose()
    assert not source.threads
    assert await collect(items) == []


@on_every_loop
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


@on_every_loop
async def test_an_item_is_there_as_soon_as_it_is_read(executor: Executor) -> None:
    """It does not wait until the buffer is full."""
    blocking = Blocking()
    items = iterate_in_executor(executor, blocking)
    assert await anext(items) == "first"
    blocking.gate.open()
    assert await collect(items) == ["late"]


def test_what_is_ready_is_handed_over_without_a_trip_for_each_item(
    loops: LoopKind, executor: Executor, monkeypatch: pytest.MonkeyPatch
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

    async def main() -> None:
        items = iterate_in_executor(executor, source)
        asyncio.get_running_loop().call_soon(wait_until, lambda: source.closed)
        assert await collect(items) == list(range(60))

    loops.run(main)
    assert len(deliveries) <= 2


@on_every_loop
async def test_the_loop_has_turns_although_there_is_always_an_item(executor: Executor) -> None:
    source = Source(10**9)
    others: list[bool] = []
    async with iterate_in_executor(executor, source) as items:
        asyncio.get_running_loop().call_later(0.01, others.append, True)
        async for item in items:
            if others:
                break
            assert item < 1000
            time.sleep(0.0005)  # The worker is faster.
    source.assert_closed_on_its_worker()


@pytest.mark.parametrize("pool_class", [ThreadPoolExecutor, WorkerPool])
def test_a_thousand_iterators_at_once_end_on_four_workers(pool_class: type[Executor]) -> None:
    sources = [Source(5) for _ in range(1000)]

    async def main() -> None:
        with pool_class(4) as pool:  # type: ignore[call-arg]
            iterators = [iterate_in_executor(pool, source, buffersize=2) for source in sources]
            assert await asyncio.gather(*map(collect, iterators)) == [list(range(5))] * 1000

    asyncio.run(main())
    for source in sources:
        source.assert_closed_on_its_worker()


@on_every_loop
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


def test_the_executor_is_the_argument_then_that_of_configure_then_the_loop_s(
    current_task_loops: LoopKind,
) -> None:
    def names() -> Iterator[str]:
        yield prefix()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "loop"))
        with ThreadPoolExecutor(1, "given") as given, WorkerPool(1, "configured") as configured:
            assert await collect(iterate_in_executor(None, names)) == ["loop"]
            configure(executor=configured)
            try:
                assert await collect(iterate_in_executor(None, names)) == ["configured"]
                assert await collect(iterate_in_executor(given, names)) == ["given"]
            finally:
                configure()

    current_task_loops.run(main)


# --- errors


@on_every_loop
async def test_an_error_comes_after_the_items_before_it(executor: Executor) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OopsError("third")

    seen = []
    with pytest.raises(OopsError, match="third") as caught:
        async for item in iterate_in_executor(executor, source):
            await asyncio.sleep(0.01)
            seen.append(item)
    assert seen == [1, 2]
    assert any(entry.name == "source" for entry in caught.traceback)


class Failing:
    """An iterator that raises in one of its methods, and notes whether it was closed."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error
        self.is_closed = False

    def _at(self, where: str) -> None:
        if where == self.where:
            raise self.error

    def source(self) -> Failing:
        self._at("call")
        return self

    def __iter__(self) -> Failing:
        self._at("iter")
        return self

    def __next__(self) -> int:
        self._at("next")
        raise StopIteration

    def close(self) -> None:
        self.is_closed = True
        self._at("close")


@pytest.mark.parametrize("where", ["call", "iter", "next", "close"])
@pytest.mark.parametrize(
    "kind",
    [
        *(OopsError, StopIteration, StopAsyncIteration, GeneratorExit, SystemExit),
        *(KeyboardInterrupt, asyncio.CancelledError, concurrent.futures.CancelledError),
    ],
)
def test_whatever_a_source_raises_ends_the_iteration_and_hangs_nobody(
    loops: LoopKind, executor: Executor, where: str, kind: type[BaseException]
) -> None:
    """Odd ones, too: no iterator may raise StopIteration but from ``next()``."""
    failing = Failing(where, kind("odd"))
    seen: list[BaseException] = []

    async def main() -> None:
        try:
            assert await collect(iterate_in_executor(executor, failing.source)) == []
        except BaseException as error:
            seen.append(error)

    loops.run(main)
    if kind is StopIteration and where == "next":
        assert not seen
    else:
        (error,) = seen
        expected = RuntimeError if kind in (StopIteration, StopAsyncIteration) else kind
        assert type(error) is expected
    assert failing.is_closed == (where in ("next", "close"))


@on_every_loop
async def test_the_error_of_close_has_that_of_next_as_its_context(executor: Executor) -> None:
    class Twice(Failing):
        def close(self) -> None:
            raise OopsError("of close")

    with pytest.raises(OopsError, match="of close") as caught:
        await collect(iterate_in_executor(executor, Twice("next", OopsError("of next"))))
    assert str(caught.value.__context__) == "of next"


# --- left early


@on_every_loop
async def test_left_by_break_the_source_is_closed_on_its_worker_before_async_with_ends(
    executor: Executor,
) -> None:
    source = Source(1000)
    async with iterate_in_executor(executor, source) as items:
        async for item in items:
            if item == 100:
                break
    source.assert_closed_on_its_worker()
    assert source.read <= 101 + 64


@on_every_loop
async def test_left_by_an_error_of_the_body_the_source_is_closed_and_the_error_comes_out(
    executor: Executor,
) -> None:
    source = Source(1000)
    with pytest.raises(OopsError):
        async with iterate_in_executor(executor, source) as items:
            async for _ in items:
                raise OopsError
    source.assert_closed_on_its_worker()


@on_every_loop
async def test_aclose_waits_for_the_finally_of_the_source(executor: Executor) -> None:
    gate = Gate()
    source = Source(1000, gate.stop_here)
    items = iterate_in_executor(executor, source)
    assert await anext(items) == 0
    closing = asyncio.ensure_future(items.aclose())
    await until(gate.reached.is_set)
    await turns(20)
    assert not closing.done()
    gate.open()
    await closing
    source.assert_closed_on_its_worker()
    await items.aclose()  # Once more: nothing.
    assert await collect(items) == []


@on_every_loop
async def test_forgotten_after_a_break_it_is_closed_by_the_loop(executor: Executor) -> None:
    source = Source(1000)
    async for _ in iterate_in_executor(executor, source):
        break
    if IS_PYPY:
        gc.collect()
    await until(lambda: source.closed)
    source.assert_closed_on_its_worker()


def test_what_is_still_open_when_asyncio_run_ends_is_closed_before_the_loop(
    executor: Executor,
) -> None:
    source = Source(1000)
    keep: list[Any] = []

    async def main() -> None:
        keep.append(iterate_in_executor(executor, source))
        assert await anext(keep[0]) == 0

    asyncio.run(main())
    source.assert_closed_on_its_worker()


@on_every_loop
async def test_what_the_finally_of_a_source_raises_comes_out_of_aclose(executor: Executor) -> None:
    def oops() -> None:
        raise OopsError("at the end")

    items = iterate_in_executor(executor, Source(1000, oops))
    assert await anext(items) == 0
    with pytest.raises(OopsError, match="at the end"):
        await items.aclose()


@on_every_loop
async def test_the_error_of_an_item_that_nobody_took_is_dropped(executor: Executor) -> None:
    """Nobody has asked for it: without the read-ahead it would not have come to it."""

    def source() -> Iterator[int]:
        yield 1
        gate.reached.set()
        raise OopsError

    gate = Gate()
    items = iterate_in_executor(executor, source)
    assert await anext(items) == 1
    await until(gate.reached.is_set)
    await items.aclose()


@on_every_loop
async def test_a_source_that_blocks_is_told_when_it_is_left(executor: Executor) -> None:
    """``on_cancel`` calls back, in another thread; the ``next()`` ends, and ``aclose`` with it."""
    blocking = Blocking(check_cancelled)
    async with iterate_in_executor(executor, blocking) as items:
        assert await anext(items) == "first"
        await until(blocking.gate.reached.is_set)
    assert len(blocking.told) == 1
    assert blocking.told[0] not in (here(), *blocking.closed)
    assert len(blocking.closed) == 1


@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
def test_a_streaming_response_closes_the_source_when_its_client_has_gone(
    current_task_loops: LoopKind, executor: Executor, spec_version: str
) -> None:
    """Starlette cancels the response in the middle of a send, or lets it raise.

    It closes nothing. In the first case, its own references keep the iterator until the collector
    comes, but it runs the background task; in the second it keeps nothing.
    """
    pytest.importorskip("starlette")
    current_task_loops.run(_stream_to_a_client_that_leaves(executor, spec_version))


async def _stream_to_a_client_that_leaves(executor: Executor, spec_version: str) -> None:
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

    items = iterate_in_executor(executor, texts)
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


async def cancelled_with(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    await until(task.done)
    with pytest.raises(asyncio.CancelledError) as caught:
        task.result()
    return caught.value


@on_every_loop
async def test_cancelled_while_it_waits_the_source_ends_before_the_cancelled_error_comes(
    executor: Executor,
) -> None:
    """Of several messages it is the first. What the source raised is the context."""
    blocking = Blocking(lambda: {}["oops"])
    task = asyncio.ensure_future(collect(iterate_in_executor(executor, blocking)))
    await until(blocking.gate.reached.is_set)
    task.cancel("first")
    task.cancel("second")
    error = await cancelled_with(task)
    assert error.args == ("first",)
    assert isinstance(error.__context__, KeyError)
    assert len(blocking.told) == len(blocking.closed) == 1


@on_every_loop
async def test_cancelled_while_the_source_closes_it_waits_on(executor: Executor) -> None:
    """The thread is never abandoned, however often somebody cancels; one error comes of it."""
    gate = Gate()
    source = Source(1000, gate.stop_here)

    async def leave() -> None:
        async with iterate_in_executor(executor, source) as items:
            await anext(items)

    task = asyncio.ensure_future(leave())
    await until(gate.reached.is_set)
    for message in ("first", "second"):
        task.cancel(message)
        await turns(5)
        assert not task.done()
    gate.open()
    assert (await cancelled_with(task)).args == ("first",)
    source.assert_closed_on_its_worker()


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


def test_cancelled_before_the_first_item_it_never_begins(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    source = Source()

    async def main() -> None:
        async def body() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.cancel("enough")
            await collect(iterate_in_executor(executor, source))

        task = asyncio.ensure_future(body())
        assert (await cancelled_with(task)).args == ("enough",)

    current_task_loops.run(main)
    assert not source.threads


@on_every_loop
async def test_an_iterator_that_is_read_inside_a_body_leaves_that_as_it_was(
    executor: Executor,
) -> None:
    """By an executor that helps out while it waits."""
    held = HeldExecutor()
    items = iterate_in_executor(held, range(3))
    first = asyncio.ensure_future(anext(items))
    await until(lambda: held.jobs)
    async with threadpool(executor):
        worker = here()
        held.run()
        assert exec_in_eventloop(here) != worker
    assert [await first, *await collect(items)] == [0, 1, 2]


def test_a_time_limit_becomes_a_timeout_error(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    blocking = Blocking()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                async for _ in iterate_in_executor(executor, blocking):
                    limit.reschedule(0)  # It has begun.
        assert len(blocking.closed) == 1
        assert await collect(iterate_in_executor(executor, [1])) == [1]

    current_task_loops.run(main)


@on_every_loop
async def test_a_keyboard_interrupt_of_the_source_wins_over_a_cancellation(
    executor: Executor,
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    blocking = Blocking(interrupt)
    seen: list[BaseException] = []

    async def body() -> None:
        try:
            await collect(iterate_in_executor(executor, blocking))
        except BaseException as error:
            seen.append(error)

    task = asyncio.ensure_future(body())
    await until(blocking.gate.reached.is_set)
    task.cancel()
    await until(task.done)
    assert [type(error) for error in seen] == [KeyboardInterrupt]


# --- within the source


@on_every_loop
async def test_the_source_sees_the_variables_of_the_first_anext(executor: Executor) -> None:
    """And what it sets stays with it."""

    def source() -> Iterator[str]:
        yield variable.get()
        variable.set("of the source")
        yield variable.get()

    token = variable.set("at the call")
    items = iterate_in_executor(executor, source)
    variable.set("at the first")
    first = await anext(items)
    variable.set("at the second")
    assert [first, *await collect(items)] == ["at the first", "of the source"]
    assert variable.get() == "at the second"
    variable.reset(token)
    plain = AsyncExecutor(executor, handle_contexts=False).iterate(source)
    variable.set("unseen")
    assert await anext(plain) == "unset"
    await plain.aclose()


@on_every_loop
async def test_the_source_may_call_the_loop(executor: Executor) -> None:
    """In ``next()``, and in its ``finally`` a plain function, when it was left."""
    places: list[int] = []

    async def on_loop() -> int:
        await asyncio.sleep(0)
        return here()

    def source() -> Iterator[int]:
        try:
            while True:
                yield exec_in_eventloop(on_loop)
        finally:
            places.append(exec_in_eventloop(here))

    async with iterate_in_executor(executor, source, buffersize=1) as items:
        assert await anext(items) == here()
        assert await anext(items) == here()
    assert places == [here()]


@on_every_loop
async def test_the_source_hears_of_a_cancellation_at_its_next_check(executor: Executor) -> None:
    gate = Gate()
    seen: list[tuple[Any, ...]] = []

    def source() -> Iterator[int]:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise
        yield 1

    task = asyncio.ensure_future(collect(iterate_in_executor(executor, source)))
    await until(gate.reached.is_set)
    task.cancel("enough")
    await turns()
    gate.open()
    assert (await cancelled_with(task)).args == ("enough",)
    assert seen == [("enough",)]


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


@each_way
@pytest.mark.parametrize(
    ("source", "args", "text"),
    [
        (3, (), "takes an iterable, or a function that returns one, not 3"),
        (None, (), "takes an iterable"),
        ([1], (2,), "takes arguments for a function"),
        (AsyncIterable(), (), "an async iterable.*async for"),
        (a_coroutine_function, (), "a coroutine function"),
        (an_async_generator_function, (), "an async generator function"),
        (an_async_generator_function(), (), "an async iterable"),
        (decorated, (), "a coroutine function"),
    ],
)
def test_what_is_not_a_blocking_iterable_is_refused_at_the_call(
    way: Way, source: Any, args: tuple[Any, ...], text: str, executor: Executor
) -> None:
    with pytest.raises(TypeError, match=rf"iterate.*\(\).*{text}"):
        way(executor, source, *args)


def test_a_coroutine_is_refused_at_the_call_and_closed(executor: Executor) -> None:
    with pytest.raises(TypeError, match="takes an iterable"):
        iterate_in_executor(executor, a_coroutine_function())  # type: ignore[call-overload]


@on_one_loop
async def test_a_function_that_returns_something_async_is_refused_by_the_worker(
    executor: Executor,
) -> None:
    for function in (a_coroutine_function, an_async_generator_function):
        with pytest.raises(TypeError, match="not iterable"):
            await collect(iterate_in_executor(executor, lambda: function()))  # noqa: B023, PLW0108


@each_way
def test_a_buffer_size_is_an_int_of_at_least_1(way: Way, executor: Executor) -> None:
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match="buffersize must be an int"):
            way(executor, [], buffersize=wrong)
    for small in (0, -1):
        with pytest.raises(ValueError, match="buffersize must be greater than 0"):
            way(executor, [], buffersize=small)


@each_way
def test_what_is_no_executor_is_refused_at_the_call(way: Way) -> None:
    with pytest.raises(TypeError, match=r"takes a concurrent\.futures\.Executor, not 3"):
        way(3, [])
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        way(ThreadPoolExecutor, [])


def remote_executors() -> list[Any]:
    kinds: list[Any] = [ProcessPoolExecutor]
    if sys.version_info >= (3, 14) and sys.implementation.name == "cpython":
        from concurrent.futures import InterpreterPoolExecutor

        kinds.append(InterpreterPoolExecutor)
    return kinds


@each_way
@pytest.mark.parametrize("kind", remote_executors())
def test_an_executor_that_leaves_the_process_is_refused_at_the_call(way: Way, kind: Any) -> None:
    with (
        kind(1) as remote,
        pytest.raises(TypeError, match=f"{kind.__name__} has none.*ThreadPoolExecutor"),
    ):
        way(remote, [])


@on_one_loop
async def test_a_configured_executor_that_leaves_the_process_is_refused_at_the_first_item() -> None:
    with ProcessPoolExecutor(1) as remote:
        configure(executor=remote)
        try:
            with pytest.raises(TypeError, match="ProcessPoolExecutor has none"):
                await collect(iterate_in_executor(None, [1]))
        finally:
            configure()


class Pickles(HeldExecutor):
    """An executor of some other make that would take the job out of the process."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        import pickle

        pickle.dumps(fn)


class Inline(HeldExecutor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        fn()


class Nothing(HeldExecutor):
    """An executor that says at once that it has run the job."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        future = super().submit(fn)
        future.set_result(None)
        return future


REFUSALS: dict[str, tuple[type[Executor], type[BaseException], str]] = {
    "pickles the job": (Pickles, TypeError, "Pickles tried to pickle it.*ThreadPoolExecutor"),
    "runs it inline": (Inline, RuntimeError, r"test_iterate.py:\d+ cannot begin: .*must not be"),
    "runs it never": (Nothing, RuntimeError, r"test_iterate.py:\d+ cannot begin: .*did not run"),
}


@pytest.mark.parametrize(("kind", "error", "text"), REFUSALS.values(), ids=REFUSALS)
def test_an_executor_that_does_not_begin_is_an_error_at_the_first_item(
    loops: LoopKind, kind: type[Executor], error: type[BaseException], text: str
) -> None:
    source = Source()

    async def main() -> None:
        items = iterate_in_executor(kind(), source)
        with pytest.raises(error, match=text):
            await anext(items)
        assert await collect(items) == []

    loops.run(main)
    assert not source.threads


@on_every_loop
async def test_an_executor_that_was_shut_down_raises_its_own_error_at_the_first_item(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    pool = executor_class(1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        await collect(iterate_in_executor(pool, Source()))


@on_every_loop
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


def test_a_broken_pool_raises_its_own_error(loops: LoopKind, expect_loop_errors: object) -> None:
    def main() -> Any:
        return collect(iterate_in_executor(pool, [1]))

    with WorkerPool(1, initializer=Failing("call", OopsError()).source) as pool:
        with pytest.raises(concurrent.futures.thread.BrokenThreadPool):
            loops.run(main)


@on_one_loop
async def test_in_a_thread_without_a_loop_it_says_to_iterate_over_the_source(
    executor: Executor,
) -> None:
    items = iterate_in_executor(executor, [1])
    async with threadpool(executor):
        with pytest.raises(RuntimeError, match="iterate over the source itself"):
            await anext(items)


@on_one_loop
async def test_taken_off_its_loop_by_its_consumer_it_closes_and_hangs_nobody(
    executor: Executor,
) -> None:
    """The next item would have to be waited for: in a body, or in another loop."""

    async def take(items: ExecutorIterator[Any]) -> None:
        with pytest.raises(RuntimeError, match=r"test_iterate.py:\d+ is asked .*eventloop\(\)"):
            await anext(items)

    for run in (asyncio.run, None):
        blocking = Blocking()
        items = iterate_in_executor(executor, blocking)
        assert await anext(items) == "first"
        async with threadpool(executor):
            if run is None:
                await take(items)
            else:
                run(take(items))
        await until(lambda: blocking.closed)  # noqa: B023


@on_one_loop
async def test_two_tasks_at_a_time_are_refused_as_by_any_async_generator(
    executor: Executor,
) -> None:
    blocking = Blocking()
    items = iterate_in_executor(executor, blocking)
    assert await anext(items) == "first"
    waiting = asyncio.ensure_future(collect(items))
    await turns()
    with pytest.raises(RuntimeError, match="already running"):
        await anext(items)
    blocking.gate.open()
    assert await waiting == ["late"]


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
            await until(lambda: caplog.records)
            assert "test_iterate.py:" in caplog.text
        await task
