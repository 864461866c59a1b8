"""What a strand asks of its event loop: a backend for each kind of loop answers.

The strand knows threads, places and context variables, and is the same everywhere. How a task
leaves its loop and is woken again, and what a cancellation is there, is told here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from ._outcome import Outcome

if TYPE_CHECKING:
    from ._strand import Strand
    from ._variables import Tokens


class Suspension(ABC):
    """A task that waits: on its loop, or to go on in a parked worker. One for each time it leaves.

    What may happen to it, and who may call:

    - ``resume()``, from any thread, any number of times, also at once. The first call that gets
      through resumes the task; for all others the task is gone, and they do nothing. So whoever
      was interrupted in the middle of a hand-over may simply repeat it.
    - nothing more. A task that nobody resumes waits until it is cancelled, or its loop is closed.

    The thread that calls ``resume()`` must not look at the strand after it: another thread may
    drive the task before the call returns.
    """

    __slots__ = ()

    @abstractmethod
    def resume(self) -> None:
        """In any thread: have the task go on where it waits. At most once takes effect."""


class LoopSuspension(Suspension):
    """A task that is suspended on its loop while it is away: from its departure to its return."""

    __slots__ = ()

    @abstractmethod
    def finish(self, ended: Outcome) -> None:
        """In a worker: have the loop finish the task, whose coroutine is at its end."""

    @abstractmethod
    def forget_task(self) -> None:
        """In any thread: the task will never be resumed."""

    @abstractmethod
    def watch_task(self) -> Callable[[], bool]:
        """In a worker that has the task: return what tells whether the task has ended.

        It does not keep the task alive.
        """

    @abstractmethod
    def count_cancels(self) -> int:
        """In a worker that has the task: how often it was cancelled, and that was not undone."""


class Loop(ABC):
    """An event loop, for all its tasks."""

    __slots__ = ()

    #: As ``sys.get_asyncgen_hooks()`` gives them on the loop thread.
    asyncgen_hooks: tuple[Any, ...]

    @abstractmethod
    def suspend(self, strand: Strand) -> LoopSuspension:
        """In the coroutine, on the loop: what the task yields to wait.

        Once the task is suspended the loop calls ``strand.leave_loop()``.
        """

    @abstractmethod
    def deliver_soon(self, entry: Any) -> None:
        """In any thread: have ``entry.deliver()`` called on the loop, by no step of a task.

        If the loop is closed, ``entry.abandon()`` is called.
        """

    @abstractmethod
    def is_closed(self) -> bool:
        """In any thread."""

    @abstractmethod
    def is_gone(self) -> bool:
        """In any thread: whether no task comes back from the loop any more."""

    @abstractmethod
    def default_executor(self, strand: Strand) -> Executor:
        """In the coroutine: the loop's own executor. A worker may have to wait for it."""

    @abstractmethod
    def cancellation(self, why: Any) -> BaseException:
        """A new error of the kind by which this loop cancels.

        *why* is what the loop handed to ``CancelToken.request``, or a message.
        """

    @abstractmethod
    def is_cancellation(self, error: BaseException | None) -> bool:
        """Whether *error* is of that kind."""

    @abstractmethod
    def why(self, error: BaseException) -> Any:
        """What ``cancellation`` makes an error like *error* of."""

    @abstractmethod
    def count_cancels(self) -> int:
        """In the coroutine, on the loop: as ``LoopSuspension.count_cancels``."""

    @abstractmethod
    def let_pending_cancellation_out(self) -> Coroutine[Any, Any, None]:
        """In the coroutine, on the loop: raise a cancellation that the task was not told yet."""

    @abstractmethod
    def run(self, strand: Strand, func: Callable[[], Any], tokens: Tokens) -> Any:
        """In a worker of *strand*: call *func* on the loop, and wait.

        *tokens* belongs to the current Context.
        """
