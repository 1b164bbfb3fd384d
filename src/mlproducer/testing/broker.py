"""A broker in memory, for tests of applications that publish: scripted, and strict about its contract."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from mlproducer.errors import BrokerError, BrokerUnreachable, ConnectionLost
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome, Unsure, UnsureCause
from mlproducer.ports import LinkView, QueueDepth, Settle
from mlproducer.task import Envelope


class FakeBroker:
    """`ports.Broker` without a network.

    Each publish is answered on the next turn of the loop with the next scripted outcome, or `Confirmed`. A confirmed
    message is in `queues[routing_key]`. `hold()` keeps answers back until `release()`; `drop()` loses the connection;
    `down` makes connects fail.
    """

    def __init__(self, lost: Callable[[BrokerError], None] = lambda _: None) -> None:
        self.lost = lost
        self.queues: dict[str, list[Envelope]] = {}
        self.script: deque[Outcome] = deque()
        self.down = False
        self.blocked = False
        self.consumers = 1
        """Of each queue."""
        self.connects = 0
        self.alone: list[str] = []
        self.moves = 0
        self._connected = False
        self._holding = False
        self._in_flight: dict[int, tuple[Envelope, Settle]] = {}
        self._next = 0

    async def connect(self) -> None:
        self.connects += 1
        await asyncio.sleep(0)
        if self.down:
            raise BrokerUnreachable("the fake broker is down")
        self._connected = True

    async def close(self) -> None:
        await asyncio.sleep(0)
        self._end()

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        del deadline  # this broker never times out by itself: script an Unsure
        if not self._connected:
            settle(NotSent(NotSentCause.NOT_CONNECTED))
            return
        if alone:
            self.alone.append(envelope.task_id)
        self._next += 1
        self._in_flight[self._next] = (envelope, settle)
        if not self._holding:
            asyncio.get_running_loop().call_soon(self._answer, self._next)

    def move(self) -> None:
        self.moves += 1

    @property
    def obstacle(self) -> NotSentCause | None:
        if not self._connected:
            return NotSentCause.NOT_CONNECTED
        return NotSentCause.BLOCKED if self.blocked else None

    @property
    def paused(self) -> bool:
        return False

    async def writable(self, deadline: float) -> bool:
        del deadline
        await asyncio.sleep(0)
        return self._connected

    async def check(self) -> None:
        await asyncio.sleep(0)
        if not self._connected:
            raise ConnectionLost("the fake broker is not connected")

    async def queue_depths(self) -> dict[str, QueueDepth]:
        await asyncio.sleep(0)
        return {name: QueueDepth(len(messages), self.consumers) for name, messages in self.queues.items()}

    def view(self) -> LinkView:
        size = sum(envelope.size for envelope, _ in self._in_flight.values())
        alarm = "low on memory" if self.blocked else ""
        return LinkView(self._connected, self.blocked, len(self._in_flight), size, "fake:5672", alarm=alarm)

    def hold(self) -> None:
        """Answer nothing until `release`."""
        self._holding = True

    def release(self) -> None:
        """Answer all that waits, in order, from now on at once."""
        self._holding = False
        for tag in list(self._in_flight):
            self._answer(tag)

    def drop(self) -> None:
        """Lose the connection: what is in flight is unsure, and the supervisor is told."""
        self._end()
        self.lost(ConnectionLost("the fake broker dropped the connection"))

    def task_ids(self) -> list[str]:
        """Ids of all messages in all queues."""
        return [envelope.task_id for messages in self.queues.values() for envelope in messages]

    def _answer(self, tag: int) -> None:
        waiting = self._in_flight.pop(tag, None)
        if waiting is None:
            return  # settled by `drop` or `close` before its turn
        envelope, settle = waiting
        outcome = self.script.popleft() if self.script else Confirmed()
        if isinstance(outcome, Confirmed):
            self.queues.setdefault(envelope.routing_key, []).append(envelope)
        settle(outcome)

    def _end(self) -> None:
        self._connected = False
        waiting, self._in_flight = self._in_flight, {}
        for _, settle in waiting.values():
            settle(Unsure(UnsureCause.CONNECTION_LOST))
