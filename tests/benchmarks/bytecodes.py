"""The bytecodes of a trip to a worker thread and back, and the promise that each one is for.

    python tests/benchmarks/bytecodes.py                      # the contenders beside each other
    python tests/benchmarks/bytecodes.py block_pool --lines   # each line of the library

It prints Markdown: the table of docs/explanation/where-the-time-goes.md. Needs Python 3.12.

Bytecodes are counted by `sys.monitoring`, in all threads. Unlike times they do not depend on the
machine, and hardly on the run. They say nothing of the work of C within one of them: a step of a
Task written in C counts as none, a lock as its call. So beside them stand, from a run that is not
watched, the share of the kernel in the processor's time and how often the threads changed.

What a bytecode is for is told by the function and the line that it stands in: the first of PROMISES
and WAYS that matches. Most lines serve more than one end; each is counted once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import importlib
import importlib.util
import linecache
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from threading import get_ident
from types import CodeType
from typing import Any, NamedTuple

from contenders import BASE, Trip, select
from measure import Bench, Library, in_a_row, interleave, nothing

import threadhop

PACKAGE = str(Path(threadhop.__file__).parent)
HERE = str(Path(__file__).parent)
ASYNCIO = str(Path(asyncio.__file__).parent)
DEFAULT = "floor,to_thread,block,block_pool,call,call_pool"
#: Set in the task, as in a program that logs and traces.
VARIABLES = [contextvars.ContextVar[object](f"variable {number}") for number in range(5)]

#: A promise, and what it matches in "file function: line" of the library.
PROMISES = {
    "a job is taken once: claim, booking": (
        r"\bclaimed\b|only a failure takes|BlockJob\.request_worker: +(strand =|assert)"
    ),
    "cancellations are not lost": (
        r"cancelled\b|_must_cancel|_is_cancelled|\.done\(\)|_cancel_token\.py|CancelToken|\.token\b"
        r"|token\.(why|(un)?register)|count_cancels"
    ),
    "context variables, both ways": (
        r"_variables\.py|copy_context|\bvariables\b|worker\.context"
        r"|context = self\._context|context\.run\((step|self\._(call_)?func)"
    ),
    "async generators are finalized": r"hooks",
    "nested code finds its task: thread-local": (
        r"current\.slot|slot\.job|job_here|current_strand_or_none"
    ),
    "messages name the block's line": r"_getframe|\.code\b|\.instruction\b|frame_key",
    "places are a stack: nesting, any order of exits": (
        r"entries|is_entered|\bwaits\b|target is here|job_on|(self|strand)\.job\b"
        r"|job is (not|origin)|Entry\(\)|entry\.(manager|job)|worker_suspension|jobs_of"
        r"|LoopPart|departures|holders|generators_at"
    ),
    "what fails or is dropped is told; nothing hangs": (
        r"refusal|is_closed|_submitter|get_ident|InvalidStateError|outcome is not None"
        r"|\._suspension\b|ended\.error|without_stop_iteration|_shutdown\b|_broken|check_(executor|callable)"
    ),
    "nothing is kept: references are dropped": (
        r": +del |_let_go|= self\._\w+ = None|, None$|_NOTHING$|(coro|suspension) = None"
    ),
    "coroutines get a loop of their own": r"_thread_loop\.py|offer_thread_event_loop|Coroutine\)",
}
#: The needs of the trip itself, told apart in the same way.
WAYS = {
    "to the loop: collected wake-ups": r"EntryQueue\.(post|_wake|answer|_look|run_all_bounded)",
    "to a worker: `WorkerPool`, or the stock queue": (
        r"_(threads|permits|limited_view|view_limiter|limits|executors)\.py"
    ),
    "the bare block, the bare call": "",
}
PURPOSES = {**PROMISES, **WAYS}
ELSEWHERE = ("asyncio and its selector", "other modules of the standard library", "the caller")


class Place(NamedTuple):
    code: CodeType
    line: int

    @property
    def text(self) -> str:
        return linecache.getline(self.code.co_filename, self.line).rstrip()


class Count(NamedTuple):
    """For one trip."""

    bytecodes: dict[Place, float]
    calls: float


# --- counting ---------------------------------------------------------------------------------


def run(bench: Bench, name: str, trips: int, watch: Callable[[bool], None]) -> None:
    """Make *trips* trips; tell *watch* when they begin, and when they have ended."""
    tasks = bench.crowds["at_once"]

    async def use(trip: Trip, library: Library) -> None:
        for variable in VARIABLES:
            variable.set(object())
        await library.together(partial(in_a_row, trip, 16), tasks)
        watch(True)
        await library.together(partial(in_a_row, trip, trips // tasks), tasks)
        watch(False)

    bench.run(name, nothing, use)


def count(bench: Bench, name: str) -> Count:
    monitoring = sys.monitoring
    tool, events = monitoring.PROFILER_ID, monitoring.events
    # Each thread has its own, for to add one is not atomic.
    bytecodes: defaultdict[int, Counter[tuple[CodeType, int]]] = defaultdict(Counter)
    calls: defaultdict[int, int] = defaultdict(int)

    def saw_bytecode(code: CodeType, offset: int) -> None:
        bytecodes[get_ident()][code, offset] += 1

    def saw_call(code: CodeType, offset: int) -> None:
        calls[get_ident()] += 1

    def watch(on: bool) -> None:
        monitoring.set_events(tool, events.INSTRUCTION | events.PY_START if on else 0)

    monitoring.use_tool_id(tool, "threadhop's benchmark")
    try:
        monitoring.register_callback(tool, events.INSTRUCTION, saw_bytecode)
        monitoring.register_callback(tool, events.PY_START, saw_call)
        run(bench, name, bench.trips, watch)
    finally:
        monitoring.free_tool_id(tool)
    of_one: defaultdict[Place, float] = defaultdict(float)
    for of_thread in bytecodes.values():
        for (code, offset), found in of_thread.items():
            of_one[Place(code, lines_of(code)[offset])] += found / bench.trips
    return Count(of_one, sum(calls.values()) / bench.trips)


@cache
def lines_of(code: CodeType) -> dict[int, int]:
    """The line of each bytecode; the function's own for those that have none."""
    return {
        offset: line or code.co_firstlineno
        for start, end, line in code.co_lines()
        for offset in range(start, end, 2)
    }


def usage(bench: Bench, name: str) -> tuple[float, float, float]:
    """The kernel's share of the processor's time; how often a thread slept, or was sent off."""
    resource: Any = importlib.import_module("resource")
    seen: list[Any] = []
    trips = bench.trips * 10
    run(bench, name, trips, lambda _: seen.append(resource.getrusage(resource.RUSAGE_SELF)))
    before, after = seen
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return (
        kernel / max(user + kernel, 1e-6),
        (after.ru_nvcsw - before.ru_nvcsw) / trips,
        (after.ru_nivcsw - before.ru_nivcsw) / trips,
    )


# --- telling ----------------------------------------------------------------------------------


def purpose_of(place: Place) -> str:
    """Return the purpose of the bytecodes of this line."""
    file = place.code.co_filename
    if file.startswith(PACKAGE):
        where = f"{Path(file).name} {place.code.co_qualname}: {place.text}"
        return next(name for name, text in PURPOSES.items() if re.search(text, where))
    if file.startswith(HERE):
        return ELSEWHERE[2]
    return ELSEWHERE[0 if file.startswith(ASYNCIO) or "selectors" in file else 1]


def table(counts: dict[str, Count], usages: dict[str, list[float]]) -> Iterator[str]:
    groups = {name: grouped(of_one) for name, of_one in counts.items()}
    totals = {name: sum(group.values()) for name, group in groups.items()}
    kept = {name: sum(group[title] for title in PROMISES) for name, group in groups.items()}

    def row(title: str, numbers: dict[str, float], form: str = "", digits: int = 0) -> str:
        cells = (f"{form}{n:.{digits}f}{form}" if n else "" for n in numbers.values())
        return f"| {form}{title}{form} | {' | '.join(cells)} |"

    yield f"| bytecodes of one trip | {' | '.join(f'`{name}`' for name in counts)} |"
    yield "|---|" + "--:|" * len(counts)
    for title in (*ELSEWHERE, *WAYS, *PROMISES):
        numbers = {name: float(round(group[title])) for name, group in groups.items()}
        if any(numbers.values()):
            yield row(title, numbers)
    yield row("the promises together", kept, "*")
    yield row("all", totals, "**")
    for other in (BASE, "floor"):
        if other in totals:
            ratios = {name: total / totals[other] for name, total in totals.items()}
            yield row(f"as a ratio to `{other}`", ratios, digits=2)
    yield row("functions entered", {name: of_one.calls for name, of_one in counts.items()})
    for title, numbers_of in usages.items():
        yield row(title, dict(zip(counts, numbers_of, strict=True)), digits=2)


def grouped(of_one: Count) -> defaultdict[str, float]:
    groups: defaultdict[str, float] = defaultdict(float)
    for place, found in of_one.bytecodes.items():
        groups[purpose_of(place)] += found
    return groups


def lines(of_one: Count) -> Iterator[str]:
    """Each line of the library that was executed, in order."""
    last = None
    for place in sorted(of_one.bytecodes, key=lambda p: (p.code.co_filename, p.line)):
        if not place.code.co_filename.startswith(PACKAGE) or of_one.bytecodes[place] < 0.05:
            continue
        if place.code is not last:
            last = place.code
            yield f"\n{Path(last.co_filename).name} {last.co_qualname}"
        yield f"{of_one.bytecodes[place]:6.1f} {place.text:80} # {purpose_of(place)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytecodes of a trip, by promise.")
    parser.add_argument("names", nargs="?", default=DEFAULT, help=f"contenders: {DEFAULT}")
    parser.add_argument("--trips", type=int, default=400)
    parser.add_argument("--tasks", type=int, default=1, help="that make them at once")
    parser.add_argument("--lines", action="store_true", help="each line of the library")
    options = parser.parse_args()
    if not hasattr(sys, "monitoring"):
        sys.exit("this Python has no sys.monitoring: take CPython 3.12 or newer")
    names = options.names.split(",")
    chosen, left_out = select(names)
    if unknown := [name for name in names if name not in chosen]:
        sys.exit(f"no such contender here: {', '.join(unknown)} {left_out or ''}")
    # Each task makes several: in its first one it sets up what the others use again.
    trips = max(options.trips // options.tasks, 10) * options.tasks
    bench = Bench(chosen, trips=trips, tasks=options.tasks)
    try:
        usages: dict[str, list[float]] = {}
        if not options.lines and importlib.util.find_spec("resource"):
            rounds = interleave({name: partial(usage, bench, name) for name in names}, 9)
            titles = (
                "the kernel's share of the processor's time",
                "a thread goes to sleep, times",
                "a thread is sent off the processor, times",
            )
            for index, title in enumerate(titles):
                usages[title] = [statistics.median(r[index] for r in rounds[n]) for n in names]
        counts = {name: count(bench, name) for name in names}
    finally:
        bench.close()
    for name in names if options.lines else ():
        print(name, *lines(counts[name]), sep="\n")
    if not options.lines:
        print(*table(counts, usages), sep="\n")


if __name__ == "__main__":
    main()
