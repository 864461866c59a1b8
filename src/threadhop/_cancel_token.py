"""Cancellations, remembered in one place: those of a task, and those of a call.

A listener is called when a cancellation comes; immediately, if one has come already. Listeners are
a call that waits for the loop (``FromThreadCall``), the coroutine of a call on its worker's own
loop, and an ``on_cancel``. A job that waits for a worker hears by ``LoopSuspension.note_cancel``. A
body that runs hears at its next check, or at its exit.

Two threads meet in that: one cancels, the other has just begun to listen. Each first leaves its
mark and then looks for the other's. ``request`` notes the cancellation, then calls the listeners;
``register`` notes the listener, then looks for a cancellation. So one of the two sees the other.
Both may, so a listener bears to be called twice.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Callable
from typing import Any

#: Never held: an attempt to take it orders what stands before and after it, on all builds.
_fence = allocate_lock()


class CancelToken:
    """The cancellations of one task, or of one call."""

    # Many wait at once. The fields that few ever write are in the ``__dict__``.
    __slots__ = ("__dict__", "why")

    #: None, or the *why* of which the loop makes the error: of several cancels the first one that
    #: was not raised yet. Written on the loop: by ``request``, and by a task whose own cancellation
    #: leaves a loop part. Cleared there by the task, which raises.
    why: Any
    #: The number of cancellations, and the *why* that was last stored in ``why``. Written by
    #: ``request``.
    count = 0
    last_why: Any = ()
    #: In order; the token gets its own when the first one listens. Each step is one of C: the
    #: garbage collector may end an ``on_cancel`` in any thread.
    _listeners: dict[Callable[[Any], object], None] = {}  # noqa: RUF012 - never written to

    def __init__(self) -> None:
        self.why = None

    def request(self, why: Any) -> None:
        """On the loop: note the cancellation, and call the listeners.

        May run in a signal handler, between any two lines of its thread, so it waits for no lock.
        Interrupted itself, it may be repeated.
        """
        self.count += 1
        if self.why is None:
            self.why = self.last_why = why
        if _fence.acquire(False):
            _fence.release()
        self.tell(why)

    def tell(self, why: Any) -> None:
        """Call the listeners."""
        for listener in [*self._listeners]:
            listener(why)

    def tell_if_away(self, job: object) -> None:
        """At *job*, when a loop part was left: an ``on_cancel`` around that hears of it now."""
        if job is not None and self.why is not None:
            self.tell(self.why)

    def register(self, listener: Callable[[Any], object]) -> None:
        """In the worker: have *listener* called when a cancellation comes; if it has come, at once.

        The thread that cancels calls it, perhaps in a signal handler, and perhaps twice.
        """
        self._add(listener)
        if self.why is not None:
            listener(self.why)

    def _add(self, listener: Callable[[Any], object]) -> None:
        self.__dict__.setdefault("_listeners", {})[listener] = None

    def unregister(self, listener: Callable[[Any], object]) -> None:
        """In the same worker, or in the thread of the collector."""
        self._listeners.pop(listener, None)

    def hand_over(self, jobs: set[Any], rest: tuple[Any, ...], task: Any) -> None:
        """On the loop, while no worker has either task: *task* takes over all but *rest*.

        The listeners in the bodies that *jobs* drive hear of its cancellations from now on. (The
        block of a listener may be left already.) May be repeated.
        """
        for listener in [*self._listeners]:
            entry = getattr(listener, "entry", None)
            if entry is not None and entry.job in jobs and entry not in rest:
                listener.caller = task  # type: ignore[attr-defined]
                task.token._add(listener)
                self.unregister(listener)
