"""Many tasks in random trouble, each within cancel scopes of anyio's that end at random moments.

A task that nobody cancels ends with its value: what its scopes cancel, its scopes catch.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.storm import OopsError, Storm, here, number_of_this, run_storm

from threadhop import AsyncExecutor, check_cancelled, eventloop, exec_in_eventloop, threadpool

anyio: Any = pytest.importorskip("anyio", reason="needs anyio, which is not installed")
backend: Any = pytest.importorskip("anyio._backends._asyncio")

#: The pools.
A, B = 0, 1


class StormOfScopes(Storm):
    """Each trip is one within scopes."""

    sizes = ((3, "A"), (2, "B"))
    #: How many scopes have caught something.
    caught = 0

    async def task(self, number: int, chance: random.Random) -> int:
        number_of_this.set(number)
        for _ in range(self.trips):
            try:
                await self._one(number, chance)
            finally:
                self.check(here() == self.loop_thread, "not on the loop after a scope")
                state = backend._task_states.get(asyncio.current_task())
                self.check(state is None or state.cancel_scope is None, "a scope is left")
            if chance.random() < 0.3:
                await asyncio.sleep(0)
        return number

    async def _one(self, number: int, chance: random.Random) -> None:
        act = chance.choice([self._plain, self._nested, self._part, self._run, self._children])
        kind = chance.randrange(4)
        if kind == 0:  # It is cancelled already, or very soon.
            with anyio.move_on_after(chance.choice([0, 0.0001])) as scope:
                await act(number, chance)
        elif kind == 1:  # From outside, at any moment.
            with anyio.CancelScope() as scope:
                self.loop.call_later(chance.choice([0, 0.0005, 0.002]), scope.cancel)
                await act(number, chance)
        elif kind == 2:  # A shield within.
            with anyio.move_on_after(chance.choice([0, 0.001])) as scope:
                with anyio.CancelScope(shield=chance.random() < 0.5):
                    await act(number, chance)
                await act(number, chance)
        else:  # Cleaning up is cancelled, too.
            with anyio.move_on_after(chance.choice([0.0005, 0.002])) as scope:
                try:
                    await act(number, chance)
                finally:
                    await act(number, chance)
        self.caught += scope.cancelled_caught

    async def _plain(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[A]):
            self.work(number, A, chance)
            if chance.random() < 0.3:
                check_cancelled()

    async def _nested(self, number: int, chance: random.Random) -> None:
        # Always A before B.
        async with threadpool(self.pools[A]):
            outer = here()
            try:
                async with threadpool(self.pools[B]):
                    self.work(number, B, chance)
                    if chance.random() < 0.3:
                        async with eventloop():
                            await anyio.sleep(0)
            finally:
                self.check(here() == outer, "another outer thread")

    async def _part(self, number: int, chance: random.Random) -> None:
        async with threadpool(self.pools[A]):
            worker = here()
            for _ in range(2):
                try:
                    async with eventloop():
                        self.check(here() == self.loop_thread, "a loop part on a worker")
                        with anyio.move_on_after(chance.choice([0, 0.001, 1])):
                            await anyio.sleep(0.0005)
                finally:
                    self.check(here() == worker, "another worker after a loop part")
                if chance.random() < 0.3:
                    exec_in_eventloop(anyio.sleep, 0)

    async def _run(self, number: int, chance: random.Random) -> None:
        with suppress(OopsError):
            await AsyncExecutor(self.pools[B]).run(self._raise_or_not, chance)

    def _raise_or_not(self, chance: random.Random) -> None:
        if chance.random() < 0.3:
            raise OopsError

    async def _children(self, number: int, chance: random.Random) -> None:
        acts: list[Callable[[int, random.Random], Awaitable[None]]] = [self._plain, self._part]
        async with anyio.create_task_group() as group:
            for act in acts:
                group.start_soon(act, number, random.Random(chance.random()))
            if chance.random() < 0.3:
                group.cancel_scope.cancel()
            await self._plain(number, chance)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("seed", "tasks"),
    [(1, 60), (2, 60)]
    + [pytest.param(seed, 300, marks=pytest.mark.storm) for seed in range(1000, 1020)],
)
def test_every_task_of_a_storm_of_scopes_ends(
    current_task_loops: LoopKind, seed: int, tasks: int
) -> None:
    storm = run_storm(StormOfScopes, current_task_loops, seed, tasks, trips=5)
    assert storm.values >= tasks // 2
    assert storm.caught, "no scope was cancelled in time"
