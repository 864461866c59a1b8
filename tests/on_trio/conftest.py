"""Fixtures for trio. (The folder is not named trio: it must not be imported in the place of it.)"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from threadhop import WorkerPool, _executors


@pytest.fixture
def shared_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """In the place of the pool that the library shares, which ends only with the process."""
    with WorkerPool(2, thread_name_prefix="threadhop") as pool:
        monkeypatch.setattr(_executors, "_shared", [pool])
        yield pool
