"""What `max_queued` does to the time of an answer when more comes than the workers can do.

    python tests/benchmarks/overload.py

Requests come at random moments, whether the ones before them were answered or not, as they do to a
service. Each is a block that sleeps on the worker: that is the work, so the figures hardly depend
on the machine. A request that is refused is answered at once, and counted as refused. It prints
Markdown: the table of docs/how-to/answer-503-when-busy.md.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import time
from typing import NamedTuple

from threadhop import PoolBusy, WorkerPool, threadpool

WORKERS = 4
WORK = 0.01  # seconds
LOADS = (0.5, 1.0, 1.5, 3.0)
#: As many requests may wait as the workers do in this many rounds.
ROUNDS = 2


class Seen(NamedTuple):
    """Of one run, times in seconds."""

    median: float
    p99: float
    refused: float


async def serve(load: float, seconds: float, max_queued: int | None, seed: int) -> Seen:
    """Requests at *load* times what the workers can do."""
    rate = load * WORKERS / WORK
    moments = random.Random(seed)
    times: list[float] = []
    refused = 0

    async def request(pool: WorkerPool, due: float) -> None:
        nonlocal refused
        try:
            async with threadpool(pool):
                time.sleep(WORK)
        except PoolBusy:
            refused += 1
        else:
            times.append(time.perf_counter() - due)

    with WorkerPool(WORKERS, max_queued=max_queued) as pool:
        due = begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            while due < begin + seconds:
                due += moments.expovariate(rate)
                await asyncio.sleep(max(0, due - time.perf_counter()))
                group.create_task(request(pool, due))
    return Seen(
        statistics.median(times),
        statistics.quantiles(times, n=100)[98],
        refused / (refused + len(times)),
    )


def table(seconds: float) -> str:
    limit = ROUNDS * WORKERS
    titles = (
        "requests, of what the workers can do",
        "median: no limit",
        f"median: `max_queued={limit}`",
        "p99: no limit",
        f"p99: `max_queued={limit}`",
        "p99, ratio",
        "refused",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for seed, load in enumerate(LOADS):
        free, limited = (asyncio.run(serve(load, seconds, most, seed)) for most in (None, limit))
        cells = (
            f"{load:.0%}",
            f"{free.median * 1000:.0f} ms",
            f"{limited.median * 1000:.0f} ms",
            f"{free.p99 * 1000:.0f} ms",
            f"{limited.p99 * 1000:.0f} ms",
            f"{limited.p99 / free.p99:.3f}",
            f"{limited.refused:.0%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="of requests, for each figure")
    print(table(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
