"""The drain: paced, in batches, fair to new tasks, and right about what expires and what is refused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from pamqp.commands import Basic

from engine_bench import bench, embed, until
from mlproducer import SpoolUnavailable, Task, TaskState
from mlproducer.core.retry import cause_of
from mlproducer.envelope.encode import attempt_properties
from mlproducer.events import SpoolFailed, TaskDeadLettered, TaskRetried
from mlproducer.outcome import Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause
from mlproducer.rows import DeadLetter, Lease, Settlement, SpoolRow
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Envelope, Flow


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def spooled(count: int, **given: object) -> MemorySpool:
    """A spool that an outage left."""
    spool = MemorySpool()
    b = bench(spool=spool, **given)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await asyncio.gather(*(p.publish(embed(n)) for n in range(count)))
    return spool


class Watched(MemorySpool):
    """Notes the size of each lease."""

    def __init__(self, other: MemorySpool) -> None:
        super().__init__()
        self._rows = other._rows
        self.leased: list[int] = []

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        leases = await super().lease(limit, hold=hold, expired=expired, shares=shares)
        if leases and not expired:
            self.leased.append(len(leases))
        return leases


async def test_an_outages_backlog_is_drained_whole_and_slowly_at_first() -> None:
    spool = Watched(await spooled(1_000))
    b = bench(spool=spool)
    async with b.producer as p:
        await until(lambda: len(b.broker.task_ids()) == 1_000)
        await until(lambda: p.status().spool_tasks == 0)
    assert spool.leased[0] == 50
    assert max(spool.leased) > 100
    assert len(set(b.broker.task_ids())) == 1_000


async def test_the_drain_keeps_its_rate() -> None:
    b = bench(spool=await spooled(40), ml_drain_rate=20)
    async with b.producer as p:
        started = time.monotonic()
        await p.connected(1)
        await until(lambda: len(b.broker.task_ids()) >= 30)
        assert len(b.broker.task_ids()) <= 21 + 20 * (time.monotonic() - started), "a second's worth, then 20 a second"


async def test_new_tasks_are_confirmed_while_a_backlog_drains() -> None:
    b = bench(spool=await spooled(3_000), ml_max_in_flight=100, ml_drain_share=0.5)
    async with b.producer as p:
        await p.connected(1)
        for n in range(20):
            assert (await p.publish(embed(f"new{n}"))).confirmed
        await until(lambda: len(b.broker.task_ids()) == 3_020, 20)


async def test_a_task_that_expires_in_an_outage_is_buried_as_expired_without_waiting_for_the_broker() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed(expires=soon(0.2)))
        assert receipt.state is TaskState.SPOOLED
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert b.told(TaskDeadLettered)[0].reason == "expired"
        assert (await p.receipt(receipt.task_id)).state is TaskState.EXPIRED


async def test_a_task_that_expires_before_its_next_attempt_does_not_wait_for_it() -> None:
    b = bench(ml_retry_first=60, ml_retry_cap=60)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.append(Nacked())
        receipt = await p.publish(embed(expires=soon(0.3)))
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert (await p.receipt(receipt.task_id)).state is TaskState.EXPIRED


async def test_a_row_remembers_each_attempt_with_its_code_and_words() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        lost: Outcome = Unsure(UnsureCause.CONNECTION_LOST, "reset by peer")
        b.broker.script.extend([Nacked(), lost, Returned(312, "NO_ROUTE"), Nacked()])
        receipt = await p.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        letter = await p.dead_letter(receipt.task_id)
        assert [(attempt.outcome, attempt.code) for attempt in letter.history] == [
            ("nacked", None),
            ("connection_lost", None),
            ("returned", 312),
            ("nacked", None),
        ]
        assert "reset by peer" in letter.history[1].text
        assert all(abs(attempt.at - time.time()) < 60 for attempt in letter.history)


async def test_an_outage_fills_no_history() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed())
        await asyncio.sleep(0.2)
        row = await b.spool.find(receipt.task_id)
        assert isinstance(row, SpoolRow)
        assert row.history == ()
        assert row.cause == "not_connected"


class Fails(MemorySpool):
    """Cannot commit verdicts for a while."""

    failures = 3

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        if self.failures:
            self.failures -= 1
            raise SpoolUnavailable("the disk is full")
        return await super().settle(settlements)


async def test_verdicts_that_cannot_be_committed_are_tried_again_and_nothing_is_published_twice() -> None:
    b = bench(spool=Fails())
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed())
        b.broker.blocked = False
        await until(lambda: p.status().spool_tasks == 0 and bool(b.broker.task_ids()))
        assert b.broker.task_ids() == [receipt.task_id]
        assert len(b.told(SpoolFailed)) == 3


async def test_a_half_open_breaker_is_probed_with_one_row() -> None:
    spool = Watched(await spooled(200))
    b = bench(spool=spool, ml_breaker_failures=3, ml_breaker_cooldown=0.2)
    unsure: Outcome = Unsure(UnsureCause.CONFIRM_TIMEOUT)
    b.broker.script.extend([unsure] * 3)
    async with b.producer as p:
        await until(lambda: len(b.broker.task_ids()) == 200)
        assert p.status().breaker == "closed"
    assert 1 in spool.leased


# Copies of dead letters on a queue of the broker


def _headers(envelope: Envelope) -> dict[str, object]:
    raw = attempt_properties(envelope, b"-", 0.0)
    properties = Basic.Properties()
    properties.unmarshal(int.from_bytes(raw[:2]), raw[2:])
    assert properties.message_id == "-"
    assert properties.expiration is None
    return dict(properties.headers or {})


async def test_a_dead_letter_is_copied_to_its_queue_with_the_headers_that_tools_know() -> None:
    b = bench(ml_dlq_publish=True)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Returned(312, "NO_ROUTE")] * 3)
        receipt = await p.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        (copy,) = b.broker.queues["ml.dlq"]
        headers = _headers(copy)
        assert headers["id"] == receipt.task_id
        assert headers["x-first-death-reason"] == "returned"
        assert headers["x-first-death-queue"] == "ml.embed"
        death = headers["x-death"]
        assert isinstance(death, list)
        assert (death[0]["count"], death[0]["queue"], death[0]["exchange"]) == (3, "ml.embed", "ml.tasks")
        assert headers["x-ml-death-code"] == 312
        assert isinstance(await b.spool.find(receipt.task_id), DeadLetter), "the spool keeps it all the same"


async def test_without_the_setting_there_is_no_copy() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([Nacked()] * 3)
        await p.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert "ml.dlq" not in b.broker.queues


NO_ANSWER: list[Outcome] = [
    *(Unsure(cause) for cause in UnsureCause),
    *(NotSent(cause) for cause in NotSentCause if cause is not NotSentCause.TOO_LARGE),
]


@pytest.mark.parametrize("outcome", NO_ANSWER, ids=cause_of)
async def test_a_copy_that_the_broker_did_not_answer_for_puts_the_burial_off(outcome: Outcome) -> None:
    b = bench(ml_dlq_publish=True, ml_confirm_timeout=0.2)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([*[Nacked()] * 3, outcome])
        receipt = await p.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert len(b.broker.queues["ml.dlq"]) == 1
        assert (await p.dead_letter(receipt.task_id)).attempts == 3
        assert b.told(TaskDeadLettered)[0].reason == "nacked"


async def test_a_copy_that_the_broker_refuses_keeps_nobody_from_the_dead_letter_queue() -> None:
    b = bench(ml_dlq_publish=True)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.extend([*[Nacked()] * 3, Returned(312, "no ml.dlq")])
        receipt = await p.publish(embed())
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert (await p.receipt(receipt.task_id)).state is TaskState.DEAD
        assert not isinstance(b.told(TaskDeadLettered)[0], NotSent)


# What takes longer than it should


class LateLease(MemorySpool):
    """Its first lease is answered late: its rows are another's by then."""

    late = 0.6

    def __init__(self, other: MemorySpool) -> None:
        super().__init__()
        self._rows = other._rows

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        leases = await super().lease(limit, hold=hold, expired=expired, shares=shares)
        if leases:
            wait, self.late = self.late, 0.0
            await asyncio.sleep(wait)
        return leases


async def test_rows_whose_lease_is_nearly_over_are_not_published() -> None:
    spool = LateLease(await spooled(1))
    benches = [bench(spool=spool, ml_confirm_timeout=0.2, ml_drain_lease=0.4) for _ in range(2)]
    async with benches[0].producer as p, benches[1].producer as q:
        await until(lambda: any(b.broker.task_ids() for b in benches))
        await asyncio.sleep(0.8)
        assert sum(len(b.broker.task_ids()) for b in benches) == 1
        assert (p.status().breaker_failures, q.status().breaker_failures) == (0, 0)


async def test_a_backlog_of_expired_tasks_is_buried_without_a_pause() -> None:
    spool = await spooled(1_200)
    for held in spool._rows.values():
        held.row = replace(held.row, envelope=replace(held.row.envelope, expires_at=time.time()))
    b = bench(spool=spool, ml_drain_poll=60)
    b.broker.down = True
    async with b.producer:
        await until(lambda: len(b.told(TaskDeadLettered)) == 1_200, 30)


async def test_no_copy_of_a_dead_letter_goes_to_a_broker_that_the_breaker_leaves_alone() -> None:
    b = bench(ml_dlq_publish=True, ml_breaker_failures=1, ml_breaker_cooldown=60)
    async with b.producer as p:
        await p.connected(1)
        b.broker.script.append(Unsure(UnsureCause.CONFIRM_TIMEOUT))
        await p.publish(embed(expires=soon(0.3)))
        assert p.status().breaker == "open"
        await asyncio.sleep(0.6)
        assert not b.broker.queues
        p.reset_breaker()
        await until(lambda: bool(b.told(TaskDeadLettered)))
        assert len(b.broker.queues["ml.dlq"]) == 1


async def test_only_what_reached_the_broker_counts_as_a_retry() -> None:
    b = bench(ml_max_in_flight_bytes=1)  # one task of any size, and then the window is full
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        first = asyncio.create_task(p.publish(embed(1)))
        await until(lambda: p.status().in_flight == 1)
        await p.publish(embed(2))
        await asyncio.sleep(0.2)
        assert not b.told(TaskRetried)
        b.broker.release()
        await first
        await until(lambda: len(b.broker.task_ids()) == 2)
        assert len(b.told(TaskRetried)) == 1


class Faulty(MemorySpool):
    """Has a bug: not every error is one that we thought of."""

    faults = 2

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        if self.faults and not expired:
            self.faults -= 1
            raise LookupError("nobody thought of this")
        return await super().lease(limit, hold=hold, expired=expired, shares=shares)


async def test_a_bug_does_not_end_the_drain_for_good(caplog: pytest.LogCaptureFixture) -> None:
    b = bench(spool=Faulty())
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        receipt = await p.publish(embed())
        b.broker.blocked = False
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
    assert "nobody thought of this" in caplog.text, "and it is not kept secret"


async def test_a_route_with_little_that_waits_is_not_kept_waiting_by_one_with_much() -> None:
    b = bench(ml_drain_batch=20)
    b.broker.down = True
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(1)
        for n in range(200):
            await p.publish(embed(n))
        for n in range(5):
            await p.publish(Task(task_type="summarize_llm", payload={"share_id": f"s{n}", "content": "text"}))
        b.broker.down = False
        p.reconnect()
        await until(lambda: len(b.broker.queues.get("ml.summarize", ())) == 5)
        assert len(b.broker.queues["ml.embed"]) < 200
        assert await p.drained(20)


class Breaking(MemorySpool):
    """Gives a batch and then fails, before the batch has taken its first step."""

    given = 0
    broke = 0

    async def flows(self) -> Sequence[Flow]:
        if self.given:
            self.given = 0
            self.broke += 1
            raise RuntimeError("nobody thought of this")
        return await super().flows()

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        leases = await super().lease(limit, hold=hold, expired=expired, shares=shares)
        self.given += len(leases)
        return leases


async def test_a_batch_that_ends_before_it_began_gives_its_room_back() -> None:
    spool = Breaking()
    b = bench(spool=spool)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed())
        b.broker.blocked = False
        p.reset_breaker()  # wakes the drain
        await until(lambda: bool(spool.broke) and not p._parts.drain.batches)
        assert p._parts.drain._pace._in_flight == 0
