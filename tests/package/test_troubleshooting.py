"""docs/troubleshooting.md has an entry for each text of ``_errors.py``, and for nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from threadhop import _errors

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"

TEXTS = {
    name: text
    for name, text in vars(_errors).items()
    if name.isupper() and not name.startswith("_") and isinstance(text, str)
}
#: The first cell of each row of a table. The rows at the top of a table have no code in theirs.
ENTRIES = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text("utf-8"), re.MULTILINE)


def is_entry_of(entry: str, text: str) -> bool:
    """An entry is the beginning of its text; "…" stands for anything within."""
    return re.match(".+?".join(map(re.escape, entry.split("…"))), text) is not None


def test_each_text_of_an_error_or_a_warning_has_an_entry() -> None:
    missing = {
        name for name, text in TEXTS.items() if not any(is_entry_of(e, text) for e in ENTRIES)
    }
    assert missing == set()


def test_each_entry_is_the_beginning_of_a_text() -> None:
    """Should a text change, or go."""
    unknown = [e for e in ENTRIES if not any(is_entry_of(e, text) for text in TEXTS.values())]
    assert unknown == []


def test_no_entry_stands_there_twice() -> None:
    assert len(ENTRIES) == len(set(ENTRIES)) > 50


def test_an_entry_begins_where_its_text_begins() -> None:
    """What stands in the middle of a text is not found by somebody who reads its first words."""
    assert is_entry_of("a … of", "a {number} of them")
    assert not is_entry_of("of", "a {number} of them")
