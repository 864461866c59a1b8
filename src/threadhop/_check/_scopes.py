"""The scopes of a file, and what each statement binds in them.

A scope is a module, a class, a function, a lambda or a comprehension. A name may be bound several
times in a scope: all its bindings are kept, since nobody knows which of them a line will meet.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
HasScope = Function | ast.ClassDef | ast.Lambda | Comprehension


class Binding(NamedTuple):
    """What a name is bound to: a path that is known at once, or an expression in a scope."""

    scope: Scope
    value: ast.expr | None = None
    path: str = ""
    is_annotation: bool = False
    is_entered: bool = False  # ``with value as name``


@dataclass(eq=False)
class Scope:
    node: ast.Module | HasScope
    parent: Scope | None = None
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, Scope] = field(default_factory=dict)  # ``global`` and ``nonlocal``
    has_yield: bool = False

    @property
    def of_function(self) -> Scope:
        """This scope, or that around a comprehension."""
        if isinstance(self.node, Comprehension) and self.parent is not None:
            return self.parent.of_function
        return self

    def bind(self, name: str, binding: Binding) -> None:
        self.bindings.setdefault(name, []).append(binding)


def path_of(node: Function | ast.ClassDef) -> str:
    """The path of what the file itself defines: no import has such a one."""
    return f"<{node.lineno}:{node.col_offset}>"


def children(node: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """The children of *node*, and whether each is in the scope that *node* makes."""
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            yield from outside(node.args)
            if not isinstance(node, ast.Lambda):
                yield from outside(*node.decorator_list, node.returns)
            body = [node.body] if isinstance(node, ast.Lambda) else node.body
            yield from ((child, True) for child in body)
        case ast.ClassDef():
            yield from outside(*node.decorator_list, *node.bases, *node.keywords)
            yield from ((child, True) for child in node.body)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            first = node.generators[0].iter
            yield first, False
            for child in ast.iter_child_nodes(node):
                parts = ast.iter_child_nodes(child) if child is node.generators[0] else [child]
                yield from ((part, True) for part in parts if part is not first)
        case _:
            yield from outside(*ast.iter_child_nodes(node))


def outside(*nodes: ast.AST | None) -> Iterator[tuple[ast.AST, bool]]:
    return ((node, False) for node in nodes if node is not None)


class Scopes:
    """Reads a tree once, and notes each scope and binding."""

    def __init__(self, tree: ast.Module) -> None:
        self.module = Scope(tree)
        self.of: dict[ast.AST, Scope] = {tree: self.module}
        self.definitions: dict[str, Function | ast.ClassDef] = {}
        #: ``self.queue = …``: an attribute of what, its name, its binding.
        self.attributes: list[tuple[ast.Name, str, Binding]] = []
        #: ``f(g)``: perhaps a decorator in another form.
        self.calls_with_a_name: list[tuple[ast.Call, Scope]] = []
        self._bound: set[ast.AST] = set()
        pending: list[tuple[ast.AST, Scope]] = [(tree, self.module)]
        while pending:
            node, scope = pending.pop()
            self._read(node, scope)
            inner = self.of.get(node, scope)
            pending += [(child, inner if inside else scope) for child, inside in children(node)]
        self._follow_global()

    def _read(self, node: ast.AST, scope: Scope) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self._read_import(node, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                path = path_of(node)
                self.definitions[path] = node
                scope.bind(node.name, Binding(scope, path=path))
                self.of[node] = Scope(node, scope)
                if not isinstance(node, ast.ClassDef):
                    self._read_parameters(node, scope)
            case ast.Lambda():
                self.of[node] = Scope(node, scope)
                self._read_parameters(node, scope)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                self.of[node] = Scope(node, scope)
            case ast.Yield() | ast.YieldFrom():
                scope.has_yield = True
            case ast.Call(args=[ast.Name()]):
                self.calls_with_a_name.append((node, scope))
            case ast.Global():
                scope.elsewhere.update(dict.fromkeys(node.names, self.module))
            case ast.Nonlocal() if scope.parent is not None:
                scope.elsewhere.update(dict.fromkeys(node.names, scope.parent))
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                scope.bind(name, Binding(scope))
            case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                scope.bind(name, Binding(scope))
            case _:
                self._read_targets(node, scope)

    def _read_targets(self, node: ast.AST, scope: Scope) -> None:
        match node:
            case ast.Assign():
                for target in node.targets:
                    self._bind(target, Binding(scope, node.value))
            case ast.AnnAssign():
                self._bind(node.target, Binding(scope, node.annotation, is_annotation=True))
            case ast.NamedExpr():
                self._bind(node.target, Binding(scope.of_function, node.value))
            case ast.withitem(optional_vars=ast.expr() as target):
                self._bind(target, Binding(scope, node.context_expr, is_entered=True))
            case ast.Name(ctx=ast.Store()) if node not in self._bound:  # ``for``, ``+=`` …
                self._bind(node, Binding(scope))

    def _read_import(self, node: ast.Import | ast.ImportFrom, scope: Scope) -> None:
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                path = f"{'.' * node.level}{node.module or ''}.{alias.name}"
            else:  # ``import a.b`` binds a, ``import a.b as c`` binds a.b
                path = alias.name if alias.asname else alias.name.partition(".")[0]
            scope.bind(alias.asname or alias.name.partition(".")[0], Binding(scope, path=path))

    def _read_parameters(self, node: Function | ast.Lambda, scope: Scope) -> None:
        inner, arguments = self.of[node], node.args
        ordinary = [*arguments.posonlyargs, *arguments.args]
        for argument in [*ordinary, *arguments.kwonlyargs]:
            binding = Binding(scope, argument.annotation, is_annotation=True)
            if argument.annotation is None:
                binding = Binding(inner)
                if argument in ordinary[:1] and isinstance(scope.node, ast.ClassDef):
                    binding = Binding(inner, path=_path_of_self(node, scope.node))
            inner.bind(argument.arg, binding)
        for rest in (arguments.vararg, arguments.kwarg):
            if rest is not None:
                inner.bind(rest.arg, Binding(inner))

    def _bind(self, target: ast.expr, binding: Binding) -> None:
        """Also each part of ``a, b = c, d``."""
        self._bound.add(target)
        match target:
            case ast.Name():
                binding.scope.bind(target.id, binding)
            case ast.Attribute(value=ast.Name() as owner):
                self.attributes.append((owner, target.attr, binding))
            case ast.Tuple() | ast.List():
                values: list[ast.expr] = []
                if isinstance(binding.value, ast.Tuple | ast.List) and not binding.is_entered:
                    values = binding.value.elts
                is_known = len(values) == len(target.elts)
                is_known &= not any(isinstance(part, ast.Starred) for part in values + target.elts)
                for index, part in enumerate(target.elts):
                    value = values[index] if is_known else None
                    self._bind(part, Binding(binding.scope, value))
            case ast.Starred():
                self._bind(target.value, Binding(binding.scope))

    def _follow_global(self) -> None:
        """Bindings of names that are ``global`` or ``nonlocal`` belong to another scope."""
        for scope in self.of.values():
            for name, owner in scope.elsewhere.items():
                found: Scope | None = owner
                while found is not None and name not in found.bindings:
                    found = found.parent
                for binding in scope.bindings.pop(name, []):
                    (found or owner).bind(name, binding)


def _path_of_self(node: Function | ast.Lambda, owner: ast.ClassDef) -> str:
    """Of the first parameter of a method."""
    names = {d.id for d in getattr(node, "decorator_list", ()) if isinstance(d, ast.Name)}
    if "staticmethod" in names:
        return ""
    is_class = "classmethod" in names or getattr(node, "name", "") in {
        "__new__",
        "__init_subclass__",
    }
    return path_of(owner) + ("" if is_class else "()")
