"""Workers of a ``WorkerPool`` that came back, and are too many now."""

from __future__ import annotations

import pytest
from helpers.steps import LIMIT, Gate, wait_until

from threadhop import WorkerPool
from threadhop._pool import _threads


def test_workers_in_the_reserve_leave_although_a_job_waits_for_the_busy_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1 two workers are away and a third one works, 2 a job waits, 3 the two come back and end.

    There is one place, and it is taken: the two have nothing to do, and leave when they were idle
    for long enough. They neither stay because of the job, nor do they run in circles.
    """
    monkeypatch.setattr(_threads, "IDLE", 0.02)
    steps = [Gate(), Gate()]

    def go_away(gate: Gate) -> None:
        pool.away()
        gate.stop_here()
        pool.back()

    with WorkerPool(1, max_threads=3) as pool:
        futures = [pool.submit(go_away, gate) for gate in steps]
        busy = Gate()
        futures.append(pool.submit(busy.stop_here))
        for gate in (*steps, busy):
            assert gate.reached.wait(LIMIT)
        waiting = pool.submit(int)
        for gate in steps:
            gate.open()
        wait_until(lambda: len(pool._threads) == 1)
        assert pool.statistics() == (1, 1, 0, 0, 1)
        busy.open()
        assert waiting.result(LIMIT) == 0
        for future in futures:
            future.result(LIMIT)
