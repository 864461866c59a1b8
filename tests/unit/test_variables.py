"""``_contexts``: carrying context variables from one Context into another."""

from __future__ import annotations

import itertools
import sys
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any

import pytest

from threadhop._variables import copy_all, is_same_mapping, merge_changes

UNSET: Any = object()


@pytest.fixture
def var() -> ContextVar[Any]:
    return ContextVar("var")


def context_with(values: dict[ContextVar[Any], Any]) -> Context:
    context = Context()
    for var, value in values.items():
        context.run(var.set, value)
    return context


class Sides:
    """Home and worker of one task, as a strand uses them: the journey without the threads."""

    def __init__(self) -> None:
        self.home = Context()
        self.worker = Context()
        self.home_tokens: dict[ContextVar[Any], Token[Any]] = {}
        self.worker_tokens: dict[ContextVar[Any], Token[Any]] = {}
        self.base = Context()

    def go_to_worker(self) -> None:
        self.base = self.home.run(copy_context)
        if len(self.worker):
            self.worker.run(merge_changes, self.base, self.worker, self.worker_tokens)
        else:
            self.worker.run(copy_all, self.base, self.worker_tokens)

    def go_home(self) -> None:
        self.home.run(merge_changes, self.worker, self.base, self.home_tokens)


def test_an_empty_context_is_filled_with_everything(var: ContextVar[Any]) -> None:
    """And for each variable there is a Token that unsets it again."""
    second: ContextVar[Any] = ContextVar("second")
    theirs = context_with({var: 1, second: 2})
    here = Context()
    tokens: dict[ContextVar[Any], Token[Any]] = {}
    here.run(copy_all, theirs, tokens)
    assert dict(here.items()) == {var: 1, second: 2}
    for each, token in tokens.items():
        here.run(each.reset, token)
    assert len(here) == 0


def test_what_changed_is_written(var: ContextVar[Any]) -> None:
    """A new value, over the old one."""
    here = context_with({var: "old"})
    base = here.copy()
    here.run(merge_changes, context_with({var: "new"}), base, {})
    assert here[var] == "new"


def test_what_did_not_change_is_left_alone(var: ContextVar[Any]) -> None:
    """Others may have changed it here meanwhile."""
    value = object()
    here = context_with({var: value})
    base = here.copy()
    here.run(var.set, "meanwhile")
    here.run(merge_changes, context_with({var: value}), base, {})
    assert here[var] == "meanwhile"


def test_what_changed_there_and_here_is_written(var: ContextVar[Any]) -> None:
    """The one that arrives has the last word."""
    here = context_with({var: "old"})
    base = here.copy()
    here.run(var.set, "meanwhile")
    here.run(merge_changes, context_with({var: "new"}), base, {})
    assert here[var] == "new"


def test_a_variable_that_is_new_there_can_be_unset_later(var: ContextVar[Any]) -> None:
    """The Token of the write is kept, and used up."""
    here, tokens = Context(), {}
    theirs = context_with({var: 1})
    here.run(merge_changes, theirs, Context(), tokens)
    assert here[var] == 1
    here.run(merge_changes, Context(), here.copy(), tokens)
    assert var not in here
    assert tokens == {}


def test_many_variables_are_unset_at_once() -> None:
    """Also if the base is the very Context that is written, as it is for a worker."""
    variables = [ContextVar[int](f"var{number}") for number in range(50)]
    here = Context()
    tokens: dict[ContextVar[Any], Token[Any]] = {}
    here.run(copy_all, context_with(dict.fromkeys(variables, 1)), tokens)
    here.run(merge_changes, context_with({variables[0]: 1}), here, tokens)
    assert list(here) == variables[:1]


def test_one_set_and_another_unset_between_two_borders(var: ContextVar[Any]) -> None:
    """The number of variables is the same before and after; the difference is seen anyway."""
    second: ContextVar[Any] = ContextVar("second")
    here, tokens = Context(), {}
    here.run(merge_changes, context_with({var: 1}), Context(), tokens)
    here.run(merge_changes, context_with({second: 1}), here.copy(), tokens)
    assert list(here) == [second]


def test_a_variable_set_here_meanwhile_is_not_unset(var: ContextVar[Any]) -> None:
    """It was unset when the journey began and when it ended: no change."""
    here = context_with({var: "meanwhile"})
    here.run(merge_changes, Context(), Context(), {})
    assert here[var] == "meanwhile"


def test_values_are_compared_by_identity(var: ContextVar[Any]) -> None:
    """An equal object is a new one; ``==`` is never asked."""

    class NeverCompare:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared by ==")

        __hash__ = None  # type: ignore[assignment]

    old, new = NeverCompare(), NeverCompare()
    here = context_with({var: old})
    base = here.copy()
    here.run(merge_changes, base, base, {})
    assert here[var] is old
    here.run(merge_changes, context_with({var: new}), base, {})
    assert here[var] is new


@pytest.mark.parametrize("steps", range(1, 8))
def test_two_contexts_behave_like_one(steps: int) -> None:
    """Every sequence of setting, resetting and crossing gives what a single Context would give.

    Except for tokens: each side resets its own, the last one first.
    """
    for story in itertools.product(("set", "reset", "cross"), repeat=steps):
        var: ContextVar[Any] = ContextVar("var")
        sides = Sides()
        at_home = True
        tokens: dict[bool, list[tuple[Token[Any], Any]]] = {True: [], False: []}
        expected = UNSET
        for step in story:
            here = sides.home if at_home else sides.worker
            if step == "set":
                value = object()
                tokens[at_home].append((here.run(var.set, value), expected))
                expected = value
            elif step == "reset":
                if tokens[at_home]:
                    token, expected = tokens[at_home].pop()
                    here.run(var.reset, token)
            elif at_home:
                sides.go_to_worker()
                at_home = False
            else:
                sides.go_home()
                at_home = True
            here = sides.home if at_home else sides.worker
            assert here.get(var, UNSET) is expected, story


IS_FREE_THREADED = "t" in getattr(sys, "abiflags", "")


@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_a_copy_tells_that_nothing_was_set_since(count: int) -> None:
    """On CPython with a GIL, the only ones where it is known without looking at each variable."""
    here = context_with({ContextVar(f"var{number}"): number for number in range(count)})
    known = sys.implementation.name == "cpython" and not IS_FREE_THREADED
    assert is_same_mapping(here, here.copy()) is known


@pytest.mark.parametrize("before", [(), (1,)], ids=["unset", "set"])
def test_a_copy_tells_that_something_was_set_since(
    var: ContextVar[Any], before: tuple[int]
) -> None:
    """To an equal value, too, and also if it was reset afterwards."""
    here = context_with({ContextVar("other"): 0, **dict.fromkeys([var] * len(before), 1)})
    copy = here.copy()
    token = here.run(var.set, 1000 - 999)
    assert not is_same_mapping(here, copy) or before
    here.run(var.set, object())
    assert not is_same_mapping(here, copy)
    here.run(var.reset, token)
    assert not is_same_mapping(here, copy) or dict(here.items()) == dict(copy.items())


def test_contexts_with_equal_values_are_not_taken_for_copies(var: ContextVar[Any]) -> None:
    """They hold the same objects, but nobody has made one of the other: look at each variable."""
    assert not is_same_mapping(context_with({var: 1}), context_with({var: 1}))


def test_a_context_that_is_entered_is_not_taken_for_a_copy(var: ContextVar[Any]) -> None:
    """It refers to the Context of the thread as well: False, and never something wrong."""
    here = context_with({var: 1})
    copy = here.copy()

    def inside() -> bool:
        var.set(2)
        return is_same_mapping(here, copy)

    assert not here.run(inside)
