"""The programs in ``tests/benchmarks``, run as by a user, on the threadhop under test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import threadhop

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run_program(
    name: str, *arguments: str, before: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it with *arguments*; *before* is code between its import and its ``main``."""
    code = f"import sys, {name}\n{before}\nsys.exit({name}.main())"
    program = [str(FOLDER / f"{name}.py")] if before is None else ["-c", code]
    places = [str(FOLDER), str(Path(threadhop.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", *program, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        encoding="utf-8",
        timeout=15,
        check=False,
    )
