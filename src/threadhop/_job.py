"""The job that this thread does.

``_loops.job_here`` asks for it first, and then whether a task of another loop runs in it:
``asyncio.run()`` in the body of a block is legal.

Each thread that asks has one slot for its current job, and all slots are listed: ``all_slots``
shows what runs where.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any, Protocol

from ._cancel_token import CancelToken


class _PublicEvents:
    """In the place of ``asyncio`` where that lacks the name. The error in here costs time."""

    @staticmethod
    def _get_running_loop() -> AbstractEventLoop | None:
        try:
            return asyncio.get_running_loop()
        except RuntimeError:
            return None


#: Tells which loop runs in this thread. Its function is looked up each time: trio-asyncio replaces
#: it in ``asyncio``.
events: type[_PublicEvents] = (
    asyncio if hasattr(asyncio, "_get_running_loop") else _PublicEvents  # type: ignore[assignment]
)


class Caller(Protocol):
    """The task of a block, or a call: a worker works for it."""

    #: The ``FromThreadCall`` that its worker waits for. Written by the worker.
    calling: Any

    @property
    def token(self) -> CancelToken: ...

    def run_on_loop(self, func: Callable[[], Any]) -> Any:
        """In the worker: call *func* on the caller's loop, and wait."""
        ...

    def cancellation(self) -> BaseException:
        """In the worker, if the token says so: a new error of the caller's cancellation."""
        ...

    def is_gone(self) -> bool:
        """In any thread: whether nothing comes from the caller's loop any more."""
        ...


class RunningJob(Protocol):
    """The job of a block, or a call, while a worker does it."""

    @property
    def executor(self) -> Any: ...

    @property
    def strand(self) -> Any:
        """The strand of the task in the block; None for a call, which is no task."""

    @property
    def caller(self) -> Caller | None: ...

    def where(self) -> str:
        """The ``file:line`` of the block, or the name of the function."""
        ...

    def title(self) -> str:
        """In any thread: the name of the task, or of the function."""
        ...


class Slot:
    """The job that a thread does at the moment. Written by that thread only, read by all.

    In the child of a fork the thread that is left writes to all.
    """

    __slots__ = ("__weakref__", "has_loop", "job", "thread")

    def __init__(self) -> None:
        #: None outside of jobs.
        self.job: RunningJob | None = None
        self.thread = threading.get_ident()
        #: Whether a call was offered an event loop of the thread's own.
        self.has_loop = False


#: By the ident of the thread, which is soon another's when it has ended: so few are left behind.
#: A finalizer may ask for a slot in the middle of anything: no lock, each step is one of C.
_slots: dict[int, weakref.ref[Slot]] = {}


class _Current(threading.local):
    """The slot of this thread."""

    def __init__(self) -> None:
        """Called once in each thread that asks."""
        self.slot = Slot()
        _slots[self.slot.thread] = weakref.ref(self.slot)


current = _Current()


def _after_fork() -> None:
    """In the child: the thread that forked works for no task and no call any more."""
    for slot in all_slots():
        job, slot.job = slot.job, None
        if job is not None and job.strand is not None:
            job.strand.release_workers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def name_of_thread(ident: int) -> str:
    """In any thread: without what a worker adds to it."""
    for thread in threading.enumerate():
        if thread.ident == ident:
            return getattr(thread, "base_name", thread.name)
    return "a thread"


def title_of(thread: int | None) -> str | None:
    """In any thread: for what *thread* works now, if it does."""
    ref = _slots.get(thread) if thread is not None else None
    slot = None if ref is None else ref()
    job = None if slot is None else slot.job
    return None if job is None else job.title()


def all_slots() -> list[Slot]:
    """In any thread: the slots of all threads that have asked and live."""
    return [slot for ref in _slots.copy().values() if (slot := ref()) is not None]
