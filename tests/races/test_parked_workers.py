"""A parked worker that gives up, and a task that comes back to it just then: one of both has it."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.steps import LIMIT, Gate

from threadhop._block_job import BlockJob
from threadhop._errors import WORKER_GONE
from threadhop._interface import WorkerSuspension


class FakeLoop:
    asyncgen_hooks = (None, None)

    def is_closed(self) -> bool:
        return False


class FakeToken:
    why = None


class FakeStrand:
    """A strand of one job: it goes to the loop once, and comes back, or not."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.token = FakeToken()
        self.drives = 0
        self.abandoned = 0
        #: How often it was told, by the one that has the task, that the worker has gone.
        self.left_alone = 0
        #: Called by the parked worker, which then believes that nobody comes back any more.
        self.looks: Callable[[], object] = lambda: None
        #: How it answers after that.
        self.gone = True
        #: Whether the job has it in a loop part; else in a block of another executor.
        self.in_part = True

    def drive(self, job: BlockJob) -> bool:
        self.drives += 1
        if self.drives == 1:
            job.prepare_to_park(None)
            return True
        return False

    def is_gone(self) -> bool:
        looks, self.looks = self.looks, lambda: None
        looks()
        return self.gone

    def is_in_loop_part_of(self, job: BlockJob) -> bool:
        return self.in_part

    def abandon(self) -> None:
        self.abandoned += 1

    def worker_is_gone(self) -> None:
        self.left_alone += 1


class LyingInbox:
    """The inbox of a job: runs something before it waits, around a last look, or around a put."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[WorkerSuspension | None] = queue.SimpleQueue()
        self.hooks: dict[str, Callable[[], object]] = {}

    def _hook(self, name: str) -> None:
        self.hooks.pop(name, lambda: None)()

    def get(self, block: bool, timeout: float) -> WorkerSuspension | None:
        self._hook("before wait")
        return self.tasks.get(block, timeout)

    def get_nowait(self) -> WorkerSuspension | None:
        self._hook("before last look")
        try:
            return self.tasks.get_nowait()
        finally:
            self._hook("after last look")

    def put(self, worker_suspension: WorkerSuspension | None) -> None:
        self._hook("before put")
        self.tasks.put(worker_suspension)
        self._hook("after put")


class LyingTask(WorkerSuspension):
    """A task that runs something before somebody takes it for the first time."""

    before_take: Callable[[], object] = staticmethod(lambda: None)

    def take(self, taker: object) -> Any:
        before, self.before_take = self.before_take, lambda: None
        before()
        return super().take(taker)


class Parked:
    """A job whose worker, this thread, parks at once and then gives up."""

    def __init__(self) -> None:
        self.strand: Any = FakeStrand()
        self.inbox = LyingInbox()
        self.hooks = self.inbox.hooks
        self.job: Any = BlockJob(ThreadPoolExecutor(1), self.strand, None)  # type: ignore[arg-type]
        self.job.code = sys._getframe().f_code
        self.job._inbox = self.inbox
        self.task = LyingTask(self.job, self.strand)
        #: As the loop thread does; here in the middle of what the worker does.
        self.put = self.task.resume
        #: Where another thread that puts the task stands still.
        self.gate = Gate()
        self._other = threading.Thread(target=self.put)

    def start_to_put(self) -> None:
        """Have another thread do it, up to the gate."""
        self._other.start()
        assert self.gate.reached.wait(LIMIT)

    def end_to_put(self) -> None:
        """Let the other thread go on to its end."""
        self.gate.open()
        self._other.join(LIMIT)
        assert not self._other.is_alive()

    def run(self) -> None:
        self.job()

    def told(self) -> tuple[int, int, int]:
        """How often the worker drove the task, gave it up, and left it to the one who put it."""
        return self.strand.drives, self.strand.abandoned, self.strand.left_alone


@pytest.fixture
def parked(monkeypatch: pytest.MonkeyPatch) -> Parked:
    monkeypatch.setattr("threadhop._block_job.POLL", 0.001)
    return Parked()


def test_a_task_that_is_put_while_the_worker_looks_is_not_missed(parked: Parked) -> None:
    """1 the worker looks, 2 the task is put, 3 it gives up, 4 and sees the task: it goes on."""
    parked.strand.looks = parked.put
    parked.run()
    assert parked.told() == (2, 0, 0)


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "before it is put"])
@pytest.mark.parametrize("in_part", [False, True], ids=["in a block", "in a loop part"])
def test_a_task_that_is_put_when_the_worker_has_gone_stays_with_who_put_it(
    parked: Parked, is_late: bool, in_part: bool
) -> None:
    """1 the worker gives up and leaves, 2 the task is put: who put it finds the worker gone.

    The worker abandons a task that it knows to be on the loop.
    """
    parked.strand.in_part = in_part
    if is_late:
        parked.hooks["before put"] = parked.run
    else:
        parked.run()
        assert parked.told() == (1, int(in_part), 0)
    parked.put()
    assert parked.told() == (1, int(in_part), 1)
    assert parked.job.take_failure() is WORKER_GONE


def test_a_task_that_is_put_just_before_the_last_look_and_taken_back_is_not_the_workers(
    parked: Parked,
) -> None:
    """1 the worker gives up, 2 the task is put and who put it takes it back, 3 the last look.

    The worker leaves: who put the task has found it gone.
    """
    parked.hooks["before last look"] = parked.put
    parked.run()
    assert parked.told() == (1, 0, 1)
    assert parked.job.has_given_up


def test_a_task_that_both_find_belongs_to_the_one_that_takes_it_first(parked: Parked) -> None:
    """1 the worker gives up, 2 the task is put, 3 the worker's last look, 4 who put it takes it."""
    parked.hooks["after put"] = parked.gate.stop_here
    parked.hooks["before last look"] = parked.start_to_put
    parked.hooks["after last look"] = parked.end_to_put
    parked.run()
    assert parked.told() == (1, 0, 1)


@pytest.mark.parametrize("stands", ["before it looks", "before it takes"])
def test_a_task_that_the_worker_takes_before_who_put_it_does_belongs_to_the_worker(
    parked: Parked, stands: str
) -> None:
    """1 the worker gives up, 2 the task is put, 3 the worker's last look, 4 that of who put it.

    The one that put it stands still before the look, or when it has seen the worker give up.
    """
    if stands == "before it looks":
        parked.hooks["after put"] = parked.gate.stop_here
    else:
        parked.task.before_take = parked.gate.stop_here
    parked.hooks["before last look"] = parked.start_to_put
    parked.run()
    assert parked.told() == (2, 0, 0)
    parked.end_to_put()
    assert parked.told() == (2, 0, 0)
    assert not parked.job.has_given_up


def test_a_parked_worker_that_two_tasks_need_gives_up_only_if_both_are_gone(
    parked: Parked,
) -> None:
    """1 the first task is gone, 2 the worker looks again, 3 so is the second, 4 it gives up.

    The first one may come back as long as the second is there: it goes on.
    """
    second: Any = FakeStrand()
    looks: list[str] = []

    def look() -> None:
        looks.append("the second one")
        if len(looks) == 3:
            parked.put()
        second.gone = len(looks) > 3
        second.looks = look

    second.looks = look
    parked.job.holders = {parked.strand, second}
    parked.run()
    assert len(looks) == 4
    assert parked.told()[0] == 2
    assert second.drives == 0
    assert parked.job.has_given_up


def test_a_parked_worker_that_two_tasks_need_stays_until_both_have_released_it(
    parked: Parked,
) -> None:
    """1 a second task needs it, 2 one of them is gone, and releases it, 3 so does the other."""
    job, first = parked.job, parked.strand
    second: Any = FakeStrand()
    for strand in (first, second):
        strand.looks = lambda: pytest.fail("it is needed, and gives up")

    def release_first() -> None:
        job.release_worker(first)
        assert job.holders == {second}
        assert job.strand is not None
        parked.hooks["before wait"] = release_second

    def release_second() -> None:
        job.release_worker(second)
        assert not job.holders
        assert job.strand is None

    job.holders = {first, second}
    parked.hooks["before wait"] = release_first
    parked.run()
    assert not job.holders, "it left although somebody needed it"
    assert parked.told() == (1, 0, 0)
    assert second.drives == 0
    assert not parked.inbox.tasks.qsize()
