"""A tracer provider that keeps its spans in memory, and questions to them."""

from __future__ import annotations

from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import Span, SpanContext, get_current_span

from mlproducer.envelope.headers import headers_of
from mlproducer.task import Envelope


class Spans:
    """`provider` is for the producer; what is asked about are the spans that have ended."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    def of(self, operation: str) -> list[ReadableSpan]:
        return [span for span in self.all() if facts(span).get("messaging.operation.name") == operation]

    def one(self, operation: str) -> ReadableSpan:
        (span,) = self.of(operation)
        return span

    def begin(self, name: str = "the caller's") -> Span:
        return self.provider.get_tracer("test").start_span(name)


def facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def context(span: ReadableSpan) -> SpanContext:
    found: SpanContext | None = span.context
    assert found is not None
    return found


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def linked(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def carried(envelope: Envelope) -> SpanContext:
    """The trace context in a message."""
    return get_current_span(extract(headers_of(envelope), Context())).get_span_context()
