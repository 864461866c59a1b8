"""``_variables``: carrying context variables from one Context into another."""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar, Token
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


# --- merging ---


OLD, NEW, MEANWHILE = "old", "new", "meanwhile"


@pytest.mark.parametrize(
    ("base", "theirs", "here", "merged"),
    [
        (OLD, NEW, OLD, NEW),
        (OLD, OLD, MEANWHILE, MEANWHILE),
        (OLD, NEW, MEANWHILE, NEW),
        (UNSET, NEW, MEANWHILE, NEW),
        (UNSET, UNSET, MEANWHILE, MEANWHILE),
        (OLD, UNSET, UNSET, UNSET),
        (OLD, OLD, UNSET, UNSET),
    ],
    ids=[
        "changed-there",
        "changed-here",
        "changed-on-both-sides",
        "set-on-both-sides",
        "set-here",
        "unset-on-both-sides",
        "unset-here",
    ],
)
def test_what_they_changed_is_written_and_the_rest_left_alone(
    var: ContextVar[Any], base: Any, theirs: Any, here: Any, merged: Any
) -> None:
    contexts = [context_with({} if value is UNSET else {var: value}) for value in (theirs, base)]
    ours = context_with({} if here is UNSET else {var: here})
    assert ours.run(merge_changes, *contexts, {})
    assert ours.get(var, UNSET) is merged


def test_a_copy_of_all_can_be_unset_again() -> None:
    variables = [ContextVar[int](f"var{number}") for number in range(50)]
    here = Context()
    tokens: dict[ContextVar[Any], Token[Any]] = {}
    here.run(copy_all, context_with(dict.fromkeys(variables, 1)), tokens)
    assert dict(here.items()) == dict.fromkeys(variables, 1)
    # The base may be the very Context that is written, as it is for a worker.
    assert here.run(merge_changes, context_with({variables[0]: 1}), here, tokens)
    assert list(here) == variables[:1]
    assert list(tokens) == variables[:1]


def test_one_set_and_another_unset_between_two_borders(var: ContextVar[Any]) -> None:
    """The number of variables is the same before and after; the difference is seen anyway."""
    second: ContextVar[Any] = ContextVar("second")
    here, tokens = Context(), {}
    here.run(merge_changes, context_with({var: 1}), Context(), tokens)
    here.run(merge_changes, context_with({second: 1}), here.copy(), tokens)
    assert list(here) == [second]


def test_a_variable_without_a_token_stays_and_is_told(var: ContextVar[Any]) -> None:
    here = context_with({var: 1})
    assert not here.run(merge_changes, Context(), here.copy(), {})
    assert here[var] == 1


# --- whether anything was set at all ---


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


def test_what_is_no_copy_is_not_taken_for_one(var: ContextVar[Any]) -> None:
    """Nor is a Context that is entered: it refers to the Context of the thread as well."""
    assert not is_same_mapping(context_with({var: 1}), context_with({var: 1}))
    here = context_with({var: 1})
    copy = here.copy()

    def inside() -> bool:
        var.set(2)
        return is_same_mapping(here, copy)

    assert not here.run(inside)
