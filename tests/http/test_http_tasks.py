"""Publishing one task over HTTP, and every way in which that is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from http_bench import assert_problem, embed, http_bench
from mlproducer import NotFound, Producer, SpoolUnavailable, Task
from mlproducer.outcome import Nacked

TASKS = "/api/ml/tasks"


async def test_a_confirmed_task_is_201_and_can_be_looked_up_where_location_says() -> None:
    async with http_bench() as b:
        answer = await b.client.post(TASKS, json=embed(id="a/b?c#d"))
        assert answer.status_code == 201
        assert answer.json()["state"] == "confirmed"
        assert answer.headers["location"] == "/api/ml/tasks/a%2Fb%3Fc%23d"
        found = await b.client.get(answer.headers["location"])
        assert found.status_code == 200
        assert found.json()["task_id"] == "a/b?c#d"
        assert b.broker.task_ids() == ["a/b?c#d"]


async def test_a_task_is_202_when_the_broker_is_down_and_waits_in_the_retry_queue() -> None:
    async with http_bench(down=True) as b:
        answer = await b.client.post(TASKS, json=embed(id="t1"))
        assert answer.status_code == 202
        assert answer.json()["state"] == "spooled"
        queue = (await b.client.get("/api/ml/retry-queue")).json()
        assert [row["task_id"] for row in queue["tasks"]] == ["t1"]
        assert "text 1" not in json.dumps(queue)


async def test_an_idempotency_key_publishes_once() -> None:
    async with http_bench() as b:
        headers = {"Idempotency-Key": "order-7"}
        first = await b.client.post(TASKS, json=embed(), headers=headers)
        again = await b.client.post(TASKS, json=embed(), headers=headers)
        other = await b.client.post(TASKS, json=embed(), headers={"Idempotency-Key": "order-8"})
        assert first.json()["task_id"] == again.json()["task_id"] != other.json()["task_id"]
        assert len(b.broker.task_ids()) == 2


async def test_an_id_in_the_body_is_stronger_than_an_idempotency_key() -> None:
    async with http_bench() as b:
        answer = await b.client.post(TASKS, json=embed(id="mine"), headers={"Idempotency-Key": "k"})
        assert answer.json()["task_id"] == "mine"


async def test_the_same_key_with_other_content_is_409() -> None:
    async with http_bench() as b:
        headers = {"Idempotency-Key": "order-7"}
        await b.client.post(TASKS, json=embed(1), headers=headers)
        assert_problem(await b.client.post(TASKS, json=embed(2), headers=headers), 409, "task-conflict")


BAD: list[tuple[str, bytes, str | None]] = [
    ("unknown type", json.dumps({**embed(), "task_type": "sing"}).encode(), "task_type"),
    ("missing type", b'{"payload": {}}', "task_type"),
    ("missing field", b'{"task_type": "embed_vectors", "payload": {"share_id": "s"}}', "payload.content"),
    ("unknown backend", json.dumps(embed(backend="moon")).encode(), "backend"),
    ("unknown field", json.dumps(embed(colour="red")).encode(), "colour"),
    ("a blank in the id", json.dumps(embed(id="a b")).encode(), "id"),
    ("priority out of range", json.dumps(embed(priority=10)).encode(), "priority"),
    (
        "NaN",
        b'{"task_type":"embed_vectors","payload":{"share_id":"s","content":"c","options":{"t":NaN}}}',
        "payload.options.t",
    ),
    ("not JSON", b'{"task_type": ', None),
    ("no object", b"[1]", None),
    ("empty", b"", None),
    ("invalid UTF-8", b'{"task_type":"embed_vectors","payload":{"share_id":"s","content":"\xff\xfe"}}', None),
    (
        "Celery's own type mark",
        json.dumps(
            embed(payload={"share_id": "s", "content": "c", "options": {"x": {"__type__": 1, "__value__": 2}}})
        ).encode(),
        "payload.options.x",
    ),
]


@pytest.mark.parametrize(("body", "field"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
async def test_a_wrong_task_is_422_and_nothing_is_accepted(body: bytes, field: str | None) -> None:
    async with http_bench() as b:
        answer = await b.client.post(TASKS, content=body, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, "invalid-task", field)
        assert b.broker.task_ids() == []
        assert await b.producer.waiting() == []


async def test_a_problem_never_holds_what_was_sent() -> None:
    secret = "tell-nobody-9841"
    async with http_bench() as b:
        for body in (
            embed(id=f"a {secret}"),
            embed(priority=secret),
            embed(payload={"share_id": [secret], "content": secret}),
            embed(eta=secret),
            embed(headers={"a": [secret]}),
        ):
            answer = await b.client.post(TASKS, json=body)
            assert answer.status_code == 422
            assert secret not in answer.text
        for path in (f"/api/ml/dlq?limit={secret}", f"/api/ml/retry-queue?offset={secret}"):
            answer = await b.client.get(path)
            assert_problem(answer, 422, "invalid-request", path.split("?")[1].split("=")[0])
            assert secret not in answer.text


async def test_a_body_over_the_limit_is_413_by_its_length_and_without_one() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            taken.append(1)
            yield b" " * 512

    taken: list[int] = []
    async with http_bench(ml_max_body_bytes=1024) as b:
        headers = {"Content-Type": "application/json"}
        answer = await b.client.post(TASKS, content=b" " * 1025, headers=headers)
        problem = assert_problem(answer, 413, "body-too-large")
        assert "ML_MAX_BODY_BYTES" in problem["detail"]
        assert_problem(await b.client.post(TASKS, content=chunks(), headers=headers), 413, "body-too-large")
        assert len(taken) < 10
        assert b.broker.task_ids() == []


async def test_a_task_over_the_message_limit_is_413_and_names_the_field() -> None:
    async with http_bench(ml_max_message_bytes=2048) as b:
        answer = await b.client.post(TASKS, json=embed(payload={"share_id": "s", "content": "x" * 3000}))
        assert_problem(answer, 413, "task-too-large", "payload.content")


async def test_another_content_type_is_415() -> None:
    async with http_bench() as b:
        for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await b.client.post(TASKS, content=json.dumps(embed()), headers={"Content-Type": content_type})
            assert_problem(answer, 415, "wrong-media-type")
        answer = await b.client.post(
            TASKS, content=json.dumps(embed()), headers={"Content-Type": "application/json; charset=utf-8"}
        )
        assert answer.status_code == 201


async def test_a_full_spool_is_503_with_retry_after() -> None:
    async with http_bench(down=True, ml_spool_max_tasks=1) as b:
        assert (await b.client.post(TASKS, json=embed(1))).status_code == 202
        answer = await b.client.post(TASKS, json=embed(2))
        assert_problem(answer, 503, "spool-full")
        assert int(answer.headers["retry-after"]) >= 1


async def test_a_spool_that_cannot_be_written_is_503_with_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_self: Producer, _task: Task, **_: object) -> None:
        raise SpoolUnavailable("the disk is full; free some of it, or move ML_DATA_DIR", retry_after=4.2)

    async with http_bench() as b:
        monkeypatch.setattr(Producer, "publish", refuse)
        answer = await b.client.post(TASKS, json=embed())
        assert_problem(answer, 503, "spool-unavailable")
        assert answer.headers["retry-after"] == "5"


async def test_a_producer_that_is_not_started_is_503() -> None:
    async with http_bench(start=False) as b:
        answer = await b.client.post(TASKS, json=embed())
        assert_problem(answer, 503, "not-accepting")
        assert "retry-after" in answer.headers


async def test_a_nacked_task_is_202() -> None:
    async with http_bench() as b:
        b.broker.script.append(Nacked())
        answer = await b.client.post(TASKS, json=embed())
        assert answer.status_code == 202
        assert answer.json()["attempts"] == 1


async def test_unknown_tasks_paths_and_methods_are_problems() -> None:
    async with http_bench() as b:
        assert_problem(await b.client.get(f"{TASKS}/nobody"), 404, "not-found")
        assert_problem(await b.client.get("/nowhere"), 404, "no-such-path")
        answer = await b.client.put(TASKS)
        assert_problem(answer, 405, "wrong-method")
        assert "POST" in answer.headers["allow"]


async def test_an_error_that_nobody_foresaw_is_500_without_a_word_of_it_and_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(_self: Producer, _task_id: str) -> None:
        raise ZeroDivisionError("inner detail")

    async with http_bench() as b:
        monkeypatch.setattr(Producer, "receipt", break_down)
        with caplog.at_level(logging.ERROR):
            answer = await b.client.get(f"{TASKS}/t1")
        assert_problem(answer, 500, "unexpected")
        assert "inner" not in answer.text
        assert "Traceback" not in answer.text
        assert "inner detail" in caplog.text


async def test_a_client_that_leaves_in_the_middle_of_a_body_publishes_nothing() -> None:
    async with http_bench() as b:
        transport = b.client._transport
        assert isinstance(transport, httpx.ASGITransport)
        parts = iter([{"type": "http.request", "body": b'{"task_type":', "more_body": True}])
        sent: list[object] = []

        async def receive() -> dict[str, object]:
            return dict(next(parts, {"type": "http.disconnect"}))

        async def send(message: object) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": TASKS,
            "raw_path": TASKS.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
            "scheme": "http",
        }
        await transport.app(scope, receive, send)  # a client of our own making
        assert b.broker.task_ids() == []
        with pytest.raises(NotFound):
            await b.producer.receipt("t1")
