"""One ``eventloop()`` object for many: others enter it at each moment of an entry and an exit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from helpers.interruptions import Interruption, interrupt
from helpers.places import assert_is_whole, place
from helpers.steps import LIMIT, Gate, turns

from threadhop import WorkerPool, _blocks, _entries, _strand, eventloop, threadpool

OURS = (_blocks, _entries, _strand)


async def outside(part: eventloop, executor: Executor) -> None:
    async with part:
        await asyncio.sleep(0)


async def nested(part: eventloop, executor: Executor) -> None:
    async with part, part:
        await asyncio.sleep(0)


async def block(part: eventloop, executor: Executor) -> None:
    async with threadpool(executor):
        name = threading.current_thread().name
        async with part:
            assert place() == "loop"
        assert threading.current_thread().name == name
    assert place() == "loop"


Way = Callable[[eventloop, Executor], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("way", [outside, nested, block])
@pytest.mark.parametrize("is_used_again", [False, True], ids=["first time", "again"])
def test_each_leaves_its_own_entry_whenever_a_task_of_another_loop_enters(
    way: Way, is_used_again: bool
) -> None:
    async def stay(part: eventloop, gate: Gate) -> None:
        async with part:
            gate.stop_here()

    async def main(pool: Executor, other: Executor, moment: int) -> Interruption:
        part, gate = eventloop(), Gate()
        others: list[Future[None]] = []

        def intrude() -> None:
            others.append(other.submit(asyncio.run, stay(part, gate)))
            assert gate.reached.wait(LIMIT)

        if is_used_again:
            await way(part, pool)
        with Interruption(moment, intrude, *OURS) as interruption:
            await way(part, pool)
        gate.open()
        for future in others:
            future.result(LIMIT)
        assert not part._part.entered, interruption.where
        assert not part._part._by_key, interruption.where
        await assert_is_whole(pool, 1)
        return interruption

    with WorkerPool(1) as pool, ThreadPoolExecutor(1) as other:
        for moment in count():
            if not asyncio.run(main(pool, other, moment)).happened:
                assert moment > 5, "nothing was interrupted"
                break


@pytest.mark.parametrize("way", [outside, nested])
def test_ctrl_c_at_an_entry_or_exit_outside_of_any_block_harms_no_other_one(way: Way) -> None:
    async def main(pool: Executor, moment: int) -> Interruption:
        part = eventloop()
        interruption = Interruption(moment, interrupt, *OURS)
        with interruption:
            try:
                await way(part, pool)
            except KeyboardInterrupt:
                assert interruption.happened
        await asyncio.gather(*(act(part, pool) for act in (block, way, block)))
        await turns()
        await assert_is_whole(pool, 1)
        return interruption

    with WorkerPool(1) as pool:
        for moment in count():
            if not asyncio.run(main(pool, moment)).happened:
                assert moment > 5, "nothing was interrupted"
                break
