"""A user installs the package, its type marker and its licence, and nothing else.

Whoever packages it for others takes the sdist, and runs the tests from there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path = ROOT, path: Path | None = None, timeout: float = 15) -> str:
    """Run Python, which finds modules at *path* first. Returns what it prints."""
    child = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=None if path is None else {**os.environ, "PYTHONPATH": str(path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


def build(target: str, folder: Path) -> Path:
    """What the build backend of this tree makes of it."""
    run("-m", "hatchling", "build", "-t", target, "-d", str(folder))
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    return zipfile.Path(build("wheel", tmp_path_factory.mktemp("wheel")))


def sdist(folder: Path) -> Path:
    """Unpacked."""
    with tarfile.open(build("sdist", folder / "built")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (tree,) = (folder / "unpacked").iterdir()
    return tree


def names_in(wheel: zipfile.Path) -> set[PurePosixPath]:
    return {PurePosixPath(name) for name in wheel.root.namelist() if not name.endswith("/")}


def metadata_of(wheel: zipfile.Path) -> Message:
    (path,) = (name for name in names_in(wheel) if name.name == "METADATA")
    return HeaderParser().parsestr(wheel.root.read(str(path)).decode())


def test_the_wheel_holds_the_package_and_its_licence_for_any_platform(wheel: zipfile.Path) -> None:
    """Byte for byte; and no tests, no examples, no compiled files."""
    built = {str(name): wheel.root.read(str(name)) for name in names_in(wheel)}
    (folder,) = {name.parts[0] for name in names_in(wheel)} - {"threadhop"}
    assert folder.endswith(".dist-info")
    expected = {
        path.relative_to(ROOT / "src").as_posix(): path.read_bytes()
        for path in (ROOT / "src" / "threadhop").rglob("*.py")
    }
    assert expected
    # Without py.typed, type checkers ignore the annotations of an installed package.
    expected["threadhop/py.typed"] = built["threadhop/py.typed"]
    assert {name: text for name, text in built.items() if not name.startswith(folder)} == expected
    # The MIT licence asks for its text in every copy.
    (licence,) = (text for name, text in built.items() if name.endswith("LICENSE"))
    assert licence == (ROOT / "LICENSE").read_bytes()
    assert wheel.root.filename is not None
    assert wheel.root.filename.endswith("-py3-none-any.whl")


def test_the_wheel_requires_nothing(wheel: zipfile.Path) -> None:
    """An extra brings what is needed beyond threadhop itself."""
    requirements = metadata_of(wheel).get_all("Requires-Dist", [])
    assert requirements
    assert [text for text in requirements if "extra ==" not in text] == []


PROGRAM = """
import asyncio, sys, threading, threadhop

async def main():
    async with threadhop.threadpool():
        print(threading.current_thread() is not threading.main_thread())

asyncio.run(main())
print(threadhop.__file__)
"""


def test_the_wheel_works_where_nothing_else_is_installed(
    wheel: zipfile.Path, tmp_path: Path
) -> None:
    """Without the source in sight, and without site-packages."""
    wheel.root.extractall(tmp_path)
    is_on_worker, file = run("-S", "-c", PROGRAM, cwd=tmp_path, path=tmp_path).split()
    assert is_on_worker == "True"
    assert Path(file).parents[1] == tmp_path


def test_the_tests_run_from_the_sdist(tmp_path: Path) -> None:
    """All that they read is there; two files of them are run."""
    tree = sdist(tmp_path)
    for folder in ("src", "tests", "docs", "examples"):
        for suffix in ("py", "md"):
            files = list((ROOT / folder).rglob(f"*.{suffix}"))
            assert [file for file in files if not (tree / file.relative_to(ROOT)).is_file()] == []
    for name in ("README.md", "LICENSE", "CHANGELOG.md"):
        assert (tree / name).is_file()
    files_to_run = ("tests/unit/test_driver.py", "tests/package/test_public_names.py")
    options = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *files_to_run)
    out = run(*options, cwd=tree, path=tree / "src", timeout=60)
    assert " passed" in out
    assert " failed" not in out
