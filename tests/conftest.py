"""Fixtures for all tests: every kind of loop, every kind of executor, and nothing stays behind."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Self

import pytest
from helpers.loops import LOOPS, TRIO, LoopKind

import threadhop

#: The pools that must behave alike.
EXECUTORS: list[type[ThreadPoolExecutor]] = [ThreadPoolExecutor]
if (worker_pool := getattr(threadhop, "WorkerPool", None)) is not None:
    EXECUTORS.append(worker_pool)

#: In seconds: what the threads of a test get to end after it.
THREADS_END_WITHIN = 5.0

#: Who reports errors that nobody can raise: a task that was destroyed, a callback that raised.
LOGGERS_OF_LOST_ERRORS = ("asyncio", "concurrent.futures")

IS_PYPY = sys.implementation.name == "pypy"


# Where the parent ignores it (``nohup``, ``command &`` in a script), so would the children here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    return [
        "loops: " + ", ".join(kind.name for kind in LOOPS),
        "executors: " + ", ".join(kind.__name__ for kind in EXECUTORS),
    ]


def pytest_collection_finish() -> None:
    gc.collect()
    _set_apart()


def _set_apart() -> None:
    """Keep whatever is alive now, most of it pytest's own, out of the collections to come.

    Many tests ask for full ones. Those then look at the objects of the test, and are quick: all
    that the tests before have left, reports above all, would take them half of the whole time.
    """
    if not IS_PYPY:  # it has no such thing
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run on trio what may: tests with the mark ``trio``."""
    items[:] = [item for item in items if _is_meant(item)]


def _is_meant(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if TRIO is None or parameters.get("loops") is not TRIO:
        return True
    return item.get_closest_marker("trio") is not None


@pytest.fixture(params=LOOPS if TRIO is None else [*LOOPS, TRIO], ids=str)
def loops(request: pytest.FixtureRequest) -> LoopKind:
    """Each kind of loop and task: ``loops.run(main)`` runs ``main`` in a task of that kind."""
    kind: LoopKind = request.param
    return kind


@pytest.fixture(params=[kind for kind in LOOPS if kind.has_current_task], ids=str)
def current_task_loops(request: pytest.FixtureRequest) -> LoopKind:
    """``loops`` for tests that need ``asyncio.current_task()``, ``timeout`` or a TaskGroup.

    It leaves out the tasks in pure Python from 3.14 on, which know none of these.
    """
    kind: LoopKind = request.param
    return kind


@pytest.fixture(params=EXECUTORS, ids=lambda kind: kind.__name__)
def executor_class(request: pytest.FixtureRequest) -> type[ThreadPoolExecutor]:
    """Each kind of pool, for a test that makes its own."""
    kind: type[ThreadPoolExecutor] = request.param
    return kind


@pytest.fixture
def executor(executor_class: type[ThreadPoolExecutor]) -> Iterator[Executor]:
    """A pool of each kind, with two threads whose names begin with ``worker``."""
    with executor_class(max_workers=2, thread_name_prefix="worker") as pool:
        yield pool


@pytest.fixture
def one(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    """A pool of one worker, ``one_0``: whatever needs a second one hangs."""
    with executor_class(1, thread_name_prefix="one") as pool:
        yield pool


@pytest.fixture
def other(executor_class: type[ThreadPoolExecutor]) -> Iterator[ThreadPoolExecutor]:
    """Another pool of one worker, ``other_0``."""
    with executor_class(1, thread_name_prefix="other") as pool:
        yield pool


class _LostErrors(logging.Handler):
    """Collects the errors that are logged while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []
        self._loggers = [logging.getLogger(name) for name in LOGGERS_OF_LOST_ERRORS]

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __enter__(self) -> Self:
        for logger in self._loggers:
            logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.removeHandler(self)
        self.records.clear()  # they hold tracebacks, and those hold whatever the test had

    def check(self) -> None:
        texts = [logging.Formatter().format(record) for record in self.records]
        assert not texts, "errors were logged:\n" + "\n".join(texts)


@pytest.fixture
def _lost_errors() -> Iterator[_LostErrors]:
    with _LostErrors() as errors:
        yield errors


@pytest.fixture
def expect_loop_errors(_lost_errors: _LostErrors) -> list[logging.LogRecord]:
    """For a test that makes asyncio log errors: the records so far. They do not fail the test."""
    return _lost_errors.records


@pytest.fixture(autouse=True)
def nothing_stays_behind(
    request: pytest.FixtureRequest, _lost_errors: _LostErrors
) -> Iterator[None]:
    """Fails a test that leaves a thread behind, or an error that nobody could raise.

    Exceptions in threads and in finalizers are warnings of pytest, and warnings are errors here.
    """
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + THREADS_END_WITHIN
    left = [
        thread
        for thread in threading.enumerate()
        if thread not in before and not thread.daemon and not _ends(thread, deadline)
    ]
    errors_are_expected = "expect_loop_errors" in request.fixturenames
    # A lost task speaks up when it is collected. A test that loses some on purpose has that done
    # at once; for the others once for each file is enough, and costs a tenth of the time.
    if errors_are_expected:
        gc.collect()
    assert not left, f"threads are still alive: {left}"
    if not errors_are_expected:
        _lost_errors.check()


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_behind_at_all() -> Iterator[None]:
    """Fails the last test if a task was lost that something had kept alive beyond its file."""
    yield
    if not IS_PYPY:
        gc.unfreeze()
    with _LostErrors() as errors:
        gc.collect()
        errors.check()


@pytest.fixture(scope="module", autouse=True)
def nothing_stays_behind_in_a_file() -> Iterator[None]:
    """Fails the last test of a file if one of its tests lost a task."""
    yield
    with _LostErrors() as errors:
        gc.collect()
        _set_apart()
        errors.check()


def _ends(thread: threading.Thread, deadline: float) -> bool:
    thread.join(max(0.0, deadline - time.monotonic()))
    return not thread.is_alive()
