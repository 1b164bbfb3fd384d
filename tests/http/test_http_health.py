"""Health for orchestrators: clear words, the right HTTP status, and nothing asked of the broker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from engine_bench import until
from http_bench import HttpBench, embed, http_bench
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import TopologyDiffers
from mlproducer.outcome import Nacked
from mlproducer.ports import LinkView

QUIET: dict[str, Any] = {"ml_health_interval": 3_600.0}
NAMES = [
    "accepting", "connection", "channel_and_topology", "circuit_breaker", "routes", "workers", "spool", "spool_fill",
    "retry_queue", "refusals", "dead_letter_queue", "drain", "last_confirm",
]  # fmt: skip


async def health(b: HttpBench, status: int) -> dict[str, dict[str, Any]]:
    answer = await b.client.get("/api/ml/health")
    found = answer.json()
    assert answer.status_code == status, found
    word = {"ok": "healthy:", "degraded": "degraded:", "failed": "unhealthy:"}[found["status"]]
    assert found["summary"].startswith(word)
    return {check["name"]: check for check in found["checks"]}


async def ready(b: HttpBench) -> tuple[int, str]:
    answer = await b.client.get("/api/ml/health/ready")
    return answer.status_code, "; ".join(answer.json()["reasons"])


async def test_every_check_has_a_status_a_time_and_a_detail() -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed())
        found = await health(b, 200)
        assert list(found) == NAMES
        assert {check["status"] for check in found.values()} == {"ok"}
        assert all(check["detail"] for check in found.values())
        assert found["spool"]["ms"] >= 0
        assert found["last_confirm"]["detail"].startswith("last confirm 0.")


async def test_asking_again_and_again_asks_the_broker_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench(**QUIET) as b:
        asked: list[str] = []
        for name in ("connect", "close", "publish", "check", "queue_depths", "writable"):
            monkeypatch.setattr(b.broker, name, lambda *_, _name=name, **__: asked.append(_name))
        for _ in range(40):
            for path in ("", "/live", "/ready"):
                assert (await b.client.get(f"/api/ml/health{path}")).status_code == 200
        assert asked == []
        monkeypatch.undo()


async def test_without_a_broker_it_is_degraded_and_ready_by_default_and_not_if_told_so() -> None:
    async with http_bench(down=True) as b:
        found = await health(b, 200)
        assert found["connection"]["status"] == found["channel_and_topology"]["status"] == "degraded"
        assert (await ready(b))[0] == 200
    async with http_bench(down=True, ml_ready_when="connected") as b:
        status, why = await ready(b)
        assert (status, "not connected to fake:5672" in why) == (503, True)
        b.broker.down = False
        b.producer.reconnect()
        await until(lambda: b.producer.status().ready)
        assert (await ready(b))[0] == 200


async def test_a_spool_that_refuses_a_write_fails_it_until_it_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench(down=True, ml_reconnect_attempts=10_000) as b:

        async def full(*_: object, **_given: object) -> bool:
            raise SpoolUnavailable("the disk is full: see ML_DATA_DIR")

        for name in ("put", "claim"):
            monkeypatch.setattr(b.producer._parts.spool, name, full)
        assert (await b.client.post("/api/ml/tasks", json=embed())).status_code == 503
        assert "the disk is full" in (await health(b, 503))["spool"]["detail"]
        assert (await ready(b))[0] == 503
        monkeypatch.undo()
        await until(lambda: b.producer.status().ready, seconds=30)
        assert (await ready(b))[0] == 200


async def test_a_full_spool_is_unhealthy_only_while_tasks_need_it() -> None:
    async with http_bench(down=True, ml_spool_max_tasks=5) as b:
        for n in range(4):
            assert (await b.client.post("/api/ml/tasks", json=embed(n))).status_code == 202
        found = await health(b, 200)
        assert (found["spool_fill"]["status"], found["spool_fill"]["detail"][:5]) == ("degraded", "80.0%")
        assert (await b.client.post("/api/ml/tasks", json=embed(5))).status_code == 202
        assert (await health(b, 503))["spool_fill"]["status"] == "failed"
        assert (await ready(b))[0] == 503
        b.broker.down = False
        b.producer.reconnect()
        await until(lambda: b.producer.status().ready)
        assert (await health(b, 200))["connection"]["status"] == "ok"


async def test_queues_with_other_arguments_are_told_and_missing_ones_degrade(monkeypatch: pytest.MonkeyPatch) -> None:
    other, gone = TopologyDiffers("ml.embed", "it is classic"), TopologyDiffers("ml.x", "it is not there", broken=True)
    async with http_bench() as b:
        for differences, status in ((other,), "ok"), ((other, gone), "degraded"):
            seen = LinkView(True, False, 0, 0, "fake:5672", differences)  # the struct's own order
            monkeypatch.setattr(b.broker, "view", lambda seen=seen: seen)
            check = (await health(b, 200))["channel_and_topology"]
            assert check["status"] == status
            assert "ml.embed: it is classic" in check["detail"]
        assert b.producer.is_healthy(), "tasks are confirmed all the same"


async def test_a_dead_letter_wants_a_look_and_stops_nobody() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        b.broker.script.append(Nacked())
        await b.client.post("/api/ml/tasks", json=embed())
        await b.producer._parts.gauges.measure()
        await until(lambda: b.producer.status().dead == 1)
        assert (await health(b, 200))["dead_letter_queue"]["status"] == "degraded"
        assert (await ready(b))[0] == 200


async def test_a_drain_and_confirms_that_stand_still_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed())
        monkeypatch.setattr(b.producer._parts.drain, "still_for", lambda: 1_000.0)
        assert "nothing for 1000 s" in (await health(b, 200))["drain"]["detail"]
        monkeypatch.setattr("mlproducer.core.verdict.SILENT", 0.0)
        b.broker.hold()
        waiting = [asyncio.create_task(b.client.post("/api/ml/tasks", json=embed(n))) for n in range(7)]
        await until(lambda: b.producer.status().in_flight == 7)
        check = (await health(b, 200))["last_confirm"]
        assert check["status"] == "degraded"
        assert "7 tasks are in flight" in check["detail"]
        b.broker.release()
        await asyncio.gather(*waiting)
        assert (await health(b, 200))["last_confirm"]["status"] == "ok"


async def test_a_blob_store_has_a_check_where_one_is_set(tmp_path: Path) -> None:
    store: dict[str, Any] = {"ml_blob_url": str(tmp_path / "blobs"), "ml_claim_check_bytes": 1_024}
    large = embed(payload={"share_id": "s", "content": "x" * 4_000})
    async with http_bench(**store) as b:
        assert (await health(b, 200))["blob_store"]["detail"] == "not used yet"
        assert (await b.client.post("/api/ml/tasks", json=large)).status_code == 201
        check = (await health(b, 200))["blob_store"]
        assert check["detail"] == "it took the last large payload"
        assert check["ms"] > 0
        (tmp_path / "blobs").rename(tmp_path / "away")
        (tmp_path / "blobs").write_text("in the way")
        other = embed(payload={"share_id": "s", "content": "y" * 4_000})
        assert (await b.client.post("/api/ml/tasks", json=other)).status_code == 503
        assert (await health(b, 200))["blob_store"]["status"] == "degraded"
        assert b.producer.is_healthy()
