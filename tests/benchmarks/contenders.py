"""The contenders: each way to a worker thread and back, as one function.

How to add one: a function under `@contender`. Its body sets up, yields the trip, tidies up. The
trip takes no arguments, is awaited once for each trip, and calls the work in a worker thread. A
library that is not installed is loaded by its name, so that only its own line is left out.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from threadhop import WorkerPool, exec_in_executor, threadpool

WORKERS = 4
BASE = "to_thread"  # what every ratio is taken to

Work = Callable[[], object]
Trip = Callable[[], Awaitable[object]]
Setup = Callable[[Executor, Work], AsyncIterator[Trip]]


@dataclass(frozen=True)
class Contender:
    name: str
    code: str  # what a user writes; the title of its line
    setup: Callable[[Executor, Work], AbstractAsyncContextManager[Trip]]
    kind: str = "other"  # ours, base (the standard library's), other or floor
    pool: str = "stock"  # what is the executor: a key of POOLS
    library: str = "asyncio"  # the async library that it runs on
    needs: str | None = None  # the module to load
    slow: bool = False  # a trip takes longer the more tasks there are: fewer trips, smaller crowds


CONTENDERS: dict[str, Contender] = {}

POOLS: dict[str, Callable[[int], ThreadPoolExecutor]] = {
    "stock": ThreadPoolExecutor,
    "worker_pool": WorkerPool,
}


def contender(name: str, code: str, **more: Any) -> Callable[[Setup], Setup]:
    """Enter a function into the table: an async generator that yields once, the trip."""

    def enter(function: Setup) -> Setup:
        CONTENDERS[name] = Contender(name, code, asynccontextmanager(function), **more)
        return function

    return enter


def select(only: Sequence[str] | None = None) -> tuple[dict[str, Contender], dict[str, str]]:
    """Return those that can run here, and why the others are left out.

    The base always runs: without it there is no ratio.
    """
    chosen, left_out = {}, {}
    for name, entry in CONTENDERS.items():
        if only is not None and name not in only and name != BASE:
            continue
        if (lack := _lack_of(entry.needs)) is not None:
            left_out[name] = lack
        else:
            chosen[name] = entry
    return chosen, left_out


def _lack_of(module: str | None) -> str | None:
    if module is not None:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            top = module.partition(".")[0]
            lacking = f"no module {top!r}"
            # Else it is installed, where a module that it needs does not exist.
            return lacking if error.name in (top, module) else f"{lacking} ({error})"
    return None


# --- the standard library ---------------------------------------------------------------------


@contender("to_thread", "await asyncio.to_thread(work)", kind="base")
async def to_thread(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    # Goes through the same executor: it is the loop's default.
    yield partial(asyncio.to_thread, work)


@contender("run_in_executor", "await loop.run_in_executor(executor, work)", kind="base")
async def run_in_executor(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    yield partial(asyncio.get_running_loop().run_in_executor, executor, work)


# --- threadhop --------------------------------------------------------------------------------


@contender("block_pool", "async with threadpool(worker_pool): ...", kind="ours", pool="worker_pool")
@contender("block", "async with threadpool(executor): ...", kind="ours")
async def block(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    async def trip() -> None:
        async with threadpool(executor):
            work()

    yield trip


@contender("block_default", "async with threadpool(): ...", kind="ours")
async def block_default(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    """The same executor, found where the loop keeps it."""

    async def trip() -> None:
        async with threadpool():
            work()

    yield trip


@contender("call_default", "await exec_in_executor(None, work)", kind="ours")
async def call_default(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    yield partial(exec_in_executor, None, work)


@contender(
    "call_pool", "await exec_in_executor(worker_pool, work)", kind="ours", pool="worker_pool"
)
@contender("call", "await exec_in_executor(executor, work)", kind="ours")
async def call(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    yield partial(exec_in_executor, executor, work)


# --- the floor --------------------------------------------------------------------------------


@contender("floor", "floor: bare queue and call_soon_threadsafe", kind="floor")
async def floor(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    """The least that any trip needs, with threads of its own in place of the executor's."""
    loop = asyncio.get_running_loop()
    waiting: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    def serve() -> None:
        while (future := waiting.get()) is not None:
            work()
            loop.call_soon_threadsafe(future.set_result, None)

    def trip() -> asyncio.Future[None]:
        future = loop.create_future()
        waiting.put(future)
        return future

    workers = [threading.Thread(target=serve) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        yield trip
    finally:
        for _ in workers:
            waiting.put(None)
        for worker in workers:
            worker.join()


# --- other libraries --------------------------------------------------------------------------


@contender("anyio", "await anyio.to_thread.run_sync(work)", needs="anyio.to_thread")
async def anyio(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    library = importlib.import_module("anyio")
    # Threads of its own, as many of them as the others have.
    limiter = library.CapacityLimiter(WORKERS)
    yield partial(library.to_thread.run_sync, work, limiter=limiter)


@contender("asgiref", "await asgiref.sync.sync_to_async(work)()", needs="asgiref.sync")
async def asgiref(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    sync_to_async = importlib.import_module("asgiref.sync").sync_to_async
    # Not thread-sensitive: else all work shares one thread. Goes through the loop's default.
    yield sync_to_async(work, thread_sensitive=False)


@contender("aiomisc", "await aiomisc.threaded(work)()", needs="aiomisc")
async def aiomisc(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    """On its own pool, which its users have as the default of their loop."""
    library = importlib.import_module("aiomisc")
    loop = asyncio.get_running_loop()
    pool = library.ThreadPoolExecutor(WORKERS)
    loop.set_default_executor(pool)
    try:
        yield library.threaded(work)
    finally:
        assert isinstance(executor, ThreadPoolExecutor)
        loop.set_default_executor(executor)
        pool.shutdown()


@contender(
    "asyncio_extras",
    "async with asyncio_extras.threadpool(): ...",
    needs="asyncio_extras",
    slow=True,
)
async def asyncio_extras(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    threadpool = importlib.import_module("asyncio_extras").threadpool

    async def trip() -> None:
        async with threadpool(executor):
            work()

    yield trip


@contender(
    "block_on_trio",
    "async with threadpool(worker_pool): ...  # on trio",
    kind="ours",
    pool="worker_pool",
    needs="trio",
    library="trio",
)
async def block_on_trio(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    async def trip() -> None:
        async with threadpool(executor):
            work()

    yield trip


@contender("trio", "await trio.to_thread.run_sync(work)", needs="trio", library="trio")
async def trio(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    """Runs under trio: its ratio compares the trips of two async libraries."""
    library = importlib.import_module("trio")
    limiter = library.CapacityLimiter(WORKERS)
    yield partial(library.to_thread.run_sync, work, limiter=limiter)
