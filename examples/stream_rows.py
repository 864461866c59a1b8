"""A websocket that sends the rows of a sqlite3 table, one by one, as its client takes them.

    ws://HOST/rows     all of them, as fast as the client reads
    ws://HOST/wanted   as many as the client asks for: it sends a number, and then another one
    ws://HOST/ahead    all of them, read ahead

One worker thread reads the table, from the first row to the last, and each row is sent on the
event loop. No row is fetched before the one in front of it is on its way; of the last stream no
more than 64. So the table may be far larger than the memory.

`python stream_rows.py --port 8000` serves, `python stream_rows.py --selftest` proves itself.
"""

import argparse
import asyncio
import json
import socket
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Generator, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from threadhop import eventloop, exec_in_executor, iterate_in_executor, threadpool

WORKERS = 4  # each stream holds one from its first row to its last: so many go on at once
QUERY = "SELECT * FROM readings ORDER BY id"
COLUMNS = "id INTEGER PRIMARY KEY, station TEXT, celsius REAL"


class RowService:
    """The handlers; what blocks stands in the block, what awaits in the loop part within it."""

    def __init__(self, database: Path, executor: Executor) -> None:
        self._database, self._executor = database, executor
        handlers = {"/rows": self.rows, "/wanted": self.wanted, "/ahead": self.ahead}
        self.app = Starlette(routes=[WebSocketRoute(*route) for route in handlers.items()])

    async def rows(self, websocket: WebSocket) -> None:
        await websocket.accept()
        # If the client leaves, the server cancels nobody: it lets the next send raise. That error
        # comes out of the loop part, and on its way here it closes the database, on the worker.
        with suppress(WebSocketDisconnect):
            await self.stream(websocket)

    async def wanted(self, websocket: WebSocket) -> None:
        await websocket.accept()
        credit = asyncio.Semaphore(0)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.stream(websocket, credit))
                while True:
                    for _ in range(int(await websocket.receive_text())):
                        credit.release()
        except* WebSocketDisconnect:
            # While the stream waits for credit it sends nothing, so no send would ever tell it
            # that the client has left. What is told is the one who receives: its error leaves
            # the group, and the group cancels the stream.
            pass

    async def stream(self, websocket: WebSocket, credit: asyncio.Semaphore | None = None) -> None:
        async with threadpool(self._executor):
            # A worker from here on, always the same one: sqlite3 insists on that.
            with closing(self.connect()) as db:
                for row in db.execute(QUERY):
                    async with eventloop():
                        # The loop: now it may await, and the worker waits for it.
                        if credit is not None:
                            await credit.acquire()
                        await websocket.send_json(row)
        await websocket.close()

    async def ahead(self, websocket: WebSocket) -> None:
        await websocket.accept()
        with suppress(WebSocketDisconnect):
            await self.stream_ahead(websocket)

    async def stream_ahead(self, websocket: WebSocket) -> None:
        # The worker does not wait for each row to be sent: no trip for each row. If a send raises,
        # the end of this block waits until the generator, on the worker, has closed the database.
        async with iterate_in_executor(self._executor, self.read) as rows:
            async for row in rows:
                await websocket.send_json(row)
        await websocket.close()

    def read(self) -> Generator[tuple[int, str, float], None, None]:
        with closing(self.connect()) as db:
            yield from db.execute(QUERY)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._database)  # with check_same_thread, as by default


def readings(count: int) -> Iterator[tuple[int, str, float]]:
    return ((i, f"station {i % 97}", i % 613 / 10 - 20) for i in range(1, count + 1))


def fill(database: Path, count: int) -> None:
    with closing(sqlite3.connect(database)) as db, db:
        db.execute(f"CREATE TABLE readings ({COLUMNS})")
        db.executemany("INSERT INTO readings VALUES (?, ?, ?)", readings(count))


# The self-test: a real file, a real server, a real client.
PATIENCE = 20  # seconds for what should take none
GRACE = 5  # seconds that a stream which should have ended holds up the end of the server
LINE = "{:<20} {:>7}   {:<19}   {:<9}   {:<10}   {}"


class Connection(sqlite3.Connection):
    """Knows who opened and closed it. sqlite3 itself lets no other thread use it in between."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.opened_by, self.closed_by = threading.get_ident(), 0

    def close(self) -> None:
        super().close()
        self.closed_by = threading.get_ident()


class Observed(RowService):
    """The same service; of its last stream is known how it ended."""

    task: asyncio.Task[Any] | None = None
    connection: Connection | None = None
    error = "none"
    hold_at = 0  # The row before which ``read`` waits until the client has left.

    def __init__(self, database: Path, executor: Executor) -> None:
        super().__init__(database, executor)
        self.ended = asyncio.Event()
        self.left = threading.Event()

    async def stream(self, websocket: WebSocket, credit: asyncio.Semaphore | None = None) -> None:
        await self.observe(super().stream(websocket, credit))

    async def stream_ahead(self, websocket: WebSocket) -> None:
        await self.observe(super().stream_ahead(websocket))

    def read(self) -> Generator[tuple[int, str, float], None, None]:
        with closing(super().read()) as rows:
            for row in rows:
                if row[0] == self.hold_at:
                    self.left.wait(PATIENCE)
                yield row

    async def observe(self, stream: Coroutine[Any, Any, None]) -> None:
        self.task, self.error = asyncio.current_task(), "none"
        try:
            await stream
        except BaseException as error:
            self.error = type(error).__name__
            raise
        finally:
            self.ended.set()

    def connect(self) -> sqlite3.Connection:
        self.connection = sqlite3.connect(self._database, factory=Connection)
        return self.connection


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serves *app* on a free loopback port, as a task of this loop; yields host:port."""
    # It listens at once: who comes before the server has started waits. IPPROTO_TCP is named
    # since asyncio sets TCP_NODELAY only where it is; else a row might wait for 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def read(client: ClientConnection, count: int) -> None:
    """Reads *count* rows, and compares each with what was written to the table."""
    for right in readings(count):
        got = json.loads(await client.recv())
        ensure(got == list(right), f"row {right[0]} came as {got}")


async def count_free_workers(executor: Executor) -> int:
    """Returns how many workers are in a block at once; all are, if no stream holds one."""
    meeting = threading.Barrier(WORKERS)

    async def meet() -> bool:
        async with threadpool(executor):
            try:
                meeting.wait(PATIENCE)
            except threading.BrokenBarrierError:
                return False
        return True

    return sum(await asyncio.gather(*(meet() for _ in range(WORKERS))))


async def check(client: str, rows: int, end: str, service: Observed, executor: Executor) -> None:
    """Waits until the stream has ended, prints its line of the table, and checks it."""
    try:
        await asyncio.wait_for(service.ended.wait(), PATIENCE)
    except TimeoutError:
        ensure(False, f"the stream goes on although the client {client}")
    task, connection = service.task, service.connection
    assert task is not None
    assert connection is not None
    await asyncio.wait([task])
    outcome = "cancelled" if task.cancelled() else "returned"
    state = "closed" if connection.closed_by else "open"
    free = await count_free_workers(executor)
    print(LINE.format(client, rows, service.error, outcome, state, f"{free} of {WORKERS}"))
    ensure(service.error == end, f"the error in the stream was {service.error}, not {end}")
    ensure(task.cancelled() == (end == "CancelledError"), f"the task of the stream {outcome}")
    ensure(connection.opened_by != threading.get_ident(), "the table was read on the loop")
    ensure(connection.closed_by == connection.opened_by, "its worker did not close the connection")
    ensure(free == WORKERS, "a worker is held")
    service.ended.clear()


async def selftest(database: Path, rows: int) -> None:
    """Reads all rows, leaves on the way, leaves while the stream waits; prints a table."""
    fill(database, rows)
    # Compressing each row by itself would cost much and gain nothing, and a proxy named in the
    # environment cannot reach this server.
    options: dict[str, Any] = {"compression": None, "proxy": None}
    print(LINE.format("client", "rows", "error in the stream", "its task", "connection", "workers"))
    with ThreadPoolExecutor(WORKERS, "worker") as executor:
        # From here on all its threads are there. (While it grows, its own count of idle ones may be
        # too high for a moment, and then it starts one too few.)
        meeting = threading.Barrier(WORKERS)
        await asyncio.gather(*(exec_in_executor(executor, meeting.wait) for _ in range(WORKERS)))
        service = Observed(database, executor)
        async with asyncio.timeout(300), serving(service.app) as address:
            async with connect(f"ws://{address}/rows", **options) as client:
                await read(client, rows)
                await client.wait_closed()
                ensure(client.close_code == 1000, f"the close code is {client.close_code}")
            await check("reads all rows", rows, "none", service, executor)

            async with connect(f"ws://{address}/rows", **options) as client:
                await read(client, rows // 2)
            await check("leaves on the way", rows // 2, "WebSocketDisconnect", service, executor)

            async with connect(f"ws://{address}/ahead", **options) as client:
                await read(client, rows)
                await client.wait_closed()
                ensure(client.close_code == 1000, f"the close code is {client.close_code}")
            await check("reads what is ahead", rows, "none", service, executor)

            service.hold_at = rows // 2 + 1  # Else it may all be sent before the client leaves.
            async with connect(f"ws://{address}/ahead", **options) as client:
                await read(client, rows // 2)
            service.left.set()
            await check("leaves what is ahead", rows // 2, "WebSocketDisconnect", service, executor)

            some = rows // 100
            async with connect(f"ws://{address}/wanted", **options) as client:
                await client.send(str(some))
                await read(client, some)
            await check("asked for some, left", some, "CancelledError", service, executor)
    print("every row is right, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="A table, row by row, over a websocket.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--rows", type=int, default=100_000, help="how many the table gets")
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        database = Path(directory, "readings.db")
        if options.selftest:
            asyncio.run(selftest(database, options.rows))
            return
        fill(database, options.rows)
        with ThreadPoolExecutor(WORKERS, "worker") as executor:
            uvicorn.run(RowService(database, executor).app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
