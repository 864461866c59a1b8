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
from inspect import CO_ASYNC_GENERATOR
from types import CodeType, FrameType

from ._entries import CONTEXTLIB
from ._errors import YIELDS, YIELDS_PERHAPS

_YES, _NO = "yes", "no"
#: There is no source; or the line there enters the block in another way than by ``async with``.
_PERHAPS, _BY_HAND = "perhaps", "by hand"

#: By code and line: whether the body that begins there yields. Its steps are atomic.
_known: dict[tuple[CodeType, int], str] = {}

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def refuse_yield(frame: FrameType) -> None:
    """In the coroutine, in a worker: a body begins in *frame*. Raise if it would yield from there.

    Up the chain of awaits, for the body of a context manager is a body of its user, too.
    """
    user = _user_of(frame)
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


def _user_of(frame: FrameType) -> FrameType | None:
    """*frame*; of a manager's ``__aenter__`` that enters the block for a generator, that of this.

    None if it enters the block for itself: then the body is within the method.
    """
    chain = [frame]
    while chain[-1].f_code.co_name == "__aenter__" and chain[-1].f_back is not None:
        chain.append(chain[-1].f_back)
    user = chain.pop()
    if not user.f_code.co_flags & CO_ASYNC_GENERATOR:
        return None if chain else user
    return user if all(_body_yields(caller) is _BY_HAND for caller in chain) else None


def _refuse(frame: FrameType, answer: str) -> None:
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    if answer is _YES:
        raise RuntimeError(YIELDS.format(where=where))
    registry = frame.f_globals.setdefault("__warningregistry__", {})  # Once for each line.
    warnings.warn_explicit(
        YIELDS_PERHAPS.format(where=where),
        RuntimeWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        registry=registry,
    )


def _body_yields(frame: FrameType) -> str:
    key = (frame.f_code, frame.f_lineno)
    answer = _known.get(key)
    if answer is None:
        lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
        try:
            body = _body_at(frame.f_lineno, ast.parse("".join(lines)))
        except (SyntaxError, ValueError, RecursionError):
            body, lines = None, []
        if body is None:  # A function that names the remedy is believed to use it.
            answer = _BY_HAND if lines else _PERHAPS
            answer = _NO if "eventloop" in frame.f_code.co_names else answer
        else:
            answer = _YES if any(map(_yields, body)) else _NO
        if len(_known) > 1000:  # Code that is made again and again.
            _known.clear()
        _known[key] = answer
    return answer


def _body_at(line: int, tree: ast.AST) -> list[ast.stmt] | None:
    """The body of the ``async with`` in *line*; [] if an item follows that may be a loop part."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncWith)]
    for node in statements:
        for item in node.items:
            expr = item.context_expr
            if expr.lineno <= line <= (expr.end_lineno or expr.lineno):
                return node.body if item is node.items[-1] or _is_block(node.items[-1]) else []
    # Up to Python 3.13 the line is that of the statement, if its items stand in lines of their own.
    for node in statements:
        if node.lineno == line:
            return node.body if len(node.items) == 1 or _is_block(node.items[-1]) else []
    return None


def _is_block(item: ast.withitem) -> bool:
    """Whether it is a ``threadpool()``, by that name: then the body is on a worker, in any case."""
    expr = item.context_expr
    called = expr.func if isinstance(expr, ast.Call) else expr
    return getattr(called, "attr", getattr(called, "id", "")) == "threadpool"


def _yields(node: ast.AST) -> bool:
    """Whether *node* yields, but not in an ``async with``: that may be a loop part.

    By whatever name: nothing else can be awaited there. A block in there is asked at its own entry.
    """
    if isinstance(node, ast.Yield):
        return True
    if isinstance(node, (*_SCOPES, ast.AsyncWith)):
        return False
    return any(_yields(child) for child in ast.iter_child_nodes(node))
