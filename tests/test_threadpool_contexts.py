"""``async with threadpool(executor):`` and context variables: what crosses, and how.

``test_context_model.py`` sets, resets and looks in random programs of nested blocks and loop parts.
"""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import ContextVar, Token
from typing import Any

import pytest
from helpers.loops import on_every_loop
from helpers.places import in_block_of, on_loop_thread
from helpers.pools import on_a_stock_pool
from helpers.steps import LIMIT, Gate, turns, until

from threadhop import _variables, eventloop, threadpool

UNSET = object()

pytestmark = on_a_stock_pool


@pytest.fixture
def var() -> ContextVar[object]:
    """A variable without a default, new for each test and unset everywhere."""
    return ContextVar("var")


# --- in and out ---


@pytest.mark.trio
@on_every_loop
async def test_variables_go_in_and_come_out_at_each_border(
    executor: Executor, var: ContextVar[object]
) -> None:
    """Neither side is ever a step behind, whatever worker the block gets."""
    new: ContextVar[object] = ContextVar("new")
    for number in range(3):
        var.set(number)
        async with threadpool(executor):
            assert var.get() == number
            var.set(f"body {number}")
            new.set(number)
        assert (var.get(), new.get()) == (f"body {number}", number)
        assert contextvars.copy_context()[var] == f"body {number}"
        async with threadpool(executor):
            assert (var.get(), new.get()) == (f"body {number}", number)


@pytest.mark.trio
@on_every_loop
async def test_the_variables_of_the_body_are_not_those_of_the_thread(
    one: Executor, var: ContextVar[object]
) -> None:
    """What a plain job has left there stays out of the block, and is not changed by it."""
    second: ContextVar[object] = ContextVar("second")
    one.submit(var.set, "thread").result(LIMIT)
    async with threadpool(one):
        assert var.get(UNSET) is UNSET
        var.set("body")
        second.set("body")
    assert var.get() == "body"
    assert one.submit(var.get).result(LIMIT) == "thread"
    assert one.submit(second.get, UNSET).result(LIMIT) is UNSET


@on_every_loop
async def test_tasks_do_not_see_each_others_variables(
    executor: Executor, var: ContextVar[object]
) -> None:
    """Two bodies of one block object at the same time, and the one who made the tasks."""
    block = threadpool(executor)
    both = threading.Barrier(2)

    async def child(value: str) -> object:
        async with block:
            var.set(value)
            both.wait(LIMIT)
            assert var.get() == value
        return var.get()

    var.set("main")
    assert await asyncio.gather(child("a"), child("b")) == ["a", "b"]
    assert var.get() == "main"


@pytest.mark.trio
@on_every_loop
async def test_values_are_told_apart_by_identity(
    executor: Executor, var: ContextVar[object]
) -> None:
    """``==`` and truth may raise, as with numpy arrays; None is a value like any other."""

    class NeverCompare:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared by ==")

        __hash__ = None  # type: ignore[assignment]

        def __bool__(self) -> bool:
            raise AssertionError("asked for its truth")

    values = [NeverCompare(), NeverCompare(), [], [], None]
    for on_loop in values:
        for in_body in values:
            var.set(on_loop)
            async with threadpool(executor):
                assert var.get(UNSET) is on_loop
                var.set(in_body)
            assert var.get(UNSET) is in_body


@pytest.mark.trio
@on_every_loop
async def test_a_problem_with_the_variables_is_raised_at_the_entry(
    one: Executor,
    var: ContextVar[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The body must not run with half of them. The worker stays usable, and so does the task."""
    raised = MemoryError("no room for the variables")

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise raised

    var.set("loop")
    monkeypatch.setattr(_variables, "copy_all", fail)
    with pytest.raises(MemoryError) as caught:
        async with threadpool(one):
            raise AssertionError("the body has run")
    assert caught.value is raised
    assert on_loop_thread()
    await in_block_of(one)


@pytest.mark.trio
@on_every_loop
async def test_setting_and_unsetting_may_alternate(
    executor: Executor, var: ContextVar[object]
) -> None:
    """The library's own tokens serve more than one round, on both sides."""
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


# --- two tasks with one Context ---


@on_every_loop
async def test_two_bodies_may_run_at_once_for_one_context(executor: Executor) -> None:
    """Nor two loop parts. Neither task is lost, and what each set is there in the end."""
    both, go = threading.Barrier(2), asyncio.Event()
    variables = [ContextVar[int]("first"), ContextVar[int]("second")]

    async def child(number: int) -> int:
        async with threadpool(executor):
            async with eventloop():
                await go.wait()
            both.wait(LIMIT)
            variables[number].set(number)
            both.wait(LIMIT)
            async with eventloop():
                await asyncio.sleep(0)
        return number

    loop = asyncio.get_running_loop()
    shared = contextvars.copy_context()
    tasks = [loop.create_task(child(number), context=shared) for number in range(2)]
    await turns()
    go.set()
    assert await asyncio.gather(*tasks) == [0, 1]
    assert [shared.get(each) for each in variables] == [0, 1]


async def with_a_sharer(
    executor: Executor,
    on_loop: Callable[[], object],
    in_body: Callable[[], object],
    after: Callable[[], Coroutine[Any, Any, object]] | None = None,
) -> contextvars.Context:
    """A task that is inside a block, and another one of the same Context, one after the other.

    1. The first task enters a block.
    2. The second one, on the loop, takes a few steps and calls *on_loop*. (Once "cannot enter
       context": it hung for ever.)
    3. The first one calls *in_body*, leaves, and awaits *after*.

    Returns the Context that they share.
    """
    loop = asyncio.get_running_loop()
    shared = contextvars.copy_context()
    gate = Gate()

    async def first() -> None:
        async with threadpool(executor):
            gate.stop_here()
            in_body()
        if after is not None:
            await after()

    async def second() -> None:
        await until(gate.reached.is_set)
        on_loop()
        gate.open()

    tasks = [loop.create_task(each(), context=shared) for each in (first, second)]
    await asyncio.gather(*tasks)
    return shared


@pytest.mark.parametrize(
    ("body_sets", "kept"),
    [
        ((), {"var": "sharer"}),
        (("var",), {"var": "body"}),  # the exit of the block comes last
        (("second",), {"var": "sharer", "second": "body"}),
    ],
    ids=["nothing", "the-same", "another"],
)
@pytest.mark.parametrize("before", [UNSET, "before"], ids=["unset", "set"])
@on_every_loop
async def test_the_body_writes_over_only_what_it_has_set(
    executor: Executor,
    before: object,
    body_sets: tuple[str, ...],
    kept: dict[str, str],
) -> None:
    """What a task that shares the Context sets meanwhile is kept, also if it was unset before."""
    variables = {name: ContextVar[object](name) for name in ("var", "second")}

    def in_body() -> None:
        assert variables["var"].get(UNSET) is before
        for name in body_sets:
            variables[name].set("body")

    if before is not UNSET:
        variables["var"].set(before)
    shared = await with_a_sharer(executor, lambda: variables["var"].set("sharer"), in_body)
    found = {name: shared[each] for name, each in variables.items() if each in shared}
    assert found == kept


@on_every_loop
async def test_a_variable_that_a_sharing_task_unsets_is_unset_in_the_next_body(
    executor: Executor, var: ContextVar[object]
) -> None:
    """The body had set it, too, and only its own Token could unset it on the worker."""
    tokens: list[Token[object]] = []
    second: ContextVar[object] = ContextVar("second")

    async def after() -> None:
        var.reset(tokens.pop())
        assert var.get(UNSET) is UNSET
        async with threadpool(executor):
            assert var.get(UNSET) is UNSET
            assert second.get() == "before"

    second.set("before")
    await with_a_sharer(
        executor, lambda: tokens.append(var.set("sharer")), lambda: var.set("body"), after
    )


# --- a library that keeps its state in a variable ---


@pytest.mark.trio
@on_every_loop
async def test_the_decimal_context_is_that_of_the_task(executor: Executor) -> None:
    third = decimal.Decimal(1) / 3
    with decimal.localcontext(prec=5):
        async with threadpool(executor):
            assert str(third + 0) == "0.33333"
            with decimal.localcontext(prec=3):
                assert str(third + 0) == "0.333"
            assert decimal.getcontext().prec == 5
            decimal.setcontext(decimal.Context(prec=7))
        assert str(third + 0) == "0.3333333"
