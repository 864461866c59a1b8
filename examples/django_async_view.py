"""Django: an async view whose ORM lines stand in a block, with `transaction.atomic` and all.

    POST /orders/1   takes one copy of book 1 from the stock; 409 if there is none
    GET  /report     adds up all orders, slowly; ends when its client leaves

`python django_async_view.py` serves on port 8000; try `curl -X POST localhost:8000/orders/1`.
`python django_async_view.py --selftest` orders on real sockets, many at a time, and checks.
"""

import argparse
import asyncio
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import django
import httpx
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import close_old_connections, connection, models, transaction
from django.db.models import F
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.utils import timezone, translation
from django.utils.formats import date_format

from threadhop import WorkerPool, check_cancelled, threadpool

pool = WorkerPool(4, "orm")  # each worker has a connection of its own: so many, and no more
temporary = tempfile.TemporaryDirectory()
settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.middleware.locale.LocaleMiddleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": Path(temporary.name, "shop.db"),
            "OPTIONS": {"timeout": 30, "transaction_mode": "IMMEDIATE"},
        }
    },
)
django.setup(set_prefix=False)


class Book(models.Model):
    id = models.AutoField(primary_key=True)
    stock = models.IntegerField()

    class Meta:
        app_label = "shop"


class Order(models.Model):
    id = models.AutoField(primary_key=True)
    book = models.ForeignKey(Book, models.CASCADE)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        app_label = "shop"


@asynccontextmanager
async def database() -> AsyncIterator[None]:
    """Its body runs on a worker, with the language and the time zone of the request."""
    language, zone = translation.get_language(), timezone.get_current_timezone()
    try:
        async with threadpool(pool):
            # Django does this at both ends of a request, in the thread of the request.
            close_old_connections()
            try:
                # Locals of asgiref belong to a thread: the worker has none of them yet.
                with translation.override(language), timezone.override(zone):
                    yield
            finally:
                close_old_connections()
    finally:
        # And what the worker has set hides those of the loop.
        translation.activate(language)
        timezone.activate(zone)


class SoldOutError(Exception):
    """It rolls the transaction back."""


async def order(request: HttpRequest, book_id: int) -> JsonResponse:
    timezone.activate(timezone.get_fixed_timezone(int(request.headers.get("X-Minutes", "0"))))
    try:
        async with database():
            with transaction.atomic():
                new = Order.objects.create(book_id=book_id)
                if not Book.objects.filter(pk=book_id, stock__gt=0).update(stock=F("stock") - 1):
                    raise SoldOutError
            answer = {"order": new.pk, "at": date_format(timezone.localtime(new.at), "l H:i")}
    except SoldOutError:
        return JsonResponse({"error": "sold out"}, status=409)
    answer["language"] = translation.get_language()  # the loop again
    return JsonResponse(answer)


async def report(request: HttpRequest) -> JsonResponse:
    async with database():  # Django cancels a view whose client has left
        count = add_up()
    return JsonResponse({"orders": count})


def add_up() -> int:
    """Blocking code, on a worker."""
    count = 0
    for _ in Order.objects.iterator():
        check_cancelled()
        time.sleep(0.05)
        count += 1
    return count


urlpatterns = [path("orders/<int:book_id>", order), path("report", report)]
application = get_asgi_application()


def create_tables() -> None:
    with connection.schema_editor() as editor:
        editor.create_model(Book)
        editor.create_model(Order)
    Book.objects.create(pk=1, stock=STOCK)
    Book.objects.create(pk=2, stock=1000)
    connection.close()


STOCK = 20

# --- the self-test ---

CLIENTS = 50
WEEKDAYS = {
    "de": ["Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"],
    "fr": ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
}


def ensure(truth: object, otherwise: str) -> None:
    if not truth:
        raise SystemExit(f"WRONG: {otherwise}")


@asynccontextmanager
async def serving() -> AsyncIterator[str]:
    """Serves the application on a free loopback port, as a task of this loop; yields its URL."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    config = uvicorn.Config(
        application, log_level="warning", lifespan="off", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


async def check_orders(client: httpx.AsyncClient) -> None:
    """More clients than copies, all at once."""
    answers = await asyncio.gather(*(client.post("/orders/1") for _ in range(CLIENTS)))
    counts = Counter(answer.status_code for answer in answers)
    ensure(counts == {200: STOCK, 409: CLIENTS - STOCK}, f"the answers were {counts}")
    async with database():
        orders, left = Order.objects.count(), Book.objects.get(pk=1).stock
    ensure((orders, left) == (STOCK, 0), f"{orders} orders, {left} copies are left")
    print(f"{CLIENTS} clients, {STOCK} copies: {orders} orders, the others rolled back")


async def check_languages(client: httpx.AsyncClient) -> None:
    """Many at once, each with a language and a time zone of its own."""

    async def ask(number: int) -> tuple[str, int, dict[str, Any]]:
        language = list(WEEKDAYS)[number % 3]
        headers = {"Accept-Language": language, "X-Minutes": str(number)}
        return language, number, (await client.post("/orders/2", headers=headers)).json()

    answers = await asyncio.gather(*(ask(number) for number in range(CLIENTS)))
    async with database():
        times = dict(Order.objects.values_list("pk", "at"))
    for language, minutes, answer in answers:
        local = times[answer["order"]] + timedelta(minutes=minutes)
        expected = f"{WEEKDAYS[language][local.weekday()]} {local:%H:%M}"
        ensure(answer["at"] == expected, f"{answer['at']} and not {expected}, in the block")
        ensure(answer["language"] == language, f"{language} became {answer['language']}")
    print(f"{CLIENTS} clients, each in its own language and time zone, in the block and after it")


async def check_restart(client: httpx.AsyncClient) -> None:
    """The database drops its connections, in each worker."""
    meeting = threading.Barrier(4)

    async def drop() -> None:
        async with threadpool(pool):
            connection.ensure_connection()
            connection.connection.close()
            meeting.wait(10)

    await asyncio.gather(*(drop() for _ in range(4)))
    answers = await asyncio.gather(*(client.post("/orders/2") for _ in range(CLIENTS)))
    counts = Counter(answer.status_code for answer in answers)
    ensure(counts == {200: CLIENTS}, f"after a restart of the database: {counts}")
    print("a restart of the database harmed nobody")


async def check_client_that_leaves(client: httpx.AsyncClient) -> None:
    started = time.monotonic()
    try:
        await client.get("/report", timeout=0.3)
    except httpx.ReadTimeout:
        pass
    else:
        ensure(False, "the report came too soon")
    while pool.statistics().busy:
        ensure(time.monotonic() - started < 3, "the report went on without its client")
        await asyncio.sleep(0.01)
    print("a report ended when its client left")


async def selftest() -> None:
    async with database():
        create_tables()
    async with (
        serving() as url,
        httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client,
    ):
        await check_orders(client)
        await check_languages(client)
        await check_restart(client)
        await check_client_that_leaves(client)
    print("every order is right, and nothing is left behind")


def main() -> None:
    parser = argparse.ArgumentParser(description="Orders over HTTP, with Django's ORM in a block.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--selftest", action="store_true", help="prove that it works, and exit")
    options = parser.parse_args()
    with temporary, pool:
        if options.selftest:
            asyncio.run(selftest())
            return
        create_tables()
        uvicorn.run(application, port=options.port, lifespan="off")


if __name__ == "__main__":
    main()
