"""Ctrl+C in the loop thread, at each moment of the library's own code: it loses nothing.

A program that catches the KeyboardInterrupt and runs the loop again finds every task there: each
ends, by itself or when it is cancelled. The workers are all back, and the next block is as good as
the first one was.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import aclosing, contextmanager, suppress
from functools import partial, wraps
from itertools import count
from threading import get_ident
from types import ModuleType
from typing import Any

try:
    import anyio
except ImportError:
    anyio = None  # type: ignore[assignment, unused-ignore]
import pytest
from helpers.interruptions import Interruption, interrupt
from helpers.loops import IS_SHORT
from helpers.steps import LIMIT, Gate, turns

from threadhop import (
    AsyncExecutor,
    WorkerPool,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
)

pytestmark = [
    # Ctrl+C may come between the call of a coroutine function and the await of what that returns.
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    # Nobody asks the futures whose task was interrupted for their errors.
    pytest.mark.usefixtures("expect_loop_errors"),
    pytest.mark.skipif(
        sys.implementation.name == "pypy", reason="nobody tells at which lines it looks for signals"
    ),
]

#: In seconds: what the tasks get to end by themselves, before they are cancelled.
UNCANCELLED = 0.02
#: The time for everything else.
SOON = 1.0
#: The number of losses that a test tells of at most.
FAILURES = 3


def _library() -> list[ModuleType]:
    return [module for name, module in sys.modules.items() if name.startswith("threadhop.")]


class Pools:
    """Two pools for one moment after the other: what one has lost, others take the place of."""

    def __init__(self, kind: type[ThreadPoolExecutor], workers: int) -> None:
        self.workers = workers
        self._kind = kind
        self._pools: list[ThreadPoolExecutor] = []

    def get(self) -> list[ThreadPoolExecutor]:
        if not self._pools:
            self._pools = [self._kind(self.workers) for _ in range(2)]
            # Threads that have started are what a program usually has. All of them: a stock pool
            # that grows may count an idle thread too many, and start one too few.
            for pool in self._pools:
                meeting = threading.Barrier(self.workers)
                wait([pool.submit(meeting.wait, LIMIT) for _ in range(self.workers)], LIMIT)
        return self._pools

    def shutdown(self, *, is_whole: bool) -> None:
        """What has lost something is not waited for: that might take for ever."""
        while self._pools:
            self._pools.pop().shutdown(wait=is_whole, cancel_futures=True)


class Stage:
    """A loop and two pools for one run of a scenario, and what its bodies do there.

    Attributes:
        tasks: What the loop runs.
        futures: What threads wait for.
        waits: Whether the bodies wait: on a worker for the test, on the loop for ever.
        ends: In which threads the tasks came to their end.
        cancels: By task: what cancels it, if that is not ``Task.cancel``.
        broken: What the tasks have found to be wrong.
    """

    def __init__(self, pools: Pools, *, waits: bool) -> None:
        self.loop = asyncio.new_event_loop()
        self.pool, self.other = pools.get()
        self.tasks: list[asyncio.Task[Any]] = []
        self.futures: list[Future[Any]] = []
        self.waits = waits
        self.ends: list[int] = []
        self.cancels: dict[asyncio.Task[Any] | None, Callable[[], object]] = {}
        self.broken: list[str] = []
        self.part = eventloop()
        self.sources: list[Any] = []
        self._pools = pools
        self._gate = Gate()
        self._reached = asyncio.Event()

    def keep_busy(self, pool: Executor) -> None:
        """Have what comes to *pool* wait until a task was cancelled."""
        for _ in range(self._pools.workers):
            pool.submit(self._gate.stop_here)

    def note(self) -> None:
        """On a worker: here is where it may be cancelled."""
        self.loop.call_soon_threadsafe(self._reached.set)

    def body(self, *_: object) -> None:
        """On a worker."""
        if self.waits:
            self.note()
            self._gate.stop_here()

    @contextmanager
    def stays_here(self) -> Iterator[None]:
        """What begins in a worker ends there, interrupted or not."""
        worker = get_ident()
        try:
            yield
        finally:
            if get_ident() != worker:
                self.broken.append("the rest of the body ran elsewhere")

    async def loop_part(self) -> None:
        """On the loop."""
        if self.waits:
            self._reached.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    def start(self, coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(self._note_end(coro))
        self.tasks.append(task)
        return task

    async def _note_end(self, coro: Coroutine[Any, Any, Any]) -> None:
        try:
            await coro
        finally:
            self.ends.append(get_ident())

    async def cancel(self, task: asyncio.Task[Any], *, at_once: bool) -> None:
        """Cancel *task* when it has left, or when a body of it has noted something."""
        if at_once:
            await turns(2)
        else:
            task.add_done_callback(lambda _: self._reached.set())
            await self._reached.wait()
        self.cancels.get(task, task.cancel)()
        self._gate.open()

    def run(self, tasks: list[asyncio.Task[Any]], timeout: float = SOON) -> None:
        """Run the loop until *tasks* are done, or for that long. KeyboardInterrupt may come out."""
        runs = True

        def look(_: object) -> None:
            if runs and all(task.done() for task in tasks):
                self.loop.stop()

        timer = self.loop.call_later(timeout, self.loop.stop)
        for task in tasks:
            task.add_done_callback(look)
        try:
            self.loop.run_forever()
        finally:
            runs = False
            timer.cancel()

    def run_again(self, tasks: list[asyncio.Task[Any]], timeout: float) -> list[asyncio.Task[Any]]:
        """Do so, and return those that are not done. A task may raise the interrupt once more."""
        for _ in range(3):
            with suppress(KeyboardInterrupt):
                self.run(tasks, timeout)
                break
        return [task for task in tasks if not task.done()]

    def losses(self) -> Iterator[str]:
        """Run the loop again, and tell what is lost."""
        self._gate.open()
        pending = self.run_again(self.tasks, UNCANCELLED) if self.tasks else []
        for task in pending:
            task.cancel()
        if pending and (stuck := self.run_again(pending, SOON)):
            yield f"{len(stuck)} of {len(self.tasks)} tasks can neither end nor be cancelled"
        if any(end != get_ident() for end in self.ends):
            yield "a task went on in a worker"
        for source in self.sources:  # Errors of tasks keep them.
            self.run_again([self.loop.create_task(source.aclose())], SOON)
        yield from self.broken
        for future in self.futures:
            if not (wait([future], UNCANCELLED).done or future.cancel()):
                yield f"{future} can neither end nor be cancelled"
        for pool in (self.pool, self.other):
            yield from self._losses_of(pool)

    def _losses_of(self, pool: Executor) -> Iterator[str]:
        workers = self._pools.workers
        meeting = threading.Barrier(workers)
        _, pending = wait([pool.submit(meeting.wait, SOON) for _ in range(workers)], SOON)
        if pending or meeting.broken:
            yield f"{pool} has lost a worker"
        if isinstance(pool, WorkerPool):
            deadline = time.monotonic() + SOON
            while (statistics := pool.statistics()).away or statistics.queued:
                if time.monotonic() > deadline:
                    yield f"{statistics}"
                    break
                time.sleep(0.001)
        threads: list[int] = []
        task = self.loop.create_task(self._again(pool, threads))
        if self.run_again([task], SOON) or task.exception() is not None:
            yield f"the next block on {pool} fails: {task}"
        elif threads[0] == get_ident() or threads[1] != get_ident():
            yield f"the next block on {pool} is in the wrong thread"

    async def _again(self, pool: Executor, threads: list[int]) -> None:
        async with threadpool(pool):
            threads.append(get_ident())
        threads.append(get_ident())

    def close(self, *, is_whole: bool) -> None:
        if is_whole:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        else:
            self._pools.shutdown(is_whole=False)
        self.loop.close()


def sweep(pools: Pools, at: Callable[[int], tuple[Interruption, list[str]]]) -> None:
    """Call *at* with each moment there is; *at* returns what was lost."""
    failures: list[str] = []
    # (In the short form each Python has other moments.)
    for moment in count(sys.version_info[1] % 3, 3) if IS_SHORT else count():
        interruption, losses = at(moment)
        failures += [f"{interruption.where} (moment {moment}): {loss}" for loss in losses]
        if not interruption.happened or len(failures) >= FAILURES:
            break
    pools.shutdown(is_whole=not failures)
    if failures:
        gc.collect()  # Lost tasks are logged now, and not while pytest reads the source (3.11).
        pytest.fail("\n".join(failures))
    assert moment > 1, "nothing was interrupted"


# The acts of a task.

Act = Callable[[Stage], Coroutine[Any, Any, Any]]


async def block(stage: Stage) -> None:
    async with threadpool(stage.pool):
        stage.body()


async def cancelled_block(stage: Stage) -> None:
    """Cancelled before it can leave: the task is resumed by the very step that suspends it."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    async with threadpool(stage.pool):
        raise AssertionError("the body ran")


async def loop_part(stage: Stage) -> None:
    async with threadpool(stage.pool):
        worker = get_ident()
        try:
            async with eventloop():
                await stage.loop_part()
        finally:
            if get_ident() != worker:
                stage.broken.append("the rest of the body is not on its worker")


async def shared_loop_part(stage: Stage) -> None:
    """The tasks have one ``eventloop()`` object, also outside of any block."""
    async with stage.part:
        await asyncio.sleep(0)
    async with threadpool(stage.pool):
        with stage.stays_here():
            async with stage.part:
                await stage.loop_part()


async def generator(stage: Stage) -> None:
    """Another task closes it."""

    async def rows() -> AsyncIterator[int]:
        async with threadpool(stage.pool):
            with stage.stays_here():
                async with eventloop():
                    yield 1

    source: Any = rows()
    stage.sources.append(source)
    await anext(source)
    await stage.start(source.aclose())


async def nested(stage: Stage) -> None:
    async with threadpool(stage.pool):
        stage.note()
        async with threadpool(stage.other):
            stage.body()


async def call(stage: Stage) -> None:
    await exec_in_executor(stage.pool, stage.body)


async def run(stage: Stage) -> None:
    await AsyncExecutor(stage.pool).run(stage.body)


async def map_(stage: Stage) -> None:
    async with aclosing(AsyncExecutor(stage.pool).map(stage.body, range(3))) as results:
        async for _ in results:
            pass


async def function_at_home(stage: Stage) -> None:
    async with threadpool(stage.pool):
        exec_in_eventloop(int)
        stage.body()


async def coroutine_at_home(stage: Stage) -> None:
    async with threadpool(stage.pool):
        exec_in_eventloop(stage.loop_part)


ACTS: list[Act] = [block, loop_part, nested, call, run, map_, function_at_home, coroutine_at_home]
#: The others wait for their first worker as ``block`` does.
ACTS_THAT_WAIT: list[Act] = [block, nested, call, run, map_]


def in_scope(act: Act) -> Act:
    """*act* within a cancel scope of anyio's, which is what is cancelled."""

    @wraps(act)
    async def scoped(stage: Stage) -> None:
        try:
            with anyio.CancelScope() as scope:
                stage.cancels[asyncio.current_task()] = scope.cancel
                await act(stage)
        except RuntimeError as error:  # Another scope is open in there, or belongs to others.
            stage.broken.append(str(error))

    scoped.__name__ += "_in_scope"
    return scoped


async def block_in_cancelled_scope(stage: Stage) -> None:
    """(An interrupted anyio does not go on to cancel; then the body runs.)"""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with threadpool(stage.pool):
            pass


if anyio is not None:
    ACTS += map(in_scope, (block, loop_part, run))
    ACTS_THAT_WAIT += map(in_scope, (block, run))


def _name(act: Act) -> str:
    return act.__name__.strip("_")


def interrupted(
    moment: int, stage: Stage, act: Callable[[], object]
) -> tuple[Interruption, list[str]]:
    """Call *act*, interrupted once, and run the loop again. Return what was lost, too."""
    came_out = False
    gc.disable()  # An error in a finalizer is lost: Python says so itself.
    try:
        with Interruption(moment, interrupt, *_library()) as interruption:
            act()
    except KeyboardInterrupt:
        came_out = True
    finally:
        gc.enable()
    losses = list(stage.losses())
    if interruption.happened and not came_out:
        losses.append("the KeyboardInterrupt is lost")
    stage.close(is_whole=not losses)
    return interruption, losses


# What happens to it meanwhile.


def two_go_there_and_back(stage: Stage, act: Act) -> None:
    for _ in range(2):
        stage.start(act(stage))


def cancelled_as_it_waits(stage: Stage, act: Act) -> None:
    """For a worker."""
    is_nested = _name(act).startswith("nested")
    stage.keep_busy(stage.other if is_nested else stage.pool)
    task = stage.start(act(stage))
    stage.start(stage.cancel(task, at_once=not is_nested))


def cancelled_as_its_body_runs(stage: Stage, act: Act) -> None:
    task = stage.start(act(stage))
    stage.start(stage.cancel(task, at_once=False))


Scene = Callable[[Stage, Act], None]
SCENES: list[tuple[Scene, list[Act]]] = [
    (two_go_there_and_back, [*ACTS, shared_loop_part, generator, cancelled_block]),
    (cancelled_as_it_waits, ACTS_THAT_WAIT),
    (cancelled_as_its_body_runs, ACTS),
]
if anyio is not None:
    SCENES[0][1].append(block_in_cancelled_scope)


def _scenes() -> Iterator[Any]:
    for scene, acts in SCENES:
        for act in acts:
            for kind in (ThreadPoolExecutor, WorkerPool):
                # The scopes know nothing of pools, nor do bodies that run.
                if kind is WorkerPool or not (
                    "scope" in _name(act) or scene is cancelled_as_its_body_runs
                ):
                    name = f"{scene.__name__}-{kind.__name__}-{_name(act)}"
                    yield pytest.param(scene, act, kind, id=name)


@pytest.mark.parametrize(("scene", "act", "executor_class"), [*_scenes()])
def test_ctrl_c_costs_no_task_and_no_worker(
    scene: Scene, act: Act, executor_class: type[ThreadPoolExecutor]
) -> None:
    pools = Pools(executor_class, 2 if scene is two_go_there_and_back else 1)

    def at(moment: int) -> tuple[Interruption, list[str]]:
        stage = Stage(pools, waits=scene is cancelled_as_its_body_runs)
        scene(stage, act)
        return interrupted(moment, stage, partial(stage.run, stage.tasks))

    sweep(pools, at)


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
def test_ctrl_c_costs_no_worker_while_a_thread_submits_a_call(
    is_busy: bool, executor_class: type[ThreadPoolExecutor]
) -> None:
    """And while it cancels the future."""

    pools = Pools(executor_class, 2)

    def at(moment: int) -> tuple[Interruption, list[str]]:
        stage = Stage(pools, waits=False)
        if is_busy:
            stage.keep_busy(stage.pool)

        def submit_and_cancel() -> None:
            stage.futures.append(exec_in_executor_threading_future(stage.pool, stage.body))
            stage.futures[0].cancel()

        return interrupted(moment, stage, submit_and_cancel)

    sweep(pools, at)
