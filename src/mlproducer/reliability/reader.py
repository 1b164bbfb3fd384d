"""Just enough AMQP 0-9-1 on a blocking socket to empty queues and to set up trouble.

The judge's own client: it shares no line with the engine's, so that a fault there cannot hide itself here. pamqp knows
the frames, nothing else is borrowed. Not for applications: it reconnects never, and fails on everything unexpected.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, Self, TypeVar
from urllib.parse import unquote, urlsplit

from pamqp import base, body, commands, frame, header
from pamqp.common import FieldTable

from mlproducer.errors import MLProducerError
from mlproducer.reliability.message import Message, found

_NOT_FOUND: Final = 404
_PREFETCH: Final = 1_000
_SILENCE: Final = 30.0
"""Seconds without a byte after which we give up; a broker that recovers its queues takes a few."""
_HEAD: Final = struct.Struct(">BHI")

_Answer = TypeVar("_Answer", bound="base.Frame | header.ContentHeader | body.ContentBody")


class ReaderError(MLProducerError):
    """The broker refused, or did not answer."""


class _ChannelRefused(ReaderError):
    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"the broker closed the judge's channel: {code} {text}")
        self.code = code


class Reader:
    """One connection to `url`. A context manager. All calls block. Raises: ReaderError."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._channel = 0
        try:
            self._socket = socket.create_connection((parts.hostname, parts.port), timeout=_SILENCE)
        except OSError as exc:
            raise ReaderError(f"the judge cannot reach the broker: {exc}") from exc
        self._file = self._socket.makefile("rb")
        try:
            self._shake_hands(parts.username or "", parts.password or "", parts.path[1:])
            self._open_channel()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def take(self, queue: str) -> list[Message]:
        """All messages of `queue`, oldest first; they are acknowledged. [] if it does not exist."""
        taken: list[Message] = []
        while ready := self._ready(queue):
            taken += self._consume(queue, ready)
        return taken

    def delete(self, queue: str) -> None:
        self._call(commands.Queue.Delete(queue=queue), commands.Queue.DeleteOk)

    def make_queue(self, queue: str, exchange: str) -> None:
        """A quorum queue as the known workers make it, bound to `exchange` by its name."""
        self._make(queue, exchange, {"x-queue-type": "quorum", "x-delivery-limit": 5})

    def make_full_queue(self, queue: str, exchange: str, limit: int) -> None:
        """A durable queue bound to `exchange` by its name that nacks what comes beyond `limit` messages."""
        self._make(queue, exchange, {"x-max-length": limit, "x-overflow": "reject-publish"})

    def bind(self, queue: str, exchange: str, key: str) -> None:
        self._call(commands.Queue.Bind(queue=queue, exchange=exchange, routing_key=key), commands.Queue.BindOk)

    def unbind(self, queue: str, exchange: str, key: str) -> None:
        self._call(commands.Queue.Unbind(queue=queue, exchange=exchange, routing_key=key), commands.Queue.UnbindOk)

    def _make(self, queue: str, exchange: str, arguments: FieldTable) -> None:
        declare = commands.Exchange.Declare(exchange=exchange, exchange_type="topic", durable=True)
        self._call(declare, commands.Exchange.DeclareOk)
        self._call(commands.Queue.Declare(queue=queue, durable=True, arguments=arguments), commands.Queue.DeclareOk)
        self.bind(queue, exchange, queue)

    def _ready(self, queue: str) -> int:
        """How many messages wait in it; 0 if it does not exist."""
        try:
            found = self._call(commands.Queue.Declare(queue=queue, passive=True), commands.Queue.DeclareOk)
        except _ChannelRefused as refused:
            if refused.code != _NOT_FOUND:
                raise
            self._open_channel()
            return 0
        return found.message_count or 0

    def _consume(self, queue: str, count: int) -> list[Message]:
        """`count` messages, and those that come before the cancel takes effect."""
        self._call(commands.Basic.Qos(prefetch_count=_PREFETCH), commands.Basic.QosOk)
        self._send(self._channel, commands.Basic.Consume(queue=queue, consumer_tag="judge"))
        taken: list[Message] = []
        tag = acked = 0
        ending = False
        while True:
            match self._next():
                case commands.Basic.Deliver() as delivery:
                    taken.append(self._content(queue, delivery))
                    tag = delivery.delivery_tag or 0
                case commands.Basic.CancelOk():
                    break
                case _:
                    continue  # ConsumeOk
            if len(taken) >= count and not ending:
                self._send(self._channel, commands.Basic.Cancel(consumer_tag="judge"))
                ending = True
            elif tag - acked >= _PREFETCH // 2 and not ending:
                self._ack(acked := tag)
        if tag > acked:
            self._ack(tag)
        return taken

    def _content(self, queue: str, delivery: commands.Basic.Deliver) -> Message:
        """The rest of a message: on a channel nothing comes between its frames."""
        head = self._expect(header.ContentHeader)
        parts: list[bytes] = []
        left = head.body_size or 0
        while left > 0:
            part = self._expect(body.ContentBody).value
            parts.append(part)
            left -= len(part)
        where = (queue, delivery.exchange or "", delivery.routing_key or "")
        return found(*where, head.properties or commands.Basic.Properties(), b"".join(parts))

    def _ack(self, tag: int) -> None:
        self._send(self._channel, commands.Basic.Ack(delivery_tag=tag, multiple=True))

    def _shake_hands(self, user: str, password: str, vhost: str) -> None:
        login = f"\0{unquote(user)}\0{unquote(password)}"
        self._socket.sendall(header.ProtocolHeader().marshal())
        self._expect(commands.Connection.Start)
        self._send(0, commands.Connection.StartOk(mechanism="PLAIN", response=login, locale="en_US"))
        tune = self._expect(commands.Connection.Tune)
        self._send(0, commands.Connection.TuneOk(tune.channel_max, tune.frame_max, 0))
        self._send(0, commands.Connection.Open(unquote(vhost) or "/"))
        self._expect(commands.Connection.OpenOk)

    def _open_channel(self) -> None:
        self._channel += 1
        self._call(commands.Channel.Open(), commands.Channel.OpenOk)

    def _call(self, method: base.Frame, answer: type[_Answer]) -> _Answer:
        self._send(self._channel, method)
        return self._expect(answer)

    def _expect(self, answer: type[_Answer]) -> _Answer:
        found = self._next()
        if not isinstance(found, answer):
            raise ReaderError(f"the broker answered {found.name} to the judge, not {answer.name}")
        return found

    def _send(self, channel: int, method: base.Frame) -> None:
        try:
            self._socket.sendall(frame.marshal(method, channel))
        except OSError as exc:
            raise ReaderError(f"the judge lost the broker: {exc}") from exc

    def _next(self) -> frame.FrameTypes:
        """The next frame. Raises: ReaderError, for one that closes something."""
        try:
            head = self._exactly(_HEAD.size)
            _, _, size = _HEAD.unpack(head)
            _, channel, found = frame.unmarshal(head + self._exactly(size + 1))
        except OSError as exc:
            raise ReaderError(f"the judge lost the broker: {exc}") from exc
        match found:
            case commands.Channel.Close(reply_code=code, reply_text=text):
                self._send(channel, commands.Channel.CloseOk())
                raise _ChannelRefused(code or 0, text or "")
            case commands.Connection.Close(reply_code=code, reply_text=text):
                raise ReaderError(f"the broker closed the judge's connection: {code} {text}")
            case _:
                return found

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ReaderError("the judge lost the broker: it closed the connection")
        return data
