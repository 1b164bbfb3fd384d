"""A Celery worker with OpenTelemetry's own instrumentation of Celery, as a user would have it. Run by `test_traces.py`.

Environment: as for `celery_app`; `WORKER_SPANS` (a file; one JSON line for each span).
"""

from __future__ import annotations

import os
from pathlib import Path

from celery_app import app  # type: ignore[import-not-found]  # the worker's folder is on its path
from opentelemetry import trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

provider = TracerProvider()
out = Path(os.environ["WORKER_SPANS"]).open("a", buffering=1)  # noqa: SIM115  # open as long as the worker is
exporter = ConsoleSpanExporter(out=out, formatter=lambda span: (span.to_json(indent=None) or "") + "\n")
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
CeleryInstrumentor().instrument()  # type: ignore[no-untyped-call]  # half typed

__all__ = ["app"]
