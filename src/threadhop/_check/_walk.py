"""Every node of a function or file, and the place where it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ._names import BLOCK, LOOP_PART, Names
from ._scopes import Comprehension, Scope, children

TORCH = ("torch", "torch.autograd", "torch.autograd.grad_mode")
#: Managers that keep a value for their thread only. (``numpy.errstate`` keeps it for the context.)
THREAD_LOCAL = {
    *(f"{module}.{name}()" for module in TORCH for name in ("no_grad", "inference_mode")),
    *("django.utils.translation.override()", "django.utils.timezone.override()"),
    *("sklearn.config_context()", "sklearn._config.config_context()"),
}


class Place(NamedTuple):
    """Where a line runs: in the body of a block, outside of loop parts, that is on a worker."""

    scope: Scope
    on_worker: bool = False
    #: The thread-local managers around it that were entered on the loop thread.
    thread_local: tuple[ast.expr, ...] = ()


def walk(nodes: Iterable[ast.AST], place: Place, names: Names) -> Iterator[tuple[ast.AST, Place]]:
    """*nodes*, which are at *place*, and all that is in them.

    Of the items of ``async with``, and only of those, the ``ast.withitem`` is there, at the place
    where it is entered.
    """
    pending = [(node, place) for node in nodes]
    while pending:
        node, place = pending.pop()
        yield node, place
        match node:
            case ast.AsyncWith():
                pending += _within_async_with(node, place, names)
            case ast.With():
                pending += _within_with(node, place, names)
            case _:
                inner = _inner_place(node, place, names)
                pending += [(n, inner if inside else place) for n, inside in children(node)]


def _inner_place(node: ast.AST, place: Place, names: Names) -> Place:
    """Functions, classes and generators run when they are called, wherever that is."""
    scope = names.scopes.of.get(node)
    if scope is None:
        return place
    if isinstance(node, Comprehension) and not isinstance(node, ast.GeneratorExp):
        return place._replace(scope=scope)
    return Place(scope)


def _within_async_with(
    node: ast.AsyncWith, place: Place, names: Names
) -> Iterator[tuple[ast.AST, Place]]:
    """From left to right: what stands to the right of a block is in its body."""
    for item in node.items:
        yield item, place
        on_worker = _is_on_worker_within(item.context_expr, place, names)
        place = place._replace(on_worker=on_worker)
    yield from ((child, place) for child in node.body)


def _is_on_worker_within(manager: ast.expr, place: Place, names: Names) -> bool:
    options = names.options(manager, place.scope)
    if LOOP_PART in options:
        return False
    if BLOCK in options:
        return place.on_worker or len(options) == 1
    function = isinstance(manager, ast.Call) and names.definition(manager.func, place.scope)
    if not isinstance(function, ast.AsyncFunctionDef):
        return place.on_worker
    # A context manager of this file: where does it yield?
    entered = function, place.on_worker
    if entered not in names.yields_on_worker:
        names.yields_on_worker[entered] = False  # For one that enters itself.
        start = Place(names.scopes.of[function], place.on_worker)
        yields = {
            where.on_worker
            for child, where in walk(function.body, start, names)
            if isinstance(child, ast.Yield) and where.scope.of_function is start.scope
        }
        names.yields_on_worker[entered] = yields == {True}
    return names.yields_on_worker[entered]


def _within_with(node: ast.With, place: Place, names: Names) -> Iterator[tuple[ast.AST, Place]]:
    for item in node.items:
        yield from ((child, place) for child in ast.iter_child_nodes(item))
        manager = names.meaning(item.context_expr, place.scope)
        if manager in THREAD_LOCAL and not place.on_worker:
            place = place._replace(thread_local=(*place.thread_local, item.context_expr))
    yield from ((child, place) for child in node.body)
