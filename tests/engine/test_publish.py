"""A task from the call to its receipt, over a scripted broker."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine_bench import bench, embed, until
from mlproducer import (
    InvalidTask,
    NotAccepting,
    NotFound,
    RefusedTask,
    SpoolFull,
    Task,
    TaskConflict,
    TaskState,
)
from mlproducer.events import BreakerChanged, BreakerState, ConfirmsTimedOut, TaskDeadLettered, TaskRefused
from mlproducer.outcome import Nacked, Outcome, Returned, Unsure, UnsureCause
from mlproducer.rows import SpoolSize
from mlproducer.spool.sql import SqliteSpool


async def test_an_acked_task_is_confirmed_and_costs_the_spool_nothing() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed())
        assert receipt.state is TaskState.CONFIRMED
        assert receipt.confirmed_at is not None
        assert await b.places() == {"broker": [receipt.task_id], "spool": [], "dead": []}
        assert (await p.receipt(receipt.task_id)) == receipt


async def test_while_the_broker_is_down_a_task_is_spooled_at_once_and_drained_when_it_is_back() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await asyncio.wait_for(p.publish(embed()), 0.5)
        assert receipt.state is TaskState.SPOOLED
        assert receipt.attempts == 0
        assert (await b.places())["spool"] == [receipt.task_id]
        b.broker.down = False
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        await until(lambda: p.status().spool_tasks == 0)
        assert (await p.receipt(receipt.task_id)).state is TaskState.CONFIRMED


@pytest.mark.parametrize(
    "outcome",
    [
        Unsure(UnsureCause.CONFIRM_TIMEOUT),
        Unsure(UnsureCause.CONNECTION_LOST),
        Unsure(UnsureCause.CHANNEL_LOST),
        Unsure(UnsureCause.CHANNEL_REFUSED, "406"),
    ],
)
async def test_an_unsure_task_is_spooled_with_no_attempt_spent_and_published_again(outcome: Outcome) -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.append(outcome)
        receipt = await p.publish(embed())
        assert receipt.state is TaskState.SPOOLED
        assert receipt.attempts == 0
        await until(lambda: b.broker.task_ids() == [receipt.task_id])


async def test_a_task_whose_channel_was_refused_in_company_is_tried_again_alone() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.append(Unsure(UnsureCause.CHANNEL_REFUSED, "406 PRECONDITION_FAILED"))
        receipt = await p.publish(embed())
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert b.broker.alone == [receipt.task_id]


@pytest.mark.parametrize(("outcome", "reason"), [(Nacked(), "nacked"), (Returned(312, "NO_ROUTE"), "returned")])
async def test_three_message_faults_end_in_the_dead_letter_queue_and_replay_brings_it_back(
    outcome: Outcome, reason: str
) -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([outcome] * 3)
        receipt = await p.publish(embed())
        assert receipt.state is TaskState.SPOOLED
        assert receipt.attempts == 1
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert b.told(TaskDeadLettered)[0].reason == reason
        assert await b.places() == {"broker": [], "spool": [], "dead": [receipt.task_id]}
        dead = await p.receipt(receipt.task_id)
        assert (dead.state, dead.attempts) == (TaskState.DEAD, 3)
        assert await p.replay([receipt.task_id]) == 1
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert (await b.places())["dead"] == []


async def test_an_outage_between_faults_spends_none_of_the_three_attempts() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        lost: Outcome = Unsure(UnsureCause.CONNECTION_LOST)
        b.broker.script.extend([Nacked(), lost, lost, lost, lost, Nacked()])
        receipt = await p.publish(embed())
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert not b.told(TaskDeadLettered)


async def test_a_blocked_broker_gets_nothing_and_the_task_waits_in_the_spool() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.blocked = True
        receipt = await p.publish(embed())
        assert receipt.state is TaskState.SPOOLED
        await asyncio.sleep(0.1)
        assert b.broker.task_ids() == []
        assert not p.is_healthy()
        b.broker.blocked = False
        await until(lambda: b.broker.task_ids() == [receipt.task_id])


async def test_the_breaker_opens_after_ten_timeouts_spools_at_once_and_closes_by_one_probe() -> None:
    b = bench(ml_breaker_cooldown=0.3)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Unsure(UnsureCause.CONFIRM_TIMEOUT)] * 10)
        await asyncio.gather(*(p.publish(embed(n)) for n in range(10)))
        assert p.status().breaker == "open"
        before = len(b.broker.task_ids())
        receipt = await p.publish(embed("while open"))
        assert receipt.state is TaskState.SPOOLED
        assert len(b.broker.task_ids()) == before
        await until(lambda: len(b.broker.task_ids()) == 11)
        states = [event.state for event in b.told(BreakerChanged)]
        assert states[-1] is BreakerState.CLOSED
        assert BreakerState.HALF_OPEN in states
        assert not b.told(ConfirmsTimedOut)


async def test_a_window_that_is_full_spools_at_once() -> None:
    b = bench(ml_max_in_flight=2)
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        first = [asyncio.create_task(p.publish(embed(n))) for n in range(2)]
        await asyncio.sleep(0)
        third = await asyncio.wait_for(p.publish(embed(3)), 0.5)
        assert third.state is TaskState.SPOOLED
        b.broker.release()
        assert {(await t).state for t in first} == {TaskState.CONFIRMED}


async def test_an_invalid_task_is_refused_and_is_nowhere() -> None:
    b = bench()
    async with b.producer as p:
        with pytest.raises(InvalidTask, match="task_type"):
            await p.publish(Task(task_type="nonsense", payload={}))
        assert await b.places() == {"broker": [], "spool": [], "dead": []}
        assert b.told(TaskRefused)[0].reason == "InvalidTask"


async def test_a_full_spool_refuses_with_a_time_to_come_back_and_keeps_what_it_has() -> None:
    b = bench(ml_spool_max_tasks=2)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        kept = [await p.publish(embed(n)) for n in range(2)]
        with pytest.raises(SpoolFull) as full:
            await p.publish(embed(3))
        assert full.value.retry_after > 0
        assert sorted((await b.places())["spool"]) == sorted(r.task_id for r in kept)


async def test_before_start_and_after_stop_nothing_is_accepted() -> None:
    b = bench()
    with pytest.raises(NotAccepting):
        await b.producer.publish(embed())
    async with b.producer:
        pass
    with pytest.raises(NotAccepting):
        await b.producer.publish(embed())


async def test_the_same_id_with_the_same_content_returns_the_first_receipt() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        receipts = [await p.publish(embed(id="fixed")) for _ in range(2)]
        assert receipts[0] == receipts[1]
        assert b.broker.task_ids() == ["fixed"]
        with pytest.raises(TaskConflict):
            await p.publish(embed(2, id="fixed"))


async def test_an_id_that_only_the_spool_remembers_is_no_receipt_for_other_content_or_for_a_dead_letter() -> None:
    b = bench(ml_receipts_kept=0)  # as after a restart: the memory is empty, the spool is not
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        first = await p.publish(embed(id="waits"))
        again = await p.publish(embed(id="waits"))
        assert (first.state, again.state) == (TaskState.SPOOLED, TaskState.SPOOLED)
        assert (await b.places())["spool"] == ["waits"]
        with pytest.raises(TaskConflict, match="other content"):
            await p.publish(embed(2, id="waits"))
        await p.publish(embed(id="dies", expires=datetime.now(UTC) + timedelta(seconds=0.05)))
        await asyncio.sleep(0.1)
        b.broker.down = False
        await until(lambda: bool(b.told(TaskDeadLettered)))
        b.broker.blocked = True
        with pytest.raises(TaskConflict, match="dead letter queue"):
            await p.publish(embed(id="dies"))


async def test_two_calls_at_once_with_one_id_publish_it_once() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        receipts = await asyncio.gather(*(p.publish(embed(id="fixed")) for _ in range(5)))
        assert len(set(receipts)) == 1
        assert b.broker.task_ids() == ["fixed"]


async def test_a_follower_of_a_refused_task_makes_its_own_attempt() -> None:
    b = bench(ml_spool_max_tasks=1)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed("fills the spool"))
        results = await asyncio.gather(*(p.publish(embed(id="fixed")) for _ in range(2)), return_exceptions=True)
        assert all(isinstance(r, RefusedTask) for r in results)


async def test_a_task_with_an_eta_waits_in_the_spool_until_it_is_due() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed(eta=datetime.now(UTC) + timedelta(seconds=0.3)))
        assert receipt.state is TaskState.SPOOLED
        await asyncio.sleep(0.1)
        assert b.broker.task_ids() == []
        await until(lambda: b.broker.task_ids() == [receipt.task_id])


async def test_a_task_that_expires_in_the_spool_is_buried_as_expired() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed(expires=datetime.now(UTC) + timedelta(seconds=0.1)))
        await asyncio.sleep(0.15)
        b.broker.down = False
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert (await p.receipt(receipt.task_id)).state is TaskState.EXPIRED
        assert b.broker.task_ids() == []


async def test_stop_spools_what_is_still_in_flight_and_its_callers_get_receipts() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        calls = [asyncio.create_task(p.publish(embed(n))) for n in range(5)]
        await asyncio.sleep(0.01)
    assert {(await call).state for call in calls} == {TaskState.SPOOLED}


async def test_an_unknown_receipt_is_not_found() -> None:
    b = bench()
    async with b.producer as p:
        with pytest.raises(NotFound):
            await p.receipt("nobody")
        with pytest.raises(NotFound):
            await p.dead_letter("nobody")


async def test_the_four_named_calls_make_the_four_built_in_tasks() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        receipts = [
            await p.publish_summarization_task("1", "a text", options={"max_length": 50}),
            await p.publish_transcription_task("1", "https://example.org/a.mp3", backend="local"),
            await p.publish_embedding_task("1", "a text", priority=3),
            await p.publish_batch_embedding_task([{"share_id": "1", "content": "a"}]),
        ]
        assert all(r.confirmed for r in receipts)
        assert sorted(b.broker.queues) == ["ml.embed", "ml.summarize", "ml.transcribe_local"]


async def test_a_producer_starts_once_and_a_second_start_opens_nothing() -> None:
    b = bench()
    async with b.producer:
        pass
    with pytest.raises(RuntimeError, match="another"):
        await b.producer.start()
    with pytest.raises(NotAccepting):
        await b.producer.publish(embed())


class NeverMeasured(SqliteSpool):
    async def measure(self) -> SpoolSize:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_start_that_is_cancelled_leaves_the_spool_to_others(tmp_path: Path) -> None:
    b = bench(spool=NeverMeasured(tmp_path / "spool.db"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await b.producer.start()
    other = SqliteSpool(tmp_path / "spool.db")
    await other.open()
    await other.close()
