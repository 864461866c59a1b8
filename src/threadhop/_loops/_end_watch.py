"""An asyncio loop that waits at its end for bodies and calls says, once, for which ones.

``asyncio.run`` first cancels all tasks, and waits for them; then it shuts the default executor
down, and waits for that. Nothing tells that the end has begun. But a task that is cancelled while
no loop runs in its thread is cancelled by somebody who ends the loop; and a task runs the coroutine
``shutdown_default_executor``. So a cancellation of what works on has the loop look a little later.
Until then nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from _thread import get_ident
from asyncio import AbstractEventLoop
from typing import Any, Protocol

from .. import _lifetime, _patience
from .._errors import RUN_WAITS, warn
from .._job import events


class HasEnded(Protocol):
    def has_ended(self) -> bool: ...


class Owner(Protocol):
    @property
    def thread(self) -> threading.Thread | None: ...


class EndWatch:
    """Of one loop. All in the loop thread."""

    def __init__(self) -> None:
        #: Whether a timer runs.
        self._is_watching = False
        self._is_ending = False
        #: The calls that were cancelled and may run on.
        self._calls: list[HasEnded] = []

    def watch(self, owner: Owner, loop: AbstractEventLoop | None, call: HasEnded | None) -> None:
        """Look a little later whether the end of *loop* waits. *owner* stands for *loop*.

        Nothing is done in a wrong thread, from which somebody has cancelled a task.
        """
        if owner.thread is None or owner.thread.ident != get_ident():
            return
        if events._get_running_loop() is None:
            self._is_ending = True
        if call is not None:
            self._calls.append(call)
        if not self._is_watching and loop is not None:
            with contextlib.suppress(RuntimeError):  # It is closed.
                loop.call_later(_patience.LIMIT, self._look, owner, loop)
                self._is_watching = True

    def _look(self, owner: Owner, loop: AbstractEventLoop) -> None:
        self._is_watching = False
        self._calls = [call for call in self._calls if not call.has_ended()]
        if self._is_ending:
            self._is_ending = False
            if bodies := _lifetime.bodies_of(owner):
                warn(RUN_WAITS, _patience.LIMIT, ", ".join(bodies))
        elif self._calls:
            self._is_ending = any(map(_shuts_down, asyncio.all_tasks(loop)))
            loop.call_later(_patience.LIMIT, self._look, owner, loop)
            self._is_watching = True


def _shuts_down(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == "shutdown_default_executor"
