"""The publishing channel: frames out, confirms in, each settled by the pure ledger."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pamqp import commands, frame, header

from mlproducer.amqp.channel import Channel, Send
from mlproducer.amqp.faults import ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, ChannelClosed
from mlproducer.amqp.wire import OVERHEAD
from mlproducer.core.confirms import ConfirmLedger, Late, ProtocolViolation
from mlproducer.core.refusals import blamed_route
from mlproducer.envelope.encode import attempt_properties
from mlproducer.errors import BrokerError, ConnectionLost, ErrorType
from mlproducer.jobs import Jobs
from mlproducer.outcome import NotSent, NotSentCause, Outcome, Unsure, UnsureCause
from mlproducer.ports import Clock, Settle
from mlproducer.task import Envelope

REFUSALS: Final = frozenset({ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED})
"""Codes by which the broker blames a message or its route, rather than itself."""

_HEADER: Final = struct.Struct(">BHIHHQ").pack
_FRAME: Final = struct.Struct(">BHI").pack
_BASIC: Final = 60
_END: Final = b"\xce"

Settled = list[tuple[tuple[Settle, int], Outcome]]


@dataclass(frozen=True, slots=True)
class Hears:
    """Who hears what of a publishing channel. `settled` runs the settle callbacks: a caller's fault in one must not
    keep the others from their outcomes.
    """

    timed_out: Callable[[PublishingChannel, int], None]
    """Called with how many attempts expired."""
    emptied: Callable[[PublishingChannel], None]
    """It is retired, and nothing on it is outstanding any more, nor may be answered late."""
    closed: Callable[[PublishingChannel, ChannelClosed], None]
    """By the broker."""
    returned: Callable[[str], None]
    """Called with its routing key before an attempt comes back as unroutable."""
    alarmed: Callable[[], NotSent | None]
    """Under an alarm, what becomes of a message that is not written yet."""
    settled: Jobs


class PublishingChannel(Channel):
    """One channel in confirm mode.

    `prefix` makes this channel's message ids unique: a return is matched to the very attempt it belongs to by
    `<prefix><tag>`. `jobs` are its connection's. `late_for`: for how many seconds after its time an attempt is listened
    for.
    """

    def __init__(
        self,
        number: int,
        send: Send,
        *,
        prefix: str,
        exchange: str,
        frame_max: int,
        clock: Clock,
        jobs: Jobs,
        hears: Hears,
        late_for: float = 0.0,
    ) -> None:
        super().__init__(number, send)
        self._prefix = prefix.encode()
        self._exchange = exchange
        self._payload_max = frame_max - OVERHEAD
        self._clock = clock
        self._jobs = jobs
        self._hears = hears
        self._methods: dict[str, bytes] = {}
        self._ledger: ConfirmLedger[tuple[Settle, int]] = ConfirmLedger(late_for)
        self._returning: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.retired = False
        self.bytes_in_flight = 0

    @property
    def in_flight(self) -> int:
        return self._ledger.outstanding

    async def start(self) -> None:
        """Open it and turn confirms on. Raises: ChannelClosed, BrokerError."""
        opening = commands.Channel.Open(), commands.Channel.OpenOk
        await self.ask(opening, (commands.Confirm.Select(), commands.Confirm.SelectOk))

    def publish(self, envelope: Envelope, settle: Settle, deadline: float) -> None:
        """Write one mandatory message; `settle` is called exactly once."""
        if self.end is not None:
            # Race: the channel ends, and one of the settles that this brings publishes again at once.
            settle(NotSent(NotSentCause.NOT_CONNECTED))
            return
        if deadline <= self._clock.monotonic():
            settle(NotSent(NotSentCause.DEADLINE))
            return
        size = envelope.size
        # Made before its tag is taken: else a message that cannot be made would shift the tags of all that follow.
        frames = self._frames(envelope, self._ledger.next_tag)
        self._ledger.add((settle, size), deadline)
        self.bytes_in_flight += size
        self._send(frames)
        if self._timer is None or deadline < self._timer_at:
            self._set_timer(deadline)

    def acked(self, tag: int, multiple: bool) -> None:  # noqa: FBT001  # the protocol's own flag
        try:
            settled = self._ledger.ack(tag, multiple)
        except ProtocolViolation as exc:
            raise ConnectionLost(str(exc), error_type=ErrorType.PROTOCOL) from exc
        late = self._ledger.answered_late(tag, multiple, taken=True) if self.retired else None
        self._settle(settled, late)

    def nacked(self, tag: int, multiple: bool) -> None:  # noqa: FBT001  # the protocol's own flag
        try:
            settled = self._ledger.nack(tag, multiple)
        except ProtocolViolation as exc:
            raise ConnectionLost(str(exc), error_type=ErrorType.PROTOCOL) from exc
        late = self._ledger.answered_late(tag, multiple, taken=False) if self.retired else None
        self._settle(settled, late)

    def give_up(self) -> None:
        """Listen for late answers no more: the channel is wanted for something else."""
        self._settle([], self._ledger.give_up(math.inf))

    def received(self, value: frame.FrameTypes) -> None:
        match value:
            case commands.Basic.Return(reply_code=code, reply_text=text, routing_key=key):
                self._returning = (code or 0, text or "")
                self._hears.returned(key or "")
            case header.ContentHeader(properties=properties) if self._returning is not None:
                code, text = self._returning
                self._returning = None
                self._mark_returned(str(properties.message_id or ""), code, text)
            case commands.Channel.Close(reply_code=code, reply_text=text):
                super().received(value)
                why = ChannelClosed(code or 0, text or "")
                self._refused(why)
                self._hears.closed(self, why)
            case commands.Channel.CloseOk():
                super().received(value)
                self._stop_timer()
                self._settle(self._ledger.lose(Unsure(UnsureCause.CHANNEL_LOST, "we closed it to open another")))
            case _:
                super().received(value)

    def lost(self, error: BrokerError) -> None:
        super().lost(error)
        self._stop_timer()
        self._lose(Unsure(UnsureCause.CONNECTION_LOST, str(error)))

    def _refused(self, why: ChannelClosed) -> None:
        """The broker closed the channel without saying because of which message (docs/adr/0004), but perhaps for which
        routes.
        """
        self._stop_timer()
        outcome: Outcome
        route = blamed_route(why.code, why.text, self._exchange)
        if why.code not in REFUSALS:
            outcome = Unsure(UnsureCause.CHANNEL_LOST, str(why))
        elif self.in_flight + self._ledger.late == 1:
            outcome = NotSent(NotSentCause.CHANNEL_REFUSED, why.code, why.text, route=route)
        else:
            outcome = Unsure(UnsureCause.CHANNEL_REFUSED, str(why), route=route)
        self._lose(outcome)

    def _lose(self, outcome: Outcome) -> None:
        self._settle(self._ledger.lose(outcome), self._ledger.lose_late(outcome))

    def _mark_returned(self, message_id: str, code: int, text: str) -> None:
        tag = message_id.removeprefix(self._prefix.decode())
        # Whatever else comes back (it cannot, on a channel of our own) is not ours to judge.
        if tag != message_id and tag.isdecimal():
            self._ledger.returned(int(tag), code, text)

    def _settle(self, settled: Settled, late: Late | None = None) -> None:
        for (settle, size), outcome in settled:
            self.bytes_in_flight -= size
            self._hears.settled.run(settle, outcome)
        for answer, outcome in late or ():
            self._hears.settled.run(answer.tell, outcome)
        if self.retired and (settled or late) and not self.in_flight and not self._ledger.late:
            self._stop_timer()
            self._hears.emptied(self)

    def _frames(self, envelope: Envelope, tag: int) -> bytes:
        method = self._methods.get(envelope.routing_key)
        if method is None:
            publish = commands.Basic.Publish(exchange=self._exchange, routing_key=envelope.routing_key, mandatory=True)
            method = self._methods[envelope.routing_key] = frame.marshal(publish, self.number)
        number, content = self.number, envelope.body
        properties = attempt_properties(envelope, self._prefix + b"%d" % tag, self._clock.now())
        size = len(content)
        start = _HEADER(2, number, len(properties) + 12, _BASIC, 0, size)
        if size <= self._payload_max:
            return b"".join((method, start, properties, _END, _FRAME(3, number, size), content, _END))
        parts = [method, start, properties, _END]
        for at in range(0, size, self._payload_max):
            part = content[at : at + self._payload_max]
            parts += (_FRAME(3, number, len(part)), part, _END)
        return b"".join(parts)

    def _set_timer(self, at: float) -> None:
        self._stop_timer()
        self._timer_at = at
        delay = max(0.0, at - self._clock.monotonic())
        self._timer = self._jobs.later(delay, self._ring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        # One timer serves all: it was set for a deadline whose attempt has mostly been settled since. Then nothing
        # expires and it is set again for the earliest that is left.
        self._timer = None
        now = self._clock.monotonic()
        given_up = self._ledger.give_up(now)
        expired = self._ledger.expire(now)
        earliest = self._ledger.next_deadline()
        if earliest is not None:
            self._set_timer(earliest)
        alarm = self._hears.alarmed() if expired else None
        if alarm is not None:  # then the time says nothing of the queues
            expired = [(entry, _blocked(alarm.text, outcome)) for entry, outcome in expired]
        try:
            if expired:
                self._hears.timed_out(self, len(expired))
        finally:
            self._settle(expired, given_up)  # nobody else knows of them any more


def _blocked(text: str, outcome: Outcome) -> Outcome:
    """An attempt that was given up under an alarm; it may be answered after that."""
    return Unsure(UnsureCause.BLOCKED, text, late=outcome.late if isinstance(outcome, Unsure) else None)


HEADER_TOO_LARGE: Final = "its headers do not fit into one frame of the broker (frame_max)"


def fits(envelope: Envelope, frame_max: int) -> bool:
    """AMQP carries all properties in one frame; the message id and expiration of an attempt take up to 300 bytes."""
    return len(envelope.properties) + 300 + 12 + OVERHEAD <= frame_max
