"""Decorated methods, for the type checkers that do not know `# type: ignore[...]` of the others.

ty check tests/typing/methods.py
pyrefly check tests/typing/methods.py
"""

from __future__ import annotations

from typing import assert_type

from threadhop import WorkerPool, threadpool

pool = WorkerPool(1)


class Repository:
    @threadpool
    def get(self, key: int) -> str:
        return str(key)

    @threadpool(pool)
    def put(self, key: int, *, value: str = "") -> None: ...


@threadpool
def free(key: int) -> str:
    return str(key)


async def main(repository: Repository) -> None:
    assert_type(await free(1), str)
    assert_type(await repository.get(1), str)
    assert_type(await repository.put(1, value="x"), None)
    assert_type(await Repository.get(repository, 1), str)
    assert_type(Repository.get.sync(repository, 1), str)
    assert_type(free.sync(1), str)
    async with threadpool(), threadpool(pool):
        pass
