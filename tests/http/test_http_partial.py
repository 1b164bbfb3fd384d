"""What is only partly well: a share with one safe task of two, a service whose spool broke, numbers that JSON lacks."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from http_bench import assert_problem, http_bench
from mlproducer import SpoolUnavailable
from mlproducer.rows import SpoolSize
from mlproducer.spool.memory import MemorySpool


async def test_a_share_of_which_a_part_is_safe_tells_which_and_the_same_call_completes_it() -> None:
    share = {"id": "s1", "text": "word " * 200}
    async with http_bench(down=True, ml_spool_max_tasks=1) as b:
        answer = await b.client.post("/api/shares", json=share)
        problem = assert_problem(answer, 503, "share-incomplete")
        assert int(answer.headers["retry-after"]) >= 1
        (safe,) = problem["receipts"]
        ((refused_id, refused),) = problem["refused"].items()
        assert safe["state"] == "spooled"
        assert refused["type"] == "urn:mlproducer:problem:spool-full"
        assert (await b.client.get(f"/api/ml/tasks/{safe['task_id']}")).status_code == 200
        assert (await b.client.get(f"/api/ml/tasks/{refused_id}")).status_code == 404
        b.broker.down = False
        await b.client.post("/api/ml/connection/reconnect")
        async with asyncio.timeout(5):
            while (await b.client.post("/api/shares", json=share)).status_code == 503:  # noqa: ASYNC110  # until it is drained
                await asyncio.sleep(0.02)
            while len(b.broker.task_ids()) < 2:  # noqa: ASYNC110  # a broker tells no event
                await asyncio.sleep(0.02)
        assert sorted(b.broker.task_ids()) == sorted([safe["task_id"], refused_id])


async def test_health_fails_with_503_when_the_spool_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_self: MemorySpool) -> SpoolSize:
        raise SpoolUnavailable("the disk is read-only")

    async with http_bench() as b:
        monkeypatch.setattr(MemorySpool, "measure", broken)
        async with asyncio.timeout(10):
            while (answer := await b.client.get("/api/ml/health")).status_code == 200:  # noqa: ASYNC110  # no event
                await asyncio.sleep(0.05)
        assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert (await b.client.get("/api/ml/health/ready")).status_code == 503
        assert (await b.client.get("/api/ml/health/live")).status_code == 200


@pytest.mark.parametrize("path", ["/api/ml/metrics/json", "/api/ml/status", "/api/ml/health", "/openapi.json"])
async def test_no_answer_holds_a_number_that_json_does_not_know(path: str) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{path} holds {name}")

    async with http_bench(down=True) as b:
        json.loads((await b.client.get(path)).content, parse_constant=refuse)
