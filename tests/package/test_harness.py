"""The fixtures of these tests do what the other tests believe that they do."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import sys
from pathlib import Path
from types import FrameType

import helpers.loops
import pytest
from helpers.child import CAN_ASK_FOR_STACKS, run_in_child
from helpers.loops import LoopKind, PurePythonTask, StillRunningError, all_tasks

TESTS = Path(__file__).parents[1]


def test_the_main_task_is_of_the_kind_that_the_id_names(loops: LoopKind) -> None:
    """Else several ids would run the same thing again."""

    async def main() -> tuple[str, bool, bool, bool]:
        loop = asyncio.get_running_loop()
        (task,) = (task for task in all_tasks() if task.get_coro() is coroutine)
        callers = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            callers.append(frame.f_code.co_name)
            frame = frame.f_back
        return (
            type(loop).__module__.partition(".")[0],
            loop.get_debug(),
            "_bootstrap" in callers,  # eager: it begins while it is being made
            isinstance(task, PurePythonTask),
        )

    coroutine = main()
    only_pure = asyncio.Task is PurePythonTask
    expected = {
        "asyncio": ("asyncio", False, False, only_pure),
        "asyncio-debug": ("asyncio", True, False, only_pure),
        "eager": ("asyncio", False, True, only_pure),
        "pytask": ("asyncio", False, False, True),
        "uvloop": ("uvloop", False, False, only_pure),
    }
    assert loops.run(coroutine) == expected[loops.name]


def test_what_main_returns_or_raises_comes_out(loops: LoopKind) -> None:
    """Results, errors and cancellation, as from ``asyncio.run``."""

    async def result() -> int:
        return 42

    async def error() -> None:
        raise KeyError("out")

    async def cancelled() -> None:
        raise asyncio.CancelledError("gone")

    assert loops.run(result) == 42
    with pytest.raises(KeyError, match="out"):
        loops.run(error)
    with pytest.raises(asyncio.CancelledError, match="gone"):
        loops.run(cancelled)


def test_a_main_that_hangs_fails_with_the_stacks(loops: LoopKind) -> None:
    """The stacks name the line that waits, and main is cancelled, so that the test goes on."""
    cleaned_up = False

    async def main() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.get_running_loop().create_future()  # the line that waits
        finally:
            cleaned_up = True

    with pytest.raises(AssertionError, match="the line that waits"):
        loops.run(main, timeout=0.05)
    assert cleaned_up


def test_a_main_that_will_not_be_cancelled_fails_too(
    loops: LoopKind,
    monkeypatch: pytest.MonkeyPatch,
    expect_loop_errors: list[logging.LogRecord],
) -> None:
    """A hang is one failed test, and not the end of all tests."""
    monkeypatch.setattr(helpers.loops, "GRACE", 0.05)

    async def main() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.get_running_loop().create_future()

    with pytest.raises(StillRunningError):
        loops.run(main, timeout=0.05)
    gc.collect()
    assert "Task was destroyed" in expect_loop_errors[0].getMessage()


def test_a_child_that_hangs_fails_with_what_it_printed_and_its_stacks() -> None:
    """Also when it hangs at the end of the process, where the interpreter joins its threads."""
    source = """
        import threading
        print("before it hung")
        def never_ends():
            threading.Event().wait()
        threading.Thread(target=never_ends).start()
        """
    with pytest.raises(pytest.fail.Exception) as failure:
        run_in_child(source, deadline=1.5)
    assert "before it hung" in str(failure.value)
    if CAN_ASK_FOR_STACKS:
        assert "never_ends" in str(failure.value)


def test_whatever_a_test_leaves_behind_fails_it(tmp_path: Path) -> None:
    """A living thread, a lost task, an error in a callback, in a thread, in a finalizer."""
    careless = tmp_path / "test_careless.py"
    careless.write_text(
        """
import asyncio, conftest, gc, sys, threading
from concurrent.futures import Future

conftest.THREADS_END_WITHIN = 0.1
released = threading.Event()

async def wait_for_nothing():
    await asyncio.get_running_loop().create_future()

def lose_a_task():
    loop = asyncio.new_event_loop()
    task = loop.create_task(wait_for_nothing())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return task

def test_thread():
    threading.Thread(target=released.wait).start()

def test_task_that_was_expected(expect_loop_errors):
    lose_a_task()
    gc.collect()
    assert "Task was destroyed" in expect_loop_errors[0].getMessage()

def test_callback():
    future = Future()
    future.add_done_callback(lambda _: 1 / 0)
    future.set_result(None)

def test_thread_error():
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()

def test_finalizer():
    class Finalized:
        def __del__(self):
            1 / 0
    Finalized()
    gc.collect()

def test_that_is_tidy():
    threading.Thread(target=print).start()
    released.set()

def test_that_leaves_a_task_to_the_next_file():
    sys.kept = [lose_a_task()]
    sys.kept.append(sys.kept)

def test_task():  # the last one: PyPy looks for lost tasks once for each file, after its last test
    lose_a_task()
"""
    )
    careless_too = tmp_path / "test_careless_too.py"
    careless_too.write_text(
        """
import sys

def test_task_of_another_file():
    del sys.kept
"""
    )
    run = run_in_child(
        f"""
        import sys, pytest
        sys.exit(pytest.main([
            "-c", {str(TESTS.parent / "pyproject.toml")!r}, "-p", "conftest",
            # In their order, also where a plugin shuffles the tests.
            "-p", "no:cacheprovider", "-p", "no:randomly", "-rfE", "-q", "--tb=line",
            {str(careless)!r}, {str(careless_too)!r},
        ]))
        """,
        # Before what is there already: the package under test may have come by that way.
        env={"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
    )
    failed = re.findall(r"^(?:ERROR|FAILED) \S*::(\w+)", run.stdout, re.MULTILINE)
    assert set(failed) == {
        "test_thread",
        "test_task",
        "test_task_of_another_file",
        "test_callback",
        "test_thread_error",
        "test_finalizer",
    }, run.stdout + run.stderr
