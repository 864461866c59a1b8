"""Programs for the checker whose comments say what it must find in their lines."""

from __future__ import annotations

import re
import textwrap

from threadhop._check._report import check_source

IMPORTS = """\
import asyncio
import contextlib
import threadhop
from threadhop import eventloop, exec_in_eventloop, threadpool
"""


def program(source: str) -> str:
    return IMPORTS + textwrap.dedent(source)


def in_a_block(lines: str) -> str:
    """A program with *lines* as the body of a block."""
    body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
    return f"{IMPORTS}async def main(x, y, lock):\n    async with threadpool():\n{body}\n"


def found(source: str) -> list[tuple[int, str]]:
    """Line and number of each problem."""
    return [(problem.line, problem.number) for problem in check_source(source)]


def expected(source: str) -> list[tuple[int, str]]:
    """As the comments say: ``# THR101 THR106`` is two problems of that line."""
    return [
        (line, number)
        for line, text in enumerate(source.split("\n"), 1)
        for comment in re.findall(r"# (THR\d+(?: THR\d+)*)$", text)
        for number in sorted(comment.split())
    ]
