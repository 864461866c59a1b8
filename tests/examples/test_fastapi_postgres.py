"""examples/fastapi_postgres.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers.examples import Example
from helpers.postgresql import REASON, find_programs

EXAMPLE = Example("fastapi_postgres", "every transaction is whole, and nothing is left behind")
PAGE = Path(__file__).parents[2] / "docs" / "frameworks" / "fastapi-and-postgresql.md"

PACKAGES = ("anyio", "fastapi", "httpx", "psycopg", "sqlalchemy", "uvicorn", "uvloop")
MISSING = [name for name in PACKAGES if find_spec(name) is None]
needs_packages = pytest.mark.skipif(
    bool(MISSING), reason=f"the extras 'test' and 'libraries' are not installed: {MISSING}"
)
needs_postgresql = pytest.mark.skipif(find_programs() is None, reason=REASON)

#: The self-test with a service that is spoilt.
SPOILT = """
import asyncio, contextlib, functools, os, uvloop
{spoil}
with example.postgresql() as url:
    os.environ["DATABASE_URL"] = url.replace("postgresql", "postgresql+psycopg", 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(example.selftest(url))
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "a transaction is none": (
        """
example.create_engine = functools.partial(example.create_engine, isolation_level="AUTOCOMMIT")
        """,
        "WRONG: a missing account: a change is half done",
    ),
    "a query is not cancelled": (
        "example.on_cancel = lambda callback: contextlib.nullcontext()",
        "WRONG: it never came: /transfers?source=1&target=2&amount=1, whose client has left",
    ),
    "a commit is cancelled": (
        """
cancellable = example.cancellable

@contextlib.contextmanager
def cancellable_to_the_commit(session):
    with cancellable(session):
        yield
        session.commit()

async def skip(*arguments):
    pass

example.cancellable = cancellable_to_the_commit
example.check_many = example.check_leaving = skip
        """,
        "WRONG: a commit was interrupted",
    ),
}


@needs_packages
@needs_postgresql
@pytest.mark.libraries
@pytest.mark.timeout(110)
def test_the_selftest_passes() -> None:
    """Many at once, errors, clients that leave at each moment, and too many."""
    EXAMPLE.check_selftest(deadline=100)


test_the_selftest_fails_when = needs_packages(
    needs_postgresql(EXAMPLE.test_that_it_fails(SPOILT, SPOILS, timeout=110))
)


BLOCKS = re.findall(r"^```py\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_shows_what_the_selftest_proves() -> None:
    """Word for word, but for the imports, of which the self-test needs more."""
    source = Path(EXAMPLE.path).read_text("utf-8")
    parts = [part for block in BLOCKS for part in block.strip("\n").split("\n\n")]
    shown = [part for part in parts if not part.startswith(("import ", "from "))]
    assert len(shown) > 10
    assert [part for part in shown if part not in source] == []


@needs_packages
@pytest.mark.libraries
def test_the_blocks_of_the_page_import_what_they_need() -> None:
    """Put together they are the application."""
    names: dict[str, Any] = {"__name__": "application"}
    exec("\n\n".join(BLOCKS), names)
    assert {"/transfers", "/deposits"} <= set(names["app"].openapi()["paths"])
    # The modules that are looked up when a request comes.
    assert {"anyio", "asyncio", "os", "threading"} <= set(names)
