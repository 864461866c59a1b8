"""The rules: each looks at one kind of node, and at the place where it runs."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from ._names import BLOCK, LOOP, LOOP_PART, Names
from ._scopes import Scope
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

NEEDS_LOOP = {
    *("asyncio.create_task", "asyncio.ensure_future"),
    *("asyncio.get_running_loop", "asyncio.current_task"),
}
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


@dataclass
class File:
    """What the rules know of the file that they look at."""

    names: Names
    #: The coroutine functions that may be awaited in a body.
    goes_to_loop: dict[ast.AsyncFunctionDef, bool] = field(default_factory=dict)


Rule = TypeVar("Rule", bound=Callable[..., Iterator[Finding]])
RULES: dict[type[ast.AST], list[Callable[..., Iterator[Finding]]]] = {}


def looks_at(*kinds: type[ast.AST]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        for kind in kinds:
            RULES.setdefault(kind, []).append(rule)
        return rule

    return register


def findings_in(tree: ast.Module) -> Iterator[Finding]:
    file = File(Names(tree))
    return _findings_within(tree.body, Place(file.names.scopes.module), file)


def _findings_within(nodes: list[ast.stmt], place: Place, file: File) -> Iterator[Finding]:
    for node, where in walk(nodes, place, file.names):
        for rule in RULES.get(type(node), ()):
            yield from rule(node, where, file)


# --- The body waits, or hands the worker out. ---


@looks_at(ast.Await)
def awaits(node: ast.Await, place: Place, file: File) -> Iterator[Finding]:
    if place.on_worker and not _goes_to_loop_by_itself(node.value, place.scope, file):
        yield Finding(node, "THR101")


def _goes_to_loop_by_itself(node: ast.expr, scope: Scope, file: File) -> bool:
    """A call of a coroutine function of this file, which would be right as the body of a block."""
    if not isinstance(node, ast.Call):
        return False
    function = file.names.definition(node.func, scope)
    if not isinstance(function, ast.AsyncFunctionDef):
        return False
    if function not in file.goes_to_loop:
        file.goes_to_loop[function] = True  # For one that awaits itself.
        body = Place(file.names.scopes.of[function], on_worker=True)
        moves = any(
            isinstance(child, ast.Await | ast.withitem) and where.scope.of_function == body.scope
            for child, where in walk(function.body, body, file.names)
        )
        right = moves and not any(_findings_within(function.body, body, file))
        file.goes_to_loop[function] = right
    return file.goes_to_loop[function]


@looks_at(ast.AsyncFor)
def iterates(node: ast.AsyncFor, place: Place, file: File) -> Iterator[Finding]:
    if place.on_worker:
        yield Finding(node, "THR102")


@looks_at(ast.withitem)
def enters(node: ast.withitem, place: Place, file: File) -> Iterator[Finding]:
    manager = node.context_expr
    if (
        place.on_worker
        and HARMLESS.isdisjoint(file.names.options(manager, place.scope))
        and not _goes_to_loop_by_itself(manager, place.scope, file)
    ):
        yield Finding(manager, "THR103")


@looks_at(ast.ListComp, ast.SetComp, ast.DictComp)
def comprehends(
    node: ast.ListComp | ast.SetComp | ast.DictComp, place: Place, file: File
) -> Iterator[Finding]:
    if place.on_worker and any(part.is_async for part in node.generators):
        yield Finding(node, "THR104")


@looks_at(ast.Yield)
def yields(node: ast.Yield, place: Place, file: File) -> Iterator[Finding]:
    function = place.scope.of_function.node
    if place.on_worker and not file.names.is_context_manager(function):
        yield Finding(node, "THR105")


# --- The body touches what belongs to the loop. ---


@looks_at(ast.Call)
def calls(node: ast.Call, place: Place, file: File) -> Iterator[Finding]:
    if not place.on_worker:
        return
    function = file.names.meaning(node.func, place.scope) or ""
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
def enters_nothing(node: ast.With, place: Place, file: File) -> Iterator[Finding]:
    for item in node.items:
        manager = file.names.meaning(item.context_expr, place.scope)
        if manager in (BLOCK, LOOP_PART):
            name = manager.removeprefix("threadhop.").removesuffix("()")
            yield Finding(item.context_expr, "THR110", name)


@looks_at(ast.FunctionDef, ast.AsyncFunctionDef)
def decorates(
    node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place, file: File
) -> Iterator[Finding]:
    is_generator = file.names.scopes.of[node].has_yield
    if not is_generator and isinstance(node, ast.FunctionDef):
        return
    for decorator in reversed(node.decorator_list):
        if file.names.meaning(decorator, place.scope) in (BLOCK, BLOCK.removesuffix("()")):
            yield Finding(decorator, "THR111", f"{node.name}()")
        if not (isinstance(decorator, ast.Name) and decorator.id == "staticmethod"):
            return  # It makes something else of the function.


@looks_at(ast.withitem)
def leaves_thread_local(node: ast.withitem, place: Place, file: File) -> Iterator[Finding]:
    if file.names.meaning(node.context_expr, place.scope) == BLOCK:
        for manager in place.thread_local:
            func = manager.func if isinstance(manager, ast.Call) else manager
            yield Finding(manager, "THR112", ast.unparse(func))
