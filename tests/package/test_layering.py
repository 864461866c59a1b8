"""The floors of the house: imports point down only, and nothing imports in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import threadhop

PACKAGE = Path(threadhop.__file__).parent

#: The modules of the package, the public face on top. A module may import those of lower floors.
FLOORS = (
    {"threadhop"},
    {"_async_executor"},
    {"_blocks", "_decorator", "_functions", "_cancellation"},
    {"_adoption"},
    {"_loops", "_call_job"},
    {"_loops._asyncio", "_loops._asyncio_futures"},
    {"_loops._from_thread", "_loops._entry_queue", "_loops._default_executor"},
    {"_strand"},
    {"_block_job"},
    {"_interface", "_driver"},
    {"_executors", "_away"},
    {"_pool"},
    {"_pool._limited_view"},
    {"_remote", "_thread_loop", "_pool._threads"},
    {"_pool._permits", "_lifetime"},
    {
        *("_traps", "_job", "_variables", "_outcome", "_callables", "_settings", "_errors"),
        *("_pool._work_item", "_cancel_token", "_entries"),
    },
)

#: What may be imported on the same floor all the same.
BETWEEN_NEIGHBOURS = {
    ("_blocks", "_decorator"),
}

#: Imports for annotations only, which no running program follows. They may point up.
FOR_TYPES_ONLY = {
    ("_block_job", "_strand"),
    ("_interface", "_strand"),
    ("_entries", "_block_job"),
    ("_entries", "_strand"),
    ("_traps", "_strand"),
    ("_job", "_block_job"),
    ("_away", "_block_job"),
    ("_away", "_call_job"),
    ("_job", "_call_job"),
}

#: Optional libraries: each is imported in one file, which is loaded by name at first use.
OPTIONAL = ("anyio", "trio")


@dataclass(frozen=True)
class Import:
    """``importer`` imports ``imported``, both without the leading ``threadhop.``"""

    importer: str
    imported: str
    line: int
    for_types_only: bool

    @property
    def edge(self) -> tuple[str, str]:
        return self.importer, self.imported


def short_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "threadhop"


FILES = {short_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(node: ast.AST, for_types_only: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every import statement below *node*, also those within functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, for_types_only
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for statement in child.body:
                yield from imports_in(ast.Module([statement], []), for_types_only=True)
            for statement in child.orelse:
                yield from imports_in(ast.Module([statement], []), for_types_only)
        else:
            yield from imports_in(child, for_types_only)


def absolute_names(importer: str, statement: ast.stmt) -> list[str]:
    """The dotted names that *statement*, found in *importer*, asks for."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    assert isinstance(statement, ast.ImportFrom)
    if not statement.level:
        base = [statement.module or ""]
    else:
        here = [] if importer == "threadhop" else importer.split(".")
        if FILES[importer].name != "__init__.py":
            here = here[:-1]
        up = statement.level - 1
        base = ["threadhop", *here[: len(here) - up]]
        if statement.module:
            base.append(statement.module)
    # ``from package import x``: x may be a module or a name in the package.
    return [".".join([*base, alias.name]) for alias in statement.names]


def imports_of(importer: str) -> list[Import]:
    """What *importer* imports from this package."""
    found = []
    tree = ast.parse(FILES[importer].read_text(encoding="utf-8"))
    for statement, for_types_only in imports_in(tree):
        for name in absolute_names(importer, statement):
            if name.split(".")[0] != "threadhop":
                continue
            inner = name.removeprefix("threadhop").removeprefix(".")
            while inner and inner not in FILES:  # a name in a module: the module is meant
                inner = inner.rpartition(".")[0]
            found.append(Import(importer, inner or "threadhop", statement.lineno, for_types_only))
    return found


IMPORTS = [found for module in FILES for found in imports_of(module)]


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if module in floor)


def test_every_module_has_one_floor() -> None:
    """The table names each module of the package once, and no others."""
    assert sorted(module for floor in FLOORS for module in floor) == sorted(FILES)


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    """A module imports lower floors only, or a neighbour that the table names."""
    allowed = BETWEEN_NEIGHBOURS
    wrong = [
        f"{FILES[module].name}:{found.line} imports {found.imported}"
        for found in IMPORTS
        if found.importer == module
        and found.edge not in (FOR_TYPES_ONLY if found.for_types_only else allowed)
        and floor_of(found.imported) <= floor_of(module)
    ]
    assert not wrong


def test_every_exception_in_the_tables_is_used() -> None:
    """A permission that nothing needs any more is withdrawn."""
    used = {found.edge for found in IMPORTS if not found.for_types_only}
    used_for_types = {found.edge for found in IMPORTS if found.for_types_only}
    assert used >= BETWEEN_NEIGHBOURS
    assert used_for_types >= FOR_TYPES_ONLY


def test_nothing_imports_in_a_circle() -> None:
    """Following the imports of a running program never comes back to where it began."""
    graph = {
        module: {
            found.imported
            for found in IMPORTS
            if found.importer == module and not found.for_types_only
        }
        for module in FILES
    }
    # Take away, again and again, the modules that import nothing that is left.
    while loose := [module for module, imported in graph.items() if not imported & graph.keys()]:
        for module in loose:
            del graph[module]
    assert not graph, f"each of these imports another one of them: {sorted(graph)}"


@pytest.mark.parametrize("library", OPTIONAL)
def test_an_optional_library_is_imported_in_one_file(library: str) -> None:
    """``import trio`` stands in one file at most, and so does ``import anyio``."""
    files = {
        importer
        for importer in FILES
        for statement, for_types_only in imports_in(ast.parse(FILES[importer].read_text("utf-8")))
        for name in absolute_names(importer, statement)
        if name.split(".")[0] == library and not for_types_only
    }
    assert len(files) <= 1, f"{library} is imported in {sorted(files)}"
