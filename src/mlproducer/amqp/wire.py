"""Bytes in, frames out: an `asyncio.Protocol` that knows frames, heartbeats and back-pressure, and nothing above.

Whatever the event loop calls here, and all that is called from there, may fail in a way that nobody thought of. Then
the connection ends with that error as its reason: half a connection would keep its callers waiting for ever.

The hot paths are here. Outgoing bytes are collected and written once per turn of the event loop: a thousand publishes
of one turn are one system call. Incoming basic.ack and basic.nack are read straight from the buffer, since there is
one for every publish; every other frame goes through pamqp.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, Final, ParamSpec, Protocol, cast

from pamqp import frame, header, heartbeat

from mlproducer.amqp.faults import broken, ended, not_amqp, silent
from mlproducer.amqp.forks import cut_in_children, forget
from mlproducer.errors import BrokerError, unexpected
from mlproducer.jobs import Jobs

FRAME_END: Final = 0xCE
OVERHEAD: Final = 8
"""Bytes of a frame around its payload: type, channel, size, end."""
WRITE_SIZE: Final = 65_536
"""Bytes queued that are written at once, so that the broker works on the first half of a burst while we encode the
second."""
_METHOD: Final = 1
_HEAD: Final = struct.Struct(">BHI").unpack_from
_TAG: Final = struct.Struct(">Q").unpack_from
_ACK: Final = b"\x00\x3c\x00\x50"
_NACK: Final = b"\x00\x3c\x00\x78"
_ACK_SIZE: Final = 13
"""Bytes of basic.ack and basic.nack: class and method, tag, one octet of flags."""
_HEARTBEAT: Final = heartbeat.Heartbeat().marshal()
_KNOWN_TYPES: Final = frozenset({1, 2, 3, 8})


P = ParamSpec("P")


class Receiver(Protocol):
    """Told what arrives. `lost` is told once, last; `failed`, what nobody thought of and that ended the connection."""

    def acked(self, channel: int, tag: int, multiple: bool) -> None: ...  # noqa: FBT001  # the protocol's own flag

    def nacked(self, channel: int, tag: int, multiple: bool) -> None: ...  # noqa: FBT001  # the protocol's own flag

    def received(self, channel: int, value: frame.FrameTypes) -> None: ...

    def lost(self, error: BrokerError) -> None: ...

    def failed(self, error: Exception) -> None: ...


def _guarded(call: Callable[Concatenate[Wire, P], None]) -> Callable[Concatenate[Wire, P], None]:
    """For what the event loop calls."""

    @wraps(call)
    def guarded(wire: Wire, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(wire, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the end of this connection
            wire.failed(error)

    return guarded


class Wire(asyncio.Protocol):
    """One TCP or TLS connection. `jobs` are what goes on beside it: their errors end it too."""

    def __init__(self, receiver: Receiver, node: str, frame_max: int) -> None:
        self._receiver = receiver
        self._node = node
        self.frame_max = frame_max
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._out: list[bytes] = []
        self._queued = 0
        self._flushing = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._error: BrokerError | None = None
        self._over = False
        self._heard_at = self._loop.time()
        self._wrote = False
        self._beat: asyncio.TimerHandle | None = None
        self.jobs = Jobs(self.failed)

    # What the connection calls

    @property
    def paused(self) -> bool:
        """The write buffer is over its high mark."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Wait until the write buffer is under its low mark, or the connection is over."""
        await self._writable.wait()

    def fileno(self) -> int:
        """Of its socket, while it is connected."""
        assert self._transport is not None  # noqa: S101  # asked between connection_made and the end
        fileno: int = self._transport.get_extra_info("socket").fileno()
        return fileno

    def send(self, data: bytes) -> None:
        """Queue bytes for the end of this turn of the loop; dropped if the connection is over."""
        if self._over:
            return
        self._out.append(data)
        self._queued += len(data)
        if self._queued >= WRITE_SIZE:
            self._flush()
            return
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def start_heartbeats(self, interval: float) -> None:
        """Beat every half interval when nothing else was sent; give up after two intervals of silence (AMQP §4.2.7)."""
        if interval:
            self._beat = self.jobs.later(interval / 2, self._heartbeat, interval)

    def fail(self, error: BrokerError) -> None:
        """End the connection at once, because of `error`."""
        if self._error is None:
            self._error = error
        try:
            if self._transport is not None:
                self._transport.abort()
        finally:
            self._finish(self._error)

    def failed(self, error: Exception) -> None:
        """End the connection at once, because of an error that may be none of the connection's."""
        if isinstance(error, BrokerError):
            self.fail(error)
            return
        self.fail(unexpected(self._node, error))
        self._receiver.failed(error)

    def finish(self) -> None:
        """End the connection after what is queued has been written."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls

    @_guarded
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Told and not asked: the transports of other event loops, such as uvloop, are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        cut_in_children(self)
        self.send(header.ProtocolHeader().marshal())

    @_guarded
    def connection_lost(self, exc: Exception | None) -> None:
        # A TLS alert, such as the answer of a TLS port to plain AMQP, is shorter than any frame.
        foreign = bool(self._rest) and self._rest[0] not in _KNOWN_TYPES
        self._finish(self._error or (not_amqp(self._node, self._rest) if foreign else ended(self._node, exc)))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    @_guarded
    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        buffer = self._rest + data if self._rest else data
        self._rest = buffer[self._frames(buffer) :]

    # Inside

    def _frames(self, buffer: bytes) -> int:
        """Handle every whole frame of the buffer; returns how many bytes they took."""
        at, size = 0, len(buffer)
        receiver = self._receiver
        while size - at >= OVERHEAD and not self._over:
            kind, channel, payload = _HEAD(buffer, at)
            if kind not in _KNOWN_TYPES or payload + OVERHEAD > self.frame_max:
                raise not_amqp(self._node, buffer[at : at + OVERHEAD])
            end = at + 7 + payload
            if end >= size:
                break
            if buffer[end] != FRAME_END:
                raise not_amqp(self._node, buffer[at : at + OVERHEAD])
            answer = buffer[at + 7 : at + 11] if kind == _METHOD and payload == _ACK_SIZE else b""
            if answer == _ACK:
                receiver.acked(channel, _TAG(buffer, at + 11)[0], bool(buffer[at + 19] & 1))
            elif answer == _NACK:
                receiver.nacked(channel, _TAG(buffer, at + 11)[0], bool(buffer[at + 19] & 1))
            else:
                receiver.received(channel, self._read(buffer[at : end + 1]))
            at = end + 1
        return at

    def _read(self, data: bytes) -> frame.FrameTypes:
        try:
            _, _, value = frame.unmarshal(data)
        except Exception as exc:  # pamqp meets what is broken in whatever way
            raise broken(self._node, exc) from exc
        return value

    @_guarded
    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None and not self._over:
            out, self._out = self._out, []
            self._queued = 0
            self._wrote = True
            self._transport.write(b"".join(out))

    def _heartbeat(self, interval: float) -> None:
        if self._over:
            return
        if self._loop.time() - self._heard_at > 2 * interval:
            self.fail(silent(self._node, 2 * interval))
            return
        if not self._wrote and self._transport is not None:
            self._transport.write(_HEARTBEAT)
        self._wrote = False
        self._beat = self.jobs.later(interval / 2, self._heartbeat, interval)

    def _finish(self, error: BrokerError) -> None:
        if self._over:
            return
        self._over = True
        forget(self)
        self._out.clear()
        self._writable.set()
        if self._beat is not None:
            self._beat.cancel()
        self._receiver.lost(error)
