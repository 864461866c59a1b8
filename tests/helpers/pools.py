"""On which kind of pool a test runs, if not on each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

#: Where the kind makes no difference. (A stock pool lets nobody take the place of a lost worker.)
on_a_stock_pool = pytest.mark.parametrize(
    "executor_class", [ThreadPoolExecutor], ids=["ThreadPoolExecutor"]
)
