"""The program that shows the five ways to call, and its check of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.child import run_in_child

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "calls.py")
VERDICT = "all five are right\n"

RUN = """
import asyncio, runpy, threadhop
{spoil}
runpy.run_path({example!r}, run_name="__main__")
"""

#: A fault, and the line that has to tell of it.
SPOILS = {
    "the function runs on the loop thread": (
        """
def exec_in_executor(executor, func, *args):
    future = asyncio.get_running_loop().create_future()
    future.set_result(func(*args))
    return future

threadhop.exec_in_executor = exec_in_executor
""",
        "WRONG: the loop was blocked\n",
    ),
    "the call home never leaves the worker": (
        """
def exec_in_eventloop(func, *args):
    return threadhop.ensure_thread_event_loop().run_until_complete(func(*args))

threadhop.exec_in_eventloop = exec_in_eventloop
""",
        "its page was fetched by the main thread for cleo\n",
    ),
    "the context is lost": (
        """
import contextvars
copy = contextvars.Context
from threadhop import _call_job
_call_job._copy_context = copy
""",
        "LookupError",
    ),
}


def test_all_five_run_and_are_right() -> None:
    """One after another in one process, without a warning."""
    child = run_in_child(RUN.format(spoil="", example=EXAMPLE), options=["-W", "error"])
    assert (child.stderr, child.returncode) == ("", 0)
    lines = child.stdout.splitlines(keepends=True)
    assert len(lines) == 6
    assert lines[-1] == VERDICT


@pytest.mark.parametrize("spoilt", SPOILS)
def test_it_fails_when(spoilt: str) -> None:
    """With an exit status of 1, and a line that says what is wrong."""
    spoil, message = SPOILS[spoilt]
    child = run_in_child(RUN.format(spoil=spoil, example=EXAMPLE))
    assert child.returncode == 1
    assert message in child.stderr
    assert VERDICT not in child.stdout
