"""``_job``: the slot of each thread, and the list of all of them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from helpers.steps import LIMIT, wait_until

from threadhop import (
    exec_in_executor,
    exec_in_executor_threading_future,
)
from threadhop._job import Slot, all_slots, current


def in_another_thread(func: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=func)
    thread.start()
    thread.join(LIMIT)
    assert not thread.is_alive()
    return thread


def slots_of(thread: int | None) -> list[Slot]:
    return [slot for slot in all_slots() if slot.thread == thread]


def test_a_thread_has_one_slot_which_is_listed() -> None:
    """It is made when the thread asks for the first time, and is the same from then on."""
    seen: list[Any] = []

    def ask() -> None:
        seen.append(slots_of(threading.get_ident()))
        slot = current.slot
        seen.append(slot.job)
        seen.append(current.slot is slot)
        seen.append(slots_of(threading.get_ident()) == [slot])
        seen.append(slot.thread == threading.get_ident())

    in_another_thread(ask)
    assert seen == [[], None, True, True, True]


def test_many_threads_that_ask_at_once_are_all_listed() -> None:
    """Also while somebody else looks through the list, and while others end."""
    barrier = threading.Barrier(9, timeout=LIMIT)

    def ask() -> None:
        barrier.wait()
        current.slot.job = None
        barrier.wait()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    barrier.wait()
    wait_until(lambda: all(slots_of(thread.ident) for thread in threads))
    barrier.wait()
    while any(thread.is_alive() for thread in threads):
        all_slots()
    for thread in threads:
        thread.join(LIMIT)


def test_a_slot_goes_with_its_thread() -> None:
    """Neither the list nor anything else keeps it."""
    slots: list[weakref.ref[Slot]] = []
    thread = in_another_thread(lambda: slots.append(weakref.ref(current.slot)))
    gc.collect()
    assert slots[0]() is None
    assert not slots_of(thread.ident)


def test_a_job_that_runs_within_another_one_is_shown_and_then_the_outer_one_again() -> None:
    """As on an executor that helps out while it waits."""

    def helping_out() -> list[Any]:
        jobs = [current.slot.job]
        future = exec_in_executor_threading_future(inline, lambda: jobs.append(current.slot.job))
        future.result(LIMIT)
        return [*jobs, current.slot.job]

    class Inline(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            fn(*args, **kwargs)

    inline = Inline(1)

    async def main() -> list[Any]:
        return await exec_in_executor(pool, helping_out)

    with ThreadPoolExecutor(1) as pool:
        outer, inner, then = asyncio.run(main())
    assert outer is then is not None
    assert inner not in (outer, None)
