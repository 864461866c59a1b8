"""Leave blocking code where it is: ``async with threadpool():`` runs it on a worker thread.

The rooms of this package, from the public face down; imports point down only:

- ``_block``: ``threadpool()`` and ``eventloop()``; ``_function``: the decorator form;
  ``_calls``: functions that run on the other side; ``_async_executor``: executors for coroutines;
  ``_guard``: cancellation that nobody loses
- ``_backends``: how a task leaves its loop, and how tasks and results come back to it: ``_call``:
  a call; ``_futures``: who waits for it; ``_deliveries``: how its result gets there
- ``_strand``: one task's coroutine and the places where it runs; ``_contract``: what it asks of the
  loop; ``_traps``: every bare ``yield``
- ``_seat``: one reserved worker; ``_driver``: one step of a coroutine
- ``_lane``: the jobs that wait for a worker; ``_parking``: the workers that wait for a task
- ``_pool``, ``_pool_view``: ``WorkerPool``; ``_workers``: its threads; ``_places``: who may work;
  ``_process``: the end of the process
- ``_thread_loop``, ``_remote``: a thread's own loop; calls that leave the process
- ``_whereabouts``, ``_contexts``, ``_outcome``, ``_callables``, ``_settings``, ``_work_item``,
  ``_errors``: small things
"""

from ._async_executor import AsyncExecutor as AsyncExecutor
from ._async_executor import unwrap_future as unwrap_future
from ._block import ThreadpoolBlock as ThreadpoolBlock
from ._block import eventloop as eventloop
from ._block import threadpool as threadpool
from ._calls import configure as configure
from ._calls import exec_in_eventloop as exec_in_eventloop
from ._calls import exec_in_executor as exec_in_executor
from ._calls import exec_in_executor_threading_future as exec_in_executor_threading_future
from ._function import ThreadpoolFunction as ThreadpoolFunction
from ._guard import cancellation_guard as cancellation_guard
from ._guard import check_cancelled as check_cancelled
from ._pool import Statistics as Statistics
from ._pool import WorkerPool as WorkerPool
from ._pool_view import LimitedView as LimitedView
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
