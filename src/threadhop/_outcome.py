"""How a coroutine ended: with a value or with an error, kept until somebody wants it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Ended(NamedTuple):
    """A coroutine ran to its end: *error* if that is not None, else *value*."""

    value: Any
    error: BaseException | None
