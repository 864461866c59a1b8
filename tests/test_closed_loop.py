"""A loop that is closed under a running body loses the task, and no worker."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, until

import threadhop._block_job
from threadhop import threadpool


def close_a_loop_under(
    block: Coroutine[Any, Any, None], gate: Gate, loops: LoopKind
) -> asyncio.Task[None]:
    """Close the loop while the body of *block* stands at *gate*. Return its task."""

    async def main() -> asyncio.Task[None]:
        asyncio.get_running_loop().set_task_factory(loops.task_factory)
        task = asyncio.get_running_loop().create_task(block)
        await until(gate.reached.is_set)
        return task

    loop = loops.loop_factory()
    task = loop.run_until_complete(main())
    loop.close()
    return task


@pytest.mark.trio
@pytest.mark.parametrize("parked_goes_first", [False, True])
def test_a_loop_that_is_closed_under_a_nested_body_leaves_both_workers_usable(
    loops: LoopKind,
    executor_class: type[ThreadPoolExecutor],
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[logging.LogRecord],
    caplog: pytest.LogCaptureFixture,
    parked_goes_first: bool,
) -> None:
    """The body comes to its end; a warning says that the task is lost, and where.

    The parked outer worker does not wait for an inner body that may run for long. The warning also
    comes if that worker has gone, and nobody takes the task over when the inner body has ended.
    """
    monkeypatch.setattr(threadhop._block_job, "POLL", 0.01 if parked_goes_first else LIMIT)
    gate = Gate()

    async def block(outer: Executor, inner: Executor) -> None:
        async with threadpool(outer), threadpool(inner):
            gate.stop_here()

    with executor_class(1) as outer, executor_class(1) as inner:
        task = close_a_loop_under(block(outer, inner), gate, loops)
        if not parked_goes_first:
            gate.open()
        assert outer.submit(str, 1).result(LIMIT) == "1"
        gate.open()
        assert inner.submit(str, 2).result(LIMIT) == "2"
        assert not task.done()
    (record,) = [record for record in caplog.records if record.name == "threadhop"]
    assert record.levelno == logging.WARNING
    assert parked_goes_first or __file__ in record.getMessage()
    del task
    gc.collect()
