"""``python -m threadhop check PATH…``"""

from __future__ import annotations

import io
import os
import sys
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from ._report import Problem, check_source

SUFFIXES = (".py", ".pyi")


class CannotReadError(Exception):
    """Its text is a line for the user."""


def check(paths: Iterable[str]) -> int:
    """Print what is found; return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    files, status = set[str](), 0
    for path in paths:
        if not os.path.exists(path):
            sys.stderr.write(f"{path}: no such file or folder\n")
            status = 2
        files.update(files_in(path))
    for file in sorted(files):
        try:
            problems = check_file(file)
        except CannotReadError as error:
            sys.stderr.write(f"{error}\n")
            status = 2
            continue
        for problem in problems:
            place = f"{file}:{problem.line}:{problem.column}"
            sys.stdout.write(f"{place}: {problem.number} {problem.text}\n")
            status = status or 1
    return status


def files_in(path: str) -> Iterator[str]:
    """*path*, or the Python files below it, but for hidden folders and virtual environments."""
    if os.path.isfile(path):
        yield path
    for folder, folders, names in os.walk(path):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name != "__pycache__"
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        found = (os.path.join(folder, name) for name in names if name.endswith(SUFFIXES))
        yield from filter(os.path.isfile, found)  # No links that lead nowhere.


def check_file(file: str) -> list[Problem]:
    try:
        source = _decoded(Path(file).read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of odd literals: the interpreter tells them.
            return check_source(source)
    except SyntaxError as error:
        raise CannotReadError(
            f"{file}:{error.lineno or 1}: cannot be parsed: {error.msg}"
        ) from None
    except (OSError, ValueError, tokenize.TokenError) as error:  # ValueError: a null byte.
        raise CannotReadError(f"{file}:1: cannot be read: {error}") from None
    except (RecursionError, MemoryError):
        raise CannotReadError(f"{file}:1: cannot be parsed: nested too deeply") from None


def _decoded(content: bytes) -> str:
    """As Python reads it: by the BOM, or by the encoding that its first lines name, else UTF-8."""
    encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
    try:
        return io.TextIOWrapper(io.BytesIO(content), encoding).read()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SyntaxError(f"it is not {error.encoding}", ("", line, 0, "")) from None
