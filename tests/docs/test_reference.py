"""The pages in ``docs/reference/`` leave no public name out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import threadhop

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_each_public_name_is_described_once() -> None:
    """A line ``::: threadhop.NAME`` has its docstring stand there, on the site."""
    found = Counter[str]()
    for page in REFERENCE.glob("*.md"):
        found.update(re.findall(r"^::: threadhop\.(\w+)$", page.read_text("utf-8"), re.MULTILINE))
    assert found == Counter(threadhop.__all__)
