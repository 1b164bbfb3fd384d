"""Spans for accept, publish and drain, and W3C trace context into the message (docs/tracing.md, docs/adr/0009).

    accept   PRODUCER  one call, from the task to its receipt; its context travels in the message's headers
    publish  CLIENT    one attempt on the broker, in the trace of its task, direct or from the spool
    drain    INTERNAL  one batch from the spool, a trace of its own, linked to the accepts of its tasks

Names and attributes are those of OpenTelemetry's semantic conventions for messaging and RabbitMQ.

Without an SDK nobody records. What is left then is to hand on the trace context that a caller is in, and in the usual
case, where there is none, `call` costs a look at the clock and one at the current context.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol

from msgspec import Struct
from opentelemetry import context as otel
from opentelemetry.context import Context
from opentelemetry.propagate import extract, get_global_textmap, inject
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    TracerProvider,
    format_trace_id,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)

from mlproducer.core.retry import cause_of
from mlproducer.delivery.traces import BatchTrace, CallTrace
from mlproducer.delivery.verdicts import NO_ATTEMPT
from mlproducer.envelope.headers import headers_of
from mlproducer.envelope.types import TaskTypes
from mlproducer.events import ConnectionChanged, ConnectionState, Event
from mlproducer.loggers import get_logger
from mlproducer.outcome import Confirmed, NotSent, Outcome, Returned, Unsure
from mlproducer.ports import Settle
from mlproducer.redact import redact_text
from mlproducer.rows import Lease, SpoolRow
from mlproducer.task import Envelope, Task

SCHEMA: Final = "https://opentelemetry.io/schemas/1.40.0"
LOOK_EVERY: Final = 1.0
"""Seconds between looks for an SDK: to ask for the global provider reads the environment each time while there is none,
and takes several times as long as all the rest that `call` does then."""

_log = get_logger(__name__)


class _SaidOnce:
    """Where no producer runs that counts what fails (an outbox). The next failures come by the thousand."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            raise error
        if not self._said:
            self._said = True
            _log.warning("tracing failed; spans are missing, tasks are not (said once)", exc_info=error)


class _Guard:
    """Around OpenTelemetry and what the application plugged into it: what fails within costs a span and no task."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if error is not None:
            self._failed(error)
        return True


class Exemplars(Protocol):
    """Told the trace of what took so long: `telemetry.metrics.Metrics`. Seconds; 32 hex digits."""

    def attempt_traced(self, task_type: str, outcome: Outcome, seconds: float, trace_id: str) -> None: ...

    def confirm_traced(self, task_type: str, seconds: float, trace_id: str) -> None: ...


class Tracing:
    """`delivery.traces.Tracer`, and a listener that hears which broker we are connected to.

    `provider` None takes OpenTelemetry's global one, also if it is set after this is made. A tracer, sampler or
    exporter that fails costs spans and never a task; `failed` hears of it
    (None: a log line, once). `exemplars` is told of sampled spans.
    """

    def __init__(
        self,
        exchange: str,
        types: TaskTypes,
        provider: TracerProvider | None = None,
        exemplars: Exemplars | None = None,
        failed: Callable[[BaseException], None] | None = None,
    ) -> None:
        self.exemplars: Final = exemplars
        self._exchange = exchange
        self._queues = _queues(types)
        self._tracer = None if provider is None else _tracer_of(provider)
        self._look_at = float("-inf")
        self._broker: dict[str, Any] = {}
        self.guard: Final = _Guard(_SaidOnce() if failed is None else failed)
        self.handlers: Final[Mapping[type[Event], Callable[[Any], None]]] = MappingProxyType(
            {ConnectionChanged: self._connection}
        )

    def __call__(self, event: Event) -> None:
        if type(event) is ConnectionChanged:
            self._connection(event)

    def call(self, task: Task) -> CallTrace | None:
        """See `delivery.traces.Tracer`."""
        tracer = self._tracer or self._look()
        if tracer is None and not otel.get_current():
            return None
        with self.guard:
            return self._hand_on(task) if tracer is None else self._accept(tracer, task)
        return None

    def batch(self, leases: Sequence[Lease]) -> BatchTrace | None:
        """See `delivery.traces.Tracer`. The span is current in the asyncio task that called, until that ends."""
        tracer = self._tracer or self._look()
        if tracer is None:
            return None
        with self.guard:
            return _Batch(self, tracer, leases)
        return None

    def about(self, operation: str, queue: str | None) -> tuple[str, dict[str, Any]]:
        """The name of a span, and the attributes that a sampler should see."""
        destination = self._exchange if queue is None else f"{self._exchange}:{queue}"
        attributes = {
            "messaging.system": "rabbitmq",
            "messaging.operation.name": operation,
            "messaging.destination.name": destination,
            **self._broker,
        }
        if queue is not None:
            attributes["messaging.rabbitmq.destination.routing_key"] = queue
        return f"{operation} {destination}", attributes

    def _look(self) -> Tracer | None:
        now = time.monotonic()
        if now < self._look_at:
            return None
        self._look_at = now + LOOK_EVERY
        with self.guard:  # OTEL_PYTHON_TRACER_PROVIDER may name one that does not load
            provider = get_tracer_provider()
            if not isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
                self._tracer = _tracer_of(provider)
        return self._tracer

    def _hand_on(self, task: Task) -> CallTrace | None:
        """Nobody records here: the message carries the context that the caller is in."""
        carrier: dict[str, str] = {}
        inject(carrier)
        if not carrier or _chosen(task) is not None:
            return None
        return _HandedOn(carrier)

    def _accept(self, tracer: Tracer, task: Task) -> CallTrace | None:
        chosen = _chosen(task)
        if chosen is not None:
            # The conventions: a context that the user put into the message stays, and no span of ours stands for it.
            return _Call(self, tracer, {}, None, chosen, time.monotonic())
        name, attributes = self.about("accept", self._queues.get((task.task_type, task.backend)))
        attributes |= {
            "messaging.operation.type": "create",
            "messaging.message.id": task.id,
            "messaging.message.conversation_id": task.id,
            "mlproducer.task.type": task.task_type,
        }
        span = tracer.start_span(name, kind=SpanKind.PRODUCER, attributes=attributes)
        context = set_span_in_context(span)
        carrier: dict[str, str] = {}
        inject(carrier, context)
        if not span.is_recording():  # sampled out: the worker has to know, and that is all
            return _HandedOn(carrier) if carrier else None
        return _Call(self, tracer, carrier, span, set_span_in_context(span, Context()), time.monotonic())

    def _connection(self, event: ConnectionChanged) -> None:
        if event.state is ConnectionState.CONNECTED:
            host, _, port = event.node.rpartition(":")
            self._broker = {"server.address": host, "server.port": int(port)} if port.isdecimal() else {}


class _HandedOn(Struct, eq=False):
    """`CallTrace` that records nothing."""

    headers: Mapping[str, str]

    def attempt(self, envelope: Envelope, settle: Settle) -> Settle:
        del envelope
        return settle

    def refused(self, error: Exception) -> None: ...

    def end(self, envelope: Envelope | None, state: str) -> None: ...


class _Call(Struct, eq=False):
    """`CallTrace`. `span` is None where the user chose the context that the message carries."""

    tracing: Tracing
    tracer: Tracer
    headers: Mapping[str, str]
    span: Span | None
    context: Context
    """What the message carries."""
    started: float
    """Seconds on the monotonic clock."""
    error: str | None = None

    def attempt(self, envelope: Envelope, settle: Settle) -> Settle:
        link = Link(_span_context(self.context))
        return _Attempt(self.tracing, self.tracer, envelope, self.context, (link,), 1, settle, time.time_ns())

    def refused(self, error: Exception) -> None:
        self.error = type(error).__name__

    def end(self, envelope: Envelope | None, state: str) -> None:
        if self.span is None:
            return
        with self.tracing.guard:
            self.span.set_attribute("mlproducer.task.state", state if self.error is None else "refused")
            if envelope is not None:
                self.span.set_attributes(_sizes(envelope))
            if self.error is not None:
                # Without its text: the receipt of the error is the caller's, who may know what he sent.
                self.span.set_attribute("error.type", self.error)
                self.span.set_status(StatusCode.ERROR)
            self.span.end()
            exemplars, trace_id = self.tracing.exemplars, _sampled(self.span)
            if exemplars is not None and trace_id is not None and envelope is not None and state == "confirmed":
                exemplars.confirm_traced(envelope.task_type, time.monotonic() - self.started, trace_id)


class _Attempt(Struct, eq=False):
    """One attempt, in the place of its settle callback. Its span is made when the outcome is there, because only then
    it is known whether there was an attempt at all, and nobody needs the span's context before.
    """

    tracing: Tracing
    tracer: Tracer
    envelope: Envelope
    parent: Context
    links: Sequence[Link]
    number: int
    settle: Settle
    started: int
    """Unix time, nanoseconds."""

    def __call__(self, outcome: Outcome) -> None:
        if not (type(outcome) is NotSent and outcome.cause in NO_ATTEMPT):
            with self.tracing.guard:
                self._record(outcome)
        self.settle(outcome)

    def _record(self, outcome: Outcome) -> None:
        envelope = self.envelope
        name, attributes = self.tracing.about("publish", envelope.routing_key)
        attributes |= {
            "messaging.operation.type": "send",
            "messaging.message.id": envelope.task_id,
            "messaging.message.conversation_id": envelope.task_id,
            "mlproducer.task.type": envelope.task_type,
            "mlproducer.attempt": self.number,
            **_sizes(envelope),
        }
        span = self.tracer.start_span(
            name, self.parent, SpanKind.CLIENT, attributes, links=self.links, start_time=self.started
        )
        if type(outcome) is not Confirmed and span.is_recording():
            span.set_attribute("error.type", cause_of(outcome))
            span.set_status(StatusCode.ERROR, _text(outcome))
        span.end()
        exemplars, trace_id = self.tracing.exemplars, _sampled(span)
        if exemplars is not None and trace_id is not None:
            seconds = (time.time_ns() - self.started) / 1e9
            exemplars.attempt_traced(envelope.task_type, outcome, seconds, trace_id)


class _Batch:
    """`BatchTrace`."""

    def __init__(self, tracing: Tracing, tracer: Tracer, leases: Sequence[Lease]) -> None:
        name, attributes = tracing.about("drain", None)
        attributes["messaging.batch.message_count"] = len(leases)
        fields = tuple(field.encode() for field in get_global_textmap().fields)
        contexts = ((lease.row.envelope, _carried(lease.row.envelope, fields)) for lease in leases)
        self._contexts = {envelope.task_id: context for envelope, context in contexts if context is not None}
        links = [Link(_span_context(context)) for context in self._contexts.values()]
        self._span = tracer.start_span(name, Context(), attributes=attributes, links=links)
        self._context = set_span_in_context(self._span, Context())
        self._tracing = tracing
        self._tracer = tracer
        otel.attach(self._context)  # for the log lines and the store's own spans; ends with the asyncio task

    def attempt(self, row: SpoolRow, settle: Settle) -> Settle:
        envelope = row.envelope
        context = self._contexts.get(envelope.task_id)
        links: list[Link] = []
        if context is None:
            context = self._context
        else:
            creation = _span_context(context)
            if not creation.trace_flags.sampled:
                return settle
            links.append(Link(creation))
            if self._span.is_recording():
                links.append(Link(self._span.get_span_context()))
        number = row.attempts + 1
        return _Attempt(self._tracing, self._tracer, envelope, context, links, number, settle, time.time_ns())

    def end(self) -> None:
        with self._tracing.guard:
            self._span.end()


def _tracer_of(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("mlproducer", version("mlproducer"), SCHEMA)


def _queues(types: TaskTypes) -> dict[tuple[str, str | None], str]:
    found: dict[tuple[str, str | None], str] = {}
    for each in types:
        for backend, route in each.routes.items():
            found[each.name, backend] = route.queue
            if backend == each.preferred:
                found[each.name, None] = route.queue
    return found


def _chosen(task: Task) -> Context | None:
    """The trace context that the caller put among the headers himself."""
    return _valid(extract(task.headers, Context())) if task.headers else None


def _carried(envelope: Envelope, fields: Sequence[bytes]) -> Context | None:
    """The trace context that the message carries. The headers are decoded only if there may be one."""
    if not any(field in envelope.properties for field in fields):
        return None
    return _valid(extract(headers_of(envelope), Context()))


def _valid(context: Context) -> Context | None:
    return context if _span_context(context).is_valid else None


def _span_context(context: Context) -> SpanContext:
    return get_current_span(context).get_span_context()


def _sampled(span: Span) -> str | None:
    """The id of a trace that can be looked at; None of one that nobody keeps."""
    context = span.get_span_context()
    return format_trace_id(context.trace_id) if context.trace_flags.sampled else None


def _sizes(envelope: Envelope) -> dict[str, int]:
    return {"messaging.message.body.size": len(envelope.body), "messaging.message.envelope.size": envelope.size}


def _text(outcome: Outcome) -> str | None:
    match outcome:
        case Returned(text=text) | Unsure(text=text) | NotSent(text=text):
            return redact_text(text) or None
        case _:
            return None
