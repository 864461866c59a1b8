"""Something that happens in the middle of a call, at each moment at which Python lets it happen."""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from functools import cache
from threading import get_ident
from types import CodeType, FrameType, ModuleType
from typing import Any, Self

RESUME = dis.opmap.get("RESUME")  # PyPy has none
JUMP_BACKWARD = dis.opmap.get("JUMP_BACKWARD")

_looking_away = threading.RLock()

#: Between these two and what they guard the interpreter does not look for signals.
_OF_WITH = ("__enter__", "__exit__")


class Interruption:
    """Within the block, call *act* once, at the *moment*-th moment of the code of *modules*.

    A signal handler, or the garbage collector, may come in when a function of Python begins, when
    a generator is resumed after a ``yield``, when a function of C has ended, and where a loop
    begins anew. Each of these is a moment; only those of the thread that enters the block count.

    Before Python 3.12 it does not see the loops, nor the calls of classes. On 3.12 and 3.13 what
    *act* raises where a loop begins anew passes the ``try`` around the loop; what a signal handler
    raises does not (``package/test_loops_in_try.py``). So *in_loops* tells whether these count.

    Attributes:
        happened: Whether there were that many moments.
        where: The function and the line of the moment.
    """

    def __init__(
        self,
        moment: int,
        act: Callable[[], object],
        *modules: ModuleType,
        in_loops: bool = True,
    ) -> None:
        self._left = moment
        self._in_loops = in_loops
        self._act = act
        self._files = {module.__file__ for module in modules}
        self._thread = 0
        self.happened = False
        self.where = ""

    def __enter__(self) -> Self:
        self._thread = get_ident()
        self._look()
        return self

    def __exit__(self, *_: object) -> None:
        self._look_away()

    def _is_moment(self, frame: FrameType) -> bool:
        """Count the moment at which *frame* is, and say whether it is the one."""
        if self._left:
            self._left -= 1
            return False
        self._look_away()
        self.happened = True
        self.where = f"{frame.f_code.co_qualname}, line {frame.f_lineno}"
        return True

    if hasattr(sys, "monitoring"):

        def _look(self) -> None:
            monitoring, tool = sys.monitoring, sys.monitoring.PROFILER_ID
            events = monitoring.events
            monitoring.use_tool_id(tool, "interruption")
            monitoring.register_callback(tool, events.PY_START, self._at_resume)
            monitoring.register_callback(tool, events.PY_RESUME, self._at_resume)
            monitoring.register_callback(tool, events.CALL, self._at_call)
            monitoring.register_callback(tool, events.C_RETURN, self._at_return)
            monitoring.register_callback(tool, events.JUMP, self._at_jump)
            monitoring.set_events(
                tool, events.PY_START | events.PY_RESUME | events.CALL | events.JUMP
            )

        def _look_away(self) -> None:
            tool = sys.monitoring.PROFILER_ID
            with _looking_away:  # Two threads may come here at once.
                if sys.monitoring.get_tool(tool) is not None:
                    sys.monitoring.set_events(tool, 0)
                    sys.monitoring.free_tool_id(tool)

        def _at_resume(self, code: CodeType, offset: int) -> Any:
            if code.co_filename not in self._files:
                return sys.monitoring.DISABLE
            if looks_for_signals(code, offset) and self._is_it():
                self._act()
            return None

        def _at_call(self, code: CodeType, *_: Any) -> Any:
            return None if code.co_filename in self._files else sys.monitoring.DISABLE

        def _at_return(self, code: CodeType, *_: Any) -> None:
            if code.co_filename in self._files and self._is_it():
                self._act()

        def _at_jump(self, code: CodeType, offset: int, _: int) -> Any:
            if code.co_filename not in self._files or not looks_for_signals(code, offset):
                return sys.monitoring.DISABLE
            if self._in_loops and self._is_it():
                self._act()
            return None

        def _is_it(self) -> bool:
            if get_ident() != self._thread or self.happened:
                return False
            return self._is_moment(sys._getframe(2))

    else:

        def _look(self) -> None:
            # Kept: Python 3.11 would free it while it runs.
            self._kept = self._profile
            sys.setprofile(self._kept)

        def _look_away(self) -> None:
            sys.setprofile(None)

        def _profile(self, frame: FrameType, event: str, arg: Any) -> None:
            if frame.f_code.co_filename not in self._files:
                return
            ends = event == "c_return" and getattr(arg, "__name__", "") not in _OF_WITH
            # (A generator that is closed is called, too, where it was suspended.)
            begins = event == "call" and looks_for_signals(frame.f_code, frame.f_lasti)
            if (begins or ends) and self._is_moment(frame):
                self._act()


@cache
def looks_for_signals(code: CodeType, offset: int) -> bool:
    """Whether the instruction there, which is no call, is one at which Python looks for signals."""
    if RESUME is None:
        return offset < 0
    instruction, argument = code.co_code[offset : offset + 2]
    # A frame that is resumed within a ``yield from`` or an ``await`` does not look.
    return instruction == JUMP_BACKWARD or (instruction == RESUME and argument & 3 < 2)


def interrupt() -> None:
    """As Ctrl+C does."""
    raise KeyboardInterrupt
