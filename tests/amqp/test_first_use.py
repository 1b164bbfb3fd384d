"""A queue is made with its first task: before it goes out, once, and while nobody else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pamqp import base, commands

from mlproducer.amqp.first_use import FirstUse
from mlproducer.jobs import Jobs
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome, Returned
from mlproducer.task import Envelope
from mlproducer.wiring import SystemClock
from scripted_peer import Link, Peer, envelope, linked, settle

CHANGES = (
    commands.Exchange.Declare,
    commands.Queue.Declare,
    commands.Queue.Bind,
    commands.Queue.Delete,
    commands.Queue.Purge,
)


def changes(peer: Peer) -> list[base.Frame]:
    """What the peer was asked that is no look."""
    return [
        method for _, method in peer.methods if isinstance(method, CHANGES) and not getattr(method, "passive", False)
    ]


def to(link: Link, queue: str, *, seconds: float = 30.0) -> list[Outcome]:
    one = envelope()
    outcomes: list[Outcome] = []
    sent = Envelope(one.task_id, one.task_type, queue, one.properties, one.body)
    link.broker.publish(sent, outcomes.append, deadline=SystemClock().monotonic() + seconds)
    return outcomes


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110  # a peer tells no event
            await asyncio.sleep(0.005)


async def test_a_link_that_nobody_publishes_on_changes_nothing() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        await link.broker.check()
        await link.broker.queue_depths()
        link.broker.view()
        assert changes(peer) == []


async def test_the_first_task_makes_its_queue_before_it_goes_out_and_the_next_ones_ask_nothing() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        first = [link.publish(f"t{n}") for n in range(3)]
        assert link.broker.view().in_flight == 3
        published = await peer.until(3)
        kinds = [type(method) for method in changes(peer)]
        assert kinds == [commands.Exchange.Declare, commands.Queue.Declare, commands.Queue.Bind]
        asked = len(peer.methods)
        later = [link.publish("later") for _ in range(5)]
        published = await peer.until(8)
        assert len(peer.methods) == asked, "no second round trip"
        peer.ack(published[-1], multiple=True)
        await settle()
        assert [*first, *later] == [[Confirmed()]] * 8
        assert link.broker.view().in_flight == 0


async def test_a_route_whose_queue_does_not_answer_delays_no_other_and_keeps_its_deadline() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        await link.broker.check()
        well = to(link, "ml.well")
        peer.ack((await peer.until(1))[0])
        await settle()
        peer.silent = True
        stuck = to(link, "ml.stuck", seconds=0.2)
        again = to(link, "ml.well")
        peer.ack((await peer.until(2))[1])
        await until(lambda: bool(stuck))
        assert (well, again) == ([Confirmed()], [Confirmed()])
        assert stuck == [NotSent(NotSentCause.DEADLINE)]
        assert link.broker.view().connected
        peer.silent = False


async def test_a_task_that_comes_back_as_unroutable_has_its_queue_made_by_the_next_one() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        gone = link.publish("gone")
        (published,) = await peer.until(1)
        peer.give_back(published)
        peer.ack(published)
        await settle()
        assert gone == [Returned(312, "NO_ROUTE")]
        before = len(changes(peer))
        link.publish("next")
        await peer.until(2)
        assert [type(method) for method in changes(peer)[before:]] == [commands.Queue.Declare, commands.Queue.Bind]


async def test_what_was_used_is_looked_at_again_after_a_reconnect_and_nothing_else() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        link.publish()
        await peer.until(1)
        await link.broker.close()
        peer.methods.clear()
        await link.broker.connect()
        assert changes(peer) == [], "what is there is neither declared nor bound again"
        looked_at = [method.queue for _, method in peer.methods if isinstance(method, commands.Queue.Declare)]
        assert looked_at == ["ml.embed"]
        asked = len(peer.methods)
        link.publish()
        await peer.until(2)
        assert len(peer.methods) == asked


async def test_a_link_that_ends_meanwhile_settles_what_waited_as_never_sent() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        peer.silent = True
        waiting = [link.publish(f"t{n}") for n in range(4)]
        await settle()
        assert peer.writer is not None
        peer.writer.transport.abort()
        await until(lambda: all(waiting))
        assert waiting == [[NotSent(NotSentCause.NOT_CONNECTED)]] * 4
        assert not peer.published


async def test_a_fault_of_ours_in_between_leaves_nobody_waiting_and_is_reported() -> None:
    told: list[Exception] = []
    jobs = Jobs(told.append)

    async def broken(_queue: str) -> str:
        raise ZeroDivisionError

    first_use = FirstUse(broken, lambda *_: None, SystemClock(), jobs.spawn, lambda: None, jobs)
    outcomes: list[Outcome] = []
    first_use.publish(envelope(), outcomes.append, SystemClock().monotonic() + 3, False)
    await until(lambda: bool(outcomes and told))
    assert outcomes == [NotSent(NotSentCause.NOT_CONNECTED)]
    assert isinstance(told[0], ZeroDivisionError)
    assert first_use.in_flight == 0
