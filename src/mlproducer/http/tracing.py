"""The trace that a request belongs to, for tasks published on its behalf."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry.context import attach, detach
from opentelemetry.propagate import extract
from opentelemetry.trace import get_current_span
from starlette.datastructures import Headers


@contextmanager
def in_trace_of(headers: Headers) -> Iterator[None]:
    """Within the trace that the headers name (`traceparent`, or what `OTEL_PROPAGATORS` says).

    In an application that is instrumented already, the request has a span of its own, made of the same headers: then
    that one stays the current one, and the tasks are its children.
    """
    if get_current_span().get_span_context().is_valid:
        yield
        return
    token = attach(extract(headers))
    try:
        yield
    finally:
        detach(token)
