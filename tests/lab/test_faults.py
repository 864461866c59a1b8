"""Each fault in each state: the task ends with what happened, and the pool is whole.

``TABLE`` has a cell for each fault and each state: a way to inject it here, the name of the test
that does it elsewhere, or why there is nothing to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.child import run_in_child
from helpers.garbage import collect_until
from helpers.interruptions import Interruption
from helpers.steps import LIMIT
from lab.states import STATES, VALUE, are_whole, bring, on_its_way

import threadhop
from threadhop import WorkerPool, _block_job, _iterator_job, eventloop, threadpool
from threadhop._loops import _eventfd

TESTS = Path(__file__).parents[1]


class StrayError(Exception):
    """Raised from outside."""


# --- what the cells say

#: Injected by a test of this file.
HERE = "here"


def why(reason: str) -> str:
    return f"not: {reason}"


SUBMITTED = why("submit has returned, and its thread is there")
NOTHING_ASKED = why("no worker is asked for here")
HAS_BEGUN = why("the executor has let go of the job")
NO_BODY = why("the worker is not in this task")
EXECUTORS = "test_threadpool_executors.py::"
ITERATE = "test_iterate.py::"
REFUSED = EXECUTORS + "test_an_executor_that_does_not_run_the_job_is_refused_at_entry"
REFUSED_ITERATOR = ITERATE + "test_an_executor_that_does_not_begin_is_an_error_at_the_first_item"
CALLS = "test_calls.py::"


def row(**cells: str) -> dict[str, str]:
    """By state, with spaces; *others* for those that are not named."""
    others = cells.pop("others", None)
    row = dict.fromkeys(STATES, others) if others else {}
    row.update({name.replace("_", " "): cell for name, cell in cells.items()})
    return row


TABLE: dict[str, dict[str, str]] = {
    "submit raises": row(
        others=NOTHING_ASKED,
        queued=SUBMITTED,
        entering=REFUSED,
        loop_part=REFUSED,
        call_queued=CALLS
        + "test_an_executor_that_refuses_says_so_at_the_call_and_does_not_make_it",
        iterator_reading=REFUSED_ITERATOR,
    ),
    "submit drops the job": row(
        others=HAS_BEGUN,
        queued=EXECUTORS + "test_a_block_that_is_dropped_from_the_queue_raises_at_entry",
        entering="races/test_booking.py::"
        "test_the_first_who_ends_a_booking_decides_whether_the_body_runs",
        call_queued=HERE,
        iterator_reading=ITERATE
        + "test_a_job_that_the_executor_drops_is_an_error_and_no_cancellation",
    ),
    "submit runs it inline": row(
        others=NOTHING_ASKED,
        queued=SUBMITTED,
        entering=REFUSED,
        loop_part=REFUSED,
        call_queued=CALLS + "test_an_inline_executor_makes_the_call_in_the_callers_thread",
        iterator_reading=REFUSED_ITERATOR,
    ),
    "submit never runs it": row(
        others=NOTHING_ASKED,
        queued=EXECUTORS + "test_an_executor_that_never_runs_the_job_can_be_given_up",
        entering="hangs/test_hangs.py::test_asyncio_run_ends_with_a_block_that_never_begins",
        loop_part="hangs/test_hangs.py::"
        "test_a_process_ends_while_a_worker_is_parked_for_a_block_that_never_begins",
        call_queued="test_call_cancellation.py::test_a_queued_call_is_taken_out_of_any_executor",
        iterator_reading=ITERATE + "test_cancelled_while_the_job_is_queued_it_never_begins",
    ),
    "a thread cannot start": row(
        others=NOTHING_ASKED,
        queued="races/test_stock_executor.py::"
        "test_a_job_that_a_worker_takes_although_no_thread_could_start_is_done",
        entering="races/test_stock_executor.py::test_no_thread_that_can_start_is_an_error_at_entry",
        loop_part="test_worker_pool.py::"
        "test_the_jobs_that_wait_fail_when_the_last_worker_goes_away_and_no_thread_can_start",
        call_queued="test_worker_pool.py::test_a_job_is_taken_back_when_no_thread_can_start",
        iterator_reading=HERE,
    ),
    "call_soon_threadsafe raises": row(others=HERE),
    "an exception from outside": row(
        queued=NO_BODY,
        entering=why("a line of ours: docs/explanation/limits.md"),
        body=HERE,
        loop_part="test_foreign_code.py::"
        "test_an_exception_that_is_raised_in_a_parked_worker_comes_out_in_its_body",
        coming_back=why("a line of ours: docs/explanation/limits.md"),
        leaving="test_foreign_code.py::"
        "test_an_exception_that_is_raised_in_a_worker_whose_task_has_left_is_logged",
        call_queued="test_foreign_code.py::"
        "test_an_exception_that_is_raised_in_an_idle_worker_costs_no_worker",
        call_running=HERE,
        iterator_reading=HERE,
        iterator_full=HERE,
        iterator_closing=HERE,
    ),
    "MemoryError on the loop thread": row(others=HERE),
    "RecursionError on the loop thread": row(others=HERE),
    "a fork": row(others=HERE),
    "the end of the process": row(others=HERE),
    "the loop is stopped, and run again": row(others=HERE),
    "the loop is closed": row(others=HERE),
    "a cancellation": row(others=HERE),
}


def test_no_cell_is_left_out() -> None:
    for fault, cells in TABLE.items():
        assert set(cells) == set(STATES), fault


def test_a_test_that_the_table_names_exists() -> None:
    for cells in TABLE.values():
        for cell in cells.values():
            if "::" in cell:
                file, _, name = cell.partition("::")
                assert re.search(rf"def {name}\(", (TESTS / file).read_text("utf-8")), cell


def states_of(fault: str) -> list[str]:
    return [state for state, cell in TABLE[fault].items() if cell == HERE]


def each(fault: str) -> Any:
    return pytest.mark.parametrize("state", states_of(fault))


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_block_job, "POLL", 0.02)
    monkeypatch.setattr(_iterator_job, "POLL", 0.02)


@pytest.fixture
def pool(executor_class: type[ThreadPoolExecutor]) -> Any:
    with executor_class(1) as pool:
        yield pool


# --- faults


@each("submit drops the job")
def test_what_the_executor_drops_is_told(pool: ThreadPoolExecutor, state: str) -> None:
    async def main() -> None:
        task = await bring(way, state)
        pool.shutdown(wait=False, cancel_futures=True)
        way.go()
        with pytest.raises(CancelledError):
            await task
        assert not task.cancelled()
        assert not way.workers

    with on_its_way(pool) as way:
        asyncio.run(main())


@each("a thread cannot start")
def test_a_thread_that_cannot_start_is_an_error(
    pool: ThreadPoolExecutor, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot_start(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", cannot_start)
            task = await bring(way, state)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                await task

    with on_its_way(pool) as way:
        asyncio.run(main())
    are_whole(pool)


@each("call_soon_threadsafe raises")
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.usefixtures("expect_loop_errors")
def test_a_loop_that_cannot_be_woken_for_a_moment_loses_nobody(
    pool: ThreadPoolExecutor, state: str, times: int
) -> None:
    """Each call of it in turn raises, once or several times."""
    index = 0
    while asyncio.run(asyncio.wait_for(_with_refusals(pool, state, index, times), LIMIT)):
        are_whole(pool)
        index += 1
    are_whole(pool)


async def _with_refusals(pool: ThreadPoolExecutor, state: str, index: int, times: int) -> bool:
    """Whether there were calls enough."""
    loop, calls, others = asyncio.get_running_loop(), itertools.count(), set()

    def refusing(plain: Callable[..., object]) -> Callable[..., object]:
        def wake(*args: Any, **kwargs: Any) -> object:
            # (The loop itself writes to its own eventfd, which has room.)
            is_worker = threading.current_thread() is not threading.main_thread()
            if is_worker and index <= next(calls) < index + times:
                raise RuntimeError("no memory")
            return plain(*args, **kwargs)

        return wake

    async def other() -> None:
        async with threadpool(idle):
            pass

    async def post_again_and_again() -> None:
        while True:
            others.add(asyncio.ensure_future(other()))
            await asyncio.sleep(0.001)

    with WorkerPool(1) as idle, on_its_way(pool) as way, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_eventfd, "write", refusing(_eventfd.write))
        patch.setattr(loop, "call_soon_threadsafe", refusing(loop.call_soon_threadsafe))
        # The next one that is posted brings them all.
        posting = asyncio.ensure_future(post_again_and_again())
        task = await bring(way, state)
        way.go()
        await asyncio.wait({task}, timeout=LIMIT)
        posting.cancel()
        assert task.exception() is None or "no memory" in str(task.exception())
    # (The calls of the others come and go.)
    return index < 6


@pytest.mark.parametrize("state", ["body", "leaving", "coming back"])
@pytest.mark.usefixtures("expect_loop_errors")
def test_a_loop_that_cannot_be_woken_once_gets_the_task_although_nobody_else_posts(
    pool: ThreadPoolExecutor, state: str
) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as patch:
            task = await bring(way, state)
            plain, refusals = _eventfd.write, [1]

            def wake(number: int, count: int) -> None:
                if refusals:
                    refusals.pop()
                    raise RuntimeError("no memory")
                plain(number, count)

            patch.setattr(_eventfd, "write", wake)
            way.go()
            await asyncio.wait({task}, timeout=LIMIT)
        assert task.done()
        assert task.result() == VALUE

    with on_its_way(pool) as way:
        asyncio.run(main())
    are_whole(pool)


@pytest.mark.skipif(not hasattr(ctypes, "pythonapi"), reason="PyPy has another way to raise there")
@each("an exception from outside")
@pytest.mark.usefixtures("expect_loop_errors")
def test_an_exception_from_outside_is_the_error_of_what_runs_there(
    pool: ThreadPoolExecutor, state: str
) -> None:
    async def main() -> None:
        task = await bring(way, state)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(way.workers[-1]), ctypes.py_object(StrayError)
        )
        way.go()
        await asyncio.wait({task}, timeout=LIMIT)
        if state == "iterator full":  # It was met where nobody asks for an item any more.
            assert task.done()
            assert isinstance(task.exception(), (StrayError, type(None)))
        else:
            with pytest.raises(StrayError):
                task.result()

    # (Full, the worker comes back to its pool just then: now and then with a lock in its hand.)
    for _ in range(20 if state == "iterator full" else 1):
        with on_its_way(pool) as way:
            asyncio.run(main())
        assert way.ends or state == "iterator closing"  # It was met before the finally was over.
        are_whole(pool)
        assert pool.submit(int).result(LIMIT) == 0
    assert not isinstance(pool, WorkerPool) or pool.statistics().away == 0  # Its lock is free.


def _library() -> list[Any]:
    return [
        module
        for name, module in sys.modules.items()
        if name.startswith("threadhop.") and "trio" not in name
    ]


def raise_memory_error() -> None:
    raise MemoryError


def raise_recursion_error() -> None:
    raise RecursionError


@pytest.mark.parametrize(
    "act", [raise_memory_error, raise_recursion_error], ids=["MemoryError", "RecursionError"]
)
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.storm)])
@pytest.mark.parametrize("state", states_of("MemoryError on the loop thread"))
@pytest.mark.usefixtures("expect_loop_errors")
@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # In a __del__.
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="nobody tells of its moments")
def test_an_error_at_any_moment_on_the_loop_thread_loses_nobody(
    pool: ThreadPoolExecutor, state: str, act: Callable[[], object], stride: int
) -> None:
    """The task ends: with its value, with that error, or when it is cancelled."""
    moment, happened = 0, True
    while happened:
        interruption = Interruption(moment, act, *_library(), in_loops=False)

        async def main(interruption: Interruption = interruption) -> None:
            with on_its_way(pool) as way:
                if state.endswith("queued"):
                    way.hold_queue()  # Not by a submit that raises although the job is done.
                with interruption:
                    task = await bring(way, state)
                    way.go()
                    await asyncio.wait({task}, timeout=0.05)
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task}, timeout=LIMIT)
                assert task.done(), interruption.where
                if not task.cancelled():
                    # (What expects a RuntimeError, "no loop here", cannot tell it from that.)
                    kinds = (RuntimeError, MemoryError, type(None))
                    assert isinstance(task.exception(), kinds), interruption.where

        asyncio.run(main())
        are_whole(pool)
        happened = interruption.happened
        moment += stride
    assert moment > 3, "nothing was looked at"


@each("a cancellation")
def test_a_cancellation_in_any_state_comes_when_nothing_runs_any_more(
    pool: ThreadPoolExecutor, state: str
) -> None:
    async def main() -> None:
        task = await bring(way, state)
        task.cancel("stop")
        await asyncio.sleep(0)
        way.go()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("stop",)
        assert bool(way.workers) == bool(way.ends) or state == "entering"

    with on_its_way(pool) as way:
        asyncio.run(asyncio.wait_for(main(), LIMIT))
    are_whole(pool)


@each("the loop is stopped, and run again")
def test_a_loop_that_is_run_again_finds_the_task(pool: ThreadPoolExecutor, state: str) -> None:
    loop = asyncio.new_event_loop()
    with on_its_way(pool) as way:
        task = loop.run_until_complete(bring(way, state))
        way.go()
        assert loop.run_until_complete(asyncio.wait_for(task, LIMIT)) == VALUE
    loop.close()
    are_whole(pool)


@each("the loop is closed")
@pytest.mark.usefixtures("expect_loop_errors")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # As below.
def test_a_loop_that_is_closed_loses_the_task_and_no_worker(
    pool: ThreadPoolExecutor, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.new_event_loop()
    with on_its_way(pool) as way:
        task = loop.run_until_complete(bring(way, state))
        loop.close()
        way.go()
        are_whole(pool)
        del task
        collect_until(lambda: not threadhop.hops())
    # (What waits on the loop is kept by what it waits for.)
    assert not way.workers or way.ends or state in ("entering", "loop part", "coming back")
    are_whole(pool)
    if state in ("entering", "body", "loop part", "coming back", "leaving"):
        assert any(
            record.name == "threadhop" and record.levelno == logging.WARNING
            for record in caplog.records
        )


#: Begins a child that has a task in a state.
CHILD = f"""
import asyncio, os, sys
sys.path[:0] = [{str(TESTS)!r}, {str(Path(threadhop.__file__).parents[1])!r}]
from concurrent.futures import ThreadPoolExecutor
from lab.states import VALUE, Way, are_whole, bring, on_its_way
from threadhop import WorkerPool, _block_job, _iterator_job, eventloop, threadpool
_block_job.POLL = _iterator_job.POLL = 0.02
pool = {{pool}}(1)
way = Way(pool)
"""


def run_child(pool: type[ThreadPoolExecutor], source: str) -> list[str]:
    child = run_in_child(CHILD.format(pool=pool.__name__) + source, 12)
    assert child.returncode == 0, child.stdout + child.stderr
    assert "Exception ignored" not in child.stderr, child.stderr
    return child.stdout.splitlines()


@each("the end of the process")
@pytest.mark.parametrize("ends", ["by its loop", "by itself"])
def test_a_process_ends_in_any_state(
    executor_class: type[ThreadPoolExecutor], state: str, ends: str
) -> None:
    """``asyncio.run`` is left by an exit; or the loop just is not run any more."""
    if ends == "by its loop":
        program = (
            "async def main():\n    await bring(way, STATE)\n    later.start()\n    sys.exit()\n"
        )
        program += "asyncio.run(main())"
    else:
        program = "loop = asyncio.new_event_loop()\n"
        program += "task = loop.run_until_complete(bring(way, STATE))\nlater.start()\n"
    source = "import threading\nlater = threading.Timer(0.05, way.go)\n" + program
    assert run_child(executor_class, source.replace("STATE", repr(state))) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_fork_works_and_so_does_its_parent(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    source = f"""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
async def block(pool):
    async with threadpool(pool):
        pass
    return VALUE
async def main(way, state):
    task = await bring(way, state)
    if (child := os.fork()) == 0:
        try:
            asyncio._set_running_loop(None)
            with WorkerPool(1) as fresh:
                os._exit(0 if asyncio.run(block(fresh)) == VALUE else 1)
        finally:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    print(state, os.waitstatus_to_exitcode(status), end=" ")
    way.go()
    print(await task)
for state in {states_of("a fork")}:
    with {executor_class.__name__}(1) as pool, on_its_way(pool) as way:
        asyncio.run(main(way, state))
        are_whole(pool)
"""
    expected = [f"{state} 0 {VALUE}" for state in states_of("a fork")]
    assert run_child(executor_class, source) == expected


def test_a_task_that_has_ended_in_a_loop_part_frees_its_worker_although_somebody_keeps_it(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def ends() -> None:
        await threadpool(pool).__aenter__()
        await eventloop().__aenter__()

    async def main() -> None:
        task = asyncio.ensure_future(ends())
        await task
        async with asyncio.timeout(LIMIT):
            async with threadpool(pool):
                pass
        assert task.done()
        assert any(__file__ in record.getMessage() for record in caplog.records)

    asyncio.run(main())
    are_whole(pool)
