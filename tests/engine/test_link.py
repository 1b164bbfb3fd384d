"""Keeping the connection: back-off, exhaustion, slow probes, the health check, operators."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from engine_bench import bench, embed, until
from mlproducer.errors import BrokerUnreachable
from mlproducer.events import ConnectionFailed, HealthChecked, ReconnectScheduled, ReconnectsExhausted
from mlproducer.status import CheckStatus


async def test_a_lost_link_is_reopened_and_what_was_in_flight_is_delivered_once() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        calls = [asyncio.create_task(p.publish(embed(n))) for n in range(20)]
        await asyncio.sleep(0.01)
        b.broker.drop()
        receipts = await asyncio.gather(*calls)
        b.broker.release()
        await until(lambda: len(b.broker.task_ids()) == 20)
        assert sorted(b.broker.task_ids()) == sorted(r.task_id for r in receipts)
        assert b.broker.connects == 2


async def test_a_thousand_tasks_on_one_lost_link_are_one_failure_of_the_breaker() -> None:
    b = bench()
    async with b.producer as p:
        await p.connected(1)
        b.broker.hold()
        calls = [asyncio.create_task(p.publish(embed(n))) for n in range(1_000)]
        await asyncio.sleep(0.01)
        b.broker.drop()
        assert p.status().breaker == "closed"
        assert p.status().breaker_failures == 1
        b.broker.release()
        await asyncio.gather(*calls)


async def test_after_the_last_attempt_it_is_not_ready_but_still_accepts_and_comes_back_by_a_slow_probe() -> None:
    b = bench(ml_reconnect_attempts=3, ml_health_interval=0.2)
    b.broker.down = True
    async with b.producer as p:
        await until(lambda: bool(b.told(ReconnectsExhausted)))
        assert [event.attempt for event in b.told(ReconnectScheduled)] == [2, 3]
        assert not p.status().ready
        receipt = await p.publish(embed())
        b.broker.down = False
        await until(lambda: b.broker.task_ids() == [receipt.task_id])
        assert p.status().ready


async def test_an_operator_who_asks_for_a_reconnect_gets_one_at_once() -> None:
    b = bench(ml_reconnect_attempts=1, ml_health_interval=60, ml_breaker_cooldown=60)
    b.broker.down = True
    async with b.producer as p:
        await until(lambda: bool(b.told(ReconnectsExhausted)))
        b.broker.down = False
        p.reconnect()
        await until(p.is_healthy)
        before = b.broker.connects
        p.reconnect()
        await until(lambda: b.broker.connects == before + 1)
        await until(p.is_healthy)


@dataclass
class Gate:
    """A connect that is under way until it is let on; then it fails, or goes on as before."""

    after: Callable[[], Awaitable[None]]
    under_way: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)

    async def connect(self) -> None:
        self.under_way.set()
        await self.opened.wait()
        await self.after()


async def test_an_operator_who_asks_during_an_attempt_may_wait_for_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await until(lambda: p.status().reconnect_attempts > 1)
        receipt = await p.publish(embed())
        gate = Gate(b.broker.connect)
        monkeypatch.setattr(b.broker, "connect", gate.connect)
        await gate.under_way.wait()
        p.reconnect()
        b.broker.down = False
        drained = asyncio.create_task(p.drained(10))
        await asyncio.sleep(0.1)
        gate.opened.set()
        assert await drained
        assert b.broker.task_ids() == [receipt.task_id]


async def test_a_slow_probe_under_way_does_not_swallow_what_an_operator_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(ml_reconnect_attempts=1, ml_health_interval=0.1, ml_breaker_cooldown=60)
    b.broker.down = True
    async with b.producer as p:
        await until(lambda: bool(b.told(ReconnectsExhausted)))
        gate = Gate(b.broker.connect)
        monkeypatch.setattr(b.broker, "connect", gate.connect)
        await gate.under_way.wait()
        p.reconnect()
        assert p.status().reconnect_attempts == 0
        await p.publish(embed())
        drained = asyncio.create_task(p.drained(10))
        await asyncio.sleep(0.1)
        assert not drained.done()
        gate.opened.set()
        assert not await drained, "the attempt failed: nothing promises a link in a moment"


async def test_a_link_that_only_looks_alive_is_found_by_the_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(ml_health_interval=0.05)
    async with b.producer as p:
        await p.connected(1)
        real = b.broker.check

        async def dead() -> None:
            monkeypatch.setattr(b.broker, "check", real)
            raise BrokerUnreachable("no answer to the passive declare")

        monkeypatch.setattr(b.broker, "check", dead)
        await until(lambda: b.broker.connects == 2)
        assert not b.told(HealthChecked)[0].ok or len(b.told(HealthChecked)) > 1
        assert b.told(ConnectionFailed)
        await until(p.is_healthy)


async def test_health_names_what_is_wrong() -> None:
    b = bench()
    b.broker.down = True
    async with b.producer as p:
        await p.connected(1)
        health = p.health()
        assert health.status is CheckStatus.DEGRADED
        (link,) = [check for check in health.checks if check.name == "connection"]
        assert "fake broker is down" in link.detail
        assert "not connected" in p.status().reasons[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [(asyncio.CancelledError(), "without an answer"), (RuntimeError("a bug"), "mlproducer itself")],
)
async def test_a_connect_that_ends_without_a_word_is_a_failed_one(
    error: BaseException, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application's credentials that cancel themselves did this: the producer was `connecting` for ever."""
    b = bench()
    real = b.broker.connect

    async def ends() -> None:
        monkeypatch.setattr(b.broker, "connect", real)
        raise error

    monkeypatch.setattr(b.broker, "connect", ends)
    async with b.producer as p:
        assert not await p.connected(5)
        assert words in b.told(ConnectionFailed)[0].text
        await until(p.is_healthy)
        assert (await p.publish(embed())).confirmed


async def test_who_waits_for_the_first_connect_is_told_when_the_producer_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()

    async def hangs() -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(b.broker, "connect", hangs)
    await b.producer.start()
    waiting = asyncio.create_task(b.producer.connected(600))
    await asyncio.sleep(0.01)
    await b.producer.stop()
    assert not await asyncio.wait_for(waiting, 10)
