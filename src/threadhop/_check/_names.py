"""What a name stands for: a path, followed through imports, assignments and annotations.

``asyncio.Queue`` is the class, ``asyncio.Queue()`` what a call of it returns, or what is annotated
with it. None: the file does not show it, or it may be one of several things.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

from ._scopes import Binding, Function, Scope, Scopes

BLOCK = "threadhop.threadpool()"
LOOP_PART = "threadhop.eventloop()"
LOOP = "asyncio.AbstractEventLoop()"
NOTHING = "None"

#: Other names of the same thing.
SAME = {
    "threadhop.ThreadpoolBlock()": BLOCK,
    "asyncio.get_running_loop()": LOOP,
    "asyncio.get_event_loop()": LOOP,
    "asyncio.BaseEventLoop()": LOOP,
    f"{LOOP}.create_future()": "asyncio.Future()",
    "asyncio.LifoQueue()": "asyncio.Queue()",
    "asyncio.PriorityQueue()": "asyncio.Queue()",
    "asyncio.TaskGroup() entered": "asyncio.TaskGroup()",
}
IN_ASYNCIO = re.compile(r"^asyncio\.(base_events|events|futures|locks|queues|taskgroups|tasks)\.")
#: ``Wrapper[X, …]`` is annotated like X.
WRAPPERS = re.compile(
    r"^(typing|typing_extensions|dataclasses)\.(Annotated|ClassVar|Final|InitVar|Optional)$"
)


def simplified(path: str) -> str:
    path = IN_ASYNCIO.sub("asyncio.", path)
    return SAME.get(path, path)


def agreed(paths: Iterable[str | None]) -> str | None:
    """The one that all have; None beside it does not count: it stands for "not yet"."""
    different = set(paths) - {NOTHING}
    return different.pop() if len(different) == 1 else None


class Names:
    """Answers what an expression in a scope of the tree stands for."""

    def __init__(self, tree: ast.Module) -> None:
        self.scopes = Scopes(tree)
        #: What ``_walk.py`` has found out of context managers, by the place where they are entered.
        self.yields_on_worker: dict[tuple[ast.AsyncFunctionDef, bool], bool] = {}
        #: What ``_rules.py`` has found out: the functions that may be awaited in a body.
        self.goes_to_loop: dict[ast.AsyncFunctionDef, bool] = {}
        self._known: dict[tuple[Scope, str], str | None] = {}
        self._attributes: dict[str, dict[str, list[Binding]]] = {}
        for owner, name, binding in self.scopes.attributes:
            path = self._meaning_of_name(owner.id, binding.scope)
            if path is not None:
                of_class = self._attributes.setdefault(path.removesuffix("()"), {})
                of_class.setdefault(name, []).append(binding)
        self._known.clear()

    def meaning(self, node: ast.expr, scope: Scope) -> str | None:
        match node:
            case ast.Name():
                return self._meaning_of_name(node.id, scope)
            case ast.Attribute():
                owner = self.meaning(node.value, scope)
                return None if owner is None else self._attribute(owner, node.attr)
            case ast.Call():
                return self._called(self.meaning(node.func, scope))
            case ast.Subscript():  # ``Queue[int]``, but not an item of something
                path = self.meaning(node.value, scope)
                return None if path is None or path.endswith(")") else path
            case ast.NamedExpr():
                return self.meaning(node.value, scope)
            case ast.BoolOp():
                return agreed(self.meaning(value, scope) for value in node.values)
            case ast.IfExp():
                return agreed(self.meaning(value, scope) for value in (node.body, node.orelse))
            case ast.Constant(value=None):
                return NOTHING
        return None

    def options(self, node: ast.expr, scope: Scope) -> set[str | None]:
        """What *node* may stand for: ``a if condition else b`` is one of two."""
        if isinstance(node, ast.IfExp):
            return self.options(node.body, scope) | self.options(node.orelse, scope)
        return {self.meaning(node, scope)}

    def is_context_manager(self, function: ast.AST) -> bool:
        """``@asynccontextmanager``, however imported, and ``asynccontextmanager(function)``."""
        scope = self.scopes.of[function]
        outer = scope.parent or scope
        ways = [(decorator, outer) for decorator in getattr(function, "decorator_list", ())]
        ways += [
            (call.func, where)
            for call, where in self.scopes.calls_with_a_name
            if self.definition(call.args[0], where) is function
        ]
        # An unknown one, from a module for older Pythons, is known by its name.
        return any(
            (self.meaning(way, where) or ast.unparse(way)).endswith("asynccontextmanager")
            for way, where in ways
        )

    def definition(self, node: ast.expr, scope: Scope) -> Function | ast.ClassDef | None:
        """The function or class of this file that *node* names."""
        return self.scopes.definitions.get(self.meaning(node, scope) or "")

    def _called(self, path: str | None) -> str | None:
        function = self.scopes.definitions.get(path or "")
        if isinstance(function, ast.FunctionDef) and function.returns is not None:
            return self._annotated(function.returns, self.scopes.of[function])
        return None if path is None else simplified(f"{path}()")

    def _annotated(self, node: ast.expr, scope: Scope) -> str | None:
        match node:
            case ast.Constant(value=str(text)):
                try:
                    return self._annotated(ast.parse(text.strip(), mode="eval").body, scope)
                except SyntaxError:
                    return None
            case ast.BinOp(op=ast.BitOr()):
                return agreed(self._annotated(part, scope) for part in (node.left, node.right))
            case ast.Subscript() if WRAPPERS.match(self.meaning(node.value, scope) or ""):
                inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
                return self._annotated(inner, scope)
            case ast.Constant(value=None):
                return NOTHING
        path = self.meaning(node, scope)
        return None if path is None else simplified(f"{path}()")

    def _meaning_of_name(self, name: str, scope: Scope) -> str | None:
        found: Scope | None = scope.elsewhere.get(name, scope)
        while found is not None and name not in found.bindings:
            found = found.parent
            while found is not None and isinstance(found.node, ast.ClassDef):
                found = found.parent  # Functions do not see the names of their class.
        if found is None:
            return None
        if (found, name) not in self._known:
            self._known[found, name] = None  # for ``x = x``
            self._known[found, name] = self._meaning_of_bindings(found.bindings[name])
        return self._known[found, name]

    def _meaning_of_bindings(self, bindings: list[Binding]) -> str | None:
        declared = [b for b in bindings if b.is_annotation]
        return agreed(self._meaning_of_binding(b) for b in declared or bindings)

    def _meaning_of_binding(self, binding: Binding) -> str | None:
        if binding.value is None:
            return simplified(binding.path) if binding.path else None
        if binding.is_annotation:
            return self._annotated(binding.value, binding.scope)
        path = self.meaning(binding.value, binding.scope)
        return simplified(f"{path} entered") if binding.is_entered and path else path

    def _attribute(self, owner: str, name: str) -> str | None:
        """Of a module, or of a class of this file and its instances."""
        path = owner.removesuffix("()")
        node = self.scopes.definitions.get(path)
        if not isinstance(node, ast.ClassDef):
            return simplified(f"{owner}.{name}")
        scope = self.scopes.of[node]
        if (scope, f".{name}") not in self._known:
            self._known[scope, f".{name}"] = None  # for a class that is its own base
            bindings = scope.bindings.get(name, []) + self._attributes.get(path, {}).get(name, [])
            if bindings:
                found = self._property(self._meaning_of_bindings(bindings))
            else:
                instance = owner.removeprefix(path)
                bases = [self.meaning(base, scope) for base in node.bases]
                inherited = [self._attribute(base + instance, name) for base in bases if base]
                found = next((one for one in inherited if one), None)
            self._known[scope, f".{name}"] = found
        return self._known[scope, f".{name}"]

    def _property(self, path: str | None) -> str | None:
        function = self.scopes.definitions.get(path or "")
        decorators = getattr(function, "decorator_list", ())
        is_property = any(ast.unparse(way).endswith("property") for way in decorators)
        return self._called(path) if is_property else path
