"""Random programs of blocks, loop parts and context variables, also where tasks share a Context.

A task sees its variables the same everywhere (``lab/`` tests that, too). Where another task shares
its Context nothing so simple holds. There the same program must have the same course when each
variable is looked at, as when the look is left out because nothing has changed.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT
from helpers.storm import OopsError

from threadhop import WorkerPool, _variables, eventloop, exec_in_eventloop, threadpool

VARS = [contextvars.ContextVar[str](f"variable {number}") for number in range(4)]
PLACES = ("A", "B", "loop", "call")
Step = tuple[Any, ...]


def program(rng: random.Random, *, is_shared: bool, depth: int = 0) -> list[Step]:
    steps: list[Step] = []
    for _ in range(rng.randint(2, 8)):
        kind = rng.random()
        if kind < 0.3:
            steps.append(("set", rng.randrange(len(VARS))))
        elif kind < 0.5:
            steps.append(("reset", rng.random() < 0.1, rng.random()))
        elif kind < 0.6:
            steps.append(("refused",))
        elif kind < 0.63:
            steps.append(("raise",) if depth else ("cancel",))
        elif kind < 0.65:
            steps.append(("cancel",))
        elif kind < 0.75 and is_shared:
            steps.append(("other", rng.random() < 0.6, rng.randrange(len(VARS))))
        elif depth < 4:
            place = rng.choice(PLACES if depth else PLACES[:2])
            body = program(rng, is_shared=is_shared, depth=depth + 1)
            steps.append((place, rng.random() < 0.85, body))
    return steps


class Course:
    """One run of a program, and what was seen in it."""

    def __init__(self, pools: dict[str, Executor], *, is_shared: bool) -> None:
        self.pools = pools
        self.is_shared = is_shared
        self.seen: list[Any] = []
        self._model: dict[int, str] = {}
        self._values = 0
        self._loop_thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._tokens: dict[bool, list[Any]] = {True: [], False: []}
        self._tokens_of_other: list[Any] = []

    async def run(self, steps: list[Step]) -> list[Any]:
        self._task = self._loop.create_task(self._main(steps), context=self._context)
        await asyncio.wait({self._task})
        self._task.result()
        self.seen.append(self._context.run(self._values_here))
        del self._task
        return self.seen

    async def _main(self, steps: list[Step]) -> None:
        await asyncio.sleep(0)  # An eager task runs before it is known by its name.
        try:
            await self._body(steps)
            await asyncio.sleep(0)
        except (OopsError, asyncio.CancelledError) as error:
            self.seen.append(type(error).__name__)
        self._look("at the end")
        try:
            async with threadpool(self.pools["A"]):
                self._look("in one more block")
        except asyncio.CancelledError:
            self.seen.append("late")
        self._look("after it")

    def _values_here(self) -> tuple[str | None, ...]:
        return tuple(var.get(None) for var in VARS)

    def _look(self, where: str) -> None:
        values = self._values_here()
        self.seen.append((where, values))
        if not self.is_shared:
            assert values == tuple(self._model.get(number) for number in range(len(VARS))), where

    @property
    def _is_on_loop(self) -> bool:
        return threading.get_ident() == self._loop_thread

    def _new_value(self) -> str:
        self._values += 1
        return f"value {self._values}"

    async def _body(self, steps: list[Step]) -> None:
        for step in steps:
            if step[0] in self.pools or step[0] in PLACES:
                try:
                    await self._go(*step)
                except OopsError:
                    self.seen.append("oops")
                except asyncio.CancelledError:
                    self.seen.append("cancelled")
                    if not step[1]:
                        self._look("on the way out")
                        raise
            elif step[0] == "refused":
                try:
                    async with threadpool(self.pools["shut down"]):
                        raise AssertionError
                except (RuntimeError, asyncio.CancelledError) as error:
                    self.seen.append(type(error).__name__)
            else:
                getattr(self, f"_{step[0]}")(*step[1:])
            self._look(step[0])

    async def _go(self, place: str, _: bool, steps: list[Step]) -> None:
        if place == "call" and not self._is_on_loop:
            exec_in_eventloop(self._call, steps)
        elif place in ("loop", "call"):
            async with eventloop():
                self._look("in a loop part")
                await self._body(steps)
        else:
            async with threadpool(self.pools[place]):
                self._look("in a block")
                await self._body(steps)

    def _call(self, steps: list[Step]) -> None:
        for step in steps:
            if step[0] == "set":
                value = self._model[step[1]] = self._new_value()
                VARS[step[1]].set(value)
                self._look("in a call")

    def _set(self, number: int) -> None:
        value = self._new_value()
        token = VARS[number].set(value)
        self._tokens[self._is_on_loop].append((number, token, self._model.get(number)))
        self._model[number] = value

    def _reset(self, from_over_there: bool, which: float) -> None:
        tokens = self._tokens[self._is_on_loop is not from_over_there]
        if not tokens:
            return
        number, token, before = tokens.pop(int(which * len(tokens)))
        try:
            VARS[number].reset(token)
        except ValueError:
            self.seen.append("a token of the other side")
            assert from_over_there or self.is_shared
            return
        assert not from_over_there
        if before is None:
            self._model.pop(number, None)
        else:
            self._model[number] = before

    def _raise(self) -> None:
        raise OopsError

    def _cancel(self) -> None:
        self._on_loop(self._task.cancel)

    def _other(self, sets: bool, number: int) -> None:
        """Another task that shares the Context does something, while this one is in a worker."""
        if not self._is_on_loop:
            self._on_loop(self._do_other, sets, number)

    def _do_other(self, sets: bool, number: int) -> None:
        if sets:
            var = VARS[number]
            self._tokens_of_other.append((var, var.set(self._new_value())))
        elif self._tokens_of_other:
            var, token = self._tokens_of_other.pop()
            var.reset(token)

    def _on_loop(self, func: Any, *args: Any) -> None:
        if self._is_on_loop:
            func(*args)
            return
        done = threading.Event()

        def call() -> None:
            func(*args)
            done.set()

        self._loop.call_soon_threadsafe(call, context=self._context)
        assert done.wait(LIMIT)


@pytest.fixture
def pools() -> Iterator[dict[str, Executor]]:
    with WorkerPool(2) as a, ThreadPoolExecutor(2) as b:
        dead = WorkerPool(1)
        dead.shutdown()
        yield {"A": a, "B": b, "shut down": dead}


def courses(
    loops: LoopKind, pools: dict[str, Executor], seeds: range, *, is_shared: bool
) -> dict[int, list[Any]]:
    async def main() -> dict[int, list[Any]]:
        return {
            seed: await Course(pools, is_shared=is_shared).run(
                program(random.Random(seed), is_shared=is_shared)
            )
            for seed in seeds
        }

    return loops.run(main, timeout=60)


@pytest.mark.parametrize("is_shared", [False, True], ids=["alone", "shared"])
def test_a_look_that_is_left_out_changes_nothing(
    loops: LoopKind,
    pools: dict[str, Executor],
    monkeypatch: pytest.MonkeyPatch,
    is_shared: bool,
) -> None:
    seeds = range(1_000, 1_100)
    as_it_is = courses(loops, pools, seeds, is_shared=is_shared)
    monkeypatch.setattr(_variables, "is_same_mapping", lambda context, copy: False)
    assert as_it_is == courses(loops, pools, seeds, is_shared=is_shared)
