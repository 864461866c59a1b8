"""Two copies of the package in one process, and the child of a fork in a body."""

from __future__ import annotations

import os
import sys

import pytest
from helpers.child import run_in_child


def lines_of(source: str, *options: str) -> list[str]:
    child = run_in_child(source, options=options)
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout.splitlines()


def test_two_copies_in_one_process_do_not_meet() -> None:
    """One vendored, or loaded anew: the strand of one is nothing to the other."""
    lines = lines_of(
        """
        import asyncio, sys, threading
        import threadhop as first
        for name in [name for name in sys.modules if name.startswith("threadhop")]:
            del sys.modules[name]
        import threadhop as second

        def on_loop():
            return threading.current_thread() is threading.main_thread()

        async def main():
            async with first.threadpool():
                async with first.eventloop():
                    async with second.threadpool():
                        async with second.eventloop():
                            print(on_loop())
                        print(on_loop())
                    print(on_loop())
                print(on_loop())
            print(on_loop(), await second.exec_in_executor(None, on_loop))

        asyncio.run(main())
        """
    )
    assert lines == ["True", "False", "True", "False", "True False"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_the_child_of_a_fork_a_worker_works_for_nobody() -> None:
    """A call to the loop raises, and the block ends with an error; the parent goes on."""
    lines = lines_of(
        """
        import asyncio, os, threadhop, warnings
        from concurrent.futures import ThreadPoolExecutor
        warnings.simplefilter("ignore")

        async def main(pool):
            child = None
            try:
                async with threadhop.threadpool(pool):
                    child = os.fork()
                    if child == 0:
                        try:
                            threadhop.exec_in_eventloop(int)
                        except RuntimeError as error:
                            print("works for no event loop" in str(error), flush=True)
                        threadhop.check_cancelled()
                    else:
                        assert os.waitpid(child, 0)[1] == 0
            except RuntimeError as error:
                print("child of a fork" in str(error), flush=True)
                os._exit(child)
            print("parent", threadhop.WorkerPool is type(pool), flush=True)

        for kind in (threadhop.WorkerPool, ThreadPoolExecutor):
            asyncio.run(main(kind(1)))
        """
    )
    assert lines == ["True", "True", "parent True", "True", "True", "parent False"]


def test_a_loop_that_is_stopped_and_closed_while_a_task_returns_is_told() -> None:
    lines = lines_of(
        """
        import asyncio, gc, logging, threading
        import threadhop
        said = []
        logging.getLogger("threadhop").addFilter(lambda record: said.append(record.msg) or False)
        ended = threading.Event()

        async def job():
            async with threadhop.threadpool(pool):
                began.set()
                gate.wait()

        began, gate = threading.Event(), threading.Event()
        pool = threadhop.WorkerPool(1)
        loop = asyncio.new_event_loop()
        task = loop.create_task(job())
        loop.run_until_complete(asyncio.to_thread(began.wait))
        gate.set()
        pool.shutdown()
        loop.close()
        task._log_destroy_pending = False
        del task, loop
        for _ in range(3):
            gc.collect()
        print(len(said), "closed while a task was in the block" in said[0])
        """
    )
    assert lines == ["1 True"]


@pytest.mark.skipif(sys.version_info < (3, 15), reason="there are no lazy imports")
def test_the_import_may_be_lazy() -> None:
    assert lines_of("import threadhop; print(threadhop.threadpool())", "-X", "lazy_imports=all")
