"""The jobs that wait for a worker of a ``ThreadPoolExecutor``: one submission for many.

``ThreadPoolExecutor.submit`` is half of what a trip to a worker costs: it makes a future with a
condition variable that nobody here will wait for. So the jobs wait in a lane of their own, and
what the executor gets are requests: "somebody serve this lane". The worker that takes up a request
serves one job after another until the lane is empty. There are never more requests (pending or
taken up) than the executor has workers, and one.

A request goes into the executor's queue as it is, under the locks and after the checks of
``submit``, and without its future. That is done on the versions of Python whose queue is known
(the tests run on each), and only while ``submit`` is the standard library's own: tools that trace
replace it. Otherwise the request is submitted, like any function.

What users see of the executor stays as it is:

- Jobs begin in the order in which they came, as many at once as the executor has workers.
- A worker that has served for ``TURN`` seconds makes a new request, at the end of the executor's
  queue, so other users of the executor get their turn.
- While jobs wait, a request is pending: that is what the one more is for. So when the executor
  drops a request (``shutdown(cancel_futures=True)``, an initializer that failed), it has dropped
  the jobs that wait, and each of them is told.
- After a ``shutdown()`` that drops nothing the workers serve the lane to its end.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import thread as _standard
from time import monotonic
from types import FunctionType
from typing import Any, Protocol

from ._errors import DROPPED, log
from ._pool import WorkerPool
from ._pool_view import LimitedView
from ._work_item import Job as WorkerJob

#: Seconds for which a worker may serve a lane in one go, as long as the GIL's switch interval.
TURN = 0.005

#: By kind: the ``submit`` that is known, for which there is a cheaper way in. Not one that somebody
#: has put in its place, on the class or in an instance, to trace or to count.
_KNOWN: dict[type, object] = {kind: kind.submit for kind in (WorkerPool, LimitedView)}
if (
    sys.version_info < (3, 16)  # From then on nobody has looked who uses the executor's queue.
    and isinstance(ThreadPoolExecutor.submit, FunctionType)
    and ThreadPoolExecutor.submit.__globals__ is vars(_standard)
):
    _KNOWN[ThreadPoolExecutor] = ThreadPoolExecutor.submit

# An attribute rather than a weak dictionary: a job may refer to its executor.
_LANE = "_threadhop_lane"


class Job(WorkerJob, Protocol):
    """What waits in a lane."""

    executor: Executor

    def submit(self) -> None:
        """In the thread that books it: ask the executor by its public method."""


def book(job: Job) -> None:
    """Ask the job's executor for a worker. Raises what ``submit`` raises."""
    executor: Any = job.executor
    kind = type(executor)
    if kind is ThreadPoolExecutor:
        lane_of(executor).put(job)
    elif kind in _KNOWN and _is_known(executor):
        executor.put(job)
    else:
        job.submit()


def _is_known(executor: Any) -> bool:
    kind = type(executor)
    return _KNOWN.get(kind) is kind.submit and "submit" not in executor.__dict__


class Lane:
    __slots__ = ("_each_permit", "_permits", "_size", "_waiting")

    def __init__(self, workers: int) -> None:
        self._waiting: deque[Job] = deque()
        #: One more request may be made for each that is in here.
        self._permits = deque([True] * (workers + 1))
        #: Takes one out at each step; IndexError if there is none.
        self._each_permit = iter(self._permits.pop, None)
        self._size = workers + 1

    def put(self, job: Job) -> None:
        """In any thread. It tells the job if the executor refuses."""
        executor: Any = job.executor
        if executor._shutdown or executor._broken:
            # Whatever is served still was there before. Let the executor say it in its own words.
            try:
                executor.submit(_nothing)
            except BaseException as exc:
                job.fail(exc)
                return
        self._waiting.append(job)
        # Who finds no permit leaves the job to those who have them: a worker gives its permit
        # back before it looks for the last time, so it finds this job.
        if not self._permits:
            return
        request = _Request(self)
        try:
            try:
                # In one step: a KeyboardInterrupt in between would lose it for good.
                next(map(request.permit.append, self._each_permit))
            except IndexError:
                return
            self._hand_in(request, executor)
        except BaseException as exc:
            has_permit = request.give_up_permit()
            if has_permit:
                self._permits.append(True)
            with contextlib.suppress(ValueError):
                self._waiting.remove(job)
            # If a worker has it already, that was faster, and this is not for it.
            if not job.fail(exc) and not isinstance(exc, Exception):
                raise
            if has_permit and len(self._permits) >= self._size:
                # Others may have come meanwhile, and relied on the request.
                self._drop_waiting(exc)

    def _hand_in(self, request: _Request, executor: Any) -> None:
        """With its permit."""
        if _is_known(executor):
            with executor._shutdown_lock, _standard._global_shutdown_lock:
                if not (executor._broken or executor._shutdown or _standard._shutdown):
                    # If no thread can start it cannot be taken out of the queue, but has no permit.
                    executor._work_queue.put(request)
                    executor._adjust_thread_count()
                    return
        # Perhaps it refuses: let it say so in its own words.
        future: Future[None] = executor.submit(request.run)
        future.add_done_callback(request.is_done)

    def serve(self) -> None:
        """In a worker, with a permit."""
        waiting = self._waiting
        turn_ends = monotonic() + TURN
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                self._permits.append(True)
                if waiting and self._take_permit():
                    continue
                return
            executor = job.executor
            try:
                job()
            except BaseException:  # A mistake of ours. It must not cost the executor a worker.
                log.critical("Exception in worker", exc_info=True)
            del job
            if waiting and monotonic() > turn_ends:
                request = _Request(self)
                request.permit.append(True)
                try:
                    self._hand_in(request, executor)
                except RuntimeError:
                    if request.give_up_permit():
                        # It was shut down. What waits here was there before, and is served.
                        turn_ends = math.inf
                        continue
                return
            # Who waits for a job must not keep an executor that was thrown away.
            del executor

    def _take_permit(self) -> bool:
        """In a worker, where no KeyboardInterrupt can make it get lost."""
        try:
            self._permits.pop()
        except IndexError:
            return False
        return True

    def drop(self, error: BaseException | str) -> None:
        """In any thread, perhaps under a lock of the executor: it has dropped a request."""
        self._permits.append(True)
        self._drop_waiting(error)

    def _drop_waiting(self, error: BaseException | str) -> None:
        while True:
            try:
                job = self._waiting.popleft()
            except IndexError:
                return
            # Each task raises it, and each time the traceback grows: one for each.
            job.fail(copy.copy(error))


class _Request:
    """What the executor has for one permit: an item of its queue, and the future of that item."""

    __slots__ = ("_lane", "permit")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        #: The permit, until somebody takes it: the worker that runs this, or who gives it up.
        self.permit: list[bool] = []

    def give_up_permit(self) -> bool:
        """In any thread: it will not be served. False if a worker does, or if it has no permit."""
        try:
            return self.permit.pop()
        except IndexError:
            return False

    def run(self, _: object = None) -> None:
        """In a worker. (From Python 3.14 on an item is told what the worker was set up with.)"""
        if self.give_up_permit():
            self._lane.serve()

    # As the item's future: the executor drops it, perhaps under a lock of its own.

    @property
    def future(self) -> _Request:
        return self

    def cancel(self) -> None:
        self._drop(DROPPED)

    def set_exception(self, error: BaseException) -> None:
        self._drop(error)

    def _drop(self, error: BaseException | str) -> None:
        if self.give_up_permit():
            self._lane.drop(error)

    # If it was submitted: the executor has finished with the real future.

    def is_done(self, future: Future[Any]) -> None:
        if self.permit:
            self._drop(DROPPED if future.cancelled() else future.exception() or DROPPED)


def _nothing() -> None:
    """What is never run."""


def lane_of(executor: ThreadPoolExecutor) -> Lane:
    try:
        lane: Lane = executor.__dict__[_LANE]
    except KeyError:
        # Two threads may both come here; they get the same one.
        lane = executor.__dict__.setdefault(_LANE, Lane(executor._max_workers))
    return lane
