"""What a strand asks of its event loop: a backend for each kind of loop answers.

The strand knows threads, places and context variables, and is the same everywhere. How a task
leaves its loop and is woken again, and what a cancellation is there, is told here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any

from ._outcome import Ended


class LoopSide(ABC):
    """The part of a strand that depends on the loop."""

    __slots__ = ()

    @abstractmethod
    def leave_home(self, error: BaseException | None, /) -> Coroutine[Any, Any, None]:
        """In the coroutine: suspend the task on its loop, which calls ``depart_from_home``.

        When it is resumed, wherever that is: ``arrive(error)``.
        """

    @abstractmethod
    def post_home(self) -> None:
        """In any thread: have the loop resume the task."""

    @abstractmethod
    def post_end(self, ended: Ended) -> None:
        """In a worker: have the loop finish the task, whose coroutine is at its end."""

    @abstractmethod
    def lose(self) -> None:
        """In any thread: the loop is closed, so the task will never be resumed."""

    @abstractmethod
    def watch_task(self) -> None:
        """In a worker that will park: have ``home_is_gone`` tell when the task has ended, too."""

    @abstractmethod
    def home_is_closed(self) -> bool:
        """In any thread: whether the loop is closed."""

    @abstractmethod
    def home_is_gone(self) -> bool:
        """In any thread: whether the task can never come back from the loop any more."""

    @abstractmethod
    def get_loop(self) -> Any:
        """The loop itself."""

    @abstractmethod
    def default_executor(self) -> Executor:
        """In the coroutine: the loop's own executor. A worker may have to wait for it."""

    @abstractmethod
    def cancellation(self, args: tuple[Any, ...] | str | None = None) -> BaseException:
        """A new error of the kind by which this loop cancels; by default with ``cancelled``."""

    @abstractmethod
    def is_cancellation(self, error: BaseException | None) -> bool:
        """Whether *error* is of that kind."""

    @abstractmethod
    def count_cancels(self) -> int:
        """In the coroutine: how often the task has been cancelled, and that was not undone."""

    @abstractmethod
    async def let_pending_cancellation_out(self) -> None:
        """In the coroutine, at home: raise a cancellation that the task has not been told yet."""

    @abstractmethod
    def call_home(self, func: Callable[[], Any]) -> Any:
        """In the worker: call *func* on the loop, and wait."""
