"""What OpenTelemetry's variables ask of us, and what is said where it is asked in vain."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from opentelemetry.trace import NoOpTracerProvider, TracerProvider

from mlproducer.telemetry import exporting
from mlproducer.telemetry.exporting import start_exporting, wanted

ENDPOINT = "http://collector:4318"


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, ()),
        ({"OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp_proto_http",)),
        ({"OTEL_TRACES_EXPORTER": " console , otlp "}, ("console", "otlp_proto_http")),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ENDPOINT}, ("otlp_proto_http",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT, "OTEL_SDK_DISABLED": "True"}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ("otlp_proto_grpc",)),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            },
            ("otlp_proto_http",),
        ),
    ],
)
def test_spans_are_exported_only_if_somebody_asks(environ: dict[str, str], names: tuple[str, ...]) -> None:
    assert wanted(environ) == names


@pytest.fixture
def was_set(monkeypatch: pytest.MonkeyPatch) -> list[TracerProvider]:
    """What would have become the process's tracer provider, which can be set only once."""
    found: list[TracerProvider] = []
    monkeypatch.setattr(exporting, "set_tracer_provider", found.append)
    return found


def said(caplog: pytest.LogCaptureFixture, environ: dict[str, str]) -> str:
    """The log of a start and a stop."""
    with caplog.at_level(logging.INFO, "mlproducer"):
        start_exporting(environ)()
    return "\n".join(record.getMessage() for record in caplog.records)


def test_asked_for_and_not_installed_says_what_to_install_and_goes_on(
    caplog: pytest.LogCaptureFixture, was_set: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    told = said(caplog, {"OTEL_EXPORTER_OTLP_ENDPOINT": ENDPOINT})
    assert "pip install 'mlproducer[tracing]'" in told
    assert "OTEL_TRACES_EXPORTER=none" in told
    assert was_set == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "there is no exporter 'jaeger'; installed are console, otlp_proto_http"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "carrier pigeon"}, "otlp (carrier pigeon)"),
    ],
)
def test_an_exporter_that_is_not_there_is_named(
    environ: dict[str, str], words: str, caplog: pytest.LogCaptureFixture, was_set: list[TracerProvider]
) -> None:
    assert words in said(caplog, environ)
    assert was_set == []


def test_the_grpc_exporter_is_named_by_its_package(
    caplog: pytest.LogCaptureFixture, was_set: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "entry_points", lambda **_: ())
    environ = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    assert "pip install opentelemetry-exporter-otlp-proto-grpc" in said(caplog, environ)
    assert was_set == []


def test_an_exporter_that_does_not_start_costs_no_service(
    caplog: pytest.LogCaptureFixture, was_set: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Entry:
        def load(self) -> object:
            raise ValueError("no such certificate")

    monkeypatch.setattr(exporting, "entry_points", lambda **_: [Entry()])
    told = said(caplog, {"OTEL_TRACES_EXPORTER": "otlp"})
    assert "the exporter 'otlp_proto_http' does not start: no such certificate" in told
    assert was_set == []


def test_a_provider_that_somebody_set_before_is_left_alone(
    was_set: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "get_tracer_provider", NoOpTracerProvider)
    start_exporting({"OTEL_TRACES_EXPORTER": "console"})()
    assert was_set == []


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "mlproducer"),
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,region=eu"}, "shop"),
    ],
)
def test_the_service_has_a_name_unless_it_was_given_one(environ: dict[str, str], name: str) -> None:
    code = (
        "import os\n"
        "from opentelemetry import trace\n"
        "from mlproducer.telemetry.exporting import start_exporting\n"
        "stop = start_exporting(os.environ)\n"
        "print(trace.get_tracer_provider().resource.attributes['service.name'])\n"
        "stop()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), "OTEL_TRACES_EXPORTER": "console", **environ},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [name]
