"""What ``docs/frameworks/`` says of frameworks that take async generators, on the real ones.

Each runs in a child: they bring threads, handlers of logging and loops of their own.
"""

from __future__ import annotations

import pytest
from helpers.child import run_in_child

pytestmark = [pytest.mark.libraries, pytest.mark.timeout(40)]

#: A connection that says where it is closed: sqlite3 refuses every thread but its own.
CONNECTION = """
import asyncio
import sqlite3
import threading
from contextlib import contextmanager

from threadhop import WorkerPool, eventloop, threadpool

pool = WorkerPool(2, "db")
closed = []


@contextmanager
def connection():
    db = sqlite3.connect(":memory:")
    try:
        yield db
    finally:
        db.close()
        closed.append(threading.current_thread().name.split("_")[0])


async def until_free():
    async with asyncio.timeout(10):
        while pool.statistics().busy or pool.statistics().away:
            await asyncio.sleep(0.001)
"""

LITESTAR = """
from collections.abc import AsyncIterator

from litestar import Litestar, get
from litestar.di import Provide
from litestar.testing import AsyncTestClient


async def database() -> AsyncIterator[sqlite3.Connection]:
    async with threadpool(pool):
        with connection() as db:
            async with eventloop():
                yield db


@get("/", dependencies={"db": Provide(database)})
async def answer(db: sqlite3.Connection) -> int:
    async with threadpool(pool):
        return db.execute("SELECT 41 + 1").fetchone()[0]


@get("/error", dependencies={"db": Provide(database)})
async def fail(db: sqlite3.Connection) -> int:
    raise LookupError


async def main():
    app = Litestar([answer, fail], logging_config=None)
    async with AsyncTestClient(app) as client:
        answers = await asyncio.gather(*(client.get("/") for _ in range(10)))
        assert [one.text for one in answers] == ["42"] * 10
        assert (await client.get("/error")).status_code == 500
    assert closed == ["db"] * 11, closed
    await until_free()


asyncio.run(main())
"""

GRPC = '''
import grpc
import grpc.aio


class Cats(grpc.GenericRpcHandler):
    sent = 0

    async def all(self, request, context):
        async with threadpool(pool):
            with connection() as db:
                for (row,) in db.execute("SELECT 1 UNION SELECT 2 UNION SELECT 3"):
                    async with eventloop():
                        yield str(row).encode()

    async def endless(self, request, context):
        async with threadpool(pool):
            with connection():
                while True:
                    async with eventloop():
                        self.sent += 1
                        yield b"x" * 1_000_000

    async def missing(self, request, context):
        async with threadpool(pool):
            with connection():
                async with eventloop():
                    await context.abort(grpc.StatusCode.NOT_FOUND, "no such cat")

    def service(self, details):
        method = getattr(self, details.method.strip("/"))
        if details.method == "/missing":
            return grpc.unary_unary_rpc_method_handler(method)
        return grpc.unary_stream_rpc_method_handler(method)


async def until_stalled(cats):
    """Nobody reads: grpc waits in its send, and the generator in its yield."""
    before = -1
    while cats.sent != before:
        before = cats.sent
        await asyncio.sleep(0.1)


async def main():
    cats = Cats()
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # grpc logs its cancellations
    server = grpc.aio.server(handlers=[cats])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        rows = [row async for row in channel.unary_stream("/all")(b"")]
        assert rows == [b"1", b"2", b"3"]
        try:
            await channel.unary_unary("/missing")(b"")
            raise AssertionError
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND
        calls = [channel.unary_stream("/endless")(b"") for _ in range(2)]
        for call in calls:
            assert await call.read()
        await until_stalled(cats)
        for call in calls:
            call.cancel()
        del call, calls
        await until_free()
        assert closed == ["db"] * 4, closed
    await server.stop(0)


asyncio.run(main())
'''


def run(source: str) -> None:
    __tracebackhide__ = True
    child = run_in_child(f"{CONNECTION}\n{source}\npool.shutdown()\nprint('well')", deadline=30)
    assert (child.stdout, child.returncode) == ("well\n", 0), child.stderr


def test_a_dependency_of_litestar_is_closed_on_the_worker_that_opened_it() -> None:
    """After the answer, and after an error of the handler."""
    pytest.importorskip("litestar", reason="needs Litestar, which is not installed")
    run(LITESTAR)


def test_a_stream_of_grpc_is_closed_on_its_worker_also_when_its_client_leaves() -> None:
    pytest.importorskip("grpc", reason="needs grpcio, which is not installed")
    run(GRPC)
