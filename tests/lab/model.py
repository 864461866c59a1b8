"""The contract as a model: what threadhop promises, without threads, loops and waiting.

A coroutine in this world never suspends, so ``expected`` runs a program to its end in one step.
Everything that a cancellation does is in here: who must see it, where, and how often.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

from lab.course import Course
from lab.programs import REFUSING, Program

LOOP = "the loop thread"


class Cancelled(BaseException):
    """Of either library."""


class Entry:
    """A block, or a loop part: *pool* is None."""

    def __init__(self, pool: str | None, thread: object, cancels: int) -> None:
        self.pool = pool
        self.thread = thread
        self.cancels = cancels


class Task:
    """What a task has entered, and how it was cancelled, as asyncio does it: each time once."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        #: A cancellation that the next await on the loop raises.
        self.is_pending = False
        #: One that came while the task was away, or passed a loop part: raised at the exit.
        self.is_noted = False
        self.cancels = 0

    @property
    def here(self) -> object:
        return self.entries[-1].thread if self.entries else LOOP

    def cancel(self) -> None:
        self.cancels += 1
        if self.here is LOOP:
            self.is_pending = True
        else:
            self.is_noted = True

    def sleep(self) -> None:
        """On the loop."""
        if self.is_pending:
            self.is_pending = False
            raise Cancelled

    def look(self) -> None:
        """``check_cancelled()``."""
        if self.is_pending if self.here is LOOP else self.is_noted:
            raise Cancelled

    def enter(self, pool: str) -> None:
        here = self.here
        held = [entry.thread for entry in self.entries if entry.pool == pool]
        if here is LOOP:
            self.sleep()
        elif here not in held and self.is_noted:
            raise Cancelled
        if pool in REFUSING:
            raise RuntimeError
        self.entries.append(Entry(pool, held[-1] if held else object(), self.cancels))

    def leave(self, error: BaseException | None) -> None:
        entry, left = self.here, self.entries.pop()
        if self.here is entry:
            return
        if left.pool is None:
            self._leave_loop(left, error)
        raises = self.is_noted
        if self.here is LOOP:
            self.is_noted = False
        if raises and not isinstance(error, Cancelled):
            raise Cancelled

    def _leave_loop(self, part: Entry, error: BaseException | None) -> None:
        if self.is_pending or (isinstance(error, Cancelled) and self.cancels > part.cancels):
            self.is_pending, self.is_noted = False, True

    def enter_part(self) -> None:
        if self.here is not LOOP and self.is_noted:
            raise Cancelled
        self.entries.append(Entry(None, LOOP, self.cancels))

    def leave_guard(self, cancels: int, was_noted: bool) -> None:
        """What it guards has swallowed whatever came."""
        if self.cancels > cancels or (self.is_noted and not was_noted):
            if self.here is LOOP:
                self.is_pending = False
            raise Cancelled


class TrioTask(Task):
    """In trio whoever is in a cancelled scope is cancelled, again at each checkpoint."""

    def __init__(self, scopes: list[list[bool]]) -> None:
        super().__init__()
        #: Whether each was cancelled.
        self.scopes = scopes

    @property
    def is_pending(self) -> bool:  # type: ignore[override]
        return any(cancelled for (cancelled,) in self.scopes)

    @is_pending.setter
    def is_pending(self, _: bool) -> None:
        pass

    is_noted = is_pending  # type: ignore[assignment]

    @property
    def cancels(self) -> int:  # type: ignore[override]
        return int(self.is_pending)

    @cancels.setter
    def cancels(self, _: int) -> None:
        pass

    def cancel(self) -> None:
        self.scopes[0][0] = True


class Model:
    """The world of one course."""

    cancelled = Cancelled

    def __init__(self, library: str) -> None:
        self.library = library
        self.tasks = [self._new_task([[False]])]
        #: Of a function that a worker runs, while it does.
        self._of_call: object = None
        #: Whether the time of each has run out.
        self._scopes: list[list[bool]] = []

    def _new_task(self, scopes: list[list[bool]]) -> Task:
        return TrioTask(scopes) if self.library == "trio" else Task()

    @property
    def task(self) -> Task:
        return self.tasks[-1]

    def here(self) -> object:
        return self._of_call or self.task.here

    def is_of(self, pool: str) -> bool:
        return self.here() is not LOOP

    async def sleep(self) -> None:
        if self.here() is not LOOP:
            raise RuntimeError
        self.task.sleep()

    def reset(self, var: Any, token: Any, *, is_near: bool) -> None:
        if not is_near:
            raise ValueError
        var.reset(token)

    def fan_out(self, pool: str) -> int:
        return 1

    def cancel(self, course: Course) -> None:
        for task in self.tasks:  # Whoever makes a call waits for it.
            task.cancel()

    def check_cancelled(self) -> None:
        if self._of_call is None:
            self.task.look()
        elif self.task.is_pending:
            raise Cancelled

    def block(self, pool: str) -> Any:
        return _Entered(self, lambda task: task.enter(pool))

    def part(self) -> Any:
        return _Entered(self, Task.enter_part)

    @contextlib.asynccontextmanager
    async def guard(self) -> Any:
        cancels, was_noted = self.task.cancels, self.task.is_noted
        yield
        self.task.leave_guard(cancels, was_noted)

    @contextlib.asynccontextmanager
    async def scope(self, course: Course) -> Any:
        """A time limit, or a scope of trio's: whoever opens it catches its cancellation."""
        task = self.task
        scope = [False]
        if isinstance(task, TrioTask):
            task.scopes.append(scope)
            try:
                yield
            except Cancelled:
                if not scope[0] or any(other for (other,) in task.scopes[:-1]):
                    raise
            finally:
                task.scopes.pop()
            return
        cancels = task.cancels
        self._scopes.append(scope)
        try:
            yield
        except Cancelled:
            if not scope[0] or task.cancels - 1 > cancels:
                raise
        finally:
            self._scopes.pop()
            task.cancels -= scope[0]
            if scope[0] and not task.cancels and sys.version_info >= (3, 13):
                task.is_pending = False

    async def expire(self, course: Course) -> None:
        task = self.task
        if isinstance(task, TrioTask):
            task.scopes[-1][0] = True
        else:
            if task.here is LOOP:
                task.sleep()
            if not self._scopes[-1][0]:
                self._scopes[-1][0] = True
                task.cancel()
        if task.here is LOOP:
            task.sleep()

    @contextlib.contextmanager
    def on_cancel(self, callback: Callable[[], object]) -> Iterator[None]:
        task = self.task
        try:
            yield
        finally:
            if task.is_noted:
                callback()

    def call(self, func: Callable[..., Any], *args: Any) -> None:
        if func.__name__ == "_function":
            here, self.tasks = self.tasks, [*self.tasks, self._new_task([[False]])]
            try:
                func(*args)
            finally:
                self.tasks = here
            return
        caller = self.task
        if caller.is_noted:
            raise Cancelled
        self.tasks.append(self._new_task(getattr(caller, "scopes", [])))
        try:
            drive(func(*args))
            if not isinstance(caller, TrioTask):
                self.task.sleep()  # A task of asyncio that is cancelled at its very end.
        finally:
            self.tasks.pop()

    async def run(self, pool: str, func: Callable[..., Any], *args: Any) -> None:
        """A call that runs is waited for, and the task is cancelled then."""
        self._of_call = object()
        try:
            func(*args)
        finally:
            self._of_call = None
            self.task.sleep()

    execute = run

    def decorated(self, pool: str, func: Callable[..., Any]) -> Any:
        async def block(*args: Any) -> None:
            async with self.block(pool):
                func(*args)

        return block

    @contextlib.asynccontextmanager
    async def items(self, pool: str, source: Callable[[], Iterator[int]]) -> Any:
        async def items() -> Any:
            with contextlib.closing(iter(source())) as values:
                for value in values:
                    yield value

        async with contextlib.aclosing(items()) as rows:
            yield rows

    async def group(self, course: Course, children: list[Course]) -> None:
        for child in children:
            model = Model(self.library)
            child.world = model
            copy_context().run(model.drive, child)

    def drive(self, course: Course) -> None:
        try:
            drive(course.run())
        except Cancelled:
            course.trace.append("cancelled at the end")


class _Entered:
    def __init__(self, model: Model, enter: Callable[[Task], None]) -> None:
        self._model = model
        self._enter = enter

    async def __aenter__(self) -> None:
        self._enter(self._model.task)

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        self._model.task.leave(error)


def drive(coro: Any) -> None:
    try:
        coro.send(None)
    except StopIteration:
        return
    raise AssertionError("the model does not wait")


def expected(program: Program, library: str) -> Course:
    """The course of *program* by the contract."""
    model = Model(library)
    course = Course(model, program)
    copy_context().run(model.drive, course)
    assert not course.broken, course.broken
    return course
