"""examples/thumbnails.py proves itself, and would notice if something were wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers.child import run_in_child
from helpers.examples import Example

EXAMPLE = Example("thumbnails", "every thumbnail and every row is right")

#: The README's 50 take a while, and are the business of who runs its command. So many are still
#: far more than there are workers, with each kind of image among them twice.
UPLOADS = 16

#: The self-test with small images, which cost no time, and with a service that is spoilt.
SPOILT = """
import asyncio, contextlib, io, pathlib, tempfile
Service, PlainTextResponse = example.ThumbnailService, example.PlainTextResponse

def draw_quickly(number):
    file = io.BytesIO()
    example.Image.linear_gradient("L").resize((320, 200)).save(file, "PNG")
    return f"{{number}}.png", file.getvalue()

class Spoilt(Service):
    {spoil}

example.draw, example.ThumbnailService = draw_quickly, Spoilt
with tempfile.TemporaryDirectory() as directory:
    asyncio.run(example.selftest(pathlib.Path(directory, "thumbnails.db"), {uploads}))
"""

#: The lines that spoil it, and what the self-test says then.
SPOILS = {
    "the work is done on the loop": (
        "example.threadpool = lambda executor: contextlib.nullcontext()",
        "was not shrunk and stored by one worker",
    ),
    "the images are not shrunk": (
        "example.Image.Image.thumbnail = lambda image, box: None",
        "became (320, 200)",
    ),
    "one request gets the record of another": (
        """
    async def record(self, request):
        request.path_params["id"] = 17 - request.path_params["id"]
        return await super().record(request)
        """,
        "the row of 0.png is",
    ),
}


@pytest.mark.timeout(170)
def test_the_selftest_passes() -> None:
    """All uploads at once, every answer checked, the loop responsive meanwhile."""
    printed = EXAMPLE.check_selftest("--uploads", str(UPLOADS), deadline=150)
    assert printed.startswith(f"uploads         {UPLOADS} at once\n")


test_the_selftest_fails_when = EXAMPLE.test_that_it_fails(SPOILT, SPOILS, uploads=UPLOADS)


@pytest.mark.spoils
@pytest.mark.timeout(60)
def test_the_selftest_fails_when_health_checks_are_answered_late() -> None:
    """Because of their median alone: there were enough of them, and nothing else was wrong."""
    spoil = """
    answered, enough = 0, asyncio.Event()

    async def health(self, request):
        await asyncio.sleep(0.06)
        self.answered += 1
        if self.answered > 20:  # the first one came before the uploads
            self.enough.set()
        return PlainTextResponse("ok")

    async def upload(self, request):
        await self.enough.wait()
        return await super().upload(request)
    """
    child = EXAMPLE.run_spoilt(SPOILT.format(spoil=spoil, uploads=UPLOADS))
    assert child.returncode == 1
    assert child.stderr == "WRONG: the loop was blocked\n"
    (count,) = re.findall(r"health checks +(\d+) meanwhile", child.stdout)
    assert int(count) >= 20


@pytest.mark.timeout(60)
def test_it_serves_on_the_port_that_is_named(tmp_path: Path) -> None:
    """Until Ctrl+C, with its records in the file that is named."""
    database = tmp_path / "cats.db"
    child = run_in_child(
        f"""
        import os, runpy, signal, socket, sys, threading, time
        import httpx

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        seen = []

        def visit():
            with httpx.Client(base_url=f"http://127.0.0.1:{{port}}", trust_env=False) as client:
                while not seen:
                    try:
                        seen.append(client.get("/health").text)
                    except httpx.ConnectError:
                        time.sleep(0.05)  # it has not started yet
                seen.append(client.get("/records/1").status_code)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=visit).start()
        sys.argv[1:] = ["--port", str(port), "--database", {str(database)!r}]
        runpy.run_path({EXAMPLE.path!r}, run_name="__main__")
        print(seen)
        """,
        deadline=50,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.endswith("['ok', 404]\n")
    assert database.stat().st_size > 0
