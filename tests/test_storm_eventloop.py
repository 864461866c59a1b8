"""Many tasks nest blocks and loop parts, in random trouble. Every one must end, on its thread.

The seeds are fixed, the interleavings are not. The short form always runs; the long one, 20 times
in a row on a larger scale, is behind ``-m storm``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from helpers.loops import LoopKind
from helpers.storm import OopsError, Storm, here, number_of_this, run_storm

from threadhop import eventloop, exec_in_eventloop, threadpool

#: How deep a block and its part nest in one another.
DEPTH = 3


class StormOfParts(Storm):
    """Each trip goes there and back, through blocks and parts that nest."""

    # A task goes from a pool to itself or to one further right, or it might wait in a circle.
    sizes = ((4, "A"), (3, "B"), (2, "C"))

    async def task(self, number: int, chance: random.Random) -> int:
        number_of_this.set(number)
        for _ in range(self.trips):
            try:
                await self._trip(number, chance)
            except OopsError as error:
                self.check(error.args == (number,), "the error of another task")
            finally:
                self.check(here() == self.loop_thread, "not on the loop after a trip")
            self.check(number_of_this.get() == number, "the Context of another task")
        return number

    async def _trip(self, number: int, chance: random.Random) -> None:
        kind = chance.choice(["block", "block", "generator", "timeout"])
        if kind == "generator":
            async with aclosing(self._rows(number, chance)) as rows:
                async for _ in rows:
                    self.check(here() == self.loop_thread, "a consumer off the loop")
                    await asyncio.sleep(0)
                    if chance.random() < 0.3:
                        break
        elif kind == "timeout" and self.has_timeouts:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.choice([0, 0.0005, 0.005])):
                    await self._block(number, chance, 0, DEPTH)
        else:
            await self._block(number, chance, 0, DEPTH)

    def work(self, number: int, pool: int, chance: random.Random) -> None:
        super().work(number, pool, chance)
        if chance.random() < 0.05:
            raise OopsError(number)

    async def _block(self, number: int, chance: random.Random, least: int, depth: int) -> None:
        """A block in one of the pools from *least* on, with parts in it that may nest more."""
        # Not to the left of the pools that the task holds; to the same one it goes back.
        pool = chance.randrange(least, len(self.pools))
        origin = here()
        try:
            async with threadpool(self.pools[pool]):
                worker = here()
                try:
                    self.work(number, pool, chance)
                    for _ in range(chance.randrange(1, 3)):
                        await self._from_body(number, chance, pool, depth)
                        self.check(here() == worker, "another worker after a part")
                        self.work(number, pool, chance)
                finally:
                    self.check(here() == worker, "the finally of a body in another thread")
        finally:
            self.check(here() == origin, "a block was not left")

    async def _from_body(self, number: int, chance: random.Random, pool: int, depth: int) -> None:
        worker = here()
        kind = chance.choice(["part", "part", "swallowing part", "call", "block"])
        try:
            if kind == "call":
                got = exec_in_eventloop(self._called, number)
                self.check(got == number, "the result of another call")
            elif kind == "block":
                if depth > 1:
                    await self._block(number, chance, pool, depth - 1)
            else:
                await self._part(number, chance, pool, depth)
        except asyncio.CancelledError:
            self.check(here() == worker, "cancelled in another thread than that of the body")
            if kind != "swallowing part":
                raise

    async def _called(self, number: int) -> int:
        self.check(here() == self.loop_thread, "a call off the loop")
        self.check(number_of_this.get() == number, "the Context of another task, in a call")
        await asyncio.sleep(0)
        return number

    async def _part(self, number: int, chance: random.Random, pool: int, depth: int) -> None:
        async with eventloop():
            try:
                self.check(here() == self.loop_thread, "a part off the loop")
                self.check(number_of_this.get() == number, "the Context of another task, in a part")
                if chance.random() < 0.7:
                    await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                if depth > 1 and chance.random() < 0.6:
                    await self._block(number, chance, pool, depth - 1)
                if chance.random() < 0.05:
                    raise OopsError(number)
            finally:
                self.check(here() == self.loop_thread, "the finally of a part off the loop")

    async def _rows(self, number: int, chance: random.Random) -> AsyncIterator[int]:
        async with threadpool(self.pools[0]):
            worker = here()
            try:
                for row in range(3):
                    self.work(number, 0, chance)
                    async with eventloop():
                        yield row
                    self.check(here() == worker, "another worker after a row")
            finally:
                self.check(here() == worker, "the finally of a generator in another thread")


LONG = [pytest.param(seed, 8, marks=pytest.mark.storm) for seed in range(1000, 1020)]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("seed", "trips"), [(1, 2), *LONG])
def test_every_task_of_a_storm_ends(loops: LoopKind, seed: int, trips: int) -> None:
    storm = run_storm(StormOfParts, loops, seed, tasks=200, trips=trips)
    assert storm.values >= 100
    assert storm.cancelled, "nothing was looked at"
