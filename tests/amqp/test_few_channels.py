"""A connection of one channel and of the smallest frames: what needs another channel is left out, and nothing fails."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pamqp import commands

from making_queues import queue_states, vhost_of
from mlproducer import Producer, Settings, Task
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Unsure, UnsureCause
from mlproducer.reliability.message import expected
from mlproducer.reliability.reader import Reader
from mlproducer.testing.rabbitmq import PrivateRabbit, version
from real_link import outcome, real
from scripted_peer import Peer, linked, settle

SMALLEST = commands.Connection.Tune(1, 4_096, 0)


async def test_all_goes_over_one_channel() -> None:
    peer = Peer(tune=SMALLEST)
    async with linked(peer, named=False, queues=("ml.embed", "ml.other")) as link:
        outcomes = link.publish(size=10_000)
        (published,) = await peer.until(1)
        await settle()
        assert link.publish(alone=True) == [NotSent(NotSentCause.WINDOW_FULL)], "it waits for its turn"
        peer.ack(published)
        await settle()
        alone = link.publish(alone=True)
        peer.ack((await peer.until(2))[1])
        await link.broker.check()
        assert await link.broker.queue_depths() == {}
        await settle()
        assert outcomes + alone == [Confirmed(), Confirmed()]
        made = [m.queue for _, m in peer.methods if isinstance(m, commands.Queue.Declare) and not m.passive]
        assert sorted(made) == ["ml.embed", "ml.other"], "at the connect, while there is a channel for it"
        assert {channel for channel, _ in peer.methods} == {1}
        assert max(peer.frames) <= 4_096
        assert not link.lost


@pytest.mark.parametrize("channels", [1, 2, 3])
async def test_a_channel_that_a_timeout_or_the_broker_ends_makes_room_for_the_next(channels: int) -> None:
    peer = Peer(tune=commands.Connection.Tune(channels, 4_096, 0))
    async with linked(peer) as link:
        for turn in range(3):
            late = link.publish(seconds=0.1)
            (*_, unheard) = await peer.until(3 * turn + 1)
            await asyncio.sleep(0.3)
            assert isinstance(late[0], Unsure), late
            refused = link.publish()
            (*_, bad) = await peer.until(3 * turn + 2)
            peer.send(bad.channel, commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 40))
            await settle()
            assert refused == [NotSent(NotSentCause.CHANNEL_REFUSED, 406, "PRECONDITION_FAILED")]
            well = link.publish()
            peer.ack((await peer.until(3 * turn + 3))[-1])
            await settle()
            assert well == [Confirmed()]
            await link.broker.check()
            await link.broker.queue_depths()
            assert unheard.channel <= channels
        assert not link.lost


async def test_what_is_on_the_only_channel_when_it_must_go_is_unsure() -> None:
    peer = Peer(tune=SMALLEST)
    async with linked(peer) as link:
        slow, other = link.publish(seconds=0.1), link.publish(seconds=20)
        await peer.until(2)
        await asyncio.sleep(0.3)
        assert [each[0].cause for each in (slow, other) if isinstance(each[0], Unsure)] == [
            UnsureCause.CONFIRM_TIMEOUT,
            UnsureCause.CHANNEL_LOST,
        ]
        assert link.broker.view().in_flight == 0
        assert link.broker.view().in_flight_bytes == 0


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
async def test_rabbitmq_takes_tasks_over_few_channels_and_small_frames(
    rabbit: PrivateRabbit, vhost_url: str, channels: int
) -> None:
    queues = ("ml.embed", "ml.other", "ml.third")
    async with real(vhost_url, *queues, named=False, channel_max=channels, frame_max=8_192) as link:
        for _ in range(2):
            await link.broker.connect()
            assert await outcome(link) == Confirmed()
            alone = link.publish(alone=True, size=30_000)
            async with asyncio.timeout(30):
                while not alone:  # noqa: ASYNC110  # a list tells no event
                    await asyncio.sleep(0.005)
            assert alone == [Confirmed()]
            await link.broker.check()
            depths = await link.broker.queue_depths()
            assert not link.lost
            await link.broker.close()
        assert ("ml.embed" in depths) == (channels > 1)
    made = [name for name, _, _ in await asyncio.to_thread(queue_states, rabbit, vhost_url)]
    assert made == (sorted(queues) if channels == 1 else ["ml.embed"])


@contextmanager
def limits(rabbit: PrivateRabbit, *, channels: int, frame: int) -> Iterator[None]:
    """`channel_max` and `frame_max` as of rabbitmq.conf, which the broker reads anew for each connection."""

    def limit(*values: str) -> None:
        pairs = ", ".join(f"{{{name}, {value}}}" for name, value in zip(names, values, strict=True))
        rabbit.eval(f"[ok = application:set_env(rabbit, Name, Value) || {{Name, Value}} <- [{pairs}]].")

    names = "channel_max", "frame_max"
    before = [rabbit.eval(f"element(2, application:get_env(rabbit, {name})).") for name in names]
    limit(str(channels), str(frame))
    try:
        yield
    finally:
        limit(*before)


@pytest.mark.parametrize("channels", [1, 2])
async def test_a_broker_whose_own_limits_are_the_narrowest_takes_tasks_larger_than_a_frame(
    rabbit: PrivateRabbit, vhost_url: str, channels: int
) -> None:
    """RabbitMQ 4.1 and newer take no frame below 8,192 bytes."""
    frame = 8_192 if tuple(map(int, version().split(".")[:2])) >= (4, 1) else 4_096
    texts = ("x" * frame, "short", "y" * 10 * frame)
    tasks = [Task(task_type="embed_vectors", payload={"share_id": "s", "content": text}) for text in texts]
    with limits(rabbit, channels=channels, frame=frame):
        async with Producer(Settings.load(rabbitmq_url=vhost_url, ml_spool_url="memory://")) as producer:
            assert await producer.connected(30)
            receipts = [await producer.publish(task, timeout=60) for task in tasks]
            agreed = await asyncio.to_thread(
                rabbit.eval,
                "[[V || {_, V} <- rabbit_reader:info(Pid, [channel_max, frame_max])] || "
                "Pid <- rabbit_networking:connections(), "
                f"[{{_, Host}}] <- [rabbit_reader:info(Pid, [vhost])], Host =:= {vhost_of(vhost_url)}].",
            )
    assert agreed.replace(" ", "") == f"[[{channels},{frame}]]"
    assert all(receipt.confirmed for receipt in receipts)
    with Reader(vhost_url) as reader:
        found = {message.task_id: message.digest for message in reader.take("ml.embed")}
    assert found == {receipt.task_id: expected(task) for receipt, task in zip(receipts, tasks, strict=True)}
