"""Jobs for ``WorkerPool.put``, and collections that lie about when things happen."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from helpers.steps import LIMIT, Gate

from threadhop import PoolBusy, WorkerPool
from threadhop._pool._permits import _pop_and_call


def are_gone(*refs: weakref.ref[Any]) -> bool:
    gc.collect()
    return all(ref() is None for ref in refs)


def nothing() -> None:
    """A job does this by default."""


def cannot_start(thread: threading.Thread) -> None:
    """In the place of ``Thread.start``."""
    raise RuntimeError("can't start new thread")


def before(
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    act: Callable[[], object],
    when: Callable[..., object] = lambda *_: True,
) -> None:
    """Have *act* called before *owner* does *name*, once: the next time, or the next one *when*."""
    original, acts = getattr(owner, name), iter([act])

    def lie(*args: Any) -> Any:
        if when(*args):
            for act in acts:
                act()
        return original(*args)

    monkeypatch.setattr(owner, name, lie)


def takes(executor: Any, jobs: int = 0) -> list[Future[int]]:
    """It takes that many more jobs, and refuses one more."""
    taken = [executor.submit(int) for _ in range(jobs)]
    with pytest.raises(PoolBusy):
        executor.submit(int)
    return taken


class Told:
    """A job that notes what it is told."""

    def __init__(self, body: Callable[[], object] = nothing) -> None:
        self.body = body
        self.errors: list[BaseException | str | None] = []
        self.runs = 0
        self.ended = threading.Event()

    def __call__(self) -> None:
        self.runs += 1
        try:
            self.body()
        finally:
            self.ended.set()

    def fail(self, error: BaseException | str | None) -> bool:
        self.errors.append(error)
        self.ended.set()
        return True

    def is_here(self) -> bool:
        return not self.ended.is_set()

    def is_over(self) -> bool:
        return self.ended.is_set()

    def wait(self) -> Told:
        assert self.ended.wait(LIMIT), "nobody did it, and nobody told it"
        return self


class Traveller:
    """A job that goes away and comes back when it is told to."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.leave, self.come, self.end = Gate(), Gate(), Gate()
        self.future: Future[None] = executor.submit(self)
        assert self.leave.reached.wait(LIMIT)

    def __call__(self) -> None:
        self.leave.stop_here()
        self.executor.away(self)
        self.come.stop_here()
        self.executor.back(self)
        self.end.stop_here()

    def go_away(self) -> Traveller:
        self.leave.open()
        assert self.come.reached.wait(LIMIT)
        return self

    def come_back(self) -> None:
        self.come.open()
        assert self.end.reached.wait(LIMIT)

    def finish(self) -> None:
        for gate in (self.leave, self.come, self.end):
            gate.open()
        self.future.result(LIMIT)


class Booked(Told):
    """One for which a worker of *executor* is asked, as blocks and calls do."""

    def __init__(self, executor: Executor, body: Callable[[], object] = nothing) -> None:
        super().__init__(body)
        self.executor = executor

    def call_submit(self) -> None:
        self.executor.submit(self)


class LyingDeque(deque[Any]):
    """Calls back once before something is appended, or before somebody asks whether it is empty."""

    def __init__(self) -> None:
        super().__init__()
        self.before_append: Callable[[], object] | None = None
        self.before_look: Callable[[], object] | None = None

    def append(self, item: Any, /) -> None:
        hook, self.before_append = self.before_append, None
        if hook is not None:
            hook()
        super().append(item)

    def __len__(self) -> int:
        hook, self.before_look = self.before_look, None
        if hook is not None:
            hook()
        return super().__len__()


def lie_about_waiting(pool: WorkerPool) -> LyingDeque:
    """Before its first thread starts."""
    lies = LyingDeque()
    pool._workers.waiting = lies
    return lies


def lie_about_idle(pool: WorkerPool) -> LyingDeque:
    """Before its first thread starts."""
    lies = LyingDeque()
    pool._workers._idle = lies
    pool._workers._wake_idle = _pop_and_call(lies)
    return lies
