"""One AMQP connection: handshake, channels, blocked and unblocked, close from either end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from importlib.metadata import version
from typing import Any, Final, Self, TypeVar

from pamqp import base, commands, frame, heartbeat
from pamqp.common import FieldTable

from mlproducer.amqp.channel import Channel
from mlproducer.amqp.config import AmqpConfig, Credentials, Endpoint
from mlproducer.amqp.faults import ChannelClosed, after_tuning, closed_by_broker, not_amqp, silent_end
from mlproducer.amqp.publishing import PublishingChannel
from mlproducer.amqp.wire import Wire
from mlproducer.errors import BrokerError, BrokerRefused, ConnectionLost, ErrorType
from mlproducer.jobs import Jobs, heard

CLIENT: Final[FieldTable] = {
    "product": "mlproducer",
    "version": version("mlproducer"),
    "platform": "Python asyncio",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "connection.blocked": True,
        "authentication_failure_close": True,
        "consumer_cancel_notify": True,
        "exchange_exchange_bindings": True,
    },
}
LEAST_FRAME_MAX: Final = 4_096
"""Bytes that a frame may have in any case (AMQP 0-9-1 §1.4.2.6)."""
MOST_QUESTIONS: Final = 64
"""Channels for questions that are open at the same time. A channel is five processes of the broker."""
OTHER_CHANNELS: Final = 3
"""For publishing, for a message alone, for the health check."""

C = TypeVar("C", bound=Channel)
T = TypeVar("T")


class Connection:
    """Made by `open`. `lost` is called once when it ends, whoever ended it; `blocked(bool, reason)` on alarms; `failed`
    with an error that nobody thought of, whose end it is.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        config: AmqpConfig,
        lost: Callable[[Connection, BrokerError], None],
        blocked: Callable[[bool, str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.endpoint = endpoint
        self._config = config
        self._lost = lost
        self._blocked = blocked
        self.failed = failed
        self._last_words = Jobs(failed)
        """All hear of the end, whatever one of them raises: what that would end is over."""
        self._control = Channel(0, self._send)
        self._channels: dict[int, Channel] = {0: self._control}
        loop = asyncio.get_running_loop()
        self._start: asyncio.Future[commands.Connection.Start] = heard(loop.create_future())
        self._tune: asyncio.Future[commands.Connection.Tune] = heard(loop.create_future())
        self._wire = Wire(self, endpoint.node, config.frame_max)
        self._channel_max = config.channel_max
        self._last_number = 0
        self._free_numbers: deque[int] = deque()
        self._freed = asyncio.Event()
        """A channel's number became free, or the connection ended."""
        self._questions = asyncio.Semaphore(0)
        self._asking: set[Channel] = set()
        self._confirms = 0
        self.error: BrokerError | None = None
        self.server: Mapping[str, object] = {}
        """What the broker says of itself: `product`, `version`, and more."""

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        config: AmqpConfig,
        sock: socket.socket,
        credentials: Credentials,
        lost: Callable[[Connection, BrokerError], None],
        blocked: Callable[[bool, str], None],
        failed: Callable[[Exception], None],
    ) -> Self:
        """TLS and the handshake, over TCP that is connected. The caller bounds the time.

        Raises: OSError, BrokerError.
        """
        connection = cls(endpoint, config, lost, blocked, failed)
        try:
            tls = await endpoint.fresh_tls()
            await asyncio.get_running_loop().create_connection(
                lambda: connection._wire,
                sock=sock,
                ssl=tls,
                server_hostname=(endpoint.server_name or endpoint.host) if tls is not None else None,
            )
            await connection._handshake(credentials)
        except BaseException:
            connection.abort(ConnectionLost(f"{endpoint.node}: the connect was given up"))
            sock.close()  # if no transport has it yet
            raise
        return connection

    @property
    def alive(self) -> bool:
        return self.error is None

    @property
    def jobs(self) -> Jobs:
        """What goes on beside it. They end with it, and what one of them raises ends it."""
        return self._wire.jobs

    @property
    def paused(self) -> bool:
        return self._wire.paused

    @property
    def frame_max(self) -> int:
        return self._wire.frame_max

    @property
    def narrow(self) -> bool:
        """It may have one channel, which is for publishing: once that is open, nothing can be asked."""
        return self._channel_max == 1

    @property
    def spare(self) -> bool:
        """One more channel can be opened now."""
        return self._last_number < self._channel_max or bool(self._free_numbers)

    async def room(self) -> None:
        """Wait until one more channel can be opened, or the connection is over."""
        while not self.spare and self.alive:
            self._freed.clear()
            await self._freed.wait()

    async def writable(self) -> None:
        await self._wire.writable()

    def add(self, make: Callable[[int, Callable[[bytes], None]], C]) -> C:
        """A new channel object with a number of its own; the caller opens it.

        Raises: BrokerRefused, if no number is free; BrokerError, if the connection is over.
        """
        if self.error is not None:
            raise self.error  # nobody would answer
        if self._last_number < self._channel_max:
            self._last_number += 1
            number = self._last_number
        elif self._free_numbers:
            # The number that has been free for longest.
            number = self._free_numbers.popleft()
        else:
            raise BrokerRefused(
                f"{self.endpoint.node}: all {self._channel_max} channels of the connection are in use",
                error_type=ErrorType.PROTOCOL,
            )
        channel = make(number, self._send)
        self._channels[number] = channel
        return channel

    def room_for(self, channels: int) -> int:
        """How many of so many channels may stay open, and leave the broker's limit three for other uses."""
        return max(0, min(channels, self._channel_max - 3))

    async def for_question(self) -> Channel:
        """A channel to ask something on; the caller releases it. Waits while as many others are open as may be, and it
        counts until the broker has closed it: one that does not answer takes no more than its share.

        Raises: as `add`.
        """
        await self._questions.acquire()
        try:
            await self.room()
            channel = self.add(Channel)
        except BaseException:
            self._questions.release()
            raise
        self._asking.add(channel)
        return channel

    def forget(self, channel: Channel) -> None:
        """Its frames mean nothing any more. The number of a channel that never closed is not used again."""
        if self._channels.get(channel.number) is channel:
            del self._channels[channel.number]
            if channel.reusable:
                self._free_numbers.append(channel.number)
                self._freed.set()
        if channel in self._asking:
            self._asking.discard(channel)
            self._questions.release()

    def release(self, channel: Channel) -> None:
        """Close it, if it is open, and forget it. A broker that has yet to answer on it may do so first."""
        if channel.end is not None or not self.alive:
            self.forget(channel)
            return
        self.jobs.spawn(self._goodbye(channel))

    async def patiently(self, work: Coroutine[Any, Any, T], silence: float) -> T:
        """Wait for an answer of the broker, which may come late: behind thousands of publishes a channel takes many
        seconds to open, and a queue to be counted. A broker that confirms all the while is busy, and not dead.

        Raises: TimeoutError, once `silence` seconds brought neither the answer nor a confirm; and what `work` raises.
        """
        # Race: it fails, and before we wake we are cancelled. Then nobody asks for its error.
        job = heard(asyncio.get_running_loop().create_task(work))
        try:
            while True:
                confirms = self._confirms
                await asyncio.wait({job}, timeout=silence)
                if job.done():  # also where we, and not the broker, stood still for so long
                    return job.result()
                if self._confirms == confirms:
                    raise TimeoutError
        finally:
            if not job.done():
                job.cancel()
                await asyncio.gather(job, return_exceptions=True)

    async def close(self) -> None:
        """Say goodbye and wait for the answer. The caller bounds the time and then aborts."""
        if self.alive:
            await self._control.call(commands.Connection.Close(200, "done", 0, 0), commands.Connection.CloseOk)
            self._wire.finish()

    def abort(self, error: BrokerError) -> None:
        """End it at once."""
        self._wire.fail(error)
        self.lost(error)  # for a wire that never came up

    # What the wire calls

    def acked(self, channel: int, tag: int, multiple: bool) -> None:  # noqa: FBT001  # the protocol's own flag
        self._confirms += 1
        found = self._channels.get(channel)
        if isinstance(found, PublishingChannel):
            found.acked(tag, multiple)

    def nacked(self, channel: int, tag: int, multiple: bool) -> None:  # noqa: FBT001  # the protocol's own flag
        self._confirms += 1
        found = self._channels.get(channel)
        if isinstance(found, PublishingChannel):
            found.nacked(tag, multiple)

    def received(self, channel: int, value: frame.FrameTypes) -> None:
        if channel:
            found = self._channels.get(channel)
            # A channel that we gave up may still get an answer; it means nothing to anybody.
            if found is not None:
                found.received(value)
            return
        match value:
            case heartbeat.Heartbeat():
                pass
            case commands.Connection.Start() if not self._start.done():
                self._start.set_result(value)
            case commands.Connection.Tune() if not self._tune.done():
                self._tune.set_result(value)
            case commands.Connection.Blocked(reason=reason):
                self._blocked(True, reason or "")
            case commands.Connection.Unblocked():
                self._blocked(False, "")
            case commands.Connection.Close(reply_code=code, reply_text=text):
                self._control.send(commands.Connection.CloseOk())
                error = closed_by_broker(self.endpoint.node, code or 0, text or "")
                self._wire.finish()
                self.lost(error)
            case base.Frame():
                self._control.received(value)
            case _:
                raise not_amqp(self.endpoint.node, b"AMQP")

    def lost(self, error: BrokerError) -> None:
        """Once: the first reason is the true one."""
        if self.error is not None:
            return
        self.error = error
        self._freed.set()
        for waiter in (self._start, self._tune):
            if not waiter.done():
                waiter.set_exception(error)
        for channel in list(self._channels.values()):
            self._last_words.run(channel.lost, error)
        self.jobs.cancel()
        self._last_words.run(self._lost, self, error)

    # Inside

    def _send(self, data: bytes) -> None:
        self._wire.send(data)

    async def _goodbye(self, channel: Channel) -> None:
        try:
            with contextlib.suppress(ChannelClosed, BrokerError):
                await channel.close()
        finally:
            self.forget(channel)

    async def _handshake(self, credentials: Credentials) -> None:
        try:
            start = await self._start
        except ConnectionLost as error:
            raise silent_end(error, self.endpoint.node, "greeting") from None
        self.server = start.server_properties or {}
        mechanisms = (start.mechanisms or "").split()
        mechanism = self._config.mechanism
        if mechanism not in mechanisms:
            raise BrokerRefused(
                f"{self.endpoint.node}: the broker offers {', '.join(mechanisms)} but "
                f"not {mechanism}: see RABBITMQ_AUTH"
            )
        response = "" if mechanism == "EXTERNAL" else f"\0{credentials.user}\0{credentials.password}"
        self._control.send(
            commands.Connection.StartOk(
                client_properties={**CLIENT, "connection_name": self._config.name()},
                mechanism=mechanism,
                response=response,
                locale="en_US",
            )
        )
        try:
            tune = await self._tune
        except ConnectionLost as error:
            raise silent_end(error, self.endpoint.node, "login") from None
        self._channel_max = _lower(self._config.channel_max, tune.channel_max or 0)
        self._questions = asyncio.Semaphore(max(1, min(MOST_QUESTIONS, self._channel_max - OTHER_CHANNELS)))
        frame_max = _lower(self._config.frame_max, tune.frame_max or 0)
        if frame_max < LEAST_FRAME_MAX:
            raise BrokerRefused(
                f"{self.endpoint.node}: it takes frames of {frame_max} bytes only, and AMQP asks for "
                f"{LEAST_FRAME_MAX}: see frame_max in its configuration",
                error_type=ErrorType.PROTOCOL,
            )
        beat = _lower(self._config.heartbeat, tune.heartbeat or 0)
        self._control.send(commands.Connection.TuneOk(self._channel_max, frame_max, beat))
        self._wire.frame_max = frame_max
        self._wire.start_heartbeats(beat)
        opening = commands.Connection.Open(virtual_host=self.endpoint.vhost)
        try:
            await self._control.call(opening, commands.Connection.OpenOk)
        except ConnectionLost as error:
            raise after_tuning(error, self.endpoint.node, frame_max) from None


def _lower(ours: int, theirs: int) -> int:
    """The lower of two limits, where 0 is none (AMQP 0-9-1 §1.4.2.6)."""
    return min(ours, theirs) if ours and theirs else ours or theirs
