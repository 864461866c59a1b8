"""The benchmark of a trip works: with tiny numbers, in a child process, whatever its times are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import threadhop

HERE = Path(__file__).parent
TINY = ("--rounds", "2", "--trips", "20", "--tasks", "5", "--objects", "1000")
TRIPS = {"sequential": 1, "few": 1, "at_once": 5, "many": 50}  # scene to tasks
CONTENDERS = {"to_thread", "run_in_executor", "block", "call", "floor"}
if hasattr(threadhop, "WorkerPool"):
    CONTENDERS |= {"block_pool", "call_pool"}
QUICK = ("--only", "block,floor", "--scenes", "sequential,heap")


def run(*arguments: str, before: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script on the threadhop under test; *before* is code between its import and main."""
    places = [str(HERE), str(Path(threadhop.__file__).parents[1])]
    code = f"import sys, contenders, hop_cost, limits\n{before}\nsys.exit(hop_cost.main())"
    script = [str(HERE / "hop_cost.py")] if before is None else ["-c", code]
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", *script, *TINY, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        check=False,
    )


def numbers_in(file: Path) -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return numbers


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def test_the_table_and_the_json_hold_every_contender(tmp_path: Path) -> None:
    """Each contender has a line, a time above zero and a ratio; to_thread's own ratio is 1."""
    child = run("--json", str(tmp_path / "numbers.json"))

    assert (child.returncode, child.stderr) == (0, "")
    numbers = numbers_in(tmp_path / "numbers.json")
    assert set(numbers["contenders"]) >= CONTENDERS
    assert set(numbers["heap"]) == {"100", "1000"}
    for names in numbers["heap"].values():
        assert set(names) >= {"block", "to_thread"}
        assert all(ratio["low"] > 0 for ratio in names.values())
    assert numbers["crowds"] == TRIPS
    assert numbers["options"] == {
        "rounds": 2,
        "trips": 20,
        "tasks": 5,
        "context_vars": 5,
        "objects": 1000,
    }
    for name, scenes in numbers["contenders"].items():
        # The one with a cost that grows with the crowd is spared the largest.
        for scene in set(TRIPS) - ({"many"} if name == "asyncio_extras" else set()):
            assert scenes[scene]["us"]["low"] > 0
            ratio = scenes[scene]["ratio"]
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
            assert f"{ratio['median']:.2f} ({ratio['low']:.2f}.." in child.stdout
            assert scenes[scene]["to_floor"]["low"] > 0
    for scene in TRIPS:
        base = numbers["contenders"]["to_thread"][scene]["ratio"]
        assert base == {"median": 1, "low": 1, "high": 1}
    for code in ("asyncio.to_thread(", "run_in_executor(", "threadpool(executor)", "floor: "):
        assert code in child.stdout
    assert "exec_in_executor(executor, work)" in child.stdout
    assert "5 at once" in child.stdout
    assert "50 at once" in child.stdout
    assert "Beside 1,000 live lists" in child.stdout
    where = numbers["surroundings"]
    for told in (
        where["python"],
        where["processor"],
        f"threadhop {where['versions']['threadhop']}",
    ):
        assert told in child.stdout


def test_the_other_scenes_are_measured_or_the_reason_is_told(tmp_path: Path) -> None:
    """Timers, memory, eventloop(), uvloop, parallel bodies: numbers above zero, or a line."""
    scenes = ("timer", "memory", "eventloop", "uvloop", "parallel")
    child = run("--scenes", ",".join(scenes), "--json", str(tmp_path / "numbers.json"))

    assert (child.returncode, child.stderr) == (0, "")
    numbers = numbers_in(tmp_path / "numbers.json")
    for scene in scenes:
        # Each has either numbers or its line.
        assert bool(numbers[scene]) is (f"left out: scene {scene}: " not in child.stdout)
    ours = CONTENDERS - {"run_in_executor", "floor", "to_thread"}
    timer = numbers["timer"]["contenders"]
    assert set(timer) == {*ours, "floor", "to_thread"}
    for figures in timer.values():
        assert 0 < figures["median"]["ms"]["low"] <= figures["worst"]["ms"]["high"]
        assert figures["worst"]["ratio"]["low"] > 0
    assert set(numbers["eventloop"]) == {name for name in ours if name.startswith("block")}
    assert all(figures["ratio"]["low"] > 0 for figures in numbers["eventloop"].values())

    assert bool(numbers["memory"]) is installed("_tracemalloc")
    if numbers["memory"]:
        memory = numbers["memory"]["contenders"]
        assert set(memory) == {*ours, "to_thread", "future"}
        assert memory["future"]["more"] == 0
        assert all(memory[name]["bytes"] > memory["future"]["bytes"] > 0 for name in ours)
    assert bool(numbers["uvloop"]) is installed("uvloop")
    if numbers["uvloop"]:
        assert set(numbers["uvloop"]) == set(timer)
        assert all(f["at_once"]["ratio"]["low"] > 0 for f in numbers["uvloop"].values())
    where = numbers["surroundings"]
    assert bool(numbers["parallel"]) is (not where["gil"] and len(where["cpus"]) > 1)
    assert all(speedup["low"] > 0 for speedup in numbers["parallel"].values())


def test_only_what_was_asked_for_is_measured(tmp_path: Path) -> None:
    """--only and --scenes: nothing else is run, except to_thread, which ratios are taken to."""
    child = run("--only", "floor", "--scenes", "at_once", "--json", str(tmp_path / "numbers.json"))

    assert (child.returncode, child.stderr) == (0, "")
    numbers = numbers_in(tmp_path / "numbers.json")
    assert set(numbers["contenders"]) == {"to_thread", "floor"}
    assert all(set(scenes) == {"at_once"} for scenes in numbers["contenders"].values())
    assert not any(numbers[scene] for scene in ("heap", "timer", "memory", "eventloop", "uvloop"))
    assert "left out" not in child.stdout


@pytest.mark.parametrize("option", ["--only", "--scenes"])
def test_a_name_that_does_not_exist_is_refused_with_those_that_do(option: str) -> None:
    """A typing error must not look like a quick run: exit status 2, and the known names."""
    child = run(option, "to_thread,sequential,blok")

    assert child.returncode == 2
    assert "blok" in child.stderr
    assert ("run_in_executor" if option == "--only" else "heap") in child.stderr


def test_what_is_not_installed_is_left_out_and_told() -> None:
    """Its line says which module is missing; the others are measured."""
    child = run(
        "--only",
        "anyio,asgiref,floor",
        "--scenes",
        "sequential",
        before="sys.modules |= {'anyio': None, 'asgiref': None}",
    )

    assert (child.returncode, child.stderr) == (0, "")
    assert "left out: anyio: no module 'anyio'" in child.stdout
    assert "left out: asgiref: no module 'asgiref'" in child.stdout
    assert "floor: bare queue" in child.stdout


def test_a_library_that_does_not_work_here_is_left_out_and_told() -> None:
    """It is installed, but its trip fails on this Python: a line with the error, not a crash."""
    child = run(
        "--only",
        "aiomisc",
        "--scenes",
        "sequential",
        before="import types; sys.modules['aiomisc'] = types.ModuleType('aiomisc')",
    )

    assert (child.returncode, child.stderr) == (0, "")
    assert "left out: aiomisc: does not work here: AttributeError" in child.stdout


def test_a_library_whose_trip_takes_for_ever_is_left_out_and_told() -> None:
    """One that searches all objects takes tens of milliseconds on PyPy: no run would end."""
    child = run(
        "--only",
        "asyncio_extras",
        "--scenes",
        "sequential",
        before=(
            "import types, threadhop\n"
            "sys.modules['asyncio_extras'] = types.ModuleType('asyncio_extras')\n"
            "sys.modules['asyncio_extras'].threadpool = threadhop.threadpool\n"
            "hop_cost.TOO_SLOW = 0"
        ),
    )

    assert (child.returncode, child.stderr) == (0, "")
    assert "left out: asyncio_extras: a trip takes " in child.stdout


def test_the_check_passes_within_the_limits() -> None:
    """Figures below their limits: exit status 0, and each limit is named as holding."""
    scenes = ("sequential", "at_once", "eventloop", "heap")
    child = run("--check", "--only", "block", "--scenes", ",".join(scenes), before=_limits())

    assert (child.returncode, child.stderr) == (0, "")
    assert "EXCEEDED" not in child.stdout
    for what in scenes:
        line = next(x for x in child.stdout.splitlines() if x.startswith(f"check: block, {what}:"))
        assert line.endswith(": holds")


def test_the_check_fails_beyond_a_limit() -> None:
    """One figure above its limit is enough for exit status 1; the others still hold."""
    child = run(
        "--check",
        *QUICK,
        before=_limits("limits.LIMITS['block', 'heap'] = Limit(0.0, always=True)"),
    )

    assert (child.returncode, child.stderr) == (1, "")
    assert child.stdout.count("holds") == 1
    assert child.stdout.count("EXCEEDED") == 1


def _limits(more: str = "") -> str:
    """Return code that makes all limits as high as can be, and held everywhere; then *more*."""
    high = "limits.LIMITS = dict.fromkeys(limits.LIMITS, Limit(1e9, always=True))"
    return f"from limits import Limit\n{high}\n{more}"


def test_a_contender_that_makes_no_trip_is_refused() -> None:
    """Work that runs on the loop's own thread would look fast: it is an error, not a line."""
    child = run(before="contenders.threadpool = lambda executor: contenders.asyncio.Lock()")

    assert child.returncode == 1
    assert "RuntimeError: block makes no trip" in child.stderr
    assert child.stdout == ""


def test_a_library_that_makes_no_trip_is_refused() -> None:
    """Also one that is not ours: it is not left out as if it did not work."""
    child = run(
        "--only",
        "asyncio_extras",
        before=(
            "import types\n"
            "sys.modules['asyncio_extras'] = types.ModuleType('asyncio_extras')\n"
            "sys.modules['asyncio_extras'].threadpool = lambda executor: contenders.asyncio.Lock()"
        ),
    )

    assert child.returncode == 1
    assert "RuntimeError: asyncio_extras makes no trip" in child.stderr
    assert child.stdout == ""


def test_pinning_is_done_and_told_or_refused(tmp_path: Path) -> None:
    """--pin keeps the process on one processor and says so; where it cannot, it says that."""
    if not hasattr(os, "sched_getaffinity"):
        child = run("--pin", "0")
        assert child.returncode == 2
        assert "this system cannot do it" in child.stderr
        return
    processor = max(os.sched_getaffinity(0))
    numbers_file = tmp_path / "numbers.json"
    child = run("--pin", str(processor), *QUICK, "--json", str(numbers_file))

    assert (child.returncode, child.stderr) == (0, "")
    assert f"pinned to processor {processor}" in child.stdout
    surroundings = numbers_in(numbers_file)["surroundings"]
    assert surroundings["cpus"] == [processor]
    assert surroundings["pinned"] is True


def test_uvloop_is_used_or_its_lack_is_told(tmp_path: Path) -> None:
    """--uvloop measures on uvloop; without it installed, the error names the command to type."""
    child = run(
        "--uvloop", "--scenes", "sequential,uvloop", "--json", str(tmp_path / "numbers.json")
    )

    if not installed("uvloop"):
        assert child.returncode == 2
        assert "pip install uvloop" in child.stderr
    else:
        assert child.returncode == 0, child.stderr
        numbers = numbers_in(tmp_path / "numbers.json")
        assert numbers["surroundings"]["loop"] == "uvloop"
        assert set(numbers["contenders"]) >= CONTENDERS
        assert "left out: scene uvloop: the whole run is on uvloop" in child.stdout
