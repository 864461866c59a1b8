"""``max_queued``: as many jobs may wait for a worker, and one more is refused at once.

Only a pool with such a limit, or with a view that has one, counts its jobs: its threads are
``CountingThreads``. Each job gets an ``Entry``, which is what the worker calls. The entry is in
``Counts`` from before the job is queued until the worker is done with it. So no job is counted
twice, or not at all, on its way from the queue to the worker.

A job is refused when as many wait as may, and no worker is free at once. Only then does anybody
look closer, for a worker is free earlier than its thread knows: its job has told whoever waits for
it, and returns just now (``Job.is_over``), or its body has left, and the worker is about to park
(``Job.is_here``). So a view counts as what its own jobs need, not as the turns it has in its pool:
a worker that ends a turn, and a turn that waits although its job is done, keep nobody away.

Jobs that come back to work that has begun are counted and never refused: those of a view that
``requeue`` brings. (A task that comes back to its parked worker does not come this way.)
"""

from __future__ import annotations

import threading
from _thread import get_ident
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn
from weakref import ref

from .._away import Parked
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

    __slots__ = ("__weakref__", "_owner", "has_begun", "is_away", "job", "key")

    def __init__(self, owner: Counting, job: Job) -> None:
        self._owner = owner
        self.job = job
        #: By that it is withdrawn.
        self.key: object = job
        #: Written by the worker, under the lock of the counts.
        self.has_begun = False
        #: Whether the worker is away. Written by it.
        self.is_away = False

    def __call__(self) -> None:
        counts = self._owner.counts
        try:
            counts.begin(self)
            self.job()
        finally:
            try:
                counts.end(self)
            except BaseException:  # Another thread has raised it here.
                counts.end(self)
                raise

    def fail(self, error: BaseException | str | None) -> bool:
        self.withdraw()
        return self.job.fail(error)

    def is_here(self) -> bool:
        return not self.is_away and self.job.is_here()

    def is_over(self) -> bool:
        return self.job.is_over()

    def withdraw(self) -> None:
        """In any thread: the job was cancelled, and does not count any more."""
        self._owner.withdraw(self.key)


class Busy(NamedTuple):
    """How many jobs run and wait."""

    running: int
    waiting: int


class Load(NamedTuple):
    """For how many workers there is something to do."""

    running: int
    #: The running, and those that are away.
    occupied: int
    #: So many more would begin, were there workers enough.
    waiting: int


class Counts:
    """The jobs of a pool, or of a view, that wait or run."""

    def __init__(self, max_queued: int | None, lock: threading.RLock | None = None) -> None:
        self.max_queued = max_queued
        #: That of a pool is its views', too. An RLock for the same reasons as that of ``Permits``.
        self.lock = lock or threading.RLock()
        # Guarded by the lock.
        #: All that wait or run, by their keys.
        self.entries: dict[object, Entry] = {}
        #: Those that run, by thread. They are among the entries.
        self.begun: dict[int, Entry] = {}

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry

    def waiting(self) -> int:
        return len(self.entries) - len(self.begun)

    def running(self) -> list[Entry]:
        """Those whose worker has something to do."""
        return [entry for entry in self.begun.values() if entry.is_here()]

    def occupied(self) -> list[Entry]:
        """Those that have their worker still, away or not."""
        return [entry for entry in self.begun.values() if not entry.is_over()]

    def load(self, limit: int) -> Load:
        """What a view that runs *limit* jobs at once asks of its pool."""
        running = len(self.running())
        return Load(running, len(self.occupied()), min(self.waiting(), max(0, limit - running)))

    def begin(self, entry: Entry) -> None:
        """In the worker."""
        holding(self.lock, self._begin, entry)

    def _begin(self, entry: Entry) -> None:
        """Under the lock."""
        # A job that was withdrawn is not counted: it only returns.
        if self.entries.get(entry.key) is entry:
            # First that: ``end`` then takes it out, should another thread raise something here.
            self.begun[get_ident()] = entry
            entry.has_begun = True

    def end(self, entry: Entry) -> None:
        """In the worker. May be repeated."""
        holding(self.lock, self._end, entry)

    def _end(self, entry: Entry) -> None:
        """Under the lock."""
        here = get_ident()
        if self.begun.get(here) is entry:
            del self.begun[here], self.entries[entry.key]

    def replace(self, entry: Entry) -> None:
        """Under the lock, in the worker: what it has begun ends, and *entry* waits."""
        now = self.begun.get(get_ident())
        if now is not None:
            self._end(now)
        self.add(entry)

    def withdraw(self, key: object) -> Entry | None:
        """Count it no more, unless it has begun. Returns its entry if it was counted."""
        return holding(self.lock, self._withdraw, key)

    def _withdraw(self, key: object) -> Entry | None:
        entry = self.entries.get(key)
        if entry is None or entry.has_begun:
            return None
        return self.entries.pop(key)

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
        self.entries = {} if entry is None else {entry.key: entry}


class Counting:
    """What an entry asks of its pool, or of its view."""

    counts: Counts
    #: As many jobs run at once.
    limit: int

    def turns(self) -> set[Any]:
        """Of a view: the jobs by which it is done in its pool."""
        raise NotImplementedError

    def withdraw(self, key: object) -> None:
        raise NotImplementedError


class CountingThreads(Threads, Counting):
    """The threads of a pool that counts its jobs."""

    #: The views that count theirs. Its steps are atomic: no lock.
    counting_views: list[ref[Counting]]

    @classmethod
    def of(cls, threads: Threads, max_queued: int | None) -> CountingThreads:
        """Have *threads* count from now on. What is there already passes uncounted."""
        if not isinstance(threads, cls):
            # Of several threads that come here at once the first one's are those of all.
            threads.__dict__.setdefault("counts", Counts(max_queued))
            threads.__dict__.setdefault("counting_views", [])
            # The threads that there are go on with this object, so there is no other one.
            threads.__class__ = cls
        assert isinstance(threads, cls)
        return threads

    def put(self, job: Job) -> None:
        self._put(job, self._admit)

    def put_turn(self, job: Job) -> None:
        """As ``put``, for a view, which has asked for the job that waits for this."""
        self._put(job, self._add)

    def _put(self, job: Job, count: Callable[[Entry], None]) -> None:
        entry = make_entry(self, job)
        try:
            if self.make_refusal is None:
                count(entry)
            super().put(entry)
        except BaseException:
            self.withdraw(entry.key)
            raise

    def _admit(self, entry: Entry) -> None:
        holding(self.counts.lock, self._admit_or_refuse, entry)

    def _admit_or_refuse(self, entry: Entry) -> None:
        """Under the lock of the counts."""
        self.refuse_if_busy()
        self.counts.add(entry)

    def refuse_if_busy(self, counted: int = 0) -> None:
        """Under the lock of the counts, for a job that wants a worker: raise PoolBusy if none may.

        So many of those that wait are that job.
        """
        limit = self.counts.max_queued
        if limit is None:
            return
        # More than really wait: a job of a view, and the turn that it has taken here.
        most = self.counts.waiting() - counted
        if self.counting_views:
            most += sum(view.counts.waiting() for view in self._known_views())
        if most < limit:
            return
        load = self.load()
        free = max(0, min(self.max_workers - load.running, self.max_threads - load.occupied))
        waiting = load.waiting - counted - free
        if waiting >= limit:
            busy = Busy(load.running + free, waiting)
            raise_busy("WorkerPool", self.name, self.max_workers, busy, self.counts)

    def _add(self, entry: Entry) -> None:
        holding(self.counts.lock, self.counts.add, entry)

    def requeue(self, job: Job) -> None:
        entry = Entry(self, job)
        self._add(entry)
        super().requeue(entry)

    def queue_again(self, job: Job) -> None:
        entry = Entry(self, job)
        holding(self.counts.lock, self.counts.replace, entry)
        super().queue_again(entry)

    def withdraw(self, key: object) -> None:
        self.counts.withdraw(key)

    def away(self, parked: Parked) -> None:
        self.counts.mark_away(True)
        super().away(parked)

    def back(self, parked: Parked) -> None:
        super().back(parked)
        self.counts.mark_away(False)

    def load(self, *, without: Counting | None = None) -> Load:
        """Under the lock of the counts: what there is to do, but for one of the views."""
        views = self._known_views()
        turns = set().union(*(view.turns() for view in views))
        entries = [entry for turn in turns if (entry := self.counts.entries.get(turn))]
        queued = sum(not entry.has_begun for entry in entries)
        loads = [view.counts.load(view.limit) for view in views if view is not without]
        loads.append(
            Load(
                sum(entry.job not in turns for entry in self.counts.running()),
                sum(entry.job not in turns for entry in self.counts.occupied()),
                self.counts.waiting() - queued,
            )
        )
        return Load(*map(sum, zip(*loads, strict=True)))

    def _known_views(self) -> list[Counting]:
        return [view for known in self.counting_views.copy() if (view := known()) is not None]

    def start_afresh(self) -> None:
        self.counts.lock = threading.RLock()
        self.counts.start_afresh()
        super().start_afresh()


def make_entry(owner: Counting, job: Job) -> Entry:
    entry = Entry(owner, job)
    if isinstance(job, WorkItem):
        entry.key = job.note_entry(entry)
    return entry


def raise_busy(kind: str, name: str, workers: int, busy: Busy, counts: Counts) -> NoReturn:
    limit = counts.max_queued
    raise PoolBusy(
        POOL_BUSY.format(
            kind=kind,
            name=name,
            running=busy.running,
            workers=workers,
            waiting=busy.waiting,
            max_queued=limit,
            more=2 * (limit or 5),
        )
    )
