"""aiohttp: files are written to the disk, and hashed, in the handlers; who leaves leaves no rest.

    PUT /files/NAME          stores the body, and answers with its SHA-256
    GET /files/NAME/sha256   reads the file again, and hashes it

aiohttp cancels the handler of a client that has left if it is told to: `handler_cancellation=True`.

`python aiohttp_files.py FOLDER` serves on port 8080; try `curl -T FILE localhost:8080/files/x`.
`python aiohttp_files.py --selftest` proves itself, on real sockets.
"""

import argparse
import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO

import aiohttp
from aiohttp import web

from threadhop import WorkerPool, check_cancelled, eventloop, threadpool

CHUNK = 1 << 20

# An upload holds a thread from its first byte to its last: so many may be under way. While it waits
# for its client it does not count, so four clients that stall keep nobody else out.
pool = WorkerPool(4, "disk", max_threads=200)


@contextmanager
def stored(target: Path) -> Iterator[BinaryIO]:
    """Blocking code. The file gets its name if the body succeeds; else it is gone."""
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:  # CancelledError, too
            os.unlink(file.name)
            raise


class Files:
    """The handlers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_put(r"/files/{name:\w+}", self.upload)
        app.router.add_get(r"/files/{name:\w+}/sha256", self.hash)
        return app

    async def upload(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async with threadpool(pool):  # from here on a worker
            with stored(self.folder / request.match_info["name"]) as file:
                while True:
                    async with eventloop():  # the loop: the client may take its time, or leave
                        chunk = await request.content.readany()
                    if not chunk:
                        break
                    file.write(chunk)
                    digest.update(chunk)
        return web.Response(text=digest.hexdigest())

    async def hash(self, request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async with threadpool(pool):
            with open(self.folder / request.match_info["name"], "rb") as file:
                while chunk := file.read(CHUNK):
                    check_cancelled()  # has the client left?
                    digest.update(chunk)
        return web.Response(text=digest.hexdigest())


# --- the self-test ---

UPLOADS = 30
HANDLER_CANCELLATION = True
ZEROS = 100 << 30  # bytes: they take minutes
PATIENCE = 20  # seconds for what should take none


def ensure(truth: object, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def until_free(what: str) -> None:
    """Until no handler has a worker."""
    deadline = time.monotonic() + PATIENCE
    while (now := pool.statistics()).busy or now.away:
        ensure(time.monotonic() < deadline, f"{what} holds a worker")
        await asyncio.sleep(0.01)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[int]:
    """Serves on a free loopback port; yields the port."""
    app = Files(folder).app()
    runner = web.AppRunner(app, handler_cancellation=HANDLER_CANCELLATION, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def names_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


async def check_uploads(port: int, folder: Path) -> None:
    """Many at once, while a client that has begun does nothing more."""
    _, stalled = await asyncio.open_connection("127.0.0.1", port)
    stalled.write(b"PUT /files/stalled HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\nx")
    url, contents = f"http://127.0.0.1:{port}/files/", [os.urandom(CHUNK) for _ in range(UPLOADS)]
    latest, slowest = time.monotonic(), 0.0

    async def tick() -> None:
        nonlocal latest, slowest
        while True:
            latest = time.monotonic()
            await asyncio.sleep(0.005)
            slowest = max(slowest, time.monotonic() - latest)

    async def put(client: aiohttp.ClientSession, number: int) -> str:
        async with client.put(f"{url}n{number}", data=contents[number]) as answer:
            return await answer.text()

    ticking = asyncio.create_task(tick())
    async with aiohttp.ClientSession() as client:
        answers = await asyncio.gather(*(put(client, number) for number in range(UPLOADS)))
    ticking.cancel()
    for number, content in enumerate(contents):
        ensure(answers[number] == hashlib.sha256(content).hexdigest(), f"the hash of n{number}")
        ensure((folder / f"n{number}").read_bytes() == content, f"the content of n{number}")
    ensure(slowest < 1, f"the loop stood still for {slowest:.2f} s")
    print(f"{UPLOADS} uploads at once are on the disk, beside one that stalls")
    stalled.close()
    await until_free("the upload of a client that has left")
    left = names_in(folder)
    ensure(len(left) == UPLOADS, f"a rest is on the disk: {left[:-UPLOADS]}")
    print("the client left in the middle: the partial file is gone, the worker free")


async def check_hash(port: int, folder: Path) -> None:
    """A client that leaves while a worker computes."""
    with open(folder / "zeros", "wb") as file:
        file.truncate(ZEROS)  # holes take no room
    _, leaving = await asyncio.open_connection("127.0.0.1", port)
    leaving.write(b"GET /files/zeros/sha256 HTTP/1.1\r\nHost: x\r\n\r\n")
    while not pool.statistics().busy:
        await asyncio.sleep(0.01)
    leaving.close()
    await until_free("a hash that nobody waits for")
    print("the client left in the middle of a long hash: the worker is free")


async def selftest(folder: Path) -> None:
    async with serving(folder) as port:
        await check_uploads(port, folder)
        await check_hash(port, folder)
    print("every file is right, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="Files over HTTP, written and hashed in a block.")
    parser.add_argument("folder", nargs="?", default=".", type=Path)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    with pool:
        if options.selftest:
            with tempfile.TemporaryDirectory() as folder:
                asyncio.run(selftest(Path(folder)))
            return
        web.run_app(Files(options.folder).app(), port=options.port, handler_cancellation=True)


if __name__ == "__main__":
    main()
