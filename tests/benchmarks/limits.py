"""The limits of `--check`: the highest figure for each contender and measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: A report as it stands in the JSON file.
Report = dict[str, Any]


@dataclass(frozen=True)
class Limit:
    """*pinned* is the trip's own cost, repeatable, and held to; *free* is noisy, and reported.

    They are the limits of CPython with its GIL; elsewhere they are reported. *always* marks a
    figure that does not depend on all this: it is held everywhere.
    """

    pinned: float
    free: float | None = None
    always: bool = False


LIMITS: dict[tuple[str, str], Limit] = {
    ("block", "sequential"): Limit(0.85, 1.0),
    ("block", "at_once"): Limit(0.60, 0.60),
    ("block_pool", "sequential"): Limit(0.60, 0.75),
    ("block_pool", "at_once"): Limit(0.35, 0.25),
    ("call", "sequential"): Limit(0.90, 1.0),
    ("call", "at_once"): Limit(0.65, 0.65),
    ("call_pool", "sequential"): Limit(0.70, 0.85),
    ("call_pool", "at_once"): Limit(0.35, 0.35),
    ("block_pool", "sequential to the floor"): Limit(1.15),
    ("block_pool", "at_once to the floor"): Limit(1.0),
    ("block_default", "sequential"): Limit(0.85, 0.85),
    ("block_default", "sequential on uvloop"): Limit(1.0),
    ("block_default", "at_once on uvloop"): Limit(0.60),
    ("call_default", "sequential on uvloop"): Limit(0.90),
    ("call_default", "at_once on uvloop"): Limit(0.45),
    ("block_pool", "sequential on uvloop"): Limit(0.70),
    ("block_pool", "at_once on uvloop"): Limit(0.30),
    ("block_on_trio", "sequential to trio"): Limit(1.0),
    ("block_on_trio", "at_once to trio"): Limit(0.5),
    ("block", "eventloop"): Limit(1.3, 1.3),
    ("block_pool", "eventloop"): Limit(1.3, 1.3),
    ("block", "heap"): Limit(1.2, always=True),
    ("block_pool", "heap"): Limit(1.2, always=True),
    ("block_pool", "memory"): Limit(1024, always=True),  # bytes
}


def figure(report: Report, name: str, what: str) -> float | None:
    """Return what was measured; None if it was not."""
    scene, _, where = what.partition(" ")
    try:
        if scene == "heap":
            of_sizes: list[float] = [names[name]["median"] for names in report["heap"].values()]
            return max(of_sizes, default=None)
        if scene == "memory":
            more: float = report["memory"]["contenders"][name]["more"]
            return more
        if scene == "eventloop":
            ratio = report["eventloop"][name]["ratio"]
        elif where == "to trio":
            scenes = report["contenders"]
            ours: float = scenes[name][scene]["us"]["median"]
            theirs: float = scenes["trio"][scene]["us"]["median"]
            return ours / theirs
        elif where == "on uvloop":
            ratio = report["uvloop"][name][scene]["ratio"]
        else:
            which = "to_floor" if where == "to the floor" else "ratio"
            ratio = report["contenders"][name][scene][which]
        median: float = ratio["median"]
        return median
    except KeyError:
        return None


def check(report: Report) -> tuple[str, bool]:
    """Compare the medians to LIMITS; return the text of it, and whether all hold that are held."""
    where = report["surroundings"]
    at_home = where["gil"] and where["python"].startswith("CPython")
    lines, passed = [], True
    for (name, what), limit in LIMITS.items():
        line = f"check: {name}, {what}: "
        measured = figure(report, name, what)
        if measured is None:
            lines.append(line + "not measured")
            continue
        held = limit.always or (where["pinned"] and at_home)
        highest = limit.pinned if held or where["pinned"] else limit.free
        if highest is None:
            lines.append(line + f"{measured:.2f}, no limit unless pinned")
            continue
        within = measured <= highest
        passed = passed and (within or not held)
        if held:
            verdict = "holds" if within else "EXCEEDED"
        else:
            verdict = f"{'within' if within else 'over'}, reported only"
        lines.append(line + f"{measured:.2f}, limit {highest:.2f}: {verdict}")
    return "\n".join(lines), passed
