"""The jobs of a ``WorkerPool``, and the queues where they wait."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import InvalidStateError
from typing import Any, Protocol
from weakref import ref

from .._away import Place
from ._futures import PoolFuture, Withdrawable


class Job(Protocol):
    """Something that a worker does, once."""

    def __call__(self) -> None:
        """In a worker: do the job. Must not raise."""

    def fail(self, error: BaseException | str | None, /) -> bool:
        """In any thread: the job will not be done. False if a worker does it already.

        May be repeated.
        """
        ...

    # In any thread, while a worker has it: for the counts of a pool that limits its queue.

    def is_here(self) -> bool:
        """Whether the worker has something to do. Before that one knows it may have left."""
        ...

    def is_over(self) -> bool:
        """Whether it has ended, but for the last lines: whoever waits for it may know that."""
        ...


class View(Place, Protocol):
    """A queue where jobs wait before they come to the threads."""

    def drain(self, into: list[Job]) -> None:
        """Under the lock of the threads: take all jobs away."""
        ...

    def start_afresh(self) -> None:
        """In the child of a fork."""

    def serves(self, thread: int) -> bool:
        """In any thread: whether *thread* does a job of this queue."""
        ...


class WorkItem:
    """A call that was submitted, and the future for its result."""

    __slots__ = ("_args", "_fn", "_future", "_kwargs")

    def __init__(
        self,
        future: PoolFuture[Any],
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self._future = future
        self._fn = fn
        #: None when it has been called. (*fn* may be None: it is called, too, and raises.)
        self._args: Any = args
        self._kwargs = kwargs

    def __call__(self) -> None:
        future = self._future
        if self._args is None:  # By ``do_again``, which asks ``fail`` whether the result is set.
            raise InvalidStateError
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = self._fn(*self._args, **self._kwargs)
        except BaseException as exc:
            self._args = None
            future.set_exception(exc)
            # The traceback has this frame, and the future has the traceback.
            del future, self
        else:
            self._args = None
            future.set_result(result)

    def is_here(self) -> bool:
        return self._args is not None

    def is_over(self) -> bool:
        return self._args is None

    def note_entry(self, entry: Withdrawable) -> object:
        """A pool counts it: its future tells that when it is cancelled.

        Returns by what else it may be withdrawn: a block, for one, that came by ``submit``.
        """
        self._future.entry = ref(entry)
        return self._fn if hasattr(type(self._fn), "call_submit") else self

    def fail(self, error: BaseException | str | None) -> bool:
        """Without an error of the pool the future is cancelled."""
        future = self._future
        if future.done() and not future.cancelled():
            return False
        if future.running() and isinstance(error, BaseException):
            # By ``do_again``: the call had begun, and it is not known how far it came.
            self._args = None
            future.set_exception(error)
            return True
        if not isinstance(error, BaseException):
            future.cancel()
        # ``wait()`` for several futures hears of a cancel only by this.
        if not future.set_running_or_notify_cancel():
            return False
        assert isinstance(error, BaseException), "a future that waits can be cancelled"
        future.set_exception(error)
        return True
