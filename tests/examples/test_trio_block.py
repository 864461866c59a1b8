"""examples/trio_block.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import pytest
from helpers.examples import Example

pytest.importorskip("trio")

EXAMPLE = Example("trio_block", "every row is right, and nothing is left behind")

SPOILT = """
import contextlib, sys
example.ROWS = 100
sys.argv[1:] = ["--selftest"]
{spoil}
example.main()
"""

SPOILS = {
    "the database is read on trio": (
        "example.threadpool = example.eventloop = lambda *_: contextlib.nullcontext()",
        "WRONG: the database was used on {'MainThread'}",
    ),
    "one row is another": (
        """
fill = example.fill
def spoil(database, count):
    fill(database, count)
    with example.closing(example.sqlite3.connect(database)) as db, db:
        db.execute("UPDATE readings SET celsius = 99.0 WHERE id = 7")
example.fill = spoil
        """,
        "WRONG: the rows above",
    ),
    "the connection stays open": (
        """
class Left(contextlib.nullcontext):
    pass
closing, example.closing = example.closing, lambda db: (
    Left(db) if type(db).__name__ == "Connection" and type(db).__module__ == "trio_block"
    else closing(db)
)
        """,
        "WRONG: a handler that was cut off keeps its connection",
    ),
}


def test_its_selftest_passes() -> None:
    EXAMPLE.check_selftest()


@pytest.mark.spoils
@pytest.mark.parametrize("spoil", SPOILS)
def test_its_selftest_notices(spoil: str) -> None:
    source, message = SPOILS[spoil]
    child = EXAMPLE.run_spoilt(SPOILT.format(spoil=source))
    assert child.returncode != 0
    assert message in child.stderr
    assert EXAMPLE.verdict not in child.stdout
