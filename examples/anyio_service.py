"""A service on anyio's side of the house, Starlette: who cancels a handler, and when.

    http://HOST/plain     a handler as most are: when its client leaves, nobody tells it
    http://HOST/watched   the same in a task group that waits for the client to leave
    http://HOST/stream    a StreamingResponse: Starlette cancels it when its client leaves
    http://HOST/limited   a handler with a time limit

What works is blocking code in a block. It asks `check_cancelled()` now and then, so it ends soon
after somebody cancels. anyio cancels a scope by level, on each turn of the event loop; a task that
is in a block hears of it once, and the loop is idle until the body has come to its end.

`python anyio_service.py --port 8000` serves, `python anyio_service.py --selftest` proves itself.
"""

import argparse
import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from threadhop import check_cancelled, threadpool

WORKERS = 2
STEPS = 100  # of a report
STEP = 0.01  # seconds
LIMIT = 0.2  # seconds for /limited


@asynccontextmanager
async def while_the_client_stays(request: Request) -> AsyncIterator[None]:
    """Cancels the body when the client of *request* leaves. Read the request's body before it."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    with anyio.CancelScope() as scope:
        watching = asyncio.create_task(watch())
        try:
            yield
        finally:
            watching.cancel()


class Seconds(BaseHTTPMiddleware):
    """Tells how long a handler took. With such a middleware each handler runs in a task group."""

    async def dispatch(
        self, request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        begin = time.monotonic()
        response = await call_next(request)
        response.headers["X-Seconds"] = f"{time.monotonic() - begin:.3f}"
        return response


class Service:
    """The handlers."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        routes = [
            Route("/plain", self.plain),
            Route("/watched", self.watched),
            Route("/stream", self.stream),
            Route("/limited", self.limited),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(Seconds)])

    async def plain(self, request: Request) -> Response:
        async with threadpool(self._executor):
            text = self.report()
        return PlainTextResponse(text)

    async def watched(self, request: Request) -> Response:
        async with while_the_client_stays(request):
            return await self.plain(request)
        return Response(status_code=499)  # nobody reads it

    async def stream(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "title\n"
            async with threadpool(self._executor):
                text = self.report()
            yield text  # after the block: the consumer runs on the loop

        return StreamingResponse(parts())

    async def limited(self, request: Request) -> Response:
        with anyio.move_on_after(LIMIT):
            return await self.plain(request)
        return PlainTextResponse("too late", 504)

    def report(self) -> str:
        """Blocking code, on a worker."""
        for _ in range(STEPS):
            check_cancelled()
            self.step()
        return "report"

    def step(self) -> None:
        time.sleep(STEP)


# The self-test: a real server, real sockets.
PATIENCE = 20  # seconds for what should take none
LINE = "{:<10} {:<16} {:>5}   {:<10}  {:>7}   {}"


class Observed(Service):
    """The same service; of its last report is known how it went."""

    def __init__(self, executor: Executor) -> None:
        super().__init__(executor)
        self.begun, self.ended = threading.Event(), threading.Event()
        self.steps = self.cancels = 0
        self.outcome = ""
        self.task: asyncio.Task[object] | None = None

    async def plain(self, request: Request) -> Response:
        self.task = asyncio.current_task()
        return await super().plain(request)

    def report(self) -> str:
        self.steps, self.outcome = 0, "cancelled"
        try:
            text = super().report()
            self.outcome = "returned"
            return text
        finally:
            # Some more work, which cannot be stopped: now the loop must be idle.
            before = time.process_time()
            time.sleep(20 * STEP)
            self.cpu = time.process_time() - before
            self.cancels = self.task.cancelling() if self.task is not None else 0
            self.ended.set()

    def step(self) -> None:
        super().step()
        self.steps += 1
        self.begun.set()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[int]:
    """Serves *app* on a free loopback port, as a task of this loop; yields the port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def until(event: threading.Event, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not event.is_set():
        ensure(time.monotonic() < deadline, f"it never came: {what}")
        await asyncio.sleep(0.002)


async def check(port: int, path: str, stays: bool, outcome: str, service: Observed) -> None:
    """Asks for *path*; unless it *stays*, the client leaves in the middle of the report."""
    service.begun.clear()
    service.ended.clear()
    service.task = None
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    await until(service.begun, f"the report of {path}")
    answer = b""
    if stays:
        answer = await reader.read()
    writer.close()
    await until(service.ended, f"the end of the report of {path}")
    client = "stays" if stays else "leaves"
    status = answer.split(b" ", 2)[1].decode() if answer else ""
    cpu = "idle" if service.cpu < 10 * STEP else "BUSY"
    print(LINE.format(path, f"client {client}", status, service.outcome, service.steps, cpu))
    ensure(service.outcome == outcome, f"the report of {path} was {service.outcome}")
    ensure(service.cancels <= 1, f"the task of {path} was cancelled {service.cancels} times")
    ensure(cpu == "idle", f"a core was busy while the report of {path} came to its end")
    ensure(outcome == "returned" or service.steps < STEPS, f"{path} heard of it at its end only")


async def count_free_workers(executor: Executor) -> int:
    """Returns how many workers are in a block at once; all are, if no handler holds one."""
    meeting = threading.Barrier(WORKERS)

    async def meet() -> bool:
        async with threadpool(executor):
            try:
                meeting.wait(PATIENCE)
            except threading.BrokenBarrierError:
                return False
        return True

    return sum(await asyncio.gather(*(meet() for _ in range(WORKERS))))


async def selftest() -> None:
    """Each path with a client that leaves, and with one that stays; prints a table."""
    print(LINE.format("path", "client", "", "report", "steps", "processor"))
    with ThreadPoolExecutor(WORKERS, "worker") as executor:
        service = Observed(executor)
        async with serving(service.app) as port:
            await check(port, "/plain", False, "returned", service)
            await check(port, "/watched", False, "cancelled", service)
            await check(port, "/stream", False, "cancelled", service)
            await check(port, "/plain", True, "returned", service)
            await check(port, "/watched", True, "returned", service)
            await check(port, "/stream", True, "returned", service)
            await check(port, "/limited", True, "cancelled", service)
        ensure(await count_free_workers(executor) == WORKERS, "a worker is held")
    print("everybody was told, once, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="Reports over HTTP, cancelled by anyio's scopes.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    if options.selftest:
        asyncio.run(selftest())
        return
    with ThreadPoolExecutor(WORKERS, "worker") as executor:
        uvicorn.run(Service(executor).app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
