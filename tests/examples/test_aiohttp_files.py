"""examples/aiohttp_files.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

pytest.importorskip("aiohttp", reason="needs aiohttp, which is not installed")

pytestmark = pytest.mark.libraries

EXAMPLE = Example("aiohttp_files", "every file is right, and nothing is left behind")

#: The self-test with a program that is spoilt.
SPOILT = """
import contextlib, sys, tempfile
sys.argv[1:] = ["--selftest"]
example.PATIENCE, example.ZEROS = 1, 2 << 30
{spoil}
example.main()
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "nobody cancels a handler": (
        "example.HANDLER_CANCELLATION = False",
        "WRONG: a hash that nobody waits for holds a worker",
    ),
    "the hash does not ask": (
        "example.check_cancelled = lambda: None",
        "WRONG: a hash that nobody waits for holds a worker",
    ),
    "the partial file stays": (
        "example.os.unlink = lambda path: None",
        "WRONG: a rest is on the disk: ['.part-",
    ),
    "an upload is cut off": (
        """
named = tempfile.NamedTemporaryFile
def cut_off(**options):
    file = named(**options)
    file.write = lambda chunk: None
    return file
example.tempfile.NamedTemporaryFile = cut_off
        """,
        "WRONG: the content of n0",
    ),
    "the loop does the work": (
        """
example.threadpool = lambda *_: contextlib.nullcontext()
example.eventloop = contextlib.nullcontext
fsync = example.os.fsync
def slow(file):
    fsync(file)
    import time
    time.sleep(0.1)
example.os.fsync = slow
        """,
        "WRONG: the loop stood still for ",
    ),
}


@pytest.mark.timeout(60)
def test_the_selftest_passes() -> None:
    """Many uploads beside one that stalls; a client leaves in the middle of each handler."""
    EXAMPLE.check_selftest()


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)
