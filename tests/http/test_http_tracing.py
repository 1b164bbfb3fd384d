"""The trace of a request goes into the tasks that it publishes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry.trace import use_span
from starlette.types import ASGIApp, Receive, Scope, Send

from http_bench import FAST, HttpBench, embed, embed_line, http_bench
from mlproducer import Producer, Settings
from mlproducer.envelope.headers import headers_of
from mlproducer.http import router
from mlproducer.http.holder import attach
from mlproducer.spool.memory import MemorySpool
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides
from spans import Spans, carried, context, parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INCOMING = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}


def messages(broker: FakeBroker) -> list[dict[str, object]]:
    return [headers_of(envelope) for queue in broker.queues.values() for envelope in queue]


@asynccontextmanager
async def own_app(spans: Spans, *, instrumented: bool) -> AsyncIterator[HttpBench]:
    """Our routes in an application of the user's, whose middleware may have made a span of the request already."""
    broker = FakeBroker()
    settings = Settings.load(**FAST)
    overrides = Overrides(broker=lambda *_: broker, spool=MemorySpool(), tracer_provider=spans.provider)
    app = FastAPI()
    app.include_router(router)
    if instrumented:
        app.add_middleware(Instrumented, spans)
    async with Producer(settings, overrides=overrides) as producer:
        await producer.connected(2)
        attach(app, producer)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3001") as client:
            yield HttpBench(client, producer, broker)


class Instrumented:
    def __init__(self, app: ASGIApp, spans: Spans) -> None:
        self._app = app
        self._spans = spans

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with use_span(self._spans.begin("POST"), end_on_exit=True):
            await self._app(scope, receive, send)


async def test_a_posted_task_is_a_child_of_the_callers_span() -> None:
    spans = Spans()
    async with http_bench(tracer_provider=spans.provider) as b:
        answer = await b.client.post("/api/ml/tasks", json=embed(), headers=INCOMING)
        assert answer.status_code == 201
        accept = spans.one("accept")
        assert f"{context(accept).trace_id:032x}" == TRACE
        assert f"{parent(accept):016x}" == SPAN
        assert context(accept).trace_state.get("vendor") == "1"
        (envelope,) = b.broker.queues["ml.embed"]
        assert carried(envelope).span_id == context(accept).span_id


async def test_every_line_of_a_batch_is_a_child_of_the_callers_span() -> None:
    spans = Spans()
    async with http_bench(tracer_provider=spans.provider) as b:
        answer = await b.client.post(
            "/api/ml/tasks/batch",
            content=b"\n".join(embed_line(n) for n in range(3)),
            headers={"Content-Type": "application/x-ndjson", **INCOMING},
        )
        assert answer.status_code == 200
        assert [f"{parent(accept):016x}" for accept in spans.of("accept")] == [SPAN] * 3


async def test_the_tasks_of_a_share_are_children_of_the_callers_span() -> None:
    spans = Spans()
    async with http_bench(tracer_provider=spans.provider) as b:
        share = {"text": "text " * 50}
        answer = await b.client.post("/api/shares/s-1/ml/embed", json=share, headers=INCOMING)
        assert answer.status_code in {200, 201, 202}, answer.text
        assert [f"{parent(accept):016x}" for accept in spans.of("accept")] == [SPAN]


async def test_without_an_sdk_the_callers_trace_goes_into_the_message_as_it_came() -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed(), headers=INCOMING)
        (headers,) = messages(b.broker)
        assert {name: headers[name] for name in INCOMING} == INCOMING


@pytest.mark.parametrize("given", [{}, {"traceparent": "00-zz"}, {"traceparent": f"00-{'0' * 32}-{SPAN}-01"}])
async def test_no_trace_or_a_broken_one_is_no_reason_to_refuse(given: dict[str, str]) -> None:
    async with http_bench() as b:
        assert (await b.client.post("/api/ml/tasks", json=embed(), headers=given)).status_code == 201
        assert "traceparent" not in messages(b.broker)[0]


async def test_a_request_leaves_its_trace_behind_when_it_ends() -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed(1), headers=INCOMING)
        await b.client.post("/api/ml/tasks", json={"task_type": "wild"}, headers=INCOMING)
        await b.client.post("/api/ml/tasks", json=embed(2))
        assert ["traceparent" in headers for headers in messages(b.broker)] == [True, False]


async def test_our_routes_in_an_application_that_is_not_instrumented_honour_the_header() -> None:
    spans = Spans()
    async with own_app(spans, instrumented=False) as b:
        await b.client.post("/api/ml/tasks", json=embed(), headers=INCOMING)
        assert f"{parent(spans.one('accept')):016x}" == SPAN


async def test_in_an_application_that_is_instrumented_its_span_is_the_parent() -> None:
    spans = Spans()
    async with own_app(spans, instrumented=True) as b:
        await b.client.post("/api/ml/tasks", json=embed(), headers=INCOMING)
        (request,) = [span for span in spans.all() if span.name == "POST"]
        (accept,) = [span for span in spans.all() if span.name.startswith("accept")]
        assert parent(accept) == context(request).span_id
