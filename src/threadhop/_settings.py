"""The one process-wide setting: the executor that is used where none is named."""

from __future__ import annotations

from concurrent.futures import Executor

#: Replaced as a whole, never mutated: a reader sees the old one or the new one.
executor: Executor | None = None
