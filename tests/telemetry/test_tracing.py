"""Spans of a producer over a fake broker; `tests/integration/test_traces.py` has the real ones."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    ProxyTracerProvider,
    SpanKind,
    StatusCode,
    TraceState,
    format_trace_id,
    get_current_span,
    use_span,
)
from opentelemetry.trace import TracerProvider as AnyProvider
from opentelemetry.util.types import Attributes
from sqlalchemy import create_engine

from engine_bench import FAST, Bench, bench, embed, until
from mlproducer import DeadFilter, Outbox, Producer, Receipt, Settings, Task
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.headers import headers_of
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import InvalidTask, SpoolFull
from mlproducer.events import (
    AttemptSettled,
    ConnectionChanged,
    ConnectionState,
    Event,
    TaskAccepted,
    TaskConfirmed,
    TaskSpooled,
)
from mlproducer.outcome import Returned, Unsure, UnsureCause
from mlproducer.rows import NewRow
from mlproducer.spool import open_spool
from mlproducer.task import Envelope
from mlproducer.telemetry import tracing
from mlproducer.telemetry.tracing import Tracing
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides
from spans import Spans, carried, context, facts, linked, parent

REMOTE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def remote() -> Iterator[None]:
    """The caller is in a trace that began elsewhere, as an HTTP handler is."""
    token = attach(extract({"traceparent": REMOTE, "tracestate": "vendor=1"}))
    yield
    detach(token)


def sent(b: Bench) -> list[Envelope]:
    return [envelope for messages in b.broker.queues.values() for envelope in messages]


async def test_a_confirmed_call_is_an_accept_span_with_one_publish_in_it(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        receipt = await producer.publish(embed())
    accept, publish = spans.one("accept"), spans.one("publish")
    (envelope,) = sent(b)
    assert (accept.name, accept.kind) == ("accept ml.tasks:ml.embed", SpanKind.PRODUCER)
    assert (publish.name, publish.kind) == ("publish ml.tasks:ml.embed", SpanKind.CLIENT)
    assert parent(accept) is None
    assert parent(publish) == context(accept).span_id
    assert linked(publish) == {context(accept).span_id}
    both = {
        "messaging.system": "rabbitmq",
        "messaging.destination.name": "ml.tasks:ml.embed",
        "messaging.rabbitmq.destination.routing_key": "ml.embed",
        "messaging.message.id": receipt.task_id,
        "messaging.message.conversation_id": receipt.task_id,
        "messaging.message.body.size": len(envelope.body),
        "messaging.message.envelope.size": envelope.size,
        "mlproducer.task.type": "embed_vectors",
        "server.address": "fake",
        "server.port": 5672,
    }
    create = {"messaging.operation.name": "accept", "messaging.operation.type": "create"}
    send = {"messaging.operation.name": "publish", "messaging.operation.type": "send"}
    assert facts(accept) == {**both, **create, "mlproducer.task.state": "confirmed"}
    assert facts(publish) == {**both, **send, "mlproducer.attempt": 1}
    assert [span.status.status_code for span in (accept, publish)] == [StatusCode.UNSET] * 2
    assert (accept.start_time or 0) <= (publish.start_time or 0) <= (publish.end_time or 0) <= (accept.end_time or 0)


async def test_the_slow_ones_can_be_found_by_the_exemplars_of_the_histograms(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed())
        text = producer.metrics.prometheus("application/openmetrics-text")[0].decode()
    trace = f'# {{trace_id="{format_trace_id(context(spans.one("accept")).trace_id)}"}}'
    for name in ("ml_producer_task_publish_duration_seconds_bucket", "ml_producer_accept_to_confirm_seconds_bucket"):
        assert sum(line.startswith(name) and trace in line for line in text.splitlines()) == 1


async def test_a_message_carries_the_context_of_its_accept_span(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed(headers={"tenant": "Zürich"}))
    (envelope,) = sent(b)
    assert carried(envelope).span_id == context(spans.one("accept")).span_id
    assert headers_of(envelope)["tenant"] == "Zürich"


async def test_a_call_belongs_to_the_trace_that_its_caller_is_in(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        outer = spans.begin()
        with use_span(outer):
            await producer.publish(embed(1))
            async for _ in producer.publish_many([embed(2), embed(3)]):
                pass
        await producer.publish(embed(4))
    inside = [span for span in spans.of("accept") if parent(span) == outer.get_span_context().span_id]
    assert len(inside) == 3
    assert sum(parent(span) is None for span in spans.of("accept")) == 1
    assert {carried(envelope).span_id for envelope in sent(b)} == {context(s).span_id for s in spans.of("accept")}


async def test_a_task_that_was_spooled_is_drained_within_its_own_trace_and_linked_from_the_batch(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    b.broker.down = True
    async with b.producer as producer:
        await producer.connected(2)
        receipts = [await producer.publish(embed(n)) for n in range(3)]
        assert {receipt.state for receipt in receipts} == {"spooled"}
        assert spans.of("publish") == [], "nothing was written, so nothing was published"
        b.broker.down = False
        await until(lambda: len(b.broker.task_ids()) == 3 and bool(spans.of("drain")))
    accepts = {context(span).span_id: span for span in spans.of("accept")}
    assert {facts(span)["mlproducer.task.state"] for span in accepts.values()} == {"spooled"}
    for publish in spans.of("publish"):
        accept = accepts[parent(publish) or 0]
        assert context(publish).trace_id == context(accept).trace_id
        assert facts(publish)["messaging.message.id"] == facts(accept)["messaging.message.id"]
        assert facts(publish)["mlproducer.attempt"] == 1
    drains = spans.of("drain")
    assert {(span.name, span.kind, parent(span)) for span in drains} == {("drain ml.tasks", SpanKind.INTERNAL, None)}
    assert sum(facts(span)["messaging.batch.message_count"] for span in drains) == 3
    assert {each for span in drains for each in linked(span)} == set(accepts)
    for publish in spans.of("publish"):
        assert linked(publish) & {context(span).span_id for span in drains}


async def test_each_attempt_says_which_one_it_is_and_why_it_failed(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    b.broker.script.extend([Returned(312, "NO_ROUTE password=hunter22")] * 3)
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed())
        await until(lambda: len(spans.of("publish")) == 3)
    failed = spans.of("publish")
    assert [facts(span)["mlproducer.attempt"] for span in failed] == [1, 2, 3]
    assert {facts(span)["error.type"] for span in failed} == {"returned"}
    assert {(s.status.status_code, s.status.description) for s in failed} == {
        (StatusCode.ERROR, "NO_ROUTE password=***")
    }
    assert {context(span).trace_id for span in failed} == {context(spans.one("accept")).trace_id}


async def test_an_unsure_attempt_is_an_error_with_its_cause(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    b.broker.script.append(Unsure(UnsureCause.CONFIRM_TIMEOUT))
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed())
        await until(lambda: len(spans.of("publish")) == 2)
    assert [facts(span).get("error.type") for span in spans.of("publish")] == ["confirm_timeout", None]


async def test_a_dead_letter_that_is_replayed_goes_on_in_the_trace_of_its_task(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider, ml_retry_attempts=1)
    b.broker.script.append(Returned(312, "NO_ROUTE"))
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed())
        async with asyncio.timeout(5):
            while not await producer.dead_letters():  # noqa: ASYNC110  # a spool tells no event
                await asyncio.sleep(0.01)
        await producer.replay(DeadFilter())
        await until(lambda: len(b.broker.task_ids()) == 1)
    (envelope,) = sent(b)
    accept = spans.one("accept")
    assert carried(envelope).span_id == context(accept).span_id
    assert {context(span).trace_id for span in spans.of("publish")} == {context(accept).trace_id}


async def test_a_refused_call_says_why_and_shows_nothing_of_its_content(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        with pytest.raises(InvalidTask):
            await producer.publish(Task(task_type="embed_vectors", payload={"share_id": "s", "secret": "content!"}))
    accept = spans.one("accept")
    assert facts(accept)["error.type"] == "InvalidTask"
    assert facts(accept)["mlproducer.task.state"] == "refused"
    assert accept.status.status_code is StatusCode.ERROR
    assert "content!" not in accept.to_json()
    assert accept.events == ()


async def test_a_task_type_that_nobody_knows_still_has_a_span_with_a_bounded_name(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        with pytest.raises(InvalidTask):
            await producer.publish(Task(task_type="wild", payload={}))
    assert spans.one("accept").name == "accept ml.tasks"


async def test_a_call_that_the_spool_refuses_ends_its_span(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider, ml_spool_max_tasks=1)
    b.broker.down = True
    async with b.producer as producer:
        await producer.publish(embed(1))
        with pytest.raises(SpoolFull):
            await producer.publish(embed(2))
    assert [facts(span).get("error.type") for span in spans.of("accept")] == [None, "SpoolFull"]


async def test_a_call_that_is_cancelled_ends_its_span(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        b.broker.hold()
        call = asyncio.create_task(producer.publish(embed()))
        await until(lambda: b.broker.view().in_flight == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert facts(spans.one("accept"))["mlproducer.task.state"] == "abandoned"
        b.broker.release()
        await until(lambda: bool(spans.of("publish")))
    assert len(spans.of("accept")) == 1


async def test_a_stream_that_is_abandoned_ends_all_its_spans(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        stream = producer.publish_many([embed(n) for n in range(20)], window=10)
        await anext(stream)
        await stream.aclose()
        await until(lambda: b.broker.view().in_flight == 0)
    states = [facts(span)["mlproducer.task.state"] for span in spans.of("accept")]
    assert set(states) <= {"confirmed", "abandoned"}
    assert len(states) == len({facts(span)["messaging.message.id"] for span in spans.of("accept")}) >= 10


async def test_a_repeated_id_is_known_and_its_message_stays_in_the_first_trace(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed(id="t-1"))
        await producer.publish(embed(id="t-1"))
    first, second = spans.of("accept")
    assert [facts(span)["mlproducer.task.state"] for span in (first, second)] == ["confirmed", "known"]
    (envelope,) = sent(b)
    assert carried(envelope).span_id == context(first).span_id


async def test_a_context_that_the_user_put_into_the_message_stays_as_it_is(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        with use_span(spans.begin()):
            await producer.publish(embed(headers={"traceparent": REMOTE}))
    (envelope,) = sent(b)
    assert headers_of(envelope)["traceparent"] == REMOTE
    assert spans.of("accept") == []
    assert f"{parent(spans.one('publish')):x}" == REMOTE.split("-")[2]


async def test_a_broken_traceparent_among_the_headers_is_replaced(spans: Spans) -> None:
    b = bench(tracer_provider=spans.provider)
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed(headers={"traceparent": "00-zz"}))
    assert carried(sent(b)[0]).span_id == context(spans.one("accept")).span_id


@pytest.mark.usefixtures("remote")
async def test_a_sampled_out_call_records_nothing_and_tells_the_worker_so() -> None:
    spans = Spans(ALWAYS_OFF)
    b = bench(tracer_provider=spans.provider)
    b.broker.down = True
    async with b.producer as producer:
        await producer.publish(embed(1))
        b.broker.down = False
        await until(lambda: len(b.broker.task_ids()) == 1)
    found = carried(sent(b)[0])
    assert (f"{found.trace_id:x}".zfill(32), found.trace_flags.sampled) == (REMOTE.split("-")[1], False)
    assert spans.all() == ()


async def test_what_was_sampled_out_when_it_was_accepted_has_no_span_in_the_drain() -> None:
    class OnlyDrains(Sampler):
        def should_sample(  # the SDK's signature
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Attributes = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> SamplingResult:
            del parent_context, trace_id, kind, links, trace_state
            wanted = name.startswith("drain")
            return SamplingResult(Decision.RECORD_AND_SAMPLE if wanted else Decision.DROP, attributes)

        def get_description(self) -> str:
            return "OnlyDrains"

    spans = Spans(OnlyDrains())
    b = bench(tracer_provider=spans.provider)
    b.broker.down = True
    async with b.producer as producer:
        await producer.publish(embed(1))
        b.broker.down = False
        await until(lambda: bool(spans.of("drain")))
    assert {span.name for span in spans.all()} == {"drain ml.tasks"}
    assert len(linked(spans.one("drain"))) == 1


async def test_a_task_that_was_accepted_without_a_trace_is_published_within_its_batch(spans: Spans) -> None:
    spool = open_spool("memory://")
    b = bench(spool=spool)
    b.broker.down = True
    async with b.producer as producer:
        await producer.publish(embed(1))
        row = (await spool.lease(1, hold=0))[0].row
    again = bench(tracer_provider=spans.provider)
    async with again.producer as producer:
        await producer.connected(2)
        await again.spool.put(NewRow(row.envelope, row.accepted_at, cause=row.cause))
        await until(lambda: bool(spans.of("drain")))
    assert parent(spans.one("publish")) == context(spans.one("drain")).span_id


async def test_a_waiting_eta_and_a_stored_payload_keep_their_trace(spans: Spans, tmp_path: Path) -> None:
    b = bench(tracer_provider=spans.provider, ml_blob_url=str(tmp_path), ml_claim_check_bytes=1024)
    async with b.producer as producer:
        await producer.connected(2)
        soon = datetime.now(UTC) + timedelta(seconds=0.1)
        task = Task(task_type="embed_vectors", payload={"share_id": "s", "content": "x" * 5_000}, eta=soon)
        await producer.publish(task)
        await until(lambda: len(b.broker.task_ids()) == 1)
    (envelope,) = sent(b)
    assert envelope.size < 2_000
    assert carried(envelope).span_id == context(spans.one("accept")).span_id


# Without an SDK


async def test_without_an_sdk_and_a_trace_the_message_is_what_it_was() -> None:
    b = bench()
    task = embed(id="t-1")
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(task)
    (envelope,) = sent(b)
    plain = Encoder(TaskTypes.builtin(), headers_of(envelope)["origin"], 1 << 20).encode(task)
    assert envelope == plain


@pytest.mark.usefixtures("remote")
async def test_without_an_sdk_the_callers_trace_is_handed_on() -> None:
    b = bench()
    async with b.producer as producer:
        await producer.connected(2)
        await producer.publish(embed(1))
        async for _ in producer.publish_many([embed(2)]):
            pass
        await producer.publish(embed(3, headers={"traceparent": REMOTE.replace("b7", "c7")}))
    found = [headers_of(envelope)["traceparent"] for envelope in sent(b)]
    assert found == [REMOTE, REMOTE, REMOTE.replace("b7", "c7")]
    assert headers_of(sent(b)[0])["tracestate"] == "vendor=1"


async def test_baggage_travels_too() -> None:
    b = bench()
    async with b.producer as producer:
        await producer.connected(2)
        token = attach(baggage.set_baggage("tenant", "7"))
        await producer.publish(embed(1))
        detach(token)
    assert headers_of(sent(b)[0])["baggage"] == "tenant=7"


def test_an_sdk_that_is_set_up_late_is_found_within_a_second(monkeypatch: pytest.MonkeyPatch, spans: Spans) -> None:
    now = 100.0
    asked: list[float] = []

    def provider() -> AnyProvider:
        asked.append(now)
        return spans.provider if now >= 100.5 else ProxyTracerProvider()

    monkeypatch.setattr(tracing, "get_tracer_provider", provider)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    found = Tracing("ml.tasks", TaskTypes.builtin())
    assert found.call(embed()) is None
    now = 100.9
    assert found.call(embed()) is None
    assert asked == [100.0], "to ask costs more than all the rest"
    now = 101.0
    assert found.call(embed()) is not None
    now = 102.0
    assert found.call(embed()) is not None
    assert asked == [100.0, 101.0]


# What must not happen


def test_a_provider_that_does_not_load_costs_no_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> AnyProvider:
        raise StopIteration

    monkeypatch.setattr(tracing, "get_tracer_provider", broken)
    assert Tracing("ml.tasks", TaskTypes.builtin()).call(embed()) is None
    assert "tracing failed" in caplog.text


class Broken(SpanProcessor):
    def __init__(self, *, at_start: bool) -> None:
        self._at_start = at_start

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        del span, parent_context
        if self._at_start:
            raise ZeroDivisionError

    def on_end(self, span: ReadableSpan) -> None:
        raise ZeroDivisionError(span.name)


@pytest.mark.parametrize("at_start", [True, False])
async def test_a_tracer_that_fails_costs_no_task(at_start: bool, caplog: pytest.LogCaptureFixture) -> None:  # noqa: FBT001
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Broken(at_start=at_start))
    b = bench(tracer_provider=provider)
    b.broker.down = True
    async with b.producer as producer:
        await producer.publish(embed(0))
        b.broker.down = False
        await until(lambda: len(b.broker.task_ids()) == 1)
        await until(lambda: producer.status().connection == "connected")
        receipts = [await producer.publish(embed(n)) for n in (1, 2)]
        receipts += [each async for each in producer.publish_many([embed(3)]) if isinstance(each, Receipt)]
    assert [receipt.state for receipt in receipts] == ["confirmed"] * 3
    assert len(b.broker.task_ids()) == 4
    assert len([record for record in caplog.records if "callback=tracing" in record.message]) == 1, "said once a kind"
    assert producer.metrics.json()["listeners"]["errors"]["tracing"] > 3  # type: ignore[index]  # a document


async def test_what_runs_as_long_as_the_producer_belongs_to_no_trace(spans: Spans) -> None:
    told: dict[type[Event], set[int]] = {}

    def listen(event: Event) -> None:
        told.setdefault(type(event), set()).add(get_current_span().get_span_context().trace_id)

    broker = FakeBroker()
    overrides = Overrides(broker=lambda *_: broker, tracer_provider=spans.provider)
    settings = Settings.load(**FAST, ml_spool_url="memory://")
    script = spans.begin("a script's")
    with use_span(script):
        async with Producer(settings, listeners=[listen], overrides=overrides) as producer:
            await producer.connected(20)
            broker.blocked = True
            await producer.publish(embed())
            producer.reconnect()
            # Not before the new link is up: a drain that meets the old one's end has its row go once more.
            await until(lambda: broker.connects == 2 and producer.status().connection == "connected", 20)
            broker.blocked = False
            await until(lambda: bool(spans.of("drain")), 20)
    drain, trace_id = spans.one("drain"), script.get_span_context().trace_id
    assert parent(drain) is None
    assert told[TaskAccepted] == told[TaskSpooled] == {trace_id}
    assert told[AttemptSettled] == told[TaskConfirmed] == {context(drain).trace_id}
    assert 0 in told[ConnectionChanged], "a connect runs for itself, whoever asked for it"


def test_the_broker_in_a_span_is_the_one_we_are_connected_to() -> None:
    spans = Spans()
    found = Tracing("ml.tasks", TaskTypes.builtin(), spans.provider)
    nodes = ("one:5671", "::1:5672", "odd")
    for node in nodes:
        found(ConnectionChanged(ConnectionState.CONNECTED, node))
        call = found.call(embed())
        assert call is not None
        call.end(None, "known")
        found(ConnectionChanged(ConnectionState.DISCONNECTED, node))
    servers = [(facts(s).get("server.address"), facts(s).get("server.port")) for s in spans.of("accept")]
    assert servers == [("one", 5671), ("::1", 5672), (None, None)]


# The outbox


def test_a_task_that_is_added_to_an_outbox_carries_the_trace_of_its_transaction(
    spans: Spans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "get_tracer_provider", lambda: spans.provider)
    path = tmp_path / "app.db"
    outbox = Outbox(Settings.load(ml_spool_url=f"sqlite:///{path}"))
    engine = create_engine(f"sqlite:///{path}")
    outbox.create_tables(engine)
    engine.dispose()
    outer = spans.begin()
    with closing(sqlite3.connect(path)) as connection, use_span(outer):
        connection.execute("BEGIN")
        outbox.add(connection, embed(1))
        with pytest.raises(InvalidTask):
            outbox.add(connection, Task(task_type="embed_vectors", payload={}))
        connection.commit()
        ((properties,),) = connection.execute("SELECT properties FROM mlproducer_waiting").fetchall()
    added, refused = spans.of("accept")
    assert [facts(span)["mlproducer.task.state"] for span in (added, refused)] == ["added", "refused"]
    assert parent(added) == outer.get_span_context().span_id
    assert f"{context(added).span_id:016x}".encode() in properties
