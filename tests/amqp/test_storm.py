"""A broker that says odd things at every moment, and our own code that fails at every place: each ends the connection
with a reason, and each attempt has its outcome. Nothing hangs, and nothing is left for the garbage collector to tell.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from pamqp import body, commands, frame, header, heartbeat

from mlproducer.amqp.channel import Channel
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.publishing import PublishingChannel
from mlproducer.amqp.topology import Topology
from mlproducer.amqp.wire import Wire
from mlproducer.core.confirms import ConfirmLedger
from mlproducer.errors import BrokerError, ErrorType
from mlproducer.events import PartFailed
from mlproducer.outcome import Confirmed, Unsure, UnsureCause
from scripted_peer import Link, Peer, linked
from unheard import nothing_unheard

MOMENTS = (0, 1, 2, 4, 13, 14, 16)
"""Frames from us before the odd thing comes: the greeting, the login, a channel's life, the first publishes."""


def of(value: frame.FrameTypes, channel: int = 0) -> bytes:
    return frame.marshal(value, channel)


def framed(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


ODD: dict[str, bytes] = {
    "garbage": b"\x00\xff" * 20,
    "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "half a frame": of(commands.Channel.OpenOk(), 1)[:9],
    "no method": framed(1, 0, b""),
    "an unknown method": framed(1, 1, struct.pack(">HH", 99, 99)),
    "a method without its arguments": framed(1, 1, struct.pack(">HH", 50, 11)),
    "a close without its arguments": framed(1, 0, struct.pack(">HH", 10, 50)),
    "a text that is none": framed(1, 0, struct.pack(">HHB", 10, 60, 9) + b"\xff\xfe"),
    "a wrong frame end": framed(1, 0, struct.pack(">HH", 10, 61), b"\x00"),
    "a frame without end": struct.pack(">BHI", 1, 0, 2**31),
    "a heartbeat on a channel": framed(8, 1, b""),
    "a greeting": of(commands.Connection.Start(mechanisms="PLAIN", server_properties={})),
    "a tune": of(commands.Connection.Tune(1, 4_096, 1)),
    "an open-ok": of(commands.Connection.OpenOk()),
    "a close-ok": of(commands.Connection.CloseOk()),
    "a channel's open-ok for the connection": of(commands.Channel.OpenOk()),
    "a channel's close for the connection": of(commands.Channel.Close(404, "gone", 0, 0)),
    "a channel's close": of(commands.Channel.Close(404, "gone", 0, 0), 1),
    "a close of the fourth channel": of(commands.Channel.Close(406, "no", 0, 0), 4),
    "a channel's close-ok": of(commands.Channel.CloseOk(), 1),
    "an open-ok of a channel": of(commands.Channel.OpenOk(), 4),
    "a declare-ok": of(commands.Queue.DeclareOk("q", 1, 1), 1),
    "a message": of(commands.Basic.Deliver("c", 1, False, "x", "k"), 4),
    "a return of nothing": of(commands.Basic.Return(312, "NO_ROUTE", "x", "k"), 4)
    + of(header.ContentHeader(0, 0, commands.Basic.Properties()), 4),
    "a content header": of(header.ContentHeader(0, 3, commands.Basic.Properties(message_id="m")), 4),
    "a body": of(body.ContentBody(b"abc"), 0) + of(body.ContentBody(b"abc"), 4),
    "an ack of nothing": of(commands.Basic.Ack(2**40), 4),
    "an ack for the connection": of(commands.Basic.Ack(1), 0),
    "a nack of nothing": of(commands.Basic.Nack(77, True, True), 4),
    "an alarm": of(commands.Connection.Blocked("memory")),
    "a channel that nobody opened": of(commands.Channel.Close(404, "gone", 0, 0), 999),
    "a forced close": of(commands.Connection.Close(320, "forced", 0, 0)),
    "a refused vhost": of(commands.Connection.Close(530, "not allowed", 0, 0)) + of(heartbeat.Heartbeat()),
}
ENDS = ("ends", "is reset", "ends in the midst of a frame")


@dataclass
class Odd(Peer):
    """Confirms each publish, and does its odd thing with the `at`-th frame from us, before it answers."""

    at: int = 0
    what: str = ""
    heard: int = 0
    confirmed: dict[int, int] = field(default_factory=dict)

    async def _frame(self, reader: asyncio.StreamReader) -> None:
        if self.heard == self.at:
            self._be_odd()
        self.heard += 1
        await super()._frame(reader)
        for published in self.published[sum(self.confirmed.values()) :]:
            if published.body:
                self.confirmed[published.channel] = self.confirmed.get(published.channel, 0) + 1
                self.ack(published)

    def _be_odd(self) -> None:
        assert self.writer is not None
        match self.what:
            case "ends":
                raise ConnectionResetError
            case "is reset":
                raw: socket.socket = self.writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.writer.transport.abort()
                raise ConnectionResetError
            case "ends in the midst of a frame":
                self.raw(of(commands.Channel.OpenOk(), 1)[:-3])
                raise ConnectionResetError
            case _:
                self.raw(ODD[self.what])


async def weather(peer: Odd) -> None:
    async with linked(peer, connect=False) as link:
        try:
            await link.broker.connect()
        except BrokerError as error:
            refused: BrokerError | None = error
        else:
            refused = None
        if refused is not None:
            assert str(refused)
            assert refused.error_type is not ErrorType.INTERNAL, refused
            assert link.lost == [], "the caller of connect knows"
            return
        outcomes = [link.publish(f"t{n}", seconds=1.0, alone=alone) for n, alone in enumerate((False, True, False))]
        async with asyncio.timeout(20):
            while not all(outcomes):  # noqa: ASYNC110  # outcomes have no event
                await asyncio.sleep(0.005)
        assert [len(each) for each in outcomes] == [1, 1, 1]
        assert len(link.lost) <= 1
        assert not [event for event in link.events if isinstance(event, PartFailed)]
        assert link.broker.view().in_flight == 0


@pytest.mark.parametrize("what", [*ODD, *ENDS])
async def test_an_odd_word_at_any_moment_gives_each_attempt_its_outcome(what: str) -> None:
    async with nothing_unheard():
        peers = [Odd(at=at, what=what) for at in MOMENTS]
        async with asyncio.timeout(30):
            await asyncio.gather(*map(weather, peers))


# Our own faults


class Bug(Exception):
    """Nobody thought of it."""


def fails(*_: object, **__: object) -> Any:
    raise Bug("nobody thought of this")


async def fails_later(*_: object, **__: object) -> Any:
    await asyncio.sleep(0)
    raise Bug("nobody thought of this")


async def refuse_alone(_: Peer, link: Link) -> None:
    link.publish("alone", alone=True)


async def close_channel(peer: Peer, _: Link) -> None:
    peer.send(peer.published[0].channel, commands.Channel.Close(404, "gone", 0, 0))


async def confirm(peer: Peer, _: Link) -> None:
    peer.ack(peer.published[0])


async def hear(peer: Peer, _: Link) -> None:
    peer.send(0, commands.Connection.Blocked("memory"))


async def publish(_: Peer, link: Link) -> None:
    link.publish("one more")


async def expire(_: Peer, link: Link) -> None:
    link.publish("hurried", seconds=0.01)


async def check(_: Peer, link: Link) -> None:
    job = asyncio.ensure_future(link.broker.check())
    await asyncio.wait([job], timeout=5)
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)


BUGS: dict[str, tuple[object, str, Any, Any]] = {
    "a frame's receiver": (Connection, "received", fails, hear),
    "an ack's receiver": (Connection, "acked", fails, confirm),
    "a listener": (Connection, "_blocked_of_test", None, hear),
    "a flush": (Wire, "_frames", fails, hear),
    "the socket": (Wire, "_write_of_test", None, publish),
    "the confirm timer": (ConfirmLedger, "expire", fails, expire),
    "a new channel after a close": (Topology, "verify", fails_later, close_channel),
    "a channel for one message": (PublishingChannel, "start", fails_later, refuse_alone),
    "a goodbye": (Channel, "close", fails_later, check),
}


@pytest.fixture(params=BUGS)
def bug(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Link], Any]]:
    """Puts the fault into a link that works, and returns what makes it happen."""
    place, name, fault, trigger = BUGS[request.param]

    def put(link: Link) -> Any:
        connection = link.broker._connection
        assert connection is not None
        if name == "_blocked_of_test":
            monkeypatch.setattr(connection, "_blocked", fails)
        elif name == "_write_of_test":
            # What uvloop does where asyncio takes it in silence: a write on a socket that has just been closed.
            transport = connection._wire._transport
            monkeypatch.setattr(connection._wire, "_transport", Broken(transport))
        else:
            monkeypatch.setattr(place, name, fault)
        return trigger

    yield put
    monkeypatch.undo()


class Broken:
    """A transport that does not take what it is given."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def write(self, _: bytes) -> None:
        fails()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


async def test_an_error_of_our_own_ends_the_connection_with_that_error_as_its_reason(
    bug: Callable[[Link], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    async with nothing_unheard(), linked(peer) as link:
        outcomes = [link.publish(f"t{n}", seconds=60) for n in range(3)]
        await peer.until(3)
        trigger = bug(link)
        await trigger(peer, link)
        async with asyncio.timeout(20):
            while not link.lost:  # noqa: ASYNC110  # the end has no event
                await asyncio.sleep(0.005)
        monkeypatch.undo()
        (lost,) = link.lost
        assert lost.error_type is ErrorType.INTERNAL
        assert isinstance(lost.__cause__, Bug)
        assert "nobody thought of this" in str(lost)
        assert [event.part for event in link.events if isinstance(event, PartFailed)] == ["connection"]
        for each in outcomes:
            (outcome,) = each
            assert isinstance(outcome, Unsure)
        # And the next connection is as good as any.
        await link.broker.connect()
        again = link.publish("again")
        await peer.until(len(peer.published) + 1)
        peer.ack(peer.published[-1])
        while not again:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.005)
        assert again == [Confirmed()]


@pytest.mark.parametrize(
    ("who", "part"),
    [
        (lambda link: link.broker._alone, "settle"),
        (lambda link: link.broker._connection._control, "connection"),
    ],
    ids=["attempts alone", "a channel"],
)
async def test_all_hear_of_the_end_though_one_of_them_fails_at_it(
    who: Callable[[Link], object], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = Peer()
    async with nothing_unheard(), linked(peer) as link:
        outcomes = link.publish("t", seconds=60)
        await peer.until(1)
        monkeypatch.setattr(who(link), "lost", fails)
        assert peer.writer is not None
        peer.writer.close()
        async with asyncio.timeout(20):
            while not link.lost:  # noqa: ASYNC110  # the end has no event
                await asyncio.sleep(0.005)
        monkeypatch.undo()
        assert outcomes[0] == Unsure(UnsureCause.CONNECTION_LOST, str(link.lost[0]))
        assert [event.part for event in link.events if isinstance(event, PartFailed)] == [part]


async def test_who_gives_up_as_the_connection_ends_leaves_no_error_behind() -> None:
    """A shield whose waiter left does not ask for the error of what it shields."""

    async def give_up(peer: Peer, turns: int | None) -> None:
        """Apart, so that no name of it keeps what the garbage collector is to find. `turns` of the loop after the
        connection ended, or before it did.
        """
        async with linked(peer) as link:
            connection = link.broker._connection
            assert connection is not None
            channel = connection.add(Channel)
            await channel.call(commands.Channel.Open(), commands.Channel.OpenOk)
            peer.silent = True
            closing = [asyncio.create_task(channel.close()) for _ in range(2)]
            asking = asyncio.create_task(connection.patiently(channel.close(), 60))
            await asyncio.sleep(0.05)
            if turns is not None:
                connection.abort(BrokerError("the test ends it"))
                for _ in range(turns):
                    await asyncio.sleep(0)
            for each in (*closing, asking):
                each.cancel()
            await asyncio.gather(*closing, asking, return_exceptions=True)
            connection.abort(BrokerError("the test ends it"))

    async with nothing_unheard():
        for turns in (None, 0, 1, 2, 3):
            await give_up(Peer(silent=False), turns)


def test_frames_of_less_than_amqp_asks_for_are_refused() -> None:
    """With 8 bytes a message could not be cut into frames at all: the publish raised, and the next tags were wrong."""

    async def connects() -> None:
        async with linked(Peer(tune=commands.Connection.Tune(2047, 8, 0))):
            pass

    with pytest.raises(BrokerError, match="4096"):
        asyncio.run(connects())
