"""The scenes beside single trips: heap, timers, memory, `eventloop()`, uvloop, processors."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from contenders import BASE, Trip
from measure import (
    Bench,
    Library,
    in_a_row,
    interleave,
    measure_trips,
    nothing,
    ratio,
    summary,
)

from threadhop import eventloop, threadpool

OURS = ("block", "block_default", "block_pool", "call", "call_default", "call_pool")

#: A scene's numbers; or the reason why it has none.
Numbers = dict[str, Any]
Scene = Callable[[Bench, int], Numbers | str]


def present(bench: Bench, *names: str) -> list[str]:
    return [name for name in names if name in bench.contenders]


# --- beside many live objects -----------------------------------------------------------------


def measure_heap(bench: Bench, rounds: int, objects: int) -> Numbers:
    """Return the ratio of a trip beside live lists to one without them: *objects*, and a tenth.

    Without, with, without, with ... without: each time with them is compared to the mean of the
    times just before they were made and just after they were freed, so that a machine that grows
    slower or faster meanwhile does not count. to_thread is the control: it cannot depend on them
    more than the garbage collector and the processor's caches do.
    """
    sizes = sorted({objects // 10, objects} - {0})
    names = present(bench, BASE, "block", "block_pool")
    ratios = _beside(bench, names, sizes, rounds)
    # By itself and less often: it takes so long that the times of the others would lie far apart.
    for slow in present(bench, "asyncio_extras"):
        of_it = _beside(bench, [slow], sizes, rounds // 3 + 1)
        ratios = {size: ratios[size] | of_it[size] for size in sizes}
    return {
        str(size): {name: summary(of_rounds) for name, of_rounds in of_size.items()}
        for size, of_size in ratios.items()
    }


def _beside(
    bench: Bench, names: list[str], sizes: Sequence[int], rounds: int
) -> dict[int, dict[str, list[float]]]:
    ratios: dict[int, dict[str, list[float]]] = {n: {name: [] for name in names} for n in sizes}
    shuffle = random.Random(0).shuffle

    def all_of_them() -> dict[str, float]:
        shuffle(names)
        return {name: bench.measure(name, "sequential") for name in names}

    all_of_them()  # warms up
    before = all_of_them()
    for _ in range(rounds):
        for size in sizes:
            heap: list[list[int]] = [[] for _ in range(size)]
            beside = all_of_them()
            del heap
            after = all_of_them()
            for name, of_rounds in ratios[size].items():
                of_rounds.append(beside[name] / statistics.mean((before[name], after[name])))
            before = after
    return ratios


# --- timers -----------------------------------------------------------------------------------


def measure_timer(bench: Bench, rounds: int) -> Numbers | str:
    """Return how late a timer of 1 ms fires while trips of a large crowd keep the loop busy.

    The crowd makes its first step before the timer starts: what counts is how the finished trips
    share the loop with others. The median and the worst of each round are compared to to_thread's.
    """
    tasks = bench.crowds["at_once"] * 5
    # Longer than other measurements: the timer must fire often.
    trips_each = max(1, bench.trips * 10 // tasks)

    def lateness(name: str) -> tuple[float, float]:
        async def use(trip: Trip, library: Library) -> tuple[float, float]:
            gc.collect()
            late = await _lateness(trip, tasks, trips_each)
            return statistics.median(late), max(late)

        return bench.run(name, nothing, use)

    names = present(bench, BASE, *OURS, "floor")
    results = interleave({name: partial(lateness, name) for name in names}, rounds)
    report: Numbers = {"tasks": tasks, "trips": trips_each, "contenders": {}}
    for name, mine in results.items():
        numbers = {}
        for index, what in enumerate(("median", "worst")):
            times, base = ([late[index] for late in lates] for lates in (mine, results[BASE]))
            numbers[what] = {"ms": summary(times), "ratio": ratio(times, base)}
        report["contenders"][name] = numbers
    return report


async def _lateness(trip: Trip, tasks: int, trips_each: int) -> list[float]:
    """Return by how many milliseconds each timer was late; at least one is."""
    loop = asyncio.get_running_loop()
    late: list[float] = []
    first = asyncio.Event()
    due = 0.0
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal due, timer
        now = loop.time()
        # A loop may be early by the resolution of its clock.
        late.append(max(now - due, 1e-6) * 1e3)
        first.set()
        due = now + 1e-3
        timer = loop.call_at(due, tick)

    crowd = asyncio.gather(*(in_a_row(trip, trips_each) for _ in range(tasks)))
    await asyncio.sleep(0)
    due = loop.time() + 1e-3
    timer = loop.call_at(due, tick)
    await crowd
    await first.wait()
    timer.cancel()
    return late


# --- memory -----------------------------------------------------------------------------------


def measure_memory(bench: Bench, rounds: int) -> Numbers | str:
    """Return the bytes of a task that waits for a worker, and how many more than for a future."""
    if importlib.util.find_spec("_tracemalloc") is None:
        return "this Python has no tracemalloc"
    tasks = bench.crowds["at_once"] * 50

    async def plain() -> None:
        await asyncio.get_running_loop().create_future()

    def bytes_of(name: str) -> float:
        gate = threading.Event()

        async def use(trip: Trip, library: Library) -> float:
            try:
                return await _bytes_of_each(partial(_task_of, trip), tasks, gate.set)
            finally:
                gate.set()

        # The first ones hold all workers, so that the others wait.
        return bench.run(name, gate.wait, use)

    def bytes_of_plain() -> float:
        return bench.library("asyncio").run(_bytes_of_each(plain, tasks, None))

    names = present(bench, BASE, *OURS)
    jobs: dict[str, Callable[[], float]] = {name: partial(bytes_of, name) for name in names}
    results = interleave({"future": bytes_of_plain, **jobs}, rounds)
    plain_bytes = statistics.median(results["future"])
    return {
        "tasks": tasks,
        "contenders": {
            name: {
                "bytes": round(statistics.median(mine)),
                "more": round(statistics.median(mine) - plain_bytes),
            }
            for name, mine in results.items()
        },
    }


def _task_of(trip: Trip) -> Coroutine[Any, Any, object]:
    """Return a task's coroutine: the trip itself, if it is one; no task waits in two of them."""
    awaitable = trip()
    if isinstance(awaitable, Coroutine):
        return awaitable
    return _wait(awaitable)


async def _wait(awaitable: Awaitable[object]) -> None:
    await awaitable


async def _bytes_of_each(
    job: Callable[[], Coroutine[Any, Any, object]], tasks: int, release: Callable[[], None] | None
) -> float:
    """Return the bytes of a task of *job* while it waits; then let it end, or cancel it."""
    import tracemalloc  # PyPy has none

    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        crowd = [asyncio.ensure_future(job()) for _ in range(tasks)]
        for _ in range(3):
            await asyncio.sleep(0)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    if release is None:
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)
    else:
        release()
        await asyncio.gather(*crowd)  # all end, and none with an error
    return used / tasks


# --- eventloop() ------------------------------------------------------------------------------


def measure_eventloop(bench: Bench, rounds: int) -> Numbers | str:
    """Return what a round trip through `eventloop()` takes, beside the trip of its own block."""
    names = present(bench, "block", "block_pool")
    if not names:
        return "no block is among the contenders"

    def round_trip(name: str) -> float:
        executor = bench.executor_of(name)

        async def main() -> float:
            async with threadpool(executor):
                async with eventloop():
                    gc.collect()
                start = time.perf_counter()
                for _ in range(bench.trips):
                    async with eventloop():
                        pass
                return (time.perf_counter() - start) / bench.trips * 1e6

        return bench.library("asyncio").run(main())

    jobs: dict[str, Callable[[], float]] = {}
    for name in names:
        jobs[name] = partial(bench.measure, name, "sequential")
        jobs[f"{name}, there and back"] = partial(round_trip, name)
    times = interleave(jobs, rounds)
    return {
        name: {
            "us": summary(times[f"{name}, there and back"]),
            "ratio": ratio(times[f"{name}, there and back"], times[name]),
        }
        for name in names
    }


# --- uvloop -----------------------------------------------------------------------------------


def measure_uvloop(bench: Bench, rounds: int) -> Numbers | str:
    """Return times and ratios on uvloop: to to_thread on uvloop, in the same round."""
    if importlib.util.find_spec("uvloop") is None:
        return "no module 'uvloop'"
    names = present(bench, BASE, *OURS, "floor")
    for name in names:
        bench.prove(name, "uvloop")
    return measure_trips(bench, names, ("sequential", "at_once"), rounds, "uvloop")


# --- two bodies at once -----------------------------------------------------------------------


def measure_parallel(bench: Bench, rounds: int) -> Numbers | str:
    """Return how many times faster two bodies that compute run at once than one after another."""
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        return "this Python runs one thread at a time"
    if len(processors()) < 2:
        return "there is one processor only"
    steps = bench.trips * 1000

    def both(name: str, tasks: int) -> float:
        async def use(trip: Trip, library: Library) -> float:
            start = time.perf_counter()
            await library.together(partial(in_a_row, trip, 2 // tasks), tasks)
            return time.perf_counter() - start

        return bench.run(name, partial(_compute, steps), use)

    names = present(bench, BASE, *OURS)
    jobs = {(name, tasks): partial(both, name, tasks) for name in names for tasks in (1, 2)}
    times = interleave({f"{name} {tasks}": job for (name, tasks), job in jobs.items()}, rounds)
    return {name: ratio(times[f"{name} 1"], times[f"{name} 2"]) for name in names}


def _compute(steps: int) -> int:
    value = 1
    for _ in range(steps):
        value = (value * 5 + 1) % 251  # small numbers: it measures processors, not the allocator
    return value


def processors() -> list[int]:
    """Return the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


#: Those that need only the bench and the rounds, and the part of all rounds that they take.
SCENES: dict[str, tuple[Scene, float]] = {
    "timer": (measure_timer, 1 / 2),
    "memory": (measure_memory, 0),  # no times: one round, after the one that warms up
    "eventloop": (measure_eventloop, 1),
    "uvloop": (measure_uvloop, 1),
    "parallel": (measure_parallel, 1 / 3),
}
