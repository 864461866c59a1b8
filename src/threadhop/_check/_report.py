"""The lines that a file gets: sorted, with ``# noqa`` heeded."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from typing import NamedTuple

from ._rules import findings_in

NOQA = re.compile(
    r"#\s*noqa(?::\s?(?P<codes>(?:(?:THR[0-9]*|[A-Z]+[0-9]+)[,\s]*)+))?", re.IGNORECASE
)


class Problem(NamedTuple):
    line: int
    column: int  # From 1, in characters.
    number: str
    text: str


def problems_of(tree: ast.Module, lines: list[str]) -> list[Problem]:
    """All problems, whatever ``# noqa`` says: flake8 has its own eye for that."""
    found = set()
    for finding in findings_in(tree):
        line, offset = finding.node.lineno, finding.node.col_offset  # type: ignore[attr-defined]
        # ast counts bytes of UTF-8. (Python 3.11 guesses in f-strings, also lines.)
        before = "".join(lines[line - 1 : line]).encode()[:offset]
        column = len(before.decode(errors="replace")) + 1
        found.add(Problem(line, column, finding.number, finding.text))
    return sorted(found)


def check_source(source: str) -> list[Problem]:
    """Those that no ``# noqa`` silences. SyntaxError if *source* cannot be parsed."""
    problems = problems_of(ast.parse(source), source.split("\n"))
    if problems and "noqa" in source.lower():
        silenced = _silenced(source)
        problems = [
            problem
            for problem in problems
            if not problem.number.startswith(silenced.get(problem.line, ()))
        ]
    return problems


def _silenced(source: str) -> dict[int, tuple[str, ...]]:
    """For each line the beginnings of numbers that its comment silences.

    The lines of one string are one line, and so are those that a backslash joins: as in flake8.
    """
    silenced: dict[int, tuple[str, ...]] = {}
    first = 1
    codes: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and (noqa := NOQA.search(token.string)):
            codes = re.findall(r"\w+", noqa["codes"].upper()) if noqa["codes"] else ["THR"]
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            silenced.update(dict.fromkeys(range(first, token.end[0] + 1), tuple(codes)))
            first, codes = token.end[0] + 1, []
    return silenced
