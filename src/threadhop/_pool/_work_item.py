"""The jobs of a ``WorkerPool``."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol


class Job(Protocol):
    """Something that a worker does, once."""

    def __call__(self) -> None:
        """In a worker: do the job. Must not raise."""

    def fail(self, error: BaseException | str | None, /) -> bool:
        """In any thread: the job will not be done. False if a worker does it already.

        May be repeated.
        """
        ...


class WorkItem:
    """A call that was submitted, and the future for its result."""

    __slots__ = ("_args", "_fn", "_future", "_kwargs")

    def __init__(
        self,
        future: Future[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._future = future
        self._fn = fn
        self._args = args
        self._kwargs = kwargs

    def __call__(self) -> None:
        future = self._future
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._fn(*self._args, **self._kwargs)
        except BaseException as exc:
            future.set_exception(exc)
            # The traceback has this frame, and the future has the traceback.
            del future, self
        else:
            future.set_result(result)

    def fail(self, error: BaseException | str | None) -> bool:
        """Without an error of the pool the future is cancelled."""
        future = self._future
        if future.done() and not future.cancelled():
            return False
        if not isinstance(error, BaseException):
            future.cancel()
        # ``wait()`` for several futures hears of a cancel only by this.
        if not future.set_running_or_notify_cancel():
            return False
        assert isinstance(error, BaseException), "a future that waits can be cancelled"
        future.set_exception(error)
        return True
