"""``configure``, and which executor it is that runs what names none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.calls import WAYS, Way, plain, prefix, twice
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, turns

from threadhop import (
    configure,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
)

BLOCK = threadpool()
DECORATED = threadpool(prefix)


async def by_block(executor: Executor | None, _: Any) -> str:
    async with BLOCK if executor is None else threadpool(executor):
        return prefix()


async def by_decorator(executor: Executor | None, _: Any) -> str:
    return await (DECORATED if executor is None else threadpool(executor)(prefix))()


#: An AsyncExecutor always has its own executor.
EACH_WAY: dict[str, Way] = {name: way for name, way in WAYS.items() if name != "run"}
EACH_WAY |= {"block": by_block, "decorator": by_decorator}


@pytest.fixture(autouse=True)
def _nothing_stays_configured() -> Iterator[None]:
    yield
    configure(executor=None)


@pytest.mark.parametrize(
    ("is_named", "is_configured", "expected"),
    [(True, True, "worker"), (False, True, "configured"), (False, False, "default")],
    ids=["named", "configured", "neither"],
)
@pytest.mark.parametrize("way", EACH_WAY.values(), ids=EACH_WAY)
def test_first_comes_the_named_one_then_the_configured_one_then_that_of_the_loop(
    current_task_loops: LoopKind,
    executor: Executor,
    executor_class: type[ThreadPoolExecutor],
    way: Way,
    is_named: bool,
    is_configured: bool,
    expected: str,
) -> None:
    """Blocks and functions that were made before configure() follow, too."""

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        assert await way(executor if is_named else None, prefix) == expected

    with executor_class(1, thread_name_prefix="configured") as configured:
        if is_configured:
            configure(executor=configured)
        current_task_loops.run(main)


def test_the_default_executor_that_a_call_makes_is_that_of_the_loop(
    current_task_loops: LoopKind,
) -> None:
    """The loop waits for the call when it shuts the executor down."""
    gate = Gate()

    async def main() -> None:
        for start in (exec_in_executor, exec_in_executor_threading_future):
            for func in (plain, twice):
                call: Any = start(None, func, 4)
                assert await asyncio.wrap_future(call) == 8
        loop = asyncio.get_running_loop()
        future = exec_in_executor(None, gate.stop_here)
        shutdown = loop.create_task(loop.shutdown_default_executor())
        await turns(20)
        assert not shutdown.done()
        gate.open()
        await shutdown
        assert await future is None

    current_task_loops.run(main)


def test_the_last_one_holds_in_every_thread_until_none_removes_it(executor: Executor) -> None:
    """What is refused changes nothing. The default executor of the loop comes back."""

    def work() -> str:
        return exec_in_executor_threading_future(None, prefix).result(LIMIT)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        assert await by_block(None, None) == "default"
        assert await exec_in_executor(None, prefix) == "default"

    with ThreadPoolExecutor(1) as other:
        configure(executor=other)
        configure(executor=executor)
        for wrong in (3, ThreadPoolExecutor):
            with pytest.raises(TypeError, match=r"^configure\(\) takes an? "):
                configure(executor=wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="positional"):
            configure(executor)  # type: ignore[misc]
        assert other.submit(work).result(LIMIT) == "worker"
        configure()
        asyncio.run(main())
        configure(executor=executor)
        configure(executor=None)
        asyncio.run(main())
