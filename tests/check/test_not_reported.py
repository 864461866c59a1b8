"""What the checker must leave alone."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from helpers.checking import IMPORTS, found, in_a_block, program

from threadhop._check._command import check_file, files_in
from threadhop._check._report import check_source

ROOT = Path(__file__).parents[2]

IN_A_BODY = {
    "blocking calls": "time.sleep(1); open(x).read(); requests.get(x)",
    "functions, which run elsewhere": """
        async def helper():
            await x
            async with lock:
                asyncio.create_task(x)
            yield 1
        def callback():
            asyncio.get_running_loop().call_soon(x)
        """,
    "lambdas": "loop.call_soon_threadsafe(lambda: asyncio.create_task(x))",
    "classes": """
        class Handler:
            loop = asyncio.get_running_loop()
            async def handle(self):
                await x
        """,
    "generator expressions, which run where they are consumed": "rows = (r async for r in x)",
    "what is thread-safe": """
        loop = asyncio.get_event_loop()
        loop.call_soon_threadsafe(x)
        asyncio.run_coroutine_threadsafe(x, loop)
        exec_in_eventloop(x)
        threadhop.check_cancelled()
        """,
    "a function that is named, not called": """
        queue = asyncio.Queue()
        exec_in_eventloop(queue.put_nowait, 1)
        exec_in_eventloop(asyncio.create_task, x)
        asyncio.get_event_loop().call_soon_threadsafe(queue.put_nowait, 1)
        """,
    "a loop of the worker's own": """
        asyncio.run(x)
        with asyncio.Runner() as runner:
            runner.get_loop().call_soon(x)
        threadhop.ensure_thread_event_loop().create_task(x)
        asyncio.new_event_loop().create_task(x)
        """,
    "queues, events and futures of threads": """
        import queue, threading, concurrent.futures
        from concurrent.futures import Future
        from queue import Queue
        queue.Queue().put_nowait(1)
        Queue().get_nowait()
        threading.Event().set()
        concurrent.futures.Future().set_result(1)
        Future().set_exception(x)
        """,
    "what the file does not show to be asyncio's": """
        x.create_task(y)
        create_task(y)
        x.loop.call_soon(y)
        x.put_nowait(1)
        lock.set()
        rows = asyncio.Queue()
        rows[0].put_nowait(1)
        """,
    "loop parts": """
        async with eventloop():
            await x
            async with lock:
                [row async for row in x]
            async for row in x:
                asyncio.create_task(row)
        """,
    "blocks in a block": """
        async with threadpool(other), threadhop.eventloop():
            await x
        """,
    "managers of threadhop that need no loop": """
        async with threadhop.cancellation_guard():
            work()
        """,
    "one of two managers that are fine": """
        async with eventloop() if x else threadpool(other):
            await x
        async with threadpool(other) if x else contextlib.nullcontext():
            work()
        """,
    "plain with": "with lock, open(x) as file:\n    for line in file: work(line)",
}


@pytest.mark.parametrize("lines", IN_A_BODY.values(), ids=IN_A_BODY)
def test_in_the_body_of_a_block_nothing_is_said_about(lines: str) -> None:
    assert found(in_a_block(lines)) == []


PROGRAMS = {
    "another library's threadpool": """
        from asyncio_extras import threadpool
        from other import eventloop
        import other
        async def main():
            async with threadpool():
                await x
            async with other.threadpool():
                await x
            with threadpool():
                pass
        @threadpool
        async def f(): ...
        """,
    "a name that the file itself gives to something else": """
        async def parameter(threadpool):
            async with threadpool():
                await x
        async def local():
            threadpool = other.threadpool
            async with threadpool():
                await x
        async def target():
            for threadpool in pools:
                async with threadpool():
                    await x
        class Service:
            def threadpool(self): ...
            async def run(self):
                async with self.threadpool():
                    await x
        """,
    "asyncio's name for something else": """
        async def main(asyncio):
            async with threadpool():
                asyncio.create_task(x)
                asyncio.Queue().put_nowait(1)
        """,
    "a name that may be one of two": """
        import queue
        try:
            from asyncio import Event
        except ImportError:
            from threading import Event
        async def main():
            jobs = asyncio.Queue()
            jobs = queue.Queue()
            async with threadpool():
                jobs.put_nowait(1)
                Event().set()
        """,
    "an attribute that may be one of two": """
        import queue
        class Service:
            def __init__(self, threads):
                if threads:
                    self.jobs = queue.Queue()
                else:
                    self.jobs = asyncio.Queue()
            async def run(self):
                async with threadpool():
                    self.jobs.put_nowait(1)
        """,
    "the same attribute of another class": """
        import queue
        class One:
            def __init__(self):
                self.jobs = asyncio.Queue()
        class Two:
            def __init__(self):
                self.jobs = queue.Queue()
            async def run(self):
                async with threadpool():
                    self.jobs.put_nowait(1)
        """,
    "an attribute of what is not self": """
        class Service:
            def __init__(self):
                self.jobs = asyncio.Queue()
            async def run(self, other):
                async with threadpool():
                    other.jobs.put_nowait(1)
            @staticmethod
            async def run_other(other):
                async with threadpool():
                    other.jobs.put_nowait(1)
        """,
    "a block that may not be one": """
        @contextlib.asynccontextmanager
        async def either():
            if x:
                async with threadpool():
                    yield
            else:
                yield
        async def main():
            async with threadpool() if x else contextlib.nullcontext():
                await x
            async with either():
                await x
        """,
    "a yield in the block of a context manager": """
        import contextlib as c
        from contextlib import asynccontextmanager, asynccontextmanager as manager
        from .compat import asynccontextmanager as compatible
        @contextlib.asynccontextmanager
        async def a():
            async with threadpool():
                yield
        @c.asynccontextmanager
        async def b():
            async with threadpool():
                yield
        @other
        @asynccontextmanager
        async def c():
            async with threadpool():
                yield
        @manager
        async def d():
            async with threadpool():
                yield
        @compatible
        async def e():
            async with threadpool():
                yield
        class Service:
            @asynccontextmanager
            async def f(self):
                async with threadpool():
                    yield
        async def _g():
            async with threadpool():
                yield
        g = asynccontextmanager(_g)
        """,
    "an await of a function of the file that goes to the loop by itself": """
        async def send(row):
            async with eventloop():
                await x
        async def send_twice(row):
            await send(row)
            async with eventloop(), lock:
                await x
        async def even(n):
            async with eventloop():
                await x
            await odd(n - 1)
        async def odd(n):
            await even(n - 1)
        async def store(row):
            async with threadpool(other):
                work(row)
        class Service:
            async def send(self):
                async with eventloop():
                    await x
            async def run(self):
                async with threadpool():
                    await self.send()
                    await send(1)
                    await send_twice(1)
                    await even(2)
                    await store(1)
                    await Service().send()
        """,
    "a context manager of the file that goes to the loop by itself": """
        @contextlib.asynccontextmanager
        async def on_loop():
            async with eventloop():
                yield await x
        async def main():
            async with threadpool():
                async with on_loop():
                    await x
        """,
    "@threadpool on plain functions": """
        @threadpool
        def one(): ...
        class Service:
            @threadpool()
            def two(self):
                async def inner():
                    await x
                return [y for y in (lambda: (yield))()]
            @threadpool(pool)
            @staticmethod
            def three(): ...
        @threadpool
        @contextlib.contextmanager
        def four():
            yield
        """,
    "managers that hold for the context, or stand in the block": """
        import numpy, torch, decimal
        async def main():
            with numpy.errstate(all="ignore"), decimal.localcontext():
                async with threadpool(): ...
            async with threadpool():
                with torch.no_grad():
                    async with threadpool(): ...
            with torch.no_grad():
                work()
            with torch.no_grad():
                async def later():
                    async with threadpool(): ...
            with other.no_grad():
                async with threadpool(): ...
        """,
    "what stands before and after a block": """
        async def main():
            await x
            async with lock, threadpool(await pool()):
                pass
            asyncio.create_task(x)
            yield await x
        """,
    "names that hang together in a circle": """
        a = b
        b = a
        class C(C): ...
        class D(E): ...
        class E(D): ...
        async def main():
            async with a, D().x, C().x:
                pass
        """,
}


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_nothing_is_said_about(source: str) -> None:
    assert found(program(source)) == []


@pytest.mark.parametrize("folder", ["examples", "src"])
def test_no_false_alarm_in_the_programs_of_this_project(folder: str) -> None:
    files = list(files_in(str(ROOT / folder)))
    assert len(files) > 5
    assert [problem for file in files for problem in check_file(file)] == []


FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
#: Pieces that show what goes wrong.
DELIBERATE = {("pytorch-and-scikit-learn.md", "THR112")}


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))], ids=lambda page: page.name
)
def test_no_false_alarm_in_the_programs_of_the_pages(page: Path) -> None:
    """Also in the pieces that stand there without their imports."""
    text = page.read_text("utf-8")
    pieces = [
        (IMPORTS if kind == "py" else "") + textwrap.dedent(source)
        for _, kind, source in FENCE.findall(text)
        if kind in ("py", "python")
    ]
    if not page.name.startswith("check-your-code"):
        indented = re.findall(r"(?:^(?: {4}.*)?\n)+", FENCE.sub("", text), re.MULTILINE)
        pieces += [IMPORTS + textwrap.dedent(piece) for piece in indented if "async with" in piece]
    for piece in pieces:
        try:
            problems = check_source(piece)
        except SyntaxError:
            continue  # Words between the lines of code.
        assert [p for p in problems if (page.name, p.number) not in DELIBERATE] == []
