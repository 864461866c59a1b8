"""Calls that an executor takes out of this process.

A job pickles itself as its bare call: the function and its arguments, without the Context, the
future and the loop that wait for it here. So no list of executor types has to say which of them
pickle. The result comes back through the executor's own future.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import Callable, Coroutine
from typing import Any

from ._callables import name_of
from ._errors import UNPICKLABLE

#: A key in the ``__dict__`` of an exception that the function raised.
_RAISED = "_threadhop_raised"


class RemoteCall:
    """A call in another process or interpreter."""

    def __init__(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        library: str = "asyncio",
    ) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        #: Of the caller: it runs a coroutine.
        self.library = library

    def __call__(self) -> Any:
        try:
            result = self.func(*self.args, **self.kwargs)
            if isinstance(result, Coroutine):
                if self.library == "trio":
                    return importlib.import_module("trio").run(_await, result)
                return asyncio.run(_await(result))
        except BaseException as exc:
            # Tells it from an error of the way, and travels with the exception.
            with contextlib.suppress(Exception):
                exc.__dict__[_RAISED] = True
            raise
        return result


async def _await(coro: Coroutine[Any, Any, Any]) -> Any:
    return await coro


def explain_pickling(
    error: BaseException, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BaseException:
    """*error* as it is or, if pickling failed, a TypeError that names the part that cannot be."""
    if getattr(error, "__dict__", {}).pop(_RAISED, False):
        return error
    import pickle  # noqa: PLC0415 - only now: most programs never need it

    kinds = (pickle.PicklingError, TypeError, AttributeError, ValueError, NotImplementedError)
    if not isinstance(error, kinds) and "pickl" not in f"{type(error).__name__} {error}":
        return error
    parts: list[tuple[str, Any]] = [("the function", func)]
    parts += [(f"argument {number}", value) for number, value in enumerate(args, 1)]
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    for what, part in parts:
        try:
            pickle.dumps(part)
        except Exception as exc:
            explained = TypeError(
                UNPICKLABLE.format(what=what, part=repr(part)[:200], func=name_of(func), error=exc)
            )
            explained.__cause__ = error
            return explained
    return error
