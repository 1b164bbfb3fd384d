"""The AMQP shell against a peer that does what no real broker can be asked to do on time."""

from __future__ import annotations

import asyncio

import pytest
from pamqp import commands, frame

from mlproducer.amqp.config import Credentials
from mlproducer.errors import BrokerError, BrokerRefused, BrokerUnreachable, ConnectionLost, ErrorType
from mlproducer.events import BlockedChanged, ConfirmsTimedOut, PartFailed
from mlproducer.outcome import Confirmed, Nacked, NotSent, NotSentCause, Returned, Unsure, UnsureCause, blocked_text
from scripted_peer import Peer, envelope, linked, settle


async def test_an_ack_with_multiple_confirms_all_up_to_it_and_no_more() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = [link.publish(f"t{n}") for n in range(5)]
        published = await peer.until(5)
        peer.ack(published[2], multiple=True)
        await settle()
        assert [len(o) for o in outcomes] == [1, 1, 1, 0, 0]
        assert link.broker.view().in_flight == 2
        assert link.broker.view().in_flight_bytes == 2 * envelope().size


async def test_a_nack_and_a_return_each_settle_their_own_attempt() -> None:
    peer = Peer()
    async with linked(peer) as link:
        first, second, third = (link.publish("the same task id") for _ in range(3))
        published = await peer.until(3)
        peer.give_back(published[1])
        peer.nack(published[0])
        peer.ack(published[2], multiple=True)
        await settle()
        assert first == [Nacked()]
        assert second == [Returned(312, "NO_ROUTE")]
        assert third == [Confirmed()]
        assert len({p.message_id for p in published}) == 3, "each attempt has a message id of its own"


async def test_a_timeout_is_unsure_retires_the_channel_and_a_late_ack_settles_nobody() -> None:
    peer = Peer()
    async with linked(peer) as link:
        slow = link.publish("slow", seconds=0.1)
        other = link.publish("other", seconds=2)
        published = await peer.until(2)
        await asyncio.sleep(0.2)
        assert isinstance(slow[0], Unsure)
        assert slow[0].cause is UnsureCause.CONFIRM_TIMEOUT
        assert [event.count for event in link.events if isinstance(event, ConfirmsTimedOut)] == [1]
        assert other == [], "what is left on the retired channel may still settle in its own time"
        new = link.publish("new")
        (*_, last) = await peer.until(3)
        assert last.channel != published[0].channel, "nothing new goes onto the retired channel"
        peer.ack(published[0])
        peer.ack(published[1])
        await settle()
        assert len(slow) == 1
        assert other == [Confirmed()]
        assert new == []
        peer.ack(last)
        await settle()
        assert new == [Confirmed()]


async def test_a_peer_that_gives_no_new_channel_after_a_timeout_is_a_lost_link() -> None:
    peer = Peer()
    async with linked(peer, check_timeout=0.5) as link:
        peer.silent = True
        outcomes = link.publish(seconds=0.1)
        await asyncio.sleep(1.2)
        assert isinstance(outcomes[0], Unsure)
        assert len(link.lost) == 1
        assert not link.broker.view().connected


async def test_a_lost_connection_makes_everything_in_flight_unsure_once() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = [link.publish(f"t{n}") for n in range(3)]
        await peer.until(3)
        assert peer.writer is not None
        peer.writer.transport.abort()
        await settle()
        assert [o[0].cause for o in outcomes if isinstance(o[0], Unsure)] == [UnsureCause.CONNECTION_LOST] * 3
        assert len(link.lost) == 1
        after = link.publish()
        assert after == [NotSent(NotSentCause.NOT_CONNECTED)]


async def test_blocked_is_told_and_nothing_is_written_until_unblocked() -> None:
    peer = Peer()
    async with linked(peer) as link:
        peer.send(0, commands.Connection.Blocked("low on memory"))
        await settle()
        assert link.broker.view().blocked
        assert link.publish() == [NotSent(NotSentCause.BLOCKED, text=blocked_text("low on memory"))]
        peer.send(0, commands.Connection.Unblocked())
        await settle()
        assert [e.blocked for e in link.events if isinstance(e, BlockedChanged)] == [True, False]
        outcomes = link.publish()
        peer.ack((await peer.until(1))[0])
        await settle()
        assert outcomes == [Confirmed()]


async def test_a_channel_closed_because_of_its_only_message_blames_that_message() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = link.publish()
        (published,) = await peer.until(1)
        peer.send(published.channel, commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 40))
        await settle()
        assert outcomes == [NotSent(NotSentCause.CHANNEL_REFUSED, 406, "PRECONDITION_FAILED")]
        assert link.broker.view().connected, "another channel was opened"


async def test_a_channel_closed_in_company_blames_nobody_and_each_can_be_tried_alone() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = [link.publish(f"t{n}") for n in range(2)]
        published = await peer.until(2)
        peer.send(published[0].channel, commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 40))
        await settle()
        assert [o[0].cause for o in outcomes if isinstance(o[0], Unsure)] == [UnsureCause.CHANNEL_REFUSED] * 2
        alone = [link.publish(f"t{n}", alone=True) for n in range(2)]
        (*_, first) = await peer.until(3)
        await settle()
        assert len(peer.published) == 3, "the second waits for the first"
        company = link.publish("company")
        await peer.until(4)
        assert peer.published[3].channel != first.channel
        peer.send(first.channel, commands.Channel.Close(406, "PRECONDITION_FAILED", 60, 40))
        published = await peer.until(5)
        peer.ack(published[3])
        peer.ack(published[4])
        await settle()
        assert alone[0] == [NotSent(NotSentCause.CHANNEL_REFUSED, 406, "PRECONDITION_FAILED")]
        assert alone[1] == [Confirmed()]
        assert company == [Confirmed()]


async def test_a_channel_closed_for_the_brokers_own_reasons_is_unsure() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = link.publish()
        (published,) = await peer.until(1)
        peer.send(published.channel, commands.Channel.Close(541, "INTERNAL_ERROR", 0, 0))
        await settle()
        assert isinstance(outcomes[0], Unsure)
        assert outcomes[0].cause is UnsureCause.CHANNEL_LOST


async def test_a_body_is_split_at_the_negotiated_frame_size() -> None:
    peer = Peer(tune=commands.Connection.Tune(2047, 4096, 0))
    async with linked(peer) as link:
        outcomes = link.publish(size=10_000)
        async with asyncio.timeout(30):
            while not peer.published or len(peer.published[0].body) < 10_000:  # noqa: ASYNC110  # no event for it
                await asyncio.sleep(0.01)
        assert max(peer.frames) == 4096
        peer.ack(peer.published[0])
        await settle()
        assert outcomes == [Confirmed()]


async def test_acks_that_come_in_any_pieces_are_understood() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = [link.publish(f"t{n}") for n in range(6)]
        published = await peer.until(6)
        data = b"".join(frame.marshal(commands.Basic.Ack(p.tag, False), p.channel) for p in published)
        for size in (1, 2, 7, 20, 5, 21, 3):
            piece, data = data[:size], data[size:]
            peer.raw(piece)
            await asyncio.sleep(0.005)
        peer.raw(data)
        await settle()
        assert outcomes == [[Confirmed()]] * 6


async def test_an_ack_for_what_was_never_published_ends_the_connection() -> None:
    peer = Peer()
    async with linked(peer) as link:
        outcomes = link.publish()
        (published,) = await peer.until(1)
        peer.send(published.channel, commands.Basic.Ack(99, False))
        await settle()
        assert isinstance(outcomes[0], Unsure)
        assert link.lost[0].error_type is ErrorType.PROTOCOL


async def test_heartbeats_are_sent_when_idle_and_silence_is_a_lost_link() -> None:
    peer = Peer(tune=commands.Connection.Tune(2047, 131072, 1))
    async with linked(peer, heartbeat=60) as link:
        async with asyncio.timeout(20):
            while not link.lost:  # noqa: ASYNC110  # the link tells a list
                await asyncio.sleep(0.05)
        assert peer.heartbeats >= 1, "the lower interval of the two, one second, is kept"
        assert [error.error_type for error in link.lost] == [ErrorType.HEARTBEAT]


async def test_garbage_is_not_amqp() -> None:
    async def web(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    peer = Peer()
    peer.serve = web  # type: ignore[assignment,method-assign]  # another kind of server altogether
    async with linked(peer, connect=False) as link:
        with pytest.raises(BrokerRefused, match="does not speak AMQP"):
            await link.broker.connect()


async def test_the_next_connect_goes_to_the_next_host_of_the_list() -> None:
    first, second = Peer(), Peer()
    async with linked(first, second) as link:
        assert link.broker.view().node == f"127.0.0.1:{first.port}"
        assert first.writer is not None
        first.writer.transport.abort()
        await settle()
        await link.broker.connect()
        assert link.broker.view().node == f"127.0.0.1:{second.port}"
        outcomes = link.publish()
        second.ack((await second.until(1))[0])
        await settle()
        assert outcomes == [Confirmed()]


async def test_credentials_are_asked_for_at_each_connect() -> None:
    passwords = iter(("first", "second"))

    async def credentials() -> Credentials:
        return Credentials("ml", next(passwords))

    peer = Peer()
    async with linked(peer, credentials=credentials) as link:
        await link.broker.close()
        await link.broker.connect()
        assert peer.logins == [("PLAIN", "\0ml\0first"), ("PLAIN", "\0ml\0second")]


async def test_external_sends_no_password() -> None:
    peer = Peer()
    async with linked(peer, mechanism="EXTERNAL"):
        assert peer.logins == [("EXTERNAL", "")]


async def test_a_mechanism_that_is_not_offered_is_named_with_its_setting() -> None:
    peer = Peer(mechanisms="AMQPLAIN")
    async with linked(peer, connect=False) as link:
        with pytest.raises(BrokerRefused, match="RABBITMQ_AUTH"):
            await link.broker.connect()


@pytest.mark.parametrize(("frame_max", "blamed"), [(4_096, True), (131_072, False)])
async def test_a_broker_that_ends_the_connection_over_its_own_small_frames_is_told_so(
    frame_max: int,
    blamed: bool,  # noqa: FBT001  # the fact itself
) -> None:
    peer = Peer(tune=commands.Connection.Tune(0, frame_max, 0), hangs_up=True)
    async with linked(peer, connect=False) as link:
        with pytest.raises(BrokerError) as ended:
            await link.broker.connect()
    assert ("frame_max is 4,096 bytes" in str(ended.value)) is blamed
    assert ("8,192" in str(ended.value)) is blamed


async def test_a_refused_login_does_not_show_the_password() -> None:
    peer = Peer(refuse=commands.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))
    async with linked(peer, connect=False) as link:
        with pytest.raises(BrokerRefused) as refused:
            await link.broker.connect()
    assert refused.value.error_type is ErrorType.AUTH
    assert "s3cret" not in f"{refused.value!r} {refused.value}"


async def test_nobody_there_is_unreachable_and_names_the_setting() -> None:
    peer = Peer()
    async with linked(peer, connect=False) as link:
        pass
    with pytest.raises(BrokerUnreachable, match="RABBITMQ_URL"):
        await link.broker.connect()


async def test_a_connection_closed_by_the_broker_says_what_it_said() -> None:
    peer = Peer()
    async with linked(peer) as link:
        peer.send(0, commands.Connection.Close(320, "CONNECTION_FORCED - shutdown", 0, 0))
        await settle()
        assert link.lost[0].error_type is ErrorType.CLOSED_BY_BROKER
        assert "shutdown" in str(link.lost[0])


async def test_a_check_that_gets_no_answer_fails_within_its_timeout() -> None:
    peer = Peer()
    async with linked(peer, check_timeout=0.5) as link:
        await link.broker.check()
        peer.silent = True
        with pytest.raises(ConnectionLost, match="ML_HEALTH_TIMEOUT"):
            await link.broker.check()


async def test_a_settle_that_raises_does_not_keep_the_outcome_from_the_others() -> None:
    def broken(_: object) -> None:
        raise RuntimeError("a caller's own fault")

    peer = Peer()
    async with linked(peer) as link:
        link.broker.publish(envelope("bad"), broken, deadline=float("inf"))
        good = link.publish("good")
        published = await peer.until(2)
        peer.ack(published[1], multiple=True)
        await settle()
        assert good == [Confirmed()]
        assert link.broker.view().in_flight == 0
        (told,) = [event for event in link.events if isinstance(event, PartFailed)]
        assert (told.part, str(told.error)) == ("settle", "a caller's own fault")


async def test_a_connect_that_is_cancelled_leaves_no_connection() -> None:
    peer = Peer(silent=True)
    async with linked(peer, connect=False) as link:
        call = asyncio.create_task(link.broker.connect())
        async with asyncio.timeout(30):
            while not peer.logins:  # noqa: ASYNC110  # the peer has no event for it
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, BrokerError)):
            await call
        await settle()
        assert peer.writer is not None
        assert peer.writer.is_closing()
        assert not link.broker.view().connected
