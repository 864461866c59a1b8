"""The public surface is one list, ``threadhop.__all__``."""

from __future__ import annotations

import inspect

import pytest

import threadhop


def test_the_list_of_public_names_is_a_tuple_in_order() -> None:
    """Nobody can change it by accident, and each name stands there once, in ASCII order."""
    assert isinstance(threadhop.__all__, tuple)
    assert list(threadhop.__all__) == sorted(set(threadhop.__all__))


def test_there_are_no_other_public_names() -> None:
    """Completion shows what is promised: no imported module or helper is left lying."""
    found = {name for name in vars(threadhop) if not name.startswith("_")}
    assert found == {name for name in threadhop.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", threadhop.__all__)
def test_a_public_name_has_a_docstring_of_its_own(name: str) -> None:
    """Not an inherited one: that would describe something else."""
    thing = getattr(threadhop, name)
    own = vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__
    assert inspect.cleandoc(own or "")


@pytest.mark.parametrize("name", threadhop.__all__)
def test_a_public_name_says_that_it_lives_in_threadhop(name: str) -> None:
    """So that a repr, a traceback or a pickle never shows a private module or name."""
    thing = getattr(threadhop, name)
    assert (thing.__module__, thing.__qualname__) == ("threadhop", name)
