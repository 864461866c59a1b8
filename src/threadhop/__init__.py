"""Leave blocking code where it is: ``async with threadpool():`` runs it on a worker thread.

The rooms of this package, from the public face down; imports point down only:

- ``_block``: ``threadpool()``; ``_function``: its decorator form
- ``_backends``: which loop drives this task, and how a task leaves it and comes back
- ``_strand``: one task's coroutine and the places where it runs
- ``_seat``: one reserved worker; ``_driver``: steps a suspended coroutine
- ``_traps``: every bare ``yield``; ``_whereabouts``: what is this thread
- ``_contexts``, ``_outcome``, ``_callables``, ``_settings``, ``_errors``: small things
"""

from ._block import ThreadpoolBlock as ThreadpoolBlock
from ._block import eventloop as eventloop
from ._block import threadpool as threadpool
from ._calls import exec_in_eventloop as exec_in_eventloop
from ._function import ThreadpoolFunction as ThreadpoolFunction
from ._guard import cancellation_guard as cancellation_guard
from ._guard import check_cancelled as check_cancelled

__all__ = (
    "ThreadpoolBlock",
    "ThreadpoolFunction",
    "cancellation_guard",
    "check_cancelled",
    "eventloop",
    "exec_in_eventloop",
    "threadpool",
)

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
