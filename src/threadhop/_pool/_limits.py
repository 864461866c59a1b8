"""``max_queued``: as many jobs may wait for a worker, and one more is refused at once.

Only a pool with such a limit, or with a view that has one, counts its jobs: its threads are
``CountingThreads``. Each job gets an ``Entry``, which is what the worker calls. The entry is in
``Counts`` from before the job is queued until the worker is done with it. So no job is counted
twice, or not at all, on its way from the queue to the worker.

A job is refused when as many wait as may, and no worker is free at once. Only then does anybody
look closer, for a worker is free earlier than its thread knows: its job has told whoever waits for
it, and returns just now (``Job.is_over``), or its body has left, and the worker is about to park
(``Job.is_here``).

Jobs that come back to work that has begun are counted and never refused: those of a view that
``requeue`` brings. (A task that comes back to its parked worker does not come this way.)
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from typing import NoReturn

from .._errors import POOL_BUSY
from ._permits import holding
from ._threads import Threads
from ._work_item import Job, WorkItem


class PoolBusy(RuntimeError):  # noqa: N818 - it says what is the case, as queue.Full
    """A ``WorkerPool``, or a view of it, takes no more jobs now: ``max_queued`` jobs wait. ::

        try:
            async with threadpool(pool): ...
        except PoolBusy:
            return Response(status_code=503, headers={"Retry-After": "1"})

    Raised at the entry of a block, on the loop thread, before its body has begun; at the call of
    ``exec_in_executor``, ``submit`` and ``map``.

    .. versionadded:: 0.2
    """


class Entry:
    """A job that is counted: what the worker gets."""

    __slots__ = ("__weakref__", "_owner", "has_begun", "is_away", "job")

    def __init__(self, owner: Counting, job: Job) -> None:
        self._owner = owner
        self.job = job
        #: Written by the worker, under the lock of the counts.
        self.has_begun = False
        #: Whether the worker is away. Written by it.
        self.is_away = False

    def __call__(self) -> None:
        counts = self._owner.counts
        counts.begin(self)
        try:
            self.job()
        finally:
            counts.end(self)

    def fail(self, error: BaseException | str | None) -> bool:
        self.withdraw()
        return self.job.fail(error)

    def is_here(self) -> bool:
        return not self.is_away and self.job.is_here()

    def is_over(self) -> bool:
        return self.job.is_over()

    def withdraw(self) -> None:
        """In any thread: the job was cancelled, and does not count any more."""
        self._owner.withdraw(self.job)


class Counts:
    """The jobs of a pool, or of a view, that wait or run."""

    def __init__(self, max_queued: int | None, lock: threading.RLock | None = None) -> None:
        self.max_queued = max_queued
        #: That of a pool is its views', too. An RLock for the same reasons as that of ``Permits``.
        self.lock = lock or threading.RLock()
        # Guarded by the lock.
        #: All that wait or run.
        self.entries: dict[Job, Entry] = {}
        #: Those that run, by thread. They are among the entries.
        self.begun: dict[int, Entry] = {}

    def admit(self, entry: Entry, free: Callable[[], int]) -> tuple[int, int] | None:
        """Count *entry*; or return how many run and wait, if it would be one too many.

        *free* is called under the lock: as many workers would begin at once.
        """
        return holding(self.lock, self._admit, entry, free)

    def _admit(self, entry: Entry, free: Callable[[], int]) -> tuple[int, int] | None:
        waiting, limit = self.waiting(), self.max_queued
        if limit is not None and waiting >= limit:
            about_to_begin = free()
            waiting -= about_to_begin
            if waiting >= limit:
                return len(self.running()) + about_to_begin, waiting
        self.add(entry)
        return None

    def add(self, entry: Entry) -> None:
        self.entries[entry.job] = entry

    def waiting(self) -> int:
        return len(self.entries) - len(self.begun)

    def running(self) -> list[Entry]:
        """Those whose worker has something to do."""
        return [entry for entry in self.begun.values() if entry.is_here()]

    def occupied(self) -> list[Entry]:
        """Those that have their worker still, away or not."""
        return [entry for entry in self.begun.values() if not entry.is_over()]

    def begin(self, entry: Entry) -> None:
        """In the worker."""
        with self.lock:
            # A job that was withdrawn is not counted: it only returns.
            if self.entries.get(entry.job) is entry:
                entry.has_begun = True
                self.begun[get_ident()] = entry

    def end(self, entry: Entry) -> None:
        """In the worker. May be repeated."""
        with self.lock:
            here = get_ident()
            if self.begun.get(here) is entry:
                del self.begun[here], self.entries[entry.job]

    def withdraw(self, job: Job) -> Entry | None:
        """Count *job* no more, unless it has begun. Returns its entry if it was counted."""
        return holding(self.lock, self._withdraw, job)

    def _withdraw(self, job: Job) -> Entry | None:
        entry = self.entries.get(job)
        if entry is None or entry.has_begun:
            return None
        return self.entries.pop(job)

    def mark_away(self, is_away: bool) -> None:
        """In the worker."""
        entry = self.begun.get(get_ident())
        if entry is not None:
            entry.is_away = is_away

    def start_afresh(self) -> None:
        """In the child of a fork: what this thread does is all there is."""
        here = get_ident()
        entry = self.begun.get(here)
        self.begun = {} if entry is None else {here: entry}
        self.entries = {} if entry is None else {entry.job: entry}


class Counting:
    """What an entry asks of its pool, or of its view."""

    counts: Counts

    def withdraw(self, job: Job) -> None:
        raise NotImplementedError


class CountingThreads(Threads, Counting):
    """The threads of a pool that counts its jobs."""

    @classmethod
    def of(cls, threads: Threads, max_queued: int | None) -> CountingThreads:
        """Have *threads* count from now on. What is there already passes uncounted."""
        if not isinstance(threads, cls):
            counts = Counts(max_queued)
            threads.counts = counts  # type: ignore[attr-defined]
            # The threads that there are go on with this object, so there is no other one.
            threads.__class__ = cls
        assert isinstance(threads, cls)
        return threads

    def put(self, job: Job) -> None:
        self._put(job, self._admit)

    def put_entitled(self, job: Job) -> None:
        """As ``put``, for a job that has a worker in all but name."""
        self._put(job, self._add)

    def _put(self, job: Job, count: Callable[[Entry], None]) -> None:
        entry = make_entry(self, job)
        try:
            if self.make_refusal is None:
                count(entry)
            super().put(entry)
        except BaseException:
            self.withdraw(job)
            raise

    def _admit(self, entry: Entry) -> None:
        busy = self.counts.admit(entry, self._free)
        if busy is not None:
            raise_busy("WorkerPool", self.name, self.max_workers, busy, self.counts)

    def _add(self, entry: Entry) -> None:
        holding(self.counts.lock, self.counts.add, entry)

    def requeue(self, job: Job) -> None:
        entry = Entry(self, job)
        self._add(entry)
        super().requeue(entry)

    def queue_again(self, job: Job) -> None:
        counts, entry = self.counts, Entry(self, job)
        with counts.lock:
            now = counts.begun.get(get_ident())
            if now is not None:
                counts.end(now)
            counts.add(entry)
        super().queue_again(entry)

    def withdraw(self, job: Job) -> None:
        self.counts.withdraw(job)

    def away(self) -> None:
        self.counts.mark_away(True)
        super().away()

    def back(self) -> None:
        super().back()
        self.counts.mark_away(False)

    def _free(self) -> int:
        """Under the lock of the counts: as many workers would begin at once."""
        counts = self.counts
        return max(
            0,
            min(
                self.max_workers - len(counts.running()), self.max_threads - len(counts.occupied())
            ),
        )

    def start_afresh(self) -> None:
        self.counts.lock = threading.RLock()
        self.counts.start_afresh()
        super().start_afresh()


def make_entry(owner: Counting, job: Job) -> Entry:
    entry = Entry(owner, job)
    if isinstance(job, WorkItem):
        job.note_entry(entry)
    return entry


def raise_busy(
    kind: str, name: str, workers: int, busy: tuple[int, int], counts: Counts
) -> NoReturn:
    running, waiting = busy
    limit = counts.max_queued
    raise PoolBusy(
        POOL_BUSY.format(
            kind=kind,
            name=name,
            running=running,
            workers=workers,
            waiting=waiting,
            max_queued=limit,
            more=2 * (limit or 5),
        )
    )
