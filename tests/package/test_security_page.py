"""docs/explanation/security.md names the tests that hold its claims: they are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "explanation" / "security.md").read_text("utf-8")

#: A sentence in italics is the name of a test; a single word is not.
SENTENCES = re.findall(r"(?<!\*)\*([a-z]+(?:\s[a-z]+){2,})\*(?!\*)", PAGE)
FILES = re.findall(r"`((?:\w+/)?test_\w+\.py)`", PAGE)


def test_each_test_that_the_page_names_is_there() -> None:
    found = {
        name
        for file in TESTS.rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))
    }
    names = ["test_" + "_".join(sentence.split()) for sentence in SENTENCES]
    assert len(names) >= 7
    assert [name for name in names if name not in found] == []


def test_each_file_that_the_page_names_is_there() -> None:
    assert FILES
    assert [file for file in FILES if not (TESTS / file).exists()] == []
