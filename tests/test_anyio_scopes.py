"""anyio's cancel scopes on asyncio: a task in a block hears of a cancelled scope once.

anyio cancels by level, on each turn of the loop: a body that cannot answer must not make it spin.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, nullcontext, suppress
from typing import Any

import pytest
from helpers.child import STEPS, run_in_child
from helpers.loops import on_one_loop
from helpers.places import OopsError, in_block_of, place
from helpers.rows import Rows, close, take
from helpers.scopes import cancelling, caught, in_tasks
from helpers.steps import LIMIT, Gate, HeldExecutor, busy, turns, until, wait_until

from threadhop import (
    AsyncExecutor,
    cancellation_guard,
    check_cancelled,
    eventloop,
    exec_in_eventloop,
    threadpool,
    unwrap_future,
)

anyio: Any = pytest.importorskip("anyio", reason="needs anyio, which is not installed")
backend: Any = pytest.importorskip("anyio._backends._asyncio")

MESSAGE = "Cancelled via cancel scope "


@pytest.fixture(autouse=True)
def nothing_is_left_in_scopes() -> Iterator[None]:
    """What a test has opened is closed, and belongs to no task any more."""
    yield
    for task, state in list(backend._task_states.items()):
        assert state.cancel_scope is None, f"{task} is still in a scope"


def beside(coro: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(coro)


def cancel_at(gate: Gate, cancel: Callable[[], object]) -> asyncio.Task[int]:
    """Cancel when a body has come to *gate*; how often this task was then, after many turns."""
    task = asyncio.current_task()
    assert task is not None

    async def cancels() -> int:
        await until(gate.reached.is_set)
        cancel()
        await turns(50)
        count = task.cancelling()
        gate.open()
        return count

    return beside(cancels())


def wait_until_cancelled() -> None:
    """In a body."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        check_cancelled()
        time.sleep(0.001)
    raise AssertionError("it never came")


# --- once, and at no cost


@in_tasks
async def test_a_scope_that_is_cancelled_while_the_body_runs_cancels_once(
    executor: Executor,
) -> None:
    """The body comes to its end; the CancelledError is raised at the exit, with anyio's words."""
    places: list[str] = []
    gate = Gate()
    with caught() as scope:
        controller = cancel_at(gate, lambda: scope.cancel("enough"))
        with pytest.raises(asyncio.CancelledError, match=f"^{MESSAGE}.*enough$"):
            async with threadpool(executor):
                gate.stop_here()
                places.append(place())
        places.append(place())
        await anyio.sleep(5)
    assert await controller == 1
    assert places[0].startswith("worker")
    assert places[1:] == ["loop"]
    await in_block_of(executor)


def closes_at(gate: Gate) -> Iterator[int]:
    try:
        yield 1
    finally:
        gate.stop_here()


@pytest.mark.parametrize("how", ["run", "map", "unwrap_future", "iterate", "aclose"])
@on_one_loop
async def test_a_call_that_is_waited_for_to_its_end_is_cancelled_once(
    executor: Executor, how: str
) -> None:
    gate, calls = Gate(), AsyncExecutor(executor)
    with caught() as scope:
        controller = cancel_at(gate, scope.cancel)
        if how == "run":
            await calls.run(gate.stop_here)
        elif how == "map":
            async with aclosing(calls.map(lambda _: gate.stop_here(), [1])) as results:
                async for _ in results:
                    pass
        elif how == "iterate":
            async for _ in calls.iterate(lambda: iter(gate.stop_here, None)):
                pass
        elif how == "aclose":
            async with calls.iterate(closes_at, gate) as items:
                await anext(items)
        else:
            await unwrap_future(executor.submit(gate.stop_here))
    assert await controller == 1


# --- when


@pytest.mark.parametrize("is_nested", [False, True])
@in_tasks
async def test_a_queued_block_is_cancelled_at_once_where_it_comes_from(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor, is_nested: bool
) -> None:
    async def wait() -> None:
        before = place()
        with pytest.raises(asyncio.CancelledError):
            async with threadpool(one):
                raise AssertionError("the body ran")
        assert place() == before

    loop = asyncio.get_running_loop()
    with busy(one), caught() as scope:
        async with threadpool(other) if is_nested else nullcontext():
            loop.call_soon_threadsafe(loop.call_later, 0.001, scope.cancel)
            await wait()
        await anyio.sleep(5)
    await in_block_of(one, other)


@in_tasks
async def test_in_a_scope_that_is_cancelled_already_no_body_runs(executor: Executor) -> None:
    """By level: also the second time, for whoever swallows the first."""
    bodies: list[str] = []
    with anyio.move_on_after(0) as scope:
        for _ in range(3):
            with pytest.raises(asyncio.CancelledError, match=MESSAGE):
                async with threadpool(executor):
                    bodies.append("a body")  # An error would be a context of the cancellation.
    assert scope.cancel_called
    assert not bodies


def test_no_body_runs_even_if_a_wakeup_of_others_is_due_before_anyio_cancels(
    executor: Executor,
) -> None:
    """The departure waits for a whole turn of the loop, wherever in a turn it begins."""
    bodies: list[str] = []

    async def main() -> None:
        others = [beside(in_block_of(executor)) for _ in range(20)]
        await asyncio.sleep(0)
        with caught() as scope:
            scope.cancel()
            async with threadpool(executor):
                bodies.append("a body")
        await asyncio.gather(*others)

    for _ in range(20):
        asyncio.run(main())
    assert not bodies


@on_one_loop
async def test_a_departure_that_anyio_does_not_cancel_goes_on_its_way(executor: Executor) -> None:
    """A child of a cancelled group that was started within a shield: anyio forgets it, too."""
    bodies: list[str] = []

    async def child() -> None:
        async with threadpool(executor):
            bodies.append(place())

    async with anyio.create_task_group() as group:
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await turns(3)
            group.start_soon(child)
            await until(lambda: bodies)
    assert bodies[0].startswith("worker")


@pytest.mark.parametrize("turns_later", [0, 1, 2])
@in_tasks
async def test_a_scope_that_is_cancelled_while_the_task_comes_home(
    executor: Executor, turns_later: int
) -> None:
    """Raised at the exit or, if it comes later, at the next await; never lost, never twice."""
    loop = asyncio.get_running_loop()
    for _ in range(10):
        with caught() as scope:

            def later(left: int, cancel: Callable[[], None] = scope.cancel) -> None:
                if left:
                    loop.call_soon(later, left - 1)
                else:
                    cancel()

            async with threadpool(executor):
                loop.call_soon_threadsafe(later, turns_later)
            await anyio.sleep(5)
    await anyio.sleep(0)


# --- what else there is


@pytest.mark.parametrize("ends", ["cancelled", "swallowed"])
@in_tasks
async def test_a_loop_part_is_cancelled_by_level_and_so_is_the_rest_of_the_body(
    one: ThreadPoolExecutor, ends: str
) -> None:
    """The worker runs the rest, as it would for any other cancellation."""
    trail: list[tuple[str, str]] = []
    with caught() as scope:
        async with threadpool(one):
            try:
                async with eventloop():
                    asyncio.get_running_loop().call_later(0.001, scope.cancel)
                    for _ in range(3):
                        try:
                            await anyio.sleep(5)
                        except asyncio.CancelledError:
                            trail.append(("await", place()))
                    if ends == "cancelled":
                        await anyio.sleep(5)
                wait_until_cancelled()
            finally:
                trail.append(("finally", place()))
    assert trail == [*[("await", "loop")] * 3, ("finally", "one_0")]


@in_tasks
async def test_scopes_open_and_close_in_loop_parts(one: ThreadPoolExecutor) -> None:
    async with threadpool(one):
        for _ in range(3):
            async with eventloop():
                with caught(0.001):
                    await anyio.sleep(5)
                async with anyio.create_task_group() as group:
                    group.start_soon(in_block_of, one)
                    group.cancel_scope.cancel()
            assert place() == "one_0"


@in_tasks
async def test_a_scope_may_stay_open_from_one_loop_part_to_the_next(
    one: ThreadPoolExecutor,
) -> None:
    """It lies between the scopes of two departures; the first one is closed when it opens."""
    scope = anyio.CancelScope()
    async with threadpool(one):
        async with eventloop():
            scope.__enter__()
        check_cancelled()
        async with eventloop():
            scope.cancel()
            with suppress(asyncio.CancelledError):
                await anyio.sleep(5)
            scope.__exit__(None, None, None)
            await anyio.sleep(0)
        check_cancelled()


@in_tasks
async def test_no_body_on_a_waiting_worker_begins_in_a_cancelled_scope(
    one: ThreadPoolExecutor,
) -> None:
    """A block within a loop part, of the worker that waits for that: nothing is queued then."""
    bodies: list[str] = []
    async with threadpool(one):
        async with eventloop():
            with caught() as scope:
                scope.cancel()
                async with threadpool(one):
                    bodies.append("a body")
        bodies.append(place())
    assert bodies == ["one_0"]


@in_tasks
async def test_exec_in_eventloop_is_cancelled_with_the_scope(executor: Executor) -> None:
    with caught(0.01):
        async with threadpool(executor):
            with pytest.raises(asyncio.CancelledError, match=MESSAGE):
                exec_in_eventloop(anyio.sleep, 5)


@in_tasks
async def test_fail_after_raises_timeout_error_after_the_body(executor: Executor) -> None:
    ended: list[str] = []
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        with anyio.fail_after(60) as scope:
            async with threadpool(executor):
                loop.call_soon_threadsafe(setattr, scope, "deadline", 0)
                with pytest.raises(asyncio.CancelledError):
                    wait_until_cancelled()
                ended.append("body")
    assert ended


@in_tasks
async def test_only_the_scope_that_is_cancelled_ends(executor: Executor) -> None:
    with anyio.move_on_after(60) as outer:
        with caught(0.01) as inner:
            with anyio.move_on_after(60):
                async with threadpool(executor):
                    wait_until(lambda: inner.cancel_called)
        await in_block_of(executor)
        await anyio.sleep(0)
    assert not outer.cancel_called


@in_tasks
async def test_a_shielded_scope_protects_its_block_and_no_other(executor: Executor) -> None:
    trail: list[str] = []
    with caught() as scope:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            async with threadpool(executor):
                check_cancelled()
                trail.append("shielded")
        async with threadpool(executor):
            trail.append("not shielded")
    assert trail == ["shielded"]


@in_tasks
async def test_a_group_cancels_itself_and_its_children_in_their_blocks(
    executor: Executor, other: ThreadPoolExecutor
) -> None:
    """A child of the group, one that is queued, and the task that has opened it."""
    ends: list[str] = []
    gates = [Gate(), Gate()]

    async def child(name: str, gate: Gate) -> None:
        try:
            async with threadpool(executor):
                gate.stop_here()
        except asyncio.CancelledError as error:
            assert error.args[0].startswith(MESSAGE)
            ends.append(name)
            raise

    async def fails() -> None:
        await until(lambda: all(gate.reached.is_set() for gate in gates))
        asyncio.get_running_loop().call_later(0.02, lambda: [gate.open() for gate in gates])
        raise OopsError

    with pytest.raises(BaseExceptionGroup) as raised:
        async with anyio.create_task_group() as group:
            group.start_soon(fails)
            group.start_soon(child, "child", gates[1])
            await until(gates[1].reached.is_set)
            await child("host", gates[0])
    assert [type(error) for error in raised.value.exceptions] == [OopsError]
    assert sorted(ends) == ["child", "host"]
    await in_block_of(executor)


@pytest.mark.parametrize("first", ["native", "scope", "native alone"])
@in_tasks
async def test_a_cancel_of_the_task_itself_is_not_taken_for_one_of_the_scope(
    executor: Executor, first: str
) -> None:
    """Whichever comes first, the task ends cancelled, and a scope that is noted first shields."""
    gate, scopes = Gate(), []

    async def victim() -> None:
        with anyio.CancelScope() as scope:
            scopes.append(scope)
            async with threadpool(executor):
                gate.stop_here()

    task = beside(victim())
    await until(gate.reached.is_set)
    if first == "scope":
        scopes[0].cancel()
        await turns(10)
    task.cancel("native")
    await turns(10)
    if first == "native":
        scopes[0].cancel()
        await turns(10)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not scopes[0].cancelled_caught


@in_tasks
async def test_timeouts_of_both_libraries_nest(executor: Executor) -> None:
    with anyio.move_on_after(60) as scope:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01) as limit:
                async with threadpool(executor):
                    wait_until(limit.expired)
        assert cancelling() == 0
    assert not scope.cancel_called
    async with asyncio.timeout(60):
        with caught(0.01) as scope:
            async with threadpool(executor):
                wait_until(lambda: scope.cancel_called)


@in_tasks
async def test_a_guard_within_the_scope_brings_it_back_and_one_around_it_is_quiet(
    executor: Executor,
) -> None:
    async with cancellation_guard():
        with caught(0.01) as scope:
            async with cancellation_guard():
                with suppress(BaseException):
                    async with threadpool(executor):
                        wait_until(lambda: scope.cancel_called)
            raise AssertionError("the guard is quiet")
        with caught(0.01) as scope:
            async with threadpool(executor):
                wait_until(lambda: scope.cancel_called)


@on_one_loop
async def test_a_task_outside_of_scopes_opens_none(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with anyio.CancelScope():
        pass
    opened: list[int] = []
    monkeypatch.setattr(anyio, "CancelScope", lambda: opened.append(1))
    async with threadpool(executor), eventloop():
        pass
    assert not opened


def test_it_holds_in_a_task_that_had_a_block_before_anyio_was_used() -> None:
    """What is loaded later is seen, too: here in the task that has loaded it."""
    child = run_in_child(
        """
        import asyncio, threading
        from threadhop import threadpool
        import anyio

        async def main():
            async with threadpool():
                pass
            assert "anyio._backends._asyncio" not in __import__("sys").modules
            loop = asyncio.get_running_loop()
            with anyio.CancelScope() as scope:
                async with threadpool():
                    told = threading.Event()
                    loop.call_soon_threadsafe(scope.cancel)
                    loop.call_soon_threadsafe(loop.call_later, 0.05, told.set)
                    told.wait(8)
                    print(task.cancelling())

        async def run():
            global task
            task = asyncio.create_task(main())
            await task

        asyncio.run(run())
        """
    )
    assert (child.stdout, child.stderr) == ("1\n", "")


# --- who closes the scope


@pytest.mark.parametrize("cancels", [False, True])
@in_tasks
async def test_a_task_that_closes_the_generator_of_another_closes_no_scope_of_it(
    one: ThreadPoolExecutor, cancels: bool
) -> None:
    """Both are within scopes; the one that closes goes through the worker and comes home."""
    rows = Rows(one)
    generator = rows()

    async def closes() -> None:
        with anyio.CancelScope() as scope:
            if cancels:
                scope.cancel()
            await close(generator)
            await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught == cancels
        assert cancelling() == 0

    with anyio.CancelScope() as mine:
        await take(generator)
        async with anyio.create_task_group() as group:
            group.start_soon(closes)
        await in_block_of(one)
    assert not mine.cancel_called
    rows.assert_closed_on_its_worker()


@in_tasks
async def test_the_task_that_closes_waits_for_an_owner_in_a_block(
    one: ThreadPoolExecutor, other: ThreadPoolExecutor
) -> None:
    """Owner and leaver are away in scopes at once, and both are cancelled, once."""
    gate, rows = Gate(), Rows(one)
    generator = rows()
    with caught() as scope:
        async with anyio.create_task_group() as group:
            await take(generator)
            controller = cancel_at(gate, scope.cancel)
            group.start_soon(close, generator)
            async with threadpool(other):
                gate.stop_here()
    assert await controller == 1
    rows.assert_closed_on_its_worker()


@in_tasks
async def test_a_task_that_ends_in_a_block_leaves_no_scope_of_ours(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    """(A child of an anyio group cannot end there: anyio closes a scope of its own at the end.)"""
    scope = anyio.CancelScope()

    async def ends() -> str:
        scope.__enter__()
        await threadpool(executor).__aenter__()
        return "value"

    task = beside(ends())
    assert await task == "value"
    assert not scope._child_scopes
    assert backend._task_states[task].cancel_scope is scope
    del backend._task_states[task]
    assert "ended inside the block" in caplog.text


@on_one_loop
async def test_a_driver_that_is_no_task_is_refused_in_a_scope_too(executor: Executor) -> None:
    """And one in the name of a task other than the one that runs opens no scope."""

    async def block() -> str:
        with pytest.raises(RuntimeError, match="cannot move this task"):
            async with threadpool(executor):
                raise AssertionError("the body ran")
        return "went on"

    with anyio.CancelScope() as scope:
        coro = block()
        suspension: Any = coro.send(None)
        suspension._asyncio_future_blocking = False
        resumed = asyncio.Event()
        suspension.add_done_callback(lambda _: resumed.set())
        await asyncio.wait_for(resumed.wait(), LIMIT)
        with pytest.raises(StopIteration, match="went on"):
            coro.send(None)
        assert backend._task_states[asyncio.current_task()].cancel_scope is scope


@in_tasks
async def test_what_does_not_leave_opens_no_scope(executor: Executor) -> None:
    """An awaitable of a block that nobody awaits, and a block that its executor refuses."""

    def refuse() -> None:
        raise OopsError

    with anyio.CancelScope() as scope:
        threadpool(executor).__aenter__().close()
        assert backend._task_states[asyncio.current_task()].cancel_scope is scope
        with pytest.raises(OopsError):
            async with threadpool(HeldExecutor(refuse)):
                pass
        assert backend._task_states[asyncio.current_task()].cancel_scope is scope
        await in_block_of(executor)


def test_a_loop_that_is_closed_just_before_anyio_would_cancel_says_so() -> None:
    child = run_in_child(
        STEPS
        + """
import os
import anyio
from threadhop import WorkerPool, threadpool

one = WorkerPool(1)

async def main():
    with anyio.CancelScope() as scope:
        scope.cancel()
        loop.stop()
        async with threadpool(one):
            say("the body ran")

loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
loop.close()
del loop
one.submit(say, "the worker is free").result(8)
async def others():
    async with threadpool(one):
        pass
asyncio.run(others())
os._exit(0)
"""
    )
    assert child.stdout == "the worker is free\n", child.stderr
