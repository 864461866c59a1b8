"""The table in ``docs/reference/where.md`` is true: each row is tried in each column."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import importlib.util
import inspect
import io
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.steps import LIMIT

import threadhop
from threadhop import (
    AsyncExecutor,
    WorkerPool,
    cancellation_guard,
    check_cancelled,
    configure,
    ensure_thread_event_loop,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    hops,
    iterate_in_executor,
    on_cancel,
    print_hops,
    threadpool,
    unwrap_future,
)

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "where.md"
TEXT = PAGE.read_text("utf-8")
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if line.startswith("|")
]
COLUMNS = TABLE[0][1:]
CELLS = {
    (row[0], column): cell
    for row in TABLE[2:]
    for column, cell in zip(COLUMNS, row[1:], strict=True)
}
HAS_TRIO = importlib.util.find_spec("trio") is not None


@dataclass
class Tools:
    """What a row needs: a pool that is not the one of the block, and a function of each kind."""

    pool: WorkerPool

    def decorated(self) -> Callable[[], Any]:
        return threadpool(self.pool)(lambda: None)

    def done_later(self) -> concurrent.futures.Future[int]:
        return self.pool.submit(int)


async def _block(tools: Tools) -> None:
    async with threadpool(tools.pool):
        assert threading.current_thread().name.startswith("other")


async def _loop_part(_: Tools) -> str:
    before = threading.get_ident()
    async with eventloop():
        return "does nothing" if threading.get_ident() == before else ""


def _decorated(tools: Tools) -> Any:
    result = tools.decorated()()
    return result if inspect.iscoroutine(result) else "without `await`"


def _future_of_loop(tools: Tools) -> Any:
    future = exec_in_executor(tools.pool, int)

    async def wait() -> None:
        await future

    return wait()


async def _map(tools: Tools) -> None:
    assert [one async for one in AsyncExecutor(tools.pool).map(int, "12")] == [1, 2]


async def _iterate(tools: Tools, iterate: Any = iterate_in_executor) -> None:
    async with iterate(tools.pool, range(3)) as numbers:
        assert [number async for number in numbers] == [0, 1, 2]


async def _iterate_method(tools: Tools) -> None:
    await _iterate(tools, lambda pool, source: AsyncExecutor(pool).iterate(source))


async def _guard(_: Tools) -> None:
    async with cancellation_guard():
        pass


def _on_cancel(_: Tools) -> None:
    with on_cancel(print):
        pass


def _pool(_: Tools) -> None:
    with WorkerPool(1) as pool:
        assert pool.submit(int).result(LIMIT) == 0


#: What a row does: a coroutine is awaited, as far as the place has what awaits. It may return the
#: words that the cell has beside its "yes".
PROBES: dict[str, Callable[[Tools], Any]] = {
    "`async with threadpool():`": _block,
    "a function with `@threadpool`": _decorated,
    "`async with eventloop():`": _loop_part,
    "`exec_in_eventloop()`": lambda _: exec_in_eventloop(str),
    "`exec_in_executor()`": _future_of_loop,
    "`exec_in_executor_threading_future()`": lambda tools: exec_in_executor_threading_future(
        tools.pool, str
    ).result(LIMIT),
    "`AsyncExecutor.run()`": lambda tools: AsyncExecutor(tools.pool).run(str),
    "`AsyncExecutor.map()`": _map,
    "`AsyncExecutor.iterate()`": _iterate_method,
    "`AsyncExecutor.shutdown()`": lambda tools: AsyncExecutor(tools.pool).shutdown(),
    "`AsyncExecutor.shutdown_nowait()`": lambda tools: AsyncExecutor(tools.pool).shutdown_nowait(),
    "`unwrap_future()`": lambda tools: unwrap_future(tools.done_later()),
    "`iterate_in_executor()`": _iterate,
    "`ensure_thread_event_loop()`": lambda _: str(ensure_thread_event_loop())[:0],
    "`check_cancelled()`": lambda _: check_cancelled(),
    "`with on_cancel():`": _on_cancel,
    "`async with cancellation_guard():`": _guard,
    "`WorkerPool()`": _pool,
    "`configure()`": lambda _: configure(),
    "`hops()`": lambda _: str(hops())[:0],
    "`print_hops()`": lambda _: print_hops(io.StringIO()),
}


async def _try(probe: Callable[[], Any]) -> str:
    """What the cell says of it: in a coroutine of a task."""
    try:
        result = probe()
        if inspect.iscoroutine(result):
            result = await result
    except RuntimeError as error:
        return f"no: `{error}`"
    return f"yes, {result}" if result else "yes"


def _try_without_task(probe: Callable[[], Any]) -> str:
    """In a plain function. What has to wait would suspend this: there is nobody to wait for it."""
    coroutine = _try(probe)
    try:
        coroutine.send(None)
    except StopIteration as end:
        return str(end.value)
    finally:
        coroutine.close()
    return "it waits"


async def _in_body(pool: WorkerPool, probe: Callable[[], Any]) -> str:
    async with threadpool(pool):
        return await _try(probe)


async def _in_loop_part(pool: WorkerPool, probe: Callable[[], Any]) -> str:
    async with threadpool(pool), eventloop():
        return await _try(probe)


async def _in_call(pool: WorkerPool, probe: Callable[[], Any]) -> str:
    return await AsyncExecutor(pool).run(_try_without_task, probe)


async def _in_task(_: WorkerPool, probe: Callable[[], Any]) -> str:
    return await _try(probe)


def _under_asyncio(place: Any, *args: Any) -> str:
    return asyncio.run(asyncio.wait_for(place(*args), LIMIT))


def _under_trio(place: Any, *args: Any) -> str:
    trio = pytest.importorskip("trio")

    async def main() -> str:
        with trio.fail_after(LIMIT):
            return str(await place(*args))

    return str(trio.run(main))


def _in_plain_thread(_: WorkerPool, probe: Callable[[], Any]) -> str:
    return _try_without_task(probe)


#: How a column is tried: on each library, where it does not name one.
PLACES: dict[str, dict[str, Callable[[WorkerPool, Callable[[], Any]], str]]] = {
    "task on asyncio": {"asyncio": functools.partial(_under_asyncio, _in_task)},
    "task on trio": {"trio": functools.partial(_under_trio, _in_task)},
    **{
        column: {
            "asyncio": functools.partial(_under_asyncio, place),
            "trio": functools.partial(_under_trio, place),
        }
        for column, place in {
            "body of a block": _in_body,
            "loop part": _in_loop_part,
            "function of a call": _in_call,
        }.items()
    },
    "plain thread": {"no library": _in_plain_thread},
}


def _says(cell: str, library: str) -> str:
    """What the cell says for that library."""
    usual, _, on_trio = cell.partition("; on trio ")
    return on_trio if on_trio and library == "trio" else usual


@pytest.mark.parametrize(
    ("column", "library"),
    [(column, library) for column, libraries in PLACES.items() for library in libraries],
)
@pytest.mark.parametrize("row", PROBES, ids=lambda row: row.strip("`"))
def test_a_cell_says_what_happens(row: str, column: str, library: str) -> None:
    """Yes, with what is different there; or no, with the first words of the error."""
    if library == "trio" and not HAS_TRIO:
        pytest.skip("needs trio, which is not installed")
    found: list[str] = []
    with WorkerPool(2, "one") as pool, WorkerPool(2, "other") as other:
        probe = functools.partial(PROBES[row], Tools(other))
        # A thread of its own: what a probe leaves in it, an event loop for one, ends with it.
        thread = threading.Thread(
            target=lambda: found.append(PLACES[column][library](pool, probe)), daemon=True
        )
        thread.start()
        thread.join(LIMIT)
    expected = _says(CELLS[row, column], library)
    assert found
    if expected.startswith("no: "):
        assert found[0].startswith(expected.removesuffix("`"))
    else:
        assert found == [expected]


def test_the_table_has_a_probe_for_each_row_and_a_place_for_each_column() -> None:
    """So no cell goes untried, and nothing is tried that the page does not tell."""
    assert list(CELLS) == [(row, column) for row in PROBES for column in PLACES]


def test_each_public_name_is_in_the_table_or_below_it() -> None:
    """A row names it; or the last sentence says that it may be used anywhere."""
    rows = " ".join(row for row, _ in CELLS)
    in_table = set(re.findall(r"\w+", rows)) & set(threadhop.__all__)
    below = re.findall(r"\w+", TEXT.rpartition("Not in the table")[2])
    assert in_table | set(below) & set(threadhop.__all__) == set(threadhop.__all__)
    assert in_table.isdisjoint(below)
