"""A broker with a memory or disk alarm is blocked in every view until the alarm ends, whatever times out meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pamqp import commands

from mlproducer import Producer, Settings, Task, TaskState
from mlproducer.events import BlockedChanged, BreakerChanged, ConfirmsTimedOut, Event, RouteChanged
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Unsure, UnsureCause, blocked_text
from mlproducer.testing.rabbitmq import PrivateRabbit
from scripted_peer import Peer, linked, settle

if TYPE_CHECKING:
    from pathlib import Path

ALARM = commands.Connection.Blocked("low on disk")
SAID = blocked_text("low on disk")


async def test_a_timeout_in_an_alarm_leaves_the_link_blocked_with_the_brokers_reason() -> None:
    """The channel is retired by the timeout, and a blocked broker opens no other one: it is blocked all the same."""
    peer = Peer()
    async with linked(peer, check_timeout=0.2) as link:
        written = link.publish(seconds=0.3)
        await peer.until(1)
        peer.silent = True
        peer.send(0, ALARM)
        await asyncio.sleep(1.0)
        assert written == [Unsure(UnsureCause.BLOCKED, SAID)]
        assert link.broker.obstacle is NotSentCause.BLOCKED
        view = link.broker.view()
        assert (view.connected, view.blocked, view.alarm) == (True, True, "low on disk")
        assert link.publish() == [NotSent(NotSentCause.BLOCKED, text=SAID)]
        await link.broker.check()
        assert not link.lost
        peer.send(0, commands.Connection.Unblocked())
        peer.speak()
        await settle()
        after = link.publish()
        peer.ack((await peer.until(2))[-1])
        await settle()
        assert after == [Confirmed()]
        assert link.broker.view().alarm == ""


async def test_what_waits_for_a_channel_of_its_own_or_for_its_queue_is_blocked_too() -> None:
    peer = Peer()
    async with linked(peer, check_timeout=0.2, named=False) as link:
        peer.silent = True
        first_use, alone = link.publish("first"), link.publish("alone", alone=True)
        await settle()
        peer.send(0, ALARM)
        async with asyncio.timeout(10):
            while not (first_use and alone):  # noqa: ASYNC110  # the broker's own timeout
                await asyncio.sleep(0.02)
        assert first_use == alone == [NotSent(NotSentCause.BLOCKED, text=SAID)]


async def test_a_link_that_ends_in_an_alarm_is_not_blocked_any_more() -> None:
    peer = Peer()
    async with linked(peer) as link:
        waiting = link.publish()
        await peer.until(1)
        peer.send(0, ALARM)
        await settle()
        assert peer.writer is not None
        peer.writer.transport.abort()
        await settle()
        assert link.broker.obstacle is NotSentCause.NOT_CONNECTED
        assert [outcome.cause for outcome in waiting if isinstance(outcome, Unsure)] == [UnsureCause.CONNECTION_LOST]
        view = link.broker.view()
        assert (view.connected, view.blocked, view.alarm) == (False, False, "")


async def test_an_alarm_of_a_real_broker_is_told_in_every_view_and_opens_no_breaker(
    own_rabbit: PrivateRabbit, tmp_path: Path
) -> None:
    events: list[Event] = []
    settings = Settings.load(
        rabbitmq_url=own_rabbit.url,
        ml_data_dir=tmp_path,
        ml_confirm_timeout=0.5,
        ml_health_timeout=0.5,
        ml_breaker_failures=1,
        ml_drain_poll=0.05,
        ml_retry_first=0.05,
    )

    def task(n: object) -> Task:
        return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": f"text {n}"})

    async with asyncio.timeout(60), Producer(settings, listeners=[events.append]) as p:
        assert await p.connected(20), p.status().last_error
        assert (await p.publish(task(0))).state is TaskState.CONFIRMED
        await asyncio.to_thread(own_rabbit.memory_alarm, on=True)
        try:
            # Its first publish in the alarm tells a connection of it; those that are on their way run into the timeout.
            while not any(isinstance(event, ConfirmsTimedOut) for event in events):
                await p.publish(task("late"))
                await asyncio.sleep(0.02)
            receipts = [await p.publish(task(n)) for n in range(50)]
            waiting = await p.waiting(limit=1_000)
            health = {check.name: check.detail for check in p.health().checks}
            status = p.status()
            metrics = p.metrics.prometheus()[0].decode()
        finally:
            await asyncio.to_thread(own_rabbit.memory_alarm, on=False)
        assert {row.cause for row in waiting} == {"blocked"}
        assert all("low on memory" in str(receipt.reason) for receipt in receipts)
        assert "low on memory" in health["connection"]
        assert "ml_producer_connection_blocked 1.0" in metrics
        assert (status.connection, status.blocked, status.alarm) == ("connected", True, "low on memory")
        assert not [event for event in events if isinstance(event, BreakerChanged | RouteChanged)]
        while p.status().blocked:  # noqa: ASYNC110  # the broker tells of the end a moment after it
            await asyncio.sleep(0.02)
        assert await p.drained(30)
    assert [event.blocked for event in events if isinstance(event, BlockedChanged)] == [True, False]
