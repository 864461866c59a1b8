"""The calls of `calls.py` on a cluster: two worker processes of Dask, on this machine.

It needs the extra `dask`: python -m pip install 'threadhop[dask]'. `python cluster.py` runs and
checks itself; with `--if-available` it is content when Dask is not installed.
"""

import argparse
import asyncio
import importlib.util
import logging
import os
import sys
from collections.abc import Awaitable
from concurrent.futures import Executor

from threadhop import AsyncExecutor, exec_in_executor, exec_in_executor_threading_future

NEEDED = "this example needs Dask: python -m pip install 'threadhop[dask]'"
LIMIT = 60  # seconds for each call


# A function that a cluster calls is pickled: by its name, or, as Dask does here, as a whole.


def count_primes(start: int, stop: int) -> tuple[int, int]:
    """Stands for what takes long; also tells which process did it."""
    numbers = range(max(start, 2), stop)
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in numbers)
    return primes, os.getpid()


async def count_primes_later(start: int, stop: int) -> tuple[int, int]:
    """A coroutine function: it gets an event loop over there."""
    await asyncio.sleep(0)
    return count_primes(start, stop)


def refuse(what: str) -> None:
    raise ValueError(f"{what} is refused")


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def within_limit(call: Awaitable[tuple[int, int]]) -> tuple[int, int]:
    async with asyncio.timeout(LIMIT):
        return await call


async def from_async(executor: Executor) -> None:
    # A future: the call is on its way, await it any time.
    primes, process = await within_limit(exec_in_executor(executor, count_primes, 0, 1000))
    check("sync from async", primes, process)

    primes, process = await within_limit(exec_in_executor(executor, count_primes_later, 0, 1000))
    check("async from async", primes, process)

    cluster = AsyncExecutor(executor)
    primes, process = await within_limit(cluster.run(count_primes, 0, stop=1000))
    check("AsyncExecutor.run", primes, process)

    starts = range(0, 1000, 100)
    stops = range(100, 1100, 100)
    async with asyncio.timeout(LIMIT):
        parts = [part async for part in cluster.map(count_primes, starts, stops)]
    check("AsyncExecutor.map", sum(primes for primes, _ in parts), parts[0][1])

    try:
        await exec_in_executor(executor, refuse, "zero")
    except ValueError as error:
        ensure(str(error) == "zero is refused", f"the error is {error!r}")
        print("errors come through  ValueError: zero is refused")
    else:
        ensure(False, "the error of the function was lost")


def from_sync(executor: Executor) -> None:
    future = exec_in_executor_threading_future(executor, count_primes, 0, 1000)
    check("sync from sync", *future.result(timeout=LIMIT))
    future = exec_in_executor_threading_future(executor, count_primes_later, 0, 1000)
    check("async from sync", *future.result(timeout=LIMIT))


def check(name: str, primes: int, process: int) -> None:
    ensure(primes == 168, f"there are 168 primes below 1000, and not {primes}")
    ensure(process != os.getpid(), f"{name} ran in this process")
    print(f"{name:20} {primes} primes, counted by another process")


def main() -> None:
    parser = argparse.ArgumentParser(description="Calls on a cluster.")
    parser.add_argument("--if-available", action="store_true", help="do nothing without Dask")
    options = parser.parse_args()
    if importlib.util.find_spec("distributed") is None:
        if options.if_available:
            print(NEEDED)
            return
        sys.exit(NEEDED)

    from distributed import Client, LocalCluster  # noqa: PLC0415 - now it is known to be there

    cluster = LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=logging.CRITICAL,  # else the workers log every error of a function
    )
    with cluster, Client(cluster) as client:
        # Dask takes functions for pure: it makes equal calls only once, unless told otherwise.
        executor = client.get_executor(pure=False)
        asyncio.run(from_async(executor))
        from_sync(executor)
    print("every call is right")


if __name__ == "__main__":
    main()
