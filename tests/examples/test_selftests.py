"""The programs in ``examples/`` prove themselves, and would notice if something were wrong.

(Those that need more than this have a file of their own.)
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest
from helpers.examples import Example


class Case(NamedTuple):
    #: The last line of the self-test, if all is right.
    verdict: str
    #: The modules that it needs.
    needs: tuple[str, ...]
    #: Before a self-test that must fail: it waits less.
    hurry: str
    #: The lines that spoil it, and what the self-test says then.
    spoils: dict[str, tuple[str, str]]


#: The self-test of a program that is spoilt.
SPOILT = """
import asyncio, contextlib, sys, tempfile, threading, types
sys.argv[1:] = ["--selftest"]
{hurry}
{spoil}
example.main()
"""

CASES = {
    "aiohttp_files": Case(
        "every file is right, and nothing is left behind",
        ("aiohttp",),
        "example.PATIENCE, example.ZEROS = 1, 2 << 30",
        {
            "nobody cancels a handler": (
                "example.HANDLER_CANCELLATION = False",
                "WRONG: a hash that nobody waits for holds a worker",
            ),
            "the partial file stays": (
                "example.os.unlink = lambda path: None",
                "WRONG: a rest is on the disk: ['.part-",
            ),
            "an upload is cut off": (
                """
named = tempfile.NamedTemporaryFile
def cut_off(**options):
    file = named(**options)
    file.write = lambda chunk: None
    return file
example.tempfile.NamedTemporaryFile = cut_off
        """,
                "WRONG: the content of n0",
            ),
            "the loop does the work": (
                """
example.threadpool = lambda *_: contextlib.nullcontext()
example.eventloop = contextlib.nullcontext
fsync = example.os.fsync
def slow(file):
    fsync(file)
    threading.Event().wait(0.1)
example.os.fsync = slow
        """,
                "WRONG: the loop stood still for ",
            ),
        },
    ),
    "anyio_service": Case(
        "everybody was told, once, and nothing is left behind",
        ("starlette", "uvicorn"),
        "example.PATIENCE = 2",
        {
            "a report does not ask": (
                "example.check_cancelled = lambda: None",
                "WRONG: the report of /watched was returned",
            ),
            "nobody watches the client": (
                "example.while_the_client_stays = lambda request: contextlib.nullcontext()",
                "WRONG: the report of /watched was returned",
            ),
            "anyio cancels on each turn": (
                """
from threadhop._loops import _anyio_scopes
_anyio_scopes.is_in_scope = lambda: False
        """,
                "WRONG: the task of /watched was cancelled ",
            ),
            "a worker is held": (
                """
counted = threading.Event()
check, count = example.check, example.count_free_workers

async def check_and_hold(port, path, stays, outcome, service):
    await check(port, path, stays, outcome, service)
    if path == "/limited":
        service._executor.submit(counted.wait)

async def count_free_workers(executor):
    example.PATIENCE = 0.5
    try:
        return await count(executor)
    finally:
        counted.set()

example.check, example.count_free_workers = check_and_hold, count_free_workers
        """,
                "WRONG: a worker is held",
            ),
        },
    ),
    "bot_worker": Case(
        "every message came to its end, and nothing is left behind",
        ("requests",),
        """
example.PATIENCE = 4
# A request that nobody ends would hold up the end of the process.
post = example.requests.Session.post
example.requests.Session.post = lambda self, *args, timeout, **options: post(
    self, *args, timeout=3, **options
)
""",
        {
            "the socket is not shut down": (
                "example.Client.abort = lambda self: None",
                "WRONG: it took ",
            ),
            "there is no second try": (
                "example.TRIES = 1",
                "WRONG: not all were delivered",
            ),
            "the workers are not ended": (
                """
class Kept(example.WorkerPool):
    def __exit__(self, *_):
        pass
example.WorkerPool = Kept
        """,
                "WRONG: these workers are left: ['http_",
            ),
        },
    ),
    "django_async_view": Case(
        "every order is right, and nothing is left behind",
        ("django", "uvicorn"),
        "",
        {
            "nothing is rolled back": (
                "example.transaction.atomic = contextlib.nullcontext",
                "WRONG: 50 orders, 0 copies are left",
            ),
            "the worker does not know the language": (
                "example.translation.override = contextlib.nullcontext",
                ", in the block",
            ),
            "the worker does not know the time zone": (
                "example.timezone.override = contextlib.nullcontext",
                ", in the block",
            ),
            "the language is lost after the block": (
                """
of_django = example.translation
example.translation = types.SimpleNamespace(
    get_language=of_django.get_language,
    override=of_django.override,
    activate=lambda language: None,
)
        """,
                " became en",
            ),
            "nobody closes old connections": (
                "example.close_old_connections = lambda: None",
                "WRONG: after a restart of the database: ",
            ),
            "the report does not ask": (
                "example.check_cancelled = lambda: None",
                "WRONG: the report went on without its client",
            ),
        },
    ),
    "legacy_report": Case(
        "each handler does what it promises",
        (),
        """
with_calls, threadpool = example.with_calls, example.threadpool
ensure_free = example.ensure_free
""",
        {
            "the guard does nothing": (
                "example.cancellation_guard = contextlib.nullcontext",
                "WRONG: guard: except: block, calls: Outcome(saw='office, block', late=5, client",
            ),
            "the check does nothing": (
                "example.check_cancelled = lambda: None",
                "WRONG: block, calls: Outcome(saw='office, block', late=5, client_got='Time",
            ),
            "the block forgets what was swallowed in it": (
                """
@contextlib.asynccontextmanager
async def forgetful(executor):
    with contextlib.suppress(asyncio.CancelledError):
        async with threadpool(executor):
            yield

example.threadpool = forgetful
        """,
                "WRONG: block, calls: Outcome(saw='office', late=5, client_got='0: ",
            ),
            "the figures are wrong": (
                "example.exec_in_eventloop = lambda func, chapter: 7",
                "WRONG: block, nobody cancelled: 0: ",
            ),
            "a worker is held": (
                """
looked = threading.Event()

async def hold(executor, sources):
    try:
        return await with_calls(executor, sources)
    finally:
        if sources.silent is not None:  # once: the other worker is free
            executor.submit(looked.wait)

async def look(executor, workers):
    example.LIMIT = 1
    try:
        await ensure_free(executor, workers)
    finally:
        looked.set()

example.RUNNERS["calls"], example.ensure_free = hold, look
        """,
                "WRONG: a worker is held",
            ),
        },
    ),
    "trio_block": Case(
        "every row is right, and nothing is left behind",
        ("trio",),
        "example.ROWS = 100",
        {
            "the database is read on trio": (
                "example.threadpool = example.eventloop = lambda *_: contextlib.nullcontext()",
                "WRONG: the database was used on {'MainThread'}",
            ),
            "one row is another": (
                """
fill = example.fill
def spoil(database, count):
    fill(database, count)
    with example.closing(example.sqlite3.connect(database)) as db, db:
        db.execute("UPDATE readings SET celsius = 99.0 WHERE id = 7")
example.fill = spoil
        """,
                "WRONG: the rows above",
            ),
            "the connection stays open": (
                """
class Left(contextlib.nullcontext):
    pass
closing, example.closing = example.closing, lambda db: (
    Left(db) if type(db).__name__ == "Connection" and type(db).__module__ == "trio_block"
    else closing(db)
)
        """,
                "WRONG: a handler that was cut off keeps its connection",
            ),
        },
    ),
}

#: Those whose libraries are of the extra of that name.
LIBRARIES = {"aiohttp_files", "bot_worker", "django_async_view"}


def of(name: str, *values: str) -> Any:
    """A parameter: the *name*, and more."""
    missing = [module for module in CASES[name].needs if find_spec(module) is None]
    marks = [pytest.mark.skipif(bool(missing), reason=f"needs {missing}, not installed here")]
    if name in LIBRARIES:
        marks.append(pytest.mark.libraries)
    return pytest.param(name, *values, marks=marks, id=", ".join((name, *values)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", [of(name) for name in CASES])
def test_the_selftest_passes(name: str) -> None:
    Example(name, CASES[name].verdict).check_selftest()


@pytest.mark.spoils
@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "spoilt"), [of(name, spoilt) for name in CASES for spoilt in CASES[name].spoils]
)
def test_the_selftest_fails_when(name: str, spoilt: str) -> None:
    case = CASES[name]
    spoil, message = case.spoils[spoilt]
    source = SPOILT.format(hurry=case.hurry, spoil=spoil)
    Example(name, case.verdict).check_that_it_fails(source, message)
