"""What a producer that is about to end does with what waits in its spool: publish it while it can, and say what stays.

A script publishes and ends. What it had to spool (its deadline was short, the connection broke) should not wait for a
producer that may never come. So the drain goes on for as long as it may get somewhere:

    nothing of ours is due any more, and no    done; a task with an eta of next week is not waited for
    late answer may still come
    the drain looked and found nothing due     done; another process of the same spool has the rest
    what is due is of held routes              they are tried once a wait, and nobody knows when they are well
    no link that promises to come, the broker  it cannot get anywhere. A link that was just lost has one attempt; a
    blocks, the breaker is open                broker that is known to be away is not waited for
    the time is over                           ML_SHUTDOWN_TIMEOUT
"""

from __future__ import annotations

import asyncio
from typing import Final

from mlproducer.delivery.drain import Drain
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.late import LateAnswers
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.errors import SpoolUnavailable
from mlproducer.events import BreakerState, TasksLeft
from mlproducer.outcome import NotSentCause, blocked_text
from mlproducer.ports import Broker, Clock, Listener, Spool

LOOK_EVERY: Final = 0.02
"""Seconds. This runs once in a life, and 20 ms is no wait there."""


class Leaving:
    """`durable`: the spool outlives the process."""

    def __init__(
        self,
        *,
        broker: Broker,
        link: LinkKeeper,
        guard: Guard,
        drain: Drain,
        late: LateAnswers,
        spool: Spool,
        book: ReceiptBook,
        clock: Clock,
        tell: Listener,
        durable: bool,
    ) -> None:
        self._broker = broker
        self._link = link
        self._guard = guard
        self._drain = drain
        self._late = late
        self._spool = spool
        self._book = book
        self._clock = clock
        self._tell = tell
        self._durable = durable

    async def drain(self, limit: float, *, ours: bool) -> bool:
        """Let the drain publish what is due, for at most `limit` seconds. With `ours` only for as long as something
        that this process spooled is due, or an attempt may be answered late. True if nothing is, any more; without
        `ours`, nothing of this process becomes due within `limit` either, such as a retry in a second.
        """
        self._drain.wake()
        end = self._clock.monotonic() + limit
        while not ours or self._due() or self._late.open:
            left = end - self._clock.monotonic()
            if self._drain.dry and not self._late.open and (ours or not self._due(within=left)):
                return True
            if self.obstacle() or (ours and self._drain.held) or left <= 0:
                return False
            await asyncio.sleep(LOOK_EVERY)
        return True

    def obstacle(self) -> str:
        """Why nothing can be published now, nor in a moment; empty if it may be."""
        if self._broker.obstacle is NotSentCause.BLOCKED:
            return blocked_text(self._broker.view().alarm)
        if self._guard.state() is BreakerState.OPEN:
            return "the circuit breaker is open"
        if self._link.promising:
            return ""
        return self._link.last_error or "not connected"

    async def say(self, obstacle: str) -> None:
        """Tell how many tasks of this process stay in the spool, if any do. `obstacle` is what it was before the link
        was closed.
        """
        spooled = len(self._book.due)
        if not spooled:
            return
        # Other processes may have published some of ours; more than there are in all are not left.
        left = min(spooled, await self._waiting(spooled))
        if left:
            self._tell(TasksLeft(left, obstacle or self._why(), self._durable))

    def _why(self) -> str:
        closed = self._drain.closed_routes()
        if self._due() and not self._drain.held:
            return "the time was over (ML_SHUTDOWN_TIMEOUT)"
        # A row that met a held route is put off until after its probe, so it is not due either.
        return f"a route takes nothing at present: {closed} (ML_ROUTE_PATIENCE)" if closed else "they are not due yet"

    async def _waiting(self, unknown: int) -> int:
        try:
            return (await self._spool.measure()).tasks
        except SpoolUnavailable:
            return unknown

    def _due(self, *, within: float = 0.0) -> bool:
        """A task that this process spooled is due, or will be within so many seconds. Asked at each look, so the book
        has the earliest at hand: a walk over a hundred thousand receipts every 20 ms would keep a processor busy.
        """
        earliest = self._book.due.earliest()
        return earliest is not None and earliest <= self._clock.now() + within
