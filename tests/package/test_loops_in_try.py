"""An exception from outside that hits a loop is met by the ``try`` around it.

Ctrl+C, or what another thread raises here, may come where a loop begins anew. If CPython jumps
there behind a condition, as at the end of ``while condition`` and of an ``if`` that ends a body, it
may forget the ``try`` (3.12 to 3.14, https://github.com/python/cpython/issues/130279). So such
a loop is written as ``while True`` with a ``break``, and a plain line ends its body.
"""

from __future__ import annotations

import ast
import dis
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import threadhop

FOLDER = Path(threadhop.__file__).parent
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
LOOPS = (ast.For, ast.While)

pytestmark = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="reads the tables of CPython"
)


def loops_in_try(tree: ast.AST, is_in_try: bool = False) -> Iterator[ast.stmt]:
    if is_in_try and isinstance(tree, LOOPS):
        yield tree
    for child in ast.iter_child_nodes(tree):
        inner = is_in_try and not isinstance(child, FUNCTIONS)
        if isinstance(tree, ast.Try):
            in_finally = child in tree.finalbody
            inner |= child in tree.body or (bool(tree.finalbody) and not in_finally)
        elif isinstance(tree, ast.With | ast.AsyncWith):
            inner |= child in tree.body
        yield from loops_in_try(child, inner)


def code_objects(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_objects(constant)


def unguarded_jumps(source: str) -> Iterator[int]:
    """The lines that jump back to a loop out of its ``try``."""
    spans = [(loop.lineno, loop.end_lineno or 0) for loop in loops_in_try(ast.parse(source))]
    for code in code_objects(compile(source, "module", "exec")):
        table = dis._parse_exception_table(code)  # type: ignore[attr-defined]

        def is_guarded(offset: int, table: Any = table) -> bool:
            return any(entry.start <= offset < entry.end for entry in table)

        for jump in dis.get_instructions(code):
            line = jump.positions.lineno if jump.positions else None
            if (
                jump.opname == "JUMP_BACKWARD"
                and line is not None
                and any(first <= line <= last for first, last in spans)
                and is_guarded(jump.argval)
                and not is_guarded(jump.offset)
            ):
                yield line


@pytest.mark.parametrize(
    "path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.relative_to(FOLDER).as_posix()
)
def test_a_loop_begins_anew_within_its_try(path: Path) -> None:
    assert list(unguarded_jumps(path.read_text())) == []
