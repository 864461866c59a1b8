"""The floors of the house: imports point down only, and the maps of it are true."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import threadhop

PACKAGE = Path(threadhop.__file__).parent

#: The modules of the package, the public face on top. A module imports those of lower floors.
FLOORS = (
    {"__main__"},
    {"_check._command", "_check._plugin"},
    {"_check._report"},
    {"_check._rules"},
    {"_check._walk"},
    {"_check._names"},
    {"_check", "_check._scopes"},
    {"threadhop"},
    {"_async_executor"},
    {"_iterate"},
    {"_blocks", "_functions", "_cancellation", "_on_cancel", "_hops"},
    {"_adoption", "_decorator", "_iterator_job", "_call_job"},
    {"_loops"},
    {"_loops._anyio_scopes"},
    {"_loops._asyncio", "_loops._trio"},
    {"_loops._trio_calls", "_loops._trio_suspension"},
    {"_loops._trio_futures"},
    {"_loops._asyncio_futures", "_loops._from_thread", "_loops._entry_queue"},
    {"_loops._default_executor", "_loops._end_watch", "_loops._odd_tasks", "_loops._trio_traps"},
    {"_strand"},
    {"_traps"},
    {"_yields"},
    {"_entries"},
    {"_block_job"},
    {"_interface"},
    {"_executors", "_driver", "_variables"},
    {"_pool"},
    {"_pool._limited_view"},
    {"_pool._view_limiter"},
    {"_pool._limits"},
    {"_pool._threads", "_thread_loop", "_remote"},
    {"_pool._permits", "_pool._thread", "_lifetime"},
    {"_pool._work_item"},
    {"_pool._futures"},
    {"_away"},
    {"_job", "_patience"},
    {
        *("_cancel_token", "_outcome", "_callables", "_errors", "_libraries"),
        *("_loops._attributes", "_loops._eventfd"),
    },
)

#: Optional libraries: each is imported in one file, which is loaded by name at first use.
OPTIONAL = ("anyio", "trio")


@dataclass(frozen=True)
class Import:
    """``importer`` imports ``imported``, both without the leading ``threadhop.``"""

    importer: str
    imported: str
    line: int


def short_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts) or "threadhop"


FILES = {short_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_in(module: str) -> list[ast.stmt]:
    """Every import statement of *module*, also those within functions and for types only."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


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
    for statement in imports_in(importer):
        for name in absolute_names(importer, statement):
            if name.split(".")[0] != "threadhop":
                continue
            inner = name.removeprefix("threadhop").removeprefix(".")
            while inner and inner not in FILES:  # a name in a module: the module is meant
                inner = inner.rpartition(".")[0]
            found.append(Import(importer, inner or "threadhop", statement.lineno))
    return found


IMPORTS = [found for module in FILES for found in imports_of(module)]


def floor_of(module: str) -> int:
    return next(number for number, floor in enumerate(FLOORS) if module in floor)


def test_every_module_has_one_floor() -> None:
    """The table names each module of the package once, and no others."""
    assert sorted(module for floor in FLOORS for module in floor) == sorted(FILES)


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down(module: str) -> None:
    """A module imports lower floors only, for types too: so nothing imports in a circle."""
    wrong = [
        f"{FILES[module].name}:{found.line} imports {found.imported}"
        for found in IMPORTS
        if found.importer == module and floor_of(found.imported) <= floor_of(module)
    ]
    assert not wrong


@pytest.mark.parametrize("module", FILES)
def test_no_module_is_long(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("library", OPTIONAL)
def test_an_optional_library_is_imported_in_one_file(library: str) -> None:
    """``import trio`` stands in one file at most, and so does ``import anyio``."""
    files = {
        importer
        for importer in FILES
        for statement in imports_in(importer)
        for name in absolute_names(importer, statement)
        if name.split(".")[0] == library
    }
    assert len(files) <= 1, f"{library} is imported in {sorted(files)}"


HOW_IT_WORKS = Path(__file__).parents[2] / "docs" / "explanation" / "how-it-works.md"


def file_of(module: str) -> str:
    """As the maps name it."""
    return FILES[module].relative_to(PACKAGE).as_posix().removesuffix("/__init__.py") or module


def named_in(text: str) -> set[str]:
    """The files that *text* names: ``_strand.py``, or the folder ``_pool``."""
    return set(
        re.findall(r"(?<!_)\b(?:__main__|_[a-z][a-z_]*(?:/_[a-z_]+)?)(?:\.py|(?=/?`))", text)
    )


@pytest.mark.parametrize("map_", ["docstring", "page"])
def test_the_maps_name_every_file_and_no_other(map_: str) -> None:
    """The docstring of the package, and the table of the rooms."""
    if map_ == "docstring":
        text = threadhop.__doc__ or ""
    else:
        text = HOW_IT_WORKS.read_text(encoding="utf-8").partition("## The rooms")[2]
        text = text.partition("\n## ")[0]
    assert named_in(text) == {file_of(module) for module in FILES} - {"__init__.py"}
