"""The function core: calls across the border, for code that cannot be a block."""

from __future__ import annotations

import functools
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from . import _parking
from ._errors import NO_CALLER, NOT_CALLABLE, ON_LOOP_THREAD
from ._whereabouts import here

P = ParamSpec("P")
T = TypeVar("T")


@overload
def exec_in_eventloop(
    func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> T: ...


@overload
def exec_in_eventloop(func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def exec_in_eventloop(func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call *func* on the event loop that this worker works for, wait, and return its result.

    For plain functions deep inside of a block, where no ``async with eventloop():`` can stand. In
    a block it is equivalent to::

        async with eventloop():
            result = await func(*args, **kwargs)      # or func(*args, **kwargs)

    except that a coroutine runs in a task of its own. A plain function runs in a callback of the
    loop: it must not block.

    It sees the context variables of the caller, and what it sets holds after it.

    Cancellation: when the task of the block is cancelled, or the future that
    ``exec_in_executor`` returned, the task of the coroutine is cancelled with it, and the
    CancelledError is raised here. Raised here at once if that happened before.

    Raises:
        TypeError: if *func* is not callable.
        RuntimeError: on a loop thread (call or await it there), in a thread that works for no
            loop, and if the loop is closed.
        BaseException: whatever *func* raises.

    .. versionadded:: 0.1
    """
    if not callable(func):
        raise TypeError(NOT_CALLABLE.format(name="exec_in_eventloop()", got=repr(func)))
    if _get_running_loop() is not None:
        raise RuntimeError(ON_LOOP_THREAD)
    seat = here.seat
    strand = None if seat is None else seat.strand
    if seat is None or strand is None:
        raise RuntimeError(NO_CALLER)
    _parking.leave(seat, None)
    try:
        return strand.call_home(functools.partial(func, *args, **kwargs))
    finally:
        _parking.come_back(seat)
