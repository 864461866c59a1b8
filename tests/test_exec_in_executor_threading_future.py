"""``exec_in_executor_threading_future``: its future, which threads wait for.

What holds of every way to make a call stands in ``test_calls`` and ``test_call_cancellation``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest
from helpers.calls import Inline, plain, twice
from helpers.child import run_in_child
from helpers.steps import LIMIT, Gate, busy, wait_until

from threadhop import exec_in_eventloop, exec_in_executor_threading_future

here = threading.get_ident


def test_it_needs_no_loop(executor: Executor) -> None:
    """Any thread may make the call, of a function or of a coroutine function."""

    def work() -> int:
        return exec_in_executor_threading_future(executor, twice, 2).result(LIMIT)

    future = exec_in_executor_threading_future(executor, plain, 2)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 4
    assert executor.submit(work).result(LIMIT) == 4
    with pytest.raises(ZeroDivisionError):
        exec_in_executor_threading_future(executor, divmod, 1, 0).result(LIMIT)


def test_without_a_loop_the_function_has_none_to_call(executor: Executor) -> None:
    future = exec_in_executor_threading_future(executor, exec_in_eventloop, plain, 1)
    with pytest.raises(RuntimeError, match="works for no event loop"):
        future.result(LIMIT)


def test_the_worker_ends_the_future_although_the_loop_is_blocked(executor: Executor) -> None:
    async def main() -> None:
        assert exec_in_executor_threading_future(executor, plain, 1).result(LIMIT) == 2

    asyncio.run(main())


def test_an_inline_executor_runs_a_coroutine_where_no_loop_runs() -> None:
    """The call makes a loop for it, so the test runs it in another thread."""

    def work() -> int:
        return exec_in_executor_threading_future(Inline(), twice, 1).result(LIMIT)

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(work).result(LIMIT) == 2


def test_without_a_loop_the_last_resort_is_a_shared_pool() -> None:
    """The pool is one for all. Its threads bear the library's name, and do not keep the process."""
    child = run_in_child(
        """
        import threading
        from threadhop import exec_in_executor_threading_future as call

        def name():
            barrier.wait(5)
            return threading.current_thread().name

        async def name_async():
            return threading.current_thread().name

        barrier = threading.Barrier(2)
        futures = [call(None, name) for _ in range(2)]
        names = {future.result(5) for future in futures}
        assert len(names) == 2 and all(name.startswith("threadhop") for name in names), names
        assert call(None, name_async).result(5).startswith("threadhop")
        for _ in range(100):
            call(None, int).result(5)
        # A second pool would give its threads the same names again.
        names = [thread.name for thread in threading.enumerate()]
        assert len(names) == len(set(names)), names
        print("done")
        """
    )
    assert (child.stdout, child.stderr, child.returncode) == ("done\n", "", 0)


def test_threads_that_first_ask_at_once_share_one_pool() -> None:
    child = run_in_child(
        """
        import threading
        from threadhop import _executors, _functions

        class Slow(_executors.WorkerPool):
            def __init__(self, *args, **kwargs):
                made.append(self)
                started.set()
                second.wait(0.2)
                super().__init__(*args, **kwargs)

        made, started, second = [], threading.Event(), threading.Event()
        _executors.WorkerPool = Slow
        results = []

        def ask():
            results.append(_functions.exec_in_executor_threading_future(None, int).result(5))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        print(len(made), results)
        """
    )
    assert (child.stdout, child.stderr) == ("1 [0, 0, 0, 0]\n", "")


# --- what such a future can do


def test_it_is_running_while_the_function_runs(executor_class: type[ThreadPoolExecutor]) -> None:
    """A cancelled future is not running any more."""
    gates = [Gate(), Gate()]
    with executor_class(1) as pool:
        with busy(pool):
            first, second = (
                exec_in_executor_threading_future(pool, gate.stop_here) for gate in gates
            )
            assert not first.running()
            assert not first.done()
        assert gates[0].reached.wait(LIMIT)
        assert first.running()
        with pytest.raises(TimeoutError):
            first.result(0.01)
        gates[0].open()
        assert first.result(LIMIT) is None
        assert not first.running()
        assert gates[1].reached.wait(LIMIT)
        assert second.running()
        second.cancel()
        assert not second.running()
        gates[1].open()


def test_wait_and_as_completed_know_it(executor_class: type[ThreadPoolExecutor]) -> None:
    """Beside futures of the standard library, and also one that is cancelled while they wait."""
    with executor_class(1) as pool, ThreadPoolExecutor(2) as others:
        with busy(pool):
            queued = exec_in_executor_threading_future(pool, plain, 1)
            doomed = exec_in_executor_threading_future(pool, plain, 2)
            theirs = others.submit(plain, 3)
            waiting = others.submit(concurrent.futures.wait, [doomed], LIMIT)
            # A waiter announces itself at the future.
            wait_until(lambda: doomed._waiters)  # type: ignore[attr-defined]
            doomed.cancel()
            assert waiting.result(LIMIT).done == {doomed}
            done, pending = concurrent.futures.wait(
                [queued, doomed, theirs], LIMIT, concurrent.futures.FIRST_COMPLETED
            )
            assert doomed in done
            assert queued in pending
        completed = set(concurrent.futures.as_completed([queued, doomed, theirs], LIMIT))
        assert completed == {queued, doomed, theirs}


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError, SystemExit])
def test_a_callback_that_raises_does_not_stop_the_pool(
    executor_class: type[ThreadPoolExecutor],
    expect_loop_errors: list[logging.LogRecord],
    error: type[BaseException],
) -> None:
    """However often it happens, later calls run."""

    def fail(_: object) -> None:
        raise error

    with executor_class(2) as pool:
        try:
            for _ in range(5):
                gate = Gate()
                future = exec_in_executor_threading_future(pool, gate.stop_here)
                future.add_done_callback(fail)
                gate.open()
                future.result(LIMIT)
            last = exec_in_executor_threading_future(pool, plain, 1)
            assert last.result(1) == 2
        finally:
            pool.shutdown(cancel_futures=True)
