"""``on_cancel``: tell what a body waits for that its task was cancelled."""

from __future__ import annotations

import contextlib
import itertools
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, TypeVarTuple

from ._callables import name_of
from ._entries import Entries
from ._errors import IS_OPEN, NOT_CALLABLE, ON_CANCEL_FAILED, ON_CANCEL_ON_LOOP, report
from ._loops import is_on_loop, job_here

Args = TypeVarTuple("Args")

#: The claim of a ``with`` that has ended.
_CLOSED = object()


class on_cancel:  # noqa: N801 - reads like a keyword
    """Call *callback* when the task is cancelled while this ``with`` is open.

    A thread cannot be killed, but what it waits for can be told. So the call that blocks ends, and
    the block raises its CancelledError at once::

        async with threadpool():
            with closing(sqlite3.connect(path, check_same_thread=False)) as db:
                with on_cancel(db.interrupt):
                    rows = db.execute(query).fetchall()

    For the body of a block, for anything that it calls, and for functions that ``exec_in_executor``
    or ``AsyncExecutor.run`` run on a thread of this process; there the future counts instead of the
    task. Where nobody can be cancelled, in a script or a thread of your own, nothing happens.

    Args:
        callback: A plain function: ``connection.cancel_safe`` (psycopg), ``process.kill``,
            ``partial(sock.shutdown, SHUT_RDWR)``.
        args: Its arguments.

    The library calls *callback* once, at once, in a thread that is neither the loop's nor the
    worker's, so it may block. It sees a copy of the context variables. An error of it is logged.
    The ``with`` does not end before a callback that was called.

    Cancelled while the body is in a loop part, on the loop: it calls *callback* when the
    cancellation leaves that. What is swallowed there, by ``asyncio.timeout`` for one, is not told.

    Cancelled before the ``with``: it calls *callback* at its entry, and waits for it; so *callback*
    must not wait for the body. A ``check_cancelled()`` before the call that blocks ends the body.

    Raises:
        TypeError: at the call, if *callback* is not callable.
        RuntimeError: on a loop thread, where a ``try``/``except CancelledError`` does the same; and
            if the same object is entered twice at a time.

    .. versionadded:: 0.2
    """

    __slots__ = ("_callback", "_is_open", "_watch")

    def __init__(self, callback: Callable[[*Args], object], /, *args: *Args) -> None:
        if not callable(callback):
            raise TypeError(NOT_CALLABLE.format(name="on_cancel()", got=repr(callback)))
        self._callback = partial(callback, *args)
        self._is_open = False
        self._watch: _Watch | None = None

    def __repr__(self) -> str:
        return f"on_cancel({name_of(self._callback.func)})"

    def __enter__(self) -> None:
        if self._is_open:
            raise RuntimeError(IS_OPEN)
        job = job_here()
        if job is None and is_on_loop():
            raise RuntimeError(ON_CANCEL_ON_LOOP)
        caller = None if job is None else job.caller
        self._is_open = True
        if caller is not None:
            self._watch = _Watch(self._callback, caller)
            self._watch.begin()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        watch, self._watch = self._watch, None
        self._is_open = False
        if watch is not None:
            watch.end()


def _entries(caller: Any) -> Entries:
    """Of a strand."""
    return getattr(caller, "entries", ())


class _Watch:
    """One ``with`` that is open, as a listener of the token.

    Its claim is taken by one ``setdefault``: by the thread that calls back, or by the end of the
    ``with``.
    """

    #: The thread that calls back, or ``_CLOSED``.
    claimed: object = None

    def __init__(self, callback: partial[object], caller: Any) -> None:
        self._callback = callback
        #: Whose cancellation counts. Another task may take over the block, see ``_adoption``.
        self.caller = caller
        #: That of the block in whose body the ``with`` is. A call has none.
        self.entry = next(reversed(_entries(caller)), None)
        #: That of the loop part around the block. The ``with`` may end later than the block does.
        self._part = next((e for e in reversed(_entries(caller)) if e.job is None), None)
        self._context = copy_context()
        #: Whether a cancellation has come. Written by the thread that cancels.
        self._is_requested = False
        #: Held until the callback has ended.
        self._calling = allocate_lock()
        self._calling.acquire()

    # In the worker.

    def begin(self) -> None:
        self.caller.token.register(self)
        if self._is_requested:
            self._call_and_wait()

    def end(self) -> None:
        token = self.caller.token
        token.unregister(self)
        # A cancellation that is noted, and not told yet, came in time: the body may have seen it.
        if token.why is not None and not self._is_around_loop_part():
            self._is_requested = True
        # A request whose thread has not begun, perhaps because Ctrl+C came in, is not lost.
        if self._is_requested or self.__dict__.setdefault("claimed", _CLOSED) is not _CLOSED:
            self._call_and_wait()

    def _call_and_wait(self) -> None:
        self._call()
        with self._calling:
            pass

    # In any thread.

    def __call__(self, why: Any) -> None:
        """The task is cancelled. May run in a signal handler: no lock, and no wait.

        So not ``Thread.start()``, which waits for the thread, and that one for a lock.
        """
        if self._is_around_loop_part():
            return
        self._is_requested = True
        if self.claimed is None:
            # If it cannot start now, the end of the ``with`` tries again.
            with contextlib.suppress(RuntimeError):
                start_new_thread(self._call, ())

    def _is_around_loop_part(self) -> bool:
        """Whether the task is in one that was entered since.

        A cancellation that is swallowed there does not concern the body. When one leaves the part,
        the token tells of it again.
        """
        entries = _entries(self.caller)
        if self.entry is None:
            return False
        base: object = self.entry
        if base not in entries:  # The block is left. Another one of that worker?
            job = self.entry.job
            base = next((e for e in reversed(entries) if e.job is job), self._part)
        above = itertools.takewhile(lambda entry: entry is not base, reversed(entries))
        return any(entry.job is None for entry in above)

    def _call(self) -> None:
        """Have the callback called, unless it is, or the ``with`` has ended."""
        mine = object()
        if self.__dict__.setdefault("claimed", mine) is not mine:
            return
        try:
            # (Not to say whether it is a daemon would make a dummy for this thread.)
            threading.Thread(target=self._run, name="threadhop-on-cancel", daemon=False).start()
        except BaseException:  # No more threads; or the process ends.
            report(ON_CANCEL_FAILED.format(callback=name_of(self._callback.func)))
            self._calling.release()

    # In a thread of its own.

    def _run(self) -> None:
        try:
            self._context.run(self._callback)
        except BaseException:
            report(ON_CANCEL_FAILED.format(callback=name_of(self._callback.func)))
        finally:
            self._calling.release()
