"""Tasks that pass for asyncio's and that a block could lose: it refuses them."""

from __future__ import annotations

import asyncio
from typing import Any

from .._errors import ODD_TASK

PyFuture: type[asyncio.Future[Any]] = getattr(asyncio.futures, "_PyFuture", asyncio.Future)


def check_task(task: Any) -> None:
    """Raise RuntimeError unless *task* has what a block needs."""
    missing = _missing_in(task)
    if missing is not None:
        raise RuntimeError(ODD_TASK.format(kind=type(task).__qualname__, missing=missing))


def _missing_in(task: Any) -> str | None:
    for name in ("get_coro", "cancelling", "cancel"):
        if not hasattr(task, name):
            return name
    is_future = isinstance(task, (asyncio.Future, PyFuture))
    if is_future:
        # Granian's task in Rust calls no ``__init__``. Then ``get_coro()`` ends the process on 3.11
        # and 3.12; ``get_loop()`` raises.
        try:
            task.get_loop()
        except (AttributeError, RuntimeError):
            return "what Task.__init__() sets"
    if not hasattr(task.get_coro(), "send"):
        return "a coroutine that get_coro() returns"
    return None if is_future else "the base class asyncio.Future"


def odd_driver() -> RuntimeError:
    """The wake-up is not that of a Task."""
    return RuntimeError(ODD_TASK.format(kind="driver", missing="a wake-up of its own"))
