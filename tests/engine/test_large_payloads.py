"""Large payloads: stored before anything is accepted, and the message carries a reference."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine_bench import Bench, bench
from mlproducer import BlobStoreUnavailable, NotInTime, Refusal, Task, TaskConflict, TaskTooLarge
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.worker import fetch

LARGE = "a long text " * 1_000


def summary(content: str = LARGE, **fields: object) -> Task:
    made = {"task_type": "summarize_llm", "payload": {"share_id": "s", "content": content}, **fields}
    return Task.model_validate(made)


def with_store(folder: Path, **given: Any) -> Bench:
    return bench(ml_blob_url=str(folder), ml_claim_check_bytes=4_096, **given)


def sent(b: Bench) -> list[dict[str, object]]:
    return [json.loads(envelope.body)[1] for queue in b.broker.queues.values() for envelope in queue]


def files(folder: Path) -> list[Path]:
    return [found for found in folder.rglob("*") if found.is_file()]


async def test_a_large_payload_is_in_the_store_and_a_worker_gets_it_back_whole(tmp_path: Path) -> None:
    b = with_store(tmp_path)
    async with b.producer as p:
        await p.connected(1)
        assert (await p.publish(summary())).confirmed
        (kwargs,) = sent(b)
        assert kwargs["share_id"] == "s"
        assert "content" not in kwargs
        assert fetch(kwargs, str(tmp_path))["content"] == {"text": LARGE}


async def test_a_small_payload_stays_in_its_message(tmp_path: Path) -> None:
    b = with_store(tmp_path)
    async with b.producer as p:
        await p.connected(1)
        await p.publish(summary("short"))
        assert sent(b)[0]["content"] == {"text": "short"}
    assert not files(tmp_path)


async def test_a_stream_checks_its_large_payloads_in_too(tmp_path: Path) -> None:
    b = with_store(tmp_path)
    async with b.producer as p:
        await p.connected(1)
        results = [result async for result in p.publish_many([summary(), summary("short"), summary("x" * 9_000)])]
        assert all(not isinstance(result, Refusal) and result.confirmed for result in results)
        assert sorted("content" in kwargs for kwargs in sent(b)) == [False, False, True]


async def test_without_a_store_a_task_over_the_limit_is_refused_before_acceptance() -> None:
    b = bench(ml_max_message_bytes=4_096)
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(TaskTooLarge, match="ML_MAX_MESSAGE_BYTES"):
            await p.publish(summary())
        assert sent(b) == []


async def test_with_a_store_the_largest_payload_is_bounded_as_well(tmp_path: Path) -> None:
    b = with_store(tmp_path, ml_max_payload_bytes=8_192)
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(TaskTooLarge):
            await p.publish(summary())


async def test_a_store_that_cannot_be_written_refuses_the_task_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    b = with_store(tmp_path / "file" / "folder")
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(BlobStoreUnavailable):
            await p.publish(summary())
        assert sent(b) == []
        assert p.status().in_flight == 0


async def test_a_slow_store_is_bounded_by_the_calls_own_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_self: ClaimCheck, _envelope: object) -> None:
        await asyncio.sleep(30)

    monkeypatch.setattr(ClaimCheck, "apply", hang)
    b = with_store(tmp_path)
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(NotInTime, match="ML_BLOB_URL"):
            await p.publish(summary(), timeout=0.1)


async def test_the_same_large_task_again_gives_the_first_receipt_and_other_content_a_conflict(tmp_path: Path) -> None:
    b = with_store(tmp_path)
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(summary(id="a"))
    again = with_store(tmp_path, spool=b.spool)
    async with again.producer as p:
        await p.connected(1)
        assert await p.publish(summary(id="a")) == receipt
        with pytest.raises(TaskConflict):
            await p.publish(summary(LARGE + "!", id="a"))
    assert sent(again) == []
