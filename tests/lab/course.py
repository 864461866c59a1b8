"""The one interpreter of programs: it runs one in a world, and checks meanwhile where it is.

A world is a loop with threadhop (``worlds``), or the model of its contract (``model``). The trace
of a course says what was seen in which place, and who met which error; in both worlds it must be
the same. What needs no second world is checked on the spot, also where others cancel at any moment:
the thread, the context variables, each ``finally`` once.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from lab.programs import VARIABLES, Program, Step

VARS = [contextvars.ContextVar[str](f"variable {number}") for number in range(VARIABLES)]
#: Whose code this is.
owner = contextvars.ContextVar[object]("owner", default=None)


class OopsError(Exception):
    """A program raises it."""


#: By thread: the course that works there at the moment.
working: dict[int, object] = {}


class Course:
    """One run of *program* in *world*, in a task of its own."""

    def __init__(self, world: Any, program: Program, name: str = "main") -> None:
        self.world = world
        self.program = program
        self.name = name
        self.trace: list[Any] = []
        self.broken: list[str] = []
        self.children: list[Course] = []
        self.steps = 0
        #: How often a cancellation was met, and came from the program itself.
        self.met = self.cancels = 0
        self.has_ended = False
        self._values: dict[int, str] = {}
        self._tokens: list[tuple[bool, int, Any, str | None]] = []
        #: Where the code must be: the pool, or None, and the thread.
        self._places: list[tuple[str | None, object]] = []
        #: In how many calls, whose variables are in a Context of their own.
        self._calls = 0
        self._begun: Counter[int] = Counter()
        self._ended: Counter[int] = Counter()

    async def run(self) -> None:
        """In the task."""
        try:
            await self.world.sleep()  # An eager task runs before it is known by its name.
            owner.set(self)
            self._places.append((None, self.world.here()))
            try:
                await self._body(self.program)
            except OopsError:
                self.trace.append("oops at the end")
            await self.world.sleep()
        except self.world.cancelled:
            self._meet()
            raise
        finally:
            if self._places:
                self._look("end")
            self._check(self._begun == self._ended, "a finally did not run, or twice")
            self._check(len(self._places) < 2, "a place was not left")
            self.has_ended = True

    # What is checked.

    def _check(self, truth: object, text: str) -> None:
        if not truth:
            self.broken.append(f"{self.name}: {text}")

    def _look(self, what: str) -> None:
        pool, thread = self._places[-1]
        self._check(self.world.here() == thread, f"another thread: {what}")
        values = [var.get(None) for var in VARS]
        expected = [self._values.get(number) for number in range(VARIABLES)]
        self._check(values == expected, f"variables: {what}: {values}, not {expected}")
        self._check(owner.get() is self, f"the variables of another task: {what}")
        self.trace.append((what, pool, *values))

    def _meet(self, error: BaseException | None = None) -> None:
        if error is None or isinstance(error, self.world.cancelled):
            self.met += 1

    def _name(self, error: BaseException) -> str:
        return "cancelled" if isinstance(error, self.world.cancelled) else type(error).__name__

    @contextlib.contextmanager
    def _at(self, pool: str | None) -> Iterator[None]:
        """Within a block, or a loop part."""
        here = self.world.here()
        if pool is None:
            self._check(here == self._places[0][1], "a loop part in another thread")
        else:
            held = [thread for its, thread in self._places if its == pool]
            self._check(not held or here == held[-1], "not the worker that it holds")
            self._check(self.world.is_of(pool), f"not a worker of {pool}")
        self._places.append((pool, here))
        try:
            self._look("begin")
            yield
        finally:
            self._look("leave")
            self._places.pop()

    # The steps.

    async def _body(self, steps: Program) -> None:
        for step in steps:
            await self._step(step)

    async def _step(self, step: Step) -> None:
        self.steps += 1
        number, kind = self.steps, step[0]
        depth = len(self._places)
        self._begun[number] += 1
        try:
            await getattr(self, "_" + kind.replace(" ", "_"))(*step[1:])
            self._look(kind)
        except BaseException as error:
            self._meet(error)
            self.trace.append((kind, self._name(error)))
            raise
        finally:
            self._check(len(self._places) == depth, f"not left: {kind}")
            self._look("finally")
            self._ended[number] += 1

    async def _work(self) -> None:
        self._work_here()

    def _work_here(self) -> None:
        me = threading.get_ident()
        if self._places[-1][0] is not None:
            other = working.setdefault(me, self)
            self._check(other is self, "two tasks in one worker")
            for _ in range(50):
                pass
            self._check(working.pop(me, None) is self, "another body came between")

    async def _set(self, number: int) -> None:
        value = f"{self.name}: {self.steps}"
        token = VARS[number].set(value)
        if not self._calls:
            is_home = self._places[-1][0] is None
            self._tokens.append((is_home, number, token, self._values.get(number)))
        self._values[number] = value

    async def _reset(self, which: float) -> None:
        """A token is good on the side where it was made."""
        if not self._tokens or self._calls:
            return
        made_at_home, number, token, before = self._tokens.pop(int(which * len(self._tokens)))
        is_home = self._places[-1][0] is None
        try:
            self.world.reset(VARS[number], token, is_near=made_at_home is is_home)
        except ValueError:
            self._check(made_at_home is not is_home, "a token was refused on its own side")
            return
        self._check(made_at_home is is_home, "a token crossed the border")
        if before is None:
            self._values.pop(number, None)
        else:
            self._values[number] = before

    async def _oops(self) -> None:
        raise OopsError

    async def _cancel(self) -> None:
        self._cancel_here()

    def _cancel_here(self) -> None:
        self.cancels += 1
        self.world.cancel(self)

    async def _check_cancelled(self) -> None:
        self.world.check_cancelled()

    async def _sleep(self) -> None:
        await self.world.sleep()

    async def _await(self) -> None:
        """In a body, where it is refused."""
        with contextlib.suppress(RuntimeError):
            await self.world.sleep()
            self._check(False, "an await in a body was not refused")

    async def _fan_out(self) -> None:
        """Into its own pool, if that replaces a worker that waits."""
        pool = self._places[-1][0]
        self._check(self.world.fan_out(pool) == 1, "the result of another job")

    async def _refused(self, pool: str) -> None:
        with contextlib.suppress(RuntimeError):
            async with self.world.block(pool):
                self._check(False, f"a block of {pool}")

    async def _try(self, body: Program) -> None:
        try:
            await self._body(body)
        except (OopsError, self.world.cancelled) as error:
            self.trace.append(("swallowed", self._name(error)))

    async def _guard(self, body: Program) -> None:
        async with self.world.guard():
            await self._try(body)

    async def _scope(self, body: Program) -> None:
        async with self.world.scope(self):
            await self._body(body)

    async def _expire(self) -> None:
        await self.world.expire(self)

    async def _block(self, pool: str, body: Program) -> None:
        async with self.world.block(pool):
            with self._at(pool):
                await self._body(body)

    async def _part(self, body: Program) -> None:
        async with self.world.part():
            with self._at(None):
                await self._body(body)

    async def _managed(self, pool: str, body: Program) -> None:
        async with self._manager(pool):
            await self._body(body)

    @asynccontextmanager
    async def _manager(self, pool: str) -> AsyncGenerator[None, None]:
        async with self.world.block(pool):
            with self._at(pool):
                yield

    async def _rows(self, pool: str, count: int, leave_after: int, body: Program) -> None:
        async with aclosing(self._generator(pool, count)) as rows:
            await self._consume(rows, leave_after, body)

    async def _generator(self, pool: str, count: int) -> AsyncGenerator[int, None]:
        async with self.world.block(pool):
            with self._at(pool):
                for number in range(count):
                    self._work_here()
                    async with self.world.part():
                        with self._at(None):
                            yield number

    async def _consume(self, rows: Any, leave_after: int, body: Program) -> None:
        seen = 0
        async for row in rows:
            self._check(row == seen, f"{row} came, and not {seen}")
            seen += 1
            try:
                await self._body(body)
            finally:
                await self.world.sleep()  # What is pending comes here, whatever is read ahead.
            if seen == leave_after:
                break

    async def _items(
        self, pool: str, count: int, leave_after: int, is_bad: bool, body: Program
    ) -> None:
        await self.world.sleep()
        events: list[object] = []

        def source() -> Iterator[int]:
            here = self.world.here()
            events.append("opened")
            try:
                yield from range(count)
                if is_bad:
                    raise OopsError
            finally:
                events.append("closed" if self.world.here() == here else "closed elsewhere")

        try:
            async with self.world.items(pool, source) as items:
                await self._consume(items, leave_after, body)
        finally:
            self._check(events in ([], ["opened", "closed"]), f"the source was {events}")

    async def _on_cancel(self, body: Program) -> None:
        told: list[int] = []
        threads = [thread for _, thread in self._places]
        try:
            with self.world.on_cancel(lambda: told.append(threading.get_ident())):
                await self._body(body)
        finally:
            self.trace.append(("told", len(told)))
            self._check(len(told) < 2, "told twice")
            self._check(not told or told[0] not in threads, "told in its own thread")

    async def _call(self, body: Program) -> None:
        """A coroutine function, in a task of its own."""
        tokens, self._calls = self._calls, self._calls + 1
        try:
            self.world.call(self._called, body)
        finally:
            self._calls = tokens

    async def _called(self, body: Program) -> None:
        with self._at(None):
            await self.world.sleep()  # An eager task runs before the call knows it.
            await self._body(body)

    async def _home(self, steps: Program) -> None:
        """A plain function goes through, also in a body that was cancelled."""
        self.world.call(self._function, None, steps)

    def _function(self, pool: str | None, steps: Program) -> None:
        with self._at(pool):
            for (kind,) in steps:
                self.steps += 1
                if kind == "oops":
                    raise OopsError
                if kind == "work":
                    self._work_here()
                elif kind == "cancel":
                    self._cancel_here()
                else:
                    self.world.check_cancelled()

    async def _run(self, pool: str, steps: Program) -> None:
        await self.world.sleep()  # It would not begin, or begin and be left alone.
        await self.world.run(pool, self._function, pool, steps)

    async def _execute(self, pool: str, steps: Program) -> None:
        """What awaits it does not wait for the function when it is cancelled."""
        await self.world.sleep()
        await self.world.execute(pool, self._apart, pool, steps)

    def _apart(self, pool: str, steps: Program) -> None:
        self._check(self.world.is_of(pool), f"not a worker of {pool}")
        for (kind,) in steps:
            if kind == "oops":
                raise OopsError

    async def _decorated(self, pool: str, steps: Program) -> None:
        await self.world.decorated(pool, self._function)(pool, steps)

    async def _group(self, programs: tuple[Program, ...]) -> None:
        await self.world.sleep()  # Or some of them would not begin.
        children = []
        for program in programs:
            child = Course(self.world, program, f"{self.name}.{len(self.children)}")
            child._values = dict(self._values)
            self.children.append(child)
            children.append(child)
        await self.world.group(self, children)

    def all(self) -> Iterator[Course]:
        """This one, and those that it began."""
        yield self
        for child in self.children:
            yield from child.all()

    def traces(self) -> list[Any]:
        return [course.trace for course in self.all()]
