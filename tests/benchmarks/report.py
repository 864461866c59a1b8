"""The tables and the chart of the page of the docs, from what the benchmark wrote:

    python tests/benchmarks/report.py 3.11.json 3.14.json \
        --svg docs/explanation/performance.svg --markdown docs/explanation/performance.md \
        --small docs/explanation/trip.svg

Each file is a run of `hop_cost.py --json FILE`: one for each Python, or placement, to be shown. In
the page only what stands between `<!-- table begin -->` and `<!-- table end -->` is replaced, and
what stands between `<!-- chart begin -->` and `<!-- chart end -->`. The small chart is that of the
README; it shows the last file that was measured pinned.

The tables show ratios, and tell the machine and the versions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chart import Row, Series, chart
from limits import Report

TITLE = "A trip to a worker thread and back, as a ratio to asyncio.to_thread"
COLUMN = 33

Section = tuple[str, dict[str, str]]  # its title; the figure of each contender


# --- what both tables say ---------------------------------------------------------------------


def headings(report: Report, contenders: dict[str, Any]) -> dict[str, str]:
    """Return the scenes of trips that were measured, and their headings."""
    measured = {scene for scenes in contenders.values() for scene in scenes}
    return {
        scene: "one after another" if scene == "sequential" else f"{tasks:,} at once"
        for scene, tasks in report["crowds"].items()
        if scene in measured
    }


def spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}..{ratio['high']:.2f})"


def sections(report: Report) -> list[Section]:
    """Return the other measurements."""
    result: list[Section] = []

    def add(title: str, figures: dict[str, str]) -> None:
        if figures:
            result.append((title, figures))

    for scene, heading in headings(report, report["uvloop"]).items():
        ratios = {n: spread(s[scene]["ratio"]) for n, s in report["uvloop"].items()}
        add(f"On uvloop, {heading}, to asyncio.to_thread on uvloop", ratios)
    for size, names in report["heap"].items():
        ratios = {name: spread(ratio) for name, ratio in names.items()}
        add(f"Beside {int(size):,} live lists, to without them", ratios)
    if timer := report["timer"]:
        for what, word in (("median", "in the median"), ("worst", "at worst")):
            ratios = {n: spread(f[what]["ratio"]) for n, f in timer["contenders"].items()}
            add(f"How late a timer of 1 ms is beside {timer['tasks']:,} tasks, {word}", ratios)
    if memory := report["memory"]:
        figures = {n: f"{f['more']:+,}" for n, f in memory["contenders"].items() if n != "future"}
        add(
            "Bytes of a task that waits for a worker, more than one that waits for a future",
            figures,
        )
    ratios = {name: spread(figures["ratio"]) for name, figures in report["eventloop"].items()}
    add("A round trip through eventloop(), to a trip of that block", ratios)
    ratios = {name: spread(speedup) for name, speedup in report["parallel"].items()}
    add("How many times faster two bodies compute at once than one after another", ratios)
    return result


def place(report: Report) -> str:
    where = report["surroundings"]
    if where["pinned"]:
        return f"pinned to processor {where['cpus'][0]}"
    return f"not pinned, free on {len(where['cpus'])} processors"


def kind_of_python(report: Report) -> str:
    where = report["surroundings"]
    return f"{where['python']}, GIL {'on' if where['gil'] else 'off'}, asyncio"


def machine(report: Report) -> str:
    where = report["surroundings"]
    return f"{where['processor']}, {where['processors']} processors, {where['system']}"


def amount(report: Report) -> str:
    options = report["options"]
    return (
        f"{options['rounds']} rounds, {options['trips']:,} trips in each measurement,"
        f" {options['context_vars']} context variables, {report['workers']} workers"
    )


def versions(report: Report) -> str:
    known = report["surroundings"]["versions"]
    return ", ".join(f"{name} {version}" for name, version in known.items())


# --- as text ----------------------------------------------------------------------------------


def table(report: Report) -> str:
    """Return the report as text."""
    scenes, titles = headings(report, report["contenders"]), report["titles"]
    lines = [
        f"{kind_of_python(report)}, {place(report)}",
        machine(report),
        amount(report),
        f"versions: {versions(report)}",
    ]
    if scenes:
        lines += [
            "us: per trip, median.",
            "ratio: to asyncio.to_thread in the same round, median (quartiles).",
            "",
            f"{'':44}" + "".join(f"{heading:>{COLUMN}}" for heading in scenes.values()),
            f"{'':44}" + f"{'us':>10}{'ratio':>9}{'':14}" * len(scenes),
        ]
    for name, measured in report["contenders"].items() if scenes else ():
        line = f"{titles[name]['code']:44}"
        for scene in scenes:
            if scene in measured:
                us, ratio = measured[scene]["us"]["median"], measured[scene]["ratio"]
                line += f"{us:10.1f}{spread(ratio):>23}"
            else:
                line += " " * COLUMN
        lines.append(line)
    lines += [f"left out: {name}: {reason}" for name, reason in report["left_out"].items()]
    for title, figures in sections(report):
        lines += ["", f"{title}:"]
        lines += [f"{titles[name]['code']:44}{text:>{COLUMN}}" for name, text in figures.items()]
    return "\n".join(line.rstrip() for line in lines)


# --- as Markdown ------------------------------------------------------------------------------


def markdown(reports: Sequence[Report]) -> str:
    """Return a part of a page for each report."""
    return "\n\n".join(_part(report) for report in reports)


def _part(report: Report) -> str:
    titles, scenes = report["titles"], headings(report, report["contenders"])
    lines = [f"### {kind_of_python(report)}, {place(report)}", ""]
    if scenes:
        lines += ["| median (quartiles) | " + " | ".join(scenes.values()) + " |"]
        lines += ["|---" * (len(scenes) + 1) + "|"]
    for name, measured in report["contenders"].items() if scenes else ():
        cells = [spread(measured[s]["ratio"]) if s in measured else "" for s in scenes]
        lines.append("| " + " | ".join([_code(titles[name]), *cells]) + " |")
    if others := sections(report):
        columns = [name for name in titles if any(name in figures for _, figures in others)]
        lines += ["", "| | " + " | ".join(_code(titles[name]) for name in columns) + " |"]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for title, figures in others:
            cells = [figures.get(name, "") for name in columns]
            lines.append("| " + " | ".join([title, *cells]) + " |")
    lines += ["", f"{machine(report)}. {amount(report)}.", f"{versions(report)}."]
    lines += [f"Left out: {name}: {reason}." for name, reason in report["left_out"].items()]
    return "\n".join(lines)


def _code(title: dict[str, str]) -> str:
    code = title["code"]
    if title["kind"] == "floor":
        return code
    return f"**`{code}`**" if title["kind"] == "ours" else f"`{code}`"


def fill(file: Path, reports: Sequence[Report], svg: Path) -> None:
    """Write the tables, and the link to the chart, into their places in the page."""
    address = Path(os.path.relpath(svg, file.parent)).as_posix()
    page = file.read_text(encoding="utf-8")
    page = _replace(page, "table", markdown(reports), file)
    page = _replace(page, "chart", f"![{TITLE}: the numbers are in the tables]({address})", file)
    file.write_text(page, encoding="utf-8")


def _replace(page: str, name: str, text: str, file: Path) -> str:
    begin, end = f"<!-- {name} begin -->", f"<!-- {name} end -->"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        sys.exit(f"{file} has no place for the {name}: put {begin} and {end} there, on two lines")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


# --- as a chart -------------------------------------------------------------------------------


def svg_of(reports: Sequence[Report]) -> str:
    """Return the chart: a row for each contender of any report, a series for each report."""
    titles: dict[str, dict[str, str]] = {}
    for report in reports:
        titles |= report["titles"]
    kinds = ["ours", "base", "other", "floor"]
    rows = [
        Row(name, title["code"], "other" if title["kind"] == "base" else title["kind"])
        for name, title in sorted(titles.items(), key=lambda item: kinds.index(item[1]["kind"]))
    ]
    known = headings(reports[0], reports[0]["contenders"])
    scenes = {scene: known[scene] for scene in ("sequential", "at_once")}
    series = [
        Series(
            _short(report["surroundings"]),
            {
                scene: {
                    name: (r["low"], r["median"], r["high"])
                    for name, measured in report["contenders"].items()
                    if (r := measured.get(scene, {}).get("ratio"))
                }
                for scene in scenes
            },
        )
        for report in reports
    ]
    return chart(TITLE, rows, scenes, series)


#: What the chart of the README shows: ours first, then what they are compared to.
FEW = ("block_pool", "block", "call", "to_thread", "anyio")


def small_svg_of(reports: Sequence[Report]) -> str:
    """Return the chart of the README: a bar for each of FEW, one after another, pinned."""
    pinned = [report for report in reports if report["surroundings"]["pinned"]]
    if not pinned:
        sys.exit("the small chart shows a pinned run: measure with --pin")
    report = pinned[-1]
    if missing := set(FEW) - report["contenders"].keys():
        sys.exit(f"the small chart shows {', '.join(sorted(missing))}, too: install and measure it")
    scene, titles = "sequential", report["titles"]
    rows = [
        Row(name, titles[name]["code"], "ours" if titles[name]["kind"] == "ours" else "other")
        for name in FEW
    ]
    ratios = {name: report["contenders"][name][scene]["ratio"] for name in FEW}
    bars = {name: (r["low"], r["median"], r["high"]) for name, r in ratios.items()}
    scenes = {scene: headings(report, report["contenders"])[scene]}
    return chart(TITLE, rows, scenes, [Series(_short(report["surroundings"]), {scene: bars})])


def _short(where: dict[str, Any]) -> str:
    """Return the place in a few words, for the chart: what is as usual is left out."""
    gil, place = "" if where["gil"] else "GIL off, ", "pinned" if where["pinned"] else "free"
    return f"{where['python']}, {gil}{place}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables and a chart from files of hop_cost.py.")
    parser.add_argument("files", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--svg", type=Path, metavar="FILE", required=True, help="the chart")
    parser.add_argument("--small", type=Path, metavar="FILE", help="the chart of the README")
    parser.add_argument("--markdown", type=Path, metavar="FILE", required=True, help="the page")
    options = parser.parse_args()
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in options.files]
    for report in reports:
        if not {"sequential", "at_once"} <= headings(report, report["contenders"]).keys():
            sys.exit("the chart shows the scenes sequential and at_once: measure both")
    small = "" if options.small is None else small_svg_of(reports)
    fill(options.markdown, reports, options.svg)
    options.svg.write_text(svg_of(reports), encoding="utf-8")
    if options.small is not None:
        options.small.write_text(small, encoding="utf-8")


if __name__ == "__main__":
    main()
