"""The benchmark of `max_queued` measures each load, and draws it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from helpers.benchmarks import run_program

LOADS = ["50%", "100%", "150%", "300%"]


def test_each_load_has_a_row_and_two_bars_and_only_with_a_limit_is_anything_refused(
    tmp_path: Path,
) -> None:
    svg = tmp_path / "drawing.svg"
    child = run_program("overload", "--seconds", "0.1", "--svg", str(svg))
    rows = [row.strip("| ").split(" | ") for row in child.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == LOADS
    assert int(rows[-1][-1].removesuffix("%")) > 30
    root = ET.parse(svg).getroot()
    widths = {
        kind: [float(bar.get("width", "")) for bar in root.iter() if bar.get("class") == kind]
        for kind in ("other", "ours")
    }
    assert len(widths["other"]) == len(widths["ours"]) == len(LOADS)
    assert widths["other"][-1] > widths["ours"][-1] > 0
