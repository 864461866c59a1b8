"""The names of our attributes on asyncio's tasks and loops.

They belong to this copy of the package: a second one in the process (vendored, or loaded anew) has
others, and neither meets the strands of the other.
"""

from __future__ import annotations

from asyncio import Task
from typing import Any

_copy = f"{id(globals()):x}"

#: Of a task: its ``Strand``.
STRAND = f"_threadhop_strand_{_copy}"
#: Of a loop: its ``AsyncioLoop``,
LOOP = f"_threadhop_loop_{_copy}"
#: and its ``RunInExecutor``.
RUN_IN_EXECUTOR = f"_threadhop_run_in_executor_{_copy}"


def task_of(strand: Any) -> Task[Any] | None:
    """In any thread: the task of *strand*, if it is away from its loop or in a loop part."""
    wakeup = getattr(strand.suspension, "_wakeup", None)
    if wakeup is not None:
        task: Task[Any] | None = wakeup.__self__
    else:
        has_ended = strand.task_has_ended  # See ``AsyncioSuspension.watch_task``.
        task = None if has_ended is None else has_ended.args[0]()
    return task
