"""What a connect asks of exchange, queues and bindings, and what it does not wait for."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import base, commands

from making_queues import delete_queue, vhost_of
from mlproducer.amqp.channel import Channel
from mlproducer.amqp.faults import ChannelClosed
from mlproducer.outcome import Confirmed, Returned
from mlproducer.testing.rabbitmq import PrivateRabbit
from real_link import add_user, outcome, real
from scripted_peer import Peer, linked, settle

CHANGES = (commands.Exchange.Declare, commands.Queue.Declare, commands.Queue.Bind)
MANY = tuple(f"ml.queue{n}" for n in range(13))


def changing(method: base.Frame) -> bool:
    return isinstance(method, CHANGES) and not getattr(method, "passive", False)


async def test_the_questions_of_a_connect_wait_for_no_answer_before_the_next_is_asked() -> None:
    peer = Peer()
    async with linked(peer, queues=MANY) as link:
        await link.broker.close()
        peer.methods.clear()
        peer.deaf = lambda method: isinstance(method, commands.Queue.Declare)
        await link.broker.connect()
        asked = [method.queue for _, method in peer.methods if isinstance(method, commands.Queue.Declare)]
        assert sorted(asked) == sorted(MANY), "though none of them was answered"
        assert not [method for _, method in peer.methods if changing(method)]


@pytest.mark.parametrize("known", [True, False])
async def test_a_cluster_that_cannot_bind_lets_us_connect_and_publish(known: bool) -> None:  # noqa: FBT001  # a parameter
    """One node of three is stopped (SIGSTOP): the others answer, but a binding waits for it."""
    peer = Peer()
    async with linked(peer, connect=False) as link:
        if known:
            await link.broker.connect()
            await link.broker.close()
        peer.deaf = lambda method: isinstance(method, commands.Queue.Bind)
        await link.broker.connect()
        outcomes = link.publish()
        peer.ack((await peer.until(1))[0])
        await settle()
        assert outcomes == [Confirmed()]


async def test_a_task_whose_queue_cannot_be_bound_goes_out_after_a_while() -> None:
    peer = Peer()
    async with linked(peer, named=False) as link:
        peer.deaf = lambda method: isinstance(method, commands.Queue.Bind)
        outcomes = [link.publish(), link.publish()]
        peer.ack((await peer.until(2))[1], multiple=True)
        await settle()
        assert outcomes == [[Confirmed()], [Confirmed()]]


async def test_one_queue_that_does_not_answer_holds_up_neither_the_connect_nor_the_others() -> None:
    peer = Peer()
    peer.deaf = lambda method: getattr(method, "queue", "") == "ml.stuck"
    async with linked(peer, queues=("ml.stuck", "ml.embed")) as link:
        outcomes = link.publish()
        peer.ack((await peer.until(1))[0])
        await settle()
        assert outcomes == [Confirmed()]
        for _ in range(3):
            assert set(await link.broker.queue_depths()) == {"ml.embed"}
        looks = [m for _, m in peer.methods if isinstance(m, commands.Queue.Declare) and m.passive]
        assert [m.queue for m in looks].count("ml.stuck") == 1, "each would take one more channel"


async def test_a_binding_that_somebody_takes_away_is_made_again(rabbit: PrivateRabbit, vhost_url: str) -> None:
    vhost = vhost_of(vhost_url)
    unbind = f'[rabbit_binding:remove(Binding, <<"test">>) || Binding <- rabbit_binding:list({vhost})].'
    async with real(vhost_url, "ml.embed") as link:
        await link.broker.connect()
        assert await outcome(link) == Confirmed()
        await asyncio.to_thread(rabbit.eval, unbind)
        assert await outcome(link) == Returned(312, "NO_ROUTE")
        assert await outcome(link) == Confirmed()
        await asyncio.to_thread(rabbit.eval, unbind)
        await link.broker.close()
        await link.broker.connect()
        assert await outcome(link) == Returned(312, "NO_ROUTE")
        assert await outcome(link) == Confirmed()


async def test_a_queue_or_an_exchange_that_went_while_we_were_away_is_made_again(
    rabbit: PrivateRabbit, vhost_url: str
) -> None:
    vhost = vhost_of(vhost_url)
    exchange = f'rabbit_exchange:delete(rabbit_misc:r({vhost}, exchange, <<"ml.tasks">>), false, <<"test">>).'
    async with real(vhost_url, "ml.embed") as link:
        await link.broker.connect()
        assert await outcome(link) == Confirmed()
        await link.broker.close()
        await asyncio.to_thread(delete_queue, vhost_url, "ml.embed")
        await link.broker.connect()
        assert await outcome(link) == Confirmed()
        await link.broker.close()
        await asyncio.to_thread(rabbit.eval, exchange)
        await link.broker.connect()
        assert await outcome(link) == Confirmed()


@pytest.mark.parametrize("named", [True, False])
async def test_a_user_who_may_only_write_publishes(
    rabbit: PrivateRabbit,
    vhost_url: str,
    named: bool,  # noqa: FBT001  # a parameter
) -> None:
    """He may neither configure nor read, and some brokers do not even tell him what is there."""
    async with real(vhost_url, "ml.embed") as owner:
        await owner.broker.connect()
    writer = await asyncio.to_thread(add_user, rabbit, vhost_url, "", ".*", "")
    async with real(vhost_url, "ml.embed", login=writer, named=named) as link:
        for _ in range(2):
            await link.broker.connect()
            assert await outcome(link) == Confirmed()
            await link.broker.check()
            await link.broker.queue_depths()
            await link.broker.close()
        assert link.lost == []
        assert not any(difference.broken for difference in link.broker.view().differences)


async def test_a_broker_that_answers_each_look_with_403_is_published_to() -> None:
    peer = Peer()
    peer.refusing = lambda method: commands.Channel.Close(403, "ACCESS_REFUSED", 50, 10) if _asks(method) else None
    async with linked(peer) as link:
        outcomes = link.publish()
        peer.ack((await peer.until(1))[0])
        await settle()
        await link.broker.check()
        assert await link.broker.queue_depths() == {}
        assert outcomes == [Confirmed()]
        assert link.broker.view().connected


def _asks(method: base.Frame) -> bool:
    return isinstance(method, CHANGES)


async def test_the_number_of_a_channel_whose_closes_cross_is_free_after_both() -> None:
    sent: list[bytes] = []
    channel = Channel(7, sent.append)
    closing = asyncio.create_task(channel.close())
    await asyncio.sleep(0)
    channel.received(commands.Channel.Close(404, "NOT_FOUND", 50, 10))
    freed = [channel.reusable]  # the answer to our close is still to come, and would be another channel's
    channel.received(commands.Channel.CloseOk())
    await closing
    assert [*freed, channel.reusable] == [False, True]
    assert isinstance(channel.end, ChannelClosed)
    assert channel.end.code == 404
    assert len(sent) == 2, "one close, and one answer to the broker's"
