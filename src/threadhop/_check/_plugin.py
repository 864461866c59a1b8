"""The same as a plugin of flake8, which finds it by its entry point, ``THR``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from ._report import problems_of


class Plugin:
    def __init__(self, tree: ast.Module, lines: list[str]) -> None:
        self._tree = tree
        self._lines = lines

    def run(self) -> Iterator[tuple[int, int, str, type]]:
        for problem in problems_of(self._tree, self._lines):
            text = f"{problem.number} {problem.text}"
            yield problem.line, problem.column - 1, text, type(self)  # flake8 adds the 1.
