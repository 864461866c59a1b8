"""``python -m threadhop check PATH…``: paths, lines, exit status, comments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.checking import found, in_a_block

from threadhop.__main__ import main

WRONG = in_a_block("await x")
LINE = 7  # of the ``await`` in it


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; what a test writes is there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, content: str | bytes) -> None:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


def check(capsys: pytest.CaptureFixture[str], *paths: str) -> tuple[int, list[str], list[str]]:
    """Exit status, places with numbers on stdout, lines on stderr."""
    status = main(["check", *paths])
    out, err = capsys.readouterr()
    return status, [" ".join(line.split()[:2]) for line in out.splitlines()], err.splitlines()


def test_it_is_a_command(folder: Path) -> None:
    """It runs nothing of what it reads: the file would raise."""
    write("app.py", f"raise SystemExit(5)\n{WRONG}")
    command = [sys.executable, "-m", "threadhop", "check", "app.py"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert (child.returncode, child.stderr) == (1, "")
    assert child.stdout.startswith(f"app.py:{LINE + 1}:9: THR101 'await' in the body of a block")
    assert child.stdout.count("\n") == 1


def test_findings_are_sorted_and_paths_are_as_they_were_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("src/b.py", in_a_block("await x; await y\nawait x"))
    write("src/a/c.pyi", WRONG)
    write("src/a/not_python.txt", WRONG)
    for name in "gfedc":
        write(f"src/{name}.py", WRONG)
    lines = [
        f"src/a/c.pyi:{LINE}:9: THR101",
        f"src/b.py:{LINE}:9: THR101",
        f"src/b.py:{LINE}:18: THR101",
        f"src/b.py:{LINE + 1}:9: THR101",
        *(f"src/{name}.py:{LINE}:9: THR101" for name in "cdefg"),
    ]
    assert check(capsys, "src") == (1, lines, [])
    assert check(capsys, "src/b.py", "src/a", "src") == (1, lines, [])
    (line,) = check(capsys, os.path.join(".", "src", "a"))[1]
    assert line == f"{os.path.join('.', 'src', 'a', 'c.pyi')}:{LINE}:9: THR101"


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("good", []),
        ("script", ["script"]),  # One that is named is read, whatever its name.
        ("env", ["env/lib/a.py"]),
        (".", []),  # Not hidden folders, nor environments; nor what is not Python.
    ],
)
def test_the_python_files_below_a_folder_are_read(
    capsys: pytest.CaptureFixture[str], path: str, found: list[str]
) -> None:
    for file in ("script", ".git/a.py", "__pycache__/a.py", "env/lib/a.py"):
        write(file, WRONG)
    for file in ("env/pyvenv.cfg", "good/empty.py"):
        write(file, "")
    write("good/good.py", in_a_block("work()"))
    places = [f"{file}:{LINE}:9: THR101" for file in found]
    assert check(capsys, path) == (len(found), places, [])


def test_a_path_that_does_not_exist_is_told_and_the_others_are_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("wrong.py", WRONG)
    status, lines, errors = check(capsys, "nowhere.py", "wrong.py")
    assert (status, lines) == (2, [f"wrong.py:{LINE}:9: THR101"])
    assert errors == ["nowhere.py: no such file or folder"]


@pytest.mark.parametrize(
    ("content", "line", "sentence"),
    [
        ("x = 1\nasync with threadpool() await x\n", 2, "cannot be parsed: "),
        (b"# \xe4\n", 1, "cannot be parsed: "),
        (b"a = 1\nb = 2\nc = '\xe4'\n", 3, "cannot be parsed: it is not utf-8"),
        (b"# coding: klingon\n", 1, "cannot be parsed: unknown encoding: klingon"),
        (b"a = 1\x00\n", 1, "cannot be "),
        ("(" * 5000 + ")" * 5000, 1, "cannot be parsed: "),
    ],
    ids=["syntax", "early byte", "late byte", "encoding", "null byte", "depth"],
)
def test_a_file_that_cannot_be_parsed_gets_its_line_and_a_sentence(
    capsys: pytest.CaptureFixture[str], content: str | bytes, line: int, sentence: str
) -> None:
    write("bad.py", content)
    write("wrong.py", WRONG)
    status, lines, (error,) = check(capsys, "bad.py", "wrong.py")
    assert (status, lines) == (2, [f"wrong.py:{LINE}:9: THR101"])
    assert error.startswith(f"bad.py:{line}: ")
    assert sentence in error


AFTER_A_LETTER = WRONG.replace("await x", "'ä'; await x")


@pytest.mark.parametrize(
    ("content", "line", "column"),
    [
        (b"\xef\xbb\xbf" + WRONG.encode(), LINE, 9),
        (AFTER_A_LETTER.encode(), LINE, 14),
        (b"# coding: latin-1\n" + AFTER_A_LETTER.encode("latin-1"), LINE + 1, 14),
        (WRONG.replace("\n", "\r\n").encode(), LINE, 9),
        (WRONG.replace("\n", "\r").encode(), LINE, 9),
        (WRONG.replace("async def", "\x0c\nasync def").encode(), LINE + 1, 9),
        (WRONG.replace("await x", r"'\d'; await x").encode(), LINE, 15),
    ],
    ids=["BOM", "UTF-8", "latin-1", "CRLF", "CR", "form feed", "odd escape"],
)
def test_any_file_that_python_reads_is_read(
    capsys: pytest.CaptureFixture[str], content: bytes, line: int, column: int
) -> None:
    """And no warning is shown, of an odd escape, say."""
    write("file.py", content)
    status, (found_line,), errors = check(capsys, "file.py")
    assert (status, errors) == (1, [])
    assert found_line == f"file.py:{line}:{column}: THR101"


@pytest.mark.parametrize(
    ("comment", "is_silent"),
    [
        ("# noqa", True),
        ("# noqa: THR101", True),
        ("# noqa: THR", True),
        ("# noqa: THR1", True),
        ("# noqa:E501,THR101", True),
        ("# noqa: E501 THR101", True),
        ("# NOQA: thr101", True),
        ("# type: ignore  # noqa: THR101", True),
        ("# noqa: E501", False),
        ("# noqa: THR102", False),
        ("# noqa: ASYNC101, E501", False),
        ("# no", False),
        ("; '# noqa'", False),
    ],
)
def test_a_comment_silences_its_line(comment: str, is_silent: bool) -> None:
    numbers = [number for _, number in found(in_a_block(f"await x  {comment}"))]
    assert numbers == ([] if is_silent else ["THR101"])


def test_a_comment_silences_no_other_line() -> None:
    source = in_a_block(
        """
        # noqa
        await x
        work()  # noqa
        (  # noqa
            await x
        )
        await f('''
        ''')  # noqa
        """
    )
    assert found(source) == [(LINE + 1, "THR101"), (LINE + 4, "THR101")]


def test_without_a_command_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["check"], ["other"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert "python -m threadhop" in capsys.readouterr().err


def test_a_file_of_a_thousand_blocks_takes_no_time_that_grows_with_its_square() -> None:
    """Each line is looked at a few times, also of functions that call each other in a row."""
    calls = "\n".join(
        f"async def f{n}():\n    async with eventloop():\n        await x\n    await f{n + 1}()"
        for n in range(100)
    )
    blocks = "\n".join(
        f"async def main{n}():\n    async with threadpool():\n        await f0()"
        for n in range(300)
    )
    lines = f"{in_a_block('work()')}\n{calls}\nasync def f100(): ...\n{blocks}\n"
    assert len(found(lines)) == 300
