"""Five ways to call across the border between sync and async code.

`python calls.py` runs them one after another, and checks which thread did what.
"""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from threadhop import (
    configure,
    ensure_thread_event_loop,
    exec_in_eventloop,
    exec_in_executor,
    exec_in_executor_threading_future,
)

user: ContextVar[str] = ContextVar("user")  # what they do, they do for somebody


def by() -> str:
    thread = (
        "a worker" if threading.current_thread().name.startswith("worker") else "the main thread"
    )
    return f"by {thread} for {user.get()}"


# What there is to call.


def read(name: str) -> str:
    """Stands for a library that blocks."""
    time.sleep(0.1)
    return f"{name} was read {by()}"


async def fetch(name: str) -> str:
    """Stands for an async library."""
    await asyncio.sleep(0.01)
    return f"{name} was fetched {by()}"


async def read_and_fetch(name: str) -> str:
    """A coroutine function that also blocks, so it should not run on everybody's loop."""
    text = read(name)
    return f"{text}, {await fetch('its page')}"


def read_and_call_home(name: str) -> str:
    """Blocking code that needs the loop, and cannot await."""
    text = read(name)
    return f"{text}, {exec_in_eventloop(fetch, 'its page')}"


def read_and_run(name: str) -> str:
    """Blocking code that needs a loop, whichever: it has one of its thread's own."""
    text = read(name)
    return f"{text}, {ensure_thread_event_loop().run_until_complete(fetch('its page'))}"


# The five programs.


def sync_from_async() -> str:
    """A blocking function, called by a coroutine. The loop goes on meanwhile."""

    async def main() -> str:
        user.set("ann")
        future = exec_in_executor(None, read, "a book")  # It is on its way: await it any time.
        turns = 0
        while not future.done():
            await asyncio.sleep(0.001)
            turns += 1
        ensure(turns >= 5, "the loop was blocked")
        return await future

    return asyncio.run(main())


def sync_that_calls_async_from_sync() -> str:
    """No loop anywhere; the blocking function runs what is async on the loop of its worker."""
    user.set("bob")
    return exec_in_executor_threading_future(None, read_and_run, "a book").result(timeout=10)


def sync_that_calls_async_from_async() -> str:
    """A coroutine calls blocking code, which has the loop do what is async."""

    async def main() -> str:
        user.set("cleo")
        return await exec_in_executor(None, read_and_call_home, "a book")

    return asyncio.run(main())


def async_from_async() -> str:
    """A coroutine that also blocks, on the loop of a worker: the loop that calls it is free."""

    async def main() -> str:
        user.set("dan")
        return await exec_in_executor(None, read_and_fetch, "a book")

    return asyncio.run(main())


def async_from_sync() -> str:
    """A coroutine for a program that has no loop, and need not make one."""
    user.set("eve")
    return exec_in_executor_threading_future(None, fetch, "a page").result(timeout=10)


PROGRAMS = {
    sync_from_async: "a book was read by a worker for ann",
    sync_that_calls_async_from_sync: (
        "a book was read by a worker for bob, its page was fetched by a worker for bob"
    ),
    sync_that_calls_async_from_async: (
        "a book was read by a worker for cleo, its page was fetched by the main thread for cleo"
    ),
    async_from_async: (
        "a book was read by a worker for dan, its page was fetched by a worker for dan"
    ),
    async_from_sync: "a page was fetched by a worker for eve",
}


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


def main() -> None:
    with ThreadPoolExecutor(2, "worker") as executor:
        configure(executor=executor)  # for every call that names none
        try:
            for program, expected in PROGRAMS.items():
                result = program()
                name = program.__name__.replace("_", " ")
                print(f"{name + ':':34}{result}")
                ensure(result == expected, f"it should be: {expected}")
        finally:
            configure(executor=None)
    print("all five are right")


if __name__ == "__main__":
    main()
