"""The program that calls a cluster, and what it does without Dask."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.child import run_in_child

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "cluster.py")
NEEDED = "this example needs Dask: python -m pip install 'threadhop[dask]'\n"

RUN = """
import os, runpy, sys
sys.argv[1:] = {options!r}
{before}
runpy.run_path({example!r}, run_name="__main__")
"""
WITHOUT_DASK = "sys.modules['distributed'] = None"


def test_without_dask_it_says_what_to_install() -> None:
    """As an error: it could not do its work."""
    child = run_in_child(RUN.format(options=[], before=WITHOUT_DASK, example=EXAMPLE))
    assert (child.stdout, child.stderr, child.returncode) == ("", NEEDED, 1)


def test_without_dask_it_is_content_if_told_so() -> None:
    """With ``--if-available`` it says the same, and ends well."""
    options = ["--if-available"]
    child = run_in_child(RUN.format(options=options, before=WITHOUT_DASK, example=EXAMPLE))
    assert (child.stdout, child.stderr, child.returncode) == (NEEDED, "", 0)


@pytest.mark.timeout(130)
def test_every_call_is_made_on_the_cluster(tmp_path: Path) -> None:
    """Two worker processes; the program checks that each call ran in one of them."""
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    child = run_in_child(
        RUN.format(options=["--if-available"], before="", example=EXAMPLE),
        deadline=110,
        env={"DASK_TEMPORARY_DIRECTORY": str(tmp_path)},
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.endswith("every call is right\n")


@pytest.mark.timeout(130)
def test_it_fails_when_a_call_stays_in_this_process(tmp_path: Path) -> None:
    """The program compares the process ids."""
    pytest.importorskip("distributed", reason="the extra 'dask' is not installed")
    child = run_in_child(
        RUN.format(
            options=[],
            before="import distributed\n"
            "from concurrent.futures import ThreadPoolExecutor\n"
            "distributed.Client.get_executor = lambda self, pure: ThreadPoolExecutor(1)",
            example=EXAMPLE,
        ),
        deadline=110,
        env={"DASK_TEMPORARY_DIRECTORY": str(tmp_path)},
    )
    assert child.returncode == 1
    assert "WRONG: sync from async ran in this process\n" in child.stderr
