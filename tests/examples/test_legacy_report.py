"""examples/legacy_report.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from _child import run_in_child

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "legacy_report.py")
VERDICT = "each handler does what it promises\n"

#: The self-test, after something in the example was spoilt.
SPOILT = """
import asyncio, contextlib, importlib.util, sys, threading

spec = importlib.util.spec_from_file_location("legacy_report", {example!r})
example = sys.modules["legacy_report"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(example)
with_calls, threadpool, ensure_free = example.with_calls, example.threadpool, example.ensure_free
{spoil}
asyncio.run(example.selftest())
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "the guard does nothing": (
        "example.cancellation_guard = contextlib.nullcontext",
        "WRONG: guard: except: block, calls: Outcome(saw='office, block', late=5, client_got='no r",
    ),
    "the check does nothing": (
        "example.check_cancelled = lambda: None",
        "WRONG: block, calls: Outcome(saw='office, block', late=5, client_got='TimeoutError')",
    ),
    "the block forgets what was swallowed in it": (
        """
@contextlib.asynccontextmanager
async def forgetful(executor):
    with contextlib.suppress(asyncio.CancelledError):
        async with threadpool(executor):
            yield

example.threadpool = forgetful
        """,
        "WRONG: block, calls: Outcome(saw='office', late=5, client_got='0: ",
    ),
    "the figures are wrong": (
        "example.exec_in_eventloop = lambda func, chapter: 7",
        "WRONG: block, nobody cancelled: 0: ",
    ),
    "a worker is held": (
        """
looked = threading.Event()

async def hold(executor, sources):
    try:
        return await with_calls(executor, sources)
    finally:
        if sources.silent is not None:  # once: the other worker is free
            executor.submit(looked.wait)

async def look(executor, workers):
    example.LIMIT = 1
    try:
        await ensure_free(executor, workers)
    finally:
        looked.set()

example.RUNNERS["calls"], example.ensure_free = hold, look
        """,
        "WRONG: a worker is held",
    ),
}


@pytest.mark.timeout(60)
def test_the_selftest_passes() -> None:
    """Every handler, in every way, does what the table of the example promises."""
    child = run_in_child(
        f"""
        import runpy, sys
        sys.argv[1:] = ["--selftest"]
        runpy.run_path({EXAMPLE!r}, run_name="__main__")
        """,
        deadline=50,
        options=["-W", "error"],
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.endswith(VERDICT)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spoilt", SPOILS)
def test_the_selftest_fails_when(spoilt: str) -> None:
    """With an exit status of 1, and a line that says what is wrong."""
    spoil, message = SPOILS[spoilt]
    child = run_in_child(SPOILT.format(example=EXAMPLE, spoil=spoil), deadline=50)
    assert child.returncode == 1
    assert message in child.stderr
    assert VERDICT not in child.stdout
