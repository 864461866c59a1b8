"""Scenarios that must leave nothing behind: weak references, and counts of the collector."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from helpers.steps import LIMIT, turns, wait_until

IS_PYPY = sys.implementation.name == "pypy"
#: Without a GIL some reference counts are merged later, so an object may look like garbage.
MAY_DEFER = not getattr(sys, "_is_gil_enabled", lambda: True)()

counts_references = pytest.mark.skipif(
    IS_PYPY, reason="PyPy has no reference counts: what it frees, it frees by collecting"
)

#: More than one round makes objects: where the last round's are freed late, each other one counts.
ROUNDS = 60

#: The work of a task with two pools of one worker each.
Scenario = Callable[[ThreadPoolExecutor, ThreadPoolExecutor], Coroutine[Any, Any, object]]


class Thing:
    """Something that a weak reference can watch."""


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def collect() -> None:
    for _ in range(3 if IS_PYPY else 1):
        gc.collect()


def collect_until(condition: Callable[[], object]) -> None:
    """In any thread: give the other threads time to let go, and PyPy one more link of the chain."""

    def collected() -> object:
        gc.collect()
        return condition()

    wait_until(collected)


def assert_no_cyclic_garbage(scenario: Scenario) -> None:
    """With the collector off, what *scenario* made is freed by reference counts alone."""

    async def main() -> int:
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            for _ in range(3):  # whatever is made once
                await scenario(one, other)
            # A round of the loop, for the callbacks that hold what has just ended.
            await turns()
            with no_collector():
                for _ in range(ROUNDS):
                    await scenario(one, other)
                await turns()
                # The worker may still be on its way out of the last job.
                for pool in (one, other):
                    pool.submit(str).result(LIMIT)
                return gc.collect()

    garbage = asyncio.run(main())
    assert garbage <= (ROUNDS if MAY_DEFER else 0), f"{garbage} objects in {ROUNDS} rounds"


def assert_its_task_is_freed(scenario: Scenario) -> None:
    """With the last reference to a task that ran *scenario*, it is freed, and its coroutine."""

    async def main() -> None:
        with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
            await scenario(one, other)
            with no_collector():
                task = asyncio.get_running_loop().create_task(scenario(one, other))
                coro: Any = task.get_coro()
                dead: list[weakref.ref[Any]] = [weakref.ref(task), weakref.ref(coro)]
                del coro
                await task
                del task
                await turns()
                for pool in (one, other):
                    pool.submit(str).result(LIMIT)
                if MAY_DEFER:
                    gc.collect()
                alive = [ref() for ref in dead]
                assert alive == [None, None], f"{alive} were not freed"

    asyncio.run(main())
