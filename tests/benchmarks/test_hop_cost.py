"""The benchmark of a trip works: with tiny numbers, in a child process, whatever its times are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from helpers.benchmarks import run_program

TINY = ("--rounds", "2", "--trips", "20", "--tasks", "5", "--objects", "1000")
TRIPS = {"sequential": 1, "few": 1, "at_once": 5, "many": 50}  # scene to tasks
OURS = {"block", "block_default", "block_pool", "call", "call_default", "call_pool"}
QUICK = ("--only", "block,floor", "--scenes", "sequential,heap")


def run(*arguments: str, before: str | None = None) -> subprocess.CompletedProcess[str]:
    return run_program("hop_cost", *TINY, *arguments, before=before)


def numbers_of(folder: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """Return the JSON that a run writes, and what it prints."""
    file = folder / "numbers.json"
    child = run(*arguments, "--json", str(file))
    assert (child.returncode, child.stderr) == (0, "")
    return json.loads(file.read_text(encoding="utf-8")), child.stdout


def test_the_table_and_the_json_hold_every_contender(tmp_path: Path) -> None:
    """Each contender has a line, a time above zero and a ratio; to_thread's own ratio is 1."""
    numbers, printed = numbers_of(tmp_path, "--scenes", ",".join([*TRIPS, "heap"]))

    assert set(numbers["contenders"]) >= OURS | {"to_thread", "run_in_executor", "floor"}
    assert set(numbers["heap"]) == {"100", "1000"}
    for names in numbers["heap"].values():
        assert set(names) >= {"block", "to_thread"}
        assert all(ratio["low"] > 0 for ratio in names.values())
    assert numbers["crowds"] == TRIPS
    options = {"rounds": 2, "trips": 20, "tasks": 5, "context_vars": 5, "objects": 1000}
    assert numbers["options"] == options
    for name, scenes in numbers["contenders"].items():
        # The one with a cost that grows with the crowd is spared the largest.
        assert set(scenes) == set(TRIPS) - ({"many"} if name == "asyncio_extras" else set())
        for measured in scenes.values():
            assert measured["us"]["low"] > 0
            ratio = measured["ratio"]
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
            assert f"{ratio['median']:.2f} ({ratio['low']:.2f}.." in printed
            assert measured["to_floor"]["low"] > 0
    for base in numbers["contenders"]["to_thread"].values():
        assert base["ratio"] == {"median": 1, "low": 1, "high": 1}
    where = numbers["surroundings"]
    for told in (
        "asyncio.to_thread(",
        "run_in_executor(",
        "threadpool(executor)",
        "exec_in_executor(executor, work)",
        "floor: ",
        "one after another",
        "5 at once",
        "50 at once",
        "Beside 1,000 live lists",
        where["python"],
        where["processor"],
        f"threadhop {where['versions']['threadhop']}",
    ):
        assert told in printed


def test_the_other_scenes_are_measured_or_the_reason_is_told(tmp_path: Path) -> None:
    """Timers, memory, eventloop(), uvloop, parallel bodies: numbers above zero, or a line."""
    scenes = ("timer", "memory", "eventloop", "uvloop", "parallel")
    numbers, printed = numbers_of(tmp_path, "--scenes", ",".join(scenes))

    where = numbers["surroundings"]
    can_be_measured = {
        "timer": True,
        "memory": importlib.util.find_spec("_tracemalloc") is not None,
        "eventloop": True,
        "uvloop": importlib.util.find_spec("uvloop") is not None,
        "parallel": not where["gil"] and len(where["cpus"]) > 1,
    }
    for scene in scenes:
        assert bool(numbers[scene]) is can_be_measured[scene]
        assert (f"left out: scene {scene}: " in printed) is not can_be_measured[scene]
    timer = numbers["timer"]["contenders"]
    assert set(timer) == OURS | {"floor", "to_thread"}
    for figures in timer.values():
        assert 0 < figures["median"]["ms"]["low"] <= figures["worst"]["ms"]["high"]
        assert figures["worst"]["ratio"]["low"] > 0
    assert set(numbers["eventloop"]) == {"block", "block_pool"}
    assert all(figures["ratio"]["low"] > 0 for figures in numbers["eventloop"].values())
    if numbers["memory"]:
        memory = numbers["memory"]["contenders"]
        assert set(memory) == OURS | {"to_thread", "future"}
        assert memory["future"]["more"] == 0
        assert all(memory[name]["bytes"] > memory["future"]["bytes"] > 0 for name in OURS)
    if numbers["uvloop"]:
        assert set(numbers["uvloop"]) == set(timer)
        assert all(f["at_once"]["ratio"]["low"] > 0 for f in numbers["uvloop"].values())
    assert all(speedup["low"] > 0 for speedup in numbers["parallel"].values())


def test_only_what_was_asked_for_is_measured(tmp_path: Path) -> None:
    """--only and --scenes: nothing else is run, except to_thread, which ratios are taken to."""
    numbers, printed = numbers_of(tmp_path, "--only", "floor", "--scenes", "at_once")

    assert set(numbers["contenders"]) == {"to_thread", "floor"}
    assert all(set(scenes) == {"at_once"} for scenes in numbers["contenders"].values())
    assert not any(numbers[scene] for scene in ("heap", "timer", "memory", "eventloop", "uvloop"))
    assert "left out" not in printed


@pytest.mark.parametrize("option", ["--only", "--scenes"])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(option: str) -> None:
    """A typing error must not look like a quick run: exit status 2, and the known names."""
    child = run(option, "to_thread,sequential,blok")

    assert child.returncode == 2
    assert "blok" in child.stderr
    assert ("run_in_executor" if option == "--only" else "heap") in child.stderr


#: Puts a module in the place of a library, whose trip is what the code after it says.
EMPTY = "import sys, types, threadhop\nlibrary = sys.modules[{0!r}] = types.ModuleType({0!r})\n"
NO_TRIP = "lambda executor: hop_cost.contenders.asyncio.Lock()"


@pytest.mark.parametrize(
    ("name", "before", "reason"),
    [
        ("anyio", "sys.modules['anyio'] = None", "no module 'anyio'"),
        ("aiomisc", EMPTY.format("aiomisc"), "does not work here: AttributeError"),
        (
            "asyncio_extras",
            EMPTY.format("asyncio_extras")
            + "library.threadpool = threadhop.threadpool\nhop_cost.TOO_SLOW = 0",
            "a trip takes ",
        ),
    ],
    ids=["not installed", "does not work", "takes for ever"],
)
def test_a_library_that_is_no_good_here_is_left_out_and_told(
    name: str, before: str, reason: str
) -> None:
    """A line tells the reason; the others are measured."""
    child = run("--only", f"{name},floor", "--scenes", "sequential", before=before)

    assert (child.returncode, child.stderr) == (0, "")
    assert f"left out: {name}: {reason}" in child.stdout
    assert "floor: bare queue" in child.stdout


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("block", f"hop_cost.contenders.threadpool = {NO_TRIP}"),
        ("asyncio_extras", EMPTY.format("asyncio_extras") + f"library.threadpool = {NO_TRIP}"),
    ],
    ids=["ours", "another library"],
)
def test_a_contender_that_makes_no_trip_is_refused(name: str, before: str) -> None:
    """Work that runs on the loop's own thread would look fast: it is an error, not a line."""
    child = run("--only", name, before=before)

    assert child.returncode == 1
    assert f"RuntimeError: {name} makes no trip" in child.stderr
    assert child.stdout == ""


@pytest.mark.parametrize(
    ("highest", "status", "verdict"), [(1e9, 0, "holds"), (0.0, 1, "EXCEEDED")]
)
def test_the_check_fails_if_one_figure_is_above_its_limit(
    highest: float, status: int, verdict: str
) -> None:
    """The others still hold, and each limit is named."""
    child = run(
        "--check",
        *QUICK,
        before="import limits\n"
        "limits.LIMITS = dict.fromkeys(limits.LIMITS, limits.Limit(1e9, always=True))\n"
        f"limits.LIMITS['block', 'heap'] = limits.Limit({highest}, always=True)",
    )

    assert (child.returncode, child.stderr) == (status, "")
    lines = [line for line in child.stdout.splitlines() if line.startswith("check: block, ")]
    verdicts = {line.split(":")[1]: line.split(": ")[-1] for line in lines}
    assert verdicts[" block, sequential"] == "holds"
    assert verdicts[" block, heap"] == verdict
    assert "EXCEEDED" not in set(verdicts.values()) - {verdict}


def test_pinning_is_done_and_told_or_refused(tmp_path: Path) -> None:
    """--pin keeps the process on one processor and says so; where it cannot, it says that."""
    if not hasattr(os, "sched_getaffinity"):
        child = run("--pin", "0")
        assert child.returncode == 2
        assert "this system cannot do it" in child.stderr
        return
    processor = max(os.sched_getaffinity(0))
    numbers, printed = numbers_of(tmp_path, "--pin", str(processor), *QUICK)

    assert f"pinned to processor {processor}" in printed
    assert numbers["surroundings"]["cpus"] == [processor]
    assert numbers["surroundings"]["pinned"] is True
