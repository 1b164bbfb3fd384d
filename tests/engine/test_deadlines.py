"""One deadline over everything: the direct attempt, the wait for room in the spool, the commit."""

from __future__ import annotations

import asyncio
import time

import pytest

from engine_bench import bench, embed, until
from mlproducer import NotInTime, SpoolFull, SpoolUnavailable, TaskState
from mlproducer.events import TaskRefused
from mlproducer.jobs import shielded
from mlproducer.rows import NewRow, SpoolSize
from mlproducer.spool.memory import MemorySpool


class Slow(MemorySpool):
    """Commits after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    async def put(self, row: NewRow) -> bool:
        await asyncio.sleep(self._seconds)
        return await super().put(row)


async def test_a_timeout_leaves_time_for_the_commit_to_the_spool() -> None:
    b = bench(spool=Slow(0.05), ml_confirm_timeout=5)
    async with b.producer as p:
        await p.connected(1)
        # A broker that takes the message and answers at no time: the fake one has no timer of its own.
        b.broker.blocked = True
        started = time.monotonic()
        receipt = await p.publish(embed(), timeout=0.5)
        assert receipt.state is TaskState.SPOOLED
        assert time.monotonic() - started < 0.5


async def test_the_timeout_bounds_the_commit_too() -> None:
    b = bench(spool=Slow(30))
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        started = time.monotonic()
        with pytest.raises(NotInTime, match="same task id"):
            await p.publish(embed(), timeout=0.2)
        assert time.monotonic() - started < 5
        assert p.status().in_flight == 0
        assert not await p.waiting()


async def test_without_a_timeout_of_its_own_a_call_ends_by_the_setting() -> None:
    b = bench(spool=Slow(30), ml_accept_timeout=0.2)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        with pytest.raises(NotInTime, match="ML_ACCEPT_TIMEOUT"):
            await p.publish(embed())


async def test_a_full_spool_lets_its_callers_wait_until_there_is_room() -> None:
    b = bench(ml_spool_max_tasks=10, ml_spool_low_mark=1, ml_spool_overflow="wait", ml_accept_timeout=20)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        calls = [asyncio.create_task(p.publish(embed(n))) for n in range(15)]
        await until(lambda: sum(call.done() for call in calls) == 10)
        await asyncio.sleep(0.1)
        assert sum(call.done() for call in calls) == 10
        b.broker.blocked = False
        receipts = await asyncio.gather(*calls)
        assert len(receipts) == 15
        await until(lambda: len(b.broker.task_ids()) == 15)


async def test_who_waits_for_room_waits_no_longer_than_his_deadline() -> None:
    b = bench(ml_spool_max_tasks=1, ml_spool_overflow="wait")
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed())
        with pytest.raises(SpoolFull, match="1 of 1"):
            await p.publish(embed(2), timeout=0.3)


async def test_a_spool_whose_oldest_task_waits_too_long_takes_no_new_one() -> None:
    b = bench(ml_spool_max_age=0.2)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed())
        await until(lambda: p.status().spool_oldest_age is not None and (p.status().spool_oldest_age or 0) > 0.2)
        with pytest.raises(SpoolFull, match="ML_SPOOL_MAX_AGE"):
            await p.publish(embed(2))


class Late(MemorySpool):
    """Commits what it is asked to, whoever waits for it: as a thread that is in the midst of its commit."""

    async def put(self, row: NewRow) -> bool:
        commit = asyncio.ensure_future(self._commit(row))
        return await shielded(commit)

    async def _commit(self, row: NewRow) -> bool:
        await asyncio.sleep(0.1)
        return await super().put(row)


async def test_a_task_whose_commit_outlasts_its_call_is_published_once_when_its_caller_tries_again() -> None:
    b = bench(spool=Late(), ml_drain_poll=0.5)
    b.broker.blocked = True
    async with b.producer as p:
        await p.connected(1)
        task = embed()  # its id is random: nobody claims it
        with pytest.raises(NotInTime):
            await p.publish(task, timeout=0.05)
        await asyncio.sleep(0.1)
        b.broker.blocked = False
        assert (await p.publish(task)).task_id == task.id
        await until(lambda: p.status().spool_tasks == 0)
        assert b.broker.task_ids() == [task.id]


class Full(MemorySpool):
    async def put(self, row: NewRow) -> bool:
        raise SpoolUnavailable(f"no room on the disk for {row.envelope.task_id}")

    async def measure(self) -> SpoolSize:
        raise SpoolUnavailable("no room on the disk")


async def test_a_spool_that_cannot_be_written_for_long_is_not_said_to_be_full() -> None:
    b = bench(spool=Full(), ml_spool_max_tasks=3)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        for n in range(10):
            with pytest.raises(SpoolUnavailable, match="no room on the disk"):
                await p.publish(embed(n))
        assert p.status().spool_tasks == 0


async def test_who_follows_a_call_that_is_refused_has_what_is_left_of_his_own_time() -> None:
    b = bench(spool=Slow(30))
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        first = asyncio.create_task(p.publish(embed(id="a"), timeout=1))
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(NotInTime):
            await p.publish(embed(id="a"), timeout=1.5)
        assert time.monotonic() - started < 2.2, "a second of waiting, and half a one of his own"
        with pytest.raises(NotInTime):
            await first
        assert len(b.told(TaskRefused)) == 2


async def test_a_follower_whose_time_is_over_is_counted_as_refused() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        first = asyncio.create_task(p.publish(embed(id="a")))
        await until(lambda: p.status().in_flight == 1)
        with pytest.raises(NotInTime):
            await p.publish(embed(id="a"), timeout=0.05)
        assert [event.reason for event in b.told(TaskRefused)] == ["NotInTime"]
        b.broker.release()
        assert (await first).confirmed


async def test_a_hurried_caller_gets_his_receipt_and_is_no_failure_of_the_broker() -> None:
    b = bench(ml_breaker_failures=3, ml_drain_poll=5)
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        async with asyncio.timeout(10):
            receipts = await asyncio.gather(*(p.publish(embed(n), timeout=0.2) for n in range(5)))
        assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
        assert p.status().breaker == "closed"
        assert p.status().breaker_failures == 0
        b.broker.release()
        await until(lambda: p.status().spool_tasks == 0)


async def test_who_waits_for_room_is_refused_when_the_producer_stops() -> None:
    b = bench(ml_spool_max_tasks=1, ml_spool_overflow="wait", ml_shutdown_timeout=5)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        await p.publish(embed())
        call = asyncio.create_task(p.publish(embed(2), timeout=60))
        await asyncio.sleep(0.05)
        started = time.monotonic()
    with pytest.raises(SpoolFull):
        await asyncio.wait_for(call, 1)
    assert time.monotonic() - started < 3, "nor does the stop wait for it"


class Measured(MemorySpool):
    """Is measured while its puts are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.commit = asyncio.Event()

    async def put(self, row: NewRow) -> bool:
        await self.commit.wait()
        return await super().put(row)


async def test_a_task_that_is_measured_before_its_commit_still_counts_towards_the_limit() -> None:
    spool = Measured()
    b = bench(spool=spool, ml_spool_max_tasks=1)
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        first = asyncio.create_task(p.publish(embed()))
        await asyncio.sleep(0.01)
        await p._parts.gauges.measure()
        with pytest.raises(SpoolFull):
            await p.publish(embed(2))
        spool.commit.set()
        assert (await first).state is TaskState.SPOOLED
        with pytest.raises(SpoolFull):
            await p.publish(embed(3))
        await p._parts.gauges.measure()
        assert p.status().spool_tasks == 1
        with pytest.raises(SpoolFull):
            await p.publish(embed(4))
