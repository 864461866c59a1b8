"""anyio's own things around ours, on asyncio: its threads, its primitives, its plugin of pytest.

What anyio promises of its own threads holds of a block, too: the names of the tests are close to
those of its test suite.
"""

from __future__ import annotations

import asyncio
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import LoopKind
from helpers.places import place
from helpers.steps import Gate, until

from threadhop import (
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    threadpool,
)

anyio: Any = pytest.importorskip("anyio", reason="needs anyio, which is not installed")
pytest.importorskip("anyio.from_thread")
pytest.importorskip("anyio.to_thread")


@pytest.fixture(params=["asyncio.run", "anyio.run"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Both ways to run an asyncio program; anyio's ends its own threads."""
    if request.param == "anyio.run":
        return anyio.run  # type: ignore[no-any-return]
    return lambda main: asyncio.run(main())


def test_a_loop_part_may_call_threads_of_anyio(
    run: Callable[[Any], Any], one: ThreadPoolExecutor
) -> None:
    """With a limiter, and back by ``from_thread``; the worker of the block is the same after it."""

    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        async with threadpool(one):
            for _ in range(2):
                async with eventloop():
                    name = await anyio.to_thread.run_sync(place, limiter=limiter)
                    assert name.startswith("AnyIO")
                    back = await anyio.to_thread.run_sync(anyio.from_thread.run_sync, place)
                    assert back == "loop"
                assert place() == "one_0"

    run(main)


def test_a_coroutine_called_by_a_thread_of_anyio_may_have_blocks(
    run: Callable[[Any], Any], one: ThreadPoolExecutor
) -> None:
    async def block() -> str:
        async with threadpool(one):
            return place()

    async def main() -> None:
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, block) == "one_0"

    run(main)


def test_in_a_thread_of_anyio_a_decorated_function_is_a_plain_one(
    run: Callable[[Any], Any],
) -> None:
    """And our other functions do there what they do in any thread of others."""

    @threadpool
    def where() -> str:
        return place()

    def work() -> None:
        name: Any = where()
        assert name.startswith("AnyIO")
        check_cancelled()
        with pytest.raises(RuntimeError, match="works for no event loop"):
            exec_in_eventloop(int)

    async def main() -> None:
        await anyio.to_thread.run_sync(work)

    run(main)


def test_primitives_of_anyio_work_in_loop_parts(
    run: Callable[[Any], Any], executor: Executor
) -> None:
    """Ten tasks take turns with a lock; an event, a condition and a stream pass things on."""
    inside: list[int] = []

    async def main() -> None:
        lock, event, limiter = anyio.Lock(), anyio.Event(), anyio.CapacityLimiter(2)
        send, receive = anyio.create_memory_object_stream(10)

        async def task(number: int) -> None:
            async with threadpool(executor):
                async with eventloop():
                    await event.wait()
                    async with lock, limiter:
                        inside.append(number)
                        await anyio.sleep(0)
                        assert inside.pop() == number
                    await send.send(number)

        async with send, receive, anyio.create_task_group() as group:
            for number in range(2):
                group.start_soon(task, number)
            async with threadpool(executor):
                exec_in_eventloop(event.set)
            with anyio.fail_after(5):
                assert sorted([await receive.receive() for _ in range(2)]) == [0, 1]

    run(main)


def test_the_scope_that_a_called_coroutine_cancels_cancels_that_coroutine(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """As ``from_thread.run`` does: the block waits for the call, and hears of it through it."""

    async def main() -> None:
        async def time_bomb() -> None:
            scope.cancel()
            with anyio.fail_after(1):
                await anyio.sleep(3)

        with anyio.CancelScope() as scope:
            async with threadpool(executor):
                exec_in_eventloop(time_bomb)
        assert scope.cancelled_caught

    current_task_loops.run(main)


def test_a_cancelled_body_ends_before_its_task_and_may_tell_the_loop(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    last: list[str] = []
    gate = Gate()

    async def main() -> None:
        finished = anyio.Event()

        async def task() -> None:
            try:
                async with threadpool(executor):
                    try:
                        gate.stop_here()
                        check_cancelled()
                    finally:
                        last.append("thread")
                        exec_in_eventloop(finished.set)
            finally:
                last.append("task")

        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await until(gate.reached.is_set)
            group.cancel_scope.cancel()
            gate.open()
        assert finished.is_set()

    current_task_loops.run(main)
    assert last == ["thread", "task"]


def test_a_call_is_abandoned_with_its_scope_and_hears_of_it(
    current_task_loops: LoopKind, executor: Executor
) -> None:
    """``exec_in_executor`` is anyio's ``abandon_on_cancel``."""
    gate, heard = Gate(), threading.Event()

    def work() -> None:
        gate.stop_here()
        try:
            check_cancelled()
        except asyncio.CancelledError:
            heard.set()

    async def main() -> None:
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.01, scope.cancel)
            await exec_in_executor(executor, work)
        assert scope.cancelled_caught
        gate.open()
        await until(heard.is_set)

    current_task_loops.run(main)


def test_all_tasks_are_blocked_while_a_body_of_a_scope_runs(executor: Executor) -> None:
    gate = Gate()

    async def task() -> None:
        async with threadpool(executor):
            gate.stop_here()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(task)
            await until(gate.reached.is_set)
            await anyio.wait_all_tasks_blocked()
            gate.open()

    asyncio.run(main())


def test_a_task_that_is_started_says_so_in_a_loop_part(
    current_task_loops: LoopKind, one: ThreadPoolExecutor
) -> None:
    """``task_status.started()`` moves the task into another scope, in the middle of its block."""

    async def serves(*, task_status: Any) -> None:
        async with threadpool(one):
            async with eventloop():
                task_status.started("value")
            for _ in range(3):
                check_cancelled()
                async with eventloop():
                    await anyio.sleep(0.01)
            async with eventloop():
                await anyio.sleep(60)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            assert await group.start(serves) == "value"
            group.cancel_scope.cancel()
        async with threadpool(one):
            pass

    current_task_loops.run(main)


def test_a_blocking_portal_has_blocks(one: ThreadPoolExecutor) -> None:
    async def block() -> str:
        with anyio.move_on_after(60):
            async with threadpool(one):
                return place()

    with anyio.from_thread.start_blocking_portal() as portal:
        assert portal.call(block) == "one_0"
        futures = [portal.start_task_soon(block) for _ in range(5)]
        assert [future.result(8) for future in futures] == ["one_0"] * 5


def test_fixtures_and_tests_of_anyios_plugin_have_blocks(tmp_path: Path) -> None:
    """A fixture that yields does so in a loop part."""
    (tmp_path / "test_it.py").write_text(
        textwrap.dedent(
            """
            import threading, anyio, pytest
            from threadhop import eventloop, threadpool

            pytestmark = pytest.mark.anyio
            ends = []

            @pytest.fixture
            def anyio_backend():
                return "asyncio"

            @pytest.fixture
            async def resource():
                async with threadpool():
                    thread = threading.get_ident()
                    async with eventloop():
                        yield thread
                    assert threading.get_ident() == thread

            @pytest.fixture
            async def after_the_block():
                async with threadpool():
                    thread = threading.get_ident()
                yield thread

            async def test_blocks(resource, after_the_block):
                assert threading.get_ident() not in (resource, after_the_block)
                with anyio.move_on_after(0.01) as scope:
                    async with threadpool():
                        thread = threading.get_ident()
                        async with eventloop():
                            await anyio.sleep(60)
                assert scope.cancelled_caught
                assert thread != threading.get_ident()
            """
        )
    )
    child = run_in_child(
        f"""
        import pytest, sys
        others = ["-p", "no:cacheprovider", "-p", "no:asyncio"]
        sys.exit(pytest.main([*others, "-W", "error", {str(tmp_path)!r}]))
        """
    )
    assert child.returncode == 0, child.stdout
    assert "1 passed" in child.stdout
