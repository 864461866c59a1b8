"""Something that happens in the middle of a call, at each moment at which Python lets it happen."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import FrameType, ModuleType
from typing import Any, Self

#: Between these two and what they guard the interpreter does not look for signals.
_OF_WITH = ("__enter__", "__exit__")


class Interruption:
    """Within the block, call *act* once, at the *moment*-th moment of the code of *modules*.

    A signal handler, or the garbage collector, may come in when a function of Python begins, and
    when one of C has ended. Each of these is a moment.

    Attributes:
        happened: Whether there were that many moments.
        where: The function and the line of the moment.
    """

    def __init__(self, moment: int, act: Callable[[], object], *modules: ModuleType) -> None:
        self._left = moment
        self._act = act
        self._files = {module.__file__ for module in modules}
        self.happened = False
        self.where = ""

    def __enter__(self) -> Self:
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_filename not in self._files:
            return
        ends = event == "c_return" and getattr(arg, "__name__", "") not in _OF_WITH
        # (A generator that is closed is called, too, and does not look.)
        begins = event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR
        if not begins and not ends:
            return
        if self._left:
            self._left -= 1
            return
        sys.setprofile(None)
        self.happened = True
        self.where = f"{frame.f_code.co_name}, line {frame.f_lineno}"
        self._act()


def interrupt() -> None:
    """What Ctrl+C does."""
    raise KeyboardInterrupt
