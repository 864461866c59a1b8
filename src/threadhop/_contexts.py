"""Carrying context variables from one ``contextvars.Context`` into another.

A worker must not enter the task's own Context: while it does, asyncio cannot step another task
that shares this Context, and that task hangs for ever. So the body of a block runs in a Context
of its own, and at each border the differences are written over.

Three values decide about each variable: the one it has where the task comes from (*theirs*), the
one it had here when the task left (*base*), and the one it has here now. What the journey changed
is written; what it left alone stays as it is here, for others may have changed it meanwhile.
Values are compared by identity: ``==`` may be expensive, may raise (numpy), and would lose a new
object that is equal to the old one.

A variable can be unset only with the Token of the write that set it. So these Tokens are kept, and
a worker Context starts empty rather than as a copy: then there is one for every variable.
"""

from __future__ import annotations

import gc
import sys
from contextvars import Context, ContextVar, Token
from typing import Any

Tokens = dict[ContextVar[Any], Token[Any]]

_UNSET: Any = object()

#: On a free-threaded build it would stop all threads, and wait for that.
_get_referents = (lambda *_: ()) if "t" in getattr(sys, "abiflags", "") else gc.get_referents


def is_unchanged(context: Context, copy: Context) -> bool:
    """Whether nothing was set or reset in *context* since *copy* was made of it.

    A Context is one reference, to a mapping that is never written to; a copy refers to the same
    one. So this takes no longer with a hundred variables than with one. Neither of the two may
    be entered at the moment: then there is a reference more. False if it cannot be told.
    """
    referents = _get_referents(context, copy)
    return len(referents) == 2 and referents[0] is referents[1]


def fill(theirs: Context, tokens: Tokens) -> None:
    """Write all of *theirs* into the current Context, which is empty. *tokens* belongs to it."""
    for var, value in theirs.items():
        tokens[var] = var.set(value)


def carry_over(theirs: Context, base: Context, tokens: Tokens) -> bool:
    """Write into the current Context what *theirs* changed since *base*.

    *tokens* belongs to the current Context, like those of ``fill``. False if a
    variable could not be unset for want of a Token: the code that set it has that.
    """
    complete = True
    # As a rule nothing changed. Then all of theirs is in base, so with as many variables in both
    # there is nothing more in base either.
    changed = len(theirs) != len(base)
    for var, value in theirs.items():
        if base.get(var, _UNSET) is not value:
            changed = True
            if var.get(_UNSET) is not value:
                token = var.set(value)
                if token.old_value is Token.MISSING:
                    tokens[var] = token
    if changed:
        for var in base:
            if var not in theirs and var.get(_UNSET) is not _UNSET:
                if var in tokens:
                    var.reset(tokens.pop(var))
                else:
                    complete = False
    return complete
