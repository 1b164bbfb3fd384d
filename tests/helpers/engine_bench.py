"""A producer over a fake broker and a memory spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.trace import TracerProvider

from mlproducer import Producer, Settings, Task
from mlproducer.events import Event
from mlproducer.ports import Clock, Listener, Spool
from mlproducer.spool import open_spool
from mlproducer.testing.broker import FakeBroker
from mlproducer.wiring import GetCredentials, Overrides

FAST: dict[str, object] = {
    "ml_reconnect_first": 0.02,
    "ml_reconnect_cap": 0.1,
    "ml_retry_first": 0.02,
    "ml_retry_cap": 0.05,
    "ml_drain_poll": 0.02,
    "ml_shutdown_timeout": 0.2,
    "ml_breaker_cooldown": 0.1,
    "ml_health_interval": 0.1,
    "ml_route_patience": 0,
}
"""Without patience, as each fault is its task's own then. What is patient: test_held_routes."""


def embed(n: object = 1, **fields: Any) -> Task:
    return Task(task_type="embed_vectors", payload={"share_id": f"s{n}", "content": f"text {n}"}, **fields)


@dataclass
class Bench:
    """A producer, its broker, and every event it told."""

    producer: Producer
    broker: FakeBroker
    spool: Spool
    events: list[Event] = field(default_factory=list)

    def told(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def places(self) -> dict[str, list[str]]:
        """Every task id by place: the promise is that each accepted one is in exactly one."""
        return {
            "broker": self.broker.task_ids(),
            "spool": [row.task_id for row in await self.producer.waiting(limit=10_000)],
            "dead": [letter.task_id for letter in await self.producer.dead_letters(limit=10_000)],
        }


def bench(*, spool: Spool | None = None, **given: Any) -> Bench:
    """`given` are settings; `tracer_provider` is one of OpenTelemetry, or None; `clock` is the host's; `listeners` hear
    before `events` does; `credentials` is a callback.
    """
    clock: Clock | None = given.pop("clock", None)
    tracer_provider: TracerProvider | None = given.pop("tracer_provider", None)
    listeners: Sequence[Listener] = given.pop("listeners", ())
    credentials: GetCredentials | None = given.pop("credentials", None)
    made: list[FakeBroker] = []

    def broker(lost: Callable[[Any], None], _tell: object) -> FakeBroker:
        made.append(FakeBroker(lost))
        return made[0]

    events: list[Event] = []
    settings = Settings.load(**{**FAST, "ml_spool_url": "memory://", **given})
    spool = spool or open_spool(settings.spool_url, clock=clock)
    overrides = Overrides(clock=clock, broker=broker, spool=spool, tracer_provider=tracer_provider)
    hears = [*listeners, events.append]
    producer = Producer(settings, listeners=hears, credentials=credentials, overrides=overrides)
    return Bench(producer, made[0], spool, events)


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.005)
