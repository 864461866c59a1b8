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
from ._block import threadpool as threadpool
from ._function import ThreadpoolFunction as ThreadpoolFunction

__all__ = ("ThreadpoolBlock", "ThreadpoolFunction", "threadpool")

for _name in __all__:
    globals()[_name].__module__ = __name__
del _name
