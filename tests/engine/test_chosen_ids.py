"""Ids that callers chose: the same task again gives the first receipt, at any instance and after a restart."""

from __future__ import annotations

import asyncio
import time

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import NotInTime, SpoolUnavailable, TaskConflict, TaskState
from mlproducer.events import SpoolFailed, TaskAccepted, TaskDeadLettered
from mlproducer.outcome import Nacked
from mlproducer.ports import Spool
from mlproducer.rows import Audit, Claim, DeadLetter, Record
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Receipt


def pair(**given: object) -> tuple[Bench, Bench]:
    """Two instances on one spool."""
    spool = MemorySpool()
    return bench(spool=spool, **given), bench(spool=spool, **given)


async def test_a_confirmed_task_is_known_after_a_restart_and_not_published_again() -> None:
    first, second = pair()
    async with first.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed(id="a"))
    async with second.producer as p:
        await p.connected(1)
        again = await p.publish(embed(id="a"))
        assert again == receipt
        assert second.broker.task_ids() == []
        assert not second.told(TaskAccepted), "it was accepted once"


async def test_other_content_under_a_known_id_is_a_conflict_after_a_restart_too() -> None:
    first, second = pair()
    async with first.producer as p:
        await p.connected(1)
        await p.publish(embed(id="a"))
    async with second.producer as p:
        with pytest.raises(TaskConflict, match="other content"):
            await p.publish(embed("other", id="a"))
        assert second.broker.task_ids() == []


async def test_two_instances_that_get_one_id_at_once_publish_it_once() -> None:
    first, second = pair()
    async with first.producer as p, second.producer as q:
        await asyncio.gather(p.connected(1), q.connected(1))
        first.broker.hold()
        calls = [asyncio.create_task(each.publish(embed(id="a"))) for each in (p, q)]
        await until(lambda: p.status().in_flight == 1)
        await asyncio.sleep(0.1)
        assert q.status().in_flight == 0, "it waits for the other's answer"
        first.broker.release()
        one, other = await asyncio.gather(*calls)
        assert one == other
        assert first.broker.task_ids() + second.broker.task_ids() == ["a"]


async def test_a_claim_whose_process_died_lapses_and_the_task_is_published_again() -> None:
    first, second = pair(ml_accept_timeout=0.2)
    spool = second.spool
    async with second.producer as p:
        await p.connected(1)
        await p.publish(embed(id="b"))
        known = await spool.find("b")
        assert isinstance(known, Record)
        # What a producer leaves that died between its claim and its receipt:
        dead = Claim("a", known.task_type, known.digest, known.accepted_at, token="dead")
        await spool.claim(dead, hold=0.3)
        with pytest.raises(NotInTime, match="same id"):
            await p.publish(embed(id="a"), timeout=0.1)
        receipt = await p.publish(embed(id="a"), timeout=5)
        assert receipt.state is TaskState.CONFIRMED
    assert first.broker.task_ids() == []


async def test_a_refused_task_lets_its_id_go_at_once() -> None:
    b = bench(ml_spool_max_tasks=1)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed(id="fills"))
        with pytest.raises(Exception, match="spool holds"):
            await p.publish(embed(id="a"))
        await until_async(b.spool, "a")


async def until_async(spool: Spool, task_id: str) -> None:
    async with asyncio.timeout(5):
        while await spool.find(task_id) is not None:  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.005)


async def test_a_random_id_is_not_claimed_unless_all_receipts_are_wanted() -> None:
    for setting, kept in (("explicit", False), ("all", True)):
        b = bench(ml_receipts=setting)
        async with b.producer as p:
            await p.connected(1)
            receipt = await p.publish(embed())
            assert (await b.spool.find(receipt.task_id) is not None) is kept


async def test_a_task_that_went_through_the_spool_is_known_after_a_restart() -> None:
    first, second = pair()
    first.broker.down = True
    async with first.producer as p:
        await p.connected(1)
        spooled = await p.publish(embed())
        assert spooled.state is TaskState.SPOOLED
    async with second.producer as p:
        await until(lambda: second.broker.task_ids() == [spooled.task_id])
        await until(lambda: p.status().spool_tasks == 0)
        assert (await p.receipt(spooled.task_id)).state is TaskState.CONFIRMED


async def test_a_claimed_task_that_is_spooled_is_known_as_spooled_at_the_other_instance() -> None:
    first, second = pair(ml_retry_first=60, ml_retry_cap=60)
    async with first.producer as p, second.producer as q:
        await asyncio.gather(p.connected(1), q.connected(1))
        first.broker.script.append(Nacked())
        one = await p.publish(embed(id="a"))
        other = await q.publish(embed(id="a"))
        assert (one.state, other.state) == (TaskState.SPOOLED, TaskState.SPOOLED)
        assert second.broker.task_ids() == []


class Forgetful(MemorySpool):
    """Loses its store after the claim."""

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        del confirmed_at, keep
        raise SpoolUnavailable(f"no room to remember {claim.task_id}")


async def test_a_confirm_that_cannot_be_remembered_is_a_receipt_all_the_same() -> None:
    b = bench(spool=Forgetful())
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed(id="a"))
        assert receipt.state is TaskState.CONFIRMED
        assert any("not remembered" in event.text for event in b.told(SpoolFailed))


class Away(MemorySpool):
    async def claim(self, claim: Claim, *, hold: float) -> Record | DeadLetter | None:
        del hold
        raise SpoolUnavailable(f"the disk that knows {claim.task_id} is full")


async def test_without_the_spool_a_chosen_id_is_refused_and_a_random_one_is_published() -> None:
    b = bench(spool=Away())
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(SpoolUnavailable, match="full"):
            await p.publish(embed(id="a"))
        assert (await p.publish(embed())).confirmed
        assert len(b.broker.task_ids()) == 1


async def test_a_stream_gives_first_receipts_too() -> None:
    first, second = pair()
    tasks = [embed(n, id=f"t{n % 3}") for n in (0, 1, 2, 0, 1, 2)]
    async with first.producer as p:
        await p.connected(1)
        receipts = [result async for result in p.publish_many(tasks)]
        assert all(isinstance(result, Receipt) and result.confirmed for result in receipts)
        assert sorted(first.broker.task_ids()) == ["t0", "t1", "t2"]
    async with second.producer as p:
        await p.connected(1)
        assert [result async for result in p.publish_many(tasks)]
        assert second.broker.task_ids() == []


async def test_old_records_are_forgotten() -> None:
    b = bench(ml_receipt_retention=0.05)
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed(id="a"))
        assert await b.spool.find("a") is not None
        await asyncio.sleep(0.1)
        assert await b.spool.forget(limit=10) == 1


async def test_a_dead_task_published_again_is_a_conflict_and_no_receipt() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Nacked()] * 3)
        await p.publish(embed(id="a"))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        with pytest.raises(TaskConflict, match="dead letter queue"):
            await p.publish(embed(id="a"))


async def test_an_id_that_somebody_else_removed_from_the_dead_letters_is_published_anew() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Nacked()] * 3)
        await p.publish(embed(id="a"))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        # Another process, such as `mlproducer dlq purge`, of which the memory here does not hear.
        await b.spool.purge(Audit(time.time(), "ada", "purge", "by id", ("a",)))
        assert (await p.publish(embed("other", id="a"))).state is TaskState.CONFIRMED
        assert b.broker.task_ids() == ["a"]


async def test_an_id_that_another_instance_drained_gives_its_receipt_as_it_is_now() -> None:
    first, second = pair()
    first.broker.down = True
    async with first.producer as p:
        await p.connected(1)
        assert (await p.publish(embed(id="a"))).state is TaskState.SPOOLED
        async with second.producer as q:
            await until(lambda: second.broker.task_ids() == ["a"])
            await until(lambda: q.status().spool_tasks == 0)
        assert (await p.publish(embed(id="a"))).state is TaskState.CONFIRMED
        assert not first.broker.task_ids()


class Slow(MemorySpool):
    """Writes the record of a confirm after a while, but not if nobody waits for it any more: as a group commit does."""

    async def confirm(self, claim: Claim, *, confirmed_at: float, keep: float) -> None:
        await asyncio.sleep(1.0)
        await super().confirm(claim, confirmed_at=confirmed_at, keep=keep)


async def test_a_call_cancelled_while_its_confirm_is_recorded_leaves_a_record_and_no_claim() -> None:
    b = bench(spool=Slow())
    async with b.producer as p:
        await p.connected(1)
        call = asyncio.create_task(p.publish(embed(id="a")))
        await until(lambda: b.broker.task_ids() == ["a"])
        await asyncio.sleep(0.05)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (await p.publish(embed(id="a"), timeout=5)).confirmed
        assert b.broker.task_ids() == ["a"]


async def test_a_confirm_whose_record_is_slow_keeps_its_caller_no_longer_than_the_deadline() -> None:
    b = bench(spool=Slow())
    async with b.producer as p:
        await p.connected(1)
        started = time.monotonic()
        assert (await p.publish(embed(id="a"), timeout=0.1)).confirmed
        assert time.monotonic() - started < 0.9
    known = await b.spool.find("a")
    assert isinstance(known, Record)
    assert known.confirmed_at is not None, "a producer that stops waits for its records"


async def test_a_claim_is_held_for_the_attempt_and_not_for_all_the_time_that_a_call_has() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        call = asyncio.create_task(p.publish(embed(id="a"), timeout=3_600))
        await until(lambda: p.status().in_flight == 1)
        claim = await b.spool.find("a")
        assert isinstance(claim, Record)
        assert claim.held_until is not None
        assert claim.held_until - time.time() < 30, "were this process killed, nobody could publish the id before"
        b.broker.release()
        assert (await call).confirmed
