"""The rules: each looks at one kind of node, and at the place where it runs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from ._names import BLOCK, LOOP, LOOP_PART, Names
from ._scopes import Comprehension, Function, Scope
from ._walk import Place, walk

#: What each number says. {} is the call, the manager or the decorated function.
TEXTS = {
    "THR101": "'await' in the body of a block, where no loop runs: put it after the block, or into "
    "'async with eventloop():'",
    "THR102": "'async for' in the body of a block, where no loop runs: put it into "
    "'async with eventloop():'",
    "THR103": "'async with' in the body of a block enters a manager that may await, where no loop "
    "runs: put it around the block (in one statement: to the left), or into "
    "'async with eventloop():'",
    "THR104": "asynchronous comprehension in the body of a block, where no loop runs: put it into "
    "'async with eventloop():'",
    "THR105": "'yield' in the body of a block puts the consumer of this async generator on the "
    "worker: yield on the loop, 'async with eventloop(): yield'",
    "THR106": "{}() needs the running loop, and the body of a block has none: call it in "
    "'async with eventloop():', or by exec_in_eventloop()",
    "THR107": "{}() of an event loop is not thread-safe, and the body of a block runs on a worker: "
    "call it in 'async with eventloop():', by exec_in_eventloop() or loop.call_soon_threadsafe()",
    "THR108": "{}() is not thread-safe, and the body of a block runs on a worker: call it in "
    "'async with eventloop():', or by exec_in_eventloop()",
    "THR109": "{}() knows the workers of anyio only, not that of a block: use exec_in_eventloop(), "
    "check_cancelled() or 'async with eventloop():' of threadhop",
    "THR110": "'with {}()' enters nothing: write 'async with {}():'",
    "THR111": "@threadpool refuses {}, which is no plain function: put "
    "'async with threadpool():' around its blocking lines",
    "THR112": "{}() holds for its own thread only, and the block in it runs on a worker: put the "
    "'with' into the block",
}

OF_ASYNCIO = ("create_task", "ensure_future", "get_running_loop", "current_task")
NEEDS_LOOP = {f"asyncio.{name}" for name in OF_ASYNCIO}
OF_LOOP = {f"{LOOP}.{name}" for name in ("call_soon", "call_later", "call_at", "create_task")}
NOT_THREAD_SAFE = {
    *("asyncio.Queue().put_nowait", "asyncio.Queue().get_nowait"),
    *("asyncio.Event().set", "asyncio.Event().clear"),
    *("asyncio.Future().set_result", "asyncio.Future().set_exception"),
    "asyncio.TaskGroup().create_task",
}
#: These may be entered in a body.
HARMLESS = {BLOCK, LOOP_PART, "threadhop.cancellation_guard()", "contextlib.nullcontext()"}


class Finding(NamedTuple):
    node: ast.AST
    number: str
    what: str = ""

    @property
    def text(self) -> str:
        return TEXTS[self.number].replace("{}", self.what)


Rule = TypeVar("Rule", bound=Callable[..., Iterator[Finding]])
RULES: dict[type[ast.AST], list[Callable[..., Iterator[Finding]]]] = {}


def looks_at(*kinds: type[ast.AST]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES.setdefault(kind, []).append(rule)
        return rule

    return register


def findings_in(tree: ast.Module) -> Iterator[Finding]:
    names = Names(tree)
    return _findings_within(tree.body, Place(names.scopes.module), names)


def _findings_within(nodes: list[ast.stmt], place: Place, names: Names) -> Iterator[Finding]:
    for node, where in walk(nodes, place, names):
        for rule in RULES.get(type(node), ()):
            yield from rule(node, where, names)


# --- The body waits, or hands the worker out. ---


@looks_at(ast.Await)
def awaits(node: ast.Await, place: Place, names: Names) -> Iterator[Finding]:
    if place.on_worker and not _goes_to_loop_by_itself(node.value, place.scope, names):
        yield Finding(node, "THR101")


def _goes_to_loop_by_itself(node: ast.expr, scope: Scope, names: Names) -> bool:
    """A call of a coroutine function of this file, which would be right as the body of a block."""
    if not isinstance(node, ast.Call):
        return False
    function = names.definition(node.func, scope)
    if not isinstance(function, ast.AsyncFunctionDef):
        return False
    known = names.goes_to_loop
    if function not in known:
        before = len(known)
        known[function] = True  # For one that awaits itself.
        body = Place(names.scopes.of[function], on_worker=True)
        moves = any(
            isinstance(child, ast.Await | ast.withitem) and where.scope.of_function is body.scope
            for child, where in walk(function.body, body, names)
        )
        if not moves or any(_findings_within(function.body, body, names)):
            # Those that were right if this one is right are to be looked at again.
            for other in [other for other in list(known)[before:] if known[other]]:
                del known[other]
            known[function] = False
    return known[function]


@looks_at(ast.AsyncFor)
def iterates(node: ast.AsyncFor, place: Place, names: Names) -> Iterator[Finding]:
    if place.on_worker:
        yield Finding(node, "THR102")


@looks_at(ast.withitem)
def enters(node: ast.withitem, place: Place, names: Names) -> Iterator[Finding]:
    manager = node.context_expr
    if (
        place.on_worker
        and not names.options(manager, place.scope) <= HARMLESS
        and not _goes_to_loop_by_itself(manager, place.scope, names)
    ):
        yield Finding(manager, "THR103")


@looks_at(ast.ListComp, ast.SetComp, ast.DictComp)
def comprehends(node: Comprehension, place: Place, names: Names) -> Iterator[Finding]:
    if place.on_worker and any(part.is_async for part in node.generators):
        yield Finding(node, "THR104")


@looks_at(ast.Yield)
def yields(node: ast.Yield, place: Place, names: Names) -> Iterator[Finding]:
    function = place.scope.of_function.node
    if place.on_worker and not names.is_context_manager(function):
        yield Finding(node, "THR105")


# --- The body touches what belongs to the loop. ---


@looks_at(ast.Call)
def calls(node: ast.Call, place: Place, names: Names) -> Iterator[Finding]:
    if not place.on_worker:
        return
    function = names.meaning(node.func, place.scope) or ""
    spelled = ast.unparse(node.func)
    if function in NEEDS_LOOP:
        yield Finding(node, "THR106", spelled)
    elif function in OF_LOOP:
        yield Finding(node, "THR107", spelled)
    elif function in NOT_THREAD_SAFE:
        yield Finding(node, "THR108", spelled)
    elif function.startswith("anyio.from_thread."):
        yield Finding(node, "THR109", spelled)


# --- The block itself is wrong. ---


@looks_at(ast.With)
def enters_nothing(node: ast.With, place: Place, names: Names) -> Iterator[Finding]:
    for item in node.items:
        manager = names.meaning(item.context_expr, place.scope)
        if manager in (BLOCK, LOOP_PART):
            name = manager.removeprefix("threadhop.").removesuffix("()")
            yield Finding(item.context_expr, "THR110", name)


@looks_at(ast.FunctionDef, ast.AsyncFunctionDef)
def decorates(node: Function, place: Place, names: Names) -> Iterator[Finding]:
    is_generator = names.scopes.of[node].has_yield
    if not is_generator and isinstance(node, ast.FunctionDef):
        return
    for decorator in reversed(node.decorator_list):
        if names.meaning(decorator, place.scope) in (BLOCK, BLOCK.removesuffix("()")):
            yield Finding(decorator, "THR111", f"{node.name}()")
        if not (isinstance(decorator, ast.Name) and decorator.id == "staticmethod"):
            return  # It makes something else of the function.


@looks_at(ast.withitem)
def leaves_thread_local(node: ast.withitem, place: Place, names: Names) -> Iterator[Finding]:
    if names.meaning(node.context_expr, place.scope) == BLOCK:
        for manager in place.thread_local:
            func = manager.func if isinstance(manager, ast.Call) else manager
            yield Finding(manager, "THR112", ast.unparse(func))
