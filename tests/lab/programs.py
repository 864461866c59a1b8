"""Random programs, as data: a tree of steps, which prints, repeats, and can be made smaller.

A step is a tuple: its kind, what it needs, and for the compound ones its body, a tuple of steps, as
the last item. ``course.Course`` runs it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Step = tuple[Any, ...]
Program = tuple[Step, ...]

#: A task that holds a worker of one waits for none to the left of it: two tasks would be a circle.
POOLS = ("default", "stock", "pool", "view")
#: A block of these is refused at its entry: one is shut down, the other one is full.
REFUSING = ("dead", "full")
#: How many context variables there are.
VARIABLES = 3
#: How deep steps nest.
DEPTH = 6

LEAVES = ("work", "work", "set", "set", "reset", "oops", "cancel", "check cancelled", "refused")
ON_LOOP = ("sleep", "sleep", "run", "execute", "decorated", "items", "rows", "group", "scope")
ON_WORKER = ("await", "call", "call", "home", "on cancel", "fan out")
_MORE_OF_A_FUNCTION = {
    "run": ("check", "cancel"),
    "decorated": ("check", "cancel"),
    "home": ("cancel",),
}
ANYWHERE = ("block", "block", "block", "part", "part", "managed", "try", "try", "guard")


class Place(NamedTuple):
    """Where a body stands in its program."""

    is_on_loop: bool
    #: The pools whose workers the task holds, as numbers in ``POOLS``.
    held: tuple[int, ...] = ()
    #: The rightmost pool of which somebody waits for this task.
    floor: int = -1
    depth: int = 0
    #: Whether a scope of this very task is open.
    has_scope: bool = False

    def of_other_task(self, depth: int) -> Place:
        """That of a task for which this one waits."""
        floor = max(self.floor, *self.held, -1)
        return Place(is_on_loop=True, floor=floor, depth=self.depth + depth)


class Generator:
    """Makes programs by one source of chance.

    Args:
        skips: The kinds of steps that the loop at hand has not.
    """

    def __init__(self, seed: object, skips: frozenset[str] = frozenset()) -> None:
        self.chance = random.Random(str(seed))
        self._skips = skips

    def program(self) -> Program:
        return self._body(Place(is_on_loop=True))

    def _body(self, place: Place) -> Program:
        return tuple(self._steps(place))

    def _steps(self, place: Place) -> Iterator[Step]:
        for _ in range(self.chance.randint(1, 4)):
            step = self._step(place)
            if step is not None and step[0] not in self._skips:
                yield step

    def _step(self, place: Place) -> Step | None:
        chance = self.chance
        if place.depth >= DEPTH or chance.random() < 0.3:
            return self._leaf(place)
        kind = chance.choice(ANYWHERE + (ON_LOOP if place.is_on_loop else ON_WORKER))
        inner = place._replace(depth=place.depth + 1)
        match kind:
            case "try" | "guard" | "on cancel":
                return (kind, self._body(inner))
            case "part":
                return (kind, self._body(inner._replace(is_on_loop=True)))
            case "scope":
                return (kind, self._body(inner._replace(has_scope=True)))
            case "block" | "managed":
                pool = self._pool_to_enter(place)
                return None if pool is None else (kind, POOLS[pool], self._on(pool, inner))
            case "rows":
                pool = self._pool_to_enter(place)
                if pool is None:
                    return None
                held = inner._replace(held=(*place.held, pool))
                return (kind, POOLS[pool], *self._count(), self._body(held))
            case "items":
                pool = self._new_pool(place)
                if pool is None:
                    return None
                held = inner._replace(floor=pool)
                is_bad = chance.random() < 0.2
                return (kind, POOLS[pool], *self._count(), is_bad, self._body(held))
            case "run" | "execute" | "decorated":
                pool = self._new_pool(place)
                return None if pool is None else (kind, POOLS[pool], self._function(kind))
            case "call":
                return (kind, self._body(place.of_other_task(2)))
            case "home":
                return (kind, self._function(kind))
            case "group":
                child = place.of_other_task(1)
                return (kind, tuple(self._body(child) for _ in range(chance.randint(1, 3))))
            case _:
                return (kind,)

    def _on(self, pool: int, place: Place) -> Program:
        return self._body(place._replace(is_on_loop=False, held=(*place.held, pool)))

    def _leaf(self, place: Place) -> Step:
        kind = self.chance.choice(LEAVES)
        if kind == "set":
            return (kind, self.chance.randrange(VARIABLES))
        if kind == "reset":
            return (kind, self.chance.random())
        if kind == "refused":
            return (kind, self.chance.choice(REFUSING))
        if kind == "cancel" and place.has_scope and self.chance.random() < 0.5:
            return ("expire",)
        if kind == "cancel" and self.chance.random() < 0.5:
            return ("work",)
        return (kind,)

    def _function(self, kind: str) -> Program:
        """The steps of a plain function."""
        kinds = ("work", "oops", *_MORE_OF_A_FUNCTION.get(kind, ()))
        return tuple((self.chance.choice(kinds),) for _ in range(self.chance.randint(1, 3)))

    def _count(self) -> tuple[int, int]:
        """Of how many items, and after how many the consumer leaves."""
        return self.chance.randint(0, 4), self.chance.choice((1, 2, 99))

    def _pool_to_enter(self, place: Place) -> int | None:
        """One that the task holds, or one further right."""
        return self.chance.choice((*place.held, *self._free_pools(place)) or (None,))

    def _new_pool(self, place: Place) -> int | None:
        return self.chance.choice(self._free_pools(place) or (None,))

    def _free_pools(self, place: Place) -> tuple[int, ...]:
        return tuple(range(max(place.floor, *place.held, -1) + 1, len(POOLS)))


def operations(program: Program) -> int:
    """How many steps it has, also those that a run leaves out."""
    return sum(1 + sum(map(operations, _bodies(step))) for step in program)


def _bodies(step: Step) -> tuple[Program, ...]:
    body = step[-1]
    if not isinstance(body, tuple):
        return ()
    return body if step[0] == "group" else (body,)


def _smaller(program: Program) -> Iterator[Program]:
    """Programs with a little less than that one has: the most is left out first."""
    for at, step in enumerate(program):
        before, after = program[:at], program[at + 1 :]
        yield before + after
        if step[0] == "group":
            for number, child in enumerate(step[1]):
                rest = step[1][:number] + step[1][number + 1 :]
                if rest:
                    yield (*before, (step[0], rest), *after)
                for less in _smaller(child):
                    children = (*step[1][:number], less, *step[1][number + 1 :])
                    yield (*before, (step[0], children), *after)
        elif isinstance(step[-1], tuple):
            if step[0] in ("try", "guard"):
                yield before + step[-1] + after
            for less in _smaller(step[-1]):
                yield (*before, (*step[:-1], less), *after)


def shrink(program: Program, is_bad: Callable[[Program], bool]) -> Program:
    """The smallest program next to *program* that is still bad."""
    while True:
        for less in _smaller(program):
            if is_bad(less):
                program = less
                break
        else:
            return program
