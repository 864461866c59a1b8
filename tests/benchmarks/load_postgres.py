"""What the way into a thread costs a handler that asks PostgreSQL, under load.

    python tests/benchmarks/load_postgres.py

One query, by SQLAlchemy and psycopg, in four handlers of FastAPI: a `def` endpoint, starlette's
`run_in_threadpool`, `asyncio.to_thread`, and a block on a `WorkerPool`; each with as many threads.
The server is a process of its own (uvicorn on uvloop); its client is wrk, with 200 connections. The
rounds take turns. It prints Markdown: the table of docs/frameworks/fastapi-and-postgresql.md.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from helpers.postgresql import postgresql

CONNECTIONS = 200
WAYS = {
    "def": "a `def` endpoint",
    "run_in_threadpool": "`await run_in_threadpool(query)`",
    "to_thread": "`await asyncio.to_thread(query)`",
    "block": "`async with threadpool(pool):`",
}


def serve(url: str, threads: int) -> None:
    """In a process of its own; the first line that it prints is its port."""
    import anyio.to_thread
    import uvicorn
    from fastapi import FastAPI
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import PlainTextResponse
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    from threadhop import WorkerPool, threadpool

    engine = create_engine(
        url.replace("postgresql", "postgresql+psycopg", 1), pool_size=threads, max_overflow=0
    )
    pool = WorkerPool(threads, max_threads=threads)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = threads
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        print(listener.getsockname()[1], flush=True)
        yield

    app = FastAPI(lifespan=lifespan)
    statement = text("SELECT balance FROM accounts WHERE id = :id")

    def query() -> PlainTextResponse:
        with Session(engine) as session:
            return PlainTextResponse(str(session.execute(statement, {"id": 500}).scalar_one()))

    @app.get("/def")
    def by_def() -> PlainTextResponse:
        return query()

    @app.get("/run_in_threadpool")
    async def by_run_in_threadpool() -> PlainTextResponse:
        return await run_in_threadpool(query)

    @app.get("/to_thread")
    async def by_to_thread() -> PlainTextResponse:
        return await asyncio.to_thread(query)

    @app.get("/block")
    async def by_block() -> PlainTextResponse:
        async with threadpool(pool):
            return query()

    # It listens at once: who comes before the server has started waits. IPPROTO_TCP is named since
    # asyncio sets TCP_NODELAY only where it is.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop")
    uvicorn.Server(config).run(sockets=[listener])


class Seen(NamedTuple):
    """Of one round; times in milliseconds. *cpu* is what a request costs the server's process."""

    rate: float
    cpu: float
    p50: float
    p99: float


UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def cpu_of(process: subprocess.Popen[str]) -> float:
    """In milliseconds, of all its threads. On Linux."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") * 1000


def load(server: subprocess.Popen[str], address: str, seconds: float) -> Seen:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", "--latency", address]
    before = cpu_of(server)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    spent = cpu_of(server) - before
    assert "Non-2xx" not in text, text
    answered = int(re.findall(r"(\d+) requests in", text)[0])
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0])
    times = dict(re.findall(r"^\s+(\d\d)%\s+(\S+)", text, re.MULTILINE))
    p50, p99 = (
        float(re.sub("[a-z]", "", time)) * UNITS[re.sub(r"[\d.]", "", time)]
        for time in (times["50"], times["99"])
    )
    return Seen(rate, spent / answered, p50, p99)


def measure(url: str, threads: int, rounds: int, seconds: float) -> dict[str, list[Seen]]:
    seen: dict[str, list[Seen]] = {way: [] for way in WAYS}
    command = [sys.executable, __file__, "--serve", url, "--threads", str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline())
            for way in WAYS:  # It warms up.
                load(server, f"http://127.0.0.1:{port}/{way}", 1)
            for _ in range(rounds):
                for way in WAYS:
                    seen[way].append(load(server, f"http://127.0.0.1:{port}/{way}", seconds))
        finally:
            server.terminate()
    return seen


def table(seen: dict[str, list[Seen]]) -> str:
    titles = ("handler", "requests/s, ratio", "processor time of the server, ratio", "p50", "p99")
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for way, rounds in seen.items():
        # Round by round: what else the machine does changes from one to the next.
        pairs = list(zip(rounds, seen["to_thread"], strict=True))
        cells = (
            WAYS[way],
            f"{statistics.median(mine.rate / other.rate for mine, other in pairs):.2f}",
            f"{statistics.median(mine.cpu / other.cpu for mine, other in pairs):.2f}",
            f"{statistics.median(mine.p50 for mine in rounds):.0f} ms",
            f"{statistics.median(mine.p99 for mine in rounds):.0f} ms",
        )
        lines.append(f"| {' | '.join(cells)} |")
    rate = statistics.median(mine.rate for mine in seen["to_thread"])
    cpu = statistics.median(mine.cpu for mine in seen["to_thread"])
    return "\n".join([*lines, "", f"1.00 is {rate:.0f} requests/s, and {cpu:.2f} ms each."])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=8, help="and connections to PostgreSQL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each handler in each round")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.threads)
        return
    with postgresql() as url:
        import psycopg

        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE accounts (id int PRIMARY KEY, balance int NOT NULL)")
            connection.execute("INSERT INTO accounts SELECT n, n FROM generate_series(1, 1000) n")
        print(table(measure(url, options.threads, options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
