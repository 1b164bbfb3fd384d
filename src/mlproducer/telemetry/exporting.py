"""Exporting spans without code: OpenTelemetry's own variables, for the programs of ours.

| variable | what we take from it |
|---|---|
| `OTEL_TRACES_EXPORTER` | `otlp`, `console`, any other that is installed, or `none`; several with commas |
| `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` | being set, that spans are wanted at all |
| `OTEL_EXPORTER_OTLP_PROTOCOL`, `OTEL_EXPORTER_OTLP_TRACES_PROTOCOL` | which OTLP exporter: `http/protobuf` or `grpc` |
| `OTEL_SDK_DISABLED` | `true`: nothing is exported |

All others (sampler, resource, limits, batches, headers, certificates, propagators) are read by the SDK itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points, version
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider, set_tracer_provider

from mlproducer.loggers import get_logger

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_OTLP: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
"""The names that the exporters' packages register themselves under."""

_log = get_logger(__name__)


class ExportingUnavailable(Exception):
    """Spans are asked for and cannot be exported; the text says what to install or to change."""


def start_exporting(environ: Mapping[str, str]) -> Callable[[], None]:
    """Record and export spans if `environ` asks for it. Returns what ends it, after sending what is left.

    What cannot be exported is said in a warning and costs no more: tasks are worth more than traces of them. A provider
    that somebody else has set, such as `opentelemetry-instrument`, is left as it is.
    """
    names = wanted(environ)
    if not names or not isinstance(get_tracer_provider(), ProxyTracerProvider):
        return _nothing
    try:
        provider = _provider(environ, names)
    except ExportingUnavailable as error:
        _log.warning("no spans are exported: %s", error)
        return _nothing
    set_tracer_provider(provider)
    _log.info("spans are exported (%s)", ", ".join(names))
    return provider.shutdown


def wanted(environ: Mapping[str, str]) -> tuple[str, ...]:
    """The exporters that the variables ask for, by the names that they are registered under; none unless asked.

    OpenTelemetry's default would be to send to localhost:4318 in any case. A service that was not asked to trace does
    not do that.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    asked = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not asked and _first(environ, ENDPOINTS):
        asked = "otlp"
    names = (name.strip() for name in asked.split(","))
    return tuple(_registered(name, environ) for name in names if name and name != "none")


def _registered(name: str, environ: Mapping[str, str]) -> str:
    protocol = _first(environ, PROTOCOLS) or "http/protobuf"
    return _OTLP.get(protocol, f"otlp ({protocol})") if name == "otlp" else name


def _provider(environ: Mapping[str, str], names: tuple[str, ...]) -> TracerProvider:
    try:
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # of the extra
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        raise ExportingUnavailable(
            "OTEL_TRACES_EXPORTER or OTEL_EXPORTER_OTLP_ENDPOINT asks for them, and OpenTelemetry's SDK is not "
            "installed: pip install 'mlproducer[tracing]', or set OTEL_TRACES_EXPORTER=none"
        ) from None
    exporters = [_exporter(name) for name in names]
    named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    ours = {} if named else {"service.name": "mlproducer", "service.version": version("mlproducer")}
    provider = TracerProvider(resource=Resource.create(ours))
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str) -> SpanExporter:
    found = next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
    if found is None:
        package = {each: f"opentelemetry-exporter-{each.replace('_', '-')}" for each in _OTLP.values()}.get(name)
        known = sorted({each.name for each in entry_points(group="opentelemetry_traces_exporter")})
        raise ExportingUnavailable(
            f"there is no exporter {name!r}; "
            + (f"pip install {package}" if package else f"installed are {', '.join(known)} (OTEL_TRACES_EXPORTER)")
        )
    try:
        exporter: SpanExporter = found.load()()
    except Exception as error:
        raise ExportingUnavailable(f"the exporter {name!r} does not start: {error}") from error
    return exporter


def _first(environ: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _nothing() -> None:
    """There is nothing to end."""
