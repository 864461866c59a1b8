"""anyio's own things around ours, on asyncio: its threads, its groups, its plugin of pytest."""

from __future__ import annotations

import asyncio
import textwrap
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.loops import on_one_loop
from helpers.places import place
from helpers.scopes import caught, in_tasks
from helpers.steps import Gate, until

from threadhop import check_cancelled, eventloop, exec_in_eventloop, threadpool

anyio: Any = pytest.importorskip("anyio", reason="needs anyio, which is not installed")
pytest.importorskip("anyio.from_thread")
pytest.importorskip("anyio.to_thread")


@pytest.mark.parametrize("run", ["asyncio.run", "anyio.run"])
def test_blocks_call_threads_of_anyio_and_these_call_blocks(
    run: str, one: ThreadPoolExecutor
) -> None:
    """Each ends its own threads: with a limiter, and back by ``from_thread``."""

    async def block() -> str:
        async with threadpool(one):
            return place()

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
        assert await anyio.to_thread.run_sync(anyio.from_thread.run, block) == "one_0"

    if run == "anyio.run":
        anyio.run(main)
    else:
        asyncio.run(main())


@in_tasks
async def test_the_scope_that_a_called_coroutine_cancels_cancels_that_coroutine(
    executor: Executor,
) -> None:
    """As ``from_thread.run`` does: the block waits for the call, and hears of it through it."""

    async def time_bomb() -> None:
        scope.cancel()
        with anyio.fail_after(1):
            await anyio.sleep(3)

    with caught() as scope:
        async with threadpool(executor):
            exec_in_eventloop(time_bomb)


@on_one_loop
async def test_all_tasks_are_blocked_while_a_body_of_a_scope_runs(executor: Executor) -> None:
    gate = Gate()

    async def task() -> None:
        async with threadpool(executor):
            gate.stop_here()

    async with anyio.create_task_group() as group:
        group.start_soon(task)
        await until(gate.reached.is_set)
        await anyio.wait_all_tasks_blocked()
        gate.open()


@in_tasks
async def test_a_task_that_is_started_says_so_in_a_loop_part(one: ThreadPoolExecutor) -> None:
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

    async with anyio.create_task_group() as group:
        assert await group.start(serves) == "value"
        group.cancel_scope.cancel()
    async with threadpool(one):
        pass


def test_a_blocking_portal_has_blocks(one: ThreadPoolExecutor) -> None:
    async def block() -> str:
        with anyio.move_on_after(60):
            async with threadpool(one):
                return place()

    with anyio.from_thread.start_blocking_portal() as portal:
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
