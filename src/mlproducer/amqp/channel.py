"""A channel: calls and their answers in order, and its close from either end."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from pamqp import base, body, commands, frame, header

from mlproducer.amqp.faults import ChannelClosed
from mlproducer.errors import BrokerError, ConnectionLost, ErrorType
from mlproducer.jobs import heard, shielded

F = TypeVar("F", bound=base.Frame)
Send = Callable[[bytes], None]
Call = tuple[type[base.Frame], asyncio.Future[base.Frame]]
"""The kind of the answer, and who waits for it."""


class Channel:
    """Channel `number` of a connection. `send` queues bytes on its wire."""

    def __init__(self, number: int, send: Send) -> None:
        self.number = number
        self._send = send
        self._calls: deque[Call] = deque()
        self._end: ChannelClosed | BrokerError | None = None
        self._closing: asyncio.Future[base.Frame] | None = None
        self.reusable = False
        """Both ends know that it is closed, and no frame of it is under way: its number may be used again."""

    @property
    def end(self) -> ChannelClosed | BrokerError | None:
        """Why it is over; None while it is open."""
        return self._end

    async def call(self, method: base.Frame, answer: type[F]) -> F:
        """Send `method` and wait for its answer. The caller bounds the time.

        Raises: ChannelClosed, if the broker closes the channel instead; BrokerError, if the connection ends.
        """
        found = await self._ask(method, answer)
        assert isinstance(found, answer)  # noqa: S101  # checked where it was received
        return found

    async def ask(self, *calls: tuple[base.Frame, type[base.Frame]]) -> base.Frame:
        """Send several methods at once, each with the kind of its answer: one round trip for all of them. Returns the
        last answer. Raises: as `call`.
        """
        waiters = [self._ask(method, answer) for method, answer in calls]
        return [await waiter for waiter in waiters][-1]

    def send(self, *frames: base.Frame | header.ContentHeader) -> None:
        self._send(b"".join(frame.marshal(each, self.number) for each in frames))

    def received(self, value: frame.FrameTypes) -> None:
        """A frame for this channel, acks apart."""
        match value:
            case commands.Channel.Close(reply_code=code, reply_text=text):
                self.send(commands.Channel.CloseOk())
                # Race: our own close crosses the broker's. Then its answer to ours is still to come, and until then
                # the number is not free.
                ours = [call for call in self._calls if call[0] is commands.Channel.CloseOk]
                self.reusable = not ours
                self._ended(ChannelClosed(code or 0, text or ""), after=ours)
            case commands.Channel.CloseOk():
                self._answer(value)
                self.reusable = True
                self._ended(ChannelClosed(0, "closed by us"))
            case base.Frame():
                self._answer(value)
            case header.ContentHeader() | body.ContentBody():
                pass  # content is only expected by a publishing channel, for returns
            case _:
                raise _unexpected(value)

    def lost(self, error: BrokerError) -> None:
        """The connection ended under the channel."""
        self._ended(error)

    async def close(self) -> None:
        """Close it from our end. Does nothing if it is closed already."""
        if self._closing is None:
            if self._end is not None:
                return
            self._closing = self._ask(commands.Channel.Close(200, "done", 0, 0), commands.Channel.CloseOk)
        # Race: who closes it gives up, and somebody else closes it again. A second close would come to a channel that
        # is closed, for which the broker ends the connection (504); so both wait for the answer to the first.
        await shielded(self._closing)

    def _ask(self, method: base.Frame, answer: type[base.Frame]) -> asyncio.Future[base.Frame]:
        if self._end is not None:
            raise self._end
        waiter: asyncio.Future[base.Frame] = heard(asyncio.get_running_loop().create_future())
        self._calls.append((answer, waiter))
        self.send(method)
        return waiter

    def _answer(self, value: base.Frame) -> None:
        if not self._calls or not isinstance(value, self._calls[0][0]):
            raise _unexpected(value)
        _, waiter = self._calls.popleft()
        if not waiter.done():  # else the caller gave up meanwhile; the answer is still the answer to its call
            waiter.set_result(value)

    def _ended(self, why: ChannelClosed | BrokerError, after: Iterable[Call] = ()) -> None:
        """`after` are calls that are answered all the same."""
        if self._end is None:
            self._end = why
        kept = deque(after)
        calls, self._calls = self._calls, kept
        for call in calls:
            if call not in kept and not call[1].done():
                call[1].set_exception(why)


def _unexpected(value: object) -> BrokerError:
    name = getattr(value, "name", type(value).__name__)
    return ConnectionLost(f"the broker sent {name} where it was not expected", error_type=ErrorType.PROTOCOL)
