"""What passes through the broker's queues, as RabbitMQ's management API tells it: AMQP shows what is ready, no more.

Asked after each health check, for the queues that it found. The API is for people: whatever it answers, and however
late, nothing of publishing depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from mlproducer.core.facts import SeenQueue
from mlproducer.delivery.health import HealthCheck
from mlproducer.errors import MLProducerError
from mlproducer.events import TrafficMeasured, TrafficUnknown
from mlproducer.ports import AskTraffic, Listener, QueueTraffic

UNNAMED: Final = "RABBITMQ_MANAGEMENT_URL names no management API"


class Traffic:
    """`ask` is None where no API is named."""

    def __init__(self, ask: AskTraffic | None, health: HealthCheck, tell: Listener) -> None:
        self._ask = ask
        self._health = health
        self._tell = tell
        self._found: Mapping[str, QueueTraffic] = {}
        self.note = UNNAMED if ask is None else "RABBITMQ_MANAGEMENT_URL was not asked yet"
        """Why nothing is known; empty if it is."""

    async def run(self) -> None:
        while self._ask is not None:
            await self._health.looked.wait()
            self._health.looked.clear()
            await self._look(self._ask)

    async def _look(self, ask: AskTraffic) -> None:
        names = self._health.queues.keys() | self._found.keys()
        try:
            self._found = await ask(names)
        except MLProducerError as error:
            text = str(error)
            if text != self.note:
                self._tell(TrafficUnknown(text))
            self._found, self.note = {}, text
            return
        self.note = ""
        for name in names:
            traffic = self._found.get(name, QueueTraffic())
            self._tell(TrafficMeasured(name, traffic.unacked, traffic.published, traffic.delivered, traffic.acked))

    def of(self, queue: SeenQueue) -> SeenQueue:
        """The same, with what is known of its traffic."""
        seen = self._found.get(queue.name)
        if seen is None:
            return queue
        return replace(
            queue, unacked=seen.unacked, published=seen.published, delivered=seen.delivered, acked=seen.acked
        )
