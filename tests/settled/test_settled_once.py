"""Everything that is leased is settled once, by its owner, and told when it is committed; a lease holds for as long as
its setting says; who gives up leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine_bench import Bench, bench, embed, until
from mlproducer import SpoolUnavailable, Task, TaskState
from mlproducer.delivery.drain import SLOW_AFTER
from mlproducer.events import TaskConfirmed, TaskDeadLettered
from mlproducer.outcome import Confirmed, Nacked, Outcome, Returned, Unsure, UnsureCause
from mlproducer.ports import Settle
from mlproducer.rows import Lease, Record, Settlement
from mlproducer.spool.memory import MemorySpool
from mlproducer.task import Flow

LEASE = 40.0


class Watched(MemorySpool):
    """Notes how long each lease is to hold, which leases it gave and which came back."""

    def __init__(self) -> None:
        super().__init__()
        self.holds: dict[bool, set[float]] = {False: set(), True: set()}
        """By whether it was asked for expired rows."""
        self.leased: list[tuple[str, str]] = []
        self.settled: list[tuple[str, str]] = []

    @property
    def left(self) -> int:
        return len(self._rows)

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        self.holds[expired].add(hold)
        leases = await super().lease(limit, hold=hold, expired=expired, shares=shares)
        self.leased += [(lease.row.envelope.task_id, lease.token) for lease in leases]
        return leases

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self.settled += [(lease.row.envelope.task_id, lease.token) for lease, _ in settlements]
        return await super().settle(settlements)


def keep_away(b: Bench) -> Callable[[], None]:
    """The broker takes nothing, so that tasks are spooled, until what is returned is called."""
    b.broker.blocked = True

    def again() -> None:
        b.broker.blocked = False
        b.producer._parts.drain.wake()

    return again


@pytest.mark.parametrize("patience", [0, 300])
async def test_each_lease_holds_as_long_as_its_setting_says_and_comes_back_once(patience: float) -> None:
    spool = Watched()
    b = bench(spool=spool, ml_drain_lease=LEASE, ml_route_patience=patience)
    back = keep_away(b)
    outcomes: list[Outcome] = [Confirmed(), Nacked(), Returned(312, "NO_ROUTE"), Unsure(UnsureCause.CONNECTION_LOST)]
    async with asyncio.timeout(30), b.producer as p:
        await p.connected(5)
        tasks = [await p.publish(embed(n)) for n in range(60)]
        b.broker.script.extend(itertools.islice(itertools.cycle(outcomes), 40))
        back()
        await until(lambda: not spool.left and not p._parts.drain.batches, 20)
        states = Counter([(await p.receipt(task.task_id)).state for task in tasks])
    assert states[TaskState.CONFIRMED] == len(b.broker.task_ids())
    assert spool.holds == {False: {LEASE}, True: {LEASE}}
    assert Counter(spool.settled) == Counter(spool.leased), "each lease came back, once"
    assert max(Counter(spool.leased).values()) == 1, "and no token was given twice"


class Robbed(Watched):
    """Its leases of `victims` end while the broker answers, and are another's when the verdict comes."""

    def __init__(self) -> None:
        super().__init__()
        self.victims: set[str] = set()
        self.robbed: set[str] = set()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        for lease, _ in settlements:
            task_id = lease.row.envelope.task_id
            if task_id in self.victims:
                self.robbed.add(task_id)
                self._rows[task_id].token = "another's"
                self._rows[task_id].until = self._time.now() + 1_000
        return await super().settle(settlements)


@pytest.mark.parametrize(
    "outcome", [Confirmed(), Nacked(), Unsure(UnsureCause.CONNECTION_LOST)], ids=lambda each: type(each).__name__
)
async def test_a_verdict_whose_lease_is_anothers_is_told_to_nobody(outcome: Outcome) -> None:
    spool = Robbed()
    b = bench(spool=spool, ml_retry_attempts=1)
    back = keep_away(b)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        theirs, ours = [[await p.publish(embed(f"{who}{n}")) for n in range(3)] for who in "ab"]
        before = [p._parts.pipeline._book.find(task.task_id) for task in theirs]
        spool.victims = {task.task_id for task in theirs}
        b.broker.script.extend([outcome] * 3)
        back()
        await until(lambda: spool.robbed == spool.victims and spool.left == 3)
        told = {event.task_id for kind in (TaskConfirmed, TaskDeadLettered) for event in b.told(kind)}
        assert told == {task.task_id for task in ours}
        assert [p._parts.pipeline._book.find(task.task_id) for task in theirs] == before, "nor do receipts follow it"


async def test_an_expired_row_that_another_took_meanwhile_is_not_told_as_dead() -> None:
    spool = Robbed()
    b = bench(spool=spool)
    keep_away(b)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        await p.publish(embed(1, id="expires", expires=datetime.now(UTC) + timedelta(seconds=0.2)))
        spool.victims = {"expires"}
        await until(lambda: spool.robbed == {"expires"})
        await asyncio.sleep(0.1)
        assert not b.told(TaskDeadLettered)
        assert (await p.receipt("expires")).state is TaskState.SPOOLED


class Slow(Watched):
    """Takes verdicts only when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self.asked.set()
        await self.gate.wait()
        return await super().settle(settlements)


@pytest.mark.parametrize("outcome", [Confirmed(), Nacked()], ids=lambda each: type(each).__name__)
async def test_a_verdict_is_told_when_it_is_committed_and_not_before(outcome: Outcome) -> None:
    spool = Slow()
    b = bench(spool=spool, ml_retry_attempts=1)
    back = keep_away(b)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        receipt = await p.publish(embed())
        b.broker.script.append(outcome)
        back()
        await spool.asked.wait()
        await asyncio.sleep(0.05)
        assert not b.told(TaskConfirmed)
        assert not b.told(TaskDeadLettered)
        assert p._parts.pipeline._book.find(receipt.task_id) == receipt
        spool.gate.set()
        await until(lambda: bool(b.told(TaskConfirmed) or b.told(TaskDeadLettered)))


class Away(Watched):
    """Takes no verdict any more."""

    tries = 0

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[bool]:
        self.tries += 1
        del settlements
        raise SpoolUnavailable("the store is away")


async def test_a_verdict_that_the_store_never_takes_is_tried_until_its_lease_ends_and_no_longer() -> None:
    spool = Away()
    b = bench(spool=spool, ml_drain_lease=0.5, ml_confirm_timeout=0.2)
    back = keep_away(b)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        await p.publish(embed())
        back()
        await until(lambda: spool.tries >= 2)
        # It ends, and the row, whose lease is over, is published again: the batches do not heap up.
        await until(lambda: len(spool.leased) >= 3, 15)
        assert p._parts.drain.batches <= 2
        assert len(set(spool.leased)) == len(spool.leased), "under a token of its own each time"
        assert not b.told(TaskConfirmed)


async def test_what_a_slow_batch_knows_is_committed_while_one_of_it_is_still_unanswered() -> None:
    spool = Watched()
    b = bench(spool=spool)
    back = keep_away(b)
    publish, kept = b.broker.publish, list[Settle]()

    def keep_one(envelope: Any, settle: Any, **given: Any) -> None:
        if envelope.task_id == "slow" and not kept:
            kept.append(settle)
        else:
            publish(envelope, settle, **given)

    b.broker.publish = keep_one  # type: ignore[method-assign]  # one answer is missing
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        for task_id in ("a", "slow", "b"):
            await p.publish(embed(task_id, id=task_id))
        back()
        await until(lambda: {event.task_id for event in b.told(TaskConfirmed)} == {"a", "b"}, SLOW_AFTER + 10)
        assert isinstance(await spool.find("a"), Record)
        await p.publish(embed("new"))
        kept[0](Confirmed())
        await until(lambda: not spool.left)
        assert Counter(spool.settled) == Counter(spool.leased), "each once"


class LateLease(Watched):
    """Its first rows are half a lease old when they come."""

    late = 1.0

    async def lease(
        self, limit: int, *, hold: float, expired: bool = False, shares: Mapping[Flow, int] | None = None
    ) -> Sequence[Lease]:
        leases = await super().lease(limit, hold=hold, expired=expired, shares=shares)
        if leases:
            wait, self.late = self.late, 0.0
            await asyncio.sleep(wait)
        return leases


async def test_a_row_is_published_only_if_its_lease_outlasts_the_time_that_the_broker_has_to_answer() -> None:
    spool = LateLease()
    b = bench(spool=spool, ml_drain_lease=2.0, ml_confirm_timeout=1.5)
    back = keep_away(b)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        await p.publish(embed())
        back()
        await until(lambda: bool(spool.settled))
        assert not b.broker.task_ids(), "another may have it by then: it goes back"
        await until(lambda: len(b.broker.task_ids()) == 1)


# A stream that is given up ------------------------------------------------------------------------------------------


async def _given_up(b: Bench, tasks: Sequence[Task], after: int) -> None:
    """Leave a stream after so many results; its source and the broker may be anywhere."""

    async def source() -> AsyncIterator[Task]:
        for task in tasks:
            yield task
        await asyncio.Event().wait()  # it would go on for ever

    stream = b.producer.publish_many(source(), window=len(tasks) + 1)
    for _ in range(after):
        await anext(stream)
    pull = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0.03)
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await stream.aclose()


@pytest.mark.parametrize(
    ("weather", "after"), [("held", 0), ("store stands still", 0), ("confirmed", 3), ("spooled", 0), ("spooled", 3)]
)
@pytest.mark.parametrize("chosen", [True, False], ids=["chosen ids", "random ids"])
async def test_a_stream_that_is_given_up_keeps_no_task_no_id_and_no_claim(
    weather: str, after: int, *, chosen: bool
) -> None:
    b = bench(spool=Standing())
    standing = b.spool
    assert isinstance(standing, Standing)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        tasks = [embed(n, **({"id": f"c{n}"} if chosen else {})) for n in range(8)]
        b.broker.blocked = weather in {"spooled", "store stands still"}
        if weather == "held":
            b.broker.hold()
        standing.stands = weather == "store stands still"
        await _given_up(b, tasks, after)
        assert p._parts.pipeline.under_way == 0
        b.broker.blocked = standing.stands = False
        standing.moved.set()
        b.broker.release()
        b.producer._parts.drain.wake()
        await until(lambda: p.status().in_flight == 0)
        # Each id is free, or known: whoever publishes it now gets a receipt, and waits for nobody who is gone.
        receipts = await asyncio.wait_for(asyncio.gather(*(p.publish(task) for task in tasks)), 10)
        assert {receipt.task_id for receipt in receipts} == {task.id for task in tasks}
        await until(lambda: not standing._rows)
        assert not [each for each in standing._records.values() if each.confirmed_at is None], "no claim is left"


class Standing(MemorySpool):
    """A store that does not answer a put until it moves again."""

    def __init__(self) -> None:
        super().__init__()
        self.stands = False
        self.moved = asyncio.Event()

    async def put(self, row: Any) -> bool:
        if self.stands:
            await self.moved.wait()
        return await super().put(row)
