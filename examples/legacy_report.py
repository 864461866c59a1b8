"""Legacy code that swallows every error, and a client that does not wait for ever.

A report is written chapter by chapter, each within a bare `except:`. A chapter takes some work of
a thread, and a figure that an office on the event loop is asked for. One figure never comes, and
the client gives up: `asyncio.timeout()` cancels the task. Three handlers run the report inline in
a block, and the table shows what becomes of that: who sees the cancellation, how much the worker
still does before it is free, and what the client gets.

`python legacy_report.py --selftest` prints the table, and fails where it is not as promised.
"""

import argparse
import asyncio
import faulthandler
import hashlib
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

from threadhop import cancellation_guard, check_cancelled, eventloop, exec_in_eventloop, threadpool

CHAPTERS = 8
SILENT = 2  # the chapter whose figure never comes
PATIENCE = 0.05  # seconds that the client waits for it
LIMIT = 10  # seconds for what should take none

Report = list[str]


class Witness:
    """`with Witness(name, saw):` adds *name* to *saw* if a cancellation comes out of the body."""

    def __init__(self, name: str, saw: list[str]) -> None:
        self._name, self._saw = name, saw

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._saw.append(self._name)


@dataclass
class Sources:
    """What a report is made from. It remembers what it was asked for, and who was cancelled."""

    checks: bool
    silent: int | None
    patience: asyncio.Timeout | None = None
    worked: list[int] = field(default_factory=list)
    saw: list[str] = field(default_factory=list)

    def work(self, chapter: int) -> str:
        """On the worker, which it keeps busy."""
        self.worked.append(chapter)
        return hashlib.pbkdf2_hmac("sha256", b"%d" % chapter, b"salt", 2_000).hex()

    async def figure(self, chapter: int) -> int:
        """On the loop."""
        with Witness("office", self.saw):
            if chapter == self.silent:
                # Only now the client's patience begins to end, however slow this machine is.
                assert self.patience is not None
                self.patience.reschedule(asyncio.get_running_loop().time() + PATIENCE)
                await asyncio.Event().wait()
            await asyncio.sleep(0)
        return chapter * 100

    def checkpoint(self) -> None:
        """On the worker: the one line that the legacy code may get."""
        if self.checks:
            with Witness("check", self.saw):
                check_cancelled()


# The legacy code.


def write_report(sources: Sources) -> Report:
    """A plain function: no `async with` can stand in it, so it calls the loop."""
    pages = []
    for chapter in range(CHAPTERS):
        sources.checkpoint()  # before the `try`: in it, its error would be swallowed, too
        try:
            work = sources.work(chapter)
            figure = exec_in_eventloop(sources.figure, chapter)
            pages.append(f"{chapter}: {work} {figure}")
        except:  # noqa: E722 - what this example is about
            pages.append(f"{chapter}: not available")
    return pages


async def write_report_with_loop_parts(sources: Sources) -> Report:
    """The same as an async function: it goes to the loop, and awaits there."""
    pages = []
    for chapter in range(CHAPTERS):
        sources.checkpoint()
        try:
            work = sources.work(chapter)
            async with eventloop():
                figure = await sources.figure(chapter)
            pages.append(f"{chapter}: {work} {figure}")
        except:  # noqa: E722 - as above
            pages.append(f"{chapter}: not available")
    return pages


# Two ways to run it inline.

Runner = Callable[[Executor, Sources], Awaitable[Report]]


async def with_calls(executor: Executor, sources: Sources) -> Report:
    with Witness("block", sources.saw):
        async with threadpool(executor):
            return write_report(sources)


async def with_loop_parts(executor: Executor, sources: Sources) -> Report:
    with Witness("block", sources.saw):
        async with threadpool(executor):
            return await write_report_with_loop_parts(sources)


# Three handlers.

Handler = Callable[[Runner, Executor, Sources], Awaitable[Report]]


async def trusting(run: Runner, executor: Executor, sources: Sources) -> Report:
    """What is swallowed within the block, the exit of the block raises again."""
    return await run(executor, sources)


async def swallowing(run: Runner, executor: Executor, sources: Sources) -> Report:
    """This one stands outside of the block, and swallows that as well. Now the error is lost."""
    try:
        return await run(executor, sources)
    except:  # noqa: E722 - as above
        return ["no report today"]


async def guarded(run: Runner, executor: Executor, sources: Sources) -> Report:
    """The same, but the guard knows that the task was cancelled, and says so at its exit."""
    with Witness("guard", sources.saw):
        async with cancellation_guard():
            return await swallowing(run, executor, sources)


# What each of them promises, without and with the line `check_cancelled()`.


@dataclass
class Outcome:
    saw: str
    #: How many chapters the worker began after the cancellation, before it was free.
    late: int
    client_got: str


REST = CHAPTERS - SILENT - 1
HANDLERS: dict[str, tuple[Handler, Outcome, Outcome]] = {
    "block": (
        trusting,
        Outcome("office, block", REST, "TimeoutError"),
        Outcome("office, check, block", 0, "TimeoutError"),
    ),
    "except: block": (
        swallowing,
        Outcome("office, block", REST, "no report today"),
        Outcome("office, check, block", 0, "no report today"),
    ),
    "guard: except: block": (
        guarded,
        Outcome("office, block, guard", REST, "TimeoutError"),
        Outcome("office, check, block, guard", 0, "TimeoutError"),
    ),
}
RUNNERS: dict[str, Runner] = {"calls": with_calls, "loop parts": with_loop_parts}


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def ask(handler: Handler, run: Runner, executor: Executor, sources: Sources) -> str:
    """The client."""
    try:
        async with asyncio.timeout(None) as sources.patience:
            return "\n".join(await handler(run, executor, sources))
    except TimeoutError:
        return "TimeoutError"


async def ensure_free(executor: Executor, workers: int) -> None:
    """All workers are in a block at once, so none of them is still with a report."""
    meeting = threading.Barrier(workers)

    async def meet() -> None:
        async with threadpool(executor):
            meeting.wait(LIMIT)

    met = await asyncio.gather(*(meet() for _ in range(workers)), return_exceptions=True)
    ensure(not any(met), "a worker is held")


async def selftest() -> None:
    """Runs each handler in each way, first with an office that always answers."""
    line = "{:<20}   {:<10}   {:<15}   {:<27}   {:<17}   {}"
    print(line.format("handler", "asks by", "check_cancelled", "cancellation seen by",
                      "worker free after", "client got"))  # fmt: skip
    reference = Sources(checks=False, silent=None)
    pages = [f"{chapter}: {reference.work(chapter)} {chapter * 100}" for chapter in range(CHAPTERS)]
    with ThreadPoolExecutor(2, "worker") as executor:
        for name, (handler, *expected) in HANDLERS.items():
            for checks, promised in zip((False, True), expected, strict=True):
                for way, run in RUNNERS.items():
                    sources = Sources(checks, silent=None)
                    got = await ask(handler, run, executor, sources)
                    ensure(got == "\n".join(pages), f"{name}, nobody cancelled: {got}")
                    ensure(not sources.saw, f"{name}: {sources.saw} saw what did not happen")

                    sources = Sources(checks, SILENT)
                    got = await ask(handler, run, executor, sources)
                    late = len(sources.worked) - SILENT - 1
                    outcome = Outcome(", ".join(sources.saw), late, got)
                    await ensure_free(executor, 2)
                    print(line.format(name, way, "yes" if checks else "no", outcome.saw,
                                      f"{late} more chapters", got))  # fmt: skip
                    ensure(outcome == promised, f"{name}, {way}: {outcome}, not {promised}")
                    ensure(len(sources.worked) == SILENT + 1 + late, "the work went on after that")
    print("each handler does what it promises")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--selftest", action="store_true", help="all that this program can do")
    parser.parse_args()
    faulthandler.dump_traceback_later(60, exit=True)  # a lost wake-up would be a hang
    asyncio.run(selftest())


if __name__ == "__main__":
    main()
