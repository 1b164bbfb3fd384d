"""The example application, run as a reader would run it: with its lifespan, on the settings of the environment."""

from __future__ import annotations

import asyncio
import json
import runpy
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aio_pika
import httpx
import pytest
from fastapi import FastAPI

from http_bench import KEY, assert_problem
from known_workers import on_the_wire

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_app.py"


@asynccontextmanager
async def running(monkeypatch: pytest.MonkeyPatch, **environment: str) -> AsyncIterator[httpx.AsyncClient]:
    for name, value in {"ML_SPOOL_URL": "memory://", "ML_SHUTDOWN_TIMEOUT": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    app = runpy.run_path(str(EXAMPLE))["app"]
    assert isinstance(app, FastAPI)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client,
    ):
        yield client


async def test_an_article_becomes_a_task_in_the_queue(monkeypatch: pytest.MonkeyPatch, vhost_url: str) -> None:
    async with running(monkeypatch, RABBITMQ_URL=vhost_url) as client, asyncio.timeout(10):
        while (await client.get("/api/ml/health")).json()["status"] != "ok":  # noqa: ASYNC110  # a service tells no event
            await asyncio.sleep(0.05)
        answer = await client.post("/articles/7", json={"text": "Call me Ishmael."})
        assert (answer.status_code, answer.json()["state"]) == (202, "confirmed")
        task_id = answer.json()["task_id"]
        found = await client.get(f"/api/ml/tasks/{task_id}")
        assert found.status_code == 200
    async with await aio_pika.connect(vhost_url) as connection:
        channel = await connection.channel()
        message = await (await channel.get_queue("ml.embed")).get(timeout=10)
        assert message is not None
        assert message.correlation_id == task_id
        assert json.loads(message.body)[1] == on_the_wire(
            "embed_vectors", {"share_id": "7", "content": "Call me Ishmael."}
        )


async def test_without_a_broker_an_article_is_accepted_into_the_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, RABBITMQ_URL="amqp://u:p@127.0.0.1:1/") as client:
        answer = await client.post("/articles/7", json={"text": "Call me Ishmael."})
        assert (answer.status_code, answer.json()["state"]) == (202, "spooled")


async def test_a_refused_task_is_a_problem_in_a_route_of_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, RABBITMQ_URL="amqp://u:p@127.0.0.1:1/", ML_MAX_MESSAGE_BYTES="1024") as client:
        answer = await client.post("/articles/7", json={"text": "x" * 2_000})
        assert_problem(answer, 413, "task-too-large", "payload.content")


async def test_the_mounted_router_asks_for_the_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, RABBITMQ_URL="amqp://u:p@127.0.0.1:1/", ML_API_KEYS=KEY) as client:
        assert_problem(await client.get("/api/ml/status"), 401, "unauthorized")
        assert (await client.get("/api/ml/status", headers={"X-API-Key": KEY})).status_code == 200
