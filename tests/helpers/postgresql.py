"""A PostgreSQL of the tests' own, in a temporary folder, if its programs are here."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: What a test says that is skipped for want of it.
REASON = "needs PostgreSQL's initdb and postgres, which are not here: apt-get install postgresql"


def find_programs() -> Path | None:
    """The folder of ``initdb``: Debian puts it beside the version, not on PATH."""
    found = shutil.which("initdb") or max(
        glob.glob("/usr/lib/postgresql/*/bin/initdb"), default=None
    )
    return Path(found).resolve().parent if found else None


@contextmanager
def postgresql() -> Iterator[str]:
    """A cluster that nobody else knows, reached by a socket in its folder; yields its URL."""
    programs = find_programs()
    assert programs is not None, REASON
    # It refuses to run as root.
    user: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="postgresql") as folder:
        if user:
            shutil.chown(folder, "nobody")
        data, log = f"{folder}/data", Path(folder, "log")
        init = ["initdb", "-D", data, "--auth=trust", "--username=postgres", "--no-sync"]
        # Not by pg_ctl, whose server leaves the process group: it would survive a killed test.
        serve = ["postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        is_ready = ["pg_isready", "--quiet", "--host", folder]

        def start(program: str, *arguments: str) -> subprocess.Popen[bytes]:
            with log.open("ab") as output:
                return subprocess.Popen(
                    [programs / program, *arguments],
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    **user,
                )

        assert start(*init).wait() == 0, log.read_text("utf-8", "replace")
        with start(*serve) as server:
            try:
                while start(*is_ready).wait() != 0:
                    assert server.poll() is None, log.read_text("utf-8", "replace")
                    time.sleep(0.02)
                yield f"postgresql://postgres@/postgres?host={folder}"
            finally:
                server.send_signal(signal.SIGQUIT)  # at once: nobody needs the data
