"""The private names of CPython: what works when one of them is gone.

Each is taken away in a child, before ``threadhop`` is imported. The standard library goes on to
work there: where it uses the name itself, the name is another one from then on.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.child import STEPS, run_in_child

from threadhop import _executors

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "private-names.md"

#: For the children. ``rename`` has the functions of the *owners* use another name.
_RENAME = """
import sys
from types import CodeType, FunctionType

def rename(name, *owners):
    new = name + "_by_another_name"

    def renamed(code):
        if not isinstance(code, CodeType):
            return code
        names = (new if known == name else known for known in code.co_names)
        return code.replace(co_names=tuple(names), co_consts=tuple(map(renamed, code.co_consts)))

    for owner in owners:
        for func in list(vars(owner).values()):
            if isinstance(func, FunctionType):
                func.__code__ = renamed(func.__code__)
        if name in vars(owner):
            setattr(owner, new, vars(owner)[name])
            delattr(owner, name)
"""

_EXECUTOR = """
import concurrent.futures.thread as module
rename("{name}", module, module.ThreadPoolExecutor)
assert not hasattr(module, "{name}") and not hasattr(module.ThreadPoolExecutor(1), "{name}")
"""

_LOOP = """
import asyncio
rename("{name}", asyncio.BaseEventLoop)
loop = asyncio.new_event_loop()
assert not hasattr(loop, "{name}")
loop.close()
"""

_SELECTOR = """
import asyncio
from asyncio.selector_events import BaseSelectorEventLoop
rename("_selector", asyncio.BaseEventLoop, BaseSelectorEventLoop, asyncio.SelectorEventLoop)
loop = asyncio.new_event_loop()
assert not hasattr(loop, "_selector")
loop.close()
"""

#: Tasks and futures in C show their fields, and nobody can take that away. Those in Python can.
_TASK = """
sys.modules["_asyncio"] = None
import asyncio
from asyncio import base_futures, base_tasks, futures, tasks
rename("{name}", tasks.Task, futures.Future, {others})
loop = asyncio.new_event_loop()
assert not hasattr(asyncio.Future(loop=loop), "{name}")
loop.close()
"""

_FUNCTIONS = "tasks, base_tasks, futures, base_futures"

_POLICY = """
import asyncio
for name, policy in list(vars(asyncio.events).items()):
    if name.endswith("BaseDefaultEventLoopPolicy"):
        rename("_local", policy)
        assert not hasattr(policy(), "_local")
"""

#: (A loop that needs anyio loads it.)
_ANYIO = """
import anyio._backends._asyncio as module
rename("_task_states", module, module.CancelScope, module.TaskGroup, module._AsyncioTaskStatus)
assert not hasattr(module, "_task_states")
"""

#: Those by which a job gets into the queue of a stock executor; without one it is submitted.
QUEUE = sorted({*_executors._OF_MODULE, *_executors._OF_EXECUTOR})

_WITHOUT_QUEUE = (
    "".join(_EXECUTOR.format(name=name) for name in QUEUE)
    + """
from threadhop import _executors
assert module.ThreadPoolExecutor not in _executors._KNOWN
"""
)

#: The name, as the page has it, and what takes it away.
NAMES = {
    "threading._register_atexit": (
        "import concurrent.futures.thread, threading; del threading._register_atexit"
    ),
    "threading._DummyThread": "import threading; rename('_DummyThread', threading)",
    "Thread._delete": "import threading; rename('_delete', threading.Thread)",
    "asyncio._get_running_loop": "import asyncio; del asyncio._get_running_loop",
    "asyncio.get_event_loop_policy": "import asyncio; del asyncio.get_event_loop_policy",
    "asyncio.events._get_event_loop_policy": (
        "import asyncio; del asyncio.get_event_loop_policy\n"
        "rename('_get_event_loop_policy', asyncio.events)"
    ),
    "asyncio.events._event_loop_policy": (
        "import asyncio; rename('_event_loop_policy', asyncio.events)"
    ),
    "_local._loop": _POLICY,
    "asyncio.tasks._py_current_task": (
        "import asyncio.tasks; vars(asyncio.tasks).pop('_py_current_task', None)"
    ),
    "asyncio.futures._PyFuture": "import asyncio.futures; del asyncio.futures._PyFuture",
    "asyncio._enter_task": "import asyncio; del asyncio._enter_task",
    "asyncio._leave_task": "import asyncio; del asyncio._leave_task",
    "asyncio.coroutines._is_coroutine": (
        "import asyncio.coroutines; rename('_is_coroutine', asyncio.coroutines)"
    ),
    "Task._must_cancel": _TASK.format(name="_must_cancel", others=_FUNCTIONS),
    "Task._cancel_message": _TASK.format(name="_cancel_message", others=_FUNCTIONS),
    "Task._fut_waiter": _TASK.format(name="_fut_waiter", others=_FUNCTIONS),
    "Future._callbacks": _TASK.format(name="_callbacks", others=_FUNCTIONS),
    # (Functions ask what is no Future of asyncio's for it, too.)
    "Future._loop": _TASK.format(name="_loop", others=""),
    "sys._current_frames": "del sys._current_frames",
    "_thread_name_prefix": _EXECUTOR.format(name="_thread_name_prefix"),
    "loop._default_executor": _LOOP.format(name="_default_executor"),
    "loop._selector": _SELECTOR,
    "loop._executor_shutdown_called": _LOOP.format(name="_executor_shutdown_called"),
    **{name: _EXECUTOR.format(name=name) for name in QUEUE},
}

if importlib.util.find_spec("anyio") is not None:
    NAMES["_task_states"] = _ANYIO

#: Those without which a finalizer closes the loop of a thread's own.
FINALIZED = ("threading._DummyThread", "Thread._delete")

_BEGIN = """
import threading
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
from threadhop import (
    WorkerPool, ensure_thread_event_loop, eventloop, exec_in_eventloop, exec_in_executor,
    exec_in_executor_threading_future, threadpool,
)
"""

_WORKS = """
async def double(number):
    await asyncio.sleep(0)
    return 2 * number

async def blocks(pool, other):
    here = get_ident()
    async with threadpool(pool):
        worker = get_ident()
        assert worker != here
        async with eventloop():
            await asyncio.sleep(0)
            assert get_ident() == here
        assert get_ident() == worker
        assert exec_in_eventloop(double, 1) == 2
        async with threadpool(other):
            assert get_ident() not in (here, worker)
        assert get_ident() == worker
    assert get_ident() == here

async def calls(pool):
    assert await exec_in_executor(pool, str, 1) == "1"
    assert await exec_in_executor(pool, double, 2) == 4
    assert exec_in_executor_threading_future(pool, str, 3).result(8) == "3"
    await asyncio.gather(*(exec_in_executor(pool, double, number) for number in range(10)))

async def cancelled_while_it_waits(pool):
    gate, begun = threading.Event(), []

    async def waits():
        async with threadpool(pool):
            begun.append("a body")

    pool.submit(gate.wait, 8)
    task = asyncio.create_task(waits())
    await asyncio.sleep(0.01)
    task.cancel()
    assert await asyncio.wait([task], timeout=8) and task.cancelled()
    gate.set()
    await asyncio.wrap_future(pool.submit(str))
    assert not begun

async def refused(pool):
    pool.shutdown()
    try:
        await blocks(pool, pool)
    except RuntimeError as error:
        assert "shutdown" in str(error) or "shut down" in str(error), error
    else:
        raise AssertionError("a pool that was shut down takes blocks")

@threadpool
def where():
    return get_ident()

async def main():
    loop = asyncio.get_running_loop()
    mine = ThreadPoolExecutor(2, "mine")
    loop.set_default_executor(mine)
    for kind in (ThreadPoolExecutor, WorkerPool):
        pool, other, one = kind(3), kind(3), kind(1)
        await asyncio.gather(blocks(pool, other), blocks(pool, other))
        await blocks(None, pool)
        await calls(pool)
        await calls(None)
        await cancelled_while_it_waits(one)
        await refused(pool)
        other.shutdown()
        one.shutdown()
    assert await where() != get_ident()
    async with threadpool():
        assert threading.current_thread().name.startswith("mine")

async def default():
    # The one that the loop makes by itself.
    async with threadpool():
        worker = get_ident()
        async with eventloop(), threadpool():
            assert get_ident() == worker
    await calls(None)
    await asyncio.to_thread(str)

def work():
    # The loop of a thread's own, beside one of the user's.
    users = asyncio.new_event_loop()
    asyncio.set_event_loop(users)
    loop = ensure_thread_event_loop()
    assert asyncio.get_event_loop() is users
    assert loop.run_until_complete(double(1)) == 2
    asyncio.set_event_loop(None)
    users.close()
    assert ensure_thread_event_loop() is asyncio.get_event_loop() is loop
    loop.run_until_complete(begin("thread"))

tasks = []

async def begin(where):
    async def cleans_up():
        try:
            await asyncio.sleep(8)
        finally:
            say(where, "cleaned up")

    tasks.append(asyncio.ensure_future(cleans_up()))
    await asyncio.sleep(0)

asyncio.run(main())
asyncio.run(default())
thread = threading.Thread(target=work)
thread.start()
thread.join()
ensure_thread_event_loop().run_until_complete(begin("main thread"))
# A thread that waits for work for ever, and work for it.
last, ended = WorkerPool(1), []
last.submit(wait_until, lambda: ended)
last.submit(say, "done at the end")
say("main ends")
ended.append(True)
"""


@pytest.mark.parametrize(
    "name", ["none", "those of a queue", *(n for n in NAMES if n not in QUEUE)]
)
def test_without_a_private_name_everything_works(name: str) -> None:
    """Blocks, loop parts, calls, coroutines, pools of each kind, a thread's loop, the end."""
    takes_away = "" if name == "none" else _RENAME + NAMES.get(name, _WITHOUT_QUEUE)
    child = run_in_child(takes_away + STEPS + _BEGIN + _WORKS, options=["-W", "error"])
    lines = ["done at the end", "main ends", "main thread cleaned up", "thread cleaned up"]
    if name in FINALIZED and sys.implementation.name == "pypy":
        del lines[-1]  # The garbage collector closes the thread's loop, some time.
    assert (sorted(child.stdout.splitlines()), child.stderr, child.returncode) == (lines, "", 0)


def test_the_way_into_a_stock_executor_uses_no_other_name() -> None:
    """What ``_put`` uses was looked for, so it cannot fail half-way."""
    names = {name for name in _executors._put.__code__.co_names if name.startswith("_")}
    ours = {name for name in vars(_executors) if name.startswith("_")}
    assert names - ours == set(QUEUE)


@pytest.mark.parametrize("name", QUEUE)
def test_without_one_of_them_a_stock_executor_is_asked_by_submit(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    executor = SimpleNamespace(**dict.fromkeys(_executors._OF_EXECUTOR))
    module = SimpleNamespace(**dict.fromkeys(_executors._OF_MODULE))
    monkeypatch.setattr(_executors, "_standard", module)
    assert _executors._has_all_names(executor)
    for owner in (executor, module):
        vars(owner).pop(name, None)
    assert not _executors._has_all_names(executor)


@pytest.mark.parametrize("is_there", [True, False])
def test_all_workers_are_away_and_only_max_workers_tells(is_there: bool) -> None:
    """Without the name no warning comes, and nothing else is different."""
    child = run_in_child(
        ("" if is_there else _RENAME + _EXECUTOR.format(name="_max_workers"))
        + STEPS
        + _BEGIN
        + """
async def main():
    with ThreadPoolExecutor(1) as pool:
        async with threadpool(pool), eventloop():
            pass

asyncio.run(main())
"""
    )
    assert ("all 1 workers" in child.stderr, child.returncode) == (is_there, 0)
    assert is_there or not child.stderr


@pytest.mark.parametrize("name", ["Task._must_cancel", "Task._cancel_message"])
def test_a_cancel_just_before_the_entry_is_not_lost(name: str) -> None:
    """Without the name it may lose to a fast worker, and then it comes at the exit."""
    child = run_in_child(
        _RENAME
        + NAMES[name]
        + STEPS
        + _BEGIN
        + """
async def main():
    with WorkerPool(1) as pool:
        for _ in range(20):
            try:
                asyncio.current_task().cancel()
                async with threadpool(pool):
                    pass
            except asyncio.CancelledError:
                asyncio.current_task().uncancel()
                continue
            raise AssertionError("lost")

asyncio.run(main())
"""
    )
    assert (child.stderr, child.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["none", "_task_states", "asyncio._enter_task"])
def test_scopes_of_anyio_cancel_a_block_also_without_a_name(name: str) -> None:
    """Without the two of asyncio on each turn, as anyio does it; a body may begin before that."""
    pytest.importorskip("anyio", reason="needs anyio, which is not installed")
    child = run_in_child(
        _RENAME
        + NAMES.get(name, "")
        + STEPS
        + _BEGIN
        + """
import anyio

async def main():
    pool, gate, loop = WorkerPool(1), threading.Event(), asyncio.get_running_loop()
    with anyio.CancelScope() as scope:
        async with threadpool(pool):
            loop.call_soon_threadsafe(scope.cancel)
            loop.call_soon_threadsafe(loop.call_later, 0.05, gate.set)
            gate.wait(8)
            print(task.cancelling() == 1)
    assert scope.cancelled_caught and not task.cancelling()
    with anyio.move_on_after(0) as scope:
        async with threadpool(pool):
            assert not hasattr(asyncio, "_enter_task")
        await anyio.sleep(0)
    assert scope.cancelled_caught and not task.cancelling()
    async with threadpool(pool), eventloop():
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(8)
        assert scope.cancelled_caught

async def run():
    global task
    task = asyncio.create_task(main())
    await task

asyncio.run(run())
"""
    )
    assert child.stdout == f"{name != 'asyncio._enter_task'}\n", child.stderr
    assert child.returncode == 0


def test_the_page_names_them_all() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in page] == []
