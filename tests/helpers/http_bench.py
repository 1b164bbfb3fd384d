"""The service over a fake broker and a memory spool, called without a network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from opentelemetry.trace import TracerProvider

from mlproducer import Producer, Settings
from mlproducer.http import create_app
from mlproducer.spool.memory import MemorySpool
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import Overrides

KEY = "0123456789abcdef-key-one"
OTHER_KEY = "0123456789abcdef-key-two"

FAST: dict[str, object] = {
    "rabbitmq_url": "amqp://user:hidden-password@127.0.0.1:1/",
    "ml_spool_url": "memory://",
    "ml_reconnect_first": 0.02,
    "ml_reconnect_cap": 0.1,
    "ml_retry_first": 0.02,
    "ml_retry_cap": 0.05,
    "ml_drain_poll": 0.02,
    "ml_shutdown_timeout": 0.2,
    "ml_route_patience": 0,
}


@dataclass
class HttpBench:
    client: httpx.AsyncClient
    producer: Producer
    broker: FakeBroker

    async def batch(self, *lines: bytes) -> list[dict[str, Any]]:
        answer = await self.client.post(
            "/api/ml/tasks/batch", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in answer.text.splitlines()]


@asynccontextmanager
async def http_bench(
    *, down: bool = False, start: bool = True, tracer_provider: TracerProvider | None = None, **given: object
) -> AsyncIterator[HttpBench]:
    made: list[FakeBroker] = []

    def broker(lost: Callable[[Any], None], _tell: object) -> FakeBroker:
        made.append(FakeBroker(lost))
        made[0].down = down
        return made[0]

    settings = Settings.load(**{**FAST, **given})
    overrides = Overrides(broker=broker, spool=MemorySpool(), tracer_provider=tracer_provider)
    producer = Producer(settings, overrides=overrides)
    transport = httpx.ASGITransport(app=create_app(settings, producer))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:3001") as client:
        if start:
            await producer.start()
            await producer.connected(2)
        try:
            yield HttpBench(client, producer, made[0])
        finally:
            await producer.stop()


def embed(n: object = 1, **fields: object) -> dict[str, object]:
    return {"task_type": "embed_vectors", "payload": {"share_id": f"s{n}", "content": f"text {n}"}, **fields}


def embed_line(n: object = 1, **fields: object) -> bytes:
    return json.dumps(embed(n, **fields)).encode()


def assert_problem(answer: httpx.Response, status: int, slug: str, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["type"] == f"urn:mlproducer:problem:{slug}"
    assert problem.get("field") == field, problem
    return problem
