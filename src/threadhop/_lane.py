"""The jobs that wait for a worker of a ``ThreadPoolExecutor``: one submission for many.

``ThreadPoolExecutor.submit`` is half of what a trip to a worker costs: it makes a future with a
condition variable that nobody here will wait for. So the jobs wait in a lane of their own, and
what is submitted are requests: "somebody serve this lane". The worker that takes up a request
serves one job after another until the lane is empty. There are never more requests (pending or
taken up) than the executor has workers, and one.

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
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, Protocol

from ._errors import DROPPED

#: Seconds for which a worker may serve a lane in one go, as long as the GIL's switch interval.
TURN = 0.005

# An attribute rather than a weak dictionary: a job may refer to its executor.
_LANE = "_threadhop_lane"


class Job(Protocol):
    """What waits in a lane."""

    executor: Executor

    def __call__(self) -> None:
        """In a worker: do it. Must not raise."""

    def fail(self, error: BaseException | str | None, /) -> bool:
        """In any thread: it will not be done. False if somebody does it already."""

    def submit(self) -> None:
        """In the thread that books it: ask the executor by its public method."""


def book(job: Job) -> None:
    """Ask the job's executor for a worker. Raises what ``submit`` raises."""
    executor = job.executor
    if type(executor) is ThreadPoolExecutor:
        lane_of(executor).put(job)
    else:
        job.submit()


class Lane:
    __slots__ = ("_permits", "_size", "_waiting")

    def __init__(self, workers: int) -> None:
        self._waiting: deque[Job] = deque()
        #: One more request may be made for each that is in here.
        self._permits = deque([None] * (workers + 1))
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
        if self._take_permit():
            try:
                self._request(job.executor)
            except BaseException as exc:
                self._permits.append(None)
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)
                # If a worker has it already, that was faster, and this is not for it.
                if not job.fail(exc) and not isinstance(exc, Exception):
                    raise
                if len(self._permits) >= self._size:
                    # Others may have come meanwhile, and relied on the request.
                    self._drop_waiting(exc)

    def _take_permit(self) -> bool:
        try:
            self._permits.pop()
        except IndexError:
            return False
        return True

    def _request(self, executor: Executor) -> None:
        """With a permit."""
        request = _Request(self)
        future: Future[None] = executor.submit(request)
        future.add_done_callback(request.is_done)

    def serve(self) -> None:
        """In a worker, with a permit."""
        waiting = self._waiting
        turn_ends = monotonic() + TURN
        while True:
            try:
                job = waiting.popleft()
            except IndexError:
                self._permits.append(None)
                if waiting and self._take_permit():
                    continue
                return
            executor = job.executor
            try:
                job()
            except BaseException:  # A mistake of ours. It must not cost the lane a worker.
                self._permits.append(None)
                raise
            del job
            if waiting and monotonic() > turn_ends:
                try:
                    self._request(executor)
                except RuntimeError:
                    # It was shut down. What waits here was there before, and is served.
                    turn_ends = math.inf
                else:
                    return
            # Who waits for a job must not keep an executor that was thrown away.
            del executor

    def drop(self, error: BaseException | str) -> None:
        """In any thread, perhaps under a lock of the executor: it has dropped a request."""
        self._permits.append(None)
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
    """One submission."""

    __slots__ = ("_lane", "_taken_up")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        #: Written by the worker that calls this, before its future is done.
        self._taken_up = False

    def __call__(self) -> None:
        self._taken_up = True
        self._lane.serve()

    def is_done(self, future: Future[Any]) -> None:
        if self._taken_up:
            return
        if future.cancelled():
            self._lane.drop(DROPPED)
        else:
            self._lane.drop(future.exception() or DROPPED)


def _nothing() -> None:
    """What is never run."""


def lane_of(executor: ThreadPoolExecutor) -> Lane:
    try:
        lane: Lane = executor.__dict__[_LANE]
    except KeyError:
        # Two threads may both come here; they get the same one.
        lane = executor.__dict__.setdefault(_LANE, Lane(executor._max_workers))
    return lane
