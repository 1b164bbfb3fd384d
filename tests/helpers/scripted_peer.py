"""A broker of a few lines: does the handshake, then what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pamqp import base, body, commands, frame, header, heartbeat

from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig, Credentials, Endpoint
from mlproducer.envelope.queues import QueuePlan
from mlproducer.errors import BrokerError
from mlproducer.events import Event
from mlproducer.outcome import Outcome
from mlproducer.task import Envelope
from mlproducer.wiring import SystemClock

ANSWERS: dict[type[base.Frame], Callable[[], base.Frame]] = {
    commands.Channel.Open: commands.Channel.OpenOk,
    commands.Confirm.Select: commands.Confirm.SelectOk,
    commands.Exchange.Declare: commands.Exchange.DeclareOk,
    commands.Queue.Declare: lambda: commands.Queue.DeclareOk("q", 0, 0),
    commands.Queue.Bind: commands.Queue.BindOk,
    commands.Channel.Close: commands.Channel.CloseOk,
    commands.Connection.Close: commands.Connection.CloseOk,
}


@dataclass
class Published:
    channel: int
    tag: int
    message_id: str
    body: bytes


@dataclass
class Peer:
    """What one server saw, and its hands. `silent` makes it answer nothing more, until `speak`; what it is `deaf` to, it
    never answers, nor what comes after it on the same channel: a channel does one thing after the other. So it is with a
    message whose routing key is `stuck`, as in RabbitMQ with a queue whose leader hangs.
    """

    tune: commands.Connection.Tune = field(default_factory=lambda: commands.Connection.Tune(2047, 131072, 0))
    mechanisms: str = "PLAIN EXTERNAL"
    client: dict[str, object] = field(default_factory=dict)
    """What the client says of itself."""
    logins: list[tuple[str, str]] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
    methods: list[tuple[int, base.Frame]] = field(default_factory=list)
    """Those that want an answer, and their channels."""
    heartbeats: int = 0
    silent: bool = False
    deaf: Callable[[base.Frame], bool] = lambda _method: False
    greets: bool = True
    acks: bool = False
    """It confirms each message at once."""
    stuck: str = ""
    refusing: Callable[[base.Frame], commands.Channel.Close | None] = lambda _method: None
    """The close of the channel that is the answer to a method, if it is."""
    writer: asyncio.StreamWriter | None = None
    refuse: base.Frame | None = None
    hangs_up: bool = False
    """After the tuning it ends the connection without a word."""
    port: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _tags: dict[int, int] = field(default_factory=dict)
    _stuck: set[tuple[asyncio.StreamWriter | None, int]] = field(default_factory=set)
    _unanswered: list[tuple[int, base.Frame]] = field(default_factory=list)

    def speak(self) -> None:
        """Answer what it was asked while it was silent, and from now on at once."""
        self.silent = False
        for channel, method in self._unanswered:
            self.send(channel, ANSWERS[type(method)]())
        self._unanswered.clear()

    def send(self, channel: int, *values: frame.FrameTypes) -> None:
        assert self.writer is not None
        self.writer.write(b"".join(frame.marshal(value, channel) for value in values))

    def raw(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)

    def ack(self, published: Published, *, multiple: bool = False) -> None:
        self.send(published.channel, commands.Basic.Ack(published.tag, multiple))

    def nack(self, published: Published, *, multiple: bool = False) -> None:
        self.send(published.channel, commands.Basic.Nack(published.tag, multiple, False))

    def give_back(self, published: Published) -> None:
        self.send(
            published.channel,
            commands.Basic.Return(312, "NO_ROUTE", "ml.tasks", "ml.embed"),
            header.ContentHeader(0, 3, commands.Basic.Properties(message_id=published.message_id)),
            body.ContentBody(b"abc"),
        )

    async def until(self, count: int) -> list[Published]:
        async with asyncio.timeout(30):
            while len(self.published) < count:
                self.arrived.clear()
                await self.arrived.wait()
        return self.published

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._tags.clear()
        try:
            assert await reader.readexactly(8) == b"AMQP\x00\x00\x09\x01"
            if self.greets:
                self.send(0, commands.Connection.Start(mechanisms=self.mechanisms, server_properties={}))
            while True:
                await self._frame(reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _frame(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readexactly(7)
        size = int.from_bytes(head[3:7])
        _, channel, value = frame.unmarshal(head + await reader.readexactly(size + 1))
        self.frames.append(size + 8)
        match value:
            case heartbeat.Heartbeat():
                self.heartbeats += 1
            case commands.Connection.StartOk() | commands.Connection.Open():
                if not self.deaf(value):
                    self._introduced(value)
            case commands.Connection.TuneOk() | commands.Connection.CloseOk() | commands.Channel.CloseOk():
                pass
            case commands.Basic.Publish(routing_key=key):
                self._tags[channel] = self._tags.get(channel, 0) + 1
                self.published.append(Published(channel, self._tags[channel], "", b""))
                if self.stuck and key == self.stuck:
                    self._stuck.add((self.writer, channel))
            case header.ContentHeader() | body.ContentBody():
                self._content(value)
            case base.Frame():
                self._asked(channel, value)
            case _:
                pass

    def _content(self, value: header.ContentHeader | body.ContentBody) -> None:
        last = self.published[-1]
        if isinstance(value, header.ContentHeader):
            last.message_id = str(value.properties.message_id)
            if value.body_size:
                return
        else:
            last.body += value.value
        self.arrived.set()
        if self.acks and (self.writer, last.channel) not in self._stuck:
            self.ack(last)

    def _introduced(self, value: commands.Connection.StartOk | commands.Connection.Open) -> None:
        if isinstance(value, commands.Connection.StartOk):
            self.client = dict(value.client_properties or {})
            self.logins.append((value.mechanism, value.response))
            self.send(0, self.refuse or self.tune)
            return
        if self.hangs_up:
            raise ConnectionError
        self.send(0, commands.Connection.OpenOk())

    def _asked(self, channel: int, method: base.Frame) -> None:
        self.methods.append((channel, method))
        if isinstance(method, commands.Channel.Open):
            self._tags.pop(channel, None)
        if (self.writer, channel) in self._stuck or self.deaf(method):
            self._stuck.add((self.writer, channel))
            return
        if self.silent:
            self._unanswered.append((channel, method))
        else:
            self.send(channel, self.refusing(method) or ANSWERS[type(method)]())


@dataclass
class Link:
    """A broker over scripted peers, and what it told."""

    broker: AmqpBroker
    events: list[Event]
    lost: list[BrokerError]

    def publish(
        self, task_id: str = "t", *, seconds: float = 30.0, size: int = 5, alone: bool = False, queue: str = "ml.embed"
    ) -> list[Outcome]:
        """The outcomes of one publish: none yet, then exactly one."""
        outcomes: list[Outcome] = []
        deadline = SystemClock().monotonic() + seconds
        self.broker.publish(envelope(task_id, size, queue), outcomes.append, deadline=deadline, alone=alone)
        return outcomes


def envelope(task_id: str = "t", size: int = 5, queue: str = "ml.embed") -> Envelope:
    flags = sum(commands.Basic.Properties.flags[name] for name in ("message_id", "timestamp"))
    return Envelope(task_id, "embed_vectors", queue, flags.to_bytes(2), b"x" * size)


async def served(peer: Peer) -> asyncio.Server:
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    return server


@asynccontextmanager
async def linked(
    *peers: Peer,
    heartbeat: int = 0,
    check_timeout: float = 1.0,
    mechanism: str = "PLAIN",
    credentials: Callable[[], Awaitable[Credentials]] | None = None,
    connect: bool = True,
    named: bool = True,
    queues: tuple[str, ...] = ("ml.embed",),
    late_for: float = 30.0,
) -> AsyncIterator[Link]:
    servers = [await served(peer) for peer in peers]
    login = Credentials("ml", "s3cret")
    config = AmqpConfig(
        endpoints=tuple(Endpoint("127.0.0.1", peer.port, "/", login, None) for peer in peers),
        exchange="ml.tasks",
        queues=tuple(QueuePlan(queue, at_start=named) for queue in queues),
        heartbeat=heartbeat,
        connection_timeout=2.0,
        check_timeout=check_timeout,
        late_for=late_for,
        mechanism=mechanism,
        get_credentials=credentials,
    )
    events: list[Event] = []
    lost: list[BrokerError] = []
    broker = AmqpBroker(config, SystemClock(), events.append, lost.append)
    try:
        if connect:
            await broker.connect()
        yield Link(broker, events, lost)
    finally:
        await broker.close()
        for server in servers:
            server.close()
        await asyncio.sleep(0)


async def settle() -> None:
    """Let both ends of a loopback connection take their turns."""
    await asyncio.sleep(0.1)
