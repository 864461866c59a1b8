"""The count of bytecodes works, and each line of its table still finds something to count."""

from __future__ import annotations

import sys

import pytest
from helpers.benchmarks import FOLDER, run_program

CAN_COUNT = hasattr(sys, "monitoring")
needs_monitoring = pytest.mark.skipif(not CAN_COUNT, reason="new in CPython 3.12")


def promises_of_the_program() -> list[str]:
    """Return the titles of PROMISES, read without running what belongs to the benchmark."""
    text = (FOLDER / "bytecodes.py").read_text(encoding="utf-8")
    table = text.partition("PROMISES = {\n")[2].partition("\n}\n")[0]
    return [line.split('"')[1] for line in table.splitlines() if line.startswith('    "')]


@pytest.mark.skipif(CAN_COUNT, reason="this one can")
def test_a_python_that_cannot_count_says_so() -> None:
    """One line on stderr, with the Python to take."""
    child = run_program("bytecodes")
    assert (child.returncode, child.stdout) == (1, "")
    assert child.stderr == "this Python has no sys.monitoring: take CPython 3.12 or newer\n"


@needs_monitoring
def test_the_parts_add_up_and_each_one_is_found() -> None:
    """A pattern that matches no line of the library any more leaves its row out of the table."""
    child = run_program("bytecodes", "floor,to_thread,block,call_pool", "--trips", "20")

    assert (child.returncode, child.stderr) == (0, "")
    lines = child.stdout.splitlines()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines]
    cells = {title: cells for title, *cells in rows}
    assert set(promises_of_the_program()) < set(cells)
    for column in range(4):
        parts = list(cells)[2 : list(cells).index("the promises together")]
        total = sum(int(cells[part][column] or 0) for part in parts)
        # Each part is rounded.
        assert total == pytest.approx(int(cells["all"][column]), abs=len(parts) / 2)
    floor, base, *_ = cells["as a ratio to `to_thread`"]
    assert float(floor) < float(base) == 1
    assert cells["the promises together"][:2] == ["", ""]
    assert all(cells["the promises together"][2:])


@needs_monitoring
def test_each_line_is_shown_with_its_purpose() -> None:
    """--lines shows the library's own lines, how often, and which row of the table counts them."""
    child = run_program("bytecodes", "block_pool", "--lines", "--trips", "20")

    assert (child.returncode, child.stderr) == (0, "")
    (claimed,) = [line for line in child.stdout.splitlines() if 'setdefault("claimed"' in line]
    assert float(claimed.split()[0]) > 1
    assert claimed.endswith("# a job is taken once: claim, booking")
    assert "base_events.py" not in child.stdout


@needs_monitoring
def test_an_unknown_contender_is_refused() -> None:
    """The error names it, and nothing is counted."""
    child = run_program("bytecodes", "floor,blok")
    assert (child.returncode, child.stdout) == (1, "")
    assert "no such contender here: blok" in child.stderr
