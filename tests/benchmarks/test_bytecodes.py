"""The count of bytecodes works, and each line of its table still finds something to count."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import threadhop

HERE = Path(__file__).parent
CAN_COUNT = hasattr(sys, "monitoring")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script on the threadhop under test."""
    places = [str(HERE), str(Path(threadhop.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", str(HERE / "bytecodes.py"), *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        check=False,
    )


def cells_in(output: str) -> dict[str, list[str]]:
    """Return the lines of the table by their titles."""
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in output.splitlines()]
    return {title: cells for title, *cells in rows}


@pytest.mark.skipif(CAN_COUNT, reason="this one can")
def test_a_python_that_cannot_count_says_so() -> None:
    """One line on stderr, with the Python to take."""
    child = run()
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "this Python has no sys.monitoring: take CPython 3.12 or newer\n"


@pytest.mark.skipif(not CAN_COUNT, reason="sys.monitoring is new in CPython 3.12")
def test_the_parts_add_up_and_each_one_is_found() -> None:
    """A pattern that matches no line of the library any more leaves its row out of the table."""
    child = run("floor,to_thread,block,call_pool", "--trips", "20")

    assert (child.returncode, child.stderr) == (0, "")
    cells = cells_in(child.stdout)
    promises = promises_of_the_script()
    assert set(promises) < set(cells)
    for column in range(4):
        parts = list(cells)[2 : list(cells).index("the promises together")]
        total = sum(int(cells[part][column] or 0) for part in parts)
        # Each part is rounded.
        assert total == pytest.approx(int(cells["all"][column]), abs=len(parts) / 2)
    assert cells["as a ratio to `to_thread`"][1] == "1.00"
    assert cells["the promises together"][:2] == ["", ""]
    assert all(cells["the promises together"][2:])


@pytest.mark.skipif(not CAN_COUNT, reason="sys.monitoring is new in CPython 3.12")
def test_each_line_is_shown_with_its_purpose() -> None:
    """--lines shows the library's own lines, how often, and which row of the table counts them."""
    child = run("block_pool", "--lines", "--trips", "20")

    assert (child.returncode, child.stderr) == (0, "")
    (claimed,) = [line for line in child.stdout.splitlines() if 'setdefault("claimed"' in line]
    assert float(claimed.split()[0]) > 1
    assert claimed.endswith("# a job is taken once: claim, booking")
    assert "base_events.py" not in child.stdout


@pytest.mark.skipif(not CAN_COUNT, reason="sys.monitoring is new in CPython 3.12")
def test_an_unknown_contender_is_refused() -> None:
    """It is named, and nothing is counted."""
    child = run("floor,blok")
    assert (child.returncode, child.stdout) == (1, "")
    assert "no such contender here: blok" in child.stderr


def promises_of_the_script() -> list[str]:
    """Return the titles of PROMISES, read without running what belongs to the benchmark."""
    text = (HERE / "bytecodes.py").read_text(encoding="utf-8")
    table = text.partition("PROMISES = {\n")[2].partition("\n}\n")[0]
    return [line.split('"')[1] for line in table.splitlines() if line.startswith('    "')]
