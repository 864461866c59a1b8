"""A ``yield`` in the body of a block: it would put the consumer of the generator on the worker.

The consumer of an async generator is other code: a framework's, a server's ``send()``. So a block
of an async generator is refused at its entry if its body yields, unless it yields in a loop part.

In an ``@asynccontextmanager`` that the user enters by ``async with`` the consumer is the body of
that statement, which is meant. A context manager that a framework makes of a plain generator and
hands to an exit stack is refused, too.

The source tells where a body yields: bytecode does not say it in the same way on any two versions.
"""

from __future__ import annotations

import ast
import linecache
import warnings
from collections.abc import Iterator
from inspect import CO_ASYNC_GENERATOR
from types import CodeType, FrameType
from typing import Any

from ._entries import CONTEXTLIB
from ._errors import YIELDS, YIELDS_PERHAPS

_YES, _PERHAPS, _NO = "yes", "perhaps", "no"

#: By code and line: whether the body that begins there yields. Its steps are atomic.
_known: dict[tuple[CodeType, int], str] = {}

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def refuse_yield(frame: FrameType) -> None:
    """In the coroutine, in a worker: a body begins in *frame*. Raise if it would yield from there.

    Up the chain of awaits, for the body of a context manager is a body of its user, too.
    """
    user: FrameType | None = frame
    is_plain = False
    while user is not None and user.f_code.co_filename != CONTEXTLIB:
        if not user.f_code.co_flags & CO_ASYNC_GENERATOR:
            return
        answer = _body_yields(user)
        if answer is _NO:
            return
        driver = user.f_back
        if driver is None or driver.f_code.co_filename != CONTEXTLIB:
            _refuse(frame, answer)
            return
        # A user's own exit stack gets what the user has decorated.
        function = user.f_globals.get(user.f_code.co_name)
        is_plain = is_plain or getattr(function, "__code__", None) is user.f_code
        user, names = driver, set()
        while user is not None and user.f_code.co_filename == CONTEXTLIB:
            names.add(user.f_code.co_name)
            user = user.f_back
        if "enter_async_context" in names:
            if is_plain:
                _refuse(frame, answer)
            return


def _refuse(frame: FrameType, answer: str) -> None:
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if answer is _YES:
        raise RuntimeError(YIELDS.format(where=where))
    warnings.warn_explicit(
        YIELDS_PERHAPS.format(where=where), RuntimeWarning, frame.f_code.co_filename, frame.f_lineno
    )


def _body_yields(frame: FrameType) -> str:
    key = (frame.f_code, frame.f_lineno)
    answer = _known.get(key)
    if answer is None:
        statement, items = _find_statement(frame)
        if statement is None:
            answer = _PERHAPS
        elif any(_is_loop_part(item, frame) for item in items):
            answer = _NO
        else:
            found = set(_yields(statement.body, frame))
            answer = _YES if _YES in found else _PERHAPS if _PERHAPS in found else _NO
        _known[key] = answer
    return answer


def _find_statement(frame: FrameType) -> tuple[ast.AsyncWith | None, list[ast.expr]]:
    """The innermost ``async with`` at the line of *frame*, and its items after that line's."""
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    try:
        tree = ast.parse("".join(lines))
    except (SyntaxError, ValueError, RecursionError):
        return None, []
    line = frame.f_lineno
    found: tuple[ast.AsyncWith | None, list[ast.expr]] = (None, [])
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncWith):
            expressions = [item.context_expr for item in node.items]
            for at, expr in enumerate(expressions):
                if expr.lineno <= line <= (expr.end_lineno or expr.lineno):
                    found = node, expressions[at + 1 :]
                    break
    return found


def _yields(nodes: list[Any], frame: FrameType, answer: str = _YES) -> Iterator[str]:
    """For each ``yield`` below *nodes* whether it leaves a body on a worker."""
    for node in nodes:
        if isinstance(node, _SCOPES):
            continue
        inner = answer
        if isinstance(node, ast.Yield):
            yield answer
        elif isinstance(node, ast.AsyncWith):
            if any(_is_loop_part(item.context_expr, frame) for item in node.items):
                continue
            inner = _PERHAPS  # An async context manager of the user may go to the loop.
        yield from _yields(list(ast.iter_child_nodes(node)), frame, inner)


def _is_loop_part(expr: ast.expr, frame: FrameType) -> bool:
    """Whether *expr* is an ``eventloop()``, by whatever name, or a variable with one."""
    called = expr.func if isinstance(expr, ast.Call) else expr
    if isinstance(called, ast.Attribute):
        return called.attr == "eventloop"
    if not isinstance(called, ast.Name):
        return False
    value = frame.f_locals.get(called.id, frame.f_globals.get(called.id))
    kind = value if isinstance(expr, ast.Call) else type(value)
    return getattr(kind, "__name__", called.id) == "eventloop"
