"""examples/anyio_service.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

pytest.importorskip("starlette.applications", reason="needs Starlette, which is not installed")
pytest.importorskip("uvicorn", reason="needs uvicorn, which is not installed")

EXAMPLE = Example("anyio_service", "everybody was told, once, and nothing is left behind")

#: The self-test with a service that is spoilt.
SPOILT = """
import asyncio
example.PATIENCE = 2
{spoil}
asyncio.run(example.selftest())
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "a report does not ask": (
        "example.check_cancelled = lambda: None",
        "WRONG: the report of /watched was returned",
    ),
    "nobody watches the client": (
        """
import contextlib
example.while_the_client_stays = lambda request: contextlib.nullcontext()
        """,
        "WRONG: the report of /watched was returned",
    ),
    "anyio cancels on each turn": (
        """
from threadhop._loops import _anyio_scopes
_anyio_scopes.is_in_scope = lambda: False
        """,
        "WRONG: the task of /watched was cancelled ",
    ),
    "a worker is held": (
        """
import threading
counted = threading.Event()
check, count = example.check, example.count_free_workers

async def check_and_hold(port, path, stays, outcome, service):
    await check(port, path, stays, outcome, service)
    if path == "/limited":
        service._executor.submit(counted.wait)

async def count_free_workers(executor):
    example.PATIENCE = 0.5
    try:
        return await count(executor)
    finally:
        counted.set()

example.check, example.count_free_workers = check_and_hold, count_free_workers
        """,
        "WRONG: a worker is held",
    ),
}


@pytest.mark.timeout(60)
def test_the_selftest_passes() -> None:
    """Each path, with a client that leaves and with one that stays."""
    EXAMPLE.check_selftest(deadline=50)


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)
