"""``async with threadpool(executor):`` and context variables: what crosses, and how."""

from __future__ import annotations

import asyncio
import contextlib
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
from helpers.steps import LIMIT, Gate, until

from threadhop import _variables, threadpool

UNSET = object()


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
        async with threadpool(executor):
            assert (var.get(), new.get()) == (f"body {number}", number)


@on_every_loop
async def test_what_the_body_sets_holds_after_an_error_and_in_new_tasks(
    executor: Executor, var: ContextVar[object]
) -> None:
    """As in any block, an exception undoes nothing; the value is in the task's own Context."""

    async def child() -> object:
        async with threadpool(executor):
            return var.get()

    with contextlib.suppress(ValueError):
        async with threadpool(executor):
            var.set("body")
            raise ValueError
    assert var.get() == "body"
    assert contextvars.copy_context()[var] == "body"
    assert await asyncio.create_task(child()) == "body"


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
    """Two bodies at the same time, and the one who made the tasks."""
    both = threading.Barrier(2)

    async def child(value: str) -> object:
        async with threadpool(executor):
            var.set(value)
            both.wait(LIMIT)
            assert var.get() == value
        return var.get()

    var.set("main")
    assert await asyncio.gather(child("a"), child("b")) == ["a", "b"]
    assert var.get() == "main"


@pytest.mark.trio
@on_every_loop
async def test_nested_blocks_share_variables_and_tokens(
    one: Executor, other: Executor, var: ContextVar[object]
) -> None:
    """All blocks of a task have one Context, on whatever executor."""
    mine: ContextVar[int] = ContextVar("mine")
    var.set("loop")
    async with threadpool(one):
        assert var.get() == "loop"
        token = mine.set(1)
        async with threadpool(other):
            assert (var.get(), mine.get()) == ("loop", 1)
            var.set("B")
            async with threadpool(one):
                assert var.get() == "B"
                var.set("A again")
            assert var.get() == "A again"
            mine.reset(token)
        assert (var.get(), mine.get(UNSET)) == ("A again", UNSET)
    assert (var.get(), mine.get(UNSET)) == ("A again", UNSET)


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


# --- tokens ---


def set_var(var: ContextVar[object], values: tuple[object, ...]) -> None:
    for value in values:
        var.set(value)


BEFORE = pytest.mark.parametrize("before", [(), ("before",)], ids=["unset", "set"])


@BEFORE
@pytest.mark.parametrize("later", [False, True], ids=["same-block", "later-block"])
@on_every_loop
async def test_a_token_of_a_body_is_reset_in_that_body_or_a_later_one(
    executor: Executor,
    var: ContextVar[object],
    before: tuple[object, ...],
    later: bool,
) -> None:
    """So a manager may enter in one block and leave in another one."""
    as_before = (*before, UNSET)[0]
    set_var(var, before)
    async with threadpool(executor):
        token = var.set("body")
        if not later:
            var.reset(token)
            assert var.get(UNSET) is as_before
    if later:
        assert var.get() == "body"
        await asyncio.sleep(0)
        async with threadpool(executor):
            assert var.get() == "body"
            var.reset(token)
            assert var.get(UNSET) is as_before
    assert var.get(UNSET) is as_before
    assert (var in contextvars.copy_context()) is bool(before)
    async with threadpool(executor):
        assert var.get(UNSET) is as_before


@pytest.mark.trio
@BEFORE
@pytest.mark.parametrize("body_sets", [False, True], ids=["left-alone", "body-sets"])
@on_every_loop
async def test_a_token_of_the_loop_is_reset_on_the_loop(
    executor: Executor,
    var: ContextVar[object],
    before: tuple[object, ...],
    body_sets: bool,
) -> None:
    """The reset is the last word, whatever the body has set."""
    as_before = (*before, UNSET)[0]
    set_var(var, before)
    token = var.set("loop")
    async with threadpool(executor):
        assert var.get() == "loop"
        if body_sets:
            var.set("body")
    assert var.get() == ("body" if body_sets else "loop")
    var.reset(token)
    assert var.get(UNSET) is as_before
    async with threadpool(executor):
        assert var.get(UNSET) is as_before
        assert (var in contextvars.copy_context()) is bool(before)
    assert var.get(UNSET) is as_before


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


@pytest.mark.trio
@on_every_loop
async def test_a_token_does_not_cross_the_border(
    executor: Executor, var: ContextVar[object]
) -> None:
    """ValueError, as between any two Contexts. Nothing changes; its own side still resets it."""

    def cannot_reset(token: Token[object], value: str) -> None:
        with pytest.raises(ValueError, match="different Context"):
            var.reset(token)
        assert var.get() == value

    of_loop = var.set("loop")
    async with threadpool(executor):
        cannot_reset(of_loop, "loop")
        of_body = var.set("body")
    cannot_reset(of_body, "body")
    async with threadpool(executor):
        var.reset(of_body)
    assert var.get() == "loop"
    var.reset(of_loop)
    assert var.get(UNSET) is UNSET


# --- two tasks with one Context ---


@on_every_loop
async def test_two_bodies_may_run_at_once_for_one_context(executor: Executor) -> None:
    """Neither task is lost, and what each set is there in the end."""
    both = threading.Barrier(2)
    variables = [ContextVar[int]("first"), ContextVar[int]("second")]

    async def child(number: int) -> int:
        async with threadpool(executor):
            both.wait(LIMIT)
            variables[number].set(number)
            both.wait(LIMIT)
        return number

    loop = asyncio.get_running_loop()
    shared = contextvars.copy_context()
    tasks = [loop.create_task(child(number), context=shared) for number in range(2)]
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
@BEFORE
@on_every_loop
async def test_the_body_writes_over_only_what_it_has_set(
    executor: Executor,
    before: tuple[object, ...],
    body_sets: tuple[str, ...],
    kept: dict[str, str],
) -> None:
    """What a task that shares the Context sets meanwhile is kept, also if it was unset before."""
    variables = {name: ContextVar[object](name) for name in ("var", "second")}

    def in_body() -> None:
        assert variables["var"].get(UNSET) == (*before, UNSET)[0]
        for name in body_sets:
            variables[name].set("body")

    set_var(variables["var"], before)
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
