"""A strand: one task's chain of awaits, and the threads that it runs on.

The whole technique is one act, ``_set_out``: the coroutine names the place where it wants to go on
and suspends itself, chain and all. Whoever drives it at that moment (the loop's Task, or a worker
in ``drive_in_worker``) hands it over to that place, which drives it from then on::

    loop    Task.step() ──> yield ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─> Task.step()
                              │ book                                ▲
    worker                    └──> drive_in_worker() ──> yield ─────┘ resume_at(None)

A place is a ``Seat`` (a reserved worker) or None (the loop, "home"). The entries are a stack:
``threadpool()`` pushes a seat; leaving a block pops and goes to what is below. A seat whose
executor is wanted again is used again, so a task holds one worker of an executor at most.

Who may touch a strand: the one thread that drives the coroutine. The hand-over (a lock, a queue,
``call_soon_threadsafe``) passes everything on, so most fields need no lock; the few that others
touch say so. After a hand-over a driver does not look at the strand again.
"""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from concurrent.futures import Executor
from contextvars import Context, copy_context
from types import FrameType
from typing import Any, NamedTuple

from ._contexts import Tokens, carry_over, fill, is_unchanged
from ._contract import LoopSide
from ._driver import step, where_suspended
from ._errors import NOT_DRIVEN, WORKER_GONE, log
from ._outcome import Ended
from ._seat import Seat
from ._traps import stay, travel

#: Win over a cancellation when they leave the body of a block.
STRONGER = (KeyboardInterrupt, SystemExit)


#: A context manager that is entered, the place where its body runs, the id of the frame that
#: entered it, and how often the task had been cancelled by then (counted for loop parts only).
Entry = tuple[object, "Seat | None", int, int]


class Guarded(NamedTuple):
    """A guard that is entered, and what had been cancelled by then."""

    guard: object
    #: How often the task had been cancelled,
    cancels: int
    #: how often while it was away from the loop,
    seen_cancels: int
    #: and whether one of these was still to be raised.
    was_cancelled: bool


class Strand(LoopSide):
    """The part that is the same on every kind of loop; a backend adds the loop's side."""

    # Many may wait for a worker at once, so what each one has is in slots. What few of them ever
    # write is in the ``__dict__``, which does not exist before that.
    __slots__ = (
        "__dict__",
        "_entering",
        "_heading",
        "_home_values",
        "_stays",
        "_taken_over",
        "_unpack",
        "_worker_context",
        "asyncgen_hooks",
        "booking",
        "cancelled",
        "coro",
        "entries",
        "failure",
        "place",
        "worker_tokens",
    )

    #: Where the coroutine is driven now. Written by that driver.
    place: Seat | None
    #: None while the task is at home: a parked worker must not keep it alive.
    coro: Coroutine[Any, Any, Any] | None
    #: Why the last booking failed, as an error or in words. Written by the winner of its claim.
    failure: BaseException | str | None
    #: The seat that is asked for and not yet taken. Written by the thread that leaves, cleared by
    #: the winner of the claim, read by the loop thread when it cancels.
    booking: Seat | None
    #: The arguments of a cancellation that the task has not seen yet. Written by the loop thread,
    #: read by the workers.
    cancelled: tuple[Any, ...] | None

    #: Whether the workers were sent away while the task was in a block.
    is_lost = False
    #: How many cancellations came while the task was away, and the arguments of the last one that
    #: was raised, or will be: of several at once it is the first. Written by the loop thread.
    seen_cancels = 0
    seen_args: tuple[Any, ...] = ()

    #: What is entered, innermost last. Replaced as a whole, as few have more than one.
    entries: tuple[Entry, ...]
    #: The guards that are entered, in order.
    guards: tuple[Guarded, ...] = ()

    #: Where the coroutine wants to go on,
    _heading: Seat | None
    #: what it goes there to enter (None if it leaves something),
    _entering: object
    #: if that is a loop part, the id of the frame that enters it,
    _entering_in = 0
    #: and whether the worker that it leaves will get it back.
    _stays: bool

    #: The task's variables when it left the loop. Back there it is forgotten, unless the worker
    #: Context holds the same still,
    _home_values: Context | None
    #: and whether the workers have yet to take them over.
    _unpack: bool
    #: One Context for all workers of the task; made by the first.
    _worker_context: Context | None
    worker_tokens: Tokens
    #: What that had taken over when the body began to run in it.
    _taken_over: Context | None
    #: What unsets what the bodies have set on the loop.
    _home_tokens: Tokens | None = None

    def __init__(self, asyncgen_hooks: Any) -> None:
        #: As ``sys.get_asyncgen_hooks()`` gives them on the loop thread.
        self.asyncgen_hooks = asyncgen_hooks
        self.place = self.booking = self._heading = self._entering = None
        self.coro = self.failure = self.cancelled = None
        self.entries = ()
        self._stays = self._unpack = False
        self._home_values = self._worker_context = self._taken_over = None

    # In the coroutine.

    def enter(self, manager: object, executor: Executor) -> Coroutine[Any, Any, None]:
        """Go to a worker of *executor*, and push the block that begins where this is awaited."""
        place = self.place
        seat = self._seat_of(executor) if self.entries else None
        if seat is None:
            seat = Seat(executor, self, place)
        elif seat is place:
            self.entries += ((manager, seat, id(sys._getframe(2)), 0),)
            return stay()
        self._entering = manager
        return self._set_out(seat, None)

    def enter_home(self, manager: object, frame: FrameType) -> Coroutine[Any, Any, None]:
        """Go to the loop, and push the loop part."""
        if self.place is None:
            self.entries += ((manager, None, id(frame), self.count_cancels()),)
            return stay()
        self._entering = manager
        self._entering_in = id(frame)
        return self._visit_home(self._set_out(None, None), self.place)

    async def _visit_home(self, way_home: Coroutine[Any, Any, None], origin: Seat) -> None:
        await way_home
        if self.cancelled is not None:
            # It came on the way. Raised here, it would run the ``finally`` of the body, which
            # belongs to the worker, on the loop. So it is raised over there.
            self._entering = None
            await self._set_out(origin, None)
        *below, entry = self.entries
        self.entries = (*below, (*entry[:3], self.count_cancels()))

    def leave(self, manager: object, error: BaseException | None) -> Coroutine[Any, Any, None]:
        """Pop the innermost entry, whose body ended with *error*, and go to where it began."""
        if self.entries[-1][0] is not manager:
            self._make_innermost(manager)
        entries = self.entries
        below = entries[-2][1] if len(entries) > 1 else None
        if below is self.place:
            self.entries = entries[:-1]
            return stay()
        if (
            self.place is None
            and error is not None
            and self.is_cancellation(error)
            and self.cancelled is None
            and self.count_cancels() > entries[-1][3]
        ):
            # Who swallows it on the worker meets it again. (What is swallowed within the loop part
            # belongs to the await that raised it: then nothing leaves.)
            self.cancelled = error.args
        self._entering = None
        return self._set_out(below, error)

    def has_entered(self, manager: object) -> bool:
        entries = self.entries
        if not entries:
            return False
        return entries[-1][0] is manager or any(entry[0] is manager for entry in entries)

    def is_closing(self, manager: object, frame: FrameType | None) -> bool:
        """Whether the GeneratorExit that leaves *manager* in *frame* is raised in this task.

        If not, the garbage collector closes a coroutine that everybody forgot. It does so in any
        thread, in the middle of anything, and both may have entered the same object. Then the
        frame that entered it for this task is still inside, further up the stack.
        """
        entered = next((entry[2] for entry in reversed(self.entries) if entry[0] is manager), None)
        if entered is None or frame is None:
            return False
        if id(frame) == entered:
            return True
        while (frame := frame.f_back) is not None:
            if id(frame) == entered:
                return False
        return True  # Entered by a helper that has returned, AsyncExitStack for one.

    def _make_innermost(self, manager: object) -> None:
        """Blocks that are left in the wrong order swap their managers: places stay a stack."""
        entries = list(self.entries)
        at = next(at for at, entry in enumerate(entries) if entry[0] is manager)
        entries[at], entries[-1] = (
            (entries[-1][0], *entries[at][1:]),
            (manager, *entries[-1][1:]),
        )
        self.entries = tuple(entries)

    def _is_below(self, place: Seat) -> bool:
        """Whether the task needs *place* again when it has left the innermost block."""
        return any(entry[1] is place for entry in self.entries[:-1])

    def _seat_of(self, executor: Executor) -> Seat | None:
        """The worker of *executor* that this task holds already, parked or not."""
        for _, place, _, _ in self.entries:
            if place is not None and place.executor is executor:
                return place
        return None

    def _set_out(
        self, target: Seat | None, error: BaseException | None
    ) -> Coroutine[Any, Any, None]:
        """Go on at *target*, to enter what ``_entering`` says.

        Or, if that is None, to leave the innermost block, which ended with *error*. What is to be
        awaited for it suspends the task at once.
        """
        self._heading = target
        origin = self.place
        if origin is None:
            # Others may change the task's variables meanwhile, if they share its Context.
            values, last = copy_context(), self._home_values
            self._unpack = last is None or not is_unchanged(values, last)
            self._home_values = values
            return self.leave_home(error)
        if self._entering is None:
            self._stays = len(self.entries) > 1 and self._is_below(origin)
        else:
            if self.cancelled is not None:
                raise self.cancellation()
            self._stays = True
        return travel(self, error)

    def arrive(self, error: BaseException | None) -> None:
        """In the thread where the task goes on, which should be the one that it set out for.

        Nothing is pushed or popped before it is there: if something in between swallows the
        switch, the strand is as it was.
        """
        target, manager = self._heading, self._entering
        if manager is None:
            entered_in = 0
        elif target is None:
            entered_in = self._entering_in
        else:
            # Only now: who has asked for its frame keeps it, and many may wait for a worker.
            frame = sys._getframe(2)
            entered_in = id(frame)
            target.note_line(frame)
        if self.place is not target:
            raise self._why_not_moved()
        if target is None:
            self._bring_home()
        if manager is not None:
            self.entries += ((manager, target, entered_in, 0),)
        else:
            self.entries = self.entries[:-1]
            if self.cancelled is not None:
                self._raise_cancellation(error)

    def _bring_home(self) -> None:
        """On the loop: write the variables that the body changed."""
        context, taken_over = self._worker_context, self._taken_over
        assert context is not None, "made by the worker that the task comes from"
        assert taken_over is not None, "by the same"
        if not is_unchanged(context, taken_over):
            values, self._home_values = self._home_values, None
            assert values is not None, "kept since the task left the loop"
            if self._home_tokens is None:
                self._home_tokens = {}
            carry_over(context, values, self._home_tokens)

    def _why_not_moved(self) -> BaseException:
        failure, self.failure = self.failure, None
        if self.place is None:
            self._home_values = None
        if self.cancelled is not None:
            error = self.cancellation()
            if self.place is None:
                self.cancelled = None
            return error
        if isinstance(failure, BaseException):
            return failure
        seat = self.place if self._entering is None else self._heading
        block = "the block" if seat is None else f"the block at {seat.where()}"
        return RuntimeError(f"{block} cannot go on: {failure or NOT_DRIVEN}")

    def _raise_cancellation(self, error: BaseException | None) -> None:
        """At the exit of a block that ended with *error*: the task was cancelled meanwhile.

        On the loop this delivers the cancellation. In a worker, at the exit of a block that was
        nested in one of another executor, it stays: whoever swallows it there meets it again.
        """
        cancellation = self.cancellation()
        if self.place is None:
            self.cancelled = None
        same = type(error) is type(cancellation) and error.args == cancellation.args
        if same or isinstance(error, STRONGER):
            return
        try:
            raise cancellation
        finally:
            # The error refers to this frame, which must not refer to the error.
            del cancellation, error

    # In the thread that drives the coroutine, which is suspended in ``travel``.

    def depart_from_home(self) -> None:
        """In the loop thread: hand the task over to the place where it wants to go."""
        target = self._heading
        assert target is not None, "a task that is at home does not ask to go there"
        if self._entering is not None and self.cancelled is not None:
            # Cancelled before it could leave. A worker might be fast enough to begin the body.
            self.resume_at(None)
        elif not target.is_taken():
            target.book()
        elif not target.open_gate():
            self.failure = WORKER_GONE
            self.resume_at(None)

    def drive_in_worker(self, seat: Seat) -> bool:
        """Resume the task here, until it leaves. True if it will come back to this seat."""
        self.place = seat
        problem = self._take_over() if self._unpack else None
        coro, context = self.coro, self._worker_context
        assert coro is not None, "the coroutine of a task that is away from home is known"
        assert context is not None, "made when it took over for the first time"
        ended = context.run(step, coro, self, problem)
        del coro
        if ended is not None:
            self._end_in_worker(ended)
            return False
        target, stays = self._heading, self._stays
        if stays:
            seat.close_gate(None if target is None else target.executor)
        # From here on the task is not ours: the next driver may have it before the call returns.
        if target is None:
            self.coro = None
            if stays:
                self.watch_task()
            self.post_home()
        elif not target.is_taken():
            target.book()
        elif not target.open_gate():
            self.lose()
        return stays

    def _take_over(self) -> BaseException | None:
        """Give the worker Context the variables of the task. What went wrong is for the task."""
        self._unpack = False
        context, values = self._worker_context, self._home_values
        assert values is not None, "kept since the task left the loop"
        problem = None
        try:
            # If a variable cannot be unset, start anew. Tokens from here are worth nothing then,
            # but values come first. It takes another task that shares the Context to come to this.
            if context is None or not context.run(carry_over, values, context, self.worker_tokens):
                context = self._worker_context = Context()
                self.worker_tokens = {}
                context.run(fill, values, self.worker_tokens)
        except BaseException as exc:
            problem = exc
        assert context is not None, "made here if there was none"
        self._taken_over = context.copy()
        return problem

    def resume_at(self, origin: Seat | None) -> None:
        """In any thread, by the winner of a claim: the booking failed, the task goes on here."""
        if origin is None:
            self.coro = None
            self.post_home()
        elif not origin.open_gate():
            self.lose()

    def _end_in_worker(self, ended: Ended) -> None:
        """The coroutine came to its end, and was still inside of blocks."""
        log.warning(
            "a task ended inside the block at %s, and is finished from there. Did an async "
            "generator yield inside of it, and was it not closed? Iterate it under "
            "contextlib.aclosing()",
            self.where(),
        )
        self.let_go()
        self.post_end(ended)

    def left_for_home(self, seat: Seat) -> bool:
        """In a parked worker: whether the task went from *seat* to the loop."""
        entries = self.entries
        innermost = next((place for _, place, _, _ in reversed(entries) if place is not None), None)
        return bool(entries) and entries[-1][1] is None and innermost is seat

    def where(self) -> str:
        """The ``file:line`` of the innermost block."""
        for _, place, _, _ in reversed(self.entries):
            if place is not None:
                return place.where()
        return where_suspended(self.coro)

    def let_go(self) -> None:
        """Let go of the coroutine and of all workers: this task has no way back to them."""
        self.is_lost = True
        places = {entry[1] for entry in self.entries}
        self.entries = ()
        self.coro = self._home_values = self._taken_over = None
        for place in places:
            if place is not None:
                place.abandon()
