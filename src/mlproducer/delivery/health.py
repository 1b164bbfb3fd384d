"""The health check, every 30 s: a passive declare on a channel of its own, and a look at the queues."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from mlproducer.core.facts import SeenQueue
from mlproducer.core.supervisor import SupervisorState
from mlproducer.delivery.link import LinkKeeper
from mlproducer.events import HealthChecked, QueueMeasured, QueueMissing
from mlproducer.ports import Broker, Clock, Listener, QueueDepth


class HealthCheck:
    """A passive declare on a channel of its own; a failure hands over to the link keeper."""

    def __init__(self, broker: Broker, link: LinkKeeper, clock: Clock, tell: Listener, interval: float) -> None:
        self._broker = broker
        self._link = link
        self._clock = clock
        self._tell = tell
        self._interval = interval
        self._next_at = clock.monotonic()
        self._looked_at = clock.monotonic()
        self.last: HealthChecked | None = None
        self.queues: dict[str, SeenQueue] = {}
        """As the last look found them, by name."""
        self.looked = asyncio.Event()
        """Set by each look at the queues; who waits for it clears it."""

    @property
    def next_in(self) -> float:
        """Seconds until the next check."""
        return max(0.0, self._next_at - self._clock.monotonic())

    async def run(self) -> None:
        await self._link.opening.wait(self._interval)
        if self._link.state is SupervisorState.CONNECTED:
            await self.check()  # at once: whether anybody reads the queues should not take half a minute to be known
        while True:
            self._next_at = self._clock.monotonic() + self._interval
            await asyncio.sleep(self._interval)
            await self.check()

    async def check(self) -> None:
        """One round: check a connected link, or give an exhausted one its slow probe."""
        if self._link.state is not SupervisorState.CONNECTED:
            self._report(ok=False, duration=0.0, text=self._link.last_error or "not connected")
            self._link.probe()
            return
        started = self._clock.monotonic()
        try:
            await self._broker.check()
            depths = await self._broker.queue_depths()
        except Exception as found:  # noqa: BLE001  # a link that cannot be looked at is not known to be alive
            error = self._link.in_words(found)
            self._report(ok=False, duration=self._clock.monotonic() - started, text=str(error))
            await self._link.abandon(error)
            return
        self._report(ok=True, duration=self._clock.monotonic() - started, text="")
        self._see(depths)
        for queue, depth in depths.items():
            self._tell(QueueMeasured(queue, depth.ready, depth.consumers))
        for queue in self._broker.view().missing:
            self._tell(QueueMissing(queue))

    def _see(self, depths: Mapping[str, QueueDepth]) -> None:
        now, before = self._clock.monotonic(), self.queues
        seconds, self._looked_at = max(now - self._looked_at, 1e-3), now
        self.queues = {
            name: SeenQueue(
                name,
                found.ready,
                found.consumers,
                growth=(found.ready - before[name].ready) / seconds if name in before else None,
            )
            for name, found in depths.items()
        }
        self.looked.set()

    def _report(self, *, ok: bool, duration: float, text: str) -> None:
        self.last = HealthChecked(ok, duration, text)
        self._tell(self.last)
