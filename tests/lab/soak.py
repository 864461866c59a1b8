"""Minutes of random programs in one process, which must not grow.

    MALLOC_ARENA_MAX=1 PYTHONDEVMODE=1 PYTHONPATH=tests python -m lab.soak --minutes 2 --loop trio

Each round has its own pools, so thousands of threads start. glibc gives threads arenas, which grow
without end and hold nothing: hence the first variable. Printed are, half-way and at the end:
resident memory, open files, threads, and the objects of the library that a collection leaves. The
exit status is 1 if memory has grown by more than one percent, or anything else at all.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import threading
import time
from collections import Counter
from typing import Any

from lab.lab import KINDS, Figures, Storm, pythons

import threadhop

#: Seconds between two looks.
PERIOD = 5.0
#: How much more memory there may be, as a part.
TOLERANCE = 0.01


def resident() -> int:
    """KiB. Where there is no /proc, the peak."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def objects_of_ours() -> Counter[str]:
    """After a collection: how many objects of the library's classes are left."""
    gc.collect()
    gc.collect()
    return Counter(
        type(thing).__qualname__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith("threadhop")
    )


def soak(name: str, minutes: float, seed: int) -> tuple[str, bool]:
    """What to say, and whether all is well."""
    logging.getLogger("threadhop").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    figures, number = Figures(), 0
    begin = time.monotonic()
    end, warm = begin + minutes * 60, begin + minutes * 30
    first: list[Any] = []
    next_look = begin + PERIOD
    while time.monotonic() < end:
        Storm(name, f"{seed}.{number}", figures).run()
        number += 1
        now = time.monotonic()
        if now > next_look:
            next_look = now + PERIOD
            objects = objects_of_ours()
            if not first and now > warm:
                first = [resident(), open_files(), threading.active_count(), objects]
    objects = objects_of_ours()
    last = [resident(), open_files(), threading.active_count(), objects]
    sys.setswitchinterval(interval)
    grown = last[0] / first[0] - 1
    more = {kind: count - first[3][kind] for kind, count in (objects - first[3]).items()}
    lost = len(figures.losses)
    is_well = grown < TOLERANCE and last[1:3] == first[1:3] and not lost and not more
    text = (
        f"{pythons()}, {name}, {minutes:g} minutes: {figures}; resident {first[0]:,} KiB, then "
        f"{last[0]:,} KiB ({grown:+.2%}), files {first[1]} and {last[1]}, "
        f"threads {first[2]} and {last[2]}, objects of threadhop {sum(first[3].values())} and "
        f"{sum(objects.values())}, hops {len(threadhop.hops())}"
    )
    return text if is_well else f"{text}; MORE: {more} {figures.losses[:3]}", is_well


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--loop", choices=[*KINDS], default="asyncio")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    text, is_well = soak(options.loop, options.minutes, options.seed)
    sys.stdout.write(text + "\n")
    return not is_well


if __name__ == "__main__":
    sys.exit(main())
