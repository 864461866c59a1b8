"""What 100,000 blocks leave in the memory of the process."""

from __future__ import annotations

import asyncio
import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.places import OopsError
from lab.soak import resident

from threadhop import threadpool


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["plain", "nested", "raising", "cancelled"])
def test_a_hundred_thousand_blocks_do_not_grow_the_process(kind: str) -> None:
    """After a warm-up of a fifth, the rest adds less than 8 MiB, which is 100 bytes a block."""

    async def one(a: ThreadPoolExecutor, b: ThreadPoolExecutor) -> None:
        if kind == "plain":
            async with threadpool(a):
                pass
        elif kind == "nested":
            async with threadpool(a), threadpool(b):
                pass
        elif kind == "raising":
            try:
                async with threadpool(a):
                    raise OopsError
            except OopsError:
                pass
        else:
            task = asyncio.get_running_loop().create_task(one_cancelled(a))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert task.cancelled()

    async def one_cancelled(pool: ThreadPoolExecutor) -> None:
        async with threadpool(pool):
            pass

    async def main() -> int:
        with ThreadPoolExecutor(2) as a, ThreadPoolExecutor(2) as b:
            for _ in range(20_000):
                await one(a, b)
            gc.collect()
            before = resident()
            for _ in range(80_000):
                await one(a, b)
            gc.collect()
            return resident() - before

    grown = asyncio.run(main())
    # PyPy's arenas and compiled code reach their plateau late.
    bound = 100_000 if sys.implementation.name == "pypy" else 8_192
    assert grown < bound, f"{grown} KiB"
