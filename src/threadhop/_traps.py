"""Every bare ``yield`` of the library: where a coroutine leaves the thread that runs it."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, cast


class Traveller(Protocol):
    """A task on its way from one thread to another."""

    def arrive(self, error: BaseException | None, /) -> None:
        """In the thread where it goes on."""


def _travel(task: Traveller, error: BaseException | None) -> Generator[Traveller, None, None]:
    """Suspend the whole task; whoever drives it receives *task*.

    That is either the loop's Task, which takes *task* for a future to wait for, or a worker's
    ``step``, which knows it by identity. The next line runs in the thread that resumes it.
    """
    yield task
    task.arrive(error)


#: A generator that may be awaited is a frame less than a coroutine that awaits one, on each way.
#: For type checkers it is a coroutine: nothing else may be awaited by ``async with``.
travel = cast(
    "Callable[[Traveller, BaseException | None], Coroutine[Any, Any, None]]",
    types.coroutine(_travel),
)


@types.coroutine
def checkpoint() -> Generator[None, None, None]:
    """On an asyncio loop: suspend the task for a turn of the loop, as ``sleep(0)`` does."""
    yield


async def stay() -> None:
    """Go nowhere: what is awaited where the task is in the right thread already."""
