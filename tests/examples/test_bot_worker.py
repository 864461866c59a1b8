"""examples/bot_worker.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

pytest.importorskip("requests", reason="needs requests, which is not installed")

pytestmark = pytest.mark.libraries

EXAMPLE = Example("bot_worker", "every message came to its end, and nothing is left behind")

#: The self-test with a program that is spoilt.
SPOILT = """
import asyncio, contextlib, sys
sys.argv[1:] = ["--selftest"]
example.PATIENCE = 4
# A request that nobody ends would hold up the end of the process.
post = example.requests.Session.post
example.requests.Session.post = lambda self, *args, timeout, **options: post(
    self, *args, timeout=3, **options
)
{spoil}
example.main()
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "nobody ends a request": (
        "example.on_cancel = lambda *_: contextlib.nullcontext()",
        "WRONG: it took ",
    ),
    "the socket is not shut down": (
        "example.Client.abort = lambda self: None",
        "WRONG: it took ",
    ),
    "there is no second try": (
        "example.TRIES = 1",
        "WRONG: not all were delivered",
    ),
    "an answer is not looked at": (
        "example.requests.Response.raise_for_status = lambda self: None",
        "WRONG: not all were delivered",
    ),
    "the workers are not ended": (
        """
class Kept(example.WorkerPool):
    def __exit__(self, *_):
        pass
example.WorkerPool = Kept
        """,
        "WRONG: these workers are left: ['http_",
    ),
}


@pytest.mark.timeout(60)
def test_the_selftest_passes() -> None:
    """Requests that fail, that hang and that are given up; a bot that is cancelled."""
    EXAMPLE.check_selftest()


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)
