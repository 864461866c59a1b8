"""The kinds of event loop and task on which every test of a public name runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import io
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast

try:
    import trio
except ImportError:
    trio = None  # type: ignore[assignment, unused-ignore]
try:
    import uvloop
except ImportError:  # it has no wheel for this interpreter
    uvloop = None  # type: ignore[assignment, unused-ignore]

T = TypeVar("T")

#: The one class that CPython and PyPy share; on PyPy it is asyncio.Task itself.
PurePythonTask: Any = asyncio.tasks._PyTask  # type: ignore[attr-defined]

#: What a hanging main coroutine gets to clean up, after its time limit.
GRACE = 2.0


class StillRunningError(AssertionError):
    """The main coroutine was not done after its time limit, and cancelling it did not end it."""


@dataclass(frozen=True)
class LoopKind:
    """One way to run tasks. It keeps no state: each ``run`` has a fresh loop.

    Attributes:
        name: What the ids of the tests say.
        loop_factory: Makes the loop.
        debug: Whether the loop is in debug mode.
        task_factory: Makes the tasks, the main task too. None: the loop's own.
        has_current_task: Whether ``asyncio.current_task()`` knows these tasks. Without it
            ``asyncio.timeout``, ``asyncio.TaskGroup`` and whatever else asks for the current task
            refuse to work in them, and ``asyncio.all_tasks()`` leaves them out.
    """

    name: str
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    debug: bool = False
    task_factory: Any = None
    has_current_task: bool = True

    def __str__(self) -> str:
        return self.name

    def run(
        self,
        main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
        timeout: float = 10,
    ) -> T:
        """Run *main* in a task of this kind, as ``asyncio.run`` would, and return its result.

        A *main* that is not done after *timeout* seconds is cancelled and fails the test, with
        the stacks of all tasks and threads. Ctrl+C cancels it, as in ``asyncio.run``.
        """
        runner = asyncio.Runner(loop_factory=self.loop_factory, debug=self.debug)
        close = runner.close
        try:
            return runner.run(self._bootstrap(main, timeout))
        except StillRunningError:
            # The Runner would cancel main once more and wait for it, now without a time limit.
            close = runner.get_loop().close
            raise
        finally:
            close()

    async def _bootstrap(
        self, main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T], timeout: float
    ) -> T:
        # The main task is made in here and not by the Runner: a task starts eagerly only on a
        # loop that runs already.
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self.task_factory)
        task = loop.create_task(main() if callable(main) else main)
        try:
            try:
                await asyncio.wait({task}, timeout=timeout)
            except asyncio.CancelledError:  # Ctrl+C: the Runner cancels the task that it knows
                task.cancel()
                await asyncio.wait({task}, timeout=timeout)
            if not task.done():
                stacks = _all_stacks()
                task.cancel("the time limit of the test")
                await asyncio.wait({task}, timeout=GRACE)
                error = AssertionError if task.done() else StillRunningError
                raise error(f"main was not done after {timeout} s\n{stacks}")
            return task.result()
        finally:
            del task, main  # an error keeps this frame; the frame need not keep the task
            if not self.has_current_task:
                await _cancel(all_tasks() - asyncio.all_tasks())  # the Runner sees to the others


def all_tasks() -> set[asyncio.Task[Any]]:
    """Those of ``asyncio.all_tasks()``, and those that it does not know from 3.14 on."""
    in_pure_python = getattr(asyncio.tasks, "_py_all_tasks", asyncio.all_tasks)
    return asyncio.all_tasks() | in_pure_python()


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=GRACE)


def _all_stacks() -> str:
    """Where all tasks of the running loop are, and all threads."""
    text = io.StringIO()
    for task in all_tasks() if asyncio._get_running_loop() else ():  # type: ignore[attr-defined]
        task.print_stack(file=text)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        text.write(f"\nThread {names.get(ident, ident)}:\n")
        traceback.print_stack(frame, file=text)
    return text.getvalue()


def _pure_python_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T], **kwargs: Any
) -> asyncio.Task[T]:
    return cast("asyncio.Task[T]", PurePythonTask(coro, loop=loop, **kwargs))


#: Whether ``.ci/run`` asks for the short form, as it does on the slow Pythons.
IS_SHORT = os.environ.get("THREADHOP_TESTS") == "short"


def _loop_kinds() -> list[LoopKind]:
    """What this interpreter has: a kind that it lacks is left out, not skipped."""
    kinds = [LoopKind("asyncio"), LoopKind("asyncio-debug", debug=True)]
    if sys.version_info >= (3, 12):
        kinds.append(LoopKind("eager", task_factory=asyncio.eager_task_factory))
    if asyncio.Task is not PurePythonTask:
        # From 3.14 on the accelerated current_task() does not know the tasks in pure Python.
        known = sys.version_info < (3, 14)
        kinds.append(LoopKind("pytask", task_factory=_pure_python_task, has_current_task=known))
    if uvloop is not None:
        kinds.append(LoopKind("uvloop", loop_factory=uvloop.new_event_loop))
    return [kind for kind in kinds if kind.name in ("asyncio", "eager")] if IS_SHORT else kinds


LOOPS = _loop_kinds()


@dataclass(frozen=True)
class TrioKind(LoopKind):
    """Runs a test in the main task of a run of trio.

    Only those tests that speak of no library of their own: they have the mark ``trio``.
    """

    name: str = "trio"

    def run(
        self,
        main: Callable[[], Coroutine[Any, Any, T]] | Coroutine[Any, Any, T],
        timeout: float = 10,
    ) -> T:
        """As that of asyncio's kinds. But what swallows its Cancelled is ended by pytest."""
        return cast("T", trio.run(self._bounded, main, timeout))

    async def _bounded(self, main: Any, timeout: float) -> Any:
        with trio.move_on_after(timeout):
            return await (main() if callable(main) else main)
        raise AssertionError(f"main was not done after {timeout} s\n{_all_stacks()}")


#: None where it is not installed.
TRIO = None if trio is None else TrioKind()


def on_every_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs in a task of each kind.

    That is short for a test that takes the fixture ``loops`` and calls ``loops.run(main)``.
    """

    @functools.wraps(test)
    def run(loops: LoopKind, **fixtures: Any) -> None:
        loops.run(test(**fixtures))

    signature = inspect.signature(test)
    loops = inspect.Parameter("loops", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [loops, *signature.parameters.values()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return run


def on_one_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: where the kind of loop makes no difference."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        LOOPS[0].run(test(**fixtures))

    return run


def on_trio(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function: it runs in the main task of trio."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        assert TRIO is not None, "the file is skipped without trio"
        TRIO.run(test(**fixtures))

    return run
