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
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import remote_work as work
from helpers.calls import KINDS, WAYS, Way, chain_of, error_of
from helpers.child import run_in_child
from helpers.loops import LoopKind, on_one_loop
from helpers.remote_work import FileGate
from helpers.steps import LIMIT, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    exec_in_executor,
    unwrap_future,
)

#: Where the other side finds ``helpers.remote_work``.
HERE = str(Path(__file__).parent)

WORKERS = 2


def process_pool() -> ProcessPoolExecutor:
    """A pool whose processes are not forked off this one, which has threads."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    return ProcessPoolExecutor(WORKERS, context)


POOLS: dict[str, Callable[[], Executor]] = {"processes": process_pool}
if sys.version_info >= (3, 14) and hasattr(concurrent.futures, "InterpreterPoolExecutor"):

    def interpreter_pool() -> Executor:
        # An interpreter does not inherit what pytest has added to sys.path.
        return concurrent.futures.InterpreterPoolExecutor(
            WORKERS, initializer=site.addsitedir, initargs=(HERE,)
        )

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


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    """Each way to make a call and to await its result."""
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


CALLABLES: dict[str, tuple[Callable[..., Any], int]] = {
    "a function": (work.add, 0),
    "a coroutine function": (work.add_later, 0),
    "a partial": (functools.partial(work.add, more=1), 1),
    "a partial of a coroutine function": (functools.partial(work.add_later, more=1), 1),
    "a method": (work.Adder(2).method, 2),
    "an async method": (work.Adder(2).async_method, 2),
    "an object": (work.Adder(3), 3),
    "an object with async __call__": (work.AsyncAdder(3), 3),
}


@on_one_loop
async def test_it_takes_every_kind_of_callable(pool: Executor, way: Way) -> None:
    """The call runs elsewhere: in another process, or in another interpreter."""
    for kind, (func, number) in CALLABLES.items():
        result, place = await way(pool, func, 20, 22)
        assert result == 42 + number, kind
        assert place != work.where(), kind


def test_it_works_on_every_loop(loops: LoopKind, pools: dict[str, Executor]) -> None:
    """The arguments arrive, those with names too. The executor's own futures can be awaited."""

    async def main() -> None:
        for pool in pools.values():
            for way in WAYS.values():
                for func in (work.add, work.add_later):
                    result, place = await way(pool, func, 20, right=21)
                    assert result == 41
                    assert place != work.where()
            assert (await unwrap_future(pool.submit(work.add, 1, 2)))[0] == 3

    loops.run(main)


@on_one_loop
async def test_context_future_and_loop_stay_here(pool: Executor, way: Way) -> None:
    """Nobody needs a flag for that. A variable that cannot be pickled does no harm.

    Over there it is the bare call: ``check_cancelled()`` does nothing, ``exec_in_eventloop``
    refuses.
    """
    work.variable.set(threading.Lock())
    assert await way(pool, work.read_variable) == "unset"
    assert await way(pool, work.ask_check_cancelled) == "not cancelled"
    with pytest.raises(RuntimeError, match="works for no event loop"):
        await way(pool, work.call_the_loop)


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


@on_one_loop
async def test_an_error_comes_through_unchanged(pool: Executor, way: Way) -> None:
    """The type, arguments and attributes are the same, also for kinds that pickling raises.

    But no future can hold a StopIteration, and raised in a coroutine it would mean something else.
    """
    for func in (work.fail, work.fail_later):
        for error in ERRORS:
            with pytest.raises(type(error)) as caught:
                await way(pool, func, error)
            assert caught.type is type(error)
            assert caught.value.args == error.args
            assert vars(caught.value) == vars(error)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await way(pool, func, StopIteration("odd"))


@on_one_loop
async def test_a_result_that_cannot_be_pickled_is_an_error(pool: Executor, way: Way) -> None:
    """The executor's own error comes out, and the next call works."""
    with pytest.raises(Exception, match=r"(?i)pickle|interpreter") as expected:
        pool.submit(work.make_unpicklable).result(LIMIT)
    with pytest.raises(type(expected.value)) as caught:
        await way(pool, work.make_unpicklable)
    assert type(caught.value) is type(expected.value)
    assert (await way(pool, work.add, 1, 2))[0] == 3


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


@on_one_loop
async def test_what_cannot_be_pickled_is_named(pool: Executor, way: Way) -> None:
    """A TypeError says which part of which call it is, and shows it; the next call works."""
    for what, (func, args, kwargs) in _unpicklable().items():
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            await way(pool, func, *args, **kwargs)
        text = str(caught.value)
        assert text.startswith(f"{what.strip()} ("), text
        assert caught.value.__cause__ is not None
        assert re.search(r"local|lock", text)
        assert (await way(pool, work.add, 1, 2))[0] == 3


@on_one_loop
async def test_an_error_is_not_taken_for_one_of_pickling(
    pools: dict[str, Executor], way: Way
) -> None:
    """An executor may pickle more than ``pickle`` does, as process pools do with sockets.

    The function's own error comes through all the same.
    """
    for error in (ValueError("its own"), TypeError("its own"), AttributeError("its own")):
        with pytest.raises(type(error), match=r"^its own$"):
            await way(pools["processes"], work.fail_with, work.ForPoolsOnly(), error)


KILLED = """
import asyncio, os, signal, sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
sys.path.insert(0, {here!r})
from helpers import remote_work as work
from helpers.calls import WAYS
from helpers.steps import LIMIT, until
from test_remote_executors import process_pool
from threadhop import *

folder = Path({folder!r})
async def main():
    gate = work.FileGate(folder)
    with process_pool() as pool:
        executor = AsyncExecutor(pool)
        waiting = {{
            name: asyncio.ensure_future(way(pool, gate.stop_here)) for name, way in WAYS.items()
        }}
        other = work.FileGate(folder, "other")
        waiting["a coroutine"] = exec_in_executor(pool, other.stop_here_in_a_coroutine)
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
    names = [*WAYS, "a coroutine", "map", "next", "next"]
    assert child.stdout.splitlines() == [f"{name}: BrokenProcessPool" for name in names]
    assert (child.stderr, child.returncode) == ("", 0)


# Cancellation


async def first_of_map(pool: Executor, func: Callable[..., Any], arg: Any) -> Any:
    async with contextlib.aclosing(AsyncExecutor(pool).map(func, [arg])) as results:
        return await anext(results)


#: Each starts a call that may be cancelled.
STARTS: dict[str, Callable[..., Any]] = {
    **{name: kind.start for name, kind in KINDS.items()},
    "unwrap_future": lambda pool, *args: asyncio.ensure_future(unwrap_future(pool.submit(*args))),
    "map": lambda *args: asyncio.ensure_future(first_of_map(*args)),
}


@pytest.mark.parametrize("name", STARTS)
@on_one_loop
async def test_a_queued_call_is_taken_back(pool: Executor, tmp_path: Path, name: str) -> None:
    """The call is cancelled at once, while all workers are still busy, and never runs."""
    async with busy(pool, tmp_path) as release:
        call = STARTS[name](pool, work.touch, tmp_path / "ran")
        await turns()
        assert call.cancel()
        await until(call.done)
        assert call.cancelled()
        release()
        # As many as there are workers: what was queued before them has run.
        await asyncio.gather(*(exec_in_executor(pool, work.where) for _ in range(WORKERS * 3)))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", STARTS)
@on_one_loop
async def test_a_running_call_goes_on_to_its_end(pool: Executor, tmp_path: Path, name: str) -> None:
    """A future is cancelled at once. A task waits; what the call raised becomes the context."""
    waits = name not in KINDS or KINDS[name].waits
    ending: Any
    for ending in ("passed", work.OddError(7, "late")):
        gate = FileGate(tmp_path, f"of-{type(ending).__name__}")
        call = STARTS[name](pool, gate.stop_here, ending)
        await turns()  # a task waits now
        await until(gate.is_reached)
        assert call.cancel()
        await turns(20)
        assert call.cancelled() != waits
        if waits:
            call.cancel()
            await turns(20)
            assert not call.done(), "the second one made it stop waiting"
        gate.open()
        error = await error_of(call)
        assert call.cancelled()
        if waits and isinstance(ending, Exception):
            assert work.OddError in chain_of(error)
        assert (await exec_in_executor(pool, work.add, 1, 2))[0] == 3


# Shutdown


@pytest.mark.parametrize("kind", POOLS)
@on_one_loop
async def test_a_shutdown_that_cancels_leaves_no_future_pending(kind: str, tmp_path: Path) -> None:
    """Queued calls end in ``concurrent.futures.CancelledError``, a running one in its result.

    The task that waits is not cancelled: nobody has cancelled it.
    """
    pool = POOLS[kind]()
    gates = [FileGate(tmp_path, f"running-{number}") for number in range(WORKERS)]
    running = [exec_in_executor(pool, gate.stop_here) for gate in gates]
    for gate in gates:
        await until(gate.is_reached)
    spare = [pool.submit(work.where) for _ in range(WORKERS + 1)]
    executor = AsyncExecutor(pool)
    queued = [asyncio.ensure_future(way(pool, work.where)) for way in WAYS.values()]
    results = executor.map(work.ignore, range(3))
    await turns()
    shutdown = asyncio.ensure_future(executor.shutdown(cancel_futures=True))
    await asyncio.wait(queued, timeout=LIMIT)
    assert not shutdown.done(), "it waits for what runs, and the loop goes on"
    for gate in gates:
        gate.open()
    for future in (*queued, anext(results)):
        with pytest.raises(concurrent.futures.CancelledError):
            await future
    assert await asyncio.gather(*running) == ["passed"] * WORKERS
    await asyncio.wait_for(shutdown, LIMIT)
    assert all(future.done() for future in spare)
