"""What the library says when something goes wrong: one text for each cause."""

from __future__ import annotations

import logging

log = logging.getLogger("threadhop")

NO_LOOP = (
    "'async with threadpool()' needs a running event loop, and there is none in this thread. "
    "Run the coroutine in a task of a loop: asyncio.run(main())"
)
NO_TASK = (
    "'async with threadpool()' needs a task, and this coroutine is driven by something else. "
    "Wrap it: asyncio.create_task(coroutine)"
)
NOT_DRIVEN = (
    "something between it and its task swallowed the switch to another thread. Drive the "
    "coroutine with 'await' or asyncio.create_task()"
)
NOT_ENTERED = (
    "this task is not inside the block that it is leaving. Leave a block in the task that "
    "entered it"
)
WORKER_GONE = "its worker has gone: the process is about to end"
DROPPED = (
    "its executor dropped the job. Was it shut down with cancel_futures=True? Shut it down after "
    "the tasks that use it"
)
NOT_RUN = (
    "its executor says that the job is done, and did not run it. Use one that runs what is "
    "submitted: concurrent.futures.ThreadPoolExecutor()"
)
INLINE = (
    "its executor ran the job in the thread that submitted it, which must not be blocked. Use one "
    "with threads: concurrent.futures.ThreadPoolExecutor()"
)
PICKLED = (
    "a block cannot leave this process, and {executor} tried to pickle it. Use an executor that "
    "runs threads of this process: concurrent.futures.ThreadPoolExecutor()"
)
NOT_AN_EXECUTOR = (
    "threadpool() takes a concurrent.futures.Executor or a function to decorate, not {got}"
)
FORGOT_CALL = "threadpool() takes an instance of {name}, not the class: did you forget ()?"
REMOTE = (
    "a block needs threads of this process, and {name} has none. Use "
    "concurrent.futures.ThreadPoolExecutor(), or hand {name} a function"
)
NOT_PLAIN = (
    "threadpool() decorates plain functions, and {name} is {kind}. Put 'async with threadpool():' "
    "around its blocking lines"
)

REMEDY = (
    "This was raised in the body of 'async with threadpool()', which runs on a worker thread, "
    "without an event loop. Await before or after the block."
)

#: What asyncio and trio say by themselves when they are asked for something off their thread.
_OFF_LOOP = (
    (RuntimeError, "no running event loop"),
    (RuntimeError, "There is no current event loop"),
    (RuntimeError, "is bound to a different event loop"),
    (RuntimeError, "must be called from async context"),
    (AttributeError, "'NoneType' object has no attribute 'create_future'"),
)


def explain(error: BaseException) -> None:
    """Add the remedy to an error of the body that says, in other words, "no loop here"."""
    for kind, text in _OFF_LOOP:
        if isinstance(error, kind) and text in str(error):
            if REMEDY not in getattr(error, "__notes__", ()):
                error.add_note(REMEDY)
            return
