"""How a trip is measured: the loops, the executors, one measurement, the rounds.

Every contender runs in every round, in an order shuffled for each round; a ratio is taken within
its round, and what is told is the median over the rounds with the quartiles. Setting up, a first
trip of each task and a full garbage collection come before the clock starts; after that the
collector works as it does for users.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import random
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

from contenders import BASE, POOLS, WORKERS, Contender, Trip, Work

SLOWER = 20  # a slow contender makes this many times fewer trips
TOO_SLOW = 0.02  # seconds for a trip: whoever needs more is left out, or no run would end

T = TypeVar("T")
Summary = dict[str, float]


class Library(Protocol):
    """An async library with one loop for the whole run, as far as it has such a thing."""

    def run(self, main: Coroutine[Any, Any, T]) -> T: ...
    async def together(self, job: Callable[[], Coroutine[Any, Any, None]], tasks: int) -> None: ...
    def close(self) -> None: ...


class Asyncio:
    """*executor* is the default of its loop."""

    def __init__(self, executor: ThreadPoolExecutor, *, uvloop: bool = False) -> None:
        # By name and only when asked for: most users of this script have no uvloop.
        factory = importlib.import_module("uvloop").new_event_loop if uvloop else None
        self._runner = asyncio.Runner(loop_factory=factory)
        self._runner.get_loop().set_default_executor(executor)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(main)

    async def together(self, job: Callable[[], Coroutine[Any, Any, None]], tasks: int) -> None:
        await asyncio.gather(*(job() for _ in range(tasks)))

    def close(self) -> None:
        self._runner.close()


class Trio:
    """Its loop begins and ends with each measurement; its threads stay."""

    def __init__(self) -> None:
        self._trio = importlib.import_module("trio")

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        result: T = self._trio.run(lambda: main)
        return result

    async def together(self, job: Callable[[], Coroutine[Any, Any, None]], tasks: int) -> None:
        async with self._trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(job)

    def close(self) -> None:
        pass


class Bench:
    """Measures single contenders: what it is asked for, in whatever order it is asked."""

    def __init__(self, contenders: Mapping[str, Contender], *, trips: int, tasks: int) -> None:
        self.contenders = dict(contenders)
        self.trips = trips
        self.crowds = {  # scene to the number of tasks at once
            "sequential": 1,
            "few": max(1, tasks // 20),
            "at_once": tasks,
            "many": tasks * 10,
        }
        self._executors: dict[str, ThreadPoolExecutor] = {}
        self._libraries: dict[str, Library] = {}

    def executor_of(self, name: str) -> ThreadPoolExecutor:
        pool = self.contenders[name].pool
        if pool not in self._executors:
            self._executors[pool] = POOLS[pool](WORKERS)
        return self._executors[pool]

    def library(self, name: str) -> Library:
        """Return the library, as it was set up when it was first asked for."""
        if name not in self._libraries:
            if name == "trio":
                self._libraries[name] = Trio()
            else:
                executor = self.executor_of(BASE)
                self._libraries[name] = Asyncio(executor, uvloop=name == "uvloop")
        return self._libraries[name]

    def run(
        self,
        name: str,
        work: Work,
        use: Callable[[Trip, Library], Coroutine[Any, Any, T]],
        on: str | None = None,
    ) -> T:
        """Set the contender up for *work*, and return what *use* makes of its trip."""
        entry = self.contenders[name]
        library = self.library(on or entry.library)
        executor = self.executor_of(name)

        async def main() -> T:
            async with entry.setup(executor, work) as trip:
                return await use(trip, library)

        return library.run(main())

    def measure(self, name: str, scene: str, on: str | None = None) -> float:
        """Return the microseconds a trip took."""
        tasks = self.crowds[scene]
        slower = SLOWER if self.contenders[name].slow else 1
        trips_each = max(1, self.trips // slower // tasks)

        async def use(trip: Trip, library: Library) -> float:
            # Never less than this: now all workers exist, also those of a pool of its own.
            await library.together(partial(in_a_row, trip, 1), max(tasks, 4 * WORKERS))
            gc.collect()
            start = time.perf_counter()
            await library.together(partial(in_a_row, trip, trips_each), tasks)
            return (time.perf_counter() - start) / (trips_each * tasks) * 1e6

        return self.run(name, nothing, use, on)

    def prove(self, name: str, on: str | None = None) -> float:
        """Raise unless the contender's trip calls the work once, in another thread.

        Return the seconds that a second trip took.
        """
        threads: list[int] = []

        async def use(trip: Trip, library: Library) -> float:
            await trip()
            if len(threads) != 1 or threading.get_ident() in threads:
                raise RuntimeError(f"{name} makes no trip: the work ran in {threads}")
            start = time.perf_counter()
            await trip()
            return time.perf_counter() - start

        return self.run(name, lambda: threads.append(threading.get_ident()), use, on)

    def close(self) -> None:
        for library in self._libraries.values():
            library.close()
        for executor in self._executors.values():
            executor.shutdown()


def nothing() -> None:
    """The work of a trip whose cost is measured."""


async def in_a_row(trip: Trip, count: int) -> None:
    for _ in range(count):
        await trip()


def interleave(jobs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Return what each job returned in each round; the order is shuffled for each of them."""
    order = list(jobs)
    results: dict[str, list[T]] = {name: [] for name in jobs}
    shuffle = random.Random(0).shuffle
    for turn in range(rounds + 1):
        shuffle(order)
        for name in order:
            result = jobs[name]()
            if turn > 0:  # the first round only warms up
                results[name].append(result)
    return results


def measure_trips(
    bench: Bench, names: Sequence[str], scenes: Sequence[str], rounds: int, on: str | None = None
) -> dict[str, dict[str, Any]]:
    """Return times and ratios of the contenders in each scene."""
    report: dict[str, dict[str, Any]] = {name: {} for name in names}
    for scene in scenes:
        times = interleave(
            {
                name: partial(bench.measure, name, scene, on)
                for name in names
                if scene != "many" or not bench.contenders[name].slow
            },
            rounds,
        )
        for name, mine in times.items():
            report[name][scene] = {"us": summary(mine), "ratio": ratio(mine, times[BASE])}
            if "floor" in times:
                report[name][scene]["to_floor"] = ratio(mine, times["floor"])
    return report


def ratio(mine: Sequence[float], others: Sequence[float]) -> Summary:
    """Return the summary of the ratios, each taken within its round."""
    return summary([one / other for one, other in zip(mine, others, strict=True)])


def summary(values: Sequence[float]) -> Summary:
    """Return the median of *values* and their quartiles."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}
