"""sniffio tells which async library runs here: on the loop asyncio, on a worker none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

import pytest
from helpers.loops import LoopKind

from threadhop import AsyncExecutor, eventloop, exec_in_eventloop, exec_in_executor, threadpool

sniffio: Any = pytest.importorskip("sniffio", reason="needs sniffio, which is not installed")
variable = getattr(sniffio, "current_async_library_cvar", None)


def library() -> str | None:
    try:
        name: str = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        return None
    return name


async def library_in_coroutine() -> str | None:
    return library()


@pytest.fixture(params=["as it is", "set in the task"])
def in_task(request: pytest.FixtureRequest) -> Callable[[], None]:
    """What ``anyio.run`` does at its beginning, or nothing."""
    if request.param == "as it is":
        return lambda: None
    return lambda: variable.set("asyncio")


def test_a_worker_of_a_block_has_no_async_library(
    current_task_loops: LoopKind,
    one: ThreadPoolExecutor,
    other: ThreadPoolExecutor,
    in_task: Callable[[], None],
) -> None:
    """Also in a block in a block, and after a loop part; on the loop it is what it was.

    (The body changes another variable, so that there is something to write.)
    """
    others = ContextVar[object]("others")

    async def main() -> None:
        in_task()
        before = variable.get()
        for _ in range(2):
            async with threadpool(one):
                assert library() is None
                others.set(object())
                async with threadpool(other):
                    assert library() is None
                async with eventloop():
                    assert library() == "asyncio"
                    assert variable.get() == before
                assert library() is None
                assert exec_in_eventloop(library) == "asyncio"
                assert exec_in_eventloop(library_in_coroutine) == "asyncio"
                assert library() is None
                variable.set("something invalid on the loop")
                assert exec_in_eventloop(library) == "asyncio"
            assert library() == "asyncio"
            assert variable.get() == before

    current_task_loops.run(main)


def test_a_call_has_no_async_library_unless_it_is_a_coroutine(
    current_task_loops: LoopKind, executor: Executor, in_task: Callable[[], None]
) -> None:
    async def main() -> None:
        in_task()
        calls: Any = AsyncExecutor(executor)
        for _ in range(2):
            assert await exec_in_executor(executor, library) is None
            assert await exec_in_executor(executor, library_in_coroutine) == "asyncio"
            assert await calls.run(library) is None
            assert await exec_in_executor(executor, exec_in_eventloop, library) == "asyncio"
            assert library() == "asyncio"

    current_task_loops.run(main)


def test_a_variable_that_the_task_changes_meanwhile_is_not_written_over(
    executor: Executor,
) -> None:
    """A value that a library sets on the loop, or unsets, holds; the worker still has none."""

    async def main() -> None:
        async with threadpool(executor):
            pass
        token = variable.set("asyncio")
        async with threadpool(executor):
            assert library() is None
            async with eventloop():
                variable.set("another")
            assert library() is None
        assert variable.get() == "another"
        variable.reset(token)
        async with threadpool(executor):
            assert variable.get() is None
        assert variable.get() is None

    asyncio.run(main())
