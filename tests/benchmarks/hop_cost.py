"""The cost of a trip to a worker thread and back, beside `asyncio.to_thread`.

    python tests/benchmarks/hop_cost.py --pin 0

Needs threadhop to be importable: `pip install -e .`, or PYTHONPATH=src. The other libraries that
it compares to are the extra `bench`: `pip install -e '.[bench]'`; it leaves out what is missing.
A quick look: `--only block,floor --scenes sequential,at_once --rounds 5`.

How to read it: docs/explanation/performance.md. On a busy machine, many short rounds (`--rounds`,
`--trips`) are better than a few long ones. The scenes:

- sequential, few, at_once, many: one task, a twentieth of `--tasks`, `--tasks`, ten times as many
- heap: a trip beside `--objects` live lists, and a tenth of them, to one without
- timer: how late a timer of 1 ms fires while trips of five times `--tasks` keep the loop busy
- memory: of a task that waits for a worker, fifty times `--tasks` of them
- eventloop: a round trip through `eventloop()`, beside the trip of a block
- uvloop: sequential and at_once on uvloop, beside to_thread on uvloop
- parallel: two bodies that compute, at once, on a Python without a GIL

The files: `contenders.py` who is measured, `measure.py` how, `scenes.py` what else than trips,
`limits.py` what --check holds, `report.py` the tables, `chart.py` the chart. `bytecodes.py` counts
what a trip executes, and for which promise.
"""

from __future__ import annotations

import argparse
import contextvars
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

try:
    import contenders
except ModuleNotFoundError as error:
    if error.name != "threadhop":
        raise
    sys.exit("threadhop is not installed here: run `pip install -e .`, or set PYTHONPATH=src")

import report
from limits import check
from measure import TOO_SLOW, Bench, measure_trips
from scenes import SCENES, measure_heap, processors

TRIPS = ("sequential", "few", "at_once", "many")
ALL_SCENES = (*TRIPS, "heap", *SCENES)
OPTIONS = ("rounds", "trips", "tasks", "context_vars", "objects")


def surroundings(names: Sequence[str]) -> dict[str, Any]:
    """Return what the times depend on, besides the code."""
    cpus = processors()
    modules = ["threadhop", *dict.fromkeys(_top_module(name) for name in names)]
    if importlib.util.find_spec("uvloop"):
        modules.append("uvloop")
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_model(),
        "processors": os.cpu_count(),
        "cpus": cpus,
        "pinned": len(cpus) == 1,
        "versions": {module: version_of(module) for module in modules if module},
    }


def _top_module(name: str) -> str:
    return (contenders.CONTENDERS[name].needs or "").partition(".")[0]


def version_of(module: str) -> str:
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return "of the source"  # PYTHONPATH=src


def processor_model() -> str:
    """Return the model's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        told = subprocess.run(command, capture_output=True, encoding="utf-8", check=False).stdout
        if told.strip():
            return told.strip()
    return platform.processor() or platform.machine()


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

    def names_of(known: Sequence[str]) -> Callable[[str], list[str]]:
        def names(text: str) -> list[str]:
            unknown = set(text.split(",")) - set(known)
            if unknown:
                wrong, right = ", ".join(sorted(unknown)), ", ".join(known)
                raise argparse.ArgumentTypeError(f"no {wrong} among {right}")
            return [name for name in known if name in text.split(",")]

        return names

    who, scenes = names_of(list(contenders.CONTENDERS)), names_of(ALL_SCENES)
    add = parser.add_argument
    add("--rounds", type=at_least(1), default=20, help="default: %(default)s")
    add("--trips", type=at_least(1), default=1000, help="in a measurement; default: %(default)s")
    add("--tasks", type=at_least(1), default=200, help="at once; default: %(default)s")
    add("--context-vars", type=at_least(0), default=5, help="set; default: %(default)s")
    add("--only", type=who, metavar="NAME,...", help="only these contenders, and to_thread")
    add("--scenes", type=scenes, metavar="NAME,...", default=list(ALL_SCENES), help="only these")
    add("--pin", type=at_least(0), metavar="CPU", help="run on this processor only")
    add(
        "--objects",
        type=at_least(0),
        metavar="N",
        default=1_000_000,
        help="lists to live beside; 0 leaves this part out; default: %(default)s",
    )
    add("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    add("--check", action="store_true", help="exit with 1 if a figure exceeds its limit")
    options = parser.parse_args(arguments)

    if options.pin is not None:
        if not hasattr(os, "sched_setaffinity"):
            parser.error("--pin: this system cannot do it; leave it out")
        # Before any thread starts: they inherit it.
        try:
            os.sched_setaffinity(0, {options.pin})
        except OSError as error:
            parser.error(f"--pin {options.pin}: {error.strerror}; leave it out, or name another")
    return options


def prove_all(bench: Bench, left_out: dict[str, str]) -> None:
    """Refuse who makes no trip; leave out the libraries that are no good on this Python."""
    for name, entry in list(bench.contenders.items()):
        try:
            seconds = bench.prove(name)
        except Exception as error:
            if entry.needs is None or "makes no trip" in str(error):
                raise
            left_out[name] = f"does not work here: {type(error).__name__}: {error}"
        else:
            if not (entry.slow and seconds > TOO_SLOW):
                continue
            left_out[name] = f"a trip takes {seconds * 1e3:.0f} ms here"
        del bench.contenders[name]


def tell(scene: str) -> None:
    """Show somebody who waits how far it is."""
    if sys.stderr.isatty():
        print(f"measuring: {scene}", file=sys.stderr)


def measure(bench: Bench, options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the numbers of the scenes, and why there are none of some."""
    rounds, wanted, left_out = options.rounds, options.scenes, {}
    trips = [scene for scene in TRIPS if scene in wanted]
    numbers: dict[str, Any] = {"contenders": {name: {} for name in bench.contenders}, "heap": {}}
    for scene in trips:
        tell(scene)
        for name, scenes in measure_trips(bench, list(bench.contenders), [scene], rounds).items():
            numbers["contenders"][name] |= scenes
    if "heap" in wanted and options.objects:
        tell("heap")
        # Fewer rounds: one of these takes longer, and is compared to both of its neighbours.
        numbers["heap"] = measure_heap(bench, rounds // 2 + 1, options.objects)
    for scene, (function, part) in SCENES.items():
        numbers[scene] = {}
        if scene not in wanted:
            continue
        tell(scene)
        result = function(bench, max(1, round(rounds * part)))
        if isinstance(result, str):
            left_out[f"scene {scene}"] = result
        else:
            numbers[scene] = result
    return numbers, left_out


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the whole report."""
    chosen, left_out = contenders.select(options.only)
    if hasattr(gc, "freeze"):
        # A contender that looks for its coroutine among all objects must not find those that others
        # have loaded. For the others this only makes full collections shorter, alike for all.
        gc.collect()
        gc.freeze()
    bench = Bench(chosen, trips=options.trips, tasks=options.tasks)
    try:
        prove_all(bench, left_out)
        numbers, scenes_left_out = measure(bench, options)
    finally:
        bench.close()
    names = list(bench.contenders)
    return {
        "surroundings": surroundings(names),
        "options": {name: getattr(options, name) for name in OPTIONS},
        "workers": contenders.WORKERS,
        "crowds": bench.crowds,
        "titles": {
            name: {"code": entry.code, "kind": entry.kind}
            for name, entry in bench.contenders.items()
        },
        **numbers,
        "left_out": left_out | scenes_left_out,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # Before the loop exists: each task's context is a copy of this one.
    for index in range(options.context_vars):
        contextvars.ContextVar[int](f"variable_{index}").set(index)
    numbers = run(options)
    print(report.table(numbers))
    if options.json is not None:
        options.json.write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    if options.check:
        text, passed = check(numbers)
        print("\n" + text)
        return 0 if passed else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
