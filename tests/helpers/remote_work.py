"""Functions for other processes and interpreters: those import them by the name of this module."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from helpers.steps import LIMIT

import threadhop

#: Nobody sets it where these functions run.
variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable", default="unset")


def where() -> tuple[int, int]:
    """The process and the interpreter that call it."""
    if sys.version_info >= (3, 14):
        try:
            from concurrent import interpreters
        except ImportError:  # an interpreter of another make
            return os.getpid(), 0
        return os.getpid(), interpreters.get_current().id
    return os.getpid(), 0


def add(left: int, right: int, *, more: int = 0) -> tuple[int, tuple[int, int]]:
    return left + right + more, where()


async def add_later(left: int, right: int, *, more: int = 0) -> tuple[int, tuple[int, int]]:
    """It needs a running loop."""
    await asyncio.sleep(0)
    asyncio.get_running_loop()
    return add(left, right, more=more)


class Adder:
    """Keeps a number, so that calling it elsewhere takes its state along."""

    def __init__(self, number: int) -> None:
        self.number = number

    def method(self, left: int, right: int, *, more: int = 0) -> tuple[int, tuple[int, int]]:
        return add(left, right, more=more + self.number)

    async def async_method(
        self, left: int, right: int, *, more: int = 0
    ) -> tuple[int, tuple[int, int]]:
        return await add_later(left, right, more=more + self.number)

    def __call__(self, left: int, right: int, *, more: int = 0) -> tuple[int, tuple[int, int]]:
        return self.method(left, right, more=more)


class AsyncAdder(Adder):
    async def __call__(  # type: ignore[override]
        self, left: int, right: int, *, more: int = 0
    ) -> tuple[int, tuple[int, int]]:
        return await self.async_method(left, right, more=more)


class FileGate:
    """A ``Gate`` that works between processes: its state is two files."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.reached = folder / f"{name}-reached"
        self.opened = folder / f"{name}-opened"

    def stop_here(self, result: Any = "passed") -> Any:
        """In the other process."""
        # Written aside first: who sees the file sees the number in it.
        aside = self.reached.with_name(f"{self.reached.name}-{os.getpid()}-{threading.get_ident()}")
        aside.write_text(str(os.getpid()))
        aside.replace(self.reached)
        deadline = time.monotonic() + 3 * LIMIT
        while not self.opened.exists():
            assert time.monotonic() < deadline, "nobody opened the gate"
            time.sleep(0.005)
        if isinstance(result, Exception):
            raise result
        return result

    async def stop_here_in_a_coroutine(self) -> Any:
        return self.stop_here()

    def is_reached(self) -> bool:
        return self.reached.exists()

    def pid(self) -> int:
        """Of the process that reached it."""
        return int(self.reached.read_text())

    def open(self) -> None:
        self.opened.touch()


class OddError(Exception):
    """An error with state of its own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


def fail(error: BaseException) -> None:
    raise error


def fail_with(_: object, error: BaseException) -> None:
    raise error


async def fail_later(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


class ForPoolsOnly:
    """Like a socket: process pools know how to take it along, ``pickle`` by itself does not."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle it")


ForkingPickler.register(ForPoolsOnly, lambda _: (ForPoolsOnly, ()))


def make_unpicklable() -> object:
    return threading.Lock()


def touch(path: Path) -> None:
    path.touch()


def ignore(*args: Any, **kwargs: Any) -> None:
    pass


def read_variable() -> Any:
    return variable.get()


def ask_check_cancelled() -> str:
    threadhop.check_cancelled()
    return "not cancelled"


def call_the_loop() -> Any:
    return threadhop.exec_in_eventloop(where)


def end_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    time.sleep(LIMIT)
