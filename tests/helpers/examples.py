"""The programs in ``examples/``, each with a self-test, which must notice what a test spoils."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.child import run_in_child

#: What a program that spoils one begins with: the module is ``example``.
LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location({name!r}, {path!r})
example = sys.modules[{name!r}] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
"""


class Example:
    """One of them; *verdict* is the last line of its self-test, if all is right."""

    def __init__(self, name: str, verdict: str) -> None:
        self.name = name
        self.path = str(Path(__file__).parents[2] / "examples" / f"{name}.py")
        self.verdict = verdict + "\n"

    def check_selftest(self, *options: str, deadline: float = 50) -> str:
        """It must pass, without a warning. Returns what it printed."""
        __tracebackhide__ = True
        child = run_in_child(
            f"""
            import runpy, sys
            sys.argv[1:] = {["--selftest", *options]}
            runpy.run_path({self.path!r}, run_name="__main__")
            """,
            deadline=deadline,
            options=["-W", "error"],
        )
        assert (child.returncode, child.stderr) == (0, "")
        assert child.stdout.endswith(self.verdict)
        return child.stdout

    def run_spoilt(self, source: str) -> subprocess.CompletedProcess[str]:
        """Run *source*, which spoils ``example`` and begins its self-test."""
        load = LOAD.format(name=self.name, path=self.path)
        return run_in_child(load + source, deadline=50)

    def check_that_it_fails(self, source: str, message: str) -> None:
        """With an exit status of 1, and a line that says what is wrong."""
        __tracebackhide__ = True
        child = self.run_spoilt(source)
        assert child.returncode == 1, child.stderr
        assert message in child.stderr, child.stderr
        assert self.verdict not in child.stdout

    def test_that_it_fails(
        self, program: str, spoils: dict[str, tuple[str, str]], timeout: float = 60, **more: object
    ) -> Callable[[str], None]:
        """Return the test of all *spoils*: what goes into *program*, and what is said of it.

        *more* goes into *program*, too.
        """

        @pytest.mark.spoils
        @pytest.mark.timeout(timeout)
        @pytest.mark.parametrize("spoilt", spoils)
        def test(spoilt: str) -> None:
            spoil, message = spoils[spoilt]
            self.check_that_it_fails(program.format(spoil=spoil, **more), message)

        return test
