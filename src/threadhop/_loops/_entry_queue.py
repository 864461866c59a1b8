"""The entry queue of an asyncio loop: tasks that return, results, calls from other threads.

Ctrl+C may raise KeyboardInterrupt between any two lines that run on the loop thread, and loses no
entry: an interrupted one is put back into the queue unless it has gone on, and an entry that is
delivered twice takes effect once.
"""

from __future__ import annotations

import asyncio
import operator
from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from . import _eventfd
from ._eventfd import Eventfd

#: Written in C.
_call: Any = operator.call


class Posted(Protocol):
    """An entry of the queue."""

    def deliver(self) -> None:
        """In a callback of the loop, never within the step of a task.

        Called again if Ctrl+C interrupted it: so the second call must find nothing to do.
        """

    def abandon(self) -> None:
        """In any thread: the loop is closed, so the entry is never delivered."""


class EntryQueue:
    """The entries that are ready to come to one loop.

    The threads append to ``_queue``; the one that takes the token wakes the loop, and one callback
    of the loop then delivers all.
    """

    __slots__ = ("_begin_to_look", "_eventfd", "_next_ones", "_queue", "_wakers", "is_in_debug")

    def __init__(self, loop: AbstractEventLoop | None = None) -> None:
        #: Whether the loop is in debug mode. Looked up before entries are delivered.
        self.is_in_debug = False
        # A deque bears appends of threads and of signal handlers at any moment.
        self._queue: deque[Posted] = deque()
        #: Takes one out at each step.
        self._next_ones = iter(self._queue.popleft, None)
        #: Holds one token. Empty from when a thread takes it, to wake the loop, until the loop
        #: looks. To give it back twice makes no difference.
        self._wakers: deque[bool] = deque([True], maxlen=1)
        self._begin_to_look = partial(self._wakers.append, True)
        #: Gives what wakes the loop; None: ``call_soon_threadsafe`` does.
        self._eventfd: Callable[[], Eventfd | None] = type(None)
        if loop is not None:
            self._eventfd = _eventfd.open_for(loop, self.answer)

    def __del__(self) -> None:
        """The loop is gone, perhaps closed before it delivered what was posted."""
        if getattr(self, "_queue", None):  # Ctrl+C may have come before there was one.
            self.abandon_all()

    def post(self, entry: Posted, loop: AbstractEventLoop) -> None:
        """In any thread."""
        self._queue.append(entry)
        # A thread that gets no token leaves its entry to the thread that has it, whose callback has
        # not begun yet: the callback gives the token back before it counts the entries.
        wakers = self._wakers
        if wakers:
            try:
                wakers.pop()
                self._wake(loop)
                if not loop.is_closed():
                    return
            except IndexError:  # Another thread was faster.
                pass
            except BaseException:
                wakers.append(True)
                if not loop.is_closed():
                    raise
        if loop.is_closed():
            self.abandon_all()

    def _wake(self, loop: AbstractEventLoop) -> None:
        eventfd = self._eventfd()
        if eventfd is not None and eventfd.number >= 0:
            _eventfd.write(eventfd.number, 1)
        else:
            # The callback is written in C, and gives the token back first: Ctrl+C at its beginning
            # does not keep it, so the next one who posts wakes the loop.
            loop.call_soon_threadsafe(any, self._look())

    def answer(self, eventfd: Eventfd) -> None:
        """In the loop thread, in each turn, for as long as *eventfd* has a count.

        First deliver, then read: the read lets go of the GIL. A step that raises leaves the count,
        so the loop comes here again.
        """
        wakers = self._wakers
        wakers.append(True)
        try:
            self.run_all_bounded()
            # A thread that has the token by now has written, or will: the next turn delivers.
            if not wakers or eventfd.number < 0:
                return
            try:
                _eventfd.read(eventfd.number)
            except BlockingIOError:  # A loop that runs nested in one of the steps has read it.
                pass
            finally:
                # A thread that took the token after the look above may have written before the
                # read. (Ctrl+C comes after the read or after this write, not between them.)
                if not wakers:
                    _eventfd.write(eventfd.number, 1)
        finally:
            del eventfd  # A traceback may keep this frame, and would keep it open.

    def post_again(self, loop: AbstractEventLoop) -> None:
        """In the loop thread, by somebody who is cancelled: look whether anything is there.

        After Ctrl+C at the first line of ``run_all_bounded`` nobody else might look.
        """
        if self._queue:
            loop.call_soon(any, self._look())

    def _look(self) -> Iterator[None]:
        """For ``any``: give the token back, then deliver."""
        return map(_call, (self._begin_to_look, self.run_all_bounded))

    def run_all_bounded(self) -> None:
        """In the loop thread."""
        queue, entry = self._queue, None
        try:
            self.is_in_debug = asyncio.get_running_loop().get_debug()
            # Not those that come in meanwhile: the loop's other callbacks have a turn in between.
            for _ in range(len(queue)):
                if not queue:  # A loop that runs nested in one of the steps took the rest.
                    return
                # Taken out and kept in one step, between which no signal handler comes in.
                for entry in self._next_ones:  # noqa: B007 - used below
                    break
                entry.deliver()  # type: ignore[union-attr]
        except BaseException:
            # KeyboardInterrupt or SystemExit out of a step, or at a line here. The loop will stop;
            # whoever runs it again finds the others, and this one, if it was not delivered.
            if entry is not None:
                queue.appendleft(entry)
            self.post_again(asyncio.get_running_loop())
            raise
        finally:
            del entry  # This frame may stay in a traceback, which must not keep the task.

    def abandon_all(self) -> None:
        """In any thread: the loop is closed."""
        while True:
            try:
                entry = self._queue.popleft()
            except IndexError:
                return
            entry.abandon()
