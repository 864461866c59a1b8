"""examples/legacy_report.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

EXAMPLE = Example("legacy_report", "each handler does what it promises")

#: The self-test, after something in the example was spoilt.
SPOILT = """
import asyncio, contextlib, threading
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
    EXAMPLE.check_selftest()


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)
