"""The texts of errors and warnings: one for each cause."""

from __future__ import annotations

import contextlib
import logging
import sys

log = logging.getLogger("threadhop")


def warn(text: str, *args: object) -> None:
    """Log a warning, in any thread. A filter or a handler that raises changes nothing."""
    with contextlib.suppress(Exception):
        log.warning(text, *args, stacklevel=2)


def report(text: str, logger: logging.Logger = log) -> None:
    """In an ``except``: log the error: a mistake of ours, or of a callback of the user."""
    with contextlib.suppress(Exception):
        logger.critical(text, exc_info=sys.exc_info(), stacklevel=2)


CANNOT_AWAIT = (
    "cannot await at {where}: the body of 'async with threadpool()' runs on a worker thread, where "
    "no event loop can resume it. Await in a part of the body that goes back to the loop: async "
    "with eventloop():"
)
NO_LOOP = (
    "{name} needs a running event loop, and there is none in this thread. "
    "Run the coroutine in a task of a loop: asyncio.run(main()), or trio.run(main)"
)
ALL_PARKED = (
    "all %d workers of %r are parked: their tasks are away in eventloop() parts, in blocks of "
    "other executors, wait for futures of this pool, or take their time with an "
    "iterate_in_executor(). If those wait for something that needs one of these workers, it will "
    "never come. Give blocks that do so a pool of their own. Parked blocks: %s"
)
NO_ANSWER = (
    "the event loop does not answer: for %.1f s it has not looked at what a worker asks of it. The "
    "worker asked at %s and waits; the thread of the loop stands at %s. Does it wait for a lock "
    "that the worker holds? Release locks before you go to the loop, and keep what blocks off it"
)
RUN_WAITS = (
    "the event loop comes to its end, and has waited for %.1f s for bodies and calls on worker "
    "threads, which cannot be killed: %s. Let them ask check_cancelled(), or limit their time"
)
PROCESS_WAITS = (
    "the process comes to its end, and has waited for %.1f s for bodies and calls on worker "
    "threads, which cannot be killed: %s. Let them ask check_cancelled(), or limit their time"
)
LOOP_CLOSED = (
    "the event loop was closed while a task was in the block at %s: the task is lost. Let the loop "
    "wait for its tasks before you close it"
)
LOOP_STOPPED = (
    "the process ends, and the loop of a task that is in an eventloop() part of the block at %s "
    "does not run any more: the task is lost. Let the loop wait for its tasks before you end it"
)
ENDED_INSIDE = (
    "a task ended inside the block at %s, and is finished from there. Did an async generator yield "
    "inside of it, and was it not closed? Iterate it under contextlib.aclosing()"
)
TASK_LEFT = (
    "a task ended in an eventloop() part of the block at %s without leaving it; its worker is free "
    "again. Leave both with 'async with'"
)
STRAY = (
    "an exception that another thread raised in the worker of the block at {where} met no body: "
    "the task had left. It is dropped"
)
GUARDED = (
    "cancellation_guard(): the task was cancelled inside of the guard, and that was swallowed. "
    "Let CancelledError pass: except Exception: does"
)
GUARD_LEFT_ELSEWHERE = (
    "cancellation_guard() is left by a task that has not entered it. Enter and leave a guard in "
    "one task: inside of a fixture or generator, not around its yield"
)
NOT_ASYNC = (
    "cancellation_guard() decorates coroutine functions, and {name} is none. In plain functions "
    "call check_cancelled()"
)
NO_CALLER = (
    "exec_in_eventloop() was called in a thread that works for no event loop. Call it in the body "
    "of a block, or in a function run by exec_in_executor(); elsewhere: "
    "asyncio.run_coroutine_threadsafe(coroutine, loop).result(), or "
    "trio.from_thread.run(func, trio_token=token)"
)
ON_LOOP_THREAD = (
    "exec_in_eventloop() would block this event loop, which it is called on. Call the function, "
    "or await it"
)
ON_CANCEL_ON_LOOP = (
    "on_cancel() was entered on an event loop, where a cancellation is raised at the await. Enter "
    "it in the body of 'async with threadpool()', around the call that blocks"
)
ON_CANCEL_FAILED = "on_cancel() could not call {callback} to its end"
IS_OPEN = "this on_cancel() is entered already. Make one for each 'with'"
LOOP_IS_CLOSED = (
    "the event loop that this worker works for is closed. Keep it open until its work is done"
)
LOOP_WENT_AWAY = (
    "the event loop went away while a worker waited for its call of exec_in_eventloop(). Keep it "
    "running until its work is done"
)
LOOP_RUNS_HERE = (
    "the executor ran the call in a thread whose event loop is running, so the coroutine cannot "
    "run there. Use an executor with threads, or await the coroutine"
)
STOP_ITERATION = "the function raised StopIteration, which no future can hold"
RESULT_LOST = "the event loop was closed while a worker made a call for it: its result is lost"
UNPICKLABLE = (
    "{what} ({part}) of the call of {func} cannot be pickled, so it cannot leave this process: "
    "{error}"
)
NO_RUNNING_LOOP = (
    "{name} needs a running event loop. Call it from a coroutine, or use "
    "exec_in_executor_threading_future(), which needs none"
)
NO_TRIO_RUN = (
    "{name} with backend='trio' needs a task of trio, and none runs here. Call it from a coroutine "
    "under trio.run(), or leave the backend out"
)
ASYNCIO_ONLY = (
    "{name} returns a future of asyncio, and trio runs here, which has none. Await the call: "
    "await AsyncExecutor(executor).run(func)"
)
FORGOT_CALL_OF = "{name} takes an instance of {kind}, not the class: did you forget ()?"
NOT_AN_EXECUTOR_FOR = "{name} takes a concurrent.futures.Executor, not {got}"
NOT_CALLABLE = "{name} takes a function, not {got}"
NO_LOOP_PART = (
    "'async with eventloop()' needs to know an event loop, and there is none here. Use it in the "
    "body of 'async with threadpool()'"
)
NO_TASK = (
    "'async with threadpool()' needs a task, and this coroutine is driven by something else. "
    "Wrap it: asyncio.create_task(coroutine)"
)
ODD_TASK = (
    "a block cannot move this task: a {kind} lacks {missing}. Use the tasks of asyncio: "
    "asyncio.create_task(coroutine)"
)
NOT_DRIVEN = (
    "something between it and its task swallowed the switch to another thread. Drive the "
    "coroutine with 'await' or asyncio.create_task()"
)
YIELDS = (
    "the block at {where} yields in its body: that would put the consumer of this async generator "
    "on the worker thread. Yield on the loop: async with eventloop(): yield"
)
YIELDS_PERHAPS = (
    "the block at {where} may yield in its body, which would put the consumer of this async "
    "generator on the worker thread. Yield on the loop: async with eventloop(): yield"
)
NOT_ENTERED = (
    "this task is not inside the block that it is leaving. Leave a block in the task that "
    "entered it; end the child of a fork within the block"
)
LEFT_BY_COLLECTOR = (
    "the garbage collector closes what is in an eventloop() part of the block at %s: its worker is "
    "let go, and what is left of the body runs wherever the collector does. Await the task to its "
    "end; close a generator with contextlib.aclosing()"
)
LEFT_ELSEWHERE = (
    "an eventloop() part of the block at {where} is left outside of the event loop that it belongs "
    "to. Its worker is let go. Close the generator in a task of that loop: contextlib.aclosing()"
)
WAITS_FOR_LEAVER = (
    "the worker of the block at %s waits in exec_in_eventloop() for the very task that now closes "
    "a generator on it, and that would wait for the worker. Close the generator outside of the call"
)
WORKER_GONE = (
    "the body of a block cannot go on: its worker has gone, for the process is about to end. Let "
    "the main thread wait for the loop"
)
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
ITERATE_REMOTE = (
    "an iterator needs threads of this process, and {name} has none. Use "
    "concurrent.futures.ThreadPoolExecutor()"
)
NOT_ITERABLE = "{name} takes an iterable, or a function that returns one, not {got}"
NOT_BLOCKING = "{name} takes a blocking iterable, and {got} is {kind}. Iterate over it: 'async for'"
NO_ARGUMENTS = "{name} takes arguments for a function, and {got} is none"
ITERATE_OFF_LOOP = (
    "iterate_in_executor() needs a running event loop, and there is none in this thread. In the "
    "body of 'async with threadpool()', or in a script, iterate over the source itself: for"
)
ITERATOR_ELSEWHERE = (
    "the iterator at {where} is asked for its next item outside of the event loop that it belongs "
    "to, so it is closed. Go there for it: async with eventloop():"
)
ITERATOR_NOT_BEGUN = "the iterator at {where} cannot begin: {why}"
ITERATOR_PICKLED = (
    "an iterator cannot leave this process, and {executor} tried to pickle it. Use an executor "
    "that runs threads of this process: concurrent.futures.ThreadPoolExecutor()"
)
ITERATOR_LOST = (
    "the event loop went away before the iterator at %s was at its end: its source is closed. "
    "Leave it before the loop ends: async with iterate_in_executor(...) as items"
)
NOT_PLAIN = (
    "threadpool() decorates plain functions, and {name} is {kind}. Put 'async with threadpool():' "
    "around its blocking lines"
)
#: The standard library's own words.
POOL_SHUT_DOWN = "cannot schedule new futures after shutdown"
POOL_ENDED = "cannot schedule new futures after interpreter shutdown"
POOL_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"
NO_JOIN = "cannot join current thread"
NOT_A_NUMBER = "{name} must be an int, not {got}"
TOO_SMALL = "{name} must be greater than 0"
NEGATIVE = "{name} must be at least 0, not {got}"
NOT_SECONDS = "{name} must be a number of seconds, or None: for ever; not {got}"
POOL_BUSY = (
    "{kind} {name!r} is busy: {running} of {workers} workers have a job, and {waiting} of the "
    "{max_queued} jobs that may wait do. Tell the client to come back later, "
    "'except threadhop.PoolBusy:', or let more jobs wait: {kind}({workers}, max_queued={more})"
)
WAITS_FOR_ITSELF = (
    "a job of a pool of one waits for a future of that very pool, and its only thread does this "
    "job: the future would never be done. Call the function here, or give the pool another "
    "thread: WorkerPool(1, max_threads=2)"
)
TOO_FEW_THREADS = (
    "max_threads={threads} is less than max_workers={workers}. Give it at least as many, or leave "
    "it out"
)

REMEDY = (
    "This was raised in the body of 'async with threadpool()', which runs on a worker thread, "
    "without an event loop. To await, go to the loop: async with eventloop():"
)
REMEDY_OF_FACADE = (
    REMEDY + " (or exec_in_eventloop()). For code that runs a loop of its own in this thread: "
    "ensure_thread_event_loop()"
)
REMEDY_OF_CALLBACK = (
    "This was raised in the body of 'async with threadpool()', whose worker thread belongs to "
    "threadhop. To see a cancellation: check_cancelled(). To call the event loop: "
    "exec_in_eventloop(func), or async with eventloop():"
)
REMEDY_OF_SIGNAL = (
    "This was raised in the body of 'async with threadpool()', which runs on a worker thread. To "
    "limit its time: asyncio.timeout() around the block, check_cancelled() in it. To set a "
    "handler: async with eventloop():"
)

#: The words of other libraries when they are asked for something off their thread.
_OFF_LOOP = (
    (RuntimeError, "no running event loop", REMEDY),
    (RuntimeError, "There is no current event loop", REMEDY_OF_FACADE),
    (RuntimeError, "is bound to a different event loop", REMEDY),
    (RuntimeError, "await wasn't used with future", REMEDY),
    (AttributeError, "'NoneType' object has no attribute 'create_future'", REMEDY),
    (RuntimeError, "must be called from async context", REMEDY),
    # anyio and sniffio
    (RuntimeError, "AnyIO worker thread", REMEDY_OF_CALLBACK),
    (RuntimeError, "Not currently running on any asynchronous event loop", REMEDY),
    (RuntimeError, "unknown async library, or not in async context", REMEDY),
    # trio
    (RuntimeError, "this thread wasn't created by Trio", REMEDY_OF_CALLBACK),
    (ValueError, "signal only works in main thread", REMEDY_OF_SIGNAL),
)
#: As many errors are looked at: client libraries wrap them.
_DEPTH = 6


def without_stop_iteration(error: BaseException) -> BaseException:
    """No future of a loop can hold StopIteration; raised in a coroutine it means something else."""
    if not isinstance(error, StopIteration):
        return error
    instead = RuntimeError(STOP_ITERATION)
    instead.__cause__ = error
    return instead


def add_remedy(error: BaseException) -> None:
    """Add the remedy to an error of the body that says, in other words, "no loop here".

    Also if a library has wrapped that one.
    """
    inner: BaseException | None = error
    for _ in range(_DEPTH):
        if inner is None:
            return
        for kind, text, remedy in _OFF_LOOP:
            if isinstance(inner, kind) and text in str(inner):
                if remedy not in getattr(error, "__notes__", ()):
                    error.add_note(remedy)
                return
        inner = inner.__cause__ or inner.__context__
