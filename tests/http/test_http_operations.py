"""Metrics, health, shares, and the pages: what operators and their tools ask."""

from __future__ import annotations

import asyncio
import re

import pytest

from http_bench import assert_problem, embed, http_bench


async def test_metrics_are_served_as_prometheus_text_and_as_json() -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed())
        text = await b.client.get("/api/ml/metrics/prometheus")
        assert text.headers["content-type"].startswith("text/plain")
        assert "# TYPE ml_producer" in text.text
        found = await b.client.get("/api/ml/metrics/json")
        assert found.json()["connection"]["state"] == "connected"


KNOWN = {
    "connectionState": "CONNECTED",
    "reconnectAttempts": 0,
    "consecutiveFailures": 0,
    "circuitBreakerOpen": False,
    "retryQueueSize": 0,
    "pendingConfirms": 0,
}


async def test_clients_of_the_known_service_find_the_names_that_they_read() -> None:
    async with http_bench() as b:
        metrics = (await b.client.get("/api/ml/metrics/json")).json()
        assert {name: metrics[name] for name in KNOWN} == KNOWN
        assert (await b.client.get("/api/ml/analytics/health")).json() == {"healthy": True, "rabbitmq": KNOWN}
        assert (await b.client.get("/api/ml/health")).json()["healthy"] is True
    async with http_bench(down=True, ml_breaker_failures=1, ml_reconnect_first=60.0) as b:
        await b.client.post("/api/ml/tasks", json=embed())
        await b.producer.purge(["none"])  # which measures
        found = (await b.client.get("/api/ml/analytics/health")).json()
        assert found["healthy"] is False
        assert found["rabbitmq"]["connectionState"] == "DISCONNECTED"
        assert found["rabbitmq"]["consecutiveFailures"] >= 1
        assert found["rabbitmq"]["circuitBreakerOpen"] is True
        assert found["rabbitmq"]["retryQueueSize"] == 1
        assert (await b.client.get("/api/ml/health")).json()["healthy"] is False


async def test_the_description_has_the_names_of_the_known_service() -> None:
    async with http_bench() as b:
        schemas = (await b.client.get("/openapi.json")).json()["components"]["schemas"]
        assert KNOWN.keys() == schemas["KnownStatus"]["properties"].keys()
        assert {"healthy", "status", "checks"} <= schemas["HealthView"]["properties"].keys()


async def test_health_is_ok_then_degraded_then_failed_and_live_through_all() -> None:
    async with http_bench() as b:
        assert (await b.client.get("/api/ml/health")).json()["status"] == "ok"
        assert (await b.client.get("/api/ml/health/ready")).json()["ready"] is True
    async with http_bench(down=True) as b:
        answer = await b.client.get("/api/ml/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert (await b.client.get("/api/ml/health/ready")).status_code == 200
    async with http_bench(start=False) as b:
        answer = await b.client.get("/api/ml/health/ready")
        assert answer.status_code == 503
        assert answer.json()["reasons"]
        assert (await b.client.get("/api/ml/health/live")).status_code == 200


async def test_status_reconnect_and_breaker_reset() -> None:
    async with http_bench() as b:
        assert (await b.client.get("/api/ml/status")).json()["connection"] == "connected"
        before = b.broker.connects
        assert (await b.client.post("/api/ml/connection/reconnect")).status_code == 202
        async with asyncio.timeout(5):
            while b.broker.connects == before:  # noqa: ASYNC110  # a broker tells no event
                await asyncio.sleep(0.01)
        answer = await b.client.post("/api/ml/circuit-breaker/reset")
        assert (answer.status_code, answer.json()["breaker"]) == (200, "closed")


async def test_a_share_is_published_as_a_group_once() -> None:
    share = {"id": "s/1", "title": "A title", "text": "word " * 200}
    async with http_bench() as b:
        answer = await b.client.post("/api/shares", json=share)
        assert answer.status_code == 201
        assert answer.json()["share_id"] == "s/1"
        assert len(answer.json()["receipts"]) == 2
        assert (await b.client.post("/api/shares", json=share)).json() == answer.json()
        assert len(b.broker.task_ids()) == 2


async def test_one_task_of_a_share_and_a_share_that_needs_none() -> None:
    async with http_bench() as b:
        answer = await b.client.post("/api/shares/s%2F1/ml/summarize", json={"text": "Short."})
        assert answer.status_code == 201
        assert [each["task_type"] for each in answer.json()["receipts"]] == ["summarize_llm"]
        assert answer.json()["share_id"] == "s/1"
        answer = await b.client.post("/api/shares", json={"id": "s2"})
        assert (answer.status_code, answer.json()["receipts"]) == (200, [])


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/shares", b'{"text": "x"}', "id"),
        ("/api/shares", b'{"id": "s", "colour": "red"}', "colour"),
        ("/api/shares", b"{", None),
        ("/api/shares", b"[]", None),
        ("/api/shares/s/ml/embed", b'{"id": "other", "text": "x"}', "id"),
        ("/api/shares/s/ml/embed", b"{", None),
        ("/api/shares/s/ml/embed", b"[]", None),
        ("/api/shares/s/ml/embed", b'{"text": "\xff"}', None),
        ("/api/shares/s/ml/transcribe", b'{"media_type": "audio", "media_url": "http://127.0.0.1/a.mp3"}', "media_url"),
    ],
)
async def test_a_wrong_share_is_422_and_nothing_is_accepted(path: str, body: bytes, field: str | None) -> None:
    async with http_bench() as b:
        answer = await b.client.post(path, content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, "invalid-task", field)
        assert b.broker.task_ids() == []


async def test_the_docs_list_every_call_and_load_nothing_from_elsewhere() -> None:
    async with http_bench() as b:
        answer = await b.client.get("/docs")
        assert answer.status_code == 200
        for path in (await b.client.get("/openapi.json")).json()["paths"]:
            assert path in answer.text
        assert not re.search(r"https?://|<script|\ssrc=", answer.text)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
