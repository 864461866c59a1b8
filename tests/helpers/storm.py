"""Many tasks in random trouble: what all storms have in common."""

from __future__ import annotations

import asyncio
import contextvars
import random
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, TypeVar

from helpers.loops import LoopKind

here = threading.get_ident
number_of_this = contextvars.ContextVar[int]("number_of_this")

AnyStorm = TypeVar("AnyStorm", bound="Storm")


class OopsError(Exception):
    """Raised by a body or a part on purpose."""


class Storm(ABC):
    """*tasks* tasks make *trips* trips each, while others cancel half of them."""

    #: Of each pool: how many workers, and how their names begin.
    sizes: ClassVar[Sequence[tuple[int, str]]]

    def __init__(self, seed: int, tasks: int, trips: int, *, has_timeouts: bool) -> None:
        self.random = random.Random(seed)
        self.tasks = tasks
        self.trips = trips
        self.has_timeouts = has_timeouts
        self.values = 0
        self.cancelled = 0
        #: By the thread that runs it: which task is in a body there, not counting parked ones.
        self.inside: dict[int, int] = {}
        self.broken: list[str] = []

    @abstractmethod
    async def task(self, number: int, chance: random.Random) -> int:
        """Make the trips, and return *number*."""

    def check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(text)

    async def run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop_thread = here()
        self.pools = [
            ThreadPoolExecutor(size, thread_name_prefix=name) for size, name in self.sizes
        ]
        try:
            seeds = [self.random.random() for _ in range(self.tasks)]
            tasks = [
                self.loop.create_task(self.task(number, random.Random(seed)))
                for number, seed in enumerate(seeds)
            ]
            # The others are never cancelled, so they must end with their value.
            victims = self.random.sample(tasks, self.tasks // 2)
            stop = self.loop.create_task(self._cancel_some(victims))
            _, pending = await asyncio.wait(tasks, timeout=15)
            stop.cancel()
            await asyncio.wait({stop})
            assert not pending, f"{len(pending)} tasks hang: {list(pending)[:3]}"
            for number, task in enumerate(tasks):
                if task.cancelled():
                    assert task in victims, "cancelled by nobody"
                    self.cancelled += 1
                else:
                    assert task.result() == number
                    self.values += 1
            # The pools are alive, with all their workers.
            for pool, (workers, _) in zip(self.pools, self.sizes, strict=True):
                barrier = threading.Barrier(workers)
                futures = [pool.submit(barrier.wait, 5) for _ in range(workers)]
                await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for pool in self.pools:
                pool.shutdown()
        assert not self.broken, self.broken[:5]

    async def _cancel_some(self, victims: list[asyncio.Task[Any]]) -> None:
        """Until all are done: now a few of them, now nobody, and sometimes one twice."""
        while True:
            for _ in range(self.random.randrange(3)):
                task = self.random.choice(victims)
                for _ in range(self.random.choice([1, 1, 1, 2])):
                    task.cancel("storm")
            await asyncio.sleep(self.random.choice([0, 0, 0.0005]))

    def work(self, number: int, pool: int, chance: random.Random) -> None:
        """In a body, with nothing of another task in the same thread at the same time."""
        me = here()
        name = threading.current_thread().name
        self.check(name.startswith(self.sizes[pool][1]), f"{name} is not of pool {pool}")
        self.check(me not in self.inside, "two bodies in one thread")
        self.inside[me] = number
        self.check(number_of_this.get() == number, "the Context of another task, in a body")
        for _ in range(chance.randrange(50)):
            pass
        self.check(self.inside.pop(me) == number, "another body came between")
        self.check(here() == me, "the thread changed within a body")


def run_storm(kind: type[AnyStorm], loops: LoopKind, seed: int, tasks: int, trips: int) -> AnyStorm:
    storm = kind(seed, tasks, trips, has_timeouts=loops.has_current_task)
    interval = sys.getswitchinterval()
    # PyPy has no such thing, and says so by ignoring it.
    sys.setswitchinterval(1e-4)
    try:
        loops.run(storm.run, timeout=18)
    finally:
        sys.setswitchinterval(interval)
    return storm
