"""A thread of a ``WorkerPool``, whose name tells for what it works."""

from __future__ import annotations

import logging
import sys
import threading
from _thread import get_ident
from typing import Any

from .._job import title_of

_name: Any = threading.Thread.name
_LOGGING = logging.LogRecord.__init__.__code__.co_filename


class WorkerThread(threading.Thread):
    """While it works for a block or a call: ``prefix_0 (Task-7)``, ``prefix_0 (function)``.

    Log records and other threads see that. The body does not: code that compares the name of its
    own thread goes on to work, as with a ``ThreadPoolExecutor``.

    The name is put together when somebody asks for it. The trip pays nothing.
    """

    @property
    def base_name(self) -> str:
        """The name without what it works for."""
        name: str = _name.fget(self)
        return name

    @property
    def name(self) -> str:
        name = self.base_name
        if get_ident() == self.ident and sys._getframe(1).f_code.co_filename != _LOGGING:
            return name
        title = title_of(self.ident)
        return name if title is None else f"{name} ({title})"

    @name.setter
    def name(self, name: str) -> None:
        _name.fset(self, name)
