"""``threadpool(executor)``: which executors there are, and what fails before the body begins."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from functools import partial
from typing import Any

import pytest
from helpers.loops import LOOPS, LoopKind, on_every_loop, on_one_loop
from helpers.places import on_loop_thread, on_thread_of
from helpers.steps import HeldExecutor, busy, turns, wait_until

from threadhop import eventloop, exec_in_eventloop, exec_in_executor, threadpool

#: The kinds of loop that show their default executor to others.
SHOWING = [kind for kind in LOOPS if kind.name != "uvloop" and kind.has_current_task]


async def enter(executor: Executor | None) -> None:
    """A block whose body must not run."""
    async with threadpool(executor):
        raise AssertionError("the body has run")


async def assert_refused(
    executor: Executor | None, sound: Executor, error: type[BaseException], text: str | None
) -> BaseException:
    """The entry raises *error*, on the loop thread or within a block, and all goes on after it."""
    # On the loop thread. It does not look like a cancelled task.
    task = asyncio.get_running_loop().create_task(enter(executor))
    await asyncio.wait({task})
    assert not task.cancelled()
    assert isinstance(task.exception(), error)
    with pytest.raises(error, match=text) as caught:
        await enter(executor)
    assert type(caught.value) is not asyncio.CancelledError
    assert on_loop_thread()
    await asyncio.sleep(0)
    # Inside a block of another executor: at the inner entry, on the outer thread.
    async with threadpool(sound):
        outer = threading.current_thread()
        with pytest.raises(error, match=text):
            await enter(executor)
        assert threading.current_thread() is outer
    assert on_loop_thread()
    # Nothing is left of it: neither in the task nor in the loop.
    async with threadpool(sound):
        assert not on_loop_thread()
    await asyncio.sleep(0)
    return caught.value


# --- refused at the call ---


class OwnProcessPool(ProcessPoolExecutor):
    pass


REMOTE: list[type[Executor]] = [ProcessPoolExecutor, OwnProcessPool]
if sys.version_info >= (3, 14):
    from concurrent.futures import InterpreterPoolExecutor

    REMOTE.append(InterpreterPoolExecutor)  # although it is a subclass of ThreadPoolExecutor


def test_what_is_no_executor_of_threads_is_refused_at_the_call() -> None:
    """With what was given, before anything is entered. The usual slip has its own text.

    For a pool outside of this process the text says what to use instead.
    """
    wrong: Any
    for wrong in (3, "pool", [], int, Future):
        with pytest.raises(TypeError, match="Executor") as caught:
            threadpool(wrong)
        assert repr(wrong) in str(caught.value)
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        threadpool(ThreadPoolExecutor)
    kind: Any
    for kind in REMOTE:
        name = "ProcessPoolExecutor" if kind is OwnProcessPool else kind.__name__
        with kind(1) as pool, pytest.raises(TypeError, match=f"{name}.*ThreadPoolExecutor"):
            threadpool(pool)


# --- refused at the entry ---


class Submits(Executor):
    """What becomes of a job is given."""

    def __init__(self, submit: Callable[[Future[Any], Callable[[], Any]], object]) -> None:
        self._submit = submit

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._submit(future, partial(fn, *args, **kwargs))
        return future


def run_here(future: Future[Any], job: Callable[[], Any]) -> None:
    """As stubs in tests do. The body would block the loop."""
    future.set_result(job())


def run_nowhere(future: Future[Any], _: object) -> None:
    future.set_result(None)


def drop(future: Future[Any], _: object) -> None:
    assert future.cancel()
    future.set_running_or_notify_cancel()


def refuse(*_: object) -> None:
    raise ValueError("in submit")


def fail_with(kind: type[Exception], future: Future[Any], _: object) -> None:
    future.set_exception(kind("no machine"))


def pickle_here(_: object, job: Any) -> None:
    """A remote executor in disguise."""
    pickle.dumps(job.func)
    raise AssertionError("the job could be pickled")


def pickle_later(future: Future[Any], job: Any) -> None:
    """The same, with the failure in the future, as process pools do it."""

    def send() -> None:
        try:
            future.set_result(pickle.dumps(job.func))
        except Exception as exc:
            future.set_exception(exc)

    threading.Thread(target=send).start()


REFUSING: dict[str, tuple[Callable[..., object], type[Exception], str]] = {
    "runs it in submit": (run_here, RuntimeError, "in the thread that submitted it"),
    "says it is done": (run_nowhere, RuntimeError, "did not run it"),
    "drops it": (drop, RuntimeError, "dropped"),
    "raises in submit": (refuse, ValueError, "in submit"),
    "fails": (partial(fail_with, LookupError), LookupError, "no machine"),
    "fails as cancelled": (partial(fail_with, CancelledError), CancelledError, "no machine"),
    "pickles in submit": (pickle_here, TypeError, "Submits.*ThreadPoolExecutor"),
    "pickles later": (pickle_later, TypeError, "Submits.*ThreadPoolExecutor"),
}


@on_every_loop
async def test_an_executor_that_does_not_run_the_job_is_refused_at_entry(one: Executor) -> None:
    """With its own error where it has one, else with one that says what it did."""
    for submit, error, text in REFUSING.values():
        await assert_refused(Submits(submit), one, error, text)


@pytest.mark.trio
@on_every_loop
async def test_the_error_of_submit_is_that_very_object() -> None:
    raised = ValueError("in submit")

    def refuse(*_: object) -> None:
        raise raised

    with pytest.raises(ValueError, match="in submit") as caught:
        await enter(Submits(refuse))
    assert caught.value is raised
    assert "refuse" in [entry.name for entry in caught.traceback]


@on_one_loop
async def test_an_executor_that_was_shut_down_or_whose_initializer_fails_raises_at_entry(
    executor_class: type[ThreadPoolExecutor], one: Executor, expect_loop_errors: list[Any]
) -> None:
    """The first time, when a worker finds out, and later, when ``submit`` refuses."""

    def initializer() -> None:
        raise ValueError("in the initializer")

    pool = executor_class(1)
    pool.shutdown()
    with pytest.raises(RuntimeError) as expected:
        pool.submit(int)
    error = await assert_refused(pool, one, RuntimeError, "after shutdown")
    assert str(error) == str(expected.value)
    with executor_class(1, initializer=initializer) as pool:
        await assert_refused(pool, one, BrokenExecutor, None)


@on_one_loop
async def test_a_block_that_is_dropped_from_the_queue_raises_at_entry(
    executor_class: type[ThreadPoolExecutor],
) -> None:
    """``shutdown(cancel_futures=True)``: an error, and not one that looks like a cancellation."""
    with executor_class(1) as pool, busy(pool):
        queued = [asyncio.get_running_loop().create_task(enter(pool)) for _ in range(5)]
        call = exec_in_executor(pool, int)
        await turns()
        pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.wait({*queued, call})
        for task in queued:
            assert not task.cancelled()
            with pytest.raises(RuntimeError, match="cancel_futures"):
                await task
        assert "dropped the job" in str(call.exception())


@on_every_loop
async def test_an_executor_that_never_runs_the_job_can_be_given_up() -> None:
    """Nobody can know that it never will; a cancel ends the wait, and the body never runs."""
    task = asyncio.get_running_loop().create_task(enter(HeldExecutor()))
    await turns()
    assert not task.done()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


# --- odd ones that work ---


class ReturnsNone(Executor):
    """Runs the job in a thread of its own, and keeps its future for itself.

    Has a length, as a pool that counts its jobs might have, and is empty at first.
    """

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def __len__(self) -> int:
        return 0

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        thread = threading.Thread(target=fn, args=args, kwargs=kwargs, name="odd")
        self.threads.append(thread)
        thread.start()


class NeverDone(ReturnsNone):
    """Runs the job; its future stays pending for ever."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        super().submit(fn, *args, **kwargs)
        return Future()


@pytest.mark.trio
@on_every_loop
async def test_an_odd_executor_that_runs_its_jobs_in_threads_works(one: Executor) -> None:
    """The block needs nothing but that the job is run, in another thread."""
    for odd in (ReturnsNone(), NeverDone()):
        async with threadpool(odd):
            assert on_thread_of("odd")
        assert on_loop_thread()
        async with threadpool(one):
            async with threadpool(odd):
                assert on_thread_of("odd")
            assert on_thread_of("one")
        assert on_loop_thread()


@on_one_loop
async def test_executors_are_told_apart_by_identity() -> None:
    """Two pools that are equal are two: a nested block of the other one moves there."""

    class Equal(ThreadPoolExecutor):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = ThreadPoolExecutor.__hash__

    with Equal(1, "one") as one, Equal(1, "two") as two:
        async with threadpool(one):
            async with threadpool(two):
                assert on_thread_of("two")
            assert on_thread_of("one")


@on_one_loop
async def test_a_body_that_runs_inside_another_one_leaves_that_as_it_was() -> None:
    """An executor that helps out while it waits runs the next job in the thread of the first."""

    async def inner(held: HeldExecutor) -> threading.Thread:
        async with threadpool(held):
            return threading.current_thread()

    loop = asyncio.get_running_loop()
    with HeldExecutor(after_submit=lambda: len(held.jobs) == 1 and held.start(0)) as held:
        async with threadpool(held):
            thread = threading.current_thread()
            nested = asyncio.run_coroutine_threadsafe(inner(held), loop)
            wait_until(lambda: len(held.jobs) == 2)
            held.run(1)
            assert exec_in_eventloop(on_loop_thread)
            async with eventloop():
                assert on_loop_thread()
            assert threading.current_thread() is thread
        assert await asyncio.wrap_future(nested) is thread


# --- the default ---
#
# The loop ends its default executor with asyncio.timeout, which needs a current task.


def pool_of(thread: threading.Thread) -> str:
    """What the names of all threads of its pool begin with."""
    return thread.name.rpartition("_")[0]


def test_without_an_executor_the_default_one_of_the_loop_is_used(
    current_task_loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Whatever ``set_default_executor`` has put there, at that time."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with executor_class(1, "first") as first, executor_class(1, "second") as second:
            loop.set_default_executor(first)
            async with threadpool():
                assert on_thread_of("first")
            loop.set_default_executor(second)
            async with threadpool(None):
                assert on_thread_of("second")
        await loop.shutdown_default_executor()

    current_task_loops.run(main)


@pytest.mark.parametrize("is_nested", [False, True], ids=["block", "nested-block"])
def test_a_block_makes_the_default_executor_of_to_thread(
    current_task_loops: LoopKind, is_nested: bool
) -> None:
    """Also within a block of another executor. A nested block of it stays on the thread."""

    async def use(one: Executor) -> threading.Thread:
        before = threading.current_thread()
        async with threadpool():
            thread = threading.current_thread()
            assert thread is not before
            assert not on_loop_thread()
            async with threadpool():
                assert threading.current_thread() is thread
            if is_nested:
                async with threadpool(one):
                    assert threading.current_thread() is before
            assert threading.current_thread() is thread
        assert threading.current_thread() is before
        return thread

    async def main() -> None:
        with ThreadPoolExecutor(1) as one:
            for _ in range(2):
                if is_nested:
                    async with threadpool(one):
                        thread = await use(one)
                else:
                    thread = await use(one)
                assert on_loop_thread()
        assert pool_of(await asyncio.to_thread(threading.current_thread)) == pool_of(thread)

    current_task_loops.run(main)


@pytest.mark.parametrize("used", [False, True], ids=["never-made", "used"])
def test_the_default_executor_after_its_shutdown_raises_at_entry(
    current_task_loops: LoopKind, one: Executor, used: bool
) -> None:
    """The loop's own error, or that of its executor."""

    async def main() -> None:
        if used:
            async with threadpool():
                pass
        await asyncio.get_running_loop().shutdown_default_executor()
        await assert_refused(None, one, RuntimeError, "shutdown")

    current_task_loops.run(main)


@pytest.mark.parametrize("showing", SHOWING, ids=str)
@pytest.mark.parametrize("made", [False, True], ids=["set", "made-by-a-block"])
def test_the_default_executor_by_name_is_the_same(showing: LoopKind, made: bool) -> None:
    """None and the executor itself: nested, the code stays on its thread, either way round."""

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        if not made:
            loop.set_default_executor(ThreadPoolExecutor(1))
        async with threadpool():
            thread = threading.current_thread()
            # (The first block did not know it by its name yet.)
            async with threadpool(loop._default_executor):
                assert threading.current_thread() is thread
        async with threadpool(loop._default_executor):
            thread = threading.current_thread()
            async with threadpool():
                assert threading.current_thread() is thread
        assert on_loop_thread()

    showing.run(main)
