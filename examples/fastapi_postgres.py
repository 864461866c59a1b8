"""FastAPI on PostgreSQL, with plain SQLAlchemy and psycopg: a session blocks, the loop does not.

    POST /transfers?source=1&target=2&amount=5   the session lives in one block
    POST /deposits?account=1&amount=5            the session is a dependency: it lives on a worker,
                                                 while the handler runs on the loop

A client that leaves ends its query; nothing is half done. Too many are told to come back.

`python fastapi_postgres.py` serves, with the database of `DATABASE_URL` and the `TABLES` below.
`python fastapi_postgres.py --selftest` proves itself, with a PostgreSQL that it starts.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from glob import glob
from typing import Annotated, Any

import anyio
import httpx
import psycopg
import uvicorn
import uvloop
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import Pool

from threadhop import (
    AsyncExecutor,
    PoolBusy,
    WorkerPool,
    check_cancelled,
    eventloop,
    on_cancel,
    threadpool,
)

WORKERS = 8  # work at once
THREADS = 16  # sessions at once: with those whose handler is on the loop
QUEUED = 200  # requests that wait for a worker

pool = WorkerPool(WORKERS, "database", max_threads=THREADS, max_queued=QUEUED)
Sessions = sessionmaker()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A connection for each thread: no worker waits for one.
    engine = create_engine(os.environ["DATABASE_URL"], pool_size=THREADS, max_overflow=0)
    Sessions.configure(bind=engine)
    async with AsyncExecutor(pool):
        yield
    engine.dispose()


@contextmanager
def cancellable(session: Session) -> Iterator[None]:
    """On a worker: when the task is cancelled, the query of *session* ends."""
    connection: Any = session.connection().connection.driver_connection
    over = threading.Event()
    over.set()  # (The entry of `on_cancel` may have to wait for its callback.)

    def cancel() -> None:
        connection.cancel_safe()
        while not over.wait(0.1):  # PostgreSQL forgets a cancel that meets no query: once more.
            connection.cancel_safe()

    with on_cancel(cancel):
        over.clear()
        try:
            check_cancelled()
            yield
        finally:
            over.set()


async def dependency() -> AsyncIterator[Session]:
    async with threadpool(pool):
        with Sessions.begin() as session:
            async with eventloop():  # the worker waits for the handler
                yield session


app = FastAPI(lifespan=lifespan)


@app.exception_handler(PoolBusy)
async def come_back_later(request: Request, error: PoolBusy) -> JSONResponse:
    return JSONResponse({"detail": "busy"}, status_code=503, headers={"Retry-After": "1"})


# The handlers.
TABLES = """
    CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL);
    CREATE TABLE changes (account int NOT NULL REFERENCES accounts, by int NOT NULL);
"""
CHANGE = text("UPDATE accounts SET balance = balance + :by WHERE id = :id RETURNING balance")
NOTE = text("INSERT INTO changes (account, by) VALUES (:id, :by)")


def change(session: Session, account: int, by: int) -> int:
    balance: int | None = session.execute(CHANGE, {"id": account, "by": by}).scalar()
    if balance is None:
        raise HTTPException(404, f"there is no account {account}")
    return balance


@asynccontextmanager
async def while_the_client_stays(request: Request) -> AsyncIterator[None]:
    """Cancels the body when the client of *request* leaves. Read the request's body before it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    # (A task group would make an ExceptionGroup of the handler's HTTPException.)
    with anyio.CancelScope() as scope:
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


@app.post("/transfers")
async def transfer(request: Request, source: int, target: int, amount: int) -> dict[int, int]:
    async with while_the_client_stays(request):
        async with threadpool(pool):  # from here on a worker
            with Sessions.begin() as session, cancellable(session):
                balances = {}
                # In the order of their numbers: no two transfers wait for each other.
                for account, by in sorted([(source, -amount), (target, amount)]):
                    balances[account] = change(session, account, by)
                    session.execute(NOTE, {"id": account, "by": by})
        return balances
    raise HTTPException(499)  # nobody reads it


@app.post("/deposits")
async def deposit(
    request: Request,
    account: int,
    amount: int,
    # "function": the dependency ends, and commits, before the answer is sent.
    session: Annotated[Session, Depends(dependency, scope="function")],
) -> dict[int, int]:
    async with while_the_client_stays(request):
        async with threadpool(pool):  # the worker that waits with the session
            with cancellable(session):
                balance = change(session, account, amount)
        await anyio.sleep(0.001)  # on the loop, in the middle of the transaction
        async with threadpool(pool):  # the same worker again
            with cancellable(session):
                session.execute(NOTE, {"id": account, "by": amount})
        return {account: balance}
    raise HTTPException(499)  # An error: the dependency rolls back.


# The self-test: a real PostgreSQL, a real server, real sockets.
PATIENCE = 20  # seconds for what should take none
ACCOUNTS = 10
CONSTRAINT = """
    CREATE FUNCTION wait_for_it() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER wait_at_commit AFTER INSERT ON changes
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_for_it();
"""


def ensure(truth: object, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        ensure(time.monotonic() < deadline, f"it never came: {what}")
        await asyncio.sleep(0.005)


@contextmanager
def postgresql() -> Iterator[str]:
    """A cluster of its own, in a temporary folder; yields its URL."""
    initdb = shutil.which("initdb") or max(glob("/usr/lib/postgresql/*/bin/initdb"), default="")
    ensure(initdb, "there is no initdb: apt-get install postgresql")
    # PostgreSQL refuses to run as root.
    options: Any = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgresql") as folder:
        if options:
            shutil.chown(folder, "nobody")
        options.update(cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        init = [initdb, "-D", f"{folder}/data", "--auth=trust", "--username=postgres", "--no-sync"]
        subprocess.run(init, check=True, **options)
        # (Not by pg_ctl, whose server goes on if this program is killed.)
        serve = [
            os.path.join(os.path.dirname(os.path.realpath(initdb)), "postgres"),
            "-D",
            f"{folder}/data",
        ]
        settings = ["-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        url = f"postgresql://postgres@/postgres?host={folder}"
        with subprocess.Popen(serve + settings, **options) as server:
            try:
                wait_for(url)
                yield url
            finally:
                server.send_signal(signal.SIGINT)


def wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            ensure(time.monotonic() < deadline, f"PostgreSQL does not answer: {error}")
            time.sleep(0.05)


@asynccontextmanager
async def serving() -> AsyncIterator[httpx.AsyncClient]:
    """Serves the app on a free port, as a task of this loop; yields a client of it."""
    # A connection that is kept alive is not closed while the client uses it again.
    config = uvicorn.Config(app, port=0, log_level="warning", timeout_keep_alive=60)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await until(lambda: server.started or task.done(), "the server")
    port = server.servers[0].sockets[0].getsockname()[1]
    # trust_env=False: a proxy named in the environment cannot reach this server.
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False, limits=limits
        ) as client:
            yield client
    finally:
        server.should_exit = True
        await task


class Watch:
    """Which threads use the database: those of the pool, and each session one and the same."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.sessions: dict[int, str] = {}  # the threads of those that go on
        self.moved: list[str] = []
        event.listen(Engine, "before_cursor_execute", self.execute)
        event.listen(Pool, "checkout", self.begin)
        event.listen(Pool, "checkin", self.end)

    def execute(self, *_: object) -> None:
        self.threads.add(threading.current_thread().name.partition("_")[0])

    def begin(self, connection: object, *_: object) -> None:
        self.sessions[id(connection)] = threading.current_thread().name

    def end(self, connection: object, *_: object) -> None:
        if self.sessions.pop(id(connection)) != threading.current_thread().name:
            self.moved.append(threading.current_thread().name)


class Database:
    """The self-test's own view of it, by connections of its own."""

    def __init__(self, url: str) -> None:
        self._url, self._pool = url, WorkerPool(2, "selftest")

    async def ask(self, query: str) -> list[Any]:
        async with threadpool(self._pool):
            with psycopg.connect(self._url) as connection:
                cursor = connection.execute(query)
                return cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def holding(self, lock: str) -> AsyncIterator[None]:
        """Holds a lock meanwhile, in a transaction."""
        async with threadpool(self._pool):
            with psycopg.connect(self._url) as connection:
                connection.execute(lock)
                async with eventloop():
                    yield

    async def until_waits(self, count: int) -> None:
        """Until so many backends of the service wait for a lock."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        deadline = time.monotonic() + PATIENCE
        while await self.ask(query) != [(count,)]:
            ensure(time.monotonic() < deadline, f"{count} transactions never waited for a lock")

    async def check(self, what: str) -> int:
        """Every change is whole; returns how many there are."""
        # Deposits are of 7, transfers are not.
        half = """SELECT id FROM accounts LEFT JOIN changes ON id = account GROUP BY id, balance
            HAVING balance <> 1000 + coalesce(sum(by), 0)
            UNION ALL SELECT sum(by) FROM changes WHERE by <> 7 HAVING sum(by) <> 0"""
        ensure(await self.ask(half) == [], f"{what}: a change is half done")
        ((count,),) = await self.ask("SELECT count(*) FROM changes")
        return int(count)


async def at_rest(what: str, patience: float = PATIENCE) -> None:
    """All workers are free and all connections are back, after *patience* seconds at most."""
    connections = Sessions.kw["bind"].pool
    await until(lambda: pool.statistics().busy == 0, f"{what}: a free worker", patience)
    await until(lambda: pool.statistics().away == 0, f"{what}: a worker at home", patience)
    ensure(connections.checkedout() == 0, f"{what}: a connection is not back in its pool")


def some_path(number: int) -> str:
    """A transfer, or a deposit."""
    source, target = random.Random(number).sample(range(ACCOUNTS), 2)
    if number % 2:
        return f"/deposits?account={target}&amount=7"
    return f"/transfers?source={source}&target={target}&amount={number % 5 + 1}"


@asynccontextmanager
async def asking(client: httpx.AsyncClient, path: str) -> AsyncIterator[None]:
    """Another client asks for *path*, and leaves at the end without an answer."""
    _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
    yield
    writer.close()


async def check_many(client: httpx.AsyncClient, database: Database, watch: Watch) -> None:
    answers = await asyncio.gather(*(client.post(some_path(n)) for n in range(200)))
    ensure({answer.status_code for answer in answers} == {200}, "an answer is not 200")
    await at_rest("200 at once")
    ensure(await database.check("200 at once") == 300, "an answered change is missing")
    ensure(watch.threads == {"database"}, f"the database was used on {watch.threads}")
    print("200 requests at once    all answered, the database was used on workers only")


async def check_errors(client: httpx.AsyncClient, database: Database) -> None:
    before = await database.check("before the errors")
    for path in ("/transfers?source=1&target=99&amount=1", "/deposits?account=99&amount=7"):
        answer = await client.post(path)
        ensure(answer.status_code == 404, f"{path} is answered by {answer.status_code}")
    await at_rest("a missing account")
    ensure(await database.check("a missing account") == before, "half of a transfer is kept")
    print("an error                rolled back, in a block and in the dependency")


async def check_leaving(client: httpx.AsyncClient, database: Database) -> None:
    before = await database.check("before the client left")
    for path in ("/transfers?source=1&target=2&amount=1", "/deposits?account=2&amount=7"):
        # The first update is done, and the note of it waits.
        async with database.holding("LOCK TABLE changes IN EXCLUSIVE MODE"):
            async with asking(client, path):
                await database.until_waits(1)
            # The lock is held still: nothing but the cancelled query lets the worker go.
            await at_rest(f"{path}, whose client has left", patience=2)
        ensure(await database.check(path) == before, f"{path} went on without its client")
    print("left in the middle      query cancelled, rolled back whole, connection in its pool")


async def check_leaving_at_commit(client: httpx.AsyncClient, database: Database) -> None:
    before = await database.check("before the client left")
    async with database.holding("SELECT pg_advisory_xact_lock(1)"):
        async with asking(client, "/transfers?source=1&target=2&amount=1"):
            await database.until_waits(1)
        tasks = asyncio.all_tasks()
        await until(
            lambda: pool.statistics().busy == 0 or any(task.cancelling() for task in tasks),
            "a cancelled handler",
        )
        await asyncio.sleep(0.5)  # for the query that would cancel the commit
    await at_rest("a client that left at the commit")
    after = await database.check("a client that left at the commit")
    ensure(after == before + 2, "a commit was interrupted")
    print("left at the commit      committed whole, connection in its pool")


async def check_busy(client: httpx.AsyncClient, database: Database) -> None:
    path, more = "/transfers?source=1&target=2&amount=1", 12
    async with database.holding("SELECT * FROM accounts FOR UPDATE"):
        requests = [asyncio.create_task(client.post(path)) for _ in range(WORKERS + QUEUED + more)]
        await until(lambda: sum(map(asyncio.Task.done, requests)) >= more, "the first answers")
        await database.until_waits(WORKERS)
    codes = [(await request).status_code for request in requests]
    ensure(codes.count(503) == more, f"503 was answered {codes.count(503)} times")
    ensure(codes.count(200) == WORKERS + QUEUED, f"200 was answered {codes.count(200)} times")
    await at_rest("too many requests")
    await database.check("too many requests")
    print(f"{len(requests)} at once, all wait  {more} told to come back, the others answered")


async def check_leaving_at_random(client: httpx.AsyncClient, database: Database) -> None:
    async def stay(number: int) -> int:
        return (await client.post(some_path(number))).status_code

    async def leave(number: int) -> int:
        async with asking(client, some_path(number)):
            await asyncio.sleep(random.Random(number).expovariate(10))
        return 200

    codes = await asyncio.gather(*map(stay, range(100)), *map(leave, range(100)))
    ensure(set(codes) == {200}, "an answer is not 200")
    await at_rest("100 clients that left")
    await database.check("100 clients that left")
    print("100 of 200 left         at random moments; every change is whole")


async def selftest(url: str) -> None:
    """Each promise, with real clients; prints what it held."""
    # It warns, once, that all threads wait with their sessions. Here they wait for nobody else.
    log = logging.getLogger("threadhop")
    log.addFilter(lambda record: "are parked" not in record.getMessage())
    database, watch = Database(url), Watch()
    await database.ask(TABLES + CONSTRAINT)
    await database.ask(
        f"INSERT INTO accounts SELECT n, 1000 FROM generate_series(0, {ACCOUNTS - 1}) n"
    )
    async with serving() as client:
        await check_many(client, database, watch)
        await check_errors(client, database)
        await check_leaving(client, database)
        await check_leaving_at_commit(client, database)
        await check_busy(client, database)
        await check_leaving_at_random(client, database)
    ensure(not watch.moved, "a session ended on another thread than its own")
    print("every session           began and ended on one worker")
    print("every transaction is whole, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="Transfers and deposits over HTTP.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    if not options.selftest:
        uvicorn.run(app, host=options.host, port=options.port)
        return
    with postgresql() as url:
        os.environ["DATABASE_URL"] = url.replace("postgresql", "postgresql+psycopg", 1)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(selftest(url))


if __name__ == "__main__":
    main()
