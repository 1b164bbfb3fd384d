"""The health check, every 30 s: a passive declare on a channel of its own."""

from __future__ import annotations

import asyncio

from mlproducer.core.supervisor import SupervisorState
from mlproducer.delivery.link import LinkKeeper
from mlproducer.events import HealthChecked, QueueMeasured
from mlproducer.ports import Broker, Clock, Listener


class HealthCheck:
    """A passive declare on a channel of its own; a failure hands over to the link keeper."""

    def __init__(self, broker: Broker, link: LinkKeeper, clock: Clock, tell: Listener, interval: float) -> None:
        self._broker = broker
        self._link = link
        self._clock = clock
        self._tell = tell
        self._interval = interval
        self.last: HealthChecked | None = None

    async def run(self) -> None:
        while True:
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
        for queue, depth in depths.items():
            self._tell(QueueMeasured(queue, depth))

    def _report(self, *, ok: bool, duration: float, text: str) -> None:
        self.last = HealthChecked(ok, duration, text)
        self._tell(self.last)
