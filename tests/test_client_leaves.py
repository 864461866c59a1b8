"""A client that leaves in the middle of a body, with Starlette under uvicorn, on real sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.places import in_block_of
from helpers.steps import Gate, until

from threadhop import threadpool

REASON = "needs starlette and uvicorn, which are not installed"
uvicorn: Any = pytest.importorskip("uvicorn", reason=REASON)
pytest.importorskip("starlette.applications", reason=REASON)

from starlette.applications import Starlette  # noqa: E402
from starlette.middleware import Middleware  # noqa: E402
from starlette.middleware.base import BaseHTTPMiddleware  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import PlainTextResponse, StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402


class _PassesOn(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: Callable[[Request], Any]) -> Any:
        return await call_next(request)


class _App:
    """Two handlers with a body that stops at a gate, and how they went."""

    def __init__(self, pool: ThreadPoolExecutor, gate: Gate, *, has_middleware: bool) -> None:
        self.pool, self.gate = pool, gate
        self.ends: list[str] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.app = Starlette(
            routes=[Route("/plain", self.plain), Route("/stream", self.stream)],
            middleware=[Middleware(_PassesOn)] if has_middleware else [],
        )

    async def body(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        try:
            async with threadpool(self.pool):
                self.gate.stop_here()
            self.ends.append("to its end")
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise

    async def plain(self, request: Request) -> PlainTextResponse:
        await self.body()
        return PlainTextResponse("text")

    async def stream(self, request: Request) -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "first"
            await self.body()
            yield "second"

        return StreamingResponse(parts())

    async def leave(self, path: str) -> tuple[int, float]:
        """How often the task was cancelled, and what that cost, while the body went on."""
        config = uvicorn.Config(self.app, port=0, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        await until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await until(self.gate.reached.is_set)
        writer.close()
        (task,) = self.tasks
        if path == "/stream":
            await until(task.cancelling)
        before = time.process_time()
        await asyncio.sleep(0.5)
        cost = time.process_time() - before
        count = task.cancelling()
        self.gate.open()
        await until(lambda: self.ends)
        await in_block_of(self.pool)
        server.should_exit = True
        await serving
        return count, cost


@pytest.mark.parametrize("has_middleware", [True, False], ids=["middleware", "bare"])
@pytest.mark.parametrize(("path", "end"), [("/stream", "cancelled"), ("/plain", "to its end")])
def test_a_client_that_leaves_cancels_a_stream_once_and_a_plain_handler_not_at_all(
    one: ThreadPoolExecutor, path: str, end: str, has_middleware: bool
) -> None:
    app = _App(one, Gate(), has_middleware=has_middleware)
    count, cost = asyncio.run(app.leave(path))
    assert app.ends == [end]
    assert count == (end == "cancelled")
    assert cost < 0.1
