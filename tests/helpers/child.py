"""Running a piece of Python in a process of its own, for tests that may hang or crash."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence

import pytest

CAN_ASK_FOR_STACKS = os.name == "posix"

# Not -X faulthandler: that shows only one thread on PyPy.
_PRELUDE = "import faulthandler as _; _.enable(all_threads=True); del _\n"

#: For programs that put threads and tasks into an order, as ``helpers.steps`` does for tests.
STEPS = """
import asyncio, os, sys, time

def say(*words):
    # In one go: several threads say something.
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

def wait_until(condition):
    deadline = time.monotonic() + 8
    while not condition():
        if time.monotonic() > deadline:
            say("it never came to be")
            os._exit(3)
        time.sleep(0.001)

async def until(condition):
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
"""


def run_in_child(
    source: str,
    deadline: float = 15,
    *,
    options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the program *source* with this interpreter and return its output and exit status.

    A child that is still there after *deadline* seconds fails the test, with the stacks of all
    its threads. The deadline also covers the end of the process, when the interpreter joins its
    threads. Keep it below the time limit of the test, or that one wins and shows no stacks.

    Args:
        source: The program, without ``from __future__``; common indentation is removed.
        deadline: In seconds.
        options: Options of the interpreter, for example ``["-X", "dev"]``.
        env: Environment variables beside those of this process.
    """
    __tracebackhide__ = True
    child = subprocess.Popen(
        # Unbuffered: what a child printed before it hung is part of the story.
        [sys.executable, "-u", *options, "-c", _PRELUDE + textwrap.dedent(source).lstrip("\n")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",
        env={**os.environ, **(env or {})},
        # A process group of its own, so that no grandchild survives and holds the pipes open.
        start_new_session=True,
    )
    with child:
        try:
            stdout, stderr = child.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            stdout, stderr = _end(child)
            pytest.fail(
                f"the child did not end within {deadline} s\n"
                f"--- stdout ---\n{stdout}\n--- stderr, with the stacks ---\n{stderr}"
            )
        except BaseException:  # the time limit of the test, Ctrl+C
            _end(child)
            raise
    return subprocess.CompletedProcess(child.args, child.returncode, stdout, stderr)


def _end(child: subprocess.Popen[str]) -> tuple[str, str]:
    """End *child*, if possible with the stacks of all its threads on stderr."""
    if CAN_ASK_FOR_STACKS:
        child.send_signal(signal.SIGABRT)  # faulthandler answers with the stacks
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=2)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    return child.communicate(timeout=5)
