"""examples/stream_rows.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import sys

import pytest
from helpers.child import run_in_child
from helpers.examples import Example

EXAMPLE = Example("stream_rows", "every row is right, and nothing is left behind")

#: Where each row costs more, fewer of them have to do.
IS_SLOW = sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", bool)()
ROWS = 2_000 if IS_SLOW else 5_000

#: The self-test with a small table, and with a service that is spoilt.
SPOILT = """
import asyncio, contextlib, pathlib, sqlite3, tempfile, threading
fill = example.fill
example.GRACE = 1

class Spoilt(example.Observed):
    {spoil}

example.Observed = Spoilt
with tempfile.TemporaryDirectory() as directory:
    asyncio.run(example.selftest(pathlib.Path(directory, "readings.db"), 500))
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "the table is read on the loop": (
        """
    example.PATIENCE = 1  # the workers cannot meet on the loop
    example.threadpool = lambda executor: contextlib.nullcontext()
        """,
        "WRONG: the table was read on the loop",
    ),
    "the connection stays open": (
        "example.closing = contextlib.nullcontext",
        "WRONG: its worker did not close the connection",
    ),
    "what is read ahead is read on the loop": (
        """
    @contextlib.asynccontextmanager
    async def iterate(executor, source):
        async def rows():
            for row in source():
                yield row
        yield rows()

    example.iterate_in_executor = iterate
        """,
        "WRONG: the table was read on the loop",
    ),
    "one row is another": (
        """
    def spoil(database, count):
        fill(database, count)
        with sqlite3.connect(database) as db:
            db.execute("UPDATE readings SET celsius = 99.0 WHERE id = 7")
        db.close()

    example.fill = spoil
        """,
        "WRONG: row 7 came as [7, 'station 7', 99.0]",
    ),
    "the stream ends before its client leaves": (
        """
    async def wanted(self, websocket):
        await websocket.accept()
        await websocket.receive_text()
        with contextlib.suppress(example.WebSocketDisconnect):
            await self.stream(websocket)
        """,
        "WRONG: the error in the stream was WebSocketDisconnect, not CancelledError",
    ),
    "nobody receives while the stream waits": (
        """
    async def wanted(self, websocket):
        await websocket.accept()
        example.PATIENCE = 0.1  # it would go on for ever
        await self.stream(websocket, asyncio.Semaphore(int(await websocket.receive_text())))
        """,
        "WRONG: the stream goes on although the client asked for some, left",
    ),
    "a worker is held": (
        """
    counted = threading.Event()

    async def stream(self, websocket, credit=None):
        self._executor.submit(self.counted.wait)
        await super().stream(websocket, credit)

async def count_free_workers(executor, count=example.count_free_workers):
    example.PATIENCE = 1
    try:
        return await count(executor)
    finally:
        Spoilt.counted.set()

example.count_free_workers = count_free_workers
        """,
        "WRONG: a worker is held",
    ),
}


@pytest.mark.timeout(120)
def test_the_selftest_passes() -> None:
    """All rows arrive; a client that leaves ends the stream, on the way and while it waits."""
    EXAMPLE.check_selftest("--rows", str(ROWS), deadline=100)


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS)


@pytest.mark.timeout(60)
def test_it_serves_on_the_port_that_is_named() -> None:
    """Until Ctrl+C, with as many rows as are asked for."""
    child = run_in_child(
        f"""
        import os, runpy, signal, socket, sys, threading, time
        from websockets.sync.client import connect

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        seen = []

        def visit():
            while not seen:
                try:
                    with connect(f"ws://127.0.0.1:{{port}}/rows", proxy=None) as client:
                        seen.extend(client)
                except ConnectionRefusedError:
                    time.sleep(0.05)  # it has not started yet
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=visit).start()
        sys.argv[1:] = ["--port", str(port), "--rows", "3"]
        runpy.run_path({EXAMPLE.path!r}, run_name="__main__")
        print(*seen)
        """,
        deadline=50,
    )
    assert child.returncode == 0, child.stderr
    rows = '[1,"station 1",-19.9] [2,"station 2",-19.8] [3,"station 3",-19.7]\n'
    assert child.stdout.endswith(rows)
