"""Figures, costs and budgets over HTTP, and the results that workers post."""

from __future__ import annotations

from typing import Any

from http_bench import HttpBench, assert_problem, embed, http_bench

PATHS = ("tasks/summary", "delivery", "latency", "hourly", "transcription/costs", "costs/detailed")


def result(**fields: Any) -> dict[str, Any]:
    return {"task_id": "t1", "task_type": "transcribe_whisper", **fields}


async def report(b: HttpBench, **fields: Any) -> tuple[bool | None, bool | None]:
    answer = await b.client.post("/api/ml/results", json=result(**fields))
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return found["finish"], found["cost"]


async def ask(b: HttpBench, path: str, **params: Any) -> dict[str, Any]:
    await b.producer._parts.counting.flush()
    answer = await b.client.get(f"/api/ml/analytics/{path}", params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_published_task_shows_in_every_figure() -> None:
    async with http_bench() as b:
        await b.client.post("/api/ml/tasks", json=embed())
        summary = await ask(b, "tasks/summary", hours=720)
        assert summary["window"]["hours"] == 720
        assert summary["total"]["accepted"] == summary["by_type"]["embed_vectors"]["confirmed"] == 1
        assert (await ask(b, "delivery"))["total"]["delivery_ratio"] == 1
        assert (await ask(b, "latency"))["by_type"]["embed_vectors"]["accept_to_confirm"]["p50"] > 0
        hours = (await ask(b, "hourly", hours=3, task_type="embed_vectors"))["hours"]
        assert [hour["figures"]["accepted"] for hour in hours] == [0, 0, 1]


async def test_a_result_counts_once_for_each_thing_that_it_tells() -> None:
    async with http_bench() as b:
        assert await report(b, status="succeeded", duration=12.5) == (True, None)
        assert await report(b, status="succeeded", duration=12.5, cost="0.0042", model="large") == (False, True)
        assert await report(b, status="failed", cost="7") == (False, False)
        assert await report(b, cost="0.1", part="second call") == (None, True)
        total = (await ask(b, "tasks/summary"))["by_type"]["transcribe_whisper"]
        assert (total["succeeded"], total["failed"], total["cost"], total["work"]["count"]) == (1, 0, "0.1042", 1)


async def test_costs_are_exact_text_and_of_transcription_alone_where_asked() -> None:
    async with http_bench() as b:
        await report(b, cost="0.000000001")
        await report(b, task_id="t2", cost="0.1", model="large")
        await report(b, task_id="t3", cost="0.2", model="large")
        await report(b, task_id="t4", task_type="embed_vectors", cost="10")
        found = await ask(b, "costs/detailed")
        assert found["total"] == {"cost": "10.300000001", "reports": 4, "average": "2.575"}
        assert found["by_model"]["transcribe_whisper"]["cost"] == "0.000000001"
        only = await ask(b, "transcription/costs")
        assert (only["total"]["cost"], list(only["by_type"])) == ("0.300000001", ["transcribe_whisper"])


async def test_a_budget_tells_its_state() -> None:
    async with http_bench(ml_budget_hourly="1", ml_budget_daily="10") as b:
        assert (await ask(b, "budget/status"))["state"] == "ok"
        await report(b, cost="0.9")
        found = await ask(b, "budget/status")
        assert (found["state"], found["hourly"]["state"], found["daily"]["state"]) == ("warn", "warn", "ok")
        await report(b, task_id="t2", cost="0.2")
        found = await ask(b, "budget/status")
        assert (found["state"], found["hourly"]["left"], found["daily"]["left"]) == ("exceeded", "-0.1", "8.9")


async def test_a_worker_may_name_the_celery_task_instead_of_the_type() -> None:
    async with http_bench() as b:
        for number, name in enumerate(("vector_service.tasks.generate_embeddings", "other.task")):
            fields = {"task_id": f"t{number}", "task": name, "status": "failed"}
            assert (await b.client.post("/api/ml/results", json=fields)).status_code == 200
        found = (await ask(b, "tasks/summary"))["by_type"]
        assert {name: figures["failed"] for name, figures in found.items()} == {"embed_vectors": 1, "unknown": 1}


async def test_hours_out_of_bounds_are_422() -> None:
    async with http_bench() as b:
        for path in PATHS:
            for hours in ("0", "721", "-1", "x", "1.5", ""):
                answer = await b.client.get(f"/api/ml/analytics/{path}", params={"hours": hours})
                assert_problem(answer, 422, "invalid-request", "hours")


async def test_a_wrong_result_is_422_and_counts_nothing() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"cost": 0.1}, "cost"),
        ({"cost": 1}, "cost"),
        ({"cost": "-1"}, "cost"),
        ({"cost": "10001"}, "cost"),
        ({"cost": "NaN"}, "cost"),
        ({"cost": "much"}, "cost"),
        ({"cost": "1", "model": "a\x1fb"}, "model"),
        ({"status": "well"}, "status"),
        ({"status": "failed", "duration": -1}, "duration"),
        ({"status": "failed", "colour": "red"}, "colour"),
        ({"status": "failed", "task_id": "with blank"}, "task_id"),
        ({"status": "failed", "task": "both.names"}, ""),
        ({}, ""),
    ]
    async with http_bench() as b:
        for fields, field in wrong:
            answer = await b.client.post("/api/ml/results", json=result(**fields))
            assert_problem(answer, 422, "invalid-request", field)
        assert (await ask(b, "tasks/summary"))["by_type"] == {}
