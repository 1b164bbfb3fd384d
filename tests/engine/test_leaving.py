"""Short-lived producers deliver: the first connect is waited for, and what was spooled is published before the end."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from engine_bench import Bench, bench, embed, until
from mlproducer import Receipt, TaskState
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerUnreachable
from mlproducer.events import AttemptSettled, ConnectionFailed, TasksLeft
from mlproducer.outcome import Nacked, Unsure, UnsureCause
from mlproducer.rows import Done
from mlproducer.wiring.choices import encoder_for

LONG: dict[str, Any] = {"ml_shutdown_timeout": 300, "ml_accept_timeout": 60, "ml_confirm_timeout": 50}
"""Seconds that no test waits for: whoever would wait them out meets the test's own limit."""


def _slow_to_connect(b: Bench, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The connect goes on once the event is set."""
    gate, real = asyncio.Event(), b.broker.connect

    async def connect() -> None:
        await gate.wait()
        await real()

    monkeypatch.setattr(b.broker, "connect", connect)
    return gate


@pytest.mark.parametrize("way", ["publish", "publish_many"])
async def test_a_script_that_publishes_at_once_is_confirmed(way: str) -> None:
    b = bench(**LONG)
    async with asyncio.timeout(20), b.producer as p:
        tasks = [embed(n) for n in range(12)]
        if way == "publish":
            receipts = [await p.publish(task) for task in tasks]
        else:
            receipts = [r async for r in p.publish_many(tasks) if isinstance(r, Receipt)]
    assert [receipt.state for receipt in receipts] == [TaskState.CONFIRMED] * 12
    assert len(b.broker.task_ids()) == 12


async def test_a_publish_waits_for_the_first_connect_and_not_longer_than_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = bench(**LONG)
    gate = _slow_to_connect(b, monkeypatch)
    async with asyncio.timeout(20), b.producer as p:
        hurried = await p.publish(embed("hurried"), timeout=0.05)
        assert hurried.state is TaskState.SPOOLED
        calls = [asyncio.create_task(p.publish(embed(n))) for n in range(3)]
        await asyncio.sleep(0.02)
        assert not any(call.done() for call in calls)
        gate.set()
        assert all([(await call).confirmed for call in calls])
        assert p.status().breaker_failures == 0, "a caller who waited for the connect is no slow broker"
        await until(lambda: hurried.task_id in b.broker.task_ids())


@pytest.mark.parametrize("weather", ["down", "blocked"])
async def test_a_broker_that_refuses_or_blocks_has_tasks_spooled_at_once(weather: str) -> None:
    b = bench(**LONG, ml_reconnect_first=30, ml_reconnect_cap=30)
    b.broker.down = weather == "down"
    b.broker.blocked = weather == "blocked"
    async with asyncio.timeout(20):
        async with b.producer as p:
            receipts = [await p.publish(embed(n)) for n in range(3)]
            receipts += [r async for r in p.publish_many([embed(4)]) if isinstance(r, Receipt)]
    assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
    (left,) = b.told(TasksLeft)
    assert left.count == 4
    assert ("down" if weather == "down" else "blocks") in left.reason
    assert not left.durable, "of memory://"


async def test_with_several_hosts_the_first_connect_goes_on_until_each_was_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    b = bench(**LONG, rabbitmq_url="amqp://one,amqp://two,amqp://three")
    real, tries = b.broker.connect, iter([False, False, True])

    async def connect() -> None:
        if not next(tries):
            raise BrokerUnreachable("this host is down")
        await real()

    monkeypatch.setattr(b.broker, "connect", connect)
    async with asyncio.timeout(20), b.producer as p:
        assert (await p.publish(embed())).confirmed
        assert len(b.told(ConnectionFailed)) == 2


async def test_a_lost_link_later_on_is_not_waited_for() -> None:
    b = bench(**LONG, ml_reconnect_first=30, ml_reconnect_cap=30)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        b.broker.down = True
        b.broker.drop()
        assert (await p.publish(embed())).state is TaskState.SPOOLED
        b.broker.down = False
        p.reconnect()


async def test_stop_publishes_what_this_producer_spooled() -> None:
    b = bench(**LONG, ml_drain_poll=60)
    async with asyncio.timeout(20):
        async with b.producer as p:
            await p.connected(5)
            b.broker.blocked = True
            receipts = [await p.publish(embed(n)) for n in range(120)]
            assert {receipt.state for receipt in receipts} == {TaskState.SPOOLED}
            b.broker.blocked = False
    assert sorted(b.broker.task_ids()) == sorted(receipt.task_id for receipt in receipts)
    assert not b.told(TasksLeft)


async def test_stop_gives_a_link_that_was_just_lost_one_attempt() -> None:
    b = bench(**LONG)
    async with asyncio.timeout(20):
        async with b.producer as p:
            await p.connected(5)
            b.broker.drop()
            receipt = await p.publish(embed())
            assert receipt.state is TaskState.SPOOLED
    assert b.broker.task_ids() == [receipt.task_id]


async def test_stop_waits_for_no_task_that_is_not_due_and_says_that_it_stays() -> None:
    b = bench(**LONG)
    async with asyncio.timeout(20):
        async with b.producer as p:
            await p.publish(embed(1, eta=datetime.now(UTC) + timedelta(days=1)))
            await p.publish(embed(2))
    assert [(left.count, left.reason) for left in b.told(TasksLeft)] == [(1, "they are not due yet")]


async def test_stop_ends_with_its_timeout_where_the_broker_gets_nowhere() -> None:
    b = bench(ml_shutdown_timeout=0.1)
    async with asyncio.timeout(20):
        async with b.producer as p:
            await p.connected(5)
            b.broker.hold()
            b.broker.script.append(Unsure(UnsureCause.CHANNEL_LOST))
            receipt = await p.publish(embed(), timeout=0.05)
            assert receipt.state is TaskState.SPOOLED
    (left,) = b.told(TasksLeft)
    assert left.count == 1


async def test_what_another_process_published_does_not_stay() -> None:
    """Its rows are not there any more, and nobody waits for them."""
    b = bench(**LONG)
    async with asyncio.timeout(20):
        async with b.producer as p:
            await p.connected(5)
            b.broker.blocked = True
            await p.publish(embed())
            leases = await b.spool.lease(10, hold=60)
            await b.spool.settle([(lease, Done(0.0, 60.0)) for lease in leases])
            assert len(leases) == 1
            b.broker.blocked = False
    assert not b.told(TasksLeft)


async def test_two_who_stop_it_wait_for_one_stop_and_a_cancelled_one_leaves_it_going_on() -> None:
    b = bench(**LONG)
    async with asyncio.timeout(20):
        await b.producer.start()
        await b.producer.connected(5)
        b.broker.hold()
        call = asyncio.create_task(b.producer.publish(embed()))
        await until(lambda: b.producer.status().in_flight == 1)
        stops = [asyncio.create_task(b.producer.stop()) for _ in range(3)]
        await asyncio.sleep(0.01)
        stops[0].cancel()
        await asyncio.sleep(0.01)
        b.broker.release()
        assert (await call).confirmed
        ends = await asyncio.gather(*stops, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError, type(None), type(None)]
        await b.producer.stop()


async def test_drained_waits_for_all_that_is_due_and_says_when_it_cannot() -> None:
    b = bench(**LONG, ml_retry_first=30, ml_retry_cap=30)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        b.broker.blocked = True
        for n in range(120):
            await p.publish(embed(n))
        assert not await p.drained(10)
        b.broker.blocked = False
        assert await p.drained(10)
        assert len(b.broker.task_ids()) == 120
        assert await p.drained(10)


async def test_no_attempt_is_made_while_the_first_connect_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(**LONG)
    gate = _slow_to_connect(b, monkeypatch)
    async with asyncio.timeout(20), b.producer as p:
        call = asyncio.create_task(p.publish(embed()))
        await asyncio.sleep(0.02)
        assert not b.told(AttemptSettled)
        gate.set()
        assert (await call).confirmed


async def test_a_producer_that_stops_while_it_connects_spools_what_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(**{**LONG, "ml_shutdown_timeout": 0.1, "ml_confirm_timeout": 0.5, "ml_accept_timeout": 5})
    _slow_to_connect(b, monkeypatch)
    async with asyncio.timeout(20):
        await b.producer.start()
        call = asyncio.create_task(b.producer.publish(embed()))
        await asyncio.sleep(0.01)
        await b.producer.stop()
        assert (await call).state is TaskState.SPOOLED
    assert len(b.told(TasksLeft)) == 1


async def test_drained_waits_for_the_retries_of_this_process_as_long_as_it_may() -> None:
    b = bench(ml_retry_first=0.2, ml_retry_cap=0.2)
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        b.broker.script.extend([Nacked()] * 2)
        assert not (await p.publish(embed())).confirmed
        assert await p.drained(15)
        assert b.broker.task_ids(), "its third attempt was made before"


async def test_a_drain_that_was_woken_while_it_looked_is_not_dry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that is put after the look, and told before the look's answer is here, is still to be looked for."""
    b = bench(ml_drain_poll=60)
    dry: list[bool] = []
    async with asyncio.timeout(20), b.producer as p:
        await p.connected(5)
        drain, flows = b.producer._parts.drain, b.spool.flows

        async def look() -> Any:
            found = await flows()
            dry.append(drain.dry)
            if len(dry) == 1:
                drain.wake()
            return found

        monkeypatch.setattr(b.spool, "flows", look)
        drain.wake()
        await until(lambda: len(dry) > 1)
    assert dry[:2] == [False, False]


class Counted(OrderedDict[str, Any]):
    """How many of its entries were looked at, one by one or on a walk."""

    looks = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.looks += 1
        return super().get(key, default)

    def _walk(self, found: Iterable[Any]) -> Iterator[Any]:
        for each in found:
            self.looks += 1
            yield each

    def __iter__(self) -> Iterator[str]:
        return self._walk(super().__iter__())

    def values(self) -> Any:
        return self._walk(super().values())

    def items(self) -> Any:
        return self._walk(super().items())


@pytest.mark.parametrize("way", ["stop", "drained"])
async def test_who_waits_looks_at_no_receipt_however_many_there_are(way: str) -> None:
    b = bench(ml_shutdown_timeout=1, ml_drain_poll=0.05, ml_receipts_kept=20_000)
    book, now = b.producer._parts.pipeline._book, time.time()
    template = encoder_for(TaskTypes.builtin(), 100_000).encode(embed())
    for n in range(10_000):
        accepting = book.begin(replace(template, task_id=str(n)), now, 0, 0, chosen_id=False, slow=False)
        assert accepting is not None
        state, due_at = (TaskState.SPOOLED, now + 3_600 + n) if n % 2 else (TaskState.CONFIRMED, None)
        book.finish(accepting, Receipt(str(n), "embed_vectors", state, now, next_attempt_at=due_at))
    async with asyncio.timeout(60), b.producer as p:
        await p.connected(20)
        b.broker.hold()
        assert not (await p.publish(embed(), timeout=0.05)).confirmed
        known, due = book._settled, book.due._due = Counted(book._settled), Counted(book.due._due)
        book._settled = known
        if way == "drained":
            assert not await p.drained(1)
        else:
            await p.stop()
    assert known.looks + due.looks < 1_000, "some for each of what may be a hundred looks"
