"""A thumbnail service: its slow work stands inline in the handler, and the loop stays free.

    POST /thumbnails?name=cat.jpg   the image as the body; answers {"id": 1, ...}
    GET  /thumbnails/1              the thumbnail, a PNG; /records/1 is its row, as JSON
    GET  /health                    "ok", answered on the loop

`python thumbnails.py --port 8000` serves, `python thumbnails.py --selftest` proves itself.
"""

import argparse
import asyncio
import hashlib
import io
import logging.handlers
import os
import random
import socket
import sqlite3
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from PIL import ExifTags, Image, ImageDraw, ImageOps
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from threadhop import threadpool

BOX = (160, 160)
WORKERS = min(4, os.cpu_count() or 1)  # each keeps a processor busy: more would only take turns
COLUMNS = "id INTEGER PRIMARY KEY, name TEXT, size INTEGER, sha256 TEXT, thumbnail BLOB"
LOCK_TIMEOUT = 30  # seconds that a writer waits for the other writers of the database

log = logging.getLogger("thumbnails")


class ThumbnailService:
    """The handlers; each blocks only inside `async with threadpool(...)`."""

    def __init__(self, database: Path, executor: Executor) -> None:
        self._database, self._executor = database, executor
        with closing(sqlite3.connect(database)) as db:
            db.execute("PRAGMA journal_mode=WAL")  # readers do not wait for the writer
            db.execute(f"CREATE TABLE IF NOT EXISTS thumbnails ({COLUMNS})")
        upload = Route("/thumbnails", self.upload, methods=["POST"])
        thumbnail = Route("/thumbnails/{id:int}", self.thumbnail)
        record = Route("/records/{id:int}", self.record)
        self.app = Starlette(routes=[upload, thumbnail, record, Route("/health", self.health)])

    async def upload(self, request: Request) -> Response:
        name = request.query_params.get("name", "unnamed")
        body = await request.body()
        log.info("received %s", name)

        async with threadpool(self._executor):
            # A worker thread from here on: block as long as it takes, but await nothing.
            try:
                with Image.open(io.BytesIO(body)) as image:
                    # Turned as the camera was held; RGBA, since Pillow scales palettes badly.
                    small = ImageOps.exif_transpose(image).convert("RGBA")
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                # Pillow says it in all these ways. What we raise leaves the block as usual.
                raise HTTPException(400, f"cannot read this image: {error}") from error
            small.thumbnail(BOX)
            png = io.BytesIO()
            small.save(png, "PNG")
            sha256 = hashlib.sha256(body).hexdigest()
            log.info("shrunk %s", name)

            # A connection belongs to the thread that opened it; one block is one thread.
            with closing(sqlite3.connect(self._database, timeout=LOCK_TIMEOUT)) as db, db:
                insert = "INSERT INTO thumbnails (name, size, sha256, thumbnail) VALUES (?,?,?,?)"
                row = (name, len(body), sha256, png.getvalue())
                new_id = db.execute(insert, row).lastrowid
            log.info("stored %s", name)

        # The loop thread again. What the block has set is here, as after any other block.
        log.info("answering %s", name)
        return JSONResponse({"id": new_id, "sha256": sha256}, status_code=201)

    async def thumbnail(self, request: Request) -> Response:
        row = await self._row("thumbnail", request.path_params["id"])
        return Response(row["thumbnail"], media_type="image/png")

    async def record(self, request: Request) -> Response:
        row = await self._row("id, name, size, sha256", request.path_params["id"])
        return JSONResponse(dict(row))

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _row(self, columns: str, row_id: int) -> Any:
        async with threadpool(self._executor):
            with closing(sqlite3.connect(self._database, timeout=LOCK_TIMEOUT)) as db:
                db.row_factory = sqlite3.Row
                query = f"SELECT {columns} FROM thumbnails WHERE id = ?"
                row = db.execute(query, (row_id,)).fetchone()
        if row is None:
            raise HTTPException(404)
        return row


# The self-test: real images, a real server, a real client.
KINDS = ["RGB.jpeg", "L.jpeg", "CMYK.jpeg", "P.gif", "RGB.png", "RGBA.png", "L.png", "P.png"]
STEPS = ["received", "shrunk", "stored", "answering"]  # what each upload logs


def draw(number: int) -> tuple[str, bytes]:
    """Draws an image, large enough that shrinking it costs real time; returns name and file."""
    rng, kind = random.Random(number), KINDS[number % len(KINDS)]
    mode, extension = kind.split(".")
    image = Image.new("RGB", (rng.randrange(1200, 2000), rng.randrange(1200, 2000)), "navy")
    pen = ImageDraw.Draw(image)
    for colour in 10 * ["red", "gold", "teal", "orchid", "white", "#123456"]:
        x, y, size = rng.randrange(image.width), rng.randrange(image.height), rng.randrange(400)
        pen.ellipse((x, y, x + size, y + size), fill=colour)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    file, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = rng.choice([1, 3, 6, 8])  # four ways to hold a camera
    image.convert(mode).save(file, extension, exif=exif, compress_level=1)
    return f"{number}-{kind}", file.getvalue()


@asynccontextmanager
async def serving(app: Starlette) -> AsyncIterator[str]:
    """Serves *app* on a free loopback port, as a task of this loop; yields host:port."""
    # It listens at once: who comes before the server has started waits. IPPROTO_TCP is named
    # since asyncio sets TCP_NODELAY only where it is; else each answer would take 40 ms more.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def probe(address: str, finished: asyncio.Event) -> list[float]:
    """Asks for the health until *finished*; returns the answer times in milliseconds."""
    # A bare connection, because it is the server that is measured, not a client.
    reader, writer = await asyncio.open_connection(*address.split(":"))
    times = []
    while not finished.is_set():
        start = time.perf_counter()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\nok")
        times.append((time.perf_counter() - start) * 1000)
        await asyncio.sleep(0.005)
    writer.close()
    return times


def ensure(truth: bool, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


async def check(client: httpx.AsyncClient, new_id: int, name: str, image: bytes) -> None:
    """Compares the stored thumbnail and row with what Pillow and hashlib say here."""
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(image))).convert("RGBA")
    aspect = expected.width / expected.height
    expected.thumbnail(BOX)
    answer = (await client.get(f"/thumbnails/{new_id}")).raise_for_status()
    with Image.open(io.BytesIO(answer.content)) as got:
        ensure(max(got.size) == max(BOX), f"{name} became {got.size}")
        ensure(abs(got.width - got.height * aspect) <= max(1, aspect), f"{name} is distorted")
        same = got.size == expected.size and got.tobytes() == expected.tobytes()
        ensure(same, f"{name} has other pixels than Pillow gives here")
    row = (await client.get(f"/records/{new_id}")).raise_for_status().json()
    digest = hashlib.sha256(image).hexdigest()
    right = {"id": new_id, "name": name, "size": len(image), "sha256": digest}
    ensure(row == right, f"the row of {name} is {row}")


async def selftest(database: Path, uploads: int) -> None:
    """Uploads so many images at once and checks everything; prints a short table."""
    images = dict(map(draw, range(uploads)))  # now, so that it is not measured
    kept = logging.handlers.BufferingHandler(capacity=10_000)  # each record knows its thread
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    with ThreadPoolExecutor(WORKERS, "worker") as executor:
        async with (
            asyncio.timeout(120),
            serving(ThumbnailService(database, executor).app) as address,
            # trust_env=False: a proxy named in the environment cannot reach this server.
            httpx.AsyncClient(base_url=f"http://{address}", timeout=120, trust_env=False) as client,
        ):
            (await client.get("/health")).raise_for_status()  # now the server has started
            finished = asyncio.Event()
            health = asyncio.create_task(probe(address, finished))
            posts = [client.post(f"/thumbnails?name={n}", content=images[n]) for n in images]
            answers = await asyncio.gather(*posts)
            finished.set()
            times = await health
            for answer, (name, image) in zip(answers, images.items(), strict=True):
                await check(client, answer.raise_for_status().json()["id"], name, image)
            refused = await client.post("/thumbnails", content=b"no image")
            ensure(refused.status_code == 400, f"no image, but {refused}")

    records = {record.getMessage(): record for record in kept.buffer}
    for name in images:
        before, shrunk, stored, after = (records[f"{step} {name}"].thread for step in STEPS)
        ensure(before == after == threading.get_ident(), f"{name} was handled beside the loop")
        ensure(shrunk == stored != before, f"{name} was not shrunk and stored by one worker")
    workers = Counter(str(records[f"stored {name}"].threadName) for name in images)
    median = statistics.median(times)
    print(f"uploads         {len(answers)} at once")
    print(f"health checks   {len(times)} meanwhile, median {median:.1f} ms, limit 50 ms")
    print(f"loop thread     {threading.current_thread().name} received and answered {len(answers)}")
    for worker, count in sorted(workers.items()):
        print(f"worker thread   {worker} shrunk and stored {count}")
    ensure(median < 50 and len(times) >= uploads * 2 / 5, "the loop was blocked")
    print("every thumbnail and every row is right")


def main() -> None:
    parser = argparse.ArgumentParser(description="A thumbnail service.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--database", type=Path, default=Path("thumbnails.db"))
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    parser.add_argument("--uploads", type=int, default=50, help="how many the self-test makes")
    options = parser.parse_args()
    if options.selftest:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(selftest(Path(directory, "thumbnails.db"), options.uploads))
    else:
        logging.basicConfig(level=logging.INFO, format="%(threadName)-12s %(message)s")
        with ThreadPoolExecutor(WORKERS, "worker") as executor:
            app = ThumbnailService(options.database, executor).app
            uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
