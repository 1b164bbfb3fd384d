"""A peer that answers after the attempt was given up: who hears of it, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from pamqp import commands

from mlproducer.amqp import retired as module
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Outcome, Returned, Unsure, UnsureCause
from scripted_peer import Link, Peer, Published, linked, settle


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.01)


async def given_up(
    link: Link, peer: Peer, count: int = 1, *, alone: bool = False
) -> tuple[list[Published], list[Outcome]]:
    """So many attempts that were not answered in time, and what is heard of them later."""
    before = len(peer.published)
    outcomes = [link.publish(f"t{n}", seconds=0.2, alone=alone) for n in range(count)]
    await until(lambda: all(outcomes))
    heard: list[Outcome] = []
    for (outcome,) in outcomes:
        assert isinstance(outcome, Unsure)
        assert outcome.late is not None
        outcome.late.listen(heard.append)
    return (await peer.until(before + count))[before:], heard


def is_closed(peer: Peer, channel: int) -> bool:
    return (channel, commands.Channel.Close) in [(number, type(method)) for number, method in peer.methods]


def is_open(peer: Peer, channels: int) -> bool:
    """So many were asked to confirm."""
    return sum(isinstance(method, commands.Confirm.Select) for _, method in peer.methods) >= channels


async def test_a_late_ack_is_heard_and_then_the_channel_is_closed() -> None:
    peer = Peer()
    async with linked(peer) as link:
        published, heard = await given_up(link, peer, 3)
        assert link.broker.view().in_flight == 0
        peer.ack(published[1], multiple=True)
        await until(lambda: len(heard) == 2)
        assert heard == [Confirmed(), Confirmed()]
        assert not is_closed(peer, published[0].channel), "one may still be answered"
        peer.nack(published[2])
        await until(lambda: is_closed(peer, published[0].channel))
        assert heard[2:] == [Nacked()]
        assert not link.lost


async def test_a_late_return_is_one() -> None:
    peer = Peer()
    async with linked(peer) as link:
        published, heard = await given_up(link, peer)
        peer.give_back(published[0])
        peer.ack(published[0])
        await until(lambda: bool(heard))
        assert heard == [Returned(312, "NO_ROUTE")]


async def test_what_is_alone_on_its_channel_is_listened_to_as_well() -> None:
    peer = Peer()
    async with linked(peer) as link:
        published, heard = await given_up(link, peer, alone=True)
        peer.ack(published[0])
        await until(lambda: bool(heard))
        assert heard == [Confirmed()]


async def test_what_is_alone_waits_for_no_other_route_s_answer() -> None:
    peer = Peer()
    async with linked(peer) as link:
        silent = link.publish("silent", queue="ml.silent", alone=True)
        await peer.until(1)
        behind = link.publish("behind", queue="ml.silent", alone=True)
        other = link.publish("other", queue="ml.other", alone=True)
        one, two = await peer.until(2)
        assert two.channel != one.channel
        peer.ack(two)
        await until(lambda: bool(other))
        assert (silent, behind, other) == ([], [], [Confirmed()])
        assert link.broker.view().in_flight == 2
        peer.ack(one)
        peer.ack((await peer.until(3))[2])
        await until(lambda: bool(behind))
        assert (silent, behind) == ([Confirmed()], [Confirmed()])
        assert link.broker.view().in_flight == 0


async def test_who_is_not_answered_in_time_hears_so_and_the_channel_is_closed() -> None:
    peer = Peer()
    async with linked(peer, late_for=0.3) as link:
        published, heard = await given_up(link, peer, 2)
        await until(lambda: is_closed(peer, published[0].channel))
        assert [type(outcome) for outcome in heard] == [Unsure, Unsure]
        peer.ack(published[1], multiple=True)
        await settle()
        assert len(heard) == 2
        assert not link.lost


async def test_the_end_of_the_connection_is_the_end_of_the_wait() -> None:
    peer = Peer()
    async with linked(peer) as link:
        _, heard = await given_up(link, peer)
        assert peer.writer is not None
        peer.writer.transport.abort()
        await until(lambda: bool(heard))
        (outcome,) = heard
        assert isinstance(outcome, Unsure)
        assert outcome.cause is UnsureCause.CONNECTION_LOST


@pytest.mark.parametrize("others", [0, 1])
async def test_a_refusal_blames_one_only_if_nobody_else_may_be_to_blame(others: int) -> None:
    """One attempt is outstanding, or late; a second one that is late may be the one that was refused."""
    peer = Peer()
    async with linked(peer) as link:
        slow = link.publish("slow", seconds=20)
        (first,) = await peer.until(1)
        if others:
            _, heard = await given_up(link, peer, others)
        peer.send(first.channel, commands.Channel.Close(404, "NOT_FOUND", 60, 40))
        await until(lambda: bool(slow))
        if others:
            assert isinstance(slow[0], Unsure)
            assert slow[0].cause is UnsureCause.CHANNEL_REFUSED
            assert heard == slow
        else:
            assert isinstance(slow[0], NotSent)
            assert slow[0].cause is NotSentCause.CHANNEL_REFUSED


async def test_only_so_many_channels_are_kept_open_and_the_oldest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_RETIRED", 2)
    peer = Peer()
    async with linked(peer) as link:
        rounds = []
        for _ in range(4):
            await until(lambda: link.broker.obstacle is None)
            rounds.append(await given_up(link, peer))
        await until(lambda: is_closed(peer, rounds[1][0][0].channel))
        assert [bool(heard) for _, heard in rounds] == [True, True, False, False]
        peer.ack(rounds[3][0][0])
        await until(lambda: bool(rounds[3][1]))
        assert rounds[3][1] == [Confirmed()]
        assert not link.lost


async def test_who_moves_leaves_what_is_in_flight_where_it_is() -> None:
    peer = Peer()
    async with linked(peer) as link:
        before = link.publish("before")
        await peer.until(1)
        link.broker.move()
        link.broker.move()  # it is under way
        assert link.broker.obstacle is None, "meanwhile the old channel is as good as ever"
        while_moving = link.publish("while moving")
        await until(lambda: is_open(peer, 2))
        after = link.publish("after")
        one, two, three = await peer.until(3)
        assert one.channel == two.channel != three.channel
        assert link.broker.view().in_flight == 3
        peer.ack(three)
        peer.ack(two, multiple=True)
        await until(lambda: bool(before and while_moving and after))
        assert before == while_moving == after == [Confirmed()]
        await until(lambda: is_closed(peer, one.channel))
        assert not is_closed(peer, three.channel)
        assert link.broker.view().in_flight == 0
        assert not link.lost


async def test_a_channel_that_was_left_has_its_time_and_is_no_reason_for_another() -> None:
    peer = Peer()
    async with linked(peer) as link:
        slow = link.publish("slow", seconds=1.0)
        await peer.until(1)
        link.broker.move()
        await until(lambda: is_open(peer, 2))
        await until(lambda: bool(slow))
        (outcome,) = slow
        assert isinstance(outcome, Unsure)
        assert link.broker.obstacle is None
        assert not is_open(peer, 3)
        heard: list[Outcome] = []
        assert outcome.late is not None
        outcome.late.listen(heard.append)
        peer.ack(peer.published[0])
        await until(lambda: bool(heard))
        assert heard == [Confirmed()]


async def test_a_link_of_few_channels_keeps_none_for_late_answers() -> None:
    peer = Peer(tune=commands.Connection.Tune(3, 131072, 0))
    async with linked(peer) as link:
        for _ in range(3):
            await until(lambda: link.broker.obstacle is None)
            outcomes = link.publish(seconds=0.1)
            await until(lambda: bool(outcomes))  # noqa: B023  # this round's
            (outcome,) = outcomes
            assert isinstance(outcome, Unsure)
            assert outcome.late is None
        assert not link.lost
