"""What the end of the process, and its fork, do to crews of threads.

At the end of the process crews finish what waits for them, and their threads are joined. In the
child of a fork there is only the thread that forked, and each crew begins anew.
"""

from __future__ import annotations

import concurrent.futures.thread  # its exit hook must be there before ours
import os
import threading
from _thread import get_ident
from typing import Protocol
from weakref import WeakSet


class Joinable(Protocol):
    def end_with_the_process(self) -> None:
        """In any thread: take no more jobs; let the workers leave when nothing waits."""

    def start_afresh(self) -> None:
        """In the child of a fork: the thread that is here is the only one."""


class _Process:
    #: Written once, by the main thread at the end of the process.
    is_ending = False


#: Joinable that have begun and not left. Its steps are atomic: no lock.
_live: dict[threading.Thread, Joinable] = {}
#: Read in the child of a fork only, where there is one thread.
_crews: WeakSet[Joinable] = WeakSet()


def is_ending() -> bool:
    """Whether the main thread has come to its end, and waits for the workers of all pools."""
    return _Process.is_ending


def survive_forks(crew: Joinable) -> None:
    """In the thread that makes it."""
    _crews.add(crew)


def join_at_exit(crew: Joinable) -> None:
    """In a thread of the crew, as the first thing that it does."""
    _live[threading.current_thread()] = crew
    # The main thread first notes the end, and then looks who is there.
    if _Process.is_ending:
        crew.end_with_the_process()


def join_no_more() -> None:
    """In a thread of the crew, as the last thing that it does."""
    _live.pop(threading.current_thread(), None)


def _end() -> None:
    """In the main thread, at its end."""
    _Process.is_ending = True
    here = threading.current_thread()
    # The last ones may need others: while one is away, another one starts in its place.
    while threads := {thread: crew for thread, crew in list(_live.items()) if thread is not here}:
        for crew in set(threads.values()):
            crew.end_with_the_process()
        for thread in threads:
            thread.join()
            _live.pop(thread, None)  # Also one that died of a mistake of ours.


def _after_fork() -> None:
    """In the child."""
    for crew in list(_crews):
        crew.start_afresh()
    here = get_ident()
    for thread in [thread for thread in _live if thread.ident != here]:
        del _live[thread]


# ``atexit`` is too late: it comes after the workers were joined, and a parked one does not end.
# These hooks run last-first, so ours comes before that of concurrent.futures, which joins them.
assert concurrent.futures.thread is not None
threading._register_atexit(_end)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
