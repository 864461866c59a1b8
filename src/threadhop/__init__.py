"""Leave blocking code where it is: ``async with threadpool():`` runs it on a worker thread.

Five ideas: a task's line of control is a *strand*; when it leaves its loop, its *suspension* there
is resumed at most once; it asks an executor for a worker by a *job*, which has one claim; the
worker is the *driver* of the coroutine until that wants to be elsewhere; what is cancelled is
remembered in one *cancel token*. ``docs/explanation/how-it-works.md`` tells them at length.

The rooms, from the public face down; imports point down only:

- ``_block``: ``threadpool()`` and ``eventloop()``; ``_function``: the decorator form;
  ``_calls``: functions that run on the other side; ``_async_executor``: executors for coroutines;
  ``_guard``: cancellation that nobody loses
- ``_adoption``: a task that leaves a loop part which another one has entered
- ``_backends``: what is asyncio's. ``_asyncio``: how a task leaves its loop and comes back;
  ``_entry_queue``: what comes to a loop from other threads; ``_default_executor``; ``_loop_call``:
  calls from a worker; ``_call``, ``_futures``: calls of an executor, and who waits for them
- ``_strand``: one task, and the threads that it runs on; ``_entries``: what it has entered;
  ``_contract``: what it asks of its loop; ``_cancel_token``; ``_traps``: every bare ``yield``
- ``_seat``: the job of a block, one reserved worker; ``_driver``: one step of a coroutine
- ``_executors``: how a job gets to a worker; ``_parking``: the workers that wait for a task
- ``_pool``, ``_pool_view``: ``WorkerPool``; ``_workers``: its threads; ``_places``: who may work;
  ``_process``: the end of the process
- ``_thread_loop``, ``_remote``: a thread's own loop; calls that leave the process
- ``_whereabouts``: what each thread does; ``_contexts``: the context variables of a task
- ``_outcome``, ``_callables``, ``_settings``, ``_work_item``, ``_errors``: small things
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
from ._pool import Statistics as Statistics
from ._pool import WorkerPool as WorkerPool
from ._pool._limited_view import LimitedView as LimitedView
from ._thread_loop import ensure_thread_event_loop as ensure_thread_event_loop

__all__ = (
    "AsyncExecutor",
    "LimitedView",
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
    "threadpool",
    "unwrap_future",
)

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
