"""``configure``: the executor of this process for whatever names none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate

from threadhop import (
    configure,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
)


@pytest.fixture(autouse=True)
def _nothing_stays_configured() -> Iterator[None]:
    yield
    configure(executor=None)


def prefix() -> str:
    return threading.current_thread().name.partition("_")[0]


def test_it_is_the_executor_of_all_that_name_none(loops: LoopKind, executor: Executor) -> None:
    """Blocks, functions that were decorated before, and calls."""
    decorated = threadpool(prefix)
    block = threadpool()
    configure(executor=executor)

    async def main() -> None:
        async with block:
            assert prefix() == "worker"
        assert await decorated() == "worker"
        assert await exec_in_executor(None, prefix) == "worker"
        future = exec_in_executor_threading_future(None, prefix)
        assert await asyncio.wrap_future(future) == "worker"

    loops.run(main)


def test_an_executor_that_is_named_comes_first(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    with executor_class(1, thread_name_prefix="configured") as configured:
        configure(executor=configured)

        async def main() -> None:
            async with threadpool(executor):
                assert prefix() == "worker"
            assert await exec_in_executor(executor, prefix) == "worker"

        loops.run(main)


@pytest.mark.parametrize("explicit", [False, True])
def test_none_removes_it(current_task_loops: LoopKind, executor: Executor, explicit: bool) -> None:
    """Named or not. Then it is that of the loop again."""
    configure(executor=executor)
    if explicit:
        configure(executor=None)
    else:
        configure()

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1, "default"))
        async with threadpool():
            assert prefix() == "default"
        assert await exec_in_executor(None, prefix) == "default"

    current_task_loops.run(main)


def test_the_last_one_counts(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    with executor_class(1, thread_name_prefix="last") as last:
        configure(executor=executor)
        configure(executor=last)

        async def main() -> None:
            assert await exec_in_executor(None, prefix) == "last"

        loops.run(main)


def test_it_holds_in_every_thread(executor: Executor) -> None:
    configure(executor=executor)

    def work() -> str:
        return exec_in_executor_threading_future(None, prefix).result(LIMIT)

    with ThreadPoolExecutor(1) as other:
        assert other.submit(work).result(LIMIT) == "worker"


def test_calls_that_began_before_are_left_alone(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Nor is the executor from before shut down."""
    gate = Gate()

    def work() -> str:
        gate.stop_here()
        return prefix()

    async def main() -> None:
        with executor_class(1, thread_name_prefix="new") as new:
            configure(executor=executor)
            future = exec_in_executor(None, work)
            configure(executor=new)
            gate.open()
            assert await future == "worker"
            assert await exec_in_executor(None, prefix) == "new"
            assert await exec_in_executor(executor, prefix) == "worker"

    loops.run(main)


@pytest.mark.parametrize("executor", [3, "pool", object(), False, ()])
def test_what_is_no_executor_is_a_type_error(executor: Any, executor_class: Any) -> None:
    """And changes nothing."""
    with executor_class(1, thread_name_prefix="kept") as kept:
        configure(executor=kept)
        with pytest.raises(TypeError, match=r"configure\(\) takes a concurrent.futures.Executor"):
            configure(executor=executor)
        assert exec_in_executor_threading_future(None, prefix).result(LIMIT) == "kept"


def test_a_class_gets_a_question() -> None:
    with pytest.raises(TypeError, match=r"did you forget \(\)\?"):
        configure(executor=ThreadPoolExecutor)  # type: ignore[arg-type]


def test_it_takes_no_positional_argument(executor: Executor) -> None:
    with pytest.raises(TypeError):
        configure(executor)  # type: ignore[misc]


def test_it_returns_nothing(executor: Executor) -> None:
    assert configure(executor=executor) is None  # type: ignore[func-returns-value]
