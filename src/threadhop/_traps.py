"""Every bare ``yield`` of the library: where a coroutine leaves the thread that runs it."""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")


@types.coroutine
def hand_over(marker: T) -> Generator[T, None, None]:
    """Suspend the whole task; whoever drives it receives *marker*.

    That is either the loop's Task, which takes *marker* for a future to wait for, or a worker's
    ``step``, which knows it by identity. The next line runs in the thread that resumes the task.
    """
    yield marker


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """On an asyncio loop: suspend the task for a turn of the loop, as ``sleep(0)`` does."""
    yield


async def stay() -> None:
    """Go nowhere: what is awaited where the task is in the right thread already."""
