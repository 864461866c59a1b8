"""Nothing keeps a task that has ended, or what it knew."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import weakref
from concurrent.futures import Executor
from typing import Any

import pytest
from helpers.garbage import MAY_DEFER, Thing, collect_until, counts_references, no_collector
from helpers.loops import LoopKind
from helpers.places import OopsError, ended, start

from threadhop import eventloop, threadpool


async def ends_with(kind: type[BaseException], where: str, pool: Executor) -> None:
    async with threadpool(pool):
        if where == "body":
            raise kind
        async with eventloop():
            if where == "part":
                raise kind
    raise kind


@counts_references
@pytest.mark.parametrize("where", ["body", "part", "behind the block"])
def test_the_frames_of_the_error_do_not_lead_back_to_the_task(
    loops: LoopKind, one: Executor, where: str
) -> None:
    """An exit has the frames of the loop in its traceback, and so has any in pure Python."""
    # With an exit the frames of a task in pure Python lead back to it, whatever we do.
    kinds = [OopsError] if loops.name == "pytask" else [OopsError, SystemExit]
    loop = loops.loop_factory()
    loop.set_task_factory(loops.task_factory)
    try:
        for kind in kinds:
            with no_collector():
                task: Any = loop.create_task(ends_with(kind, where, one))
                task.add_done_callback(lambda _: loop.stop())
                with contextlib.suppress(SystemExit):
                    loop.run_forever()
                loop.call_soon(loop.stop)
                loop.run_forever()
                assert type(task.exception()) is kind
                ref = weakref.ref(task)
                del task
                one.submit(str).result()  # By then the worker has left its last job.
                if MAY_DEFER:
                    gc.collect()
                assert ref() is None
    finally:
        loop.close()


def test_a_part_object_that_is_kept_keeps_nothing_of_the_tasks_that_used_it(
    loops: LoopKind, one: Executor
) -> None:
    part = eventloop()
    known: contextvars.ContextVar[Thing] = contextvars.ContextVar("known")
    refs: list[weakref.ref[Thing]] = []

    async def block() -> None:
        async with threadpool(one):
            known.set(thing := Thing())
            refs.append(weakref.ref(thing))
            async with part, part:
                pass

    async def main() -> None:
        await ended(start(block()))

    loops.run(main)
    collect_until(lambda: refs[0]() is None)
    assert part is not None
