"""``async with threadpool(executor):`` and context variables: what crosses, and how."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import decimal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import ContextVar

import pytest
from helpers.loops import LoopKind

from threadhop import threadpool

UNSET = object()

#: In seconds: nothing takes this long, unless it hangs.
LIMIT = 5.0


@pytest.fixture
def var() -> ContextVar[object]:
    """A variable without a default, new for each test and unset everywhere."""
    return ContextVar("var")


@pytest.fixture
def one_thread(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    with executor_class(max_workers=1, thread_name_prefix="single") as pool:
        yield pool


@pytest.fixture
def other(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    with executor_class(max_workers=1, thread_name_prefix="other") as pool:
        yield pool


class NeverCompare:
    """As a numpy array does, more or less: comparing it by ``==``, or for truth, is an error."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared by ==")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise AssertionError("asked for its truth")


# --- in and out ---


def test_the_body_sees_the_variables_of_the_task(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """What was set on the loop holds in the body."""

    async def main() -> None:
        var.set("loop")
        async with threadpool(executor):
            assert var.get() == "loop"

    loops.run(main)


def test_each_block_sees_what_was_set_since_the_last_one(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The body is never a step behind."""

    async def main() -> None:
        for number in range(4):
            var.set(number)
            async with threadpool(executor):
                assert var.get() == number
            assert var.get() == number

    loops.run(main)


def test_what_the_body_sets_holds_after_the_block(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """A new variable, and a new value of one that was set before."""
    second: ContextVar[object] = ContextVar("second")

    async def main() -> None:
        second.set("before")
        async with threadpool(executor):
            var.set("new")
            second.set("changed")
        assert var.get() == "new"
        assert second.get() == "changed"

    loops.run(main)


def test_what_the_body_sets_holds_after_an_error(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """As in any block, an exception undoes nothing."""

    async def main() -> None:
        with contextlib.suppress(ValueError):
            async with threadpool(executor):
                var.set("body")
                raise ValueError
        assert var.get() == "body"

    loops.run(main)


def test_what_one_body_sets_the_next_one_sees(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Whatever worker it gets."""

    async def main() -> None:
        async with threadpool(executor):
            var.set("first")
        async with threadpool(executor):
            assert var.get() == "first"
            var.set("second")
        assert var.get() == "second"

    loops.run(main)


def test_a_coroutine_awaited_in_the_body_shares_its_variables(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """No task of its own, so no Context of its own."""

    async def helper() -> None:
        assert var.get() == "body"
        var.set("helper")

    async def main() -> None:
        async with threadpool(executor):
            var.set("body")
            await helper()
            assert var.get() == "helper"
        assert var.get() == "helper"

    loops.run(main)


def test_the_variables_of_the_body_are_not_those_of_the_thread(
    loops: LoopKind, one_thread: Executor, var: ContextVar[object]
) -> None:
    """A later job on the same thread finds nothing there."""

    async def main() -> None:
        async with threadpool(one_thread):
            var.set("body")
        found = await asyncio.wrap_future(one_thread.submit(var.get, UNSET))
        assert found is UNSET

    loops.run(main)


def test_the_variables_of_the_thread_are_not_those_of_the_body(
    loops: LoopKind, one_thread: Executor, var: ContextVar[object]
) -> None:
    """What a plain job left on the thread stays out of the block, and is not changed by it."""

    async def main() -> None:
        await asyncio.wrap_future(one_thread.submit(var.set, "thread"))
        async with threadpool(one_thread):
            assert var.get(UNSET) is UNSET
            var.set("body")
        assert var.get() == "body"
        assert await asyncio.wrap_future(one_thread.submit(var.get)) == "thread"

    loops.run(main)


def test_tasks_do_not_see_each_others_variables(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Two bodies at the same time, and the one who made the tasks."""
    both = threading.Barrier(2)

    async def child(value: str) -> object:
        async with threadpool(executor):
            var.set(value)
            both.wait(LIMIT)
            assert var.get() == value
        return var.get()

    async def main() -> None:
        var.set("main")
        assert await asyncio.gather(child("a"), child("b")) == ["a", "b"]
        assert var.get() == "main"

    loops.run(main)


def test_a_task_made_after_the_block_inherits_what_the_body_set(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The value is in the task's own Context, where everybody finds it."""

    async def child() -> object:
        async with threadpool(executor):
            return var.get()

    async def main() -> None:
        async with threadpool(executor):
            var.set("body")
        assert contextvars.copy_context()[var] == "body"
        assert await asyncio.create_task(child()) == "body"

    loops.run(main)


# --- nested blocks ---


def test_nested_blocks_see_and_set_the_same_variables(
    loops: LoopKind, one_thread: Executor, other: Executor, var: ContextVar[object]
) -> None:
    """A > B > A > B, each adds something, each sees all of it on its way out too."""
    mine: ContextVar[int] = ContextVar("mine")

    async def main() -> None:
        var.set("loop")
        async with threadpool(one_thread):
            assert var.get() == "loop"
            mine.set(1)
            async with threadpool(other):
                assert (var.get(), mine.get()) == ("loop", 1)
                var.set("B")
                async with threadpool(one_thread):
                    assert var.get() == "B"
                    var.set("A again")
                assert var.get() == "A again"
                mine.set(2)
            assert (var.get(), mine.get()) == ("A again", 2)
        assert (var.get(), mine.get()) == ("A again", 2)

    loops.run(main)


def test_a_token_of_the_outer_body_is_reset_in_a_nested_one(
    loops: LoopKind, one_thread: Executor, other: Executor, var: ContextVar[object]
) -> None:
    """All blocks of a task share one Context, on whatever executor."""

    async def main() -> None:
        async with threadpool(one_thread):
            token = var.set("outer")
            async with threadpool(other):
                var.reset(token)
                assert var.get(UNSET) is UNSET
            assert var.get(UNSET) is UNSET
        assert var.get(UNSET) is UNSET

    loops.run(main)


# --- by identity ---


def test_values_are_never_compared(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Values whose ``==`` or truth raises go in, come out, are replaced and stay."""
    first, second = NeverCompare(), NeverCompare()

    async def main() -> None:
        var.set(first)
        async with threadpool(executor):
            assert var.get() is first
            var.set(second)
        assert var.get() is second
        async with threadpool(executor):
            assert var.get() is second
        assert var.get() is second

    loops.run(main)


def test_an_equal_new_object_is_a_change(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """In both directions: the very object arrives, not one that equals it."""
    objects: list[list[int]] = [[], [], []]

    async def main() -> None:
        var.set(objects[0])
        async with threadpool(executor):
            assert var.get() is objects[0]
            var.set(objects[1])
        assert var.get() is objects[1]
        var.set(objects[2])
        async with threadpool(executor):
            assert var.get() is objects[2]

    loops.run(main)


def test_none_is_a_value(loops: LoopKind, executor: Executor, var: ContextVar[object]) -> None:
    """A variable set to None is set."""

    async def main() -> None:
        async with threadpool(executor):
            var.set(None)
        assert var.get(UNSET) is None
        async with threadpool(executor):
            assert var.get(UNSET) is None

    loops.run(main)


# --- tokens ---


def test_a_token_is_reset_in_the_block_that_took_it(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The value of the loop is back, in the body and after it."""

    async def main() -> None:
        var.set("loop")
        async with threadpool(executor):
            token = var.set("body")
            var.reset(token)
            assert var.get() == "loop"
        assert var.get() == "loop"

    loops.run(main)


def test_a_token_is_reset_in_a_later_block_of_the_task(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """A manager that enters in one block and leaves in another one works."""

    async def main() -> None:
        var.set("loop")
        async with threadpool(executor):
            token = var.set("body")
        assert var.get() == "body"
        await asyncio.sleep(0)
        async with threadpool(executor):
            assert var.get() == "body"
            var.reset(token)
            assert var.get() == "loop"
        assert var.get() == "loop"

    loops.run(main)


def test_a_token_of_the_loop_is_reset_on_the_loop(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Blocks in between do not matter, even if they set the same variable."""

    async def main() -> None:
        var.set("before")
        token = var.set("loop")
        async with threadpool(executor):
            var.set("body")
        assert var.get() == "body"
        var.reset(token)
        assert var.get() == "before"
        async with threadpool(executor):
            assert var.get() == "before"

    loops.run(main)


def test_a_variable_unset_in_the_body_is_unset_after_it(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Set in one block, reset in a later one: as if it had never been set."""

    async def main() -> None:
        async with threadpool(executor):
            token = var.set("body")
        assert var.get() == "body"
        async with threadpool(executor):
            var.reset(token)
        assert var.get(UNSET) is UNSET
        assert var not in contextvars.copy_context()
        async with threadpool(executor):
            assert var.get(UNSET) is UNSET

    loops.run(main)


def test_a_variable_unset_on_the_loop_is_unset_in_the_next_body(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Set on the loop before a block, reset on the loop after it."""

    async def main() -> None:
        token = var.set("loop")
        async with threadpool(executor):
            assert var.get() == "loop"
        var.reset(token)
        async with threadpool(executor):
            assert var.get(UNSET) is UNSET
            assert var not in contextvars.copy_context()
        assert var.get(UNSET) is UNSET

    loops.run(main)


def test_a_variable_unset_on_the_loop_after_the_body_changed_it_is_unset_in_the_next_body(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The reset on the loop is the last word, whatever the body had set."""

    async def main() -> None:
        token = var.set("loop")
        async with threadpool(executor):
            var.set("body")
        var.reset(token)
        async with threadpool(executor):
            assert var.get(UNSET) is UNSET
        assert var.get(UNSET) is UNSET

    loops.run(main)


def test_setting_and_unsetting_may_alternate(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The library's own tokens serve more than one round, on both sides."""

    async def main() -> None:
        for number in range(3):
            async with threadpool(executor):
                token = var.set(number)
            assert var.get() == number
            async with threadpool(executor):
                var.reset(token)
            assert var.get(UNSET) is UNSET
            token = var.set(-number)
            async with threadpool(executor):
                assert var.get() == -number
            var.reset(token)
            async with threadpool(executor):
                assert var.get(UNSET) is UNSET

    loops.run(main)


def test_a_token_of_the_loop_cannot_be_reset_in_the_body(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """It belongs to another Context: ValueError, and nothing is changed."""

    async def main() -> None:
        var.set("before")
        token = var.set("loop")
        async with threadpool(executor):
            with pytest.raises(ValueError, match="different Context"):
                var.reset(token)
            assert var.get() == "loop"
        var.reset(token)
        assert var.get() == "before"

    loops.run(main)


def test_a_token_of_the_body_cannot_be_reset_on_the_loop(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The same the other way round; the next block may still do it."""

    async def main() -> None:
        async with threadpool(executor):
            token = var.set("body")
        with pytest.raises(ValueError, match="different Context"):
            var.reset(token)
        assert var.get() == "body"
        async with threadpool(executor):
            var.reset(token)
        assert var.get(UNSET) is UNSET

    loops.run(main)


def test_a_manager_that_sets_and_resets_on_the_loop_works_around_a_block(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Each side of the border undoes its own."""

    @contextlib.contextmanager
    def setting(value: str) -> Iterator[None]:
        token = var.set(value)
        try:
            yield
        finally:
            var.reset(token)

    async def main() -> None:
        with setting("outer"):
            async with threadpool(executor):
                with setting("inner"):
                    assert var.get() == "inner"
                assert var.get() == "outer"
            assert var.get() == "outer"
        assert var.get(UNSET) is UNSET
        async with threadpool(executor):
            assert var.get(UNSET) is UNSET

    loops.run(main)


def test_a_manager_with_its_yield_inside_the_block_sets_and_resets(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The user's body runs in the block, and sees what the manager set there."""

    @contextlib.asynccontextmanager
    async def setting() -> AsyncIterator[None]:
        async with threadpool(executor):
            token = var.set("manager")
            try:
                yield
            finally:
                var.reset(token)

    async def main() -> None:
        async with setting():
            assert var.get() == "manager"
        assert var.get(UNSET) is UNSET

    loops.run(main)


# --- two tasks with one Context ---


def test_a_task_that_shares_the_context_goes_on_while_the_body_runs(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Both come to their end (once "cannot enter context", and the other one hung for ever)."""
    go_on = threading.Event()

    async def blocking(inside: asyncio.Event) -> str:
        loop = asyncio.get_running_loop()
        async with threadpool(executor):
            loop.call_soon_threadsafe(inside.set)
            assert go_on.wait(LIMIT)
        return "blocking"

    async def stepping(inside: asyncio.Event) -> str:
        await inside.wait()
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()
        return "stepping"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared = contextvars.copy_context()
        inside = asyncio.Event()
        tasks = [
            loop.create_task(blocking(inside), context=shared),
            loop.create_task(stepping(inside), context=shared),
        ]
        assert await asyncio.gather(*tasks) == ["blocking", "stepping"]

    loops.run(main)


def test_two_bodies_may_run_at_once_for_one_context(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Neither is lost, and what each set is there in the end."""
    both = threading.Barrier(2)
    variables = [ContextVar[int]("first"), ContextVar[int]("second")]

    async def child(number: int) -> int:
        async with threadpool(executor):
            both.wait(LIMIT)
            variables[number].set(number)
            both.wait(LIMIT)
        return number

    async def main() -> None:
        loop = asyncio.get_running_loop()
        shared = contextvars.copy_context()
        tasks = [loop.create_task(child(number), context=shared) for number in range(2)]
        assert await asyncio.gather(*tasks) == [0, 1]
        assert [shared.get(each) for each in variables] == [0, 1]

    loops.run(main)


class Sharing:
    """A task that is inside a block, and another one of the same Context, one after the other.

    1. The first task enters a block.
    2. The second one, on the loop, calls *on_loop*.
    3. The first one calls *in_body* and leaves.

    ``run`` returns the Context that they share.
    """

    def __init__(self, executor: Executor, shared: contextvars.Context) -> None:
        self.executor = executor
        self.shared = shared

    async def run(
        self, on_loop: Callable[[], object], in_body: Callable[[], object]
    ) -> contextvars.Context:
        loop = asyncio.get_running_loop()
        inside, go_on = asyncio.Event(), threading.Event()

        async def first() -> None:
            async with threadpool(self.executor):
                loop.call_soon_threadsafe(inside.set)
                assert go_on.wait(LIMIT)
                in_body()

        async def second() -> None:
            await inside.wait()
            on_loop()
            go_on.set()

        await asyncio.gather(
            loop.create_task(first(), context=self.shared),
            loop.create_task(second(), context=self.shared),
        )
        return self.shared


def test_what_a_sharing_task_sets_while_the_body_runs_is_kept(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The body left the variable alone, so it does not write its old value over the new one."""

    async def main() -> None:
        var.set("before")
        sharing = Sharing(executor, contextvars.copy_context())

        def in_body() -> None:
            assert var.get() == "before"

        shared = await sharing.run(lambda: var.set("sharer"), in_body)
        assert shared[var] == "sharer"

    loops.run(main)


def test_a_variable_that_a_sharing_task_sets_first_is_kept(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """One that was unset when the body began is not unset by its end."""

    async def main() -> None:
        sharing = Sharing(executor, contextvars.copy_context())
        shared = await sharing.run(lambda: var.set("sharer"), lambda: None)
        assert shared[var] == "sharer"

    loops.run(main)


def test_what_both_set_is_as_the_body_left_it(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """The exit of the block comes last, so its value holds."""

    async def main() -> None:
        var.set("before")
        sharing = Sharing(executor, contextvars.copy_context())
        shared = await sharing.run(lambda: var.set("sharer"), lambda: var.set("body"))
        assert shared[var] == "body"

    loops.run(main)


def test_different_variables_that_both_set_are_all_kept(
    loops: LoopKind, executor: Executor, var: ContextVar[object]
) -> None:
    """Neither side undoes what the other did elsewhere."""
    second: ContextVar[object] = ContextVar("second")

    async def main() -> None:
        sharing = Sharing(executor, contextvars.copy_context())
        shared = await sharing.run(lambda: var.set("sharer"), lambda: second.set("body"))
        assert (shared[var], shared[second]) == ("sharer", "body")

    loops.run(main)


# --- libraries that keep their state in a variable ---


def test_the_decimal_context_is_that_of_the_task(loops: LoopKind, executor: Executor) -> None:
    """Precision set on the loop holds in the body, and the other way round."""
    third = decimal.Decimal(1) / 3

    async def main() -> None:
        decimal.setcontext(decimal.Context(prec=5))
        async with threadpool(executor):
            assert decimal.getcontext().prec == 5
            assert str(third + 0) == "0.33333"
            decimal.setcontext(decimal.Context(prec=7))
        assert decimal.getcontext().prec == 7
        assert str(third + 0) == "0.3333333"

    loops.run(main)


def test_a_local_decimal_context_in_the_body_ends_there(
    loops: LoopKind, executor: Executor
) -> None:
    """``decimal.localcontext`` around a block, and within one."""

    async def main() -> None:
        with decimal.localcontext(prec=5):
            async with threadpool(executor):
                with decimal.localcontext(prec=3):
                    assert decimal.getcontext().prec == 3
                assert decimal.getcontext().prec == 5
            assert decimal.getcontext().prec == 5

    loops.run(main)
