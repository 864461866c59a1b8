"""``_whereabouts``: the slot of each thread, and the list of all of them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from helpers.loops import LoopKind
from helpers.steps import LIMIT, Gate, until, wait_until

from threadhop import (
    eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
    threadpool,
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


def job_of(thread: int) -> Any:
    """Seen by this thread, which is another one."""
    (slot,) = slots_of(thread)
    return slot.job


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


def test_the_slot_of_a_worker_shows_its_block_while_that_runs_here(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor]
) -> None:
    """Also while the worker waits for a part on the loop; None before and after."""

    async def main() -> None:
        with executor_class(1) as pool:
            worker = pool.submit(threading.get_ident).result(LIMIT)
            assert [slot.job for slot in slots_of(worker)] in ([], [None])
            gate = Gate()

            async def block() -> None:
                async with threadpool(pool):
                    gate.stop_here()
                    async with eventloop():
                        assert job_of(worker) is seat

            task = asyncio.get_running_loop().create_task(block())
            await until(gate.reached.is_set)
            seat = job_of(worker)
            assert __file__ in seat.where()
            gate.open()
            await task
            pool.submit(str).result(LIMIT)  # the worker has left the block
            assert job_of(worker) is None

    loops.run(main)


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
def test_the_slot_of_a_worker_shows_its_call_while_that_runs(
    loops: LoopKind, executor_class: type[ThreadPoolExecutor], fails: bool
) -> None:
    """None after it, however it ended."""

    async def main() -> None:
        with executor_class(1) as pool:
            gate = Gate()

            def work() -> int:
                gate.stop_here()
                if fails:
                    raise LookupError
                return threading.get_ident()

            worker = pool.submit(threading.get_ident).result(LIMIT)
            future = exec_in_executor(pool, work)
            await until(gate.reached.is_set)
            assert "work" in job_of(worker).where()
            gate.open()
            await asyncio.wait([future], timeout=LIMIT)
            assert (future.exception() is None) is not fails
            pool.submit(str).result(LIMIT)
            assert job_of(worker) is None

    loops.run(main)


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
