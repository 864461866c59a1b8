"""examples/django_async_view.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

pytest.importorskip("django", reason="needs Django, which is not installed")
pytest.importorskip("uvicorn", reason="needs uvicorn, which is not installed")

pytestmark = pytest.mark.libraries

EXAMPLE = Example("django_async_view", "every order is right, and nothing is left behind")

#: The self-test with a program that is spoilt.
SPOILT = """
import asyncio, contextlib, sys
sys.argv[1:] = ["--selftest"]
{spoil}
example.main()
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "nothing is rolled back": (
        "example.transaction.atomic = contextlib.nullcontext",
        "WRONG: 50 orders, 0 copies are left",
    ),
    "the worker does not know the language": (
        "example.translation.override = contextlib.nullcontext",
        ", in the block",
    ),
    "the worker does not know the time zone": (
        "example.timezone.override = contextlib.nullcontext",
        ", in the block",
    ),
    "the language is lost after the block": (
        """
import types
of_django = example.translation
example.translation = types.SimpleNamespace(
    get_language=of_django.get_language,
    override=of_django.override,
    activate=lambda language: None,
)
        """,
        " became en",
    ),
    "nobody closes old connections": (
        "example.close_old_connections = lambda: None",
        "WRONG: after a restart of the database: ",
    ),
    "the report does not ask": (
        "example.check_cancelled = lambda: None",
        "WRONG: the report went on without its client",
    ),
}


@pytest.mark.timeout(60)
def test_the_selftest_passes() -> None:
    """Orders, languages and time zones, a restart of the database, a client that leaves."""
    EXAMPLE.check_selftest()


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)
