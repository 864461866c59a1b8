"""A Dask cluster of two worker processes, through the executor that its client offers.

Dask is the extra ``dask``. One child process sets the cluster up, does everything, and says how
it went; each test looks at its part.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.child import run_in_child

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = pytest.mark.timeout(170)

HERE = str(Path(__file__).parent)

CHILD = """
import asyncio, contextlib, functools, json, os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {here!r})
import dask
import distributed
from helpers import remote_work as work
from helpers.steps import LIMIT, turns, until
from threadhop import *

folder = Path({folder!r})
report = {{}}

def tell(what, value):
    report[what] = value if isinstance(value, (int, str, list, bool)) else repr(value)

async def outcome(awaitable, limit=40):
    # How it ended, or that it did not.
    future = asyncio.ensure_future(awaitable)
    await asyncio.wait([future], timeout=limit)
    if not future.done():
        return "pending"
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return future.result() if error is None else f"{{type(error).__name__}}: {{error}}"

async def main(executor):
    wrapped = AsyncExecutor(executor)
    ways = {{
        "exec_in_executor": functools.partial(exec_in_executor, executor),
        "threading future": lambda *args, **kwargs: asyncio.wrap_future(
            exec_in_executor_threading_future(executor, *args, **kwargs)
        ),
        "run": wrapped.run,
    }}
    here = os.getpid()
    for name, way in ways.items():
        for func in (work.add, work.add_later, functools.partial(work.add_later, more=0)):
            result, place = await way(func, 20, right=22)
            assert result == 42 and place[0] != here, (name, func)
        tell(f"{{name}}: works", True)
        tell(f"{{name}}: error", await outcome(way(work.fail, work.OddError(7, "odd"))))

        def local():
            return "dask pickles more"

        def failing_local():
            raise TypeError("its own")

        tell(f"{{name}}: local", await outcome(way(local)))
        tell(f"{{name}}: TypeError", await outcome(way(failing_local)))

        async def call_with_lock():
            return await way(work.ignore, 1, threading.Lock())

        tell(f"{{name}}: unpicklable", await outcome(call_with_lock()))

    results = wrapped.map(work.add_later, range(5), range(10, 15))
    tell("map", [result async for result, _ in results])
    results = wrapped.map(work.add, range(5), range(10, 15), buffersize=2)
    tell("map with buffersize", [result async for result, _ in results])

    # Cancelled while it runs.
    gates = [work.FileGate(folder, f"cancel-{{number}}") for number in range(2)]
    future = exec_in_executor(executor, gates[0].stop_here)
    task = asyncio.ensure_future(wrapped.run(gates[1].stop_here))
    for gate in gates:
        await until(gate.is_reached)
    future.cancel()
    task.cancel()
    tell("cancelled future", await outcome(future, LIMIT))
    for gate in gates:
        gate.open()
    tell("cancelled task", await outcome(task, LIMIT))
    tell("after cancel", (await exec_in_executor(executor, work.add, 1, 2))[0])

    # Killed from outside, in mid-call: Dask makes the call again, on the other worker.
    for name, way in ways.items():
        gate = work.FileGate(folder, f"kill-{{name.replace(' ', '-')}}")
        future = asyncio.ensure_future(way(gate.stop_here))
        await until(gate.is_reached)
        os.kill(gate.pid(), signal.SIGKILL)
        gate.open()
        tell(f"{{name}}: killed once", await outcome(future))

    # Killed wherever it runs: Dask gives up.
    dying = [exec_in_executor(executor, work.end_this_process)]
    dying.append(asyncio.ensure_future(wrapped.run(work.end_this_process)))
    for name, future in zip(("exec_in_executor", "run"), dying):
        tell(f"{{name}}: killed always", await outcome(future))

    tell("shutdown", repr(await outcome(wrapped.shutdown())))
    try:
        wrapped.shutdown_nowait()
    except Exception as error:
        tell("shutdown_nowait", error)
    else:
        tell("shutdown_nowait", "None")

    async def call_after_shutdown():
        return await exec_in_executor(executor, work.where)

    executor.shutdown()
    tell("after shutdown", await outcome(call_after_shutdown()))

dask.config.set({{"distributed.scheduler.allowed-failures": 1}})
cluster = distributed.LocalCluster(
    n_workers=2,
    threads_per_worker=1,
    processes=True,
    host="127.0.0.1",
    dashboard_address=None,
    silence_logs=60,
)
with cluster, distributed.Client(cluster) as client:
    asyncio.run(main(client.get_executor(pure=False)))

    async def until_the_client_closes():
        gate = work.FileGate(folder, "closed")
        future = exec_in_executor(client.get_executor(pure=False), gate.stop_here)
        await until(gate.is_reached)
        closing = asyncio.ensure_future(asyncio.to_thread(client.close))
        tell("client closed", await outcome(future))
        gate.open()
        await closing

    asyncio.run(until_the_client_closes())
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the child says: for each thing that it did, how it went."""
    folder = tmp_path_factory.mktemp("dask")
    paths = [HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = run_in_child(
        CHILD.format(here=HERE, folder=str(folder)),
        deadline=150,
        env={
            "PYTHONPATH": os.pathsep.join(paths),
            # Its working files go with the other files of the test.
            "DASK_TEMPORARY_DIRECTORY": str(folder),
        },
    )
    assert child.returncode == 0, child.stderr
    said: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return said


WAYS = ["exec_in_executor", "threading future", "run"]


@pytest.mark.parametrize("way", WAYS)
def test_functions_and_coroutine_functions_run_in_another_process(
    report: dict[str, Any], way: str
) -> None:
    """Partials too, with arguments of both kinds."""
    assert report[f"{way}: works"] is True


def test_map_yields_the_results_in_order(report: dict[str, Any]) -> None:
    """With and without a limit on what is started ahead."""
    assert report["map"] == report["map with buffersize"] == [10, 12, 14, 16, 18]


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_function_comes_through(report: dict[str, Any], way: str) -> None:
    """As what it was."""
    assert report[f"{way}: error"] == "OddError: (7, 'odd')"


@pytest.mark.parametrize("way", WAYS)
def test_what_dask_can_pickle_and_pickle_cannot_is_welcome(
    report: dict[str, Any], way: str
) -> None:
    """A local function; and a TypeError that it raises is not taken for one of pickling."""
    assert report[f"{way}: local"] == "dask pickles more"
    assert report[f"{way}: TypeError"] == "TypeError: its own"


@pytest.mark.parametrize("way", WAYS)
def test_what_cannot_be_pickled_is_named(report: dict[str, Any], way: str) -> None:
    """In a TypeError of ours."""
    assert report[f"{way}: unpicklable"].startswith("TypeError: argument 2 (<unlocked _thread.lock")


def test_a_cancelled_call_is_cancelled_at_once(report: dict[str, Any]) -> None:
    """Dask says of every call that it can be taken back, so a task does not wait for it either."""
    assert report["cancelled future"] == "cancelled"
    assert report["cancelled task"] == "cancelled"
    assert report["after cancel"] == 3


@pytest.mark.parametrize("way", WAYS)
def test_a_call_whose_worker_is_killed_is_made_again(report: dict[str, Any], way: str) -> None:
    """By Dask, on the other worker."""
    assert report[f"{way}: killed once"] == "passed"


@pytest.mark.parametrize("way", ["exec_in_executor", "run"])
def test_a_call_that_kills_every_worker_ends_in_an_error(report: dict[str, Any], way: str) -> None:
    """That of Dask, once it has given up; nothing stays pending."""
    assert report[f"{way}: killed always"].startswith("KilledWorker: ")


def test_a_client_that_closes_leaves_no_future_pending(report: dict[str, Any]) -> None:
    """The call was dropped: no task was cancelled."""
    assert report["client closed"].startswith("CancelledError: ")


def test_async_executor_can_shut_it_down(report: dict[str, Any]) -> None:
    """Although its ``shutdown`` knows no ``cancel_futures``."""
    assert report["shutdown"] == "None"
    assert report["shutdown_nowait"] == "None"


def test_after_the_shutdown_it_refuses_at_the_call(report: dict[str, Any]) -> None:
    """With Dask's own RuntimeError."""
    assert report["after shutdown"].startswith("RuntimeError: ")
