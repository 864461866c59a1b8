"""The real worlds: threadhop on asyncio, on trio, and on both under anyio's cancel scopes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from typing import Any

from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, sleep, wait_until
from lab.course import Course, OopsError

from threadhop import (
    AsyncExecutor,
    PoolBusy,
    WorkerPool,
    _executors,
    cancellation_guard,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    iterate_in_executor,
    on_cancel,
    threadpool,
)

try:
    import anyio
except ImportError:
    anyio = None  # type: ignore[assignment, unused-ignore]
try:
    import trio
except ImportError:
    trio = None  # type: ignore[assignment, unused-ignore]

SIZES = {"default": 3, "stock": 3, "pool": 2, "view": 2}
#: More than there are tasks: a limit on threads is a circle among blocks of blocks.
THREADS = 500


class World:
    """threadhop, as a course uses it; and the pools. To be made, and left, on the loop.

    Args:
        kind: Of the loop.
        shuts_down: Whether a pool may be shut down while courses use it: what its entries raise
            then is an ``OopsError`` to a course.
    """

    cancelled: Any = asyncio.CancelledError
    #: Whose cancellation it is, in the model.
    library = "asyncio"
    #: The kinds of steps that are left out.
    skips: frozenset[str] = frozenset()

    def __init__(self, kind: LoopKind, *, shuts_down: bool = False) -> None:
        self.kind = kind
        self.shuts_down = shuts_down
        self.home = threading.get_ident()
        self._gate = Gate()
        self._prefixes = {"view": "wide", "default": "default"}
        wide = WorkerPool(3, "wide", max_threads=THREADS)
        self._to_close: list[Executor] = [wide]
        self.pools: dict[str, Executor | None] = {
            "default": None,
            "stock": self._keep(ThreadPoolExecutor(SIZES["stock"], "stock")),
            "pool": self._keep(WorkerPool(SIZES["pool"], "pool", max_threads=THREADS)),
            "view": wide.limited(SIZES["view"]),
            "dead": self._keep(WorkerPool(1)),
            "full": self._keep(full := WorkerPool(1, "full", max_queued=0)),
        }
        dead = self.pools["dead"]
        assert dead is not None
        dead.shutdown()
        full.submit(self._gate.stop_here)
        self.default = self._make_default()
        # A ThreadPoolExecutor that starts them later may count one as idle that is not.
        self._meet_all()

    def _keep(self, pool: Any) -> Any:
        self._to_close.append(pool)
        return pool

    def _make_default(self) -> Executor:
        self.loop = asyncio.get_running_loop()
        pool: Executor = self._keep(ThreadPoolExecutor(SIZES["default"], "default"))
        if self.kind.has_current_task:
            self.loop.set_default_executor(pool)  # type: ignore[arg-type]
        else:  # Their loop could not shut it down.
            self.pools["default"] = pool
        return pool

    def close(self) -> None:
        """In any thread, when all tasks have ended: all workers of all pools are there."""
        self._gate.open()
        self._meet_all()
        for pool in self._to_close:
            pool.shutdown()

    def _meet_all(self) -> None:
        """All workers of each pool at one barrier."""
        for name, size in SIZES.items():
            pool: Any = self.pools[name] or self.default
            barrier = threading.Barrier(size, timeout=LIMIT)
            with contextlib.suppress(RuntimeError):  # It was shut down.
                for future in [pool.submit(barrier.wait) for _ in range(size)]:
                    future.result(LIMIT)

    # What a course asks for.

    def here(self) -> object:
        return threading.get_ident()

    def is_of(self, pool: str) -> bool:
        name = threading.current_thread().name
        return name.startswith(self._prefixes.get(pool, pool))

    async def sleep(self) -> None:
        await sleep(0)

    def reset(self, var: Any, token: Any, *, is_near: bool) -> None:
        var.reset(token)

    def _on_loop(self, func: Callable[[], object]) -> None:
        """From any thread, and be back when it was called."""
        if threading.get_ident() == self.home:
            func()
            return
        done = threading.Event()

        def call() -> None:
            func()
            done.set()

        self._call_soon(call)
        assert done.wait(LIMIT)

    def _call_soon(self, func: Callable[[], object]) -> None:
        self.loop.call_soon_threadsafe(func)

    def cancel(self, course: Any) -> None:
        self._on_loop(lambda: course.task.cancel("stop"))

    check_cancelled = staticmethod(check_cancelled)
    guard = staticmethod(cancellation_guard)
    on_cancel = staticmethod(on_cancel)
    part = staticmethod(eventloop)
    call = staticmethod(exec_in_eventloop)

    def fan_out(self, pool: str) -> int:
        if pool not in ("pool", "view"):
            return 1
        with self._refusable():
            return self.pools[pool].submit(len, "1").result(LIMIT)  # type: ignore[union-attr]

    def block(self, pool: str) -> Any:
        block = threadpool(self.pools[pool])
        return _Refusable(block) if self.shuts_down else block

    @contextlib.asynccontextmanager
    async def scope(self, course: Any) -> AsyncIterator[None]:
        scopes = course.__dict__.setdefault("scopes", [])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                scopes.append(limit)
                try:
                    yield
                finally:
                    scopes.remove(limit)

    async def expire(self, course: Any) -> None:
        limit = course.scopes[-1]
        is_home = threading.get_ident() == self.home
        if is_home:
            await self.sleep()
        if not limit.expired():
            self._on_loop(lambda: limit.reschedule(0))
            if not is_home:
                wait_until(limit.expired)
        while is_home and not limit.expired():
            await self.sleep()
        if is_home:
            await self.sleep()

    async def run(self, pool: str, func: Callable[..., Any], *args: Any) -> None:
        with self._refusable():
            await AsyncExecutor(self.pools[pool] or self.default).run(func, *args)

    async def execute(self, pool: str, func: Callable[..., Any], *args: Any) -> None:
        with self._refusable():
            await exec_in_executor(self.pools[pool], func, *args)

    def decorated(self, pool: str, func: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        def function(*args: Any) -> None:
            func(*args)

        decorated = threadpool(self.pools[pool])(function)

        async def call(*args: Any) -> None:
            with self._refusable():
                await decorated(*args)

        return call

    @contextlib.asynccontextmanager
    async def items(self, pool: str, source: Callable[..., Any]) -> AsyncIterator[Any]:
        with self._refusable():
            async with iterate_in_executor(self.pools[pool], source, buffersize=2) as items:
                yield items

    def _refusable(self) -> Any:
        return _Refusing() if self.shuts_down else contextlib.nullcontext()

    # Tasks.

    async def group(self, course: Any, children: list[Course]) -> None:
        async with asyncio.TaskGroup() as group:
            for child in children:
                child.task = group.create_task(self._main(child))  # type: ignore[attr-defined]

    async def _main(self, course: Course) -> None:
        try:
            await course.run()
        except asyncio.CancelledError:
            course.trace.append("cancelled at the end")
            raise

    async def run_all(self, courses: list[Course], outside: Callable[[], Awaitable[None]]) -> None:
        """Run them at once, and *outside* again and again until all have ended."""
        tasks = []
        for course in courses:
            task = self.loop.create_task(self._main(course))
            course.task = task  # type: ignore[attr-defined]
            tasks.append(task)
        deadline = time.monotonic() + 30
        while not all(task.done() for task in tasks):
            assert time.monotonic() < deadline, f"{[t for t in tasks if not t.done()][:3]} hang"
            await outside()
        for task, course in zip(tasks, courses, strict=True):
            assert not task.cancelled() or course.cancels, "cancelled by nobody"
            if not task.cancelled():
                task.result()


class _Refusing:
    """What a pool says that is shut down, or a full one, is an error of the program."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, (CancelledError, PoolBusy)) or (
            type(error) is RuntimeError and "shutdown" in str(error).replace(" ", "")
        ):
            raise OopsError from error


class _Refusable:
    def __init__(self, block: Any) -> None:
        self._block = block

    async def __aenter__(self) -> None:
        with _Refusing():
            await self._block.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        return await self._block.__aexit__(*error)


class ScopedWorld(World):
    """A cancellation is that of a scope, one around each course."""

    library = "trio"
    #: Where scopes come from, and task groups.
    scopes: Any
    new_group: Any

    def cancel(self, course: Any) -> None:
        if course.scopes:  # A course that was just made has none yet.
            self._on_loop(course.scopes[0].cancel)

    @contextlib.asynccontextmanager
    async def scope(self, course: Any) -> AsyncIterator[None]:
        with self.scopes.CancelScope() as scope:
            course.scopes.append(scope)
            try:
                yield
            finally:
                course.scopes.remove(scope)

    async def expire(self, course: Any) -> None:
        self._on_loop(course.scopes[-1].cancel)
        if threading.get_ident() == self.home:
            await self.sleep()

    async def group(self, course: Any, children: list[Course]) -> None:
        try:
            async with self.new_group() as group:
                for child in children:
                    group.start_soon(self._main, child)
        except BaseExceptionGroup as error:
            raise error.exceptions[0] from None

    async def _main(self, course: Any) -> None:
        with self.scopes.CancelScope() as scope:
            course.scopes = [scope]
            try:
                await course.run()
            except self.cancelled:
                course.trace.append("cancelled at the end")
                raise

    async def run_all(self, courses: list[Course], outside: Callable[[], Awaitable[None]]) -> None:
        with self.scopes.fail_after(30):
            async with self.new_group() as group:
                for course in courses:
                    group.start_soon(self._main, course)
                while not all(course.has_ended for course in courses):
                    await outside()


class TrioWorld(ScopedWorld):
    scopes = trio
    new_group = staticmethod(getattr(trio, "open_nursery", contextlib.nullcontext))
    skips = frozenset(["execute"])  # exec_in_executor() is asyncio's.

    def __init__(self, kind: LoopKind, *, shuts_down: bool = False) -> None:
        self.cancelled = trio.Cancelled
        super().__init__(kind, shuts_down=shuts_down)

    def _make_default(self) -> Executor:
        self._token = trio.lowlevel.current_trio_token()
        pool: Executor = self._keep(WorkerPool(3, "default", max_threads=THREADS))
        self._shared = _executors._shared[:]
        _executors._shared[:] = [pool]  # type: ignore[list-item]
        return pool

    def close(self) -> None:
        super().close()
        _executors._shared[:] = self._shared

    def _call_soon(self, func: Callable[[], object]) -> None:
        self._token.run_sync_soon(func)


class AnyioWorld(ScopedWorld):
    """On asyncio. (What anyio cancels comes a turn later or earlier: a storm only.)"""

    scopes = anyio
    new_group = staticmethod(getattr(anyio, "create_task_group", contextlib.nullcontext))


class AnyioOnTrioWorld(TrioWorld):
    scopes = anyio
    new_group = staticmethod(AnyioWorld.new_group)
