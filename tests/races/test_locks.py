"""What is raised in the middle of a step under a lock keeps no lock.

From Python 3.14 on ``with lock:`` may be hit by it after the lock was acquired: by Ctrl+C in the
main thread, by what another thread raises in a worker. Nobody would release that lock.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.interruptions import Interruption, interrupt
from helpers.pool_jobs import Told

import threadhop
from threadhop import WorkerPool, _executors
from threadhop._pool import _limits, _permits, _threads, _view_limiter

POOL = (_limits, _permits, _threads, _view_limiter)


def test_no_lock_is_taken_by_a_with() -> None:
    found = []
    for path in Path(threadhop.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.With):
                names = [ast.unparse(item.context_expr) for item in node.items]
                found += [f"{path.name}: {n}" for n in names if re.search(r"(^|[._])lock$", n)]
    assert found == []


class Parts:
    """Of a pool without threads. Its steps are made here."""

    def __init__(self) -> None:
        pool = WorkerPool(2, max_queued=5)
        self.threads: Any = pool._workers
        self.view: Any = pool.limited(2, max_queued=5)._limiter
        self.threads._threads[threading.current_thread()] = 0
        self.turn = _view_limiter._Turn(self.view)
        self.view._active.add(self.turn)
        self.entry = _limits.Entry(self.threads, Told())
        self.threads.counts.add(self.entry)
        self.gate: Any = object()

    def locks(self) -> list[Any]:
        return [self.threads._lock, self.threads.counts.lock, self.view._lock]


#: What workers do.
STEPS: dict[str, Callable[[Parts], object]] = {
    "away and back": lambda parts: (parts.threads.away(parts), parts.threads.back(parts)),
    "away and back in a view": lambda parts: (parts.view.away(parts), parts.view.back(parts)),
    "a job begins and ends": lambda parts: parts.entry(),
    "a turn queues up again": lambda parts: parts.threads.queue_again(parts.turn),
    "a turn begins and ends": lambda parts: parts.turn(),
    "park": lambda parts: parts.threads._yield_permit(parts.gate),
    "park no more": lambda parts: parts.threads._cancel_park(parts.gate),
    "leave": lambda parts: parts.threads._leave(),
}


@pytest.mark.parametrize("step", STEPS)
def test_an_exception_from_outside_at_any_moment_in_a_worker_keeps_no_lock(step: str) -> None:
    moment, happened = 0, True
    while happened:
        parts = Parts()
        interruption = Interruption(moment, interrupt, *POOL, in_loops=False)
        try:
            with interruption:
                STEPS[step](parts)
        except KeyboardInterrupt:
            pass
        assert not any(lock._is_owned() for lock in parts.locks()), interruption.where
        happened = interruption.happened
        moment += 1
    assert moment > 2, "nothing was interrupted"


def test_ctrl_c_while_the_shared_pool_is_made_keeps_no_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_executors, "_shared", [])
    moment, happened = 0, True
    while happened:
        interruption = Interruption(moment, interrupt, _executors, _permits, in_loops=False)
        try:
            with interruption:
                _executors.shared_pool()
        except KeyboardInterrupt:
            pass
        assert not _executors._shared_pool_lock.locked(), interruption.where
        happened = interruption.happened
        moment += 1
    assert moment > 2, "nothing was interrupted"
