"""Leave blocking code where it is: ``async with threadpool():`` runs it on a worker thread.

Five ideas, and where each lives:

- a *strand*: one task's line of control, whatever thread it is on (``_strand.py``)
- a *suspension*: a task that waits to go on, resumed at most once (``_interface.py``)
- a *job*, which has one claim: a worker has it, or it has failed (``_block_job.py``)
- the *driver*: whatever resumes the coroutine, the loop's Task or a worker (``_driver.py``)
- a *cancel token*: tells whether a task or a call was cancelled (``_cancel_token.py``)

``docs/explanation/how-it-works.md`` tells them at length. Start to read with ``_strand.py``. The
rooms, from the public face down; imports point down only, for types too:

- what users call: ``_blocks.py``, ``_decorator.py``, ``_functions.py``, ``_iterate.py``,
  ``_async_executor.py``, ``_cancellation.py``, ``_on_cancel.py``, ``_hops.py`` (what runs where)
- a task away from its loop: ``_strand.py``, ``_entries.py`` (what it has entered), ``_adoption.py``
  (a task leaves what another one has entered), ``_block_job.py`` (one reserved worker),
  ``_traps.py`` (every bare ``yield``), ``_yields.py`` (a ``yield`` of the user in a body),
  ``_driver.py``, ``_variables.py``
- a function on a worker: ``_call_job.py``, ``_remote.py`` (in another process), ``_thread_loop.py``
  (the worker's own loop); an iterator on a worker: ``_iterator_job.py``
- the event loops, ``_loops``; what a strand asks of one is in ``_interface.py``. asyncio's:
  ``_loops/_asyncio.py``, ``_loops/_odd_tasks.py``, ``_loops/_attributes.py``,
  ``_loops/_entry_queue.py``,
  ``_loops/_eventfd.py`` (wakes the loop), ``_loops/_asyncio_futures.py``,
  ``_loops/_from_thread.py``, ``_loops/_default_executor.py``, ``_loops/_end_watch.py`` (for whom
  its end waits), ``_loops/_anyio_scopes.py`` (tasks within cancel scopes of anyio's). trio's,
  loaded when it runs: ``_loops/_trio.py``, ``_loops/_trio_suspension.py``,
  ``_loops/_trio_calls.py``, ``_loops/_trio_futures.py``, ``_loops/_trio_traps.py``
- where jobs wait: ``_executors.py`` (the way to a worker), ``_away.py`` (workers that wait for a
  task), ``_pool`` (``WorkerPool``): ``_pool/_limited_view.py``, ``_pool/_view_limiter.py``,
  ``_pool/_limits.py`` (how many may wait), ``_pool/_threads.py``, ``_pool/_thread.py`` (its name),
  ``_pool/_permits.py`` (who may work), ``_pool/_work_item.py``, ``_pool/_futures.py``
- small things: ``_job.py`` (the job of this thread), ``_cancel_token.py``, ``_outcome.py``,
  ``_lifetime.py`` (the end of a thread, a loop, a process; a fork), ``_patience.py`` (who waits
  for long says so), ``_callables.py``, ``_errors.py`` (the texts), ``_libraries.py`` (what a
  program may load later)
- beside all that, and loaded by none of it, the checker (``__main__.py``, ``_check``): it reads
  source. ``_check/_command.py``, ``_check/_plugin.py`` (of flake8), ``_check/_report.py``,
  ``_check/_rules.py``, ``_check/_walk.py`` (what runs where), ``_check/_names.py`` (what a name
  stands for), ``_check/_scopes.py``
"""

from ._async_executor import AsyncExecutor as AsyncExecutor
from ._async_executor import unwrap_future as unwrap_future
from ._blocks import ThreadpoolBlock as ThreadpoolBlock
from ._blocks import eventloop as eventloop
from ._blocks import threadpool as threadpool
from ._cancellation import cancellation_guard as cancellation_guard
from ._cancellation import check_cancelled as check_cancelled
from ._decorator import ThreadpoolFunction as ThreadpoolFunction
from ._functions import configure as configure
from ._functions import exec_in_eventloop as exec_in_eventloop
from ._functions import exec_in_executor as exec_in_executor
from ._functions import exec_in_executor_threading_future as exec_in_executor_threading_future
from ._hops import Hop as Hop
from ._hops import hops as hops
from ._hops import print_hops as print_hops
from ._iterate import ExecutorIterator as ExecutorIterator
from ._iterate import iterate_in_executor as iterate_in_executor
from ._on_cancel import on_cancel as on_cancel
from ._pool import Statistics as Statistics
from ._pool import WorkerPool as WorkerPool
from ._pool._limited_view import LimitedView as LimitedView
from ._pool._limits import PoolBusy as PoolBusy
from ._thread_loop import ensure_thread_event_loop as ensure_thread_event_loop

__all__ = (
    "AsyncExecutor",
    "ExecutorIterator",
    "Hop",
    "LimitedView",
    "PoolBusy",
    "Statistics",
    "ThreadpoolBlock",
    "ThreadpoolFunction",
    "WorkerPool",
    "cancellation_guard",
    "check_cancelled",
    "configure",
    "ensure_thread_event_loop",
    "eventloop",
    "exec_in_eventloop",
    "exec_in_executor",
    "exec_in_executor_threading_future",
    "hops",
    "iterate_in_executor",
    "on_cancel",
    "print_hops",
    "threadpool",
    "unwrap_future",
)

# (Not by name from globals(): with lazy imports that would find a placeholder.)
for _public in (
    AsyncExecutor,
    Hop,
    ExecutorIterator,
    LimitedView,
    PoolBusy,
    Statistics,
    ThreadpoolBlock,
    ThreadpoolFunction,
    WorkerPool,
    cancellation_guard,
    check_cancelled,
    configure,
    ensure_thread_event_loop,
    eventloop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    hops,
    iterate_in_executor,
    on_cancel,
    print_hops,
    threadpool,
    unwrap_future,
):
    _public.__module__ = __name__
del _public
