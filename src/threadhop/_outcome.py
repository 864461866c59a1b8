"""How a coroutine ended: with a value or with an error."""

from __future__ import annotations

from typing import Any, NamedTuple


class Outcome(NamedTuple):
    """A coroutine ran to its end: *error* if that is not None, else *value*."""

    value: Any
    error: BaseException | None

    def result(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is None:
            return self.value
        try:
            raise self.error
        finally:
            del self  # The error refers to this frame.
