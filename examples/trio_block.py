"""A TCP server on trio: each client asks for readings above a limit, and gets them row by row.

The database is sqlite3, which blocks. Its lines stand in the handler, in a block: they run on a
worker, and each row goes out in a loop part, on trio. A client that leaves, or takes too long,
cancels its handler; the worker closes the connection to the database all the same.

`python trio_block.py` serves on port 8888; try `echo 20 | nc localhost 8888`.
`python trio_block.py --selftest` asks on real sockets, many at a time, and checks the answers.
"""

import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import trio

from threadhop import AsyncExecutor, WorkerPool, check_cancelled, eventloop, threadpool

pool = WorkerPool(4, "worker")


def fill(database: Path, count: int) -> None:
    with closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE TABLE readings (id INTEGER PRIMARY KEY, celsius REAL)")
        db.executemany(
            "INSERT INTO readings (celsius) VALUES (?)", ((n % 40,) for n in range(count))
        )


class Service:
    time_limit = 10.0  # seconds for one client

    def __init__(self, database: Path) -> None:
        self.database = database
        self.served = 0

    async def handle(self, client: trio.SocketStream) -> None:
        async with client:
            with trio.move_on_after(self.time_limit):
                limit = float(await client.receive_some(100))
                await self.send_rows(client, limit)

    async def send_rows(self, client: trio.SocketStream, limit: float) -> None:
        query = "SELECT id, celsius FROM readings WHERE celsius > ? ORDER BY id"
        async with threadpool(pool):  # from here on a worker
            with closing(self.connect()) as db:
                for number, celsius in db.execute(query, (limit,)):
                    check_cancelled()
                    async with eventloop():  # on trio
                        await client.send_all(f"{number} {celsius}\n".encode())
                    # The same worker again: the connection belongs to its thread.
        self.served += 1

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.database)


async def serve(database: Path) -> None:
    await trio.serve_tcp(Service(database).handle, 8888)


# --- the self-test ---

ROWS = 400
MORE_ROWS = 20_000  # more than the buffers of a socket hold


class Watched(Service):
    """Knows what its connections did."""

    def __init__(self, database: Path) -> None:
        super().__init__(database)
        self.opened: list[str] = []
        self.closed: list[str] = []

    def connect(self) -> sqlite3.Connection:
        watch = self

        class Connection(sqlite3.Connection):
            def close(self) -> None:
                super().close()  # In another thread it raises.
                watch.closed.append(threading.current_thread().name)

        self.opened.append(threading.current_thread().name)
        return sqlite3.connect(self.database, factory=Connection)

    async def handle(self, client: trio.SocketStream) -> None:
        client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 1024)
        await super().handle(client)


def ensure(truth: object, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def listen(nursery: trio.Nursery, service: Watched) -> int:
    """Serve on a port of the system's choice."""
    serve_here = partial(trio.serve_tcp, service.handle, 0, host="127.0.0.1")
    listeners = await nursery.start(serve_here)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def ask(port: int, limit: int) -> list[str]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(str(limit).encode())
        chunks = [chunk async for chunk in stream]
    return b"".join(chunks).decode().splitlines()


async def ask_and_check(port: int, limit: int) -> None:
    expected = [f"{n + 1} {float(n % 40)}" for n in range(ROWS) if n % 40 > limit]
    ensure(await ask(port, limit) == expected, f"the rows above {limit} are others")


async def ask_and_stall(port: int) -> None:
    """A client that does not read what it has asked for."""
    with trio.socket.socket() as client:
        client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 1024)
        await client.connect(("127.0.0.1", port))
        await client.send(b"-1")
        await trio.sleep_forever()


async def tick(ticks: list[float]) -> None:
    while True:
        ticks.append(trio.current_time())
        await trio.sleep(0.002)


async def until(condition: Callable[[], object], what: str) -> None:
    with trio.move_on_after(10):
        while not condition():
            await trio.sleep(0.005)
        return
    raise SystemExit(f"WRONG: {what}")


async def selftest(database: Path) -> None:
    await AsyncExecutor(pool).run(fill, database, ROWS)
    service, ticks = Watched(database), list[float]()
    async with trio.open_nursery() as nursery:
        port = await listen(nursery, service)
        nursery.start_soon(tick, ticks)
        async with trio.open_nursery() as clients:
            for number in range(20):
                clients.start_soon(ask_and_check, port, number)
        await until(lambda: service.served == 20, "not all were served")
        threads = {name.partition("_")[0] for name in service.opened + service.closed}
        ensure(threads == {"worker"}, f"the database was used on {threads}")
        ensure(len(ticks) > 10, "trio was blocked")
        print(f"20 clients got their rows, on {len(set(service.opened))} workers")

        await AsyncExecutor(pool).run(fill, database.with_name("more.db"), MORE_ROWS)
        slow = Watched(database.with_name("more.db"))
        slow.time_limit = 0.3
        nursery.start_soon(ask_and_stall, await listen(nursery, slow))
        await until(lambda: slow.closed, "a handler that was cut off keeps its connection")
        ensure(slow.served == 0, "a client that does not read was served")
        ensure(slow.closed == slow.opened, "a connection was closed on another worker")
        print("the handler of a client that does not read was cut off, on its worker")
        nursery.cancel_scope.cancel()
    # (A worker returns a moment after its task.)
    await until(lambda: pool.statistics().busy == 0, "a worker is busy still")
    print("every row is right, and nothing is left behind")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder, "readings.db")
        job: Callable[[Path], Coroutine[Any, Any, None]] = serve
        if "--selftest" in sys.argv[1:]:
            job = selftest
        else:
            fill(database, 10_000)
        with pool:
            trio.run(job, database)


if __name__ == "__main__":
    main()
