"""A ``yield`` in the body of a block would put the consumer on the worker: refused at the entry."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.loops import on_every_loop, on_one_loop
from helpers.places import on_loop_thread
from helpers.pools import on_a_stock_pool

from threadhop import eventloop, threadpool
from threadhop import eventloop as on_loop

pytestmark = on_a_stock_pool

#: The executor of the functions here, which frameworks find as plain functions of a module.
pool = SimpleNamespace(executor=None)


async def in_its_body() -> AsyncIterator[str]:
    async with threadpool(pool.executor):
        yield "item"


async def in_a_loop_part() -> AsyncIterator[str]:
    async with threadpool(pool.executor):
        async with eventloop():
            yield "item"


async def in_a_part_by_another_name() -> AsyncIterator[str]:
    async with threadpool(pool.executor), on_loop():
        yield "item"


async def in_a_long_statement() -> AsyncIterator[str]:
    async with (
        contextlib.AsyncExitStack(),
        threadpool(
            pool.executor,
        ),
    ):
        yield "item"


async def in_a_part_of_a_long_statement() -> AsyncIterator[str]:
    async with (
        threadpool(
            pool.executor,
        ),
        on_loop(),
    ):
        yield "item"


async def after_its_block() -> AsyncIterator[str]:
    async with threadpool(pool.executor):

        def inner() -> Any:
            yield "not the body's own"

        item = next(inner())
    yield item.removeprefix("not the body's own") or "item"


decorated = contextlib.asynccontextmanager(in_its_body)


@contextlib.asynccontextmanager
async def by_decorator() -> AsyncIterator[str]:
    async with threadpool(pool.executor):
        yield "item"


async def of_a_manager() -> AsyncIterator[str]:
    """The body of the manager is a body of this one, too."""
    async with by_decorator() as item:
        yield item


class Manager:
    """Enters the block for its user, by hand, and so does what inherits from it."""

    def __init__(self) -> None:
        self.block = threadpool(pool.executor)

    async def __aenter__(self) -> str:
        await self.block.__aenter__()
        return "item"

    async def __aexit__(self, *exc_info: Any) -> None:
        await self.block.__aexit__(*exc_info)


class Heir(Manager):
    async def __aenter__(self) -> str:
        return await super().__aenter__()


async def of_a_class() -> AsyncIterator[str]:
    async with Heir() as item:
        yield item


async def in_a_part_of_a_class() -> AsyncIterator[str]:
    async with Heir() as item, eventloop():
        yield item


class Connection:
    """Opened and closed in blocks of its own, which have ended when its user has it."""

    async def __aenter__(self) -> str:
        async with threadpool(pool.executor):
            return "item"

    async def __aexit__(self, *exc_info: Any) -> None:
        async with threadpool(pool.executor):
            pass


async def of_a_connection() -> AsyncIterator[str]:
    async with Connection() as item:
        yield item


#: Where their blocks stand.
LINES: dict[Any, int] = {
    in_its_body: in_its_body.__code__.co_firstlineno + 1,
    of_a_class: Manager.__aenter__.__code__.co_firstlineno + 1,
    of_a_manager: by_decorator.__wrapped__.__code__.co_firstlineno + 2,  # type: ignore[attr-defined]
}


# The consumers.


async def plain_for(source: Callable[[], Any]) -> str:
    async for item in source():
        return str(item)
    raise AssertionError("no item")


async def closing(source: Callable[[], Any]) -> str:
    async with contextlib.aclosing(source()) as items:
        return str(await anext(items))


async def framework(source: Callable[[], Any]) -> str:
    """As FastAPI enters a dependency: its own manager around one of the user's plain function."""

    @contextlib.asynccontextmanager
    async def shielded() -> AsyncIterator[str]:
        async with contextlib.asynccontextmanager(source)() as item:
            yield item

    async with contextlib.AsyncExitStack() as stack:
        return await stack.enter_async_context(shielded())


Consumer = Callable[[Callable[[], Any]], Awaitable[str]]


@pytest.fixture(autouse=True)
def _executor(executor: Executor) -> None:
    pool.executor = executor


@pytest.mark.trio
@on_every_loop
@pytest.mark.parametrize("consumer", [plain_for, closing, framework])
@pytest.mark.parametrize("source", [in_its_body, of_a_manager, of_a_class])
async def test_a_generator_that_yields_in_the_body_is_refused(
    consumer: Consumer, source: Callable[[], Any]
) -> None:
    """With the line of the block, and the remedy; the consumer never leaves the loop."""
    with pytest.raises(RuntimeError, match=r"async with eventloop\(\): yield") as caught:
        await consumer(source)
    line = LINES[source]
    assert f"the block at {__file__}:{line} yields in its body" in str(caught.value)
    assert on_loop_thread()
    async with threadpool(pool.executor):
        assert not on_loop_thread()


@on_one_loop
@pytest.mark.parametrize("consumer", [closing, framework])
@pytest.mark.parametrize(
    "source",
    [
        in_a_loop_part,
        in_a_part_by_another_name,
        in_a_part_of_a_long_statement,
        in_a_part_of_a_class,
        of_a_connection,
        after_its_block,
    ],
)
async def test_a_generator_that_yields_on_the_loop_is_not_refused(
    consumer: Consumer, source: Callable[[], Any]
) -> None:
    assert await consumer(source) == "item"
    assert on_loop_thread()


@on_one_loop
async def test_a_statement_of_several_lines_is_understood() -> None:
    with pytest.raises(RuntimeError, match="yields in its body"):
        await closing(in_a_long_statement)
    assert on_loop_thread()


@on_every_loop
async def test_the_body_of_a_context_manager_may_be_on_the_worker() -> None:
    """The user enters it by ``async with``, or hands what it decorated to an exit stack."""
    async with by_decorator(), decorated():
        assert not on_loop_thread()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(by_decorator())
        assert not on_loop_thread()
    assert on_loop_thread()


@on_one_loop
async def test_where_the_source_is_unknown_there_is_a_warning_once() -> None:
    source = "async def numbers():\n    async with threadpool(pool.executor):\n        yield 1\n"
    namespace: dict[str, Any] = {"threadpool": threadpool, "pool": pool}
    exec(source, namespace)  # its lines are in no file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            async with contextlib.aclosing(namespace["numbers"]()) as numbers:
                assert await anext(numbers) == 1
                assert not on_loop_thread()
            assert on_loop_thread()
    assert ["may yield in its body" in str(warning.message) for warning in caught] == [True]
