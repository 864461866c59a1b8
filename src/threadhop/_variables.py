"""Carrying context variables from one ``contextvars.Context`` into another.

A worker must not enter the task's own Context: while it does, asyncio cannot step another task
that shares this Context, and that task hangs for ever. So the body of a block runs in a Context
of its own, and at each border the differences are written over.

Three values decide about each variable: the one it has where the task comes from (*theirs*), the
one it had here when the task left (*base*), and the one it has here now. A variable that the
journey changed is written; one that it left alone stays, for other tasks may have changed it here.
Values are compared by identity: ``==`` may be expensive, may raise (numpy), and would lose a new
object that is equal to the old one.

A variable can be unset only with the Token of the write that set it. So these Tokens are kept, and
a worker Context starts empty rather than as a copy: then there is one for every variable.
"""

from __future__ import annotations

import gc
import sys
from contextvars import Context, ContextVar, Token, copy_context
from typing import Any

Tokens = dict[ContextVar[Any], Token[Any]]

_UNSET: Any = object()


def is_same_mapping(context: Context, copy: Context) -> bool:
    """Whether nothing was set or reset in *context* since *copy* was made of it.

    A Context is one reference, to a mapping that is never written to; a copy refers to the same
    one. So this takes no longer with a hundred variables than with one. Neither of the two may
    be entered at the moment: then there is a reference more. False if it cannot be told.
    """
    try:
        theirs, copied = gc.get_referents(context, copy)
    except ValueError:
        return False
    return theirs is copied


if "t" in getattr(sys, "abiflags", ""):
    # On a free-threaded build the question would stop all threads, and wait for that.
    def is_same_mapping(context: Context, copy: Context) -> bool:
        return False


def copy_all(theirs: Context, tokens: Tokens) -> None:
    """Write all of *theirs* into the current Context, which is empty. *tokens* belongs to it."""
    for var, value in theirs.items():
        tokens[var] = var.set(value)


def name_library(context: Context, name: str | Context | None) -> None:
    """Have *context*, which is not entered, tell sniffio the async library of its thread.

    The variable of a task says "asyncio" if ``anyio.run`` runs it; a worker has no library. So it
    is no change of the body, and goes before changes are written. A Context as *name*: as there.
    """
    variable: ContextVar[str | None] | None
    variable = getattr(sys.modules.get("sniffio"), "current_async_library_cvar", None)
    if variable is not None:
        if isinstance(name, Context):
            name = name.get(variable)
        if context.get(variable) != name:
            context.run(variable.set, name)


def copy_for_worker() -> Context:
    """A copy of the current Context, if sniffio is loaded."""
    context = copy_context()
    name_library(context, None)
    return context


def merge_changes(theirs: Context, base: Context, tokens: Tokens) -> bool:
    """Write into the current Context what *theirs* changed since *base*.

    *tokens* belongs to the current Context, like those of ``copy_all``. False if a
    variable could not be unset for want of a Token: the code that set it has that.
    """
    complete = True
    # Usually nothing changed. If every variable of *theirs* has the same value in *base*, and both
    # hold equally many, *base* has no variable that *theirs* lacks, and the second loop is skipped.
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


class WorkerVariables:
    """One Context for all workers of a task, made by the first one."""

    __slots__ = ("context", "loop_tokens", "snapshot", "tokens")

    def __init__(self, loop_tokens: Tokens) -> None:
        self.context = Context()
        #: A copy of it from when the body began to run in it; None if it has yet to load.
        self.snapshot: Context | None = None
        #: The Tokens that unset its variables,
        self.tokens: Tokens = {}
        #: and those that unset what bodies have set on the loop.
        self.loop_tokens = loop_tokens


class TaskVariables:
    """The context variables of a task that is here and there: on its loop, and on workers.

    Touched by the thread that drives the task, and handed over with it: no field needs a lock.
    """

    # (Many may wait for their first worker at once. What that makes is in an object of its own.)
    __slots__ = ("_loop_snapshot", "worker")

    #: As they were when the task left the loop. Back there it is forgotten, unless the worker
    #: Context holds the same still.
    _loop_snapshot: Context | None
    worker: WorkerVariables | None

    def __init__(self) -> None:
        self._loop_snapshot = self.worker = None

    def leave_loop(self) -> None:
        """In the coroutine, on the loop, in the Context of the task."""
        # Others may change the variables while the task is away, if they share its Context.
        snapshot, last = copy_context(), self._loop_snapshot
        if (last is None or not is_same_mapping(snapshot, last)) and self.worker is not None:
            self.worker.snapshot = None
        self._loop_snapshot = snapshot

    def load(self) -> BaseException | None:
        """In a worker: give the worker Context the variables of the task, or return why not."""
        worker = self.worker
        if worker is not None and worker.snapshot is not None:
            return None
        values = self._loop_snapshot
        assert values is not None, "kept since the task left the loop"
        problem = None
        try:
            # If a variable cannot be unset, start anew. Tokens from here are worth nothing then,
            # but values come first. (Only another task that shares the Context leads to this.)
            if worker is None or not worker.context.run(
                merge_changes, values, worker.context, worker.tokens
            ):
                self.worker = worker = WorkerVariables({} if worker is None else worker.loop_tokens)
                worker.context.run(copy_all, values, worker.tokens)
            name_library(worker.context, None)
        except BaseException as exc:
            problem = exc
        assert worker is not None, "made here if there was none"
        worker.snapshot = worker.context.copy()
        return problem

    def write_back(self) -> None:
        """In the coroutine, back on the loop: write the variables that the body changed."""
        worker = self.worker
        if worker is None or worker.snapshot is None:  # On no worker: see ``_adoption``.
            return
        context = worker.context
        if not is_same_mapping(context, worker.snapshot):
            values, self._loop_snapshot = self._loop_snapshot, None
            assert values is not None, "kept since the task left the loop"
            name_library(context, values)
            merge_changes(context, values, worker.loop_tokens)

    @property
    def worker_tokens(self) -> Tokens:
        """In a worker: the Tokens that unset the variables of the worker Context."""
        assert self.worker is not None, "made by the first worker"
        return self.worker.tokens

    def stay_on_loop(self) -> None:
        """In the coroutine, which came to no worker: no worker Context has its variables."""
        self._loop_snapshot = None

    def forget(self) -> None:
        """In any thread: the task will never go on."""
        self._loop_snapshot = None
        if self.worker is not None:
            self.worker.snapshot = None
