"""What pages list is there, and what is there they list."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import threadhop
from threadhop import _errors

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
SECURITY, RELIABILITY, TROUBLESHOOTING = (
    (DOCS / page).read_text("utf-8")
    for page in ("explanation/security.md", "explanation/reliability.md", "troubleshooting.md")
)


def test_the_reference_describes_each_public_name_once() -> None:
    """A line ``::: threadhop.NAME`` has its docstring stand there, on the site."""
    found = Counter[str]()
    for page in (DOCS / "reference").glob("*.md"):
        found.update(re.findall(r"^::: threadhop\.(\w+)$", page.read_text("utf-8"), re.MULTILINE))
    assert found == Counter(threadhop.__all__)


# --- tests that a page names

#: A sentence in italics is the name of a test; a single word is not.
SENTENCES = re.findall(r"(?<!\*)\*([a-z]+(?:\s[a-z]+){2,})\*(?!\*)", SECURITY)
FILES = re.findall(r"`((?:\w+/)?test_\w+\.py)`", SECURITY)
TESTS_OF_FILES = re.findall(r"`([\w/]+\.py)::(\w+)`", RELIABILITY)


def test_each_test_that_the_page_on_security_names_is_there() -> None:
    found = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
    }
    names = ["test_" + "_".join(sentence.split()) for sentence in SENTENCES]
    assert len(names) >= 7
    assert [name for name in names if name not in found] == []
    assert FILES
    assert [file for file in FILES if not (TESTS / file).exists()] == []


def test_each_test_that_the_page_on_reliability_names_is_in_its_file() -> None:
    assert TESTS_OF_FILES
    for file, name in TESTS_OF_FILES:
        assert f"def {name}(" in (TESTS / file).read_text("utf-8"), name


# --- docs/troubleshooting.md

TEXTS = {
    name: text
    for name, text in vars(_errors).items()
    if name.isupper() and not name.startswith("_") and isinstance(text, str)
}
#: The first cell of each row of a table. The rows at the top of a table have no code in theirs.
ENTRIES = re.findall(r"^\| `([^`]+)` \|", TROUBLESHOOTING, re.MULTILINE)


def is_entry_of(entry: str, text: str) -> bool:
    """An entry is the beginning of its text; "…" stands for anything within."""
    return re.match(".+?".join(map(re.escape, entry.split("…"))), text) is not None


def test_each_text_of_an_error_or_a_warning_has_an_entry_and_each_entry_a_text() -> None:
    missing = {
        name for name, text in TEXTS.items() if not any(is_entry_of(e, text) for e in ENTRIES)
    }
    assert missing == set()
    assert [e for e in ENTRIES if not any(is_entry_of(e, text) for text in TEXTS.values())] == []
    assert len(ENTRIES) == len(set(ENTRIES)) > 50


def test_an_entry_begins_where_its_text_begins() -> None:
    """What stands in the middle of a text is not found by somebody who reads its first words."""
    assert is_entry_of("a … of", "a {number} of them")
    assert not is_entry_of("of", "a {number} of them")
