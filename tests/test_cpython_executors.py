"""CPython's own tests of ``ThreadPoolExecutor``, of the Python that runs here, on a ``WorkerPool``.

They are the best list of what a thread pool must do. Each file of them runs in a child, in which
``concurrent.futures.ThreadPoolExecutor`` is another name for ``WorkerPool``; so are the programs
that the tests start. They take half a minute: the marker is ``cpython``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from helpers.child import run_in_child

import threadhop

#: They ask for the default name of a thread: it begins with the name of the class.
OTHERWISE = {"test_thread_names_default"}

FILES = ("test_as_completed", "test_init", "test_shutdown", "test_thread_pool", "test_wait")

PACKAGE = "test.test_concurrent_futures"


def modules() -> list[str]:
    """Those that this Python has; many come without their tests."""
    try:
        found = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        found = None
    if found is None:
        return []
    # Up to 3.11 it is one file.
    return (
        [f"{PACKAGE}.{name}" for name in FILES] if found.submodule_search_locations else [PACKAGE]
    )


#: So begin the child, and the programs that its tests start.
BEGIN = """
import sys; sys.path[:] = {path!r}
import concurrent.futures, threadhop
Pool = getattr(threadhop, {pool!r}, concurrent.futures.ThreadPoolExecutor)
concurrent.futures.ThreadPoolExecutor = concurrent.futures.{pool} = Pool
"""

CHILD = """
import json, unittest
from test.support import script_helper

def with_pool(run):
    def call(option, program, *more, **env):
        assert option == "-c"
        return run(option, {begin!r} + program, *more, **env)
    return call

for name in ("assert_python_ok", "assert_python_failure"):
    setattr(script_helper, name, with_pool(getattr(script_helper, name)))

def of_pool(tests):
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from of_pool(test)
        elif getattr(test, "executor_type", None) is Pool:
            yield test

tests = unittest.TestSuite(of_pool(unittest.defaultTestLoader.loadTestsFromName({module!r})))
result = unittest.TextTestRunner(stream=sys.stderr, verbosity=2).run(tests)
print()
failed = (test.id() for test, _ in result.failures + result.errors)
json.dump(
    {{
        "run": result.testsRun,
        "skipped": len(result.skipped),
        "failed": sorted({{name.rpartition(".")[2] for name in failed}}),
    }},
    sys.stdout,
)
"""


def run(module: str, pool: str) -> tuple[dict[str, object], str]:
    path = [str(Path(threadhop.__file__).parents[1]), *sys.path]
    begin = BEGIN.format(path=path, pool=pool)
    child = run_in_child(begin + CHILD.format(begin=begin, module=module), 110)
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout.splitlines()[-1]), child.stderr


@pytest.mark.cpython
@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.implementation.name != "cpython", reason="they are CPython's")
@pytest.mark.parametrize("module", modules() or [None])
def test_a_worker_pool_passes_the_tests_of_the_stock_pool(module: str | None) -> None:
    if module is None:
        pytest.skip(f"this Python comes without {PACKAGE}")
    report, log = run(module, "WorkerPool")
    assert report["run"]
    assert set(report["failed"]) <= OTHERWISE, log
