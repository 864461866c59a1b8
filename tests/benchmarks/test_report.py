"""The limits, the tables of the page and the chart tell of the measurements."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from benchmarks import chart, limits
from helpers.benchmarks import FOLDER, run_program

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
        to_floor = {name: number * 1.2 for name, number in figure.items()}
        return {"us": figure, "ratio": figure, "to_floor": to_floor}

    def scenes(sequential: float, at_once: float) -> dict[str, Any]:
        return {"sequential": ratio(sequential), "at_once": ratio(at_once)}

    return {
        "surroundings": {
            "python": python,
            "gil": True,
            "system": "Linux x86_64",
            "processor": "Model <9> & more",
            "processors": 8,
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
    folder: Path, *reports: dict[str, Any], page: str = PAGE, more: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Have report.py fill ``docs/page.md`` in *folder*, and draw ``chart.svg``."""
    names = [f"{number}.json" for number in range(len(reports))]
    for name, report in zip(names, reports, strict=True):
        (folder / name).write_text(json.dumps(report), encoding="utf-8")
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "page.md").write_text(page, encoding="utf-8")
    options = ("--svg", "chart.svg", "--markdown", "docs/page.md")
    return run_program("report", *names, *options, *more, cwd=folder)


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
    [{"pinned": False, "cpus": [0, 1]}, {"python": "PyPy 3.11.13"}, {"gil": False}],
    ids=["free", "PyPy", "free-threaded"],
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
    within, heap, memory = (report_of(python, pinned=pinned) for _ in range(3))
    within["memory"]["contenders"]["block_pool"] = {"bytes": 2024, "more": 1024}
    heap["heap"]["10"]["block"]["median"] = 1.3
    memory["memory"]["contenders"]["block_pool"] = {"bytes": 2025, "more": 1025}

    assert limits.check(within)[1] is True
    for report in (heap, memory):
        text, passed = limits.check(report)
        assert passed is False
        assert text.count("EXCEEDED") == 1


def test_every_limit_is_of_something_that_a_report_can_hold() -> None:
    """A name mistyped in the table of limits would be "not measured" for ever."""
    report = report_of()
    report["uvloop"] = {"block": report["contenders"]["block"]}
    scenes = [report[name] for name in ("contenders", "uvloop", "eventloop")]
    others = ("block_default", "block_pool", "call", "call_default", "call_pool")
    for names in (*scenes, report["memory"]["contenders"], report["heap"]["10"]):
        names.update(dict.fromkeys(others, names["block"]))
        names.update(dict.fromkeys(("block_on_trio", "trio"), names["block"]))

    assert all(limits.figure(report, *which) is not None for which in limits.LIMITS)
    assert "not measured" not in limits.check(report)[0]


# --- tables -----------------------------------------------------------------------------------


def test_the_page_gets_tables_and_chart_in_their_places(tmp_path: Path) -> None:
    """The text around the places stays; done twice, the page is the same."""
    reports = (report_of(), report_of("CPython 3.11.7", pinned=False, cpus=[0, 1]))

    child = tell(tmp_path, *reports)
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")
    text = (tmp_path / "docs" / "page.md").read_text(encoding="utf-8")
    tell(tmp_path, *reports, page=text)
    assert (tmp_path / "docs" / "page.md").read_text(encoding="utf-8") == text

    assert text.startswith("# A page\n\n<!-- chart begin -->\n\n![A trip to ")
    assert text.endswith("<!-- table end -->\n\nAfter.\n")
    assert "old" not in text
    for told in (
        "\n\nBetween.\n\n",
        "(../chart.svg)",
        "| **`async with threadpool(executor): ...`** | 0.81 (0.73..0.89) | 0.52 (",
        "### CPython 3.14.0, GIL on, asyncio, pinned to processor 0",
        "### CPython 3.11.7, GIL on, asyncio, not pinned, free on 2 processors",
        "Beside 10 live lists",
        "Model <9> & more, 8 processors, Linux x86_64",
        "threadhop 1.2.3",
        "anyio: no module 'anyio'",
        "| +700 |",
    ):
        assert told in text


def test_the_page_of_the_docs_has_both_places() -> None:
    """Else the one command that fills it would fail."""
    text = (FOLDER.parents[1] / "docs" / "explanation" / "performance.md").read_text("utf-8")
    for place in ("chart", "table"):
        assert text.count(f"\n<!-- {place} begin -->\n") == 1
        assert text.count(f"\n<!-- {place} end -->\n") == 1


def test_a_page_without_a_place_is_refused_and_kept(tmp_path: Path) -> None:
    """The error says what to write; nothing is overwritten."""
    child = tell(tmp_path, report_of(), page="mine\n")

    assert child.returncode == 1
    assert "put <!-- table begin --> and <!-- table end --> there" in child.stderr
    assert (tmp_path / "docs" / "page.md").read_text(encoding="utf-8") == "mine\n"


# --- the chart --------------------------------------------------------------------------------

SVG = "{http://www.w3.org/2000/svg}"


def texts_of(document: str) -> list[str]:
    root = ET.fromstring(document)
    return [element.text or "" for element in root.iter(f"{SVG}text")]


def test_the_chart_is_xml_and_shows_each_contender_of_each_run(tmp_path: Path) -> None:
    """Each contender has its name, its numbers and a bar for each run and scene."""
    other = report_of("CPython 3.11.7")
    other["contenders"]["block"]["sequential"]["ratio"]["median"] = 0.93
    child = tell(tmp_path, report_of(), other)
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


def few_measured() -> dict[str, Any]:
    """Return a report with all that the small chart shows, and more."""
    report = report_of()
    report["titles"] |= {
        "block_pool": {"code": "async with threadpool(worker_pool): ...", "kind": "ours"},
        "call": {"code": "await exec_in_executor(executor, work)", "kind": "ours"},
        "anyio": {"code": "await anyio.to_thread.run_sync(work)", "kind": "other"},
        "floor": {"code": "floor: a queue", "kind": "floor"},
    }
    for number, name in enumerate(("block_pool", "call", "anyio", "floor")):
        figure = dict.fromkeys(("low", "median", "high"), 0.41 + number / 10)
        report["contenders"][name] = {s: {"ratio": figure} for s in ("sequential", "at_once")}
    return report


def test_the_small_chart_has_five_bars_of_the_last_pinned_run(tmp_path: Path) -> None:
    """One panel, one bar for each; the legend names no colour that is not there."""
    older = report_of("CPython 3.11.7")
    free = report_of("CPython 3.15.0", pinned=False, cpus=[0, 1])
    child = tell(tmp_path, older, few_measured(), free, more=("--small", "small.svg"))
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")

    document = (tmp_path / "small.svg").read_text(encoding="utf-8")
    texts = texts_of(document)
    assert [text for text in texts if re.fullmatch(r"\d\.\d\d", text)] == [
        *("0.41", "0.81", "0.51"),  # blocks, a call
        *("1.00", "0.61"),
    ]
    assert {"one after another", "CPython 3.14.0, pinned", "threadhop", "others"} <= set(texts)
    assert not {"200 at once", "the least that is possible"} & set(texts)
    assert not {"CPython 3.11.7, pinned", "CPython 3.15.0, free"} & set(texts)


@pytest.mark.parametrize(("lack", "told"), [("anyio", "shows anyio, too"), ("pin", "--pin")])
def test_a_run_that_lacks_a_part_of_the_small_chart_is_refused(
    tmp_path: Path, lack: str, told: str
) -> None:
    """The error names what to measure; the page is kept."""
    report = few_measured()
    report["contenders"].pop(lack, None)
    report["surroundings"]["pinned"] = lack != "pin"
    child = tell(tmp_path, report, more=("--small", "small.svg"))

    assert child.returncode == 1
    assert told in child.stderr
    assert (tmp_path / "docs" / "page.md").read_text(encoding="utf-8") == PAGE


def test_the_chart_can_be_read_without_seeing_it() -> None:
    """The image has a title, and a description that has all medians."""
    root = ET.fromstring(drawn({"a": (0.4, 0.5, 0.6), "b & <c>": (0.9, 1.0, 1.1)}))

    assert root.get("role") == "img"
    labels = {element.get("id"): element.text or "" for element in root.iter()}
    assert [labels[name] for name in (root.get("aria-labelledby") or "").split()] == [
        "The title",
        "a run, at once: a 0.50, b & <c> 1.00.",
    ]


def test_a_bar_far_beyond_the_others_is_cut_and_says_so() -> None:
    """The bar ends where the axis does, and its number stands there with an arrow."""
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
