"""What an engine tells of its tasks, where others share its spool or the spool is away."""

from __future__ import annotations

import asyncio

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import DeadFilter, NotFound, Producer, SpoolUnavailable, TaskState
from mlproducer.events import TasksReplayed
from mlproducer.outcome import Nacked
from mlproducer.spool.memory import MemorySpool
from mlproducer.wiring import Overrides


async def killed(b: Bench, *ids: str) -> None:
    """Tasks that the broker refuses, in a producer with one attempt."""
    for task_id in ids:
        b.broker.script.append(Nacked())
        await b.producer.publish(embed(task_id, id=task_id))
    async with asyncio.timeout(5):
        while await b.producer.plan(DeadFilter()) < len(ids):  # noqa: ASYNC110  # a spool tells no event
            await asyncio.sleep(0.005)


def other(b: Bench) -> Producer:
    """A second instance on the same spool, that is never started: it only looks, and replays."""
    return Producer(b.producer.settings, overrides=Overrides(spool=b.producer._parts.spool))


async def test_a_receipt_follows_what_another_instance_did() -> None:
    b = bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(1)
        await killed(b, "a", "b")
        assert (await p.receipt("a")).state is TaskState.DEAD
        b.broker.down = True
        b.broker.drop()
        assert await other(b).replay(["a"], by="bob") == 1
        assert (await p.receipt("a")).state is TaskState.SPOOLED
        assert await other(b).purge(["b"], by="bob") == 1
        with pytest.raises(NotFound, match="ML_RECEIPT_RETENTION"):
            await p.receipt("b")


async def test_a_chunk_of_which_another_took_a_part_makes_only_the_receipts_follow_that_wait_again() -> None:
    b = bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(1)
        await killed(b, "a", "b")
        b.broker.down = True
        b.broker.drop()
        await other(b).purge(["b"])
        assert await p.replay(["a", "b"]) == 1
        book = p._parts.operations._book
        known = {task_id: book.find(task_id) for task_id in "ab"}
        assert [each and each.state for each in known.values()] == [TaskState.SPOOLED, TaskState.DEAD]
        assert [event.count for event in b.told(TasksReplayed)] == [1]


async def test_while_the_spool_is_away_a_receipt_is_what_the_memory_knows_and_else_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(1)
        confirmed = await p.publish(embed())
        await killed(b, "a")

        async def away(_: MemorySpool, task_id: str) -> None:
            await asyncio.sleep(0)
            raise SpoolUnavailable(f"gone, with {task_id}")

        monkeypatch.setattr(MemorySpool, "find", away)
        assert await p.receipt(confirmed.task_id) == confirmed
        assert (await p.receipt("a")).state is TaskState.DEAD
        with pytest.raises(SpoolUnavailable):
            await p.receipt("nobody")


async def test_a_replayed_task_has_all_its_attempts_again_also_in_what_the_memory_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = bench(ml_retry_attempts=1)
    async with b.producer as p:
        await p.connected(1)
        await killed(b, "a")
        assert (await p.receipt("a")).attempts == 1
        b.broker.blocked = True
        await p.replay(["a"])

        async def away(_: MemorySpool, task_id: str) -> None:
            raise SpoolUnavailable(f"gone, with {task_id}")

        monkeypatch.setattr(MemorySpool, "find", away)
        receipt = await p.receipt("a")
        assert (receipt.state, receipt.attempts) == (TaskState.SPOOLED, 0)


async def test_a_replayed_task_is_published_at_once_and_not_at_the_next_poll() -> None:
    b = bench(ml_retry_attempts=1, ml_drain_poll=60.0)
    async with b.producer as p:
        await p.connected(1)
        await killed(b, "a")
        assert await p.replay(DeadFilter(reason="nacked")) == 1
        await until(lambda: b.broker.task_ids() == ["a"])
        await until(lambda: p.status().spool_tasks == 0)
        assert (await p.receipt("a")).state is TaskState.CONFIRMED
