"""Messages that are published one at a time, so that a channel error can be blamed on one of them, and a queue that
does not answer stops no other's channel.

Each route has a lane of its own: one whose queue does not answer keeps its message for as long as an answer is waited
for, and those of the other routes are not to wait behind it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from mlproducer.amqp.faults import ChannelClosed
from mlproducer.amqp.publishing import PublishingChannel
from mlproducer.errors import BrokerError
from mlproducer.jobs import Jobs
from mlproducer.outcome import NotSent, NotSentCause, Outcome
from mlproducer.ports import Settle
from mlproducer.task import Envelope

LANES: Final = 16
"""As many routes have a channel for this at once, where the connection may have as many."""
MOST: Final = 20
"""Messages that wait in one lane at once. If each of them costs its channel, so many channels are opened for it one
after the other, and then somebody looks again whether that is wise."""


@dataclass(frozen=True, slots=True)
class Means:
    """What a lane works with."""

    open_channel: Callable[[], Awaitable[PublishingChannel]]
    release: Callable[[PublishingChannel], None]
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    """Starts a job of the connection."""
    alarmed: Callable[[], NotSent | None]
    """What becomes of a message while the broker has an alarm."""
    settled: Jobs
    """Runs settle callbacks."""


class Alone:
    """`most` says how many lanes there may be now, at least one. What is of more routes waits in the shortest."""

    def __init__(self, means: Means, most: Callable[[], int]) -> None:
        self._means = means
        self._most = most
        self._lanes: dict[str, _Lane] = {}
        """By route."""

    @property
    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes.values())

    @property
    def bytes_in_flight(self) -> int:
        return sum(lane.bytes_in_flight for lane in self._lanes.values())

    def publish(self, envelope: Envelope, settle: Settle, deadline: float) -> None:
        self._lane(envelope.routing_key).publish(envelope, settle, deadline)

    def owns(self, channel: PublishingChannel) -> bool:
        return any(lane.owns(channel) for lane in self._lanes.values())

    def drop(self, channel: PublishingChannel) -> None:
        """It was closed or is retired: the next message opens another."""
        for lane in self._lanes.values():
            if lane.owns(channel):
                lane.drop_channel()

    def lost(self) -> None:
        """The connection ended. What is on a channel is settled by the channel; what waits was never sent."""
        lanes, self._lanes = self._lanes, {}
        for lane in lanes.values():
            lane.lost()

    def _lane(self, route: str) -> _Lane:
        lane = self._lanes.get(route)
        if lane is None:
            self._lanes = {route: each for route, each in self._lanes.items() if each.is_busy}
            if len(self._lanes) >= self._most():
                return min(self._lanes.values(), key=lambda lane: lane.in_flight)
            lane = self._lanes[route] = _Lane(self._means)
        return lane


class _Lane:
    """A publishing channel with one message on it, and a queue behind it. Opened when needed, and released."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._channel: PublishingChannel | None = None
        self._queue: deque[tuple[Envelope, Settle, float]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._bytes = 0
        self._count = 0

    @property
    def in_flight(self) -> int:
        return self._count

    @property
    def bytes_in_flight(self) -> int:
        return self._bytes

    def publish(self, envelope: Envelope, settle: Settle, deadline: float) -> None:
        if self._count >= MOST:
            settle(NotSent(NotSentCause.WINDOW_FULL))
            return
        self._count += 1
        self._bytes += envelope.size

        def settled(outcome: Outcome) -> None:
            self._count -= 1
            self._bytes -= envelope.size
            self._means.settled.run(settle, outcome)

        self._queue.append((envelope, settled, deadline))
        if self._worker is None:
            self._worker = self._means.spawn(self._work())

    @property
    def is_busy(self) -> bool:
        """It has a message, or a channel to release."""
        return self._worker is not None

    def owns(self, channel: PublishingChannel) -> bool:
        return channel is self._channel

    def drop_channel(self) -> None:
        self._channel = None

    def lost(self) -> None:
        self._channel = None
        if self._worker is not None:
            self._worker.cancel()
            self._worker = None
        self._settle_waiting()

    def _settle_waiting(self) -> None:
        queue, self._queue = self._queue, deque()
        for _, settle, _ in queue:
            settle(self._means.alarmed() or NotSent(NotSentCause.NOT_CONNECTED))

    async def _work(self) -> None:
        while self._queue:
            if self._means.alarmed() is not None:
                break
            # The head stays in the queue until it is on a channel: if the connection ends while one is being
            # opened, `lost` settles it with the others.
            if self._channel is None:
                try:
                    self._channel = await self._means.open_channel()
                except (ChannelClosed, BrokerError, TimeoutError):
                    break
            envelope, settle, deadline = self._queue.popleft()
            over = asyncio.Event()

            def settled(outcome: Outcome, settle: Settle = settle, over: asyncio.Event = over) -> None:
                over.set()
                settle(outcome)

            try:
                self._channel.publish(envelope, settled, deadline)
            except Exception:
                settled(NotSent(NotSentCause.NOT_CONNECTED))
                raise  # the end of the connection: `lost` settles the others
            await over.wait()
        self._worker = None  # what `settle` may publish now starts another
        channel, self._channel = self._channel, None
        if channel is not None:
            self._means.release(channel)  # a connection may have few
        self._settle_waiting()
