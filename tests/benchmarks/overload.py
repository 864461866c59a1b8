"""What `max_queued` does to the time of an answer when more comes than the workers can do.

    python tests/benchmarks/overload.py --svg docs/how-to/overload.svg

Requests come at random moments, whether the ones before them were answered or not, as they do to a
service. Each is a block that sleeps on the worker: that is the work, so the figures hardly depend
on the machine. A request that is refused is answered at once, and counted as refused. It prints
Markdown: the table of docs/how-to/answer-503-when-busy.md. The drawing is that of the same page.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import chart

from threadhop import PoolBusy, WorkerPool, threadpool

WORKERS = 4
WORK = 0.01  # seconds
LOADS = (0.5, 1.0, 1.5, 3.0)
#: As many requests may wait: as the workers do in two rounds.
LIMIT = 2 * WORKERS


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


#: By the load: what is seen without a limit, and with one.
Pairs = Mapping[float, tuple[Seen, Seen]]


def measure(seconds: float) -> Pairs:
    def both(load: float, seed: int) -> tuple[Seen, Seen]:
        free, limited = (asyncio.run(serve(load, seconds, most, seed)) for most in (None, LIMIT))
        return free, limited

    return {load: both(load, seed) for seed, load in enumerate(LOADS)}


def table(pairs: Pairs) -> str:
    titles = (
        "requests, of what the workers can do",
        "median: no limit",
        f"median: `max_queued={LIMIT}`",
        "p99: no limit",
        f"p99: `max_queued={LIMIT}`",
        "p99, ratio",
        "refused",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for load, (free, limited) in pairs.items():
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


# --- as a drawing --------------------------------------------------------------------------------

WIDTH, LEFT, TOP, BAR, GAP = 640, 96, 64, 14, 14
#: The axis: powers of ten, in seconds.
FIRST, LAST = -2, 1


def drawing(pairs: Pairs) -> str:
    """Return p99 for each load as SVG, on a logarithmic axis."""
    bottom = TOP + len(pairs) * (2 * BAR + GAP)
    scale = (WIDTH - LEFT - 80) / (LAST - FIRST)
    size = f'viewBox="0 0 {WIDTH} {bottom + 32}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title">',
        f'  <title id="title">p99 with and without max_queued={LIMIT}</title>',
        f"  <style>{chart.STYLE}  </style>",
        '  <rect class="back" width="100%" height="100%" rx="6"/>',
        chart.text(16, 26, "The slowest hundredth of the answers took at least", "head"),
        chart.text(16, 44, f"grey: no limit; blue: max_queued={LIMIT}", "small"),
    ]
    for power in range(FIRST, LAST + 1):
        x = LEFT + (power - FIRST) * scale
        parts.append(f'  <path class="grid" d="M{x:.1f} {TOP - 8}V{bottom}"/>')
        parts.append(chart.text(x, bottom + 16, f"{10**power:g} s", "small", anchor="middle"))
    y = TOP
    for load, both in pairs.items():
        parts.append(chart.text(16, y + BAR + 4, f"{load:.0%} load", "code"))
        for kind, seen in zip(("other", "ours"), both, strict=True):
            length = (math.log10(seen.p99) - FIRST) * scale
            size = f'width="{length:.1f}" height="{BAR - 2}"'
            parts.append(f'  <rect class="{kind}" x="{LEFT}" y="{y}" {size}/>')
            label = f"{seen.p99 * 1000:.0f} ms"
            parts.append(chart.text(LEFT + length + 5, y + BAR - 4, label, "small"))
            y += BAR
        y += GAP
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="of requests, for each figure")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="where the drawing goes")
    options = parser.parse_args()
    pairs = measure(options.seconds)
    print(table(pairs))
    if options.svg is not None:
        options.svg.write_text(drawing(pairs), encoding="utf-8")


if __name__ == "__main__":
    main()
