"""What type checkers make of the public names. Never run: mypy and pyright read it, both strict.

An ignore stands for an error that must be there: mypy reports one that is not needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from io import StringIO
from typing import Any, Literal, assert_type

import threadhop
from threadhop import (
    AsyncExecutor,
    ExecutorIterator,
    Hop,
    LimitedView,
    PoolBusy,
    Statistics,
    ThreadpoolBlock,
    ThreadpoolFunction,
    WorkerPool,
    cancellation_guard,
    check_cancelled,
    configure,
    ensure_thread_event_loop,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    hops,
    iterate_in_executor,
    on_cancel,
    print_hops,
    threadpool,
    unwrap_future,
)

pool = ThreadPoolExecutor()
maybe: Executor | None = None


# --- the block ---

assert_type(threadpool(), ThreadpoolBlock)
assert_type(threadpool(None), ThreadpoolBlock)
assert_type(threadpool(pool), ThreadpoolBlock)
assert_type(threadpool(executor=pool), ThreadpoolBlock)
assert_type(threadpool(executor=maybe), ThreadpoolBlock)
assert_type(threadhop.threadpool(), threadhop.ThreadpoolBlock)

threadpool(3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
threadpool(pool, pool)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
threadpool(pool=pool)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


async def a_block_returns_what_its_body_returns() -> int:
    async with threadpool(pool) as bound:
        assert_type(bound, None)
        # No "missing return": the checkers know that the block swallows nothing.
        return 1


async def a_block_binds_for_the_lines_after_it() -> None:
    async with threadpool():
        value = str(1)
    assert_type(value, str)


# --- functions ---


@threadpool
def bare(number: int, /, *, key: str = "") -> bytes:
    return b""


@threadpool()
def called(number: int) -> str:
    return ""


@threadpool(pool)
def on_pool() -> None: ...


async def functions() -> None:
    # It is a coroutine until it is awaited; one that is forgotten is reported.
    pending = bare(1)
    assert_type(pending, Coroutine[Any, Any, bytes]).close()
    assert_type(await pending, bytes)
    bare(1)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]
    assert_type(await bare(1, key="k"), bytes)
    assert_type(await called(number=1), str)
    assert_type(await on_pool(), None)
    # The plain function, with its own type.
    assert_type(bare.sync(1), bytes)
    assert_type(called.sync(1), str)

    await bare("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await bare(number=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await bare(1, other=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await called()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    bare.sync("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def plain(number: int) -> str:
    return ""


assert_type(threadpool(plain).sync(1), str)
assert_type(threadpool(pool)(plain).sync(1), str)
as_function: ThreadpoolFunction[[int], str] = threadpool(plain)
as_callable: Callable[[int], Coroutine[Any, Any, str]] = threadpool(plain)
wrong_argument: Callable[[str], Coroutine[Any, Any, str]]
wrong_argument = threadpool(plain)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]
wrong_result: Callable[[int], Coroutine[Any, Any, int]]
wrong_result = threadpool(plain)  # type: ignore[arg-type]  # pyright: ignore[reportAssignmentType]

threadpool()(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Owner:
    @threadpool
    def method(self, number: int) -> str:
        return ""

    @threadpool(pool)
    def on_pool(self, *, key: str) -> bytes:
        return b""

    @staticmethod
    @threadpool
    def static(number: int) -> str:
        return ""

    @classmethod
    @threadpool
    def of_class(cls, number: int) -> str:
        return ""

    def plain(self, number: int) -> str:
        return ""


async def methods(owner: Owner) -> None:
    assert_type(await owner.method(1), str)
    assert_type(await owner.on_pool(key="k"), bytes)
    assert_type(await Owner.method(owner, 1), str)
    assert_type(Owner.method.sync(owner, 1), str)
    assert_type(await Owner.static(1), str)
    assert_type(await threadpool(owner.plain)(1), str)

    await owner.method("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await owner.method()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def builtins_and_partials() -> None:
    assert_type(await threadpool(len)([1]), int)
    assert_type(await threadpool(partial(plain, 1))(), str)


# --- back to the loop ---

assert_type(eventloop(), eventloop)
eventloop(pool)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def a_loop_part_returns_what_its_body_returns() -> int:
    async with threadpool():
        async with eventloop() as bound:
            assert_type(bound, None)
            # No "missing return": the checkers know that the loop part swallows nothing.
            return 1


async def a_loop_part_binds_for_the_lines_after_it() -> None:
    async with threadpool(), eventloop():
        value = str(1)
    assert_type(value, str)


async def fetch(number: int, /, *, key: str = "") -> bytes:
    return b""


def awaitable(number: int) -> Coroutine[Any, Any, str]:
    raise NotImplementedError


def sent_to_the_loop() -> None:
    # What the coroutine returns, not the coroutine: the asynchronous overload comes first.
    assert_type(exec_in_eventloop(fetch, 1, key="k"), bytes)
    assert_type(exec_in_eventloop(awaitable, number=1), str)
    assert_type(exec_in_eventloop(partial(fetch, 1)), bytes)
    assert_type(exec_in_eventloop(plain, 1), str)
    assert_type(exec_in_eventloop(plain, number=1), str)
    assert_type(exec_in_eventloop(partial(plain, 1)), str)
    assert_type(exec_in_eventloop(Owner().plain, 1), str)
    assert_type(exec_in_eventloop(guarded, 1), bytes)

    exec_in_eventloop(fetch, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    exec_in_eventloop(fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    exec_in_eventloop(plain, other=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    exec_in_eventloop(fetch(1))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]


# --- cancellation ---


def set_number(number: int) -> None: ...


def checks() -> None:
    check_cancelled()
    with on_cancel(print):
        pass
    with on_cancel(set_number, 1) as nothing:
        assert_type(nothing, None)
    on_cancel(set_number, "one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    on_cancel(set_number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    check_cancelled(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


assert_type(cancellation_guard(), cancellation_guard)


async def a_guard_returns_what_its_body_returns() -> int:
    async with cancellation_guard() as bound:
        assert_type(bound, None)
        # No "missing return": the checkers know that the guard swallows nothing.
        return 1


@cancellation_guard()
async def guarded(number: int, /, *, key: str = "") -> bytes:
    return b""


class Guarded:
    @cancellation_guard()
    async def method(self, number: int) -> str:
        return ""


async def the_decorator_keeps_the_signature() -> None:
    pending = guarded(1)
    assert_type(pending, Coroutine[Any, Any, bytes]).close()
    assert_type(await guarded(1, key="k"), bytes)
    assert_type(await Guarded().method(number=1), str)

    await guarded("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await guarded(number=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await Guarded().method()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


cancellation_guard()(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
cancellation_guard(plain)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# --- the function core ---


class AsyncCallable:
    async def __call__(self, number: int) -> bytes:
        return b""


async def called_in_an_executor() -> None:
    # What the coroutine returns, not the coroutine: the asynchronous overload comes first.
    assert_type(exec_in_executor(pool, fetch, 1, key="k"), asyncio.Future[bytes])
    assert_type(exec_in_executor(None, awaitable, number=1), asyncio.Future[str])
    assert_type(exec_in_executor(maybe, AsyncCallable(), 1), asyncio.Future[bytes])
    assert_type(exec_in_executor(pool, partial(fetch, 1)), asyncio.Future[bytes])
    assert_type(exec_in_executor(pool, plain, 1), asyncio.Future[str])
    assert_type(exec_in_executor(pool, plain, number=1), asyncio.Future[str])
    assert_type(exec_in_executor(pool, partial(plain, 1)), asyncio.Future[str])
    assert_type(exec_in_executor(pool, Owner().plain, 1), asyncio.Future[str])
    assert_type(await exec_in_executor(pool, plain, 1), str)
    assert_type(await exec_in_executor(pool, fetch, 1), bytes)

    exec_in_executor(pool, plain, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    exec_in_executor(pool, fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    exec_in_executor(plain, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    exec_in_executor(ThreadPoolExecutor, plain, 1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def called_in_an_executor_by_threads() -> None:
    assert_type(exec_in_executor_threading_future(pool, fetch, 1, key="k"), Future[bytes])
    assert_type(exec_in_executor_threading_future(None, awaitable, number=1), Future[str])
    assert_type(exec_in_executor_threading_future(maybe, AsyncCallable(), 1), Future[bytes])
    assert_type(exec_in_executor_threading_future(pool, plain, number=1), Future[str])
    assert_type(exec_in_executor_threading_future(pool, partial(plain, 1)), Future[str])

    exec_in_executor_threading_future(pool, plain, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    exec_in_executor_threading_future(pool, fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def settings() -> None:
    configure(executor=pool)
    configure(executor=maybe)
    configure()
    configure(pool)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    configure(executor=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


assert_type(ensure_thread_event_loop(), asyncio.AbstractEventLoop)
ThreadPoolExecutor(initializer=ensure_thread_event_loop)


class OwnPool(ThreadPoolExecutor): ...


async def async_executors() -> None:
    wrapper = AsyncExecutor(OwnPool())
    assert_type(wrapper, AsyncExecutor[OwnPool])
    assert_type(wrapper.wrapped, OwnPool)
    assert_type(wrapper.backend(), str)
    AsyncExecutor(pool, "asyncio", handle_contexts=False)
    AsyncExecutor(pool, backend=None)

    assert_type(await wrapper.run(fetch, 1, key="k"), bytes)
    assert_type(await wrapper.run(awaitable, number=1), str)
    assert_type(await wrapper.run(AsyncCallable(), 1), bytes)
    assert_type(await wrapper.run(plain, number=1), str)
    assert_type(await wrapper.run(partial(plain, 1)), str)

    plains: AsyncIterator[str] = wrapper.map(plain, [1])
    async for text in wrapper.map(plain, [1], buffersize=2):
        assert_type(text, str)
    async for data in wrapper.map(fetch, [1]):
        assert_type(data, bytes)
    async with aclosing(wrapper.map(plain, [1])) as results:
        async for text in results:
            assert_type(text, str)

    assert_type(await wrapper.shutdown(cancel_futures=True), None)
    assert_type(wrapper.shutdown_nowait(cancel_futures=True), None)
    async with wrapper as bound:
        assert_type(bound, AsyncExecutor[OwnPool])

    await wrapper.run(plain, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await wrapper.run(fetch)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await wrapper.shutdown(True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    AsyncExecutor(3)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]
    del plains


async def futures_of_threads(future: Future[bytes]) -> None:
    assert_type(await unwrap_future(future), bytes)
    assert_type(await unwrap_future(future, "asyncio"), bytes)
    assert_type(await unwrap_future(pool.submit(plain, 1)), str)
    await unwrap_future(plain)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


# --- iterators ---


def lines(path: str, *, keep: bool = False) -> Iterator[bytes]:
    yield path.encode() if keep else b""


async def iterators() -> None:
    assert_type(iterate_in_executor(pool, [1, 2]), ExecutorIterator[int])
    assert_type(iterate_in_executor(None, lines, "path"), ExecutorIterator[bytes])
    assert_type(iterate_in_executor(maybe, range, 3, buffersize=1), ExecutorIterator[int])
    assert_type(iterate_in_executor(pool, lines, "path", keep=True), ExecutorIterator[bytes])
    wrapper = AsyncExecutor(pool)
    assert_type(wrapper.iterate([1, 2], buffersize=1), ExecutorIterator[int])
    assert_type(wrapper.iterate(lines, "path"), ExecutorIterator[bytes])

    as_iterator: AsyncIterator[int] = iterate_in_executor(pool, [1])
    as_objects: ExecutorIterator[object] = iterate_in_executor(pool, [1])
    async for number in as_iterator:
        assert_type(number, int)
    async with iterate_in_executor(pool, lines, "path") as items:
        assert_type(items, ExecutorIterator[bytes])
        async for line in items:
            assert_type(line, bytes)
        assert_type(await anext(items), bytes)
    async with aclosing(iterate_in_executor(pool, lines, "path")) as closing:
        assert_type(closing, ExecutorIterator[bytes])
    assert_type(await items.aclose(), None)

    iterate_in_executor(pool, 3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    iterate_in_executor(pool, [1], 2)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    iterate_in_executor(3, [1])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    iterate_in_executor(pool, fetch)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    iterate_in_executor(pool, [1], buffersize="1")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    del as_objects


# --- the pool ---

workers = WorkerPool(4)


async def pools() -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(WorkerPool())
    loop.set_default_executor(workers)
    assert_type(await loop.run_in_executor(workers, plain, 1), str)
    assert_type(await loop.run_in_executor(workers.limited(2), plain, 1), str)
    assert_type(await exec_in_executor(workers, fetch, 1), bytes)
    assert_type(threadpool(workers), ThreadpoolBlock)
    assert_type(threadpool(workers.limited(2)), ThreadpoolBlock)
    assert_type(AsyncExecutor(workers), AsyncExecutor[WorkerPool])


def what_a_pool_has() -> None:
    WorkerPool(4, "prefix", initializer=plain, initargs=(1,), max_threads=8)
    WorkerPool(max_workers=None, max_threads=None)
    WorkerPool(4, max_queued=100, idle_timeout=None)
    WorkerPool(4, max_queued=None, idle_timeout=0.5)
    standard: ThreadPoolExecutor = workers
    with workers as bound:
        assert_type(bound, WorkerPool)
    assert_type(workers.submit(plain, number=1), Future[str])
    for text in workers.map(plain, [1], timeout=1.0):
        assert_type(text, str)
    assert_type(workers.shutdown(wait=False, cancel_futures=True), None)
    assert_type(workers.statistics(), Statistics)
    assert_type(workers.statistics().queued, int)

    view = workers.limited(2)
    assert_type(view, LimitedView)
    assert_type(workers.limited(2, max_queued=3), LimitedView)
    busy: RuntimeError = PoolBusy("busy")  # what existing handlers catch
    assert_type(busy.args, tuple[Any, ...])
    executor: Executor = view
    with view as bound_view:
        assert_type(bound_view, LimitedView)
    assert_type(view.submit(plain, 1), Future[str])
    assert_type(view.shutdown(), None)

    WorkerPool("4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkerPool(1, "", None, (), 8)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WorkerPool(1, max_queued=0.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    workers.limited(1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workers.limited()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    workers.submit(plain, "1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    view.limited(1)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    del standard, executor


# --- what runs where ---


def what_runs_where() -> None:
    assert_type(hops(), tuple[Hop, ...])
    for hop in hops():
        assert_type(hop.what, Literal["block", "loop part", "call", "iterator"])
        assert_type(hop.state, Literal["queued", "running", "away"])
        assert_type(hop.name, str)
        assert_type(hop.where, str)
        assert_type(hop.seconds, float)
        assert_type(hop.executor, Executor)
        assert_type(hop.thread, str | None)
        hop.name = "frozen"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(print_hops(), None)
    print_hops(StringIO())
    print_hops(file=None)
    print_hops("file")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
