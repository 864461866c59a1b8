"""The laboratory: many programs at once, by seeds, in one kind of world; what went wrong.

Exact runs compare each course with the model. In a storm others cancel the courses at any moment,
and shut a pool down now and then; what is checked there needs no model.
"""

from __future__ import annotations

import gc
import itertools
import logging
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers.loops import LOOPS, TRIO, LoopKind
from helpers.steps import sleep
from lab.course import Course
from lab.model import expected
from lab.programs import Generator, Program, shrink
from lab.worlds import AnyioOnTrioWorld, AnyioWorld, TrioWorld, World, anyio

import threadhop

#: How many programs run at once: far more than there are workers.
AT_ONCE = 24

KINDS: dict[str, tuple[LoopKind, type[World]]] = {kind.name: (kind, World) for kind in LOOPS}
if TRIO is not None:
    KINDS["trio"] = (TRIO, TrioWorld)
if anyio is not None:
    KINDS |= {f"anyio-{kind.name}": (kind, AnyioWorld) for kind in LOOPS if kind.has_current_task}
    if TRIO is not None:
        KINDS["anyio-trio"] = (TRIO, AnyioOnTrioWorld)


@dataclass
class Figures:
    """What a run has seen."""

    programs: int = 0
    operations: int = 0
    cancels: int = 0
    #: Courses that met a cancellation.
    met: int = 0
    shutdowns: int = 0
    losses: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"programs {self.programs:,}, operations {self.operations:,}, "
            f"cancels {self.cancels:,}, met by {self.met:,} courses, "
            f"shutdowns {self.shutdowns:,}, losses {len(self.losses)}"
        )

    def add(self, other: Figures) -> None:
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def row(self) -> str:
        numbers = (self.programs, self.operations, self.cancels, self.met, self.shutdowns)
        return " | ".join(f"{number:,}" for number in (*numbers, len(self.losses)))


def skips_of(kind: LoopKind, world: type[World]) -> frozenset[str]:
    """The steps that this kind of loop has not."""
    return world.skips | (frozenset() if kind.has_current_task else {"scope", "expire", "group"})


def programs_of(name: str, seed: object, count: int) -> list[Program]:
    kind, world = KINDS[name]
    return [
        Generator(f"{seed}/{number}", skips_of(kind, world)).program() for number in range(count)
    ]


async def _nobody() -> None:
    await sleep(0.0005)


def run_exactly(name: str, programs: list[Program]) -> tuple[list[Course], list[str]]:
    """Run them all at once; where each differs from the model."""
    kind, make = KINDS[name]
    wrong: list[str] = []

    async def main() -> tuple[World, list[Course]]:
        world = make(kind)
        courses = [Course(world, program, str(number)) for number, program in enumerate(programs)]
        await world.run_all(courses, _nobody)
        return world, courses

    world, courses = kind.run(main, timeout=40)
    world.close()
    for course in courses:
        model = expected(course.program, world.library)
        broken = [text for each in course.all() for text in each.broken]
        if broken or model.traces() != named_as(course.traces(), course.name):
            wrong.append(_difference(course, model, broken))
    return courses, wrong


def named_as(traces: list[Any], name: str) -> list[Any]:
    """The values of variables begin with the name of their course, which is "main" in the model."""

    def renamed(item: Any) -> Any:
        if isinstance(item, tuple):
            return tuple(map(renamed, item))
        if isinstance(item, str) and ": " in item:
            return "main" + item.removeprefix(name)
        return item

    return [[renamed(item) for item in trace] for trace in traces]


def _difference(course: Course, model: Course, broken: list[str]) -> str:
    lines = [repr(course.program), *broken]
    pairs = itertools.zip_longest(model.traces(), named_as(course.traces(), course.name))
    for theirs, ours in pairs:
        for a, b in itertools.zip_longest(theirs or (), ours or ()):
            if a != b:
                lines.append(f"the model says {a}, and it was {b}")
                break
    return "\n  ".join(lines)


def smallest(name: str, program: Program, times: int = 3) -> Program:
    """What is left of a program that differs from the model, if it does so each time."""

    def is_bad(program: Program) -> bool:
        for _ in range(times):
            try:
                if not run_exactly(name, [program])[1]:
                    return False
            except AssertionError:
                pass
        return True

    return shrink(program, is_bad)


class Storm:
    """Courses at once, which others cancel at any moment."""

    def __init__(self, name: str, seed: object, figures: Figures) -> None:
        self.name = name
        self.kind, self.make = KINDS[name]
        self.chance = random.Random(str(seed))
        self.figures = figures
        self.courses: list[Any] = []
        self.programs = programs_of(name, seed, AT_ONCE)

    async def main(self) -> World:
        is_shut = self.chance.random() < 0.2
        world = self.make(self.kind, shuts_down=is_shut)
        self.courses = [
            Course(world, program, str(number)) for number, program in enumerate(self.programs)
        ]
        self._shut_at = self.chance.randrange(8) if is_shut else -1
        self._world = world
        await world.run_all(self.courses, self._outside)
        return world

    async def _outside(self) -> None:
        """Now a few, now nobody, and sometimes one twice."""
        for _ in range(self.chance.choice((0, 0, 1, 2))):
            course = self.chance.choice(self.courses)
            if not course.has_ended and course.steps:
                course.cancels += 1
                self._world.cancel(course)
        if self._shut_at == 0:
            pool: Any = self._world.pools[self.chance.choice(("stock", "pool"))]
            pool.shutdown(wait=False, cancel_futures=self.chance.random() < 0.5)
            self.figures.shutdowns += 1
        self._shut_at -= 1
        await sleep(self.chance.choice((0, 0, 0.0005)))

    def run(self) -> None:
        figures = self.figures
        world = self.kind.run(self.main, timeout=40)
        world.close()
        everyone = [course for root in self.courses for course in root.all()]
        for course in everyone:
            figures.operations += course.steps
            figures.cancels += course.cancels
            figures.met += bool(course.met)
            figures.losses += course.broken
            if not course.has_ended:
                figures.losses.append(f"{course.name} has not ended")
            if course.cancels and not course.met:
                figures.losses.append(f"{course.name}: a cancellation was lost")
        figures.programs += len(self.programs)
        if hops := threadhop.hops():
            figures.losses.append(f"they are left: {hops}")


def run_for(name: str, seed: int, goes_on: Callable[[int], bool]) -> Figures:
    """Rounds of exact runs and of storms, as long as *goes_on* says so, which gets the number."""
    figures = Figures()
    warnings = logging.getLogger("threadhop")
    level = warnings.level
    warnings.setLevel(logging.ERROR)  # A pool whose workers are all away, again and again.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # PyPy has no such thing, and says so by ignoring it.
    try:
        for number in itertools.takewhile(goes_on, itertools.count()):
            its_seed = f"{seed}.{number}"
            if number % 2 and KINDS[name][1] is not AnyioWorld:
                courses, wrong = run_exactly(name, programs_of(name, its_seed, AT_ONCE))
                figures.programs += len(courses)
                for course in (each for root in courses for each in root.all()):
                    figures.operations += course.steps
                    figures.cancels += course.cancels
                    figures.met += bool(course.met)
                figures.losses += wrong
            else:
                Storm(name, its_seed, figures).run()
            if number % 50 == 0:
                gc.collect()
    finally:
        sys.setswitchinterval(interval)
        warnings.setLevel(level)
    return figures


def until_seconds(seconds: float) -> Callable[[int], bool]:
    end = time.monotonic() + seconds
    return lambda _: time.monotonic() < end


def pythons() -> str:
    name = sys.implementation.name
    build = "" if getattr(sys, "_is_gil_enabled", lambda: True)() else "t"
    return f"{name} {'.'.join(map(str, sys.version_info[:2]))}{build}"
