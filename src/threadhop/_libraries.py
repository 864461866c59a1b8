"""Libraries that a program may have, or may load later. Nothing here imports one of them.

What concerns a library costs nothing while it is not loaded: then the ways of the tasks know
nothing of it. ``look`` finds the library in ``sys.modules`` and has the ways changed, once. It is
called where a task, or a loop, is met for the first time, and where a task is cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


class _Awaited:
    """What is not loaded yet."""

    #: By the name of a module: what is to be called when that is loaded. Replaced as a whole, for
    #: threads that look at the same time; an entry goes after its calls, which may be repeated.
    by_name: dict[str, tuple[Callable[[], object], ...]]


_awaited = _Awaited()
_awaited.by_name = {}


def when_loaded(name: str, act: Callable[[], object]) -> None:
    """At an import: have *act* called as soon as *name* is seen to be loaded. Perhaps twice."""
    by_name = _awaited.by_name
    _awaited.by_name = {**by_name, name: (*by_name.get(name, ()), act)}


def look() -> None:
    """In any thread: see what was loaded meanwhile."""
    by_name = _awaited.by_name
    if by_name.keys().isdisjoint(sys.modules.keys()):
        return
    loaded = [name for name in by_name if name in sys.modules]
    for name in loaded:
        for act in by_name[name]:
            act()
    _awaited.by_name = {name: by_name[name] for name in by_name if name not in loaded}
