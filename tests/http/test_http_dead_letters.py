"""The retry queue and the dead letter queue over HTTP: look, replay, remove, and who did it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest

from http_bench import KEY, OTHER_KEY, HttpBench, assert_problem, embed, http_bench
from mlproducer import Producer
from mlproducer.delivery.replay import Step
from mlproducer.errors import SpoolUnavailable
from mlproducer.http import dead_letters
from mlproducer.http.dead_letters import MAX_TAKEN
from mlproducer.outcome import Nacked, Returned
from mlproducer.rows import DeadFilter

DLQ = "/api/ml/dlq"
REPLAY = f"{DLQ}/replay"
AUDIT = f"{DLQ}/audit"


async def kill(b: HttpBench, *ids: str) -> None:
    """Tasks that no queue takes, as often as is tried; in the order given, so that the last is the newest."""
    for n, task_id in enumerate(ids, 1):
        b.broker.script.append(Returned(312, "NO_ROUTE"))
        await b.client.post("/api/ml/tasks", json=embed(task_id, id=task_id))
        async with asyncio.timeout(5):
            while len(await b.producer.dead_letters()) < n:  # noqa: ASYNC110  # a spool tells no event
                await asyncio.sleep(0.005)
    await asyncio.sleep(0.002)  # what died in this very moment is not yet before the next call


async def remove(b: HttpBench, body: dict[str, object], **headers: str) -> httpx.Response:
    return await b.client.request("DELETE", DLQ, json=body, headers=headers)


async def dead(b: HttpBench) -> list[str]:
    return [entry.task_id for entry in await b.producer.dead_letters(limit=10_000)]


# the retry queue ------------------------------------------------------------------------------------------------------


async def test_what_waits_is_listed_without_content_and_shown_with_it_and_its_history() -> None:
    async with http_bench(ml_retry_first=60.0, ml_retry_cap=60.0) as b:
        b.broker.script.append(Nacked())
        await b.client.post("/api/ml/tasks", json=embed("a/b", id="a/b"))
        listed = await b.client.get("/api/ml/retry-queue")
        (row,) = listed.json()["tasks"]
        assert (row["task_id"], row["attempts"], row["cause"]) == ("a/b", 1, "nacked")
        assert "basic.nack" in row["text"]
        assert row["due_at"] > time.time() + 30
        assert "text a/b" not in listed.text
        shown = (await b.client.get("/api/ml/retry-queue/a%2Fb")).json()
        assert shown["message"]["kwargs"]["content"]["text"] == "text a/b"
        assert [each["outcome"] for each in shown["history"]] == ["nacked"]
        problem = assert_problem(await b.client.get(f"{DLQ}/a%2Fb"), 404, "not-found")
        assert "waits in the retry queue" in problem["detail"]
        assert_problem(await b.client.get("/api/ml/retry-queue/nobody"), 404, "not-found")


# look -----------------------------------------------------------------------------------------------------------------


async def test_dead_letters_are_listed_without_content_and_shown_with_it_and_their_history() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b/c")
        listed = await b.client.get(DLQ)
        rows = listed.json()["dead_letters"]
        assert [row["task_id"] for row in rows] == ["b/c", "a"]
        assert rows[0].keys() >= {"task_type", "reason", "code", "text", "attempts", "accepted_at", "died_at", "size"}
        assert "text a" not in listed.text
        shown = (await b.client.get(f"{DLQ}/b%2Fc")).json()
        assert shown["reason"] == "returned"
        assert shown["message"]["kwargs"]["content"]["text"] == "text b/c"
        assert [(each["outcome"], each["code"]) for each in shown["history"]][-1] == ("returned", 312)
        assert_problem(await b.client.get(f"{DLQ}/nobody"), 404, "not-found")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("task_type=embed_vectors", 2),
        ("task_type=summarize_llm", 0),
        ("reason=returned", 2),
        ("reason=nacked", 0),
        ("older_than_seconds=3600", 0),
        ("older_than_seconds=0", 2),
        ("newer_than_seconds=3600", 2),
        ("newer_than_seconds=0", 0),
        ("newer_than_seconds=3600&older_than_seconds=1800", 0),
        ("text=no_route", 2),
        ("text=elsewhere", 0),
        ("limit=1", 1),
        ("limit=5&offset=1", 1),
    ],
)
async def test_dead_letters_are_filtered_and_paged(query: str, count: int) -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b")
        found = (await b.client.get(f"{DLQ}?{query}")).json()
        assert len(found["dead_letters"]) == count
        assert found["matched"] == (2 if "limit" in query else count)


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "offset=-1", "older_than_seconds=nan", "newer_than_seconds=-1", "colour=red", "text="],
)
async def test_a_wrong_filter_is_422_and_names_the_parameter(query: str) -> None:
    async with http_bench() as b:
        assert_problem(await b.client.get(f"{DLQ}?{query}"), 422, "invalid-request", query.split("=", maxsplit=1)[0])


# replay ---------------------------------------------------------------------------------------------------------------


async def test_a_dry_run_counts_and_a_replay_publishes() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b", "c")
        told = {"dry_run": True, "by": "local", "replayed": 0}
        answer = await b.client.post(REPLAY, json={"ids": ["a", "a", "nobody"], "dry_run": True})
        assert answer.json() == {"matched": 1, "left": 1, **told}
        answer = await b.client.post(REPLAY, json={"all": True, "dry_run": True, "rate": 1})
        assert answer.json() == {"matched": 3, "left": 3, **told}
        assert (b.broker.task_ids(), len(await dead(b))) == ([], 3)
        assert (await b.client.get(AUDIT)).json()["audits"] == []
        answer = await b.client.post(REPLAY, json={"reason": "returned", "limit": 1})
        assert answer.json() == {"matched": 3, "replayed": 1, "left": 2, "dry_run": False, "by": "local"}
        assert await dead(b) == ["b", "a"], "the newest first"
        answer = await b.client.post(REPLAY, json={"ids": ["a", "nobody"]})
        assert answer.json() == {"matched": 1, "replayed": 1, "left": 0, "dry_run": False, "by": "local"}
        assert (await b.client.post(REPLAY, json={"all": True})).json()["replayed"] == 1
        async with asyncio.timeout(5):
            while len(b.broker.task_ids()) < 3:  # noqa: ASYNC110  # a broker tells no event
                await asyncio.sleep(0.01)
        assert await dead(b) == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": ["a"], "all": True},
        {"reason": "returned", "ids": ["a"]},
        {"reason": "returned", "all": True},
        {"newer_than_seconds": 5, "all": True},
        {"ids": []},
        {"limit": 5},
    ],
)
@pytest.mark.parametrize("method", ["replay", "remove"])
async def test_exactly_one_way_to_choose(body: dict[str, object], method: str) -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a")
        answer = await (b.client.post(REPLAY, json=body) if method == "replay" else remove(b, body))
        assert_problem(answer, 422, "invalid-request", "ids")
        assert await dead(b) == ["a"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"all": True, "rate": 0}, "rate"),
        ({"all": True, "rate": 0.01}, "rate"),
        ({"all": True, "rate": "fast"}, "rate"),
        ({"all": True, "limit": 0}, "limit"),
        ({"all": True, "colour": "red"}, "colour"),
        ({"ids": ["a b"]}, "ids.0"),
        ({"ids": ["a"] * (MAX_TAKEN + 1)}, "ids"),
        ({"newer_than_seconds": -1}, "newer_than_seconds"),
    ],
)
async def test_a_wrong_replay_is_422_and_names_the_field(body: dict[str, object], field: str) -> None:
    async with http_bench() as b:
        assert_problem(await b.client.post(REPLAY, json=body), 422, "invalid-request", field)


async def test_a_call_without_a_rate_takes_so_many_and_says_how_many_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "MAX_TAKEN", 2)
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, *"abcde")
        answer = (await b.client.post(REPLAY, json={"all": True, "limit": 1_000_000})).json()
        assert (answer["matched"], answer["replayed"], answer["left"]) == (5, 2, 3)
        answer = (await remove(b, {"all": True})).json()
        assert (answer["matched"], answer["removed"], answer["left"]) == (3, 2, 1)
        assert await dead(b) == ["a"]


# a paced replay -------------------------------------------------------------------------------------------------------


async def test_a_rate_makes_the_answer_lines_of_progress_that_end_with_the_result() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b", "c")
        answer = await b.client.post(REPLAY, json={"all": True, "rate": 1000})
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        *steps, last = [json.loads(line) for line in answer.text.splitlines()]
        assert steps[0] == {"taken": 0, "total": 3, "replayed": 0}
        assert steps[-1] == {"taken": 3, "total": 3, "replayed": 3}
        assert last == {"done": True, "matched": 3, "replayed": 3, "left": 0, "dry_run": False, "by": "local"}
        assert await dead(b) == []


async def test_a_paced_replay_of_ids_and_one_with_a_limit() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b", "c")
        lines = (await b.client.post(REPLAY, json={"ids": ["a", "nobody"], "rate": 1000})).text.splitlines()
        assert json.loads(lines[0])["total"] == 2
        assert json.loads(lines[-1]) == {
            "done": True,
            "matched": 1,
            "replayed": 1,
            "left": 0,
            "dry_run": False,
            "by": "local",
        }
        lines = (await b.client.post(REPLAY, json={"all": True, "rate": 1000, "limit": 1})).text.splitlines()
        last = json.loads(lines[-1])
        assert (last["matched"], last["replayed"], last["left"]) == (2, 1, 1)


async def lines_of(b: HttpBench, asked: dict[str, Any], stopping: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The stream itself, to leave it or to stop it while it goes on."""
    steps = b.producer.replay_steps(DeadFilter(), by="ada", **asked)
    return dead_letters._lines(await anext(steps), steps, 3, "ada", stopping)


async def test_a_client_that_leaves_ends_the_replay_and_the_rest_stays_dead() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b", "c")
        lines = await lines_of(b, {"rate": 0.1}, asyncio.Event())
        for _ in range(2):
            told = json.loads(await anext(lines))
        assert told["replayed"] == 1
        await lines.aclose()
        assert await dead(b) == ["b", "a"]
        (audit,) = await b.producer.audits()
        assert (audit.by, audit.task_ids) == ("ada", ("c",))


async def test_a_service_that_stops_ends_the_replay_with_a_line_that_says_so() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b", "c")
        stopping = asyncio.Event()
        lines = await lines_of(b, {"rate": 0.1}, stopping)
        for _ in range(2):
            await anext(lines)
        stopping.set()
        (last,) = [json.loads(line) async for line in lines]
        assert last["error"]["type"] == "urn:mlproducer:problem:not-accepting"
        assert last["replayed"] == 1
        assert await dead(b) == ["b", "a"]


@pytest.mark.parametrize(
    ("error", "slug"), [(SpoolUnavailable("gone"), "spool-unavailable"), (RuntimeError("secret"), "unexpected")]
)
async def test_an_error_on_the_way_is_the_last_line(
    error: Exception, slug: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def steps() -> AsyncGenerator[Step, None]:
        yield Step(("a",), 1, 1, 2, 1)
        raise error

    lines = dead_letters._lines(Step((), 0, 0, 2, 0), steps(), 2, "ada", asyncio.Event())
    told = [json.loads(line) async for line in lines]
    assert [line.get("taken") for line in told] == [0, 1, 1]
    assert told[-1]["error"]["type"] == f"urn:mlproducer:problem:{slug}"
    assert "secret" not in json.dumps(told)
    assert ("unexpected error" in caplog.text) == (slug == "unexpected")


async def test_a_spool_that_is_not_there_is_a_503_also_for_a_paced_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    async with http_bench() as b:

        async def gone(*_: object) -> int:
            await asyncio.sleep(0)
            raise SpoolUnavailable("gone")

        monkeypatch.setattr(b.producer._parts.spool, "count_dead", gone)
        for body in ({"all": True}, {"all": True, "rate": 5}, {"all": True, "dry_run": True}):
            assert_problem(await b.client.post(REPLAY, json=body), 503, "spool-unavailable")


# remove ---------------------------------------------------------------------------------------------------------------


async def test_dead_letters_are_removed_one_by_one_by_ids_and_by_filter() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, *"abcde")
        answer = await b.client.delete(f"{DLQ}/a")
        assert answer.json() == {"matched": 1, "removed": 1, "left": 0, "dry_run": False, "by": "local"}
        assert_problem(await b.client.delete(f"{DLQ}/a"), 404, "not-found")
        answer = await remove(b, {"ids": ["b", "c", "nobody"]})
        assert answer.json() == {"matched": 2, "removed": 2, "left": 0, "dry_run": False, "by": "local"}
        answer = await remove(b, {"reason": "returned", "dry_run": True})
        assert answer.json() == {"matched": 2, "removed": 0, "left": 2, "dry_run": True, "by": "local"}
        assert await dead(b) == ["e", "d"]
        assert (await remove(b, {"reason": "nacked"})).json()["removed"] == 0
        assert (await remove(b, {"all": True})).json()["removed"] == 2
        assert await dead(b) == []


async def test_a_removed_task_is_no_longer_known_and_its_id_is_free() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a")
        assert (await b.client.get("/api/ml/tasks/a")).json()["state"] == "dead"
        await b.client.delete(f"{DLQ}/a")
        assert_problem(await b.client.get("/api/ml/tasks/a"), 404, "not-found")
        assert (await b.client.post("/api/ml/tasks", json=embed("other", id="a"))).status_code == 201


async def test_deleting_what_waits_says_where_it_is_and_removes_nothing() -> None:
    async with http_bench(down=True) as b:
        await b.client.post("/api/ml/tasks", json=embed(id="a"))
        problem = assert_problem(await b.client.delete(f"{DLQ}/a"), 404, "not-found")
        assert "waits in the retry queue" in problem["detail"]
        assert len(await b.producer.waiting()) == 1


# who ------------------------------------------------------------------------------------------------------------------


async def test_the_audit_tells_which_key_by_its_fingerprint_and_who_said_so() -> None:
    async with http_bench(ml_retry_attempts=1, ml_api_keys=f"{KEY},{OTHER_KEY}") as b:
        b.client.headers["X-API-Key"] = KEY
        await kill(b, "a", "b", "c")
        first, second = (f"key:{hashlib.sha256(key.encode()).hexdigest()[:8]}" for key in (KEY, OTHER_KEY))
        answer = await b.client.post(REPLAY, json={"ids": ["a"]}, headers={"X-Operator": "ada b."})
        assert answer.json()["by"] == f"ada b. ({first})"
        del b.client.headers["X-API-Key"]
        b.client.headers["Authorization"] = f"Bearer {OTHER_KEY}"
        await remove(b, {"ids": ["b"]})
        await b.client.delete(f"{DLQ}/c", headers={"X-Operator": "bob"})
        answer = await b.client.get(AUDIT)
        told = [(each["by"], each["action"], each["task_ids"]) for each in answer.json()["audits"]]
        assert told == [
            (f"bob ({second})", "purge", ["c"]),
            (second, "purge", ["b"]),
            (f"ada b. ({first})", "replay", ["a"]),
        ]
        assert KEY not in answer.text
        assert OTHER_KEY not in answer.text


async def test_a_name_cannot_pass_for_a_key() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a")
        await b.client.post(REPLAY, json={"all": True}, headers={"X-Operator": "ada (key:1a2b3c4d)"})
        assert (await b.producer.audits())[0].by == "ada (key:1a2b3c4d) (local)"


async def test_without_keys_and_open_to_the_network_it_was_anybody() -> None:
    async with http_bench(ml_retry_attempts=1, ml_host="0.0.0.0", ml_insecure=True) as b:  # noqa: S104  # as it says
        await kill(b, "a")
        assert (await b.client.post(REPLAY, json={"all": True})).json()["by"] == "anybody"


@pytest.mark.parametrize("name", ["", " ada", "ada ", "x" * 65, "ada\tb", "adä"])
async def test_a_wrong_name_is_422_and_nothing_is_done(name: str) -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a")
        headers = {b"X-Operator": name.encode("latin-1")}
        answer = await b.client.post(REPLAY, json={"all": True}, headers=headers)
        assert_problem(answer, 422, "invalid-request", "header.X-Operator")
        assert await dead(b) == ["a"]


async def test_the_audit_is_paged_and_needs_no_dead_letter_of_that_name() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b")
        await b.client.delete(f"{DLQ}/a")
        await b.client.post(REPLAY, json={"reason": "returned"})
        found = (await b.client.get(f"{AUDIT}?limit=1")).json()
        assert (found["limit"], found["offset"]) == (1, 0)
        (latest,) = found["audits"]
        assert (latest["action"], latest["detail"], latest["count"]) == ("replay", "reason 'returned'", 1)
        assert latest["at"] == pytest.approx(time.time(), abs=60)
        (older,) = (await b.client.get(f"{AUDIT}?offset=1")).json()["audits"]
        assert (older["action"], older["detail"]) == ("purge", "by id")
        for query in ("limit=0", "offset=-1", "colour=red"):
            answer = await b.client.get(f"{AUDIT}?{query}")
            assert_problem(answer, 422, "invalid-request", query.split("=", maxsplit=1)[0])


# the library ----------------------------------------------------------------------------------------------------------

Told = list[tuple[int, int]]


async def test_the_library_replays_with_progress_and_a_name_and_receipts_follow() -> None:
    async with http_bench(ml_retry_attempts=1) as b:
        await kill(b, "a", "b")
        p: Producer = b.producer
        b.broker.down = True
        b.broker.drop()
        told: Told = []
        tell: Callable[[int, int], None] = lambda taken, total: told.append((taken, total))  # noqa: E731  # one line
        assert await p.replay(DeadFilter(reason="returned"), by="ada", rate=1000.0, limit=1, progress=tell) == 1
        assert told == [(0, 1), (1, 1)]
        assert (await p.receipt("b")).state == "spooled"
        assert (await p.receipt("a")).state == "dead"
        assert await p.plan(DeadFilter()) == 1
        assert await p.replay(["a", "b", "nobody"]) == 1
        assert (await p.receipt("a")).state == "spooled"
        assert [audit.by for audit in await p.audits()] == ["library", "ada"]
