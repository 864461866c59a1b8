"""The benchmark of a trip works: with tiny numbers, in a child process, whatever its times are."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import threadhop

HERE = Path(__file__).parent
TINY = ("--rounds", "2", "--trips", "20", "--tasks", "5", "--objects", "1000")
CONTENDERS = {"to_thread", "run_in_executor", "block", "floor"}


def run(*arguments: str, before: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script on the threadhop under test; *before* is code between its import and main."""
    places = [str(HERE), str(Path(threadhop.__file__).parents[1])]
    code = f"import sys, hop_cost\n{before}\nsys.exit(hop_cost.main())"
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


def test_the_table_and_the_json_hold_every_contender(tmp_path: Path) -> None:
    """Each contender has a line, a time above zero and a ratio; to_thread's own ratio is 1."""
    child = run("--json", str(tmp_path / "numbers.json"))

    assert (child.returncode, child.stderr) == (0, "")
    numbers = numbers_in(tmp_path / "numbers.json")
    assert set(numbers["contenders"]) >= CONTENDERS
    assert set(numbers["heap"]) == {"block", "to_thread"}
    assert numbers["options"] == {
        "rounds": 2,
        "trips": 20,
        "tasks": 5,
        "context_vars": 5,
        "objects": 1000,
    }
    for scenes in numbers["contenders"].values():
        for scene in ("sequential", "at_once"):
            assert scenes[scene]["us"]["low"] > 0
            ratio = scenes[scene]["ratio"]
            assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
            assert f"{ratio['median']:.2f} ({ratio['low']:.2f}.." in child.stdout
    for scene in ("sequential", "at_once"):
        base = numbers["contenders"]["to_thread"][scene]["ratio"]
        assert base == {"median": 1, "low": 1, "high": 1}
    for code in ("asyncio.to_thread(", "run_in_executor(", "threadpool(executor)", "floor: "):
        assert code in child.stdout
    assert "5 at once" in child.stdout
    assert "Beside 1,000 live lists" in child.stdout


def test_the_check_passes_within_the_limits() -> None:
    """Ratios below their limits: exit status 0, and each limit is named as holding."""
    child = run("--check", before="hop_cost.LIMITS = dict.fromkeys(hop_cost.LIMITS, 1e9)")

    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.count("holds") == 3


def test_the_check_fails_beyond_a_limit() -> None:
    """One ratio above its limit is enough for exit status 1; the others still hold."""
    child = run(
        "--check",
        before="hop_cost.LIMITS = dict.fromkeys(hop_cost.LIMITS, 1e9) | {('block', 'heap'): 0.0}",
    )

    assert (child.returncode, child.stderr) == (1, "")
    assert child.stdout.count("holds") == 2
    assert child.stdout.count("EXCEEDED") == 1


def test_a_contender_that_makes_no_trip_is_refused() -> None:
    """Work that runs on the loop's own thread would look fast: it is an error, not a line."""
    child = run(before="hop_cost.threadpool = lambda executor: hop_cost.asyncio.Lock()")

    assert child.returncode == 1
    assert "RuntimeError: block makes no trip" in child.stderr
    assert child.stdout == ""


def test_pinning_is_done_and_told_or_refused(tmp_path: Path) -> None:
    """--pin keeps the process on one processor and says so; where it cannot, it says that."""
    if not hasattr(os, "sched_getaffinity"):
        child = run("--pin", "0")
        assert child.returncode == 2
        assert "this system cannot do it" in child.stderr
        return
    processor = max(os.sched_getaffinity(0))
    child = run("--pin", str(processor), "--json", str(tmp_path / "numbers.json"))

    assert (child.returncode, child.stderr) == (0, "")
    assert f"pinned to processor {processor}" in child.stdout
    surroundings = numbers_in(tmp_path / "numbers.json")["surroundings"]
    assert surroundings["cpus"] == [processor]
    assert surroundings["pinned"] is True


def test_uvloop_is_used_or_its_lack_is_told(tmp_path: Path) -> None:
    """--uvloop measures on uvloop; without it installed, the error names the command to type."""
    child = run("--uvloop", "--json", str(tmp_path / "numbers.json"))

    if importlib.util.find_spec("uvloop") is None:
        assert child.returncode == 2
        assert "pip install uvloop" in child.stderr
    else:
        assert child.returncode == 0, child.stderr
        numbers = numbers_in(tmp_path / "numbers.json")
        assert numbers["surroundings"]["loop"] == "uvloop"
        assert set(numbers["contenders"]) >= CONTENDERS
