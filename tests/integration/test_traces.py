"""One trace from the request to the worker: a real service, a real broker, a real Celery worker with OpenTelemetry's own
instrumentation. Also for tasks that a killed process left in the spool.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.trace import use_span
from tests.integration.conftest import WORK_TIMEOUT, running

from engine_bench import embed
from mlproducer import Producer, Settings
from mlproducer.testing.rabbitmq import PrivateRabbit
from mlproducer.wiring import Overrides
from spans import Spans, context, linked, parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
INCOMING = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
NOBODY = "amqp://ml:nobody-listens-here@127.0.0.1:1/"


@dataclass(frozen=True)
class Traced:
    """A worker that is instrumented, and its spans."""

    url: str
    file: Path

    def span_of(self, task_id: str) -> dict[str, Any]:
        """The worker's span of the task, once it has ended."""
        end = time.monotonic() + WORK_TIMEOUT
        while time.monotonic() < end:
            for line in self.file.read_text().splitlines() if self.file.exists() else ():
                span: dict[str, Any] = json.loads(line)
                if span["attributes"].get("messaging.message.id") == task_id:
                    return span
            time.sleep(0.05)
        raise AssertionError(f"no span of {task_id} in {self.file.read_text() if self.file.exists() else 'no file'}")


@pytest.fixture(scope="module")
def traced(rabbit: PrivateRabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    url, file = rabbit.add_vhost("traced"), folder / "spans.jsonl"
    with running("newest", url, folder, "traced_app", {"WORKER_SPANS": str(file)}):
        yield Traced(url, file)


class Serving:
    """`mlproducer serve` in a process of its own, whose spans go to its standard output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        self._out = process.stdout
        self.url = json.loads(self._out.readline())["url"]

    def post(self, path: str = "/api/ml/tasks", **given: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", timeout=20, **given)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def stop(self) -> list[dict[str, Any]]:
        """Stop it in order; the spans that it said."""
        self._process.send_signal(signal.SIGTERM)
        said, _ = self._process.communicate(timeout=30)
        found: list[dict[str, Any]] = []
        at = 0
        while (at := said.find("{", at)) >= 0:
            span, at = json.JSONDecoder().raw_decode(said, at)
            found.append(span)
        return found


@contextmanager
def serving(folder: Path, url: str) -> Iterator[Serving]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},
        "RABBITMQ_URL": url,
        "ML_DATA_DIR": str(folder),
        "ML_PORT": "0",
        "OTEL_TRACES_EXPORTER": "console",
    }
    command = [sys.executable, "-m", "mlproducer.cli", "serve", "--json"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield Serving(process)
        finally:
            process.kill()


def wait_connected(service: Serving) -> None:
    end = time.monotonic() + 20
    while httpx.get(f"{service.url}/api/ml/status").json()["connection"] != "connected":
        assert time.monotonic() < end, "the service did not connect"
        time.sleep(0.05)


def test_a_request_and_the_worker_that_does_its_task_are_in_one_trace(traced: Traced, tmp_path: Path) -> None:
    with serving(tmp_path, traced.url) as service:
        wait_connected(service)
        answer = service.post(json=embed().model_dump(mode="json", exclude_unset=True), headers=INCOMING)
        assert (answer.status_code, answer.json()["state"]) == (201, "confirmed")
        worker = traced.span_of(answer.json()["task_id"])
        told = {span["context"]["span_id"]: span for span in service.stop()}
    assert worker["context"]["trace_id"] == f"0x{TRACE}"
    assert worker["kind"] == "SpanKind.CONSUMER"
    accept = told[worker["parent_id"]]
    assert accept["name"] == "accept ml.tasks:ml.embed"
    assert accept["resource"]["attributes"]["service.name"] == "mlproducer"
    above = accept["parent_id"]
    while above in told:  # newer releases of FastAPI make a span of the request by themselves
        above = told[above]["parent_id"]
    assert above == f"0x{SPAN}"
    (publish,) = [span for span in told.values() if span["name"].startswith("publish ")]
    assert publish["parent_id"] == accept["context"]["span_id"]


async def test_a_task_whose_process_was_killed_is_drained_later_within_the_trace_of_its_request(
    traced: Traced, tmp_path: Path
) -> None:
    with serving(tmp_path, NOBODY) as service:
        answer = service.post(json=embed().model_dump(mode="json", exclude_unset=True), headers=INCOMING)
        assert (answer.status_code, answer.json()["state"]) == (202, "spooled")
        service.kill()
    spans = Spans()
    settings = Settings.load(rabbitmq_url=traced.url, ml_data_dir=tmp_path)
    async with Producer(settings, overrides=Overrides(tracer_provider=spans.provider)) as producer:
        await producer.connected(20)
        worker = await asyncio.to_thread(traced.span_of, answer.json()["task_id"])
    assert worker["context"]["trace_id"] == f"0x{TRACE}"
    publish, drain = spans.one("publish"), spans.one("drain")
    accepting = parent(publish)
    assert accepting is not None
    assert worker["parent_id"] == f"0x{accepting:016x}"
    assert f"{context(publish).trace_id:032x}" == TRACE
    assert linked(drain) == {accepting}
    assert linked(publish) == {accepting, context(drain).span_id}


async def test_a_library_call_and_the_worker_that_does_its_task_are_in_one_trace(
    traced: Traced, tmp_path: Path
) -> None:
    spans = Spans()
    settings = Settings.load(rabbitmq_url=traced.url, ml_data_dir=tmp_path)
    async with Producer(settings, overrides=Overrides(tracer_provider=spans.provider)) as producer:
        await producer.connected(20)
        job = spans.begin("job")
        with use_span(job, end_on_exit=True):
            receipt = await producer.publish(embed())
    worker, accept = await asyncio.to_thread(traced.span_of, receipt.task_id), spans.one("accept")
    assert parent(accept) == job.get_span_context().span_id
    assert worker["parent_id"] == f"0x{context(accept).span_id:016x}"
    assert worker["context"]["trace_id"] == f"0x{context(accept).trace_id:032x}"
