"""A Dask cluster of two worker processes, through the executor that its client offers.

Dask is the extra ``dask``. One child process sets the cluster up, does everything, and says how
it went; each test looks at its part.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.calls import WAYS
from helpers.child import run_in_child

pytest.importorskip("distributed", reason="the extra 'dask' is not installed")

pytestmark = pytest.mark.timeout(170)

HERE = str(Path(__file__).parent)

CHILD = """
import asyncio, functools, json, os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {here!r})
import dask
import distributed
from helpers import remote_work as work
from helpers.calls import WAYS
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
    here = os.getpid()

    def local():
        return "dask pickles more"

    def failing_local():
        raise TypeError("its own")

    for name, way in WAYS.items():
        for func in (work.add, work.add_later, functools.partial(work.add_later, more=0)):
            result, place = await way(executor, func, 20, right=22)
            assert result == 42 and place[0] != here, (name, func)
        tell(f"{{name}}: works", True)
        tell(f"{{name}}: error", await outcome(way(executor, work.fail, work.OddError(7, "odd"))))
        tell(f"{{name}}: local", await outcome(way(executor, local)))
        tell(f"{{name}}: TypeError", await outcome(way(executor, failing_local)))
        tell(
            f"{{name}}: unpicklable",
            await outcome(way(executor, work.ignore, 1, threading.Lock())),
        )

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
    for name, way in WAYS.items():
        gate = work.FileGate(folder, f"kill-{{name}}")
        future = asyncio.ensure_future(way(executor, gate.stop_here))
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

    executor.shutdown()
    tell("after shutdown", await outcome(WAYS["exec_in_executor"](executor, work.where)))

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
    """The report of the child: for each step, how it went."""
    folder = tmp_path_factory.mktemp("dask")
    paths = [HERE, *filter(None, [os.environ.get("PYTHONPATH")])]
    child = run_in_child(
        CHILD.format(here=HERE, folder=str(folder)),
        deadline=150,
        env={
            "PYTHONPATH": os.pathsep.join(paths),
            # Dask's working files go with the other files of the test.
            "DASK_TEMPORARY_DIRECTORY": str(folder),
        },
    )
    assert child.returncode == 0, child.stderr
    said: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return said


#: The promises of each way to make a call: a line of the report, and its text.
OF_EACH_WAY = {
    "functions and coroutine functions run in another process": ("works", "True"),
    "an error of the function comes through": ("error", r"OddError: \(7, 'odd'\)"),
    "what dask can pickle and pickle cannot is welcome": ("local", "dask pickles more"),
    "a TypeError is not taken for one of pickling": ("TypeError", "TypeError: its own"),
    "what cannot be pickled is named": ("unpicklable", r"TypeError: argument 2 \(<unlocked _thr.*"),
    "dask makes a call again whose worker is killed": ("killed once", "passed"),
}

OF_THE_CLUSTER = {
    "map yields the results in order": ("map", r"\[10, 12, 14, 16, 18\]"),
    "also with a buffersize": ("map with buffersize", r"\[10, 12, 14, 16, 18\]"),
    # Dask says of every call that it can be taken back, so a task does not wait for it either.
    "a cancelled future is cancelled at once": ("cancelled future", "cancelled"),
    "a cancelled task is cancelled at once": ("cancelled task", "cancelled"),
    "its worker goes on": ("after cancel", "3"),
    # Nothing stays pending once Dask has given up.
    "a future of a call that kills all workers": ("exec_in_executor: killed always", "KilledW.*"),
    "a task of a call that kills all workers": ("run: killed always", "KilledWorker: .*"),
    # The call was dropped: no task was cancelled.
    "a client that closes leaves no future pending": ("client closed", "CancelledError: .*"),
    # Although Dask's own knows no ``cancel_futures``.
    "shutdown works": ("shutdown", "None"),
    "shutdown_nowait works": ("shutdown_nowait", "None"),
    "after the shutdown it refuses": ("after shutdown", "RuntimeError: .*"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("promise", OF_EACH_WAY)
def test_each_way_to_make_a_call_works_on_a_cluster(
    report: dict[str, Any], way: str, promise: str
) -> None:
    line, expected = OF_EACH_WAY[promise]
    assert re.fullmatch(expected, str(report[f"{way}: {line}"]), re.DOTALL)


@pytest.mark.parametrize("promise", OF_THE_CLUSTER)
def test_a_cluster_is_an_executor_like_any_other(report: dict[str, Any], promise: str) -> None:
    line, expected = OF_THE_CLUSTER[promise]
    assert re.fullmatch(expected, str(report[line]), re.DOTALL)
