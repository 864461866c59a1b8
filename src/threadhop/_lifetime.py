"""The ends: which part of the library ends what, and in which order.

- **A worker thread of a pool** leaves when it was idle for the pool's ``idle_timeout``, or when its
  pool is closed and nothing waits. The thread leaves the pool's list and ``_live`` here. Python
  then calls ``Thread._delete``, by which ``_thread_loop`` closes the thread's own loop.
- **An event loop that is closed** with tasks in blocks: a body that runs goes on to its end, and
  ``EntryQueue.post`` abandons the task that returns. A parked worker looks every ``POLL`` seconds,
  abandons its task with a warning, and is free. A worker in ``exec_in_eventloop`` raises.
- **The process**: the main thread ends, and ``threading`` calls its exit hooks, last-first. First
  ``_end`` here notes the end, so parked workers whose loop does not run give up; then it closes all
  pools, which finish what waits, and joins their threads. Then the hook of ``concurrent.futures``
  joins the workers of stock executors. ``atexit`` follows, where the loop of the main thread's own
  is closed. (A Python without these hooks calls ``_end`` in ``atexit``, and the threads of pools
  are daemons.)
- **A fork**: the child has the thread that forked and no other. Each pool begins anew, without
  threads and with an empty queue: what waited is done in the parent. A thread that forked in a body
  works for no task any more (``_job._after_fork``): calls to the loop and exits raise.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # its exit hook must be there before ours
import os
import threading
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any, Protocol
from weakref import WeakSet

from . import _patience
from ._errors import PROCESS_WAITS, warn
from ._job import all_slots


class Joinable(Protocol):
    """A pool, whose threads the process waits for."""

    def end_with_the_process(self) -> None:
        """In any thread: take no more jobs; let the workers leave when nothing waits."""

    def start_afresh(self) -> None:
        """In the child of a fork: the thread that is here is the only one."""


class _Process:
    #: Written once, by the main thread at the end of the process.
    is_ending = False
    #: Set by ``_hops``, which knows.
    bodies_of: Callable[[object], list[str]]


#: Seconds between two looks.
_LOOK = 0.02

#: Workers that have begun and not left. Its steps are atomic: no lock.
_live: dict[threading.Thread, Joinable] = {}
#: Read in the child of a fork only, where there is one thread.
_pools: WeakSet[Joinable] = WeakSet()


def is_ending() -> bool:
    """Whether the main thread has come to its end, and waits for the workers of all pools."""
    return _Process.is_ending


def bodies_of(loop: object) -> list[str]:
    """In any thread: the bodies and calls that run, in words; for *loop* or, if None, for all."""
    return _Process.bodies_of(loop)


def have_bodies_told(bodies_of: Callable[[object], list[str]]) -> None:
    _Process.bodies_of = staticmethod(bodies_of)


def survive_forks(pool: Joinable) -> None:
    """In the thread that makes it."""
    _pools.add(pool)


def join_at_exit(pool: Joinable) -> None:
    """In a worker of the pool, as the first thing that it does."""
    _live[threading.current_thread()] = pool
    # The main thread first notes the end, and then looks who is there.
    if _Process.is_ending:
        pool.end_with_the_process()


def join_no_more() -> None:
    """In a worker of the pool, as the last thing that it does."""
    _live.pop(threading.current_thread(), None)


def _end() -> None:
    """In the main thread, at its end."""
    _Process.is_ending = True
    if _is_working():
        _watch()
    here = threading.current_thread()
    # The last ones may need others: while one is away, another one starts in its place.
    while threads := {thread: pool for thread, pool in list(_live.items()) if thread is not here}:
        for pool in set(threads.values()):
            pool.end_with_the_process()
        for thread in threads:
            thread.join()
            _live.pop(thread, None)  # Also one that died of a mistake of ours.


def _is_working() -> bool:
    return any(slot.job is not None for slot in all_slots())


def _watch() -> None:
    """In the main thread: should the end take long, have a thread say for whom it waits."""
    over = allocate_lock()
    over.acquire()
    watcher = threading.Thread(target=_say, args=(over,), name="threadhop-end", daemon=True)
    try:
        watcher.start()
    except RuntimeError:  # No more threads. (3.12.0 and 3.12.1 start none at the end.)
        _watch_here()
    else:
        # The workers of stock executors are joined before that.
        atexit.register(over.release)


def _say(over: Any) -> None:
    if not over.acquire(True, _patience.LIMIT):
        _name_bodies()


def _watch_here() -> None:
    until = monotonic() + _patience.LIMIT
    while _is_working():
        if monotonic() > until:
            _name_bodies()
            return
        sleep(_LOOK)


def _name_bodies() -> None:
    if bodies := bodies_of(None):
        warn(PROCESS_WAITS, _patience.LIMIT, ", ".join(bodies))


def _after_fork() -> None:
    """In the child."""
    for pool in list(_pools):
        pool.start_afresh()
    here = get_ident()
    for thread in [thread for thread in _live if thread.ident != here]:
        del _live[thread]


# ``atexit`` is too late: it comes after the workers were joined, and a parked one does not end.
# These hooks run last-first, so ours comes before that of concurrent.futures, which joins them.
assert concurrent.futures.thread is not None
_register: Any = getattr(threading, "_register_atexit", None)
#: Whether the threads of pools are daemons; None: as the thread that starts them. ``atexit`` comes
#: when all other threads have ended, so an idle worker would keep the process from it.
DAEMON = True if _register is None else None
(_register or atexit.register)(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
