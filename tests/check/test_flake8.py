"""The checker as a plugin of flake8: the same lines."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers.checking import in_a_block

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"

SOURCE = in_a_block(
    """
    größe = 'ä'; await x
    await x  # noqa: THR101
    await x  # noqa
    await x  # noqa: E501
    async with lock:  # noqa: THR101
        asyncio.create_task(x)
    """
)


def entry_point() -> str:
    project = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]
    value: str = project["entry-points"]["flake8.extension"]["THR"]
    return value


def test_the_entry_point_leads_to_the_plugin() -> None:
    module, _, name = entry_point().partition(":")
    assert hasattr(importlib.import_module(module), name)


def run(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", *arguments, "app.py"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=18, check=False)
    assert (child.returncode, child.stderr) == (1, "")
    return child.stdout.replace("./", "").splitlines()


def test_flake8_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flake8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
    (tmp_path / "app.py").write_text(SOURCE, "utf-8")
    installed = importlib.metadata.entry_points(group="flake8.extension")
    if "THR" not in installed.names:  # A tree that is not installed.
        plugin = f"[flake8:local-plugins]\nextension = THR = {entry_point()}\n"
        (tmp_path / ".flake8").write_text(plugin, "utf-8")
    lines = run("threadhop", "check")
    assert len(lines) == 4
    assert run("flake8", "--select", "THR") == lines
