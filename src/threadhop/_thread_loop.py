"""The event loop of a thread's own: for coroutine functions that run on a worker.

Each worker could have one open from its first job on. Three file descriptors a thread are too much
for a loop that most jobs never ask for. So a thread gets one whose set-up is put off until its
first use: an instance whose ``__init__`` has not run. The first look at anything that ``__init__``
would have made runs it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from _thread import get_ident
from asyncio import AbstractEventLoop, Task
from collections.abc import Coroutine
from functools import partial
from typing import Any

from ._cancel_token import CancelToken
from ._errors import LOOP_RUNS_HERE
from ._job import events

_Base: Any = getattr(asyncio, "ProactorEventLoop", asyncio.SelectorEventLoop)


class LazyEventLoop(_Base):  # type: ignore[misc]
    """A loop of the usual kind that opens nothing before it is used."""

    def __init__(self) -> None:
        """Not yet."""

    def _set_up(self) -> None:
        self.__class__ = _Base
        try:
            self.__init__()  # type: ignore[misc]
        except BaseException:
            self.__dict__.clear()
            self.__class__ = LazyEventLoop
            raise

    def __getattr__(self, name: str) -> Any:
        """Called only for what is not there: everything that ``__init__`` would have made."""
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._set_up()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "__class__":
            self._set_up()
        object.__setattr__(self, name, value)

    # Questions that the usual case must not open files for.

    def is_closed(self) -> bool:
        return False

    def is_running(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<{_Base.__name__} unused>"

    def __del__(self, **kwargs: Any) -> None:
        """Nothing to close."""


class _Own(threading.local):
    """The loop of this thread, and whether its end is seen to."""

    loop: asyncio.AbstractEventLoop | None = None
    #: Whether the user wants it to be the current loop, also in blocks.
    is_wanted = False
    ends_well = False
    finalizer: _Finalizer | None = None


_own = _Own()


def ensure_thread_event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the calling thread's own: made at the first call, the same ever after.

    ``asyncio.get_event_loop()`` finds it: it is set as the thread's current event loop, unless
    there is another one. The loop opens no file before it is used. When the thread ends, its tasks
    are cancelled, its async generators shut down, and it is closed. ::

        loop = ensure_thread_event_loop()
        loop.run_until_complete(coroutine)

    The function may be the initializer of a pool: each worker of
    ``ThreadPoolExecutor(initializer=ensure_thread_event_loop)`` has its loop. ``exec_in_executor``
    runs coroutine functions on it.

    In a thread whose loop is running, it is that one.

    Runs in the calling thread; never waits.

    .. versionadded:: 0.1
    """
    running = events._get_running_loop()
    if running is not None:
        return running
    _own.is_wanted = True
    return loop_of_this_thread()


def loop_of_this_thread() -> asyncio.AbstractEventLoop:
    """The loop of the thread's own, made if there is none, and set as the current one."""
    loop = _own.loop
    if loop is None or loop.is_closed():
        deferred: asyncio.AbstractEventLoop = LazyEventLoop()
        loop = _own.loop = deferred
        _see_to_its_end(loop)
    if not _has_current_loop():
        asyncio.set_event_loop(loop)
    return loop


def offer_thread_event_loop() -> None:
    """See to it that ``asyncio.get_event_loop()`` works in this thread, as cheaply as can be."""
    try:
        # The usual case: the current loop is one of ours, and unused. So it is open.
        if type(_events._event_loop_policy._local._loop) is LazyEventLoop:
            return
    except AttributeError:  # There is no policy yet, or one that keeps its loops elsewhere.
        pass
    if _own.loop is None or not _has_current_loop():
        loop_of_this_thread()


def withdraw_thread_event_loop() -> None:
    """In a worker, before the body of a block: the loop that a call was offered is not met there.

    Nobody runs it: a task that is made on it would be lost in silence.
    """
    if not _own.is_wanted and _current_loop() is _own.loop:
        asyncio.set_event_loop(None)


_events: Any = asyncio.events
# Public from Python 3.14 on only by another name, and with a warning by this one. Both may go.
_policy: Any = getattr(_events, "_get_event_loop_policy", None) or getattr(
    asyncio, "get_event_loop_policy", lambda: None
)


def _has_current_loop() -> bool:
    """Whether there is one that is open. ``get_event_loop()`` would make one, or warn, or raise."""
    # An asyncio.run() takes it away; users may have closed it.
    loop = _current_loop()
    return loop is not None and not loop.is_closed()


def _current_loop() -> Any:
    try:
        return _policy()._local._loop
    except AttributeError:  # The public way raises where there is none, from Python 3.14 on.
        with contextlib.suppress(RuntimeError):
            return asyncio.get_event_loop()
        return None


def _close(loop: asyncio.AbstractEventLoop | None) -> None:
    """In its thread, which ends."""
    if loop is None or isinstance(loop, LazyEventLoop) or loop.is_closed():
        return
    # A Runner knows all that is to be done at the end of a loop.
    runner = asyncio.Runner(loop_factory=lambda: loop)
    runner.get_loop()
    try:
        runner.close()
    finally:
        loop.close()


def _close_own() -> None:
    loop, _own.loop = _own.loop, None
    _close(loop)


def _see_to_its_end(loop: asyncio.AbstractEventLoop) -> None:
    """Have *loop* closed by this thread, as the last thing that it does."""
    thread: Any = threading.current_thread()
    is_main = thread is threading.main_thread()
    foreign = getattr(threading, "_DummyThread", threading.Thread)
    if not is_main and (isinstance(thread, foreign) or not hasattr(thread, "_delete")):
        # Not one of Python's. All that it does at its end is to let go of what is its own.
        _own.finalizer = _Finalizer(loop)
    elif not _own.ends_well:
        _own.ends_well = True
        if is_main:
            atexit.register(_close_own)
            return
        # A Thread calls it at its end, while it is still whole. (A finalizer of an object that is
        # the thread's own comes after that: too late to run a loop in it.)
        delete = thread._delete

        def close_and_delete() -> None:
            try:
                _close_own()
            finally:
                delete()

        thread._delete = close_and_delete


class _Finalizer:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __del__(self) -> None:
        _close(self._loop)


def run_coroutine(token: CancelToken, coro: Coroutine[Any, Any, Any]) -> Any:
    """In a worker, for a call: run *coro* on the thread's own loop; it is cancelled by *token*."""
    loop = events._get_running_loop() or loop_of_this_thread()
    if loop.is_running():
        coro.close()
        raise RuntimeError(LOOP_RUNS_HERE)
    task: Task[Any] = loop.create_task(coro)
    cancel = partial(_cancel, get_ident(), loop, task)
    token.register(cancel)
    try:
        return loop.run_until_complete(task)
    finally:
        token.unregister(cancel)
        del task, coro, cancel


def _cancel(thread: int, loop: AbstractEventLoop, task: Task[Any], why: tuple[Any, ...]) -> None:
    """In any thread: cancel the task that the worker *thread* runs on its own loop."""
    if get_ident() == thread:  # Before the loop runs: the task must not begin.
        task.cancel(*why)
        return
    with contextlib.suppress(RuntimeError):  # Closed: its thread has ended.
        loop.call_soon_threadsafe(task.cancel, *why)
