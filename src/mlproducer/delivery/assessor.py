"""The one place that makes `core.facts` of an engine's parts. Asking costs the broker nothing, however often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from mlproducer.core.facts import Facts, LinkFacts, SeenQueue
from mlproducer.core.supervisor import SupervisorState
from mlproducer.core.verdict import WINDOW, Cause, Code, Verdict, judge
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import HealthCheck
from mlproducer.delivery.intake import Intake
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.recent import LastConfirm, Refusals
from mlproducer.delivery.route_watch import RouteWatch
from mlproducer.delivery.spool_watch import SpoolWatch
from mlproducer.delivery.traffic import Traffic
from mlproducer.events import Judged
from mlproducer.ports import Broker, Clock, Listener

BEAT: Final = 1.0
"""Seconds between two looks: `since` is known as exactly as that, and the metrics are as old."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts that know. `batch_limit`: seconds that a batch of the drain may take; `dlq_queue`: ML_DLQ_QUEUE."""

    broker: Broker
    link: LinkKeeper
    guard: Guard
    routes: RouteWatch
    attempts: Attempts
    watch: SpoolWatch
    health: HealthCheck
    traffic: Traffic
    gauges: Gauges
    intake: Intake
    drain: Drain
    pipeline: Pipeline
    refusals: Refusals
    last_confirm: LastConfirm
    batch_limit: float
    dlq_queue: str

    def facts(self) -> Facts:
        blobs = self.pipeline.blobs
        return Facts(
            accepting=self.pipeline.accepting,
            link=self._link_facts(),
            room=self.intake.room(self.watch.error),
            routes=self.routes.closed(),
            queues=self._queues(),
            traffic_note=self.traffic.note,
            refused=self.refusals.within(),
            accepted=self.refusals.spooled() or self.last_confirm.within(WINDOW),
            in_flight=self.broker.view().in_flight,
            silent=self.attempts.silent_for(),
            late=tuple(self.attempts.late_routes().items()),
            drain_still=self.drain.still_for(),
            drain_limit=self.batch_limit,
            blobs_error="" if blobs is None else blobs.error,
            clock_note=self.gauges.clock_note(),
        )

    def _link_facts(self) -> LinkFacts:
        view, link, guard = self.broker.view(), self.link, self.guard
        exhausted = link.state is SupervisorState.EXHAUSTED
        return LinkFacts(
            connected=view.connected,
            blocked=view.blocked,
            alarm=view.alarm,
            node=view.node,
            error=link.last_error,
            exhausted=exhausted,
            next_attempt=self.health.next_in if exhausted else link.next_attempt,
            breaker=guard.state().name.lower(),
            failures=guard.failures,
            probe_in=guard.probe_in,
        )

    def _queues(self) -> tuple[SeenQueue, ...]:
        """As the last look found them, and what is missing. The copies of dead letters wait for a person, no worker."""
        seen = self.health.queues
        found = {name: self.traffic.of(queue) for name, queue in seen.items() if name != self.dlq_queue}
        for each in self.broker.view().differences:
            if each.broken:
                found[each.name] = replace(found.get(each.name, SeenQueue(each.name)), missing=each.text)
        return tuple(found[name] for name in sorted(found))


class Assessor:
    """Judges what the sources know, and remembers since when each cause is there."""

    def __init__(self, sources: Sources, clock: Clock, tell: Listener) -> None:
        self._facts = sources.facts
        self._clock = clock
        self._tell = tell
        self._told: Judged | None = None
        self._first: dict[tuple[Code, str], float] = {}

    async def run(self) -> None:
        while True:
            found = self.look()[1]
            missing = tuple(cause.about for cause in found.causes if cause.code is Code.QUEUE_MISSING)
            judged = Judged(int(found.new_tasks), _levels(found), missing)
            if judged != self._told:
                self._told = judged
                self._tell(judged)
            await asyncio.sleep(BEAT)

    def look(self) -> tuple[Facts, Verdict]:
        """One moment, and what is to be said of it."""
        facts = self._facts()
        found, now = judge(facts), self._clock.monotonic()
        keys = {(cause.code, cause.about) for cause in found.causes}
        self._first = {key: self._first.get(key, now) for key in keys}
        return facts, replace(found, causes=tuple(self._dated(cause, now) for cause in found.causes))

    def _dated(self, cause: Cause, now: float) -> Cause:
        return replace(cause, since=now - self._first[cause.code, cause.about]) if cause.since is None else cause


def _levels(found: Verdict) -> tuple[tuple[str, int], ...]:
    """Of each cause, how bad: 1 amber, 2 red."""
    levels: dict[str, int] = {}
    for cause in found.causes:
        levels[cause.code.value] = max(levels.get(cause.code.value, 0), 2 if cause.level == "red" else 1)
    return tuple(levels.items())
