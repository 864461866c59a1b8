"""What the checker must find."""

from __future__ import annotations

import pytest
from helpers.checking import expected, found, in_a_block, program

from threadhop._check._report import check_source
from threadhop._check._rules import RULES, TEXTS

#: Lines of a body: each is wrong wherever in a statement it stands.
IN_A_BODY = {
    "an await": "await x  # THR101",
    "an await within an expression": "y = [f(1, await x) + 1]  # THR101",
    "an await in the head of a loop": "for _ in await x:  # THR101\n    pass",
    "an await in a condition": "while (row := await x):  # THR101\n    pass",
    "an await in a return": "return await x  # THR101",
    "an await in an f-string": "print(f'{await x}')  # THR101",
    "an await in the item of a with": "with open(await x):  # THR101\n    pass",
    "an await in a match": "match await x:  # THR101\n    case _:\n        pass",
    "an await in a handler and in a finally": """
        try:
            f()
        except ValueError:
            await x  # THR101
        finally:
            await y  # THR101
        """,
    "an await in a default, which is evaluated in the body": """
        def f(value=await x):  # THR101
            pass
        """,
    "an await in a decorator, likewise": "@(await x)  # THR101\ndef f(): pass",
    "two in one line": "await x, await y  # THR101 THR101",
    "an await in a comprehension": "rows = [await row for row in x]  # THR101",
    "an await in the source of a generator expression": "rows = (r for r in await x)  # THR101",
    "async for": "async for row in x:  # THR102\n    pass",
    "async with": "async with lock:  # THR103\n    pass",
    "async with of what may be harmless": """
        async with lock if lock else contextlib.nullcontext():  # THR103
            pass
        """,
    "async with of another library": "async with asyncio.timeout(1):  # THR103\n    pass",
    "asynchronous comprehensions": """
        a = [row async for row in x]  # THR104
        b = {row async for row in x}  # THR104
        c = {row: 1 async for row in x}  # THR104
        f(1, [row for rows in x async for row in rows])  # THR104
        """,
    "what follows a loop part": """
        async with eventloop():
            await x
        await x  # THR101
        """,
    "a block in a loop part": """
        async with eventloop():
            async with threadpool():
                await x  # THR101
            await x
        """,
    "asyncio's functions that need the running loop": """
        asyncio.create_task(x)  # THR106
        asyncio.ensure_future(x)  # THR106
        asyncio.get_running_loop()  # THR106
        asyncio.current_task()  # THR106
        """,
    "methods of the loop": """
        asyncio.get_running_loop().call_soon(x)  # THR106 THR107
        asyncio.get_event_loop().call_later(1, x)  # THR107
        """,
    "anyio's ways back": """
        import anyio
        import anyio.from_thread
        from anyio import from_thread as back
        from anyio.from_thread import run
        anyio.from_thread.run(x)  # THR109
        anyio.from_thread.run_sync(x)  # THR109
        back.check_cancelled()  # THR109
        run(x)  # THR109
        """,
}


@pytest.mark.parametrize("lines", IN_A_BODY.values(), ids=IN_A_BODY)
def test_in_the_body_of_a_block_is_found(lines: str) -> None:
    source = in_a_block(lines)
    assert expected(source)
    assert found(source) == expected(source)


PROGRAMS = {
    "a manager to the right of the block is in its body, one to the left is not": """
        async def main(lock):
            async with lock, threadpool(), lock as got:  # THR103
                pass
            async with threadpool(), eventloop(), lock:
                pass
        """,
    "an executor is no matter, nor is a block that was kept": """
        kept = threadpool(pool)
        class Service:
            shared = threadpool()
            def __init__(self):
                self.own = threadpool(pool)
            async def run(self, given: threadhop.ThreadpoolBlock):
                async with kept:
                    await x  # THR101
                async with self.own:
                    await x  # THR101
                async with self.shared:
                    await x  # THR101
                async with given:
                    await x  # THR101
        """,
    "every form of import": """
        import threadhop as th
        from threadhop import threadpool as tp
        async def main():
            async with th.threadpool():
                await x  # THR101
            async with threadhop.threadpool():
                await x  # THR101
            async with tp():
                await x  # THR101
            from threadhop import threadpool as inner
            async with inner():
                await x  # THR101
        class Service:
            threadpool = None  # a function does not see this name
            async def run(self):
                async with threadpool():
                    await x  # THR101
        """,
    "asyncio under another name": """
        import asyncio as aio
        from asyncio import create_task as go, get_running_loop
        from asyncio.tasks import ensure_future
        async def main():
            loop = get_running_loop()
            async with threadpool():
                aio.create_task(x)  # THR106
                go(x)  # THR106
                ensure_future(x)  # THR106
                loop.call_soon(x)  # THR107
                loop.call_at(1, x)  # THR107
                loop.create_task(x)  # THR107
        """,
    "a yield in a block of an async generator": """
        async def rows():
            async with threadpool():
                yield 1  # THR105
                value = yield  # THR105
                async with eventloop():
                    yield 2
        @fixture
        async def database():
            async with threadpool():
                yield connect()  # THR105
        """,
    "queues, events and futures of asyncio: assigned": """
        async def main():
            queue, event = asyncio.Queue(), asyncio.Event()
            urgent = asyncio.PriorityQueue[int]()
            future = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            other = loop.create_future()
            third = asyncio.Future()
            async with threadpool():
                queue.put_nowait(1)  # THR108
                queue.get_nowait()  # THR108
                urgent.put_nowait(1)  # THR108
                event.set()  # THR108
                event.clear()  # THR108
                future.set_result(1)  # THR108
                other.set_exception(x)  # THR108
                third.set_result(1)  # THR108
        """,
    "queues, events and futures of asyncio: annotated": """
        from typing import Annotated, Optional
        async def main(
            queue: asyncio.Queue[int], event: "asyncio.Event", future: asyncio.Future[int] | None,
            maybe: Optional[asyncio.LifoQueue], noted: Annotated[asyncio.Event, 1],
            loop: asyncio.AbstractEventLoop,
        ):
            local: asyncio.Queue = make()
            local = make()
            async with threadpool():
                queue.put_nowait(1)  # THR108
                event.set()  # THR108
                future.set_result(1)  # THR108
                maybe.put_nowait(1)  # THR108
                noted.set()  # THR108
                local.put_nowait(1)  # THR108
                loop.call_soon(x)  # THR107
        """,
    "queues, events and futures of asyncio: attributes of self": """
        class Base:
            stopped: asyncio.Event
            def __init__(self, given: asyncio.Queue[int]):
                self.queue = asyncio.Queue()
                self.given = given
                self.future = None
                self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
            async def connect(self):
                self.future = self.loop.create_future()
        class Service(Base):
            async def run(self):
                async with threadpool():
                    self.queue.put_nowait(1)  # THR108
                    self.given.put_nowait(1)  # THR108
                    self.stopped.set()  # THR108
                    self.future.set_result(1)  # THR108
                    self.loop.call_soon(x)  # THR107
        """,
    "a name of the module, of an outer function, of another name": """
        jobs: asyncio.Queue | None = None
        stopped = None
        async def main():
            global stopped
            stopped = asyncio.Event()
            put = stopped.set
            if group := asyncio.Queue():
                urgent = group
            other = None
            async def set_it():
                def deeper():
                    nonlocal other
                    other = asyncio.Event() if x else None
                jobs = threading_queue
                async def of_the_module():
                    global jobs
                    async with threadpool():
                        jobs.put_nowait(1)  # THR108
            async with threadpool():
                jobs.put_nowait(1)  # THR108
                stopped.set()  # THR108
                put()  # THR108
                urgent.get_nowait()  # THR108
                other.clear()  # THR108
        """,
    "what functions and properties of the file return": """
        def make() -> asyncio.Queue[int]: ...
        class Service:
            @property
            def stopped(self) -> asyncio.Event: ...
        async def main():
            service = Service()
            queue = make()
            async with threadpool():
                queue.put_nowait(1)  # THR108
                service.stopped.set()  # THR108
        """,
    "create_task of a group of asyncio's": """
        async def main():
            async with asyncio.TaskGroup() as group:
                async with threadpool():
                    group.create_task(x)  # THR108
        """,
    "with in place of async with, wherever it stands": """
        async def main():
            with threadpool():  # THR110
                pass
            with open(x) as file, threadhop.threadpool(pool):  # THR110
                pass
            async with threadpool():
                with eventloop():  # THR110
                    await x  # THR101
        """,
    "@threadpool on what is no plain function": """
        @threadpool  # THR111
        async def one(): ...
        @threadpool()  # THR111
        def two():
            yield 1
        class Service:
            @threadpool(pool)  # THR111
            async def three(self):
                yield 1
            @threadpool  # THR111
            @staticmethod
            async def four(): ...
            @cached
            @threadhop.threadpool  # THR111
            def five(self):
                yield from x
        """,
    "a manager for one thread around a block": """
        import torch
        import torch as t
        from django.utils import timezone, translation
        from django.utils.translation import override as speak
        from sklearn import config_context
        from torch import inference_mode
        async def main():
            with torch.no_grad():  # THR112
                async with threadpool(): ...
            with inference_mode(), open(x), t.no_grad():  # THR112 THR112
                if x:
                    async with threadpool(): ...
                    async with threadpool(): ...
            with translation.override("de"), speak("fr"):  # THR112 THR112
                async with threadpool(): ...
            with timezone.override("UTC"):  # THR112
                async with threadpool(): ...
            with config_context(assume_finite=True):  # THR112
                async with threadpool(): ...
            async with threadpool():
                async with eventloop():
                    with torch.no_grad():  # THR112
                        async with threadpool(): ...
        """,
    "an await of a function of the file that awaits on the worker": """
        async def fetch(): ...
        async def half():
            async with eventloop():
                await x
            await x
        async def recursive():
            async with eventloop():
                await x
            await recursive()
            await fetch()
        async def ping():
            await fetch()
            await pong()
        async def pong():
            await ping()
            await pong()
        async def main():
            async with threadpool():
                await fetch()  # THR101
                await half()  # THR101
                await recursive()  # THR101
                await pong()  # THR101
                await ping()  # THR101
        """,
    "the body of a context manager of the file that yields in a block": """
        @contextlib.asynccontextmanager
        async def on_worker():
            async with threadpool():
                yield
        async def main():
            async with on_worker():
                await x  # THR101
        """,
}


@pytest.mark.parametrize("source", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_with_faults_is_told_all_of_them(source: str) -> None:
    source = program(source)
    assert expected(source)
    assert found(source) == expected(source)


def test_each_rule_is_found_by_these_tests() -> None:
    sources = [*map(in_a_block, IN_A_BODY.values()), *map(program, PROGRAMS.values())]
    assert {number for source in sources for _, number in expected(source)} == set(TEXTS)
    assert all(RULES.values())


@pytest.mark.parametrize("number", sorted(set(TEXTS) - {"THR110", "THR111"}))
def test_a_message_says_what_to_type(number: str) -> None:
    """The remedy is a piece of code, or a place."""
    text = TEXTS[number]
    assert "eventloop()" in text or number == "THR112"
    assert ":" in text


def test_a_problem_has_its_line_and_its_column_in_characters() -> None:
    """Not in bytes of UTF-8, in which ast counts."""
    (problem,) = check_source(in_a_block("größe = 'ä'; await x"))
    assert problem[:3] == (7, 9 + len("größe = 'ä'; "), "THR101")


def test_a_message_names_what_was_called() -> None:
    (problem,) = check_source(in_a_block("asyncio.create_task(x)"))
    assert problem.text.startswith("asyncio.create_task() needs the running loop")
