"""`ports.Broker` over our own AMQP connection: one link at a time, never reconnecting by itself."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from collections.abc import Callable, Coroutine

from mlproducer.amqp.addresses import Addresses
from mlproducer.amqp.alarm import Alarm
from mlproducer.amqp.alone import LANES, Alone, Means
from mlproducer.amqp.config import AmqpConfig, Credentials, Endpoint
from mlproducer.amqp.connection import Connection
from mlproducer.amqp.faults import ACCESS_REFUSED, ChannelClosed, connect_failed, no_credentials
from mlproducer.amqp.first_use import FirstUse
from mlproducer.amqp.publishing import HEADER_TOO_LARGE, Hears, PublishingChannel, fits
from mlproducer.amqp.questions import is_there, refusal
from mlproducer.amqp.retired import Retired
from mlproducer.amqp.topology import Topology
from mlproducer.core.refusals import blamed_route
from mlproducer.errors import BrokerError, BrokerRefused, ConnectionLost, ErrorType
from mlproducer.events import ConfirmsTimedOut, PartFailed
from mlproducer.jobs import Jobs
from mlproducer.outcome import EVERY_ROUTE, NotSent, NotSentCause, blocked_text
from mlproducer.ports import Clock, LinkView, Listener, QueueDepth, Settle
from mlproducer.task import Envelope


class AmqpBroker:
    """See `ports.Broker`. `lost` is called once for each established link that ends without `close`; `answers` when the
    broker has opened another channel in the place of one on which it did not confirm.
    """

    def __init__(
        self,
        config: AmqpConfig,
        clock: Clock,
        tell: Listener,
        lost: Callable[[BrokerError], None],
        answers: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._tell = tell
        self._lost = lost
        self._answers = answers
        self._nonce = secrets.token_hex(6)
        self._epoch = 0
        self._turn = -1
        self._addresses = Addresses()
        self._connection: Connection | None = None
        self._publishing: PublishingChannel | None = None
        self._retired = Retired(self._release)
        settled = Jobs(lambda error: tell(PartFailed("settle", error)))
        self._hears = Hears(
            self._timed_out, self._retired.emptied, self._channel_closed, self._unroutable, self._alarmed, settled
        )
        means = Means(lambda: self._open_publishing(self._link()), self._release, self._spawn, self._alarmed, settled)
        self._alone = Alone(means, lambda: max(1, self._link().room_for(LANES)))
        self._alarm = Alarm(tell)
        self._moving: asyncio.Task[None] | None = None
        self._looked_at = -math.inf
        self._topology = Topology(config, tell)
        self._first_use = FirstUse(self._use, self._write, clock, self._spawn, self._alarmed, settled)

    async def connect(self) -> None:
        self._turn = (self._turn + 1) % len(self._config.endpoints)
        endpoint = self._endpoint
        connection: Connection | None = None
        address: tuple[object, ...] | None = None
        try:
            config = self._config.of(endpoint)
            async with asyncio.timeout(config.connection_timeout):
                login = await self._credentials(endpoint)
                sock = await self._addresses.connect(endpoint.host, endpoint.port)
                address = sock.getpeername()
                connection = await Connection.open(
                    endpoint, config, sock, login, self._ended, self._alarm.changed, self._failed
                )
                self._first_use.ready = await self._topology.verify(connection)
                channel = await self._open_publishing(connection)
        except BaseException as exc:
            error = connect_failed(endpoint.node, exc, tls=endpoint.tls is not None)
            if connection is not None:
                connection.abort(error)
            if address is not None:
                self._addresses.failed(endpoint.host, address)
            self._forget_link()  # an alarm that this connection told of is nobody's any more
            if error is exc or not isinstance(exc, Exception):  # the latter is a cancellation
                raise
            raise error from exc
        # No await since the channel was found open: the link is established from here, and its end is told.
        self._addresses.worked(endpoint.host)
        self._connection, self._publishing = connection, channel

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._publishing = None
        if connection is None:
            return
        try:
            async with asyncio.timeout(min(self._config.check_timeout, self._config.connection_timeout)):
                await connection.close()
        except (TimeoutError, BrokerError, ChannelClosed):
            pass  # it would not say goodbye: end it all the same
        finally:
            connection.abort(ConnectionLost(f"{connection.endpoint.node}: closed by us"))
            self._forget_link()

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        if envelope.routing_key not in self._first_use.ready and self.obstacle is None:
            self._first_use.publish(envelope, settle, deadline, alone)
        else:
            self._write(envelope, settle, deadline, alone)

    def _write(self, envelope: Envelope, settle: Settle, deadline: float, alone: bool) -> None:  # noqa: FBT001  # as above
        channel = self._publishing
        if channel is None or self._alarm.is_on():
            settle(self._alarmed() or NotSent(NotSentCause.NOT_CONNECTED))
        elif self._connection is not None and not fits(envelope, self._connection.frame_max):
            settle(NotSent(NotSentCause.TOO_LARGE, text=HEADER_TOO_LARGE))
        elif alone and self._connection is not None and self._connection.narrow:
            # Its one channel is shared: it goes when nothing else is on it, and is to blame if it is alone at the end.
            if channel.in_flight:
                settle(NotSent(NotSentCause.WINDOW_FULL))
            else:
                channel.publish(envelope, settle, deadline)
        elif alone:
            self._alone.publish(envelope, settle, deadline)
        else:
            channel.publish(envelope, settle, deadline)

    def move(self) -> None:
        under_way = self._moving is not None and not self._moving.done()
        if self._connection is not None and not self._connection.narrow and not under_way:
            self._moving = self._spawn(self._move(self._connection))

    @property
    def obstacle(self) -> NotSentCause | None:
        # A channel that a timeout retired in an alarm cannot be replaced before its end: the alarm is the reason.
        if self._blocked:
            return NotSentCause.BLOCKED
        return None if self._publishing is not None else NotSentCause.NOT_CONNECTED

    @property
    def paused(self) -> bool:
        return self._connection is not None and self._connection.paused

    async def writable(self, deadline: float) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock.monotonic())):
                await connection.writable()
        except TimeoutError:
            return False
        return connection.alive

    async def check(self) -> None:
        connection = self._link()
        if self._alarm.is_on():
            # A broker that blocks us reads nothing, so a question would only look like a dead link. It goes on
            # sending heartbeats, and those are watched.
            return
        if not await self._can_ask(connection):
            return  # no channel is left to ask on; heartbeats and confirms tell whether it is alive
        # An exchange that nobody has used yet need not be there: then a channel that opens is answer enough.
        seen, exchange = self._topology.exchange_seen, self._config.exchange
        question = refusal(connection, *([is_there(exchange)] if seen else []))
        try:
            why = await connection.patiently(question, self._config.check_timeout)
        except TimeoutError as exc:
            if self._alarm.is_on():
                return  # it began to block us after the question
            raise ConnectionLost(
                f"{self._endpoint.node}: the health check got no answer within ML_HEALTH_TIMEOUT",
                error_type=ErrorType.TIMEOUT,
            ) from exc
        if why is not None and why.code != ACCESS_REFUSED:  # a user who may only write is told no more than that
            raise BrokerRefused(
                f"{self._endpoint.node}: the exchange {self._config.exchange} is gone ({why}): see ML_EXCHANGE",
                error_type=ErrorType.TOPOLOGY,
            )

    async def queue_depths(self) -> dict[str, QueueDepth]:
        connection = self._link()
        if self._alarm.is_on() or not await self._can_ask(connection):
            return {}  # see `check`
        # A queue that does not answer, for one whose leader is lost, is no fault of the connection.
        with contextlib.suppress(TimeoutError):
            await connection.patiently(self._topology.measure(connection), self._config.check_timeout)
        depths = self._topology.depths()
        self._first_use.ready.difference_update(self._topology.missing)  # the next task of each looks for itself
        with contextlib.suppress(TimeoutError):
            await connection.patiently(self._topology.keep(connection), self._config.check_timeout)
        return depths

    def view(self) -> LinkView:
        channel = self._publishing
        parts: list[Alone | FirstUse | Retired | PublishingChannel] = [self._alone, self._first_use, self._retired]
        if channel is not None:
            parts.append(channel)
        return LinkView(
            connected=channel is not None or self._blocked,
            blocked=self._blocked,
            in_flight=sum(part.in_flight for part in parts),
            in_flight_bytes=sum(part.bytes_in_flight for part in parts),
            node=self._endpoint.node,
            differences=self._topology.differences,
            alarm=self._alarm.reason,
            missing=self._topology.missing,
        )

    @property
    def _blocked(self) -> bool:
        return self._connection is not None and self._alarm.is_on()

    @property
    def _endpoint(self) -> Endpoint:
        return self._config.endpoints[max(0, self._turn)]

    def _link(self) -> Connection:
        if self._connection is None:
            raise ConnectionLost(f"{self._endpoint.node}: not connected")
        return self._connection

    async def _credentials(self, endpoint: Endpoint) -> Credentials:
        if self._config.get_credentials is None:
            return endpoint.credentials
        try:
            return await self._config.get_credentials()
        except Exception as exc:  # noqa: BLE001  # the application's code may raise anything
            raise no_credentials(endpoint.node, exc) from None  # its text may hold a secret

    async def _use(self, queue: str) -> str:
        """A queue's first task on this link. With no exchange and no right to make one, the link is of no use."""
        connection = self._link()
        if connection.narrow:
            return ""  # what there is was made by the connect
        try:
            await connection.patiently(self._topology.use(connection, queue), self._config.check_timeout)
            return self._topology.lost(queue)
        except BrokerRefused as refused:
            if refused.error_type is ErrorType.TOPOLOGY:
                connection.abort(refused)
            raise

    async def _open_publishing(self, connection: Connection) -> PublishingChannel:
        """Returns an open one, with no await after that was seen. Raises: ChannelClosed, BrokerError, TimeoutError."""
        self._epoch += 1
        prefix = f"{self._nonce}-{self._epoch}-"

        def make(number: int, send: Callable[[bytes], None]) -> PublishingChannel:
            return PublishingChannel(
                number,
                send,
                prefix=prefix,
                exchange=self._config.exchange,
                frame_max=connection.frame_max,
                clock=self._clock,
                jobs=connection.jobs,
                hears=self._hears,
                late_for=self._config.late_for if connection.room_for(1) else 0.0,
            )

        await connection.patiently(self._retired.make_room(connection), self._config.check_timeout)
        channel = connection.add(make)
        try:
            await connection.patiently(channel.start(), self._config.check_timeout)
        except TimeoutError as exc:
            # Whoever asked for it: a broker that opens no channel takes nothing either.
            self._give_up(connection, exc)
            raise
        except BaseException:
            connection.release(channel)
            raise
        # Race: it is open, which wakes us for a later turn of the loop, and before that it ends after all.
        if channel.end is not None:
            raise channel.end
        return channel

    async def _can_ask(self, connection: Connection) -> bool:
        """A channel is left for it, or is so within the time that an answer may take."""
        if connection.narrow:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._config.check_timeout):
                await connection.room()
        return connection.spare

    def _give_up(self, connection: Connection, why: Exception) -> None:
        connection.abort(connect_failed(self._endpoint.node, why, tls=self._endpoint.tls is not None))

    def _release(self, channel: PublishingChannel) -> None:
        if self._connection is not None:
            self._connection.release(channel)

    # What channels and connection report

    def _timed_out(self, channel: PublishingChannel, count: int) -> None:
        """It has lost the broker's attention: nothing new goes onto it, and late answers are listened for."""
        if not channel.retired:
            self._retired.add(channel, self._connection)
            self._replace(channel, topology=False)
        self._tell(ConfirmsTimedOut(count))

    def _alarmed(self) -> NotSent | None:
        """Under an alarm, what becomes of what was not written yet."""
        return NotSent(NotSentCause.BLOCKED, text=blocked_text(self._alarm.reason)) if self._blocked else None

    def _unroutable(self, queue: str) -> None:
        self._topology.unroutable(queue)
        self._first_use.ready.discard(queue)

    def _channel_closed(self, channel: PublishingChannel, why: ChannelClosed) -> None:
        self._retired.forget(channel)
        if self._connection is not None:
            self._connection.forget(channel)
        refused = blamed_route(why.code, why.text, self._config.exchange) == EVERY_ROUTE
        if refused and self._alone.owns(channel):
            self._look_again()
        self._replace(channel, topology=refused)

    def _look_again(self) -> None:
        """All of the exchange is refused on another channel than that for publishing. Not with each message that is."""
        now = self._clock.monotonic()
        if self._connection is not None and now - self._looked_at >= self._config.check_timeout:
            self._looked_at = now
            self._connection.jobs.spawn(self._verify_again(self._connection))

    async def _verify(self, connection: Connection) -> None:
        verified = self._topology.verify(connection)
        self._first_use.ready = await connection.patiently(verified, self._config.check_timeout)

    async def _verify_again(self, connection: Connection) -> None:
        try:
            await self._verify(connection)
        except TimeoutError:
            pass  # the health check has the last word on a link that answers nothing
        except (ChannelClosed, BrokerError) as exc:
            self._give_up(connection, exc)

    def _replace(self, channel: PublishingChannel, *, topology: bool) -> None:
        self._alone.drop(channel)
        if channel is self._publishing and self._connection is not None:
            self._publishing = None
            self._connection.jobs.spawn(self._reopen(self._connection, topology=topology))

    async def _reopen(self, connection: Connection, *, topology: bool) -> None:
        # A blocked broker reads nothing from us: asking it for a channel would look like a dead link.
        await self._alarm.over()
        try:
            if topology:
                await self._verify(connection)
            self._publishing = await self._open_publishing(connection)
        except (TimeoutError, ChannelClosed, BrokerError) as exc:
            self._give_up(connection, exc)
            return
        self._answers()

    async def _move(self, connection: Connection) -> None:
        try:
            channel = await self._open_publishing(connection)
        except (TimeoutError, ChannelClosed, BrokerError):
            return  # we stay where we are, if the link did not end with it
        # Race: while it was opened, the one that we leave was closed or timed out, and has its own successor soon.
        left = self._publishing
        if left is None:
            connection.release(channel)
            return
        self._publishing = channel
        self._retired.add(left, connection)
        if not left.in_flight:
            self._retired.emptied(left)

    def _ended(self, connection: Connection, error: BrokerError) -> None:
        # Race: a connect fails, or `close` has let go of the link, and the wire reports its end: nobody is to know.
        if connection is self._connection:
            self._connection = self._publishing = None
            try:
                self._forget_link()
            finally:
                self._lost(error)

    def _spawn(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        return self._link().jobs.spawn(work)

    def _failed(self, error: Exception) -> None:
        self._tell(PartFailed("connection", error))

    def _forget_link(self) -> None:
        self._retired.clear()
        if self._alarm.is_on():
            self._alarm.changed(False, "the connection ended")
        for waiting in (self._alone, self._first_use):
            self._hears.settled.run(waiting.lost)
