"""Random programs have the course that the contract gives them, and lose nothing in a storm.

The seeds are fixed, the interleavings are not. The short form always runs; the long one is behind
``-m storm``; ``python -m lab`` runs for as long as one likes.
"""

from __future__ import annotations

import pytest
from lab.course import Course
from lab.lab import KINDS, Figures, Storm, programs_of, run_exactly, run_for
from lab.model import expected
from lab.programs import Program, operations, shrink

#: What anyio cancels on asyncio comes a turn earlier or later.
EXACT = [name for name in KINDS if not name.startswith("anyio-") or name == "anyio-trio"]


def assert_no_losses(figures: Figures) -> None:
    assert not figures.losses, "\n".join(figures.losses[:5])
    assert figures.cancels, "nothing was looked at"


@pytest.mark.parametrize("name", EXACT)
def test_a_random_program_has_the_course_of_the_contract(name: str) -> None:
    """Its threads, its variables, its errors and each ``finally``, step by step."""
    courses, wrong = run_exactly(name, programs_of(name, 1, 200))
    assert not wrong, "\n".join(wrong[:3])
    assert sum(course.met for course in courses) > 5, "nothing was looked at"


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seeds", [range(10), range(10, 20)], ids=["0 to 9", "10 to 19"])
def test_whoever_cancels_and_shuts_down_at_any_moment_loses_nothing(
    name: str, seeds: range
) -> None:
    """Every task ends, with its cancellation if there was one; all workers are there afterwards."""
    figures = Figures()
    for seed in seeds:
        Storm(name, seed, figures).run()
    assert_no_losses(figures)
    assert figures.shutdowns, "no pool was shut down"


@pytest.mark.storm
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_long_runs_lose_nothing(name: str, seed: int) -> None:
    assert_no_losses(run_for(name, seed, lambda number: number < 400))


# --- whether the laboratory itself notices


def test_a_seed_repeats_its_programs() -> None:
    assert programs_of("asyncio", 7, 20) == programs_of("asyncio", 7, 20)
    assert programs_of("asyncio", 7, 20) != programs_of("asyncio", 8, 20)


def test_a_program_is_made_smaller_as_long_as_it_is_bad() -> None:
    def has_cancel_in_part(program: Program, inside: bool = False) -> bool:
        return any(
            (inside and step[0] == "cancel")
            or (
                isinstance(step[-1], tuple)
                and step[0] != "group"
                and has_cancel_in_part(step[-1], inside or step[0] == "part")
            )
            for step in program
        )

    programs = [p for p in programs_of("asyncio", 1, 200) if has_cancel_in_part(p)]
    assert programs
    for program in programs:
        assert operations(shrink(program, has_cancel_in_part)) <= 8


def test_each_cancellation_in_the_model_is_met() -> None:
    """A program that cancels itself hears of it, or ends first by its own error."""
    for library in ("asyncio", "trio"):
        courses: list[Course] = [
            each
            for program in programs_of("asyncio", 3, 300)
            for each in expected(program, library).all()
        ]
        met = [course for course in courses if course.cancels]
        assert met
        assert all(course.met for course in met)
