"""The names of our attributes on asyncio's tasks and loops.

They belong to this copy of the package: a second one in the process (vendored, or loaded anew) has
others, and neither meets the strands of the other.
"""

from __future__ import annotations

_copy = f"{id(globals()):x}"

#: Of a task: its ``Strand``.
STRAND = f"_threadhop_strand_{_copy}"
#: Of a loop: its ``AsyncioLoop``,
LOOP = f"_threadhop_loop_{_copy}"
#: and its ``RunInExecutor``.
RUN_IN_EXECUTOR = f"_threadhop_run_in_executor_{_copy}"
