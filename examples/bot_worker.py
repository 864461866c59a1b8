"""A bot that posts what is in a queue by `requests`, which blocks: time limits, retries, an end.

Each try has a time limit. A request that hangs is ended from outside, by its socket: so its worker
is free at once, and not when the service answers at last.

`ls | python bot_worker.py https://example.org/hook` posts each line.
`python bot_worker.py --selftest` posts to a server of its own, which fails and hangs, and checks.
"""

import argparse
import asyncio
import json
import logging
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from threadhop import WorkerPool, iterate_in_executor, on_cancel, threadpool

CONSUMERS = 4  # requests that are under way at once; each of them has a worker
TRIES = 4

log = logging.getLogger("bot")


class Client(requests.Session):
    """For one request at a time. `abort()`, from any thread, ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.sockets: list[socket.socket] = []
        self.is_aborted = False
        self.mount("http://", self.make_adapter(HTTPConnectionPool, HTTPConnection))
        self.mount("https://", self.make_adapter(HTTPSConnectionPool, HTTPSConnection))

    def make_adapter(self, pool_class: type, connection_class: type) -> HTTPAdapter:
        """requests does not tell which socket it reads from; its connections do."""
        client = self

        class Connection(connection_class):
            def connect(self) -> None:
                super().connect()
                client.sockets.append(self.sock)
                if client.is_aborted:
                    client.abort()

        pool_class = type("Pool", (pool_class,), {"ConnectionCls": Connection})
        adapter = HTTPAdapter()
        adapter.poolmanager.pool_classes_by_scheme = {"http": pool_class, "https": pool_class}
        return adapter

    def abort(self) -> None:
        self.is_aborted = True
        for used in self.sockets:
            with suppress(OSError):  # It is closed.
                used.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def until_cancelled(self) -> Iterator[None]:
        self.is_aborted = False
        self.sockets = [used for used in self.sockets if used.fileno() != -1]
        with on_cancel(self.abort):
            yield


class Bot:
    time_limit = 10.0  # seconds for one try
    pause = 0.5  # seconds before the second try; twice as long before the third

    def __init__(self, url: str, pool: WorkerPool) -> None:
        self.url, self.pool = url, pool
        self.queue = asyncio.Queue[str](100)
        self.delivered, self.given_up = list[str](), list[str]()

    async def consume(self) -> None:
        """Until it is cancelled."""
        with Client() as client:
            while True:
                message = await self.queue.get()
                await self.deliver(client, message)
                self.queue.task_done()

    async def deliver(self, client: Client, message: str) -> None:
        for number in range(TRIES):
            if number:
                await asyncio.sleep(self.pause * 2 ** (number - 1))
            try:
                async with asyncio.timeout(self.time_limit):
                    async with threadpool(self.pool):
                        with client.until_cancelled():
                            answer = client.post(self.url, json={"text": message}, timeout=60)
                            answer.raise_for_status()
                self.delivered.append(message)
                return
            except (TimeoutError, requests.RequestException) as error:
                log.info("try %d of %r: %r", number + 1, message, error)
        self.given_up.append(message)


async def run(bot: Bot, lines: Iterator[str]) -> None:
    """Posts all *lines*. Cancelled, it ends the requests that are under way."""
    async with asyncio.TaskGroup() as group:
        consumers = [group.create_task(bot.consume()) for _ in range(CONSUMERS)]
        async for line in iterate_in_executor(bot.pool, lines):
            await bot.queue.put(line.rstrip("\n"))
        await bot.queue.join()
        for consumer in consumers:
            consumer.cancel()


async def post_all(url: str, lines: Iterator[str]) -> Bot:
    with WorkerPool(CONSUMERS + 1, "http") as pool:  # one reads the lines
        bot = Bot(url, pool)
        await run(bot, lines)
    return bot


# --- the self-test ---

PATIENCE = 15  # seconds for what takes two


class Server(ThreadingHTTPServer):
    """Does as the text says: "fine", "flaky" (fails twice), "hangs" (once), "stuck", "broken"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/"
        self.tries, self.lock = Counter[str](), threading.Lock()
        self.left = 0  # clients that left a request that hung


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    server: Server

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        with self.server.lock:
            self.server.tries[text] += 1
            tries = self.server.tries[text]
        kind = text.split()[0]
        if kind == "stuck" or (kind == "hangs" and tries == 1):
            self.close_connection = True
            if not self.rfile.read(1):  # It returns when the client has left.
                with self.server.lock:
                    self.server.left += 1
            return
        fails = kind == "broken" or (kind == "flaky" and tries < 3)
        self.send_response(503 if fails else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ensure(truth: object, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def check_deliveries(server: Server) -> None:
    lines = [f"{kind} {number}" for number in range(8) for kind in ("fine", "flaky", "hangs")]
    lines.append("broken 0")
    started = time.monotonic()
    bot = await post_all(server.url, iter(lines))
    seconds = time.monotonic() - started
    ensure(sorted(bot.delivered) == sorted(lines[:-1]), "not all were delivered")
    ensure(bot.given_up == ["broken 0"], f"it gave up {bot.given_up}")
    ensure(server.tries["broken 0"] == TRIES, "it did not try as often as it should")
    ensure(server.tries["flaky 0"] == 3, "it went on to try after a success")
    ensure(seconds < PATIENCE, f"it took {seconds:.1f} s: a request that hangs held its worker")
    ensure(server.left == 8, f"{server.left} of 8 requests that hung were ended")
    print(f"{len(lines)} messages: 8 failed twice, 8 hung and were ended, 1 was given up")


async def check_end(server: Server) -> None:
    """The bot is cancelled while each of its requests hangs."""
    server.left = 0
    task = asyncio.create_task(post_all(server.url, iter([f"stuck {n}" for n in range(50)])))
    deadline = time.monotonic() + 10
    while sum(text.startswith("stuck") for text in server.tries) < CONSUMERS:
        ensure(time.monotonic() < deadline, "the requests never came")
        await asyncio.sleep(0.01)
    started = time.monotonic()
    task.cancel()
    await asyncio.wait([task])
    seconds = time.monotonic() - started
    ensure(task.cancelled(), f"the bot ended otherwise: {task}")
    ensure(seconds < 5, f"the bot took {seconds:.1f} s to end")
    left = [t.name for t in threading.enumerate() if t.name.startswith("http")]
    ensure(not left, f"these workers are left: {left}")
    print("cancelled while all of its requests hung, the bot ended at once")


async def selftest() -> None:
    Bot.pause, Bot.time_limit = 0.02, 0.5
    with serving() as server:
        await check_deliveries(server)
        Bot.time_limit = 60.0
        await check_end(server)
    print("every message came to its end, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="Posts each line of the standard input.")
    parser.add_argument("url", nargs="?")
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    if options.selftest:
        asyncio.run(selftest())
        return
    if options.url is None:
        parser.error("the URL is missing")
    logging.basicConfig(level=logging.INFO)
    bot = asyncio.run(post_all(options.url, sys.stdin))
    print(f"{len(bot.delivered)} delivered, {len(bot.given_up)} given up")


if __name__ == "__main__":
    main()
