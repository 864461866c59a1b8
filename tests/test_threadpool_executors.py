"""``threadpool(executor)``: which executors there are, and what fails before the body begins."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from typing import Any

import pytest
from helpers.loops import LOOPS, LoopKind

from threadhop import threadpool

#: In seconds: nothing takes this long, unless it hangs.
LIMIT = 5.0

#: The kinds of loop that show their default executor to others.
SHOWING = [kind for kind in LOOPS if kind.name != "uvloop" and kind.has_current_task]


@pytest.fixture
def one_thread(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    with executor_class(max_workers=1, thread_name_prefix="single") as pool:
        yield pool


def on_loop_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def on_thread_of(prefix: str) -> bool:
    return threading.current_thread().name.startswith(prefix)


def pool_of(thread: threading.Thread) -> str:
    """What the names of all threads of its pool begin with."""
    return thread.name.rpartition("_")[0]


async def enter(executor: Executor | None) -> None:
    """A block whose body must not run."""
    async with threadpool(executor):
        raise AssertionError("the body has run")


async def assert_refused(
    executor: Executor, sound: Executor, error: type[BaseException], text: str | None = None
) -> BaseException:
    """The entry raises *error*, on the loop thread or within a block, and all goes on after it."""
    # On the loop thread.
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


@pytest.mark.parametrize("wrong", [3, "pool", object(), [], int, Future])
def test_what_is_no_executor_is_refused_at_the_call(wrong: Any) -> None:
    """TypeError, with what was given, before anything is entered."""
    with pytest.raises(TypeError, match="Executor") as caught:
        threadpool(wrong)
    assert repr(wrong) in str(caught.value)


def test_an_executor_class_is_refused_at_the_call() -> None:
    """The usual slip has its own text."""
    with pytest.raises(TypeError, match=r"did you forget \(\)"):
        threadpool(ThreadPoolExecutor)


def test_a_process_pool_is_refused_at_the_call() -> None:
    """A block cannot leave this process; the text says what to use instead."""
    with (
        ProcessPoolExecutor(1) as pool,
        pytest.raises(TypeError, match=r"ProcessPoolExecutor.*ThreadPoolExecutor"),
    ):
        threadpool(pool)


def test_a_subclass_of_a_process_pool_is_refused_at_the_call() -> None:
    """What counts is what it is, not what it is called."""

    class Own(ProcessPoolExecutor):
        pass

    with Own(1) as pool, pytest.raises(TypeError, match="ThreadPoolExecutor"):
        threadpool(pool)


if sys.version_info >= (3, 14):
    from concurrent.futures import InterpreterPoolExecutor

    def test_an_interpreter_pool_is_refused_at_the_call() -> None:
        """Although it is a subclass of ThreadPoolExecutor."""
        with (
            InterpreterPoolExecutor(1) as pool,
            pytest.raises(TypeError, match=r"InterpreterPoolExecutor.*ThreadPoolExecutor"),
        ):
            threadpool(pool)


# --- refused at the entry ---


def test_an_executor_that_was_shut_down_raises_at_entry(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Its own error, at the entry and on the loop thread."""
    pool = executor_class(1)
    pool.shutdown()
    with pytest.raises(RuntimeError) as expected:
        pool.submit(int)

    async def main() -> None:
        error = await assert_refused(pool, executor, RuntimeError, "after shutdown")
        assert str(error) == str(expected.value)

    loops.run(main)


def test_an_executor_whose_initializer_fails_raises_at_entry(
    loops: LoopKind,
    executor: Executor,
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[Any],
) -> None:
    """The first time, when a worker finds out, and later, when ``submit`` refuses."""

    def initializer() -> None:
        raise ValueError("in the initializer")

    with executor_class(1, initializer=initializer) as pool:

        async def main() -> None:
            with pytest.raises(BrokenExecutor):
                await enter(pool)
            assert on_loop_thread()
            await assert_refused(pool, executor, BrokenExecutor)

        loops.run(main)


def test_a_block_that_is_dropped_from_the_queue_raises_at_entry(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """``shutdown(cancel_futures=True)``: an error, and not one that looks like a cancellation."""
    release, busy = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        assert release.wait(LIMIT)

    with executor_class(1) as pool:

        async def main() -> None:
            pool.submit(work)
            assert busy.wait(LIMIT)
            queued = asyncio.create_task(enter(pool))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            try:
                pool.shutdown(wait=False, cancel_futures=True)
                await asyncio.wait({queued})
            finally:
                release.set()
            assert not queued.cancelled()
            error = queued.exception()
            assert isinstance(error, RuntimeError)
            assert "cancel_futures" in str(error)
            async with threadpool(executor):
                assert not on_loop_thread()

        loops.run(main)


def test_a_nested_block_that_is_dropped_from_the_queue_raises_at_its_entry(
    loops: LoopKind, executor: Executor, executor_class: type[ThreadPoolExecutor]
) -> None:
    """In the outer worker, which goes on and leaves as usual."""
    release, busy = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        assert release.wait(LIMIT)

    with executor_class(1) as pool:

        async def main() -> None:
            pool.submit(work)
            assert busy.wait(LIMIT)
            loop = asyncio.get_running_loop()
            shut_down = lambda: pool.shutdown(wait=False, cancel_futures=True)  # noqa: E731
            async with threadpool(executor):
                outer = threading.current_thread()
                # The job has been submitted by the time at which this worker is parked, that is
                # when it runs no Python code of ours: the loop may shut the pool down only then.
                waiting = enter(Queued(pool, lambda: loop.call_soon_threadsafe(shut_down)))
                try:
                    with pytest.raises(RuntimeError, match="cancel_futures"):
                        await waiting
                finally:
                    release.set()
                assert threading.current_thread() is outer
            assert on_loop_thread()

        loops.run(main)


class Queued(Executor):
    """Hands jobs to a pool, and calls a function after each."""

    def __init__(self, pool: Executor, then: Callable[[], object]) -> None:
        self.pool = pool
        self.then = then

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = self.pool.submit(fn, *args, **kwargs)
        self.then()
        return future


class PicklesInSubmit(Executor):
    """A remote executor in disguise: it pickles each job, at once."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        pickle.dumps(fn)
        raise AssertionError("the job could be pickled")


class PicklesLater(Executor):
    """The same, with the failure in the future, as process pools do it."""

    def __init__(self) -> None:
        self.helpers: list[threading.Thread] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.helpers.append(threading.Thread(target=self.send, args=(fn, future)))
        self.helpers[-1].start()
        return future

    def send(self, fn: Any, future: Future[Any]) -> None:
        try:
            future.set_result(pickle.dumps(fn))
        except Exception as exc:
            future.set_exception(exc)


class Raises(Executor):
    """``submit`` has an error of its own."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        raise self.error


class Inline(Executor):
    """Runs the job in ``submit``, as stubs in tests do."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as exc:
            future.set_exception(exc)
        return future


class Answers(Executor):
    """Never runs the job; what comes of its future is given."""

    def __init__(self, end: Callable[[Future[Any]], object]) -> None:
        self.end = end

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.end(future)
        return future


@pytest.mark.parametrize("kind", [PicklesInSubmit, PicklesLater])
def test_an_executor_that_pickles_its_jobs_is_refused_at_entry(
    loops: LoopKind, executor: Executor, kind: type[Executor]
) -> None:
    """Our TypeError, which names it and what to use instead."""
    remote = kind()

    async def main() -> None:
        await assert_refused(remote, executor, TypeError, f"{kind.__name__}.*ThreadPoolExecutor")

    loops.run(main)


def test_the_error_of_submit_is_raised_at_entry(loops: LoopKind, executor: Executor) -> None:
    """That very object, with the executor's own frame in its traceback."""
    raised = ValueError("in submit")

    async def main() -> None:
        assert await assert_refused(Raises(raised), executor, ValueError, "in submit") is raised

    loops.run(main)


def test_an_executor_that_runs_jobs_inline_is_refused_at_entry(
    loops: LoopKind, executor: Executor
) -> None:
    """Its body would block the loop."""

    async def main() -> None:
        await assert_refused(Inline(), executor, RuntimeError, "in the thread that submitted it")

    loops.run(main)


def test_an_executor_that_cancels_the_job_raises_at_entry(
    loops: LoopKind, executor: Executor
) -> None:
    """Not as a cancelled task."""
    dropping = Answers(lambda future: (future.cancel(), future.set_running_or_notify_cancel()))

    async def main() -> None:
        await assert_refused(dropping, executor, RuntimeError, "dropped")

    loops.run(main)


def test_an_executor_that_fails_the_job_raises_at_entry(
    loops: LoopKind, executor: Executor
) -> None:
    """The executor's own error."""
    raised = LookupError("no machine")
    failing = Answers(lambda future: future.set_exception(raised))

    async def main() -> None:
        assert await assert_refused(failing, executor, LookupError, "no machine") is raised

    loops.run(main)


def test_an_executor_that_fails_the_job_with_cancelled_error_raises_at_entry(
    loops: LoopKind, executor: Executor
) -> None:
    """``concurrent.futures.CancelledError`` as an error: nobody cancelled this task."""
    failing = Answers(lambda future: future.set_exception(CancelledError()))

    async def child() -> None:
        await enter(failing)

    async def main() -> None:
        task = asyncio.create_task(child())
        await asyncio.wait({task})
        assert not task.cancelled()
        assert task.exception() is not None

    loops.run(main)


def test_an_executor_that_finishes_the_job_without_running_it_raises_at_entry(
    loops: LoopKind, executor: Executor
) -> None:
    """A result for what never ran is a lie, and told so."""
    lying = Answers(lambda future: future.set_result(None))

    async def main() -> None:
        await assert_refused(lying, executor, RuntimeError, "did not run it")

    loops.run(main)


def test_an_executor_that_never_runs_the_job_can_be_given_up(
    loops: LoopKind, executor: Executor
) -> None:
    """Nobody can know that it never will; a cancel ends the wait, and the body never runs."""
    silent = Answers(lambda future: None)

    async def main() -> None:
        task = asyncio.create_task(enter(silent))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    loops.run(main)


# --- odd ones that work ---


class ReturnsNone(Executor):
    """Runs the job in a thread of its own, and keeps its future for itself."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        thread = threading.Thread(target=fn, args=args, kwargs=kwargs, name="odd")
        self.threads.append(thread)
        thread.start()


class NeverDone(ReturnsNone):
    """Runs the job; its future stays pending for ever."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        super().submit(fn, *args, **kwargs)
        return Future()


class RunsThenRaises(ReturnsNone):
    """Starts the job, and fails afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        def job() -> None:
            self.started.set()
            fn(*args, **kwargs)

        super().submit(job)
        assert self.started.wait(LIMIT)
        # The job is the block itself: it is on its way, or waits for this thread to let go.
        self.threads[-1].join(0.05)
        raise ValueError("too late")


class Falsy(ReturnsNone):
    """Has a length, as a pool that counts its jobs might have, and is empty at first."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("kind", [ReturnsNone, NeverDone, Falsy])
def test_an_odd_executor_that_runs_its_jobs_in_threads_works(
    loops: LoopKind, one_thread: Executor, kind: type[ReturnsNone]
) -> None:
    """The block needs nothing but that the job is run, in another thread."""
    odd = kind()

    async def main() -> None:
        async with threadpool(odd):
            assert on_thread_of("odd")
        assert on_loop_thread()
        async with threadpool(one_thread):
            async with threadpool(odd):
                assert on_thread_of("odd")
            assert on_thread_of("single")
        assert on_loop_thread()

    loops.run(main)


def test_an_error_of_submit_after_the_body_has_begun_is_not_for_the_task(
    loops: LoopKind,
) -> None:
    """The body runs already; the task cannot be in two places."""
    ran = []

    async def main() -> None:
        for _ in range(3):
            async with threadpool(odd):
                ran.append(on_thread_of("odd"))
            assert on_loop_thread()

    odd = RunsThenRaises()
    loops.run(main)
    assert ran == [True, True, True]


# --- the default ---
#
# The loop ends its default executor with asyncio.timeout, which needs a current task.


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
            async with threadpool():
                assert on_thread_of("second")
            async with threadpool(None):
                assert on_thread_of("second")
        await loop.shutdown_default_executor()

    current_task_loops.run(main)


def test_without_a_default_executor_the_loop_makes_one(current_task_loops: LoopKind) -> None:
    """The one that ``to_thread`` then uses too."""

    async def main() -> None:
        async with threadpool():
            first = pool_of(threading.current_thread())
            assert not on_loop_thread()
        assert on_loop_thread()
        assert pool_of(await asyncio.to_thread(threading.current_thread)) == first

    current_task_loops.run(main)


def test_the_default_executor_after_its_shutdown_raises_at_entry(
    current_task_loops: LoopKind,
) -> None:
    """The loop's own error, or that of its executor."""

    async def main() -> None:
        async with threadpool():
            pass
        await asyncio.get_running_loop().shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            await enter(None)
        assert on_loop_thread()
        await asyncio.sleep(0)

    current_task_loops.run(main)


def test_a_nested_block_of_the_default_executor_stays(current_task_loops: LoopKind) -> None:
    """Also if the loop had none before the first block."""

    async def main() -> None:
        for _ in range(2):
            async with threadpool():
                outer = threading.current_thread()
                async with threadpool():
                    assert threading.current_thread() is outer
                assert threading.current_thread() is outer
            assert on_loop_thread()

    current_task_loops.run(main)


def test_a_nested_block_makes_the_default_executor(
    current_task_loops: LoopKind, one_thread: Executor
) -> None:
    """``threadpool()`` in a block of another executor, when the loop has no executor of its own."""

    async def main() -> None:
        async with threadpool(one_thread):
            outer = threading.current_thread()
            async with threadpool():
                inner = threading.current_thread()
                assert inner is not outer
                assert not on_loop_thread()
                async with threadpool():
                    assert threading.current_thread() is inner
                async with threadpool(one_thread):
                    assert threading.current_thread() is outer
            assert threading.current_thread() is outer
        assert on_loop_thread()
        assert pool_of(await asyncio.to_thread(threading.current_thread)) == pool_of(inner)

    current_task_loops.run(main)


def test_a_nested_block_of_a_default_executor_that_was_shut_down_raises_at_its_entry(
    current_task_loops: LoopKind, one_thread: Executor
) -> None:
    """In the outer worker, as for an executor that is named."""

    async def main() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        async with threadpool(one_thread):
            with pytest.raises(RuntimeError, match="shutdown"):
                await enter(None)
            assert on_thread_of("single")
        assert on_loop_thread()

    current_task_loops.run(main)


@pytest.mark.parametrize("showing", SHOWING, ids=str)
def test_the_default_executor_by_name_is_the_same(showing: LoopKind) -> None:
    """None and the executor itself: nested, the code stays on its thread, either way round."""

    async def main() -> None:
        pool = ThreadPoolExecutor(1, "default")
        asyncio.get_running_loop().set_default_executor(pool)
        for outer, inner in ((None, pool), (pool, None)):
            async with threadpool(outer):
                thread = threading.current_thread()
                async with threadpool(inner):
                    assert threading.current_thread() is thread
            assert on_loop_thread()

    showing.run(main)


@pytest.mark.parametrize("showing", SHOWING, ids=str)
def test_the_default_executor_that_a_block_made_is_the_same_by_name(showing: LoopKind) -> None:
    """The first block did not know it by its name yet, the nested one does."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with threadpool():
            thread = threading.current_thread()
            async with threadpool(loop._default_executor):  # type: ignore[attr-defined]
                assert threading.current_thread() is thread
        assert on_loop_thread()

    showing.run(main)
