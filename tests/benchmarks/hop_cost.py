"""What does a trip to a worker thread and back cost, beside `asyncio.to_thread`?

    python tests/benchmarks/hop_cost.py --pin 0

Needs threadhop to be importable: `pip install -e .`, or PYTHONPATH=src.

How to read it. Times depend on the machine and, four times over, on whether the two threads share
a processor: so a time means nothing beside one of another run. The ratios do. Every contender runs
in every round, in an order shuffled for each round; a ratio is taken within its round, and the
table shows the median over the rounds with the quartiles. On a busy machine, many short rounds
(`--rounds`, `--trips`) are better than a few long ones. Pinned (`--pin 0`), it is the cost of
the trip itself; free, it is what users see, and noisier.

How it measures. A trip calls an empty function in a worker. One after another: one task makes all
trips. At once: they are shared out over the tasks. All use the same ThreadPoolExecutor, except
where their line says otherwise. Setting up, a first trip of each task and a full garbage
collection come before the clock starts; after that the collector works as it does for users.

How to add a contender: one function under `@contender`; its body sets up, yields the trip, tidies
up. An async library beside asyncio is one more class like `Asyncio`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import gc
import importlib.util
import json
import os
import platform
import queue
import random
import statistics
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

try:
    from threadhop import exec_in_executor, threadpool
except ModuleNotFoundError as error:
    if error.name != "threadhop":
        raise
    sys.exit("threadhop is not installed here: run `pip install -e .`, or set PYTHONPATH=src")

WORKERS = 4
HEAP_OBJECTS = 1_000_000  # what --check measures beside, unless --objects says otherwise

# What --check holds: (contender, measurement) to the highest ratio allowed.
LIMITS = {
    ("block", "sequential"): 1.1,
    ("block", "at_once"): 0.9,
    ("block", "heap"): 1.2,
}

T = TypeVar("T")
Work = Callable[[], object]
Trip = Callable[[], Awaitable[object]]


# --- the contenders ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    name: str
    code: str  # what a user writes; the title of its line
    setup: Callable[[Executor, Work], AbstractAsyncContextManager[Trip]]
    beside: str  # the contender that its ratio is taken to
    library: str  # the async library that it runs on


CONTENDERS: dict[str, Contender] = {}
LEFT_OUT: dict[str, str] = {}  # name to the module that is not installed


def contender(
    code: str, *, beside: str = "to_thread", library: str = "asyncio", needs: str | None = None
) -> Callable[[Callable[[Executor, Work], AsyncIterator[Trip]]], None]:
    """Enter a function into the table, if the module that it *needs* is installed.

    The function is an async generator: given the executor and the work, it yields once, the trip:
    a callable without arguments, awaited once for each trip, that calls the work in a worker.
    """

    def enter(function: Callable[[Executor, Work], AsyncIterator[Trip]]) -> None:
        name = function.__name__
        if needs is not None and importlib.util.find_spec(needs) is None:
            LEFT_OUT[name] = needs
        else:
            setup = asynccontextmanager(function)
            CONTENDERS[name] = Contender(name, code, setup, beside, library)

    return enter


@contender("await asyncio.to_thread(work)")
async def to_thread(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    # Goes through the same executor: it is the loop's default.
    yield partial(asyncio.to_thread, work)


@contender("await loop.run_in_executor(executor, work)")
async def run_in_executor(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    yield partial(asyncio.get_running_loop().run_in_executor, executor, work)


@contender("async with threadpool(executor): work()")
async def block(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    async def trip() -> None:
        async with threadpool(executor):
            work()

    yield trip


@contender("await exec_in_executor(executor, work)")
async def call(executor: Executor, work: Work) -> AsyncIterator[Trip]:
    yield partial(exec_in_executor, executor, work)


@contender("floor: bare queue and call_soon_threadsafe")
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


# --- measuring --------------------------------------------------------------------------------


class Asyncio:
    """One loop for the whole run, with *executor* as its default."""

    def __init__(self, executor: ThreadPoolExecutor, *, uvloop: bool) -> None:
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


class Bench:
    """Measures single contenders: what it is asked for, in whatever order it is asked."""

    def __init__(self, *, trips: int, tasks: int, uvloop: bool) -> None:
        self._trips = trips
        self._tasks = {"sequential": 1, "at_once": tasks}
        self._executor = ThreadPoolExecutor(WORKERS)
        self._libraries = {"asyncio": Asyncio(self._executor, uvloop=uvloop)}

    def measure(self, name: str, scene: str) -> float:
        """Return the microseconds a trip took."""
        entry = CONTENDERS[name]
        library = self._libraries[entry.library]
        tasks = self._tasks[scene]
        trips_each = max(1, self._trips // tasks)

        async def main() -> float:
            async with entry.setup(self._executor, _nothing) as trip:
                # As many at once as ever: now all workers exist, also those of a pool of its own.
                await library.together(partial(_in_a_row, trip, 1), max(self._tasks.values()))
                gc.collect()
                start = time.perf_counter()
                await library.together(partial(_in_a_row, trip, trips_each), tasks)
                return (time.perf_counter() - start) / (trips_each * tasks) * 1e6

        return library.run(main())

    def prove(self, name: str) -> None:
        """Raise unless the contender's trip calls the work once, in another thread."""
        entry = CONTENDERS[name]
        threads: list[int] = []

        async def main() -> None:
            work = partial(_note_thread, threads)
            async with entry.setup(self._executor, work) as trip:
                await trip()

        self._libraries[entry.library].run(main())
        if len(threads) != 1 or threading.get_ident() in threads:
            raise RuntimeError(f"{name} makes no trip: the work ran in the threads {threads}")

    def close(self) -> None:
        for library in self._libraries.values():
            library.close()
        self._executor.shutdown()


def _nothing() -> None:
    """The work of a trip whose cost is measured."""


def _note_thread(threads: list[int]) -> None:
    threads.append(threading.get_ident())


async def _in_a_row(trip: Trip, count: int) -> None:
    for _ in range(count):
        await trip()


def measure_all(bench: Bench, rounds: int) -> dict[str, dict[str, Any]]:
    """Return times and ratios of all contenders, one after another and at once."""
    report: dict[str, dict[str, Any]] = {name: {} for name in CONTENDERS}
    order = list(CONTENDERS)
    shuffle = random.Random(0).shuffle
    for scene in ("sequential", "at_once"):
        times: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for turn in range(rounds + 1):
            shuffle(order)
            for name in order:
                time_of_trip = bench.measure(name, scene)
                if turn > 0:  # the first round only warms up
                    times[name].append(time_of_trip)
        for name, mine in times.items():
            base = times[CONTENDERS[name].beside]
            ratios = [one / other for one, other in zip(mine, base, strict=True)]
            report[name][scene] = {"us": summary(mine), "ratio": summary(ratios)}
    return report


def measure_heap(bench: Bench, rounds: int, objects: int) -> dict[str, dict[str, float]]:
    """Return the ratio of a trip beside *objects* live lists to one without them.

    Without, with, without, with ... without: each time with them is compared to the mean of the
    times just before they were made and just after they were freed, so that a machine that grows
    slower or faster meanwhile does not count. to_thread is the control: it cannot depend on them
    more than the garbage collector and the processor's caches do.
    """
    ratios: dict[str, list[float]] = {"block": [], "to_thread": []}
    before = {name: bench.measure(name, "sequential") for name in ratios}
    for _ in range(rounds):
        heap: list[list[int]] = [[] for _ in range(objects)]
        beside = {name: bench.measure(name, "sequential") for name in ratios}
        del heap
        after = {name: bench.measure(name, "sequential") for name in ratios}
        for name, of_rounds in ratios.items():
            of_rounds.append(beside[name] / statistics.mean((before[name], after[name])))
        before = after
    return {name: summary(of_rounds) for name, of_rounds in ratios.items()}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the median of *values* and their quartiles."""
    low, median, high = (
        statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
    )
    return {"median": round(median, 4), "low": round(low, 4), "high": round(high, 4)}


# --- telling ----------------------------------------------------------------------------------


def surroundings(*, uvloop: bool) -> dict[str, Any]:
    """Return what the times depend on, besides the code."""
    if hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
    else:
        cpus = list(range(os.cpu_count() or 1))
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "system": platform.platform(),
        "loop": "uvloop" if uvloop else "asyncio",
        "cpus": cpus,
        "pinned": len(cpus) == 1,
    }


def table(report: dict[str, Any]) -> str:
    """Return the report as text."""
    where, options = report["surroundings"], report["options"]
    placement = (
        f"pinned to processor {where['cpus'][0]}"
        if where["pinned"]
        else f"not pinned, free on {len(where['cpus'])} processors"
    )
    lines = [
        f"{where['python']}, GIL {'on' if where['gil'] else 'off'}, {where['loop']}, {placement}",
        f"{options['rounds']} rounds, {options['trips']} trips in each measurement",
        f"{options['context_vars']} context variables, ThreadPoolExecutor({WORKERS})",
        "us: per trip, median. ratio: to asyncio.to_thread in the same round, median (quartiles).",
        "",
        f"{'':44}{'one after another':>29}{str(options['tasks']) + ' at once':>29}",
        f"{'':44}" + f"{'us':>9}{'ratio':>7}{'':13}" * 2,
    ]
    for name, scenes in report["contenders"].items():
        line = f"{CONTENDERS[name].code:44}"
        for scene in ("sequential", "at_once"):
            line += f"{scenes[scene]['us']['median']:9.1f}{_spread(scenes[scene]['ratio']):>20}"
        lines.append(line)
    lines += [f"left out: {name}: no module {module!r}" for name, module in LEFT_OUT.items()]
    if report["heap"]:
        lines += ["", f"Beside {options['objects']:,} live lists, to without them:"]
        lines += [f"{CONTENDERS[n].code:44}{_spread(r):>29}" for n, r in report["heap"].items()]
    return "\n".join(line.rstrip() for line in lines)


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}..{ratio['high']:.2f})"


def check(report: dict[str, Any]) -> tuple[str, bool]:
    """Compare the medians to LIMITS; return the text of it, and whether all hold."""
    lines, passed = [], True
    for (name, what), limit in LIMITS.items():
        if what != "heap":
            ratio = report["contenders"][name][what]["ratio"]["median"]
        elif report["heap"]:
            ratio = report["heap"][name]["median"]
        else:
            lines.append(f"check: {name}, {what}: not measured (--objects 0)")
            continue
        holds = ratio <= limit
        passed = passed and holds
        verdict = "holds" if holds else "EXCEEDED"
        lines.append(f"check: {name}, {what}: {ratio:.2f}, limit {limit:.2f}: {verdict}")
    return "\n".join(lines), passed


# --- the command ------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a trip to a worker thread costs, beside asyncio.to_thread."
    )

    def at_least(least: int) -> Callable[[str], int]:
        def number(text: str) -> int:
            if int(text) < least:
                raise argparse.ArgumentTypeError(f"at least {least}, not {text}")
            return int(text)

        return number

    add = parser.add_argument
    add("--rounds", type=at_least(1), default=30, help="default: %(default)s")
    add("--trips", type=at_least(1), default=1000, help="in a measurement; default: %(default)s")
    add("--tasks", type=at_least(1), default=200, help="at once; default: %(default)s")
    add("--context-vars", type=at_least(0), default=5, help="set; default: %(default)s")
    add("--uvloop", action="store_true", help="run on uvloop in place of asyncio's own loop")
    add("--pin", type=at_least(0), metavar="CPU", help="run on this processor only")
    add(
        "--objects",
        type=at_least(0),
        metavar="N",
        help="also measure beside N live lists; default: "
        f"{HEAP_OBJECTS:,} with --check, else this part is left out",
    )
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add("--check", action="store_true", help="exit with 1 if a ratio exceeds its limit")
    options = parser.parse_args(arguments)

    if options.objects is None:
        options.objects = HEAP_OBJECTS if options.check else 0
    if options.uvloop and importlib.util.find_spec("uvloop") is None:
        parser.error("--uvloop: uvloop is not installed here: run `pip install uvloop`")
    if options.pin is not None:
        if not hasattr(os, "sched_setaffinity"):
            parser.error("--pin: this system cannot do it; leave it out")
        # Before any thread starts: they inherit it.
        try:
            os.sched_setaffinity(0, {options.pin})
        except OSError as error:
            parser.error(f"--pin {options.pin}: {error.strerror}; leave it out, or name another")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # Before the loop exists: each task's context is a copy of this one.
    for index in range(options.context_vars):
        contextvars.ContextVar[int](f"variable_{index}").set(index)

    bench = Bench(trips=options.trips, tasks=options.tasks, uvloop=options.uvloop)
    try:
        for name in CONTENDERS:
            bench.prove(name)
        report = {
            "surroundings": surroundings(uvloop=options.uvloop),
            "options": {
                name: getattr(options, name)
                for name in ("rounds", "trips", "tasks", "context_vars", "objects")
            },
            "contenders": measure_all(bench, options.rounds),
            # Fewer rounds: one of these takes longer, and is compared to both of its neighbours.
            "heap": measure_heap(bench, options.rounds // 3 + 1, options.objects)
            if options.objects
            else {},
            "left_out": LEFT_OUT,
        }
    finally:
        bench.close()

    print(table(report))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.check:
        text, passed = check(report)
        print("\n" + text)
        return 0 if passed else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
