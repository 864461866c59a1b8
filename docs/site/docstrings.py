"""Makes Markdown of the docstrings, as far as they are something else.

They are written for ``help()``, in the style of Google, with two marks of reStructuredText:
``::`` before an indented example, and ``.. versionadded::``.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(
    r"^(?P<before>.*?) ?::\n\n(?P<code>(?:(?: {4}.*)?\n)+?)(?=\S|\Z)", re.MULTILINE
)
VERSION = re.compile(r"^\.\. versionadded:: (.+)$", re.MULTILINE)


def as_markdown(docstring: str) -> str:
    text = EXAMPLE.sub(_fenced, docstring + "\n")
    return VERSION.sub(r"*New in version \1.*", text).rstrip()


def _fenced(example: re.Match[str]) -> str:
    before = example["before"]
    colon = "" if before.endswith((".", ":")) or not before else ":"
    code = textwrap.dedent(example["code"]).strip("\n")
    return f"{before}{colon}\n\n```python\n{code}\n```\n\n"


class Docstrings(griffe.Extension):
    """Found by Griffe by its base class."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
