"""Which worker is this thread? Asked only after "does a loop run here?" has been answered no.

The loop comes first because ``asyncio.run()`` in the body of a block is legal: its tasks are on
that loop, although the thread is a worker of ours.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._backends._call import Call
    from ._seat import Seat


class _Here(threading.local):
    """What this thread is at the moment; no other thread can see or change it."""

    #: The job that runs here: the seat of a block, or a call. None outside of jobs.
    seat: Seat | Call | None = None


here = _Here()
