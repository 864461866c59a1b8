"""A user installs the package, its type marker and its licence, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """The wheel of this tree, built by its own build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    build = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )
    assert build.returncode == 0, build.stderr
    (path,) = folder.iterdir()
    return zipfile.Path(path)


def names_in(wheel: zipfile.Path) -> set[PurePosixPath]:
    return {PurePosixPath(name) for name in wheel.root.namelist() if not name.endswith("/")}


def metadata_of(wheel: zipfile.Path) -> Message:
    (path,) = (name for name in names_in(wheel) if name.name == "METADATA")
    return HeaderParser().parsestr(wheel.root.read(str(path)).decode())


def test_the_wheel_holds_every_module_of_the_package(wheel: zipfile.Path) -> None:
    """As many as the source tree, byte for byte."""
    source = ROOT / "src"
    built = {str(name): wheel.root.read(str(name)) for name in names_in(wheel)}
    expected = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for path in (source / "threadhop").rglob("*.py")
    }
    assert expected
    assert {name: built.get(name) for name in expected} == expected


def test_the_wheel_holds_nothing_but_the_package(wheel: zipfile.Path) -> None:
    """No tests, no examples, no compiled files."""
    folders = {name.parts[0] for name in names_in(wheel)}
    assert len(folders) == 2
    assert "threadhop" in folders
    (metadata,) = folders - {"threadhop"}
    assert metadata.endswith(".dist-info")
    inside = {name for name in names_in(wheel) if name.parts[0] == "threadhop"}
    # Without py.typed, type checkers ignore the annotations of an installed package.
    others = {str(name) for name in inside if name.suffix != ".py"}
    assert others == {"threadhop/py.typed"}


def test_the_wheel_holds_the_licence(wheel: zipfile.Path) -> None:
    """The MIT licence asks for its text in every copy."""
    (path,) = (name for name in names_in(wheel) if name.name == "LICENSE")
    assert wheel.root.read(str(path)) == (ROOT / "LICENSE").read_bytes()


def test_the_wheel_requires_nothing(wheel: zipfile.Path) -> None:
    """An extra brings what is needed beyond threadhop itself."""
    requirements = metadata_of(wheel).get_all("Requires-Dist", [])
    assert requirements
    assert [text for text in requirements if "extra ==" not in text] == []


def test_the_wheel_runs_on_any_platform(wheel: zipfile.Path) -> None:
    """One wheel for every interpreter and machine."""
    assert wheel.root.filename is not None
    assert wheel.root.filename.endswith("-py3-none-any.whl")
