"""``hops()``: what runs where. Nothing is noted for it on the way but the time.

What runs is in the slots of the threads. What waits is in the queues of executors, which are not
all open, and nobody keeps a list of them. So the one who asks looks through all objects of the
process for jobs that nobody has claimed.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, TextIO

from . import _lifetime
from ._block_job import BlockJob
from ._call_job import CallJob
from ._callables import line_of, name_of, name_of_executor, unwrap_partial
from ._driver import where_suspended
from ._entries import innermost_job, jobs_of
from ._job import all_slots, name_of_thread
from ._patience import frames_of_threads, users_line

#: The types of jobs. Compared as they are: ``isinstance`` would run the code of proxies.
KINDS: set[type] = {BlockJob, CallJob}

#: Whether a coroutine may be looked at while another thread may resume it. Without a GIL the
#: interpreter may crash then.
_MAY_LOOK: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


@dataclass(frozen=True)
class Hop:
    """One worker that is reserved, asked for, or waited for: see ``hops``.

    Attributes:
        what: A "block" (also with others of the same executor in it), a "call" of
            ``exec_in_executor`` and its like, an "iterator"; or a "loop part", which is what the
            loop does for a worker that waits: the body of ``eventloop()``, ``exec_in_eventloop``.
        name: The name of the task, or of the function.
        where: ``file:line``. Of a block its first line, of a call the function, of a loop part the
            ``await`` at which it stands.
        state: "queued": for a worker, or until the loop looks. "running". "away": the worker waits,
            for its task is elsewhere; another hop of the same name, of the same thread of control,
            says where.
        seconds: Since it was queued, or since it began.
        executor: That of the worker. (A loop part is that of the worker that waits for it.)
        thread: The name of the thread that runs it, or that waits while it is away. None while
            it is queued.

    .. versionadded:: 0.2
    """

    what: Literal["block", "loop part", "call", "iterator"]
    name: str
    where: str
    state: Literal["queued", "running", "away"]
    seconds: float
    executor: Executor
    thread: str | None


def hops() -> tuple[Hop, ...]:
    """Tell what waits for a worker, runs on one, or keeps one waiting: of all loops, oldest first.

    A task that is in a loop part is two hops: its block is "away", and names the worker that waits;
    the loop part is "running", and names the line on which that worker waits. So is a task in a
    block of another executor within its block.

    Any thread may ask at any time, also a signal handler: no lock is waited for. The others do not
    stop meanwhile, so the answer is a glimpse, and may be torn.

    The trips pay a look at the clock each. To ask costs more, for what is queued is found by
    looking at all objects that the garbage collector knows: some 0.1 s for a million of them on
    CPython (which keeps the GIL for a part of it), three times that on PyPy. Objects that
    ``gc.freeze()`` has hidden are not seen. On a build without a GIL, queued blocks and loop parts
    name their function instead of the line.

    .. versionadded:: 0.2
    """
    now = monotonic()
    return _oldest_first([*_of_slots(now), *_queued(now)])


def print_hops(file: TextIO | None = None) -> None:
    """Print ``hops()`` as a table, the oldest first; to ``sys.stderr`` if no *file* is given.

    For a debug endpoint, or for a process that hangs::

        signal.signal(signal.SIGUSR1, lambda *_: print_hops())

    .. versionadded:: 0.2
    """
    text = "\n".join(_table(hops())) + "\n"
    stream = sys.stderr if file is None else file
    if stream is None:  # As under pythonw.
        return
    try:
        stream.write(text)
        stream.flush()
    except RuntimeError:  # In a signal handler: the thread is just writing there.
        os.write(stream.fileno(), text.encode(errors="backslashreplace"))


def _table(found: tuple[Hop, ...]) -> Iterator[str]:
    titles = ("seconds", "what", "state", "name", "where", "thread", "executor")
    rows = [
        (
            f"{hop.seconds:.2f}",
            *(hop.what, hop.state, hop.name, hop.where, hop.thread or "-"),
            name_of_executor(hop.executor),
        )
        for hop in found
    ]
    if not rows:
        yield "threadhop: nothing is queued, running or away"
        return
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield "  ".join((row[0].rjust(widths[0]), *cells)).rstrip()


def _oldest_first(found: list[Hop]) -> tuple[Hop, ...]:
    return tuple(sorted(found, key=lambda hop: -hop.seconds))


# What workers do.


def _of_slots(now: float, loop: object = None) -> Iterator[Hop]:
    """Of one loop, or of all."""
    for slot in all_slots():
        job: Any = slot.job
        if job is not None and loop in (None, _loop_of(job)):
            # A job may come to its end, or its task may move on, between any two lines.
            with contextlib.suppress(AttributeError):
                yield from _of_worker(job, slot.thread, now)


def _loop_of(job: Any) -> object:
    strand = job.strand
    if strand is not None:
        return strand.loop
    return getattr(job, "loop", None) or getattr(job, "_queue", None)


def _of_worker(job: Any, ident: int, now: float) -> Iterator[Hop]:
    strand = job.strand
    if strand is not None and not _is_held(job, strand):
        return
    thread = name_of_thread(ident)
    calling = job.calling if strand is None else strand.calling
    if strand is None:
        is_away = calling is not None
    else:
        target = strand.target
        leaves = target is not None and target.since and target.claimed is None
        is_here = strand.job is job and strand.coro is not None and not leaves
        is_away = not is_here or calling is not None
    yield _hop(job, "away" if is_away else "running", thread, now)
    if calling is not None:
        if strand is None or strand.job is job:
            yield _of_call(calling, job, ident, now)
    elif strand is not None and _is_in_loop_part(strand, job):
        yield _of_loop_part(strand, job, now)


def _is_held(job: Any, strand: Any) -> bool:
    """Whether the task goes on in this worker, or comes back: it may just be on its way out."""
    entries = strand.entries
    if strand.job is job and strand.coro is None and strand.new_entries is not None:
        entries = strand.new_entries
    return strand.target is job or job in jobs_of(entries)


def _hop(job: Any, state: Any, thread: str | None, now: float) -> Hop:
    seconds = max(0.0, now - job.since)
    return Hop(job.what, job.title(), _line_of(job), state, seconds, job.executor, thread)


def _line_of(job: Any) -> str:
    if job.strand is None:
        func = getattr(job, "_func", None)
        return str(job.where()) if func is None else line_of(func)
    if job.code is None and not _MAY_LOOK:
        return f"an unknown line of {name_of(job.strand.coro)}"
    return str(job.where())


# What the loop does for a worker that waits.


def _is_in_loop_part(strand: Any, job: Any) -> bool:
    """Whether the task went from *job* to the loop, or is about to."""
    if strand.job is None:
        return bool(strand.is_in_loop_part_of(job))
    on_its_way = strand.job is job and strand.coro is None and strand.target is None
    return on_its_way and strand.new_entries is None and innermost_job(strand.entries) is job


def _of_loop_part(strand: Any, job: Any, now: float) -> Hop:
    loop = strand.loop
    has_begun = strand.job is None
    coro = loop.coroutine_of(strand)
    where = job.where() if coro is None or not _MAY_LOOK else where_suspended(coro)
    seconds = now - job.parked_at
    return _part(job, loop.name_of(strand), where, has_begun, seconds, loop.thread)


def _of_call(call: Any, job: Any, ident: int, now: float) -> Hop:
    """Of ``exec_in_eventloop``."""
    coro, func = call.coroutine(), call.target
    where = users_line(frames_of_threads().get(ident)) or "an unknown line"
    if coro is not None and _MAY_LOOK:
        where = where_suspended(coro)
    name = name_of(unwrap_partial(func)) if coro is None else name_of(coro)
    thread = getattr(_loop_of(job), "thread", None)
    return _part(job, name, where, call.has_begun(), now - call.since, thread)


def _part(job: Any, name: str, where: str, has_begun: bool, seconds: float, thread: Any) -> Hop:
    return Hop(
        "loop part",
        name,
        where,
        "running" if has_begun else "queued",
        max(0.0, seconds),
        job.executor,
        thread.name if has_begun and thread is not None else None,
    )


# What waits for a worker.


class _Fork:
    #: In the child of a fork: when that was. What waited then is done in the parent.
    at = 0.0


def _queued(now: float) -> Iterator[Hop]:
    # (A list of all objects: nothing may refer to it, or to one of them, any longer than needed.)
    for job in [found for found in gc.get_objects() if type(found) in KINDS]:
        # A job may be just being made; or be claimed in the next moment.
        with contextlib.suppress(AttributeError):
            if job.claimed is None and job.since > _Fork.at and _waits(job):
                yield _hop(job, *_state_of(job), now)


def _waits(job: Any) -> bool:
    if job.strand is None:
        return job.executor is not None and not job.has_ended()
    return bool(job.strand.target is job)


def _state_of(job: Any) -> tuple[Literal["queued", "running"], str | None]:
    """A call may have left the process: then nobody here claims it."""
    future = getattr(job, "_future_of_executor", None)
    if future is not None and future.running():
        return "running", None
    return "queued", None


def _after_fork() -> None:
    _Fork.at = monotonic()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# For the warnings at the end of a loop, and of the process.


def _bodies_of(loop: object) -> list[str]:
    return [
        f"{hop.what} of {hop.name} at {hop.where} ({hop.seconds:.1f} s)"
        for hop in _oldest_first(list(_of_slots(monotonic(), loop)))
        if hop.what != "loop part"
    ]


_lifetime.have_bodies_told(_bodies_of)
