"""Decorated functions and blocks in the hands of real libraries: each looks at a function first.

Is it a coroutine function, what are its annotations, can it be bound, wrapped, referred to weakly.
The libraries are the extra ``libraries`` and the marker of that name; starlette is always there.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from helpers.loops import LoopKind, on_one_loop
from helpers.places import on_loop_thread
from helpers.steps import Gate, until

from threadhop import eventloop, threadpool


def libraries(test: Callable[..., None]) -> Any:
    """Of the marker. What a library does that Python is about to drop is the library's matter."""
    ignored = pytest.mark.filterwarnings("ignore::DeprecationWarning")
    return pytest.mark.libraries(ignored(test))


def library(name: str) -> Any:
    """The module; without it the test is skipped. What it warns of at its import is its matter."""
    package = name.partition(".")[0]
    pytest.importorskip(
        package, reason="the extra 'libraries' is not installed", exc_type=ModuleNotFoundError
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def on_worker() -> bool:
    return not on_loop_thread()


async def get(app: Any, path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.get(path, headers=headers)


# --- web frameworks


def test_starlette_awaits_a_decorated_endpoint_and_handles_what_it_raises(
    current_task_loops: LoopKind,
) -> None:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    @threadpool
    def home(request: Any) -> PlainTextResponse:
        if on_loop_thread():
            return PlainTextResponse("on the loop")
        if "missing" in request.query_params:
            raise HTTPException(404, "no such row")
        return PlainTextResponse("on a worker")

    class Rows:
        @threadpool
        def get(self, request: Any) -> PlainTextResponse:
            return PlainTextResponse(f"on the loop: {on_loop_thread()}")

    app = Starlette(routes=[Route("/", home), Route("/rows", Rows().get)])

    async def main() -> None:
        assert (await get(app, "/")).text == "on a worker"
        missing = await get(app, "/?missing")
        assert (missing.status_code, missing.text) == (404, "no such row")
        assert (await get(app, "/rows")).text == "on the loop: False"

    current_task_loops.run(main)


def test_starlette_streams_from_a_block_whose_rows_are_sent_on_the_loop(
    current_task_loops: LoopKind,
) -> None:
    from starlette.applications import Starlette
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def rows() -> AsyncIterator[str]:
        async with threadpool():
            for row in "abc":
                assert on_worker()
                async with eventloop():
                    yield row

    async def stream(_: Any) -> StreamingResponse:
        async with threadpool():
            assert on_worker()
        return StreamingResponse(rows())

    app = Starlette(routes=[Route("/", stream)])
    assert current_task_loops.run(get(app, "/")).text == "abc"


@libraries
@on_one_loop
async def test_fastapi_calls_decorated_endpoints_and_dependencies_by_their_annotations() -> None:
    fastapi = library("fastapi")
    app = fastapi.FastAPI()
    ends: list[bool] = []

    @threadpool
    def name_of_user(x_name: str = fastapi.Header("nobody")) -> str:
        assert on_worker()
        if x_name == "root":
            raise fastapi.HTTPException(403)
        return x_name

    async def session() -> AsyncIterator[str]:
        async with threadpool():
            async with eventloop():
                yield "session"
            ends.append(on_worker())

    @app.get("/items/{number}")
    @threadpool
    def item(
        number: int,
        name: str = fastapi.Depends(name_of_user),
        session: str = fastapi.Depends(session),
    ) -> dict[str, object]:
        return {"number": number + 1, "name": name, "session": session, "worker": on_worker()}

    response = await get(app, "/items/4", **{"x-name": "Tom"})
    assert response.json() == {"number": 5, "name": "Tom", "session": "session", "worker": True}
    assert ends == [True]
    assert (await get(app, "/items/four")).status_code == 422
    assert (await get(app, "/items/4", **{"x-name": "root"})).status_code == 403


# --- what wraps functions


@libraries
@on_one_loop
async def test_pydantic_validates_the_arguments_of_functions_and_methods() -> None:
    pydantic = library("pydantic")

    @threadpool
    def add(a: int, b: int = 2) -> tuple[int, bool]:
        return a + b, on_worker()

    class Sum:
        @pydantic.validate_call
        @threadpool
        def add(self, a: int) -> int:
            return a + 1

    checked = pydantic.validate_call(add)
    assert await checked("1") == (3, True)
    assert await Sum().add("1") == 2
    with pytest.raises(pydantic.ValidationError, match="valid integer"):
        await checked("one")


@libraries
@on_one_loop
async def test_tenacity_awaits_each_try_and_a_block_can_be_tried_again() -> None:
    tenacity = library("tenacity")
    tries: list[bool] = []

    def flaky() -> int:
        tries.append(on_worker())
        if len(tries) % 3:
            raise OSError("not yet")
        return len(tries)

    again = tenacity.retry(stop=tenacity.stop_after_attempt(3), reraise=True)
    assert await again(threadpool(flaky))() == 3
    async for attempt in tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(3)):
        with attempt:
            async with threadpool():
                assert flaky() == 6
    assert tries == [True] * 6

    @again
    @threadpool
    def broken() -> None:
        raise OSError("never")

    with pytest.raises(OSError, match="never"):
        await broken()


@libraries
@on_one_loop
async def test_async_lru_runs_the_function_once_for_all_who_wait() -> None:
    async_lru = library("async_lru")
    gate = Gate()
    calls: list[int] = []

    @async_lru.alru_cache
    @threadpool
    def load(key: int) -> int:
        calls.append(key)
        gate.stop_here()
        return key + 1

    waiting = [asyncio.create_task(load(1)) for _ in range(3)]
    await until(gate.reached.is_set)
    waiting[0].cancel()
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    assert await asyncio.gather(*waiting[1:]) == [2, 2]
    assert await load(1) == 2
    assert calls == [1]
    await load.cache_close()


# --- what holds functions


@libraries
def test_django_holds_receivers_weakly_and_awaits_them_on_a_worker() -> None:
    dispatch = library("django.dispatch")
    signal: Any = dispatch.Signal()
    seen: list[str] = []

    def connect() -> Any:
        @threadpool
        def receiver(sender: str, **_: Any) -> None:
            seen.append(f"{sender}, function, {on_worker()}")

        signal.connect(receiver)
        return receiver

    class Log:
        @threadpool
        def receiver(self, sender: str, **_: Any) -> None:
            seen.append(f"{sender}, method, {on_worker()}")

    receiver, log = connect(), Log()
    signal.connect(log.receiver)
    asyncio.run(signal.asend("first"))
    assert sorted(seen) == ["first, function, True", "first, method, True"]
    del receiver, log
    gc.collect()
    asyncio.run(signal.asend("second"))
    assert len(seen) == 2
    assert not signal.has_listeners()


@libraries
@on_one_loop
async def test_langchain_makes_a_tool_of_a_decorated_function() -> None:
    tools = library("langchain_core.tools")

    @tools.tool
    @threadpool
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return f"{a + b}, {on_worker()}"

    assert add.name == "add"
    assert add.description == "Add two numbers."
    assert {name: of["type"] for name, of in add.args.items()} == {"a": "integer", "b": "integer"}
    assert await add.ainvoke({"a": 1, "b": 2}) == "3, True"


@libraries
def test_typer_runs_a_decorated_command_where_no_loop_runs() -> None:
    typer = library("typer")
    runner = library("typer.testing").CliRunner()
    app = typer.Typer()

    @app.command()
    @threadpool
    def hello(count: int, name: str = "you") -> None:
        typer.echo(f"hello {name} {count + 1} {threading.current_thread().name}")

    result = runner.invoke(app, ["4", "--name", "Tom"])
    assert result.output.strip() == "hello Tom 5 MainThread"
    assert runner.invoke(app, ["four"]).exit_code == 2


@libraries
@on_one_loop
async def test_discord_repeats_a_decorated_function_and_tells_what_it_raises() -> None:
    tasks = library("discord.ext.tasks")
    seen: list[object] = []

    @tasks.loop(count=2)
    @threadpool
    def tick() -> None:
        seen.append(on_worker())
        if len(seen) == 2:
            raise LookupError

    @tick.error
    async def failed(error: Exception) -> None:
        seen.append(type(error))

    task = tick.start()
    with pytest.raises(LookupError):
        await task
    assert seen == [True, True, LookupError]


# --- traces


@libraries
@on_one_loop
async def test_opentelemetry_spans_last_as_long_as_the_body_and_nest_in_it() -> None:
    sdk = library("opentelemetry.sdk.trace")
    export = library("opentelemetry.sdk.trace.export")
    memory = library(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter"
    ).InMemorySpanExporter()
    provider = sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(memory))
    span = provider.get_tracer(__name__).start_as_current_span

    @span("outside")
    @threadpool
    def outside() -> bool:
        with span("in the body"):
            return on_worker()

    @threadpool
    @span("inside")
    def inside() -> bool:
        return on_worker()

    with span("request"):
        assert await outside()
        assert await inside()
        async with threadpool():
            with span("block"):
                async with eventloop():
                    with span("loop part"):
                        assert on_loop_thread()
    spans = {one.name: one for one in memory.get_finished_spans()}
    names = {one.context.span_id: one.name for one in spans.values()}
    parents = {name: one.parent and names[one.parent.span_id] for name, one in spans.items()}
    assert parents == {
        "request": None,
        "outside": "request",
        "in the body": "outside",
        "inside": "request",
        "block": "request",
        "loop part": "block",
    }
    assert spans["in the body"].end_time <= spans["outside"].end_time
    provider.shutdown()


@pytest.fixture
def sentry() -> Iterator[tuple[Any, list[Any]]]:
    """The SDK, and the transactions that it has sent."""
    sdk = library("sentry_sdk")
    transactions: list[Any] = []

    class Kept(library("sentry_sdk.transport").Transport):  # type: ignore[misc]
        def capture_envelope(self, envelope: Any) -> None:
            transactions.extend(
                filter(None, map(type(envelope.items[0]).get_transaction_event, envelope.items))
            )

    sdk.init(
        "http://key@test/1",
        transport=Kept,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
        integrations=[
            library("sentry_sdk.integrations.asyncio").AsyncioIntegration(),
            library("sentry_sdk.integrations.threading").ThreadingIntegration(),
        ],
    )
    yield sdk, transactions
    sdk.get_client().close()
    sdk.get_global_scope().set_client(None)


@libraries
def test_sentry_traces_decorated_functions_and_blocks_in_their_transaction(
    sentry: tuple[Any, list[Any]],
) -> None:
    sdk, transactions = sentry

    @sdk.trace
    @threadpool
    def outside() -> bool:
        with sdk.start_span(name="in the body"):
            return on_worker()

    async def main() -> None:
        with sdk.start_transaction(name="request"):
            assert await outside()
            async with threadpool():
                with sdk.start_span(name="block"):
                    assert on_worker()

    asyncio.run(main())
    (transaction,) = transactions
    names = {one["span_id"]: one["description"] for one in transaction["spans"]}
    names[transaction["contexts"]["trace"]["span_id"]] = "request"
    parents = {
        one["description"].rpartition(".")[2]: names[one["parent_span_id"]].rpartition(".")[2]
        for one in transaction["spans"]
    }
    assert parents == {"outside": "request", "in the body": "outside", "block": "request"}
