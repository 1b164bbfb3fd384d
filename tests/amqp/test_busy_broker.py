"""A broker with much to do answers questions late. It is not dead as long as it confirms."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from pamqp import commands

from mlproducer.amqp.channel import Channel
from mlproducer.errors import ConnectionLost
from mlproducer.outcome import Confirmed
from mlproducer.ports import QueueDepth
from scripted_peer import Link, Peer, linked, settle

SILENCE = 0.5
"""The check's timeout, in seconds."""


@asynccontextmanager
async def unanswered() -> AsyncIterator[tuple[Peer, Link, asyncio.Task[None]]]:
    """A check that a connected peer, silent from now on, was asked for."""
    peer = Peer()
    async with linked(peer, check_timeout=SILENCE) as link:
        peer.silent = True
        yield peer, link, asyncio.create_task(link.broker.check())


async def confirm_for(peer: Peer, link: Link, seconds: float) -> None:
    """A task every tenth of a second, each confirmed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outcomes = link.publish()
        published = await peer.until(len(peer.published) + 1)
        peer.ack(published[-1])
        await settle()
        assert outcomes == [Confirmed()]


def channels_left_open(peer: Peer) -> Counter[int]:
    """How often each channel was opened more than closed, as the peer saw it; one is for publishing."""
    opened = Counter(channel for channel, method in peer.methods if isinstance(method, commands.Channel.Open))
    opened.subtract(channel for channel, method in peer.methods if isinstance(method, commands.Channel.Close))
    return +opened


async def test_a_check_waits_for_a_broker_that_confirms() -> None:
    async with unanswered() as (peer, link, check):
        await confirm_for(peer, link, 3 * SILENCE)
        assert not check.done()
        peer.speak()
        await check
        assert not link.lost
        await settle()
        assert channels_left_open(peer).total() == 1


async def test_a_check_fails_once_the_confirms_end() -> None:
    async with unanswered() as (peer, link, check):
        await confirm_for(peer, link, 2 * SILENCE)
        with pytest.raises(ConnectionLost, match="ML_HEALTH_TIMEOUT"):
            await asyncio.wait_for(check, 10)


async def test_a_check_that_a_memory_alarm_overtakes_is_no_failure() -> None:
    async with unanswered() as (peer, link, check):
        await settle()
        peer.send(0, commands.Connection.Blocked("low on memory"))
        await asyncio.wait_for(check, 10)
        assert not link.lost


async def test_queues_that_do_not_answer_are_not_counted_and_the_link_stays() -> None:
    peer = Peer()
    async with linked(peer, check_timeout=SILENCE) as link:
        peer.silent = True
        for _ in range(3):
            assert await link.broker.queue_depths() == {}
        assert not link.lost
        peer.speak()
        await settle()
        assert channels_left_open(peer).total() == 1, "late answers leave no channel behind"
        assert await link.broker.queue_depths() == {"ml.embed": QueueDepth(0, 0)}
        assert max(channel for channel, _ in peer.methods) < 12, "nor use up its number"


async def test_a_new_channel_may_come_late_after_a_timeout() -> None:
    peer = Peer()
    async with linked(peer, check_timeout=SILENCE) as link:
        kept = [link.publish(f"kept {n}", seconds=60) for n in range(12)]
        published = list(await peer.until(12))
        peer.silent = True
        link.publish("late", seconds=0.1)
        for each in published:  # for three times as long as a silent broker would be given
            await asyncio.sleep(SILENCE / 4)
            peer.ack(each)
        await settle()
        assert kept == [[Confirmed()]] * 12
        assert not link.lost
        peer.speak()
        await settle()
        outcomes = link.publish("new")
        peer.ack((await peer.until(14))[-1])
        await settle()
        assert outcomes == [Confirmed()]


async def test_a_close_that_was_given_up_is_not_sent_again() -> None:
    """RabbitMQ ends the connection for a close of a channel that is closed (504)."""
    sent: list[bytes] = []
    channel = Channel(7, sent.append)
    first = asyncio.create_task(channel.close())
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(channel.close())
    await asyncio.sleep(0)
    channel.received(commands.Channel.CloseOk())
    await second
    assert first.cancelled()
    assert len(sent) == 1
    assert channel.reusable
