"""The programs in README.md and docs/ run as they stand, and print what the page says.

Each block that is marked ``python`` is a program of its own. The block after it, if that is marked
``text`` and nothing else stands between them, is its whole output; without one it prints nothing.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.child import run_in_child

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

#: A fenced block, wherever it is indented: its language, its text, and what stands after it.
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
IMPORT = re.compile(r"^(?:import|from) (\w+)", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(?:#[^)]*)?\)")


#: tests/benchmarks/report.py writes it: it may be missing until somebody has measured.
GENERATED = {ROOT / "docs" / "explanation" / "performance.svg"}


@dataclass(frozen=True)
class Program:
    """A ``python`` block and the output that the page shows for it."""

    name: str
    source: str
    output: str


def programs_of(name: str, text: str) -> list[Program]:
    programs = []
    for block in BLOCK.finditer(text):
        if block[2] != "python":
            continue
        output = ""
        after = BLOCK.search(text, block.end())
        if after and after[2] == "text" and not text[block.end() : after.start()].strip():
            output = after[3]
        line = text.count("\n", 0, block.start()) + 1
        programs.append(Program(f"{name}:{line}", block[3], output))
    return programs


PROGRAMS = [
    program
    for page in PAGES
    for program in programs_of(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))
]


HAS_TRIO = importlib.util.find_spec("trio") is not None

#: Modules of the extra ``libraries``: a program that imports one runs where they are installed.
LIBRARIES = {
    "duckdb",
    "fastapi",
    "flask",
    "opentelemetry",
    "pandas",
    "sentry_sdk",
    "sklearn",
    "structlog",
    "time_machine",
}


def marks_of(program: Program) -> list[pytest.MarkDecorator]:
    needs_none = LIBRARIES.isdisjoint(IMPORT.findall(program.source))
    return [] if needs_none else [pytest.mark.libraries]


@pytest.mark.timeout(40)
@pytest.mark.parametrize(
    "program", [pytest.param(one, id=one.name, marks=marks_of(one)) for one in PROGRAMS]
)
def test_a_program_prints_what_the_page_says(program: Program) -> None:
    """Word for word, and without a warning."""
    for name in IMPORT.findall(program.source):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}, which is not installed")
    child = run_in_child(program.source, deadline=30, options=["-W", "error"])
    assert (child.stdout, child.stderr, child.returncode) == (program.output, "", 0)


def test_the_readme_shows_programs_and_their_output() -> None:
    """Should its blocks no longer be found, or no longer be followed by their output."""
    shown = [program for program in PROGRAMS if program.name.startswith("README.md:")]
    assert "MainThread" in shown[0].output
    assert all(program.output for program in shown)


def test_what_a_page_shows_in_between_is_no_output() -> None:
    """Only a ``text`` block that follows at once is compared; prose or another language ends it."""
    python, text, sh = "```python\n1\n```\n", "```text\nout\n```\n", "```sh\nls\n```\n"
    assert [program.output for program in programs_of("page", python + "\n" + text)] == ["out\n"]
    assert [program.output for program in programs_of("page", python + "so:\n" + text)] == [""]
    assert [program.output for program in programs_of("page", python + sh + text)] == [""]
    assert [program.name for program in programs_of("page", sh + text + python)] == ["page:7"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_files_of_this_project_lead_somewhere(page: Path) -> None:
    """Links without a scheme are relative to the page."""
    prose = BLOCK.sub("", page.read_text("utf-8"))
    targets = {link: (page.parent / link).resolve() for link in LINK.findall(prose)}
    missing = [
        link for link, file in targets.items() if not file.exists() and file not in GENERATED
    ]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_headings_lead_somewhere(page: Path) -> None:
    """The part after ``#`` is a heading of that page, in the form that GitHub gives it."""
    prose = BLOCK.sub("", page.read_text("utf-8"))
    missing = []
    for file, anchor in re.findall(r"\]\(([^)#:\s]*)#([^)\s]+)\)", prose):
        text = BLOCK.sub("", (page.parent / file if file else page).read_text("utf-8"))
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
        if anchor not in anchors:
            missing.append(f"{file}#{anchor}")
    assert missing == []
