"""Executors that run their jobs in other processes and interpreters: no flag, no other function."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pickle
import re
import site
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import remote_work as work
from helpers.child import run_in_child
from helpers.loops import LoopKind
from helpers.remote_work import FileGate
from helpers.steps import LIMIT, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    configure,
    exec_in_executor,
    exec_in_executor_threading_future,
    unwrap_future,
)

#: Where the other side finds ``helpers.remote_work``.
HERE = str(Path(__file__).parent)

WORKERS = 2


def process_pool(workers: int = WORKERS, **options: Any) -> ProcessPoolExecutor:
    """Its processes are not forked off this one, which has threads."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    return ProcessPoolExecutor(workers, context, **options)


POOLS: dict[str, Callable[..., Executor]] = {"processes": process_pool}
if sys.version_info >= (3, 14) and hasattr(concurrent.futures, "InterpreterPoolExecutor"):

    def interpreter_pool(workers: int = WORKERS, **options: Any) -> Executor:
        # An interpreter does not inherit what pytest has added to sys.path.
        options = {"initializer": site.addsitedir, "initargs": (HERE,), **options}
        return concurrent.futures.InterpreterPoolExecutor(workers, **options)

    POOLS["interpreters"] = interpreter_pool


def warm_up(pool: Executor, folder: Path) -> None:
    """Start all its workers and threads."""
    gates = [FileGate(folder, f"warm-up-{number}") for number in range(WORKERS)]
    futures = [pool.submit(gate.stop_here) for gate in gates]
    for gate in gates:
        wait_until(gate.is_reached)
        gate.open()
    for future in futures:
        future.result(LIMIT)


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Executor]]:
    """One of each kind for the whole module."""
    with contextlib.ExitStack() as stack:
        pools = {name: stack.enter_context(make()) for name, make in POOLS.items()}
        for name, pool in pools.items():
            warm_up(pool, tmp_path_factory.mktemp(name))
        yield pools


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, pools: dict[str, Executor]) -> Executor:
    """Each kind that this interpreter has."""
    return pools[request.param]


@pytest.fixture(params=POOLS)
def new_pool(request: pytest.FixtureRequest) -> Callable[..., Executor]:
    """Makes one of each kind, for a test that shuts it down or breaks it."""
    return POOLS[request.param]


# The ways to call a function in an executor. Each of them awaits the result.


async def by_exec_in_executor(
    pool: Executor, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return await exec_in_executor(pool, func, *args, **kwargs)


async def by_threading_future(
    pool: Executor, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    future = exec_in_executor_threading_future(pool, func, *args, **kwargs)
    return await asyncio.wrap_future(future)


async def by_unwrap_future(
    pool: Executor, func: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return await unwrap_future(exec_in_executor_threading_future(pool, func, *args, **kwargs))


async def by_run(pool: Executor, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await AsyncExecutor(pool).run(func, *args, **kwargs)


Way = Callable[..., Coroutine[Any, Any, Any]]
WAYS: dict[str, Way] = {
    "exec_in_executor": by_exec_in_executor,
    "exec_in_executor_threading_future": by_threading_future,
    "unwrap_future": by_unwrap_future,
    "AsyncExecutor.run": by_run,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to call a function in an executor, and await its result."""
    return WAYS[request.param]


@contextlib.asynccontextmanager
async def busy(pool: Executor, folder: Path) -> AsyncIterator[Callable[[], None]]:
    """All its workers are busy, and what it takes out of its queue beforehand is taken."""
    gates = [FileGate(folder, f"busy-{number}") for number in range(WORKERS)]
    futures = [pool.submit(gate.stop_here) for gate in gates]

    def release() -> None:
        for gate in gates:
            gate.open()

    try:
        for gate in gates:
            await until(gate.is_reached)
        # A process pool takes out of its queue one call more than it has workers, beside those
        # that run; and what it took cannot be taken back.
        futures += [pool.submit(work.where) for _ in range(WORKERS + 1)]
        yield release
    finally:
        release()
        # (A wait_for() would need a current task, which not every kind of loop has.)
        waiting = [asyncio.wrap_future(future) for future in futures]
        _, late = await asyncio.wait(waiting, timeout=LIMIT)
        assert not late


KINDS: dict[str, tuple[Callable[..., Any], int]] = {
    "a function": (work.add, 0),
    "a coroutine function": (work.add_later, 0),
    "a partial": (functools.partial(work.add, more=1), 1),
    "a partial of a coroutine function": (functools.partial(work.add_later, more=1), 1),
    "a method": (work.Adder(2).method, 2),
    "an async method": (work.Adder(2).async_method, 2),
    "an object": (work.Adder(3), 3),
    "an object with async __call__": (work.AsyncAdder(3), 3),
}


def test_it_takes_every_kind_of_callable(pool: Executor, way: Way) -> None:
    """And runs it elsewhere: in another process, or in another interpreter."""

    async def main() -> None:
        for kind, (func, number) in KINDS.items():
            result, place = await way(pool, func, 20, 22)
            assert result == 42 + number, kind
            assert place != work.where(), kind

    asyncio.run(main())


def test_it_works_on_every_loop(loops: LoopKind, pool: Executor, way: Way) -> None:
    """The arguments arrive, those with names too."""

    async def main() -> None:
        for func in (work.add, work.add_later):
            result, place = await way(pool, func, 20, right=21)
            assert result == 41
            assert place != work.where()

    loops.run(main)


@pytest.mark.parametrize("func", [work.add, work.add_later])
def test_map_yields_the_results_in_order(
    loops: LoopKind, pool: Executor, func: Callable[..., Any]
) -> None:
    """Of functions and coroutine functions, with and without a limit on what is started ahead."""

    async def main() -> None:
        executor = AsyncExecutor(pool)
        for buffersize in (None, 2):
            results = executor.map(func, range(5), range(10, 20), buffersize=buffersize)
            assert [result async for result, _ in results] == [10, 12, 14, 16, 18]

    loops.run(main)


def test_a_sync_program_needs_no_loop(pool: Executor) -> None:
    """The threading future of a call that was made without one."""
    for func in (work.add, work.add_later):
        result, place = exec_in_executor_threading_future(pool, func, 1, 2).result(LIMIT)
        assert result == 3
        assert place != work.where()


def test_unwrap_future_awaits_a_future_of_the_executor_itself(
    loops: LoopKind, pool: Executor
) -> None:
    """One that ``submit`` returned."""

    async def main() -> None:
        assert (await unwrap_future(pool.submit(work.add, 1, 2)))[0] == 3

    loops.run(main)


def test_it_can_be_the_default_of_the_process(loops: LoopKind, pool: Executor) -> None:
    """``configure(executor=pool)``, then None at the call."""

    async def main() -> None:
        configure(executor=pool)
        try:
            _, place = await exec_in_executor(None, work.add, 1, 2)
            _, other = await unwrap_future(exec_in_executor_threading_future(None, work.add, 1, 2))
        finally:
            configure(executor=None)
        assert work.where() not in (place, other)

    loops.run(main)


def test_the_context_stays_here(loops: LoopKind, pool: Executor, way: Way) -> None:
    """So nobody needs a flag for it, and what cannot be pickled in it does no harm."""

    async def main() -> None:
        work.variable.set(threading.Lock())
        assert await way(pool, work.read_variable) == "unset"

    loops.run(main)


def test_over_there_nobody_knows_of_the_future_and_the_loop(pool: Executor, way: Way) -> None:
    """``check_cancelled()`` does nothing, ``exec_in_eventloop`` refuses: it is the bare call."""

    async def main() -> None:
        assert await way(pool, work.ask_check_cancelled) == "not cancelled"
        with pytest.raises(RuntimeError, match="works for no event loop"):
            await way(pool, work.call_the_loop)

    asyncio.run(main())


# Errors


ERRORS = [
    work.OddError(7, "odd"),
    TypeError("not pickled"),
    ValueError("not pickled"),
    AttributeError("not pickled"),
    NotImplementedError(),
    pickle.PicklingError("its own"),
    asyncio.InvalidStateError("its own"),
    TimeoutError("its own"),
]


@pytest.mark.parametrize("func", [work.fail, work.fail_later])
def test_an_error_comes_through_unchanged(
    pool: Executor, way: Way, func: Callable[..., Any]
) -> None:
    """Its type, its arguments, its attributes; also if it is of a kind that pickling raises."""

    async def main() -> None:
        for error in ERRORS:
            with pytest.raises(type(error)) as caught:
                await way(pool, func, error)
            assert type(caught.value) is type(error)
            assert caught.value.args == error.args
            assert getattr(caught.value, "code", None) == getattr(error, "code", None)

    asyncio.run(main())


def test_the_traceback_of_the_other_process_is_kept(
    loops: LoopKind, pools: dict[str, Executor], way: Way
) -> None:
    """It is the cause of the error, as a process pool has it."""

    async def main() -> None:
        with pytest.raises(work.OddError) as caught:
            await way(pools["processes"], work.fail, work.OddError(7, "odd"))
        assert "in fail" in str(caught.value.__cause__)

    loops.run(main)


@pytest.mark.parametrize("func", [work.fail, work.fail_later])
def test_stop_iteration_becomes_a_runtime_error(
    loops: LoopKind, pool: Executor, way: Way, func: Callable[..., Any]
) -> None:
    """No future can hold it, and raised in a coroutine it would mean something else."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await way(pool, func, StopIteration("odd"))

    loops.run(main)


def test_not_even_system_exit_leaves_a_future_pending(
    loops: LoopKind, pools: dict[str, Executor]
) -> None:
    """The future holds it, and the worker goes on."""
    pool = pools["processes"]

    async def main() -> None:
        future = exec_in_executor(pool, work.fail, SystemExit(3))
        await asyncio.wait([future], timeout=LIMIT)
        assert future.done()
        assert isinstance(future.exception(), SystemExit)
        assert (await exec_in_executor(pool, work.add, 1, 2))[0] == 3

    loops.run(main)


def test_a_result_that_cannot_be_pickled_is_an_error(pool: Executor, way: Way) -> None:
    """The one that the executor itself has for it, and the next call works."""

    async def main() -> None:
        with pytest.raises(Exception, match=r"(?i)pickle|interpreter") as expected:
            pool.submit(work.make_unpicklable).result(LIMIT)
        with pytest.raises(type(expected.value)) as caught:
            await way(pool, work.make_unpicklable)
        assert type(caught.value) is type(expected.value)
        assert (await way(pool, work.add, 1, 2))[0] == 3

    asyncio.run(main())


def _unpicklable() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]]:
    def local() -> None:
        """Defined in a function: no other process finds it."""

    async def async_local() -> None:
        """The same."""

    lock = threading.Lock()
    return {
        "the function": (local, (), {}),
        "the function ": (async_local, (), {}),
        "the function  ": (functools.partial(work.ignore, lock), (), {}),
        "argument 1": (work.ignore, (lock, 2), {}),
        "argument 2": (work.ignore, (1, lock), {}),
        "argument 'lock'": (work.ignore, (1,), {"lock": lock}),
    }


@pytest.mark.parametrize("what", _unpicklable())
def test_what_cannot_be_pickled_is_named(pool: Executor, way: Way, what: str) -> None:
    """A TypeError says which part of which call it is, and shows it; the next call works."""
    func, args, kwargs = _unpicklable()[what]

    async def main() -> None:
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            await way(pool, func, *args, **kwargs)
        text = str(caught.value)
        assert text.startswith(f"{what.strip()} ("), text
        assert re.search(r"local|lock", text)
        assert (await way(pool, work.add, 1, 2))[0] == 3

    asyncio.run(main())


def test_an_error_is_not_taken_for_one_of_pickling(
    loops: LoopKind, pools: dict[str, Executor], way: Way
) -> None:
    """An executor may pickle more than ``pickle`` does, as process pools do with sockets.

    What the function raised over there is its own error all the same.
    """

    async def main() -> None:
        for error in (ValueError("its own"), TypeError("its own"), AttributeError("its own")):
            with pytest.raises(type(error), match=r"^its own$"):
                await way(pools["processes"], work.fail_with, work.ForPoolsOnly(), error)

    loops.run(main)


def test_a_pool_that_was_shut_down_refuses_at_the_call(
    loops: LoopKind, new_pool: Callable[..., Executor]
) -> None:
    """With its own RuntimeError."""
    pool = new_pool()
    pool.shutdown()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="after shutdown"):
            exec_in_executor(pool, work.where)
        with pytest.raises(RuntimeError, match="after shutdown"):
            exec_in_executor_threading_future(pool, work.where)
        with pytest.raises(RuntimeError, match="after shutdown"):
            await AsyncExecutor(pool).run(work.where)
        with pytest.raises(RuntimeError, match="after shutdown"):
            AsyncExecutor(pool).map(work.touch, ["a"])

    loops.run(main)


KILLED = """
import asyncio, os, signal, sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
sys.path.insert(0, {here!r})
from helpers import remote_work as work
from helpers.steps import LIMIT, until
from test_remote_executors import process_pool
from threadhop import *

folder = Path({folder!r})
async def main():
    gate = work.FileGate(folder)
    with process_pool() as pool:
        executor = AsyncExecutor(pool)
        waiting = {{
            "the killed call": exec_in_executor(pool, gate.stop_here),
            "a coroutine": exec_in_executor(
                pool, work.FileGate(folder, "other").stop_here_in_a_coroutine
            ),
            "threading": asyncio.wrap_future(
                exec_in_executor_threading_future(pool, gate.stop_here)
            ),
            "run": asyncio.ensure_future(executor.run(gate.stop_here)),
            "unwrap": asyncio.ensure_future(
                unwrap_future(exec_in_executor_threading_future(pool, gate.stop_here))
            ),
        }}
        results = executor.map(gate.stop_here, range(5))
        await until(gate.is_reached)
        os.kill(gate.pid(), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        done, pending = await asyncio.wait(waiting.values(), timeout=LIMIT)
        for name, future in waiting.items():
            what = type(future.exception()).__name__ if future.done() else "pending"
            print(f"{{name}}: {{what}}")
        try:
            await anext(results)
        except BrokenProcessPool:
            print("map: BrokenProcessPool")
        for call in (exec_in_executor, exec_in_executor_threading_future):
            try:
                call(pool, work.where)
            except BrokenProcessPool:
                print("next: BrokenProcessPool")

asyncio.run(main())
"""


@pytest.mark.timeout(60)
def test_a_killed_worker_process_leaves_no_future_pending(tmp_path: Path) -> None:
    """All of the pool's calls end in its BrokenProcessPool, and later ones at the call."""
    child = run_in_child(
        KILLED.format(here=HERE, folder=str(tmp_path)),
        deadline=50,
        options=["-W", "error"],
        env={"PYTHONPATH": os.pathsep.join([HERE, *filter(None, [os.environ.get("PYTHONPATH")])])},
    )
    names = ["the killed call", "a coroutine", "threading", "run", "unwrap", "map", "next", "next"]
    assert child.stdout.splitlines() == [f"{name}: BrokenProcessPool" for name in names]
    assert (child.stderr, child.returncode) == ("", 0)


# Cancellation


def test_a_queued_call_is_taken_back(loops: LoopKind, pool: Executor, tmp_path: Path) -> None:
    """It is cancelled at once, and never runs."""

    async def main() -> None:
        async with busy(pool, tmp_path) as release:
            ours = exec_in_executor(pool, work.touch, tmp_path / "ours")
            threads = exec_in_executor_threading_future(pool, work.touch, tmp_path / "threads")
            assert ours.cancel("enough")
            assert threads.cancel()
            assert ours.cancelled()
            assert threads.cancelled()
            with pytest.raises(asyncio.CancelledError):
                await ours
            release()
            # As many as there are workers: what was queued before them has run.
            await asyncio.gather(*(exec_in_executor(pool, work.where) for _ in range(WORKERS * 3)))
        assert not (tmp_path / "ours").exists()
        assert not (tmp_path / "threads").exists()

    loops.run(main)


def test_a_task_that_waits_for_a_queued_call_is_cancelled_at_once(
    loops: LoopKind, pool: Executor, tmp_path: Path
) -> None:
    """While all workers are still busy; the call never runs."""

    async def main() -> None:
        async with busy(pool, tmp_path) as release:
            executor = AsyncExecutor(pool)
            first = asyncio.ensure_future(executor.run(work.touch, tmp_path / "run"))
            theirs = pool.submit(work.touch, tmp_path / "unwrapped")
            second = asyncio.ensure_future(unwrap_future(theirs))
            await turns()
            for task in (first, second):
                task.cancel("enough")
                await asyncio.wait([task], timeout=LIMIT)
                assert task.cancelled()
            assert theirs.cancelled()
            release()
            await asyncio.gather(*(exec_in_executor(pool, work.where) for _ in range(WORKERS * 3)))
        assert not (tmp_path / "run").exists()
        assert not (tmp_path / "unwrapped").exists()

    loops.run(main)


def test_the_future_of_a_running_call_is_cancelled_at_once(
    loops: LoopKind, pool: Executor, tmp_path: Path
) -> None:
    """What runs in another process cannot be stopped: it ends by itself, and nobody is told."""

    async def main() -> None:
        for name in ("stop_here", "stop_here_in_a_coroutine"):
            ours, threads = FileGate(tmp_path, f"{name}-1"), FileGate(tmp_path, f"{name}-2")
            future = exec_in_executor(pool, getattr(ours, name))
            other = exec_in_executor_threading_future(pool, getattr(threads, name))
            await until(ours.is_reached)
            await until(threads.is_reached)
            assert future.cancel("enough")
            assert other.cancel()
            assert future.cancelled()
            assert other.cancelled()
            with pytest.raises(asyncio.CancelledError, match="enough"):
                await future
            with pytest.raises(concurrent.futures.CancelledError):
                other.result(0)
            ours.open()
            threads.open()
            assert (await exec_in_executor(pool, work.add, 1, 2))[0] == 3

    loops.run(main)


async def _run(pool: Executor, func: Callable[..., Any], *args: Any) -> Any:
    return await AsyncExecutor(pool).run(func, *args)


async def _map(pool: Executor, func: Callable[..., Any], *args: Any) -> Any:
    async with contextlib.aclosing(
        AsyncExecutor(pool).map(func, *([arg] for arg in args))  # type: ignore[type-var]
    ) as results:
        return await anext(results)


async def _unwrap(pool: Executor, func: Callable[..., Any], *args: Any) -> Any:
    return await unwrap_future(pool.submit(func, *args))


PATIENT = {"run": _run, "map": _map, "unwrap_future": _unwrap}


@pytest.mark.parametrize("call", PATIENT)
@pytest.mark.parametrize("ending", ["passed", work.OddError(7, "late")], ids=["value", "error"])
def test_a_task_waits_for_its_running_call_and_is_cancelled_then(
    loops: LoopKind, pool: Executor, tmp_path: Path, call: str, ending: Any
) -> None:
    """Whatever the call returned; what it raised becomes the context."""

    async def main() -> None:
        gate = FileGate(tmp_path)
        awaitable: Awaitable[Any] = PATIENT[call](pool, gate.stop_here, ending)
        task = asyncio.ensure_future(awaitable)
        await until(gate.is_reached)
        task.cancel("enough")
        await turns(20)
        assert not task.done(), "it did not wait for what runs"
        task.cancel("more than enough")
        await turns(20)
        assert not task.done()
        gate.open()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert task.cancelled()
        if isinstance(ending, Exception):
            assert _find(caught.value, work.OddError)

    loops.run(main)


def _find(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__context__
    return False


def test_a_timeout_waits_for_what_runs(
    current_task_loops: LoopKind, pool: Executor, tmp_path: Path
) -> None:
    """``asyncio.timeout`` is a cancellation: the call runs to its end, then comes TimeoutError."""

    async def main() -> None:
        gate = FileGate(tmp_path)
        executor = AsyncExecutor(pool)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as limit:
                task = asyncio.ensure_future(_open_when_late(gate, limit))
                await executor.run(gate.stop_here)
        assert gate.opened.exists()
        await task

    current_task_loops.run(main)


async def _open_when_late(gate: FileGate, limit: asyncio.Timeout) -> None:
    await until(gate.is_reached)
    limit.reschedule(0)
    await until(limit.expired)
    await turns()
    gate.open()


# Shutdown


def test_a_shutdown_that_cancels_leaves_no_future_pending(
    new_pool: Callable[..., Executor], tmp_path: Path
) -> None:
    """What is queued ends in ``concurrent.futures.CancelledError``, what runs in its result.

    It is no cancelled task: nobody has cancelled the one that waits.
    """

    async def main() -> None:
        pool = new_pool()
        gates = [FileGate(tmp_path, f"running-{number}") for number in range(WORKERS)]
        running = [exec_in_executor(pool, gate.stop_here) for gate in gates]
        for gate in gates:
            await until(gate.is_reached)
        spare = [pool.submit(work.where) for _ in range(WORKERS + 1)]
        executor = AsyncExecutor(pool)
        queued = {
            name: asyncio.ensure_future(call(pool, work.where)) for name, call in WAYS.items()
        }
        results = executor.map(work.ignore, range(3))
        await turns()
        shutdown = asyncio.ensure_future(executor.shutdown(cancel_futures=True))
        await asyncio.wait(queued.values(), timeout=LIMIT)
        assert not shutdown.done(), "it waits for what runs, and the loop goes on"
        for gate in gates:
            gate.open()
        for name, future in queued.items():
            with pytest.raises(
                (concurrent.futures.CancelledError, asyncio.CancelledError)
            ) as caught:
                await future
            # Awaiting a threading future by asyncio's own means tells it like a cancelled task.
            if name != "exec_in_executor_threading_future":
                assert isinstance(caught.value, concurrent.futures.CancelledError), name
        with pytest.raises(concurrent.futures.CancelledError):
            await anext(results)
        assert await asyncio.gather(*running) == ["passed"] * WORKERS
        await asyncio.wait_for(shutdown, LIMIT)
        assert all(future.done() for future in spare)

    asyncio.run(main())


def test_async_with_shuts_it_down_and_waits(
    new_pool: Callable[..., Executor], tmp_path: Path
) -> None:
    """For what runs, without blocking the loop."""

    async def main() -> None:
        gate = FileGate(tmp_path)

        async def open_later() -> None:
            await until(gate.is_reached)
            await turns(20)
            assert not future.done()
            gate.open()

        opener = asyncio.ensure_future(open_later())
        async with AsyncExecutor(new_pool()) as executor:
            future = exec_in_executor(executor.wrapped, gate.stop_here)
        assert await future == "passed"
        await opener
        with pytest.raises(RuntimeError, match="after shutdown"):
            await executor.run(work.where)

    asyncio.run(main())


def test_an_initializer_that_fails_is_told_to_who_waits(
    new_pool: Callable[..., Executor], expect_loop_errors: list[Any]
) -> None:
    """With the executor's own error."""

    async def main() -> None:
        pool = new_pool(initializer=int, initargs=("no number",))
        future = exec_in_executor(pool, work.where)
        other = asyncio.ensure_future(AsyncExecutor(pool).run(work.where))
        await asyncio.wait([future, other], timeout=LIMIT)
        for each in (future, other):
            assert each.done()
            assert isinstance(each.exception(), concurrent.futures.BrokenExecutor)
        await AsyncExecutor(pool).shutdown()

    asyncio.run(main())
