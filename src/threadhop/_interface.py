"""The interfaces between strands, event loops and the jobs of blocks.

A strand knows threads, context variables and the stack of what is entered, and is the same for
every loop library. ``Loop`` and ``LoopSuspension`` are what it asks of one: how a task leaves its
loop and is woken again, and what a cancellation is there. Each library has them in a file of
``_loops``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Protocol

from ._cancel_token import CancelToken
from ._outcome import Outcome
from ._variables import TaskVariables, Tokens


class Suspension(ABC):
    """A task that waits: on its loop, or to go on in a parked worker. One for each departure.

    This is the contract of all ways back:

    - ``resume()`` may be called in any thread, any number of times, also at the same time. The
      first call that gets through resumes the task. For all others the task is gone, and they do
      nothing. So a hand-over that was interrupted half-way is simply repeated.
    - The thread that calls ``resume()`` does not look at the strand after it. Another thread may
      drive the task before the call returns; two threads in one coroutine would be the end of it.
    - A task that nobody resumes waits until its loop is closed, or for ever. So every path out of
      a departure ends in ``resume()``: the claim of the job decides which one, and a failure that
      was interrupted is finished by the next one that looks (see ``_block_job``).
    - A cancellation does not resume. It goes to the ``CancelToken``, which fails a queued job (and
      so resumes the task), or is raised when a body that runs has come to its end.
    """

    __slots__ = ()

    @abstractmethod
    def resume(self) -> None:
        """In any thread: have the task go on where it waits. At most once takes effect."""


class ParkedJob(Protocol):
    """The job of a block whose worker waits for its task."""

    def unpark(self, suspension: WorkerSuspension) -> None:
        """In the thread that has the task: have the worker go on with it."""
        ...


class WorkerSuspension(Suspension):
    """A task that is to go on in a parked worker."""

    __slots__ = ("__dict__", "_job", "_strand")

    def __init__(self, job: ParkedJob, strand: AnyStrand) -> None:
        self._job = job
        self._strand = strand

    def resume(self) -> None:
        self._job.unpark(self)

    def take(self, taker: object) -> AnyStrand | None:
        """The task, for the first *taker*: the worker, or the thread that finds the worker gone.

        None for all others. May be repeated.
        """
        return self._strand if self.__dict__.setdefault("taker", taker) is taker else None


class LoopSuspension(Suspension):
    """A task that is suspended on its loop while it is away: from its departure to its return.

    What the coroutine yields to the loop leads the loop to this object. Its duties:

    - when the coroutine is suspended: set ``strand.coro``, call ``strand.leave_loop()``; if that
      raises, ``strand.leaving_failed(error)``
    - when the loop cancels the task: ``self.note_cancel(strand, why)``
    - to go on, on the loop: ``strand.coro = None``, ``strand.arrive(None)``,
      ``strand.serve_departures()``, ``strand.suspension = None``, then resume the coroutine
    """

    __slots__ = ()

    def note_cancel(self, strand: AnyStrand, why: Any) -> None:
        """On the loop: note the cancellation of the task, and give up a job that waits.

        May run in a signal handler: it waits for no lock. The job and the cancellation find each
        other as in ``_cancel_token``: the job's mark is ``since``.
        """
        strand.token.request(why)
        job = strand.target
        if job is not None and job.since:
            job.fail(None)

    @abstractmethod
    def finish(self, outcome: Outcome) -> None:
        """In a worker: have the loop finish the task, whose coroutine is at its end."""

    @abstractmethod
    def forget_task(self) -> None:
        """In any thread: the task will never be resumed."""

    @abstractmethod
    def watch_task(self) -> Callable[[], bool]:
        """In a worker that has the task: return what tells whether the task has ended.

        The function does not keep the task alive.
        """

    @abstractmethod
    def count_cancels(self) -> int:
        """In a worker that has the task: how often it was cancelled, and that was not undone."""


class Loop(ABC):
    """An event loop, for all its tasks."""

    __slots__ = ()

    #: For the threads that run code of its tasks: as ``sys.set_asyncgen_hooks()`` takes them.
    asyncgen_hooks: tuple[Any, ...]
    #: The name of the library, as users write it.
    library: str
    #: Runs a coroutine to its end, in the worker of the call that comes first. None: an asyncio
    #: loop of the thread's own does.
    run_coroutine: Callable[[Any, Coroutine[Any, Any, Any]], Any] | None = None

    @abstractmethod
    def suspend(self, strand: AnyStrand) -> object:
        """In the coroutine, on the loop: return what the task yields to wait.

        Sets ``strand.suspension``. Once the task is suspended the loop calls
        ``strand.leave_loop()``.
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
    def default_executor(self, strand: AnyStrand) -> Executor:
        """In the coroutine: the loop's own executor. A worker may have to wait for it."""

    @abstractmethod
    def cancellation(self, why: Any) -> BaseException:
        """A new error of the kind by which this loop cancels.

        *why* is what the loop handed to ``CancelToken.request`` (asyncio: the arguments of a
        CancelledError; trio: what raises the Cancelled), or a message.
        """

    @abstractmethod
    def is_cancellation(self, error: BaseException | None) -> bool:
        """Whether *error* is of that kind."""

    @abstractmethod
    def why(self, error: BaseException) -> Any:
        """The *why* of which ``cancellation`` makes an error like *error*."""

    @abstractmethod
    def count_cancels(self) -> int:
        """In the coroutine, on the loop: as ``LoopSuspension.count_cancels``."""

    @abstractmethod
    def checkpoint(self) -> Awaitable[Any]:
        """In the coroutine, on the loop: let others have a turn."""

    @abstractmethod
    def let_pending_cancellation_out(self) -> Coroutine[Any, Any, None]:
        """In the coroutine, on the loop: raise a cancellation that the task was not told yet."""

    @abstractmethod
    def run(self, caller: Any, func: Callable[[], Any], tokens: Tokens) -> Any:
        """In a worker of *caller*, a ``_job.Caller``: call *func* on the loop, and wait.

        *tokens* belongs to the current Context.
        """

    # For those who look what runs where. In any thread.

    #: The thread that runs the loop.
    thread: threading.Thread | None = None

    def is_running(self) -> bool:
        return True

    def name_of(self, strand: AnyStrand) -> str:
        """The name of the task, which is away or was."""
        return "a task"

    def coroutine_of(self, strand: AnyStrand) -> Any:
        """The coroutine of the task, which is away or was; None if the loop does not know it."""
        return strand.coro


class AnyStrand(Protocol):
    """A ``Strand``, as its loop, its jobs and the traps see it."""

    loop: Loop
    token: CancelToken
    variables: TaskVariables
    suspension: LoopSuspension | None
    #: Jobs are ``BlockJob``; None is the loop.
    job: Any
    target: Any
    coro: Coroutine[Any, Any, Any] | None
    entries: tuple[Any, ...]
    entering: object
    refusal: BaseException | None
    departures: tuple[Any, ...]
    calling: Any
    seen_cancels: int
    task_has_ended: Callable[[], bool] | None

    # In the coroutine.
    def suspend_on_loop(self) -> object: ...
    def turn_back(self, error: BaseException) -> Generator[Any, None, None]: ...
    def cancellation(self, why: Any = None) -> BaseException: ...

    # In the loop thread.
    def leave_loop(self) -> None: ...
    def leaving_failed(self, error: BaseException) -> bool: ...
    def serve_departures(self) -> None: ...

    # In the thread that drives the coroutine.
    def arrive(self, job: Any) -> None: ...
    def drive(self, job: Any) -> bool: ...
    def run_on_loop(self, func: Callable[[], Any]) -> Any: ...

    # In any thread.
    def is_gone(self) -> bool: ...
    def is_in_loop_part_of(self, job: Any) -> bool: ...
    def worker_is_gone(self) -> None: ...
    def abandon(self) -> None: ...
