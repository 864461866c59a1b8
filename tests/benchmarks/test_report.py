"""What is told of the measurements: the limits, the tables of the page, the chart."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import chart, limits

HERE = Path(__file__).parent
PAGE = """# A page

<!-- chart begin -->
old chart
<!-- chart end -->

Between.

<!-- table begin -->
old table
<!-- table end -->

After.
"""


def report_of(python: str = "CPython 3.14.0", **surroundings: Any) -> dict[str, Any]:
    """Return a report as the benchmark writes it, with two contenders."""

    def ratio(median: float) -> dict[str, dict[str, float]]:
        figure = {"median": median, "low": median * 0.9, "high": median * 1.1}
        return {"us": figure, "ratio": figure, "to_floor": figure}

    def scenes(sequential: float, at_once: float) -> dict[str, Any]:
        return {"sequential": ratio(sequential), "at_once": ratio(at_once)}

    return {
        "surroundings": {
            "python": python,
            "gil": True,
            "system": "Linux x86_64",
            "processor": "Model <9> & more",
            "processors": 8,
            "loop": "asyncio",
            "cpus": [0],
            "pinned": True,
            "versions": {"threadhop": "1.2.3"},
            **surroundings,
        },
        "options": {"rounds": 20, "trips": 1000, "tasks": 200, "context_vars": 5, "objects": 10},
        "workers": 4,
        "crowds": {"sequential": 1, "few": 10, "at_once": 200, "many": 2000},
        "titles": {
            "to_thread": {"code": "await asyncio.to_thread(work)", "kind": "base"},
            "block": {"code": "async with threadpool(executor): ...", "kind": "ours"},
        },
        "contenders": {"to_thread": scenes(1, 1), "block": scenes(0.81, 0.52)},
        "heap": {"10": {"block": {"median": 1.01, "low": 1.0, "high": 1.02}}},
        "timer": {},
        "memory": {
            "tasks": 10_000,
            "contenders": {
                "future": {"bytes": 1000, "more": 0},
                "block": {"bytes": 1700, "more": 700},
            },
        },
        "eventloop": {"block": ratio(1.1)},
        "uvloop": {},
        "parallel": {},
        "left_out": {"anyio": "no module 'anyio'"},
    }


def tell(
    folder: Path, *arguments: str, reports: tuple[dict[str, Any], ...]
) -> subprocess.CompletedProcess[str]:
    """Run report.py on *reports*, in *folder*."""
    names = [f"{number}.json" for number in range(len(reports))]
    for name, report in zip(names, reports, strict=True):
        (folder / name).write_text(json.dumps(report), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", str(HERE / "report.py"), *names, *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        check=False,
    )


# --- limits -----------------------------------------------------------------------------------


def test_pinned_figures_are_held() -> None:
    """A trip that is dearer than its limit fails the check when pinned, on CPython."""
    within, beyond = report_of(), report_of()
    beyond["contenders"]["block"]["at_once"]["ratio"]["median"] = 0.61

    assert limits.check(within)[1] is True
    text, passed = limits.check(beyond)
    assert passed is False
    assert "check: block, at_once: 0.61, limit 0.60: EXCEEDED" in text
    assert text.count("EXCEEDED") == 1


@pytest.mark.parametrize(
    "surroundings",
    [
        {"pinned": False, "cpus": [0, 1]},
        {"python": "PyPy 3.11.13"},
        {"gil": False},
        {"loop": "uvloop"},
    ],
    ids=["free", "PyPy", "free-threaded", "uvloop"],
)
def test_other_figures_are_reported(surroundings: dict[str, Any]) -> None:
    """Free, or where the limits were not set for, a dear trip is told, and is no failure."""
    report = report_of(**surroundings)
    report["contenders"]["block"]["sequential"]["ratio"]["median"] = 3.0

    text, passed = limits.check(report)
    assert passed is True
    assert re.search("check: block, sequential: 3.00, limit .*: over, reported only", text)
    assert "check: block, at_once: 0.52, limit 0.60: within, reported only" in text


@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("python", ["CPython 3.14.0", "PyPy 3.11.13"])
def test_the_size_of_the_program_and_of_a_task_count_everywhere(python: str, pinned: bool) -> None:
    """Heap and memory do not depend on the placement: they are held free and on PyPy, too."""
    heap = report_of(python, pinned=pinned)
    heap["heap"]["10"]["block"]["median"] = 1.3
    memory = report_of(python, pinned=pinned)
    memory["memory"]["contenders"]["block_pool"] = {"bytes": 2025, "more": 1025}

    assert limits.check(report_of(python, pinned=pinned))[1] is True
    for report in (heap, memory):
        text, passed = limits.check(report)
        assert passed is False
        assert text.count("EXCEEDED") == 1


def test_every_limit_is_of_something_that_a_report_can_hold() -> None:
    """A name mistyped in the table of limits would be "not measured" for ever."""
    report = report_of()
    both = {"block": report["contenders"]["block"], "block_pool": report["contenders"]["block"]}
    report["contenders"] |= both | {"call": both["block"], "call_pool": both["block"]}
    report["uvloop"] = both
    report["eventloop"] |= {"block_pool": report["eventloop"]["block"]}
    report["memory"]["contenders"]["block_pool"] = {"bytes": 1700, "more": 700}
    report["heap"]["10"] |= {"block_pool": report["heap"]["10"]["block"]}

    assert all(limits.figure(report, *which) is not None for which in limits.LIMITS)
    assert "not measured" not in limits.check(report)[0]


# --- tables -----------------------------------------------------------------------------------


def test_the_page_gets_tables_and_chart_in_their_places(tmp_path: Path) -> None:
    """What stands around the places stays; done twice, the page is the same."""
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    reports = (report_of(), report_of("CPython 3.11.7", pinned=False, cpus=[0, 1]))
    arguments = ("--svg", "chart.svg", "--markdown", "docs/page.md")

    child = tell(tmp_path, *arguments, reports=reports)
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    text = page.read_text(encoding="utf-8")
    tell(tmp_path, *arguments, reports=reports)
    assert page.read_text(encoding="utf-8") == text

    assert text.startswith("# A page\n\n<!-- chart begin -->\n\n![A trip to ")
    assert text.endswith("<!-- table end -->\n\nAfter.\n")
    assert "\n\nBetween.\n\n" in text
    assert "old" not in text
    assert "(../chart.svg)" in text
    assert "| **`async with threadpool(executor): ...`** | 0.81 (0.73..0.89) | 0.52 (" in text
    assert "### CPython 3.14.0, GIL on, asyncio, pinned to processor 0" in text
    assert "### CPython 3.11.7, GIL on, asyncio, not pinned, free on 2 processors" in text
    assert "Model <9> & more, 8 processors, Linux x86_64" in text
    assert "threadhop 1.2.3" in text
    assert "anyio: no module 'anyio'" in text
    assert "| +700 |" in text


def test_the_page_of_the_docs_has_both_places() -> None:
    """Else the one command that fills it would fail."""
    text = (HERE.parents[1] / "docs" / "explanation" / "performance.md").read_text("utf-8")
    for place in ("chart", "table"):
        assert text.count(f"\n<!-- {place} begin -->\n") == 1
        assert text.count(f"\n<!-- {place} end -->\n") == 1


def test_a_page_without_a_place_is_refused_and_kept(tmp_path: Path) -> None:
    """The error says what to write; nothing is overwritten."""
    page = tmp_path / "page.md"
    page.write_text("mine\n", encoding="utf-8")
    child = tell(tmp_path, "--markdown", "page.md", reports=(report_of(),))

    assert child.returncode == 1
    assert "put <!-- table begin --> and <!-- table end --> there" in child.stderr
    assert page.read_text(encoding="utf-8") == "mine\n"


def test_without_a_file_to_write_the_tables_are_printed(tmp_path: Path) -> None:
    """The text that the benchmark printed, again from its file."""
    child = tell(tmp_path, reports=(report_of(),))

    assert (child.returncode, child.stderr) == (0, "")
    assert "one after another" in child.stdout
    assert "0.81 (0.73..0.89)" in child.stdout


# --- the chart --------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def texts_of(document: str) -> list[str]:
    root = ET.fromstring(document)
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_the_chart_is_xml_and_shows_each_contender_of_each_run(tmp_path: Path) -> None:
    """It parses; each contender has its name, its numbers and a bar for each run and scene."""
    other = report_of("CPython 3.11.7")
    other["contenders"]["block"]["sequential"]["ratio"]["median"] = 0.93
    child = tell(tmp_path, "--svg", "chart.svg", reports=(report_of(), other))
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")

    document = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    texts = texts_of(document)
    for title in report_of()["titles"].values():
        assert texts.count(title["code"]) == 1
    assert {"0.81", "0.93", "0.52", "one after another", "200 at once"} <= set(texts)
    assert {"CPython 3.14.0, pinned", "CPython 3.11.7, pinned"} <= set(texts)
    root = ET.fromstring(document)
    bars = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "ours"]
    assert len(bars) == 2 * 2 + 1 + 2  # runs and scenes; the legend's colour, and its runs


def test_the_chart_can_be_read_without_seeing_it() -> None:
    """It is an image with a title, and a description that has all medians."""
    root = ET.fromstring(drawn({"a": (0.4, 0.5, 0.6), "b & <c>": (0.9, 1.0, 1.1)}))

    assert root.get("role") == "img"
    labels = {element.get("id"): element.text or "" for element in root.iter()}
    assert [labels[name] for name in (root.get("aria-labelledby") or "").split()] == [
        "The title",
        "a run, at once: a 0.50, b & <c> 1.00.",
    ]


def test_a_bar_far_beyond_the_others_is_cut_and_says_so() -> None:
    """It ends where the axis does, and its number stands there with an arrow."""
    document = drawn({"slow": (30.0, 37.0, 44.0), "fast": (0.4, 0.5, 0.6)})
    texts = texts_of(document)

    assert "\u2192 37" in texts
    assert "0.50" in texts
    assert texts.count("1") == 1  # the axis goes on to 1, which all are compared to
    assert "37" not in texts
    width = float(ET.fromstring(document).get("width") or 0)
    for rect in ET.fromstring(document).iter(f"{SVG}rect"):
        if rect.get("class") != "back":
            assert float(rect.get("x") or 0) + float(rect.get("width") or 0) <= width


def test_a_contender_that_one_run_lacks_is_shown_for_the_other() -> None:
    """Not every library runs on every Python."""
    one = chart.Series("one", {"s": {"a": (1.0, 1.0, 1.0), "b": (0.7, 0.7, 0.7)}})
    two = chart.Series("two", {"s": {"a": (1.0, 1.0, 1.0)}})
    rows = [chart.Row(name, name, "other") for name in ("a", "b", "never")]
    texts = texts_of(chart.chart("The title", rows, {"s": "at once"}, [one, two]))

    assert {"a", "b"} <= set(texts)
    assert "never" not in texts
    assert texts.count("0.70") == 1
    assert texts.count("1.00") == 2


def drawn(bars: dict[str, tuple[float, float, float]]) -> str:
    rows = [chart.Row(name, name, "ours") for name in bars]
    return chart.chart("The title", rows, {"s": "at once"}, [chart.Series("a run", {"s": bars})])
