"""Where a ``cancellation_guard()`` may stand: around and in blocks, nested, on functions."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from helpers.cancelling import block_at, error_of, forever, run_and_cancel_at, stand_at, swallow
from helpers.garbage import assert_no_cyclic_garbage, counts_references
from helpers.loops import LOOPS, LoopKind
from helpers.steps import Gate, turns, until

from threadhop import WorkerPool, cancellation_guard, eventloop, exec_in_eventloop, threadpool

here = threading.get_ident
guard = cancellation_guard()


# --- with blocks, loop parts and exec_in_eventloop

#: Notes a step, which begins with the thread that it must be taken in.
Note = Callable[[str], None]


async def around_a_loop_part(a: Executor, b: Executor, gate: Gate, note: Note) -> None:
    """Without it, what is swallowed within the loop part belongs to that await, and is over."""
    async with threadpool(a):
        async with cancellation_guard():
            async with eventloop():
                await swallow(stand_at(gate))
            note("worker: inside")
        note("not reached")


async def in_a_loop_part(a: Executor, b: Executor, gate: Gate, note: Note) -> None:
    """The cancellation travels through the worker, as any that leaves a loop part."""
    async with threadpool(a):
        with suppress(asyncio.CancelledError):
            async with eventloop():
                try:
                    async with cancellation_guard():
                        await swallow(stand_at(gate))
                except asyncio.CancelledError:
                    note("loop: raised")
                    raise
            note("not reached")
        note("worker: swallowed")


async def around_a_call(a: Executor, b: Executor, gate: Gate, note: Note) -> None:
    async with threadpool(a):
        async with cancellation_guard():
            with suppress(BaseException):
                exec_in_eventloop(stand_at, gate)
            note("worker: swallowed")
        note("not reached")


async def in_a_call(a: Executor, b: Executor, gate: Gate, note: Note) -> None:
    """The task of the block is cancelled, and with it the one that runs the coroutine."""

    @cancellation_guard()
    async def called() -> None:
        await swallow(stand_at(gate))

    async with threadpool(a):
        try:
            exec_in_eventloop(called)
        except asyncio.CancelledError:
            note("worker: raised")
            raise
        note("not reached")


async def around_an_inner_block(a: Executor, b: Executor, gate: Gate, note: Note) -> None:
    """The outer body swallows what the exit of the inner block raised."""
    async with threadpool(a):
        async with cancellation_guard():
            await swallow(block_at(gate, b))
            note("worker: swallowed")
        note("not reached")


#: The steps of each.
SCENES = {
    around_a_loop_part: ["worker: inside"],
    in_a_loop_part: ["loop: raised", "worker: swallowed"],
    around_a_call: ["worker: swallowed"],
    in_a_call: ["worker: raised"],
    around_an_inner_block: ["worker: swallowed"],
}


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_what_is_swallowed_comes_out_of_a_guard(
    loops: LoopKind,
    scene: Callable[[Executor, Executor, Gate, Note], Coroutine[Any, Any, None]],
) -> None:
    """The task ends cancelled, with the message where our own hops have seen it."""
    gate = Gate()
    noted = []
    loop_threads = []

    def note(step: str) -> None:
        thread = "loop" if here() in loop_threads else "worker"
        assert step.startswith(thread)
        noted.append(step)

    async def body(a: Executor, b: Executor) -> None:
        loop_threads.append(here())
        await scene(a, b, gate, note)

    with WorkerPool(1) as a, WorkerPool(1) as b:
        task = run_and_cancel_at(gate, loops, lambda: body(a, b), "stop")
    error = error_of(task)
    assert noted == SCENES[scene]
    if scene not in (around_a_loop_part, in_a_loop_part, in_a_call):
        assert error.args == ("stop",)
        assert error.__context__ is None


# --- one object


def test_one_object_may_be_nested_in_itself(executor: Executor) -> None:
    """Each level is judged by itself: also with different objects, and across a block."""
    gate = Gate()
    steps = []

    async def body() -> None:
        async with guard:
            try:
                async with guard:
                    await swallow(block_at(gate, executor))
            except asyncio.CancelledError as error:
                steps.append(str(error))  # Swallowed between the two.
            async with guard, cancellation_guard():
                steps.append("quiet")
            steps.append("inside")
        steps.append("after")

    assert error_of(run_and_cancel_at(gate, LOOPS[0], body, "stop")).args == ("stop",)
    assert steps == ["stop", "quiet", "inside"]


def test_guards_may_be_left_in_another_order_than_they_were_entered() -> None:
    """As when a generator stands in one, and its consumer comes out of its own."""

    async def numbers() -> AsyncIterator[int]:
        async with cancellation_guard():
            yield 1
            yield 2

    async def main() -> list[int]:
        generator = numbers()
        async with guard:
            first = await anext(generator)
        return [first, *[number async for number in generator]]

    assert asyncio.run(main()) == [1, 2]


# --- as a decorator


def test_a_decorated_function_is_guarded_and_keeps_its_name_its_signature_and_its_kind() -> None:
    """At every call. Frameworks ask whether it is a coroutine function still."""
    gate = Gate()

    @cancellation_guard()
    async def legacy(waiting: Awaitable[Any], /, *, limit: int = 3) -> int:
        """Say so."""
        await swallow(waiting)
        return limit

    async def body() -> None:
        assert await legacy(turns()) == 3
        await legacy(stand_at(gate), limit=4)

    assert run_and_cancel_at(gate, LOOPS[0], body, "stop").cancelled()
    assert inspect.iscoroutinefunction(legacy)
    assert list(inspect.signature(legacy).parameters) == ["waiting", "limit"]
    assert (legacy.__name__, legacy.__doc__) == ("legacy", "Say so.")


def test_methods_partials_and_callable_objects_may_be_decorated() -> None:
    """A guard decorates all that is called like a coroutine function."""

    class Owner:
        name = "owner"

        @cancellation_guard()
        async def method(self, text: str) -> str:
            return self.name + text

        async def __call__(self) -> str:
            return "called"

    async def main() -> None:
        owner = Owner()
        assert await owner.method("!") == "owner!"
        assert await guard(owner.method)("?") == "owner?"
        assert await guard(functools.partial(owner.method, "partial"))() == "ownerpartial"
        assert await guard(owner)() == "called"

    asyncio.run(main())


def a_plain_function() -> None: ...


async def an_async_generator_function() -> AsyncIterator[int]:
    yield 1


def test_what_is_no_coroutine_function_is_refused_by_name() -> None:
    """At once and not at the first call; the message tells what plain functions do instead."""
    of_a_plain_one = functools.partial(a_plain_function)
    for thing in (a_plain_function, an_async_generator_function, of_a_plain_one, Gate, len, None):
        with pytest.raises(TypeError) as caught:
            guard(thing)  # type: ignore[arg-type]
        assert "coroutine functions, and " in str(caught.value)
        assert getattr(thing, "__qualname__", repr(thing)) in str(caught.value)
        assert "check_cancelled()" in str(caught.value)


def test_without_a_loop_the_entry_raises() -> None:
    """And the message says what is missing."""
    with pytest.raises(RuntimeError, match="needs a running event loop"):
        guard.__aenter__().send(None)


# --- the ways in which it ends


def test_closing_a_coroutine_that_stands_in_a_guard_needs_no_task() -> None:
    """As the garbage collector does it, wherever it happens to run: after the loop, here."""

    async def forgotten() -> None:
        async with cancellation_guard():
            await forever()

    async def main() -> Coroutine[Any, Any, None]:
        coroutine = forgotten()
        coroutine.send(None)
        return coroutine

    coroutine = LOOPS[0].run(main)
    coroutine.close()
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


@counts_references
def test_a_guard_that_raises_leaves_no_cyclic_garbage() -> None:
    async def body(gate: Gate, pool: Executor) -> None:
        async with guard:
            try:
                await block_at(gate, pool)
            except asyncio.CancelledError as error:
                raise LookupError from error

    async def scenario(pool: ThreadPoolExecutor, _: ThreadPoolExecutor) -> None:
        gate = Gate()
        task = asyncio.get_running_loop().create_task(body(gate, pool))
        await until(gate.reached.is_set)
        task.cancel()
        gate.open()
        with suppress(asyncio.CancelledError):
            await task

    assert_no_cyclic_garbage(scenario)


# --- with the groups of asyncio


async def fails_later() -> None:
    await asyncio.sleep(0)
    raise LookupError("child")


@pytest.mark.parametrize("stands", ["around", "inside"])
@pytest.mark.parametrize("fails", ["at its end", "in its body"])
def test_a_child_of_a_group_that_fails_is_no_cancellation(stands: str, fails: str) -> None:
    """A group cancels its own body, and uncancels.

    At its end, where the group waits for its children, a TaskGroup of 3.11 and 3.12 leaves
    ``cancelling()`` one too high: a guard around it raises. A guard inside is the cure.
    """
    outer, inner = (
        cancellation_guard() if stands == place else nullcontext() for place in ("around", "inside")
    )

    async def child() -> None:
        async with inner:
            await fails_later()

    async def main() -> None:
        async with outer:
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(child())
                    async with inner:
                        await (forever() if fails == "in its body" else asyncio.sleep(0))
            assert caught.group_contains(LookupError)

    if stands == "around" and fails == "at its end" and sys.version_info < (3, 13):
        with pytest.raises(asyncio.CancelledError, match=r"cancellation_guard\(\)"):
            asyncio.run(main())
    else:
        asyncio.run(main())
