"""The health of each part, from what the engine knows anyway: asking costs the broker nothing, however often.

`failed` is said only of what makes new tasks be refused. What is `degraded` wants a look, and tasks are accepted.
"""

from __future__ import annotations

from typing import Final

from mlproducer.delivery.drain import Drain
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import HealthCheck
from mlproducer.delivery.intake import Intake
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.route_watch import RouteWatch
from mlproducer.delivery.spool_watch import SpoolWatch
from mlproducer.events import BreakerState
from mlproducer.outcome import blocked_text
from mlproducer.ports import Broker
from mlproducer.status import Check, CheckStatus, Health

FILL_WARNS: Final = 0.8
"""Share of a limit of the spool: time to act before tasks are refused."""
DRAIN_STILL: Final = 30.0
"""Seconds more than a batch may take after which a drain that begins no turn is said to stand still."""
CONFIRM_LATE: Final = 30.0
"""Seconds without a confirm, with tasks in flight: six times the confirm timeout's default."""

_OK, _DEGRADED, _FAILED = CheckStatus.OK, CheckStatus.DEGRADED, CheckStatus.FAILED


class Checks:
    """Reads the parts, changes nothing. `batch_limit`: seconds that a batch of the drain may take."""

    def __init__(
        self,
        *,
        broker: Broker,
        link: LinkKeeper,
        guard: Guard,
        routes: RouteWatch,
        watch: SpoolWatch,
        health: HealthCheck,
        gauges: Gauges,
        intake: Intake,
        drain: Drain,
        pipeline: Pipeline,
        batch_limit: float,
    ) -> None:
        self._broker = broker
        self._link = link
        self._guard = guard
        self._routes = routes
        self._watch = watch
        self._health = health
        self._gauges = gauges
        self._intake = intake
        self._drain = drain
        self._pipeline = pipeline
        self._batch_limit = batch_limit

    def all(self, confirm_age: float | None) -> Health:
        """`confirm_age`: seconds since the last confirm, None if there was none."""
        found = [
            self._accepting(),
            self._connection(),
            self._topology(),
            self._breaker(),
            self._route(),
            self._spool(),
            self._spool_fill(),
            self._dead(),
            self._drains(),
            self._confirms(confirm_age),
        ]
        if self._pipeline.blobs is not None:
            found.append(self._blob_store(self._pipeline.blobs.error, self._pipeline.blobs.seconds))
        if note := self._gauges.clock_note():
            found.append(Check("clock", _DEGRADED, note))
        return Health(tuple(found))

    def direct(self) -> bool:
        """New tasks go to the broker at once."""
        return self._broker.obstacle is None and self._guard.state() is BreakerState.CLOSED

    def _accepting(self) -> Check:
        if self._pipeline.accepting:
            return Check("accepting", _OK, "new tasks are taken")
        return Check("accepting", _FAILED, "the producer is not started, or is stopping")

    def _connection(self) -> Check:
        view, last = self._broker.view(), self._health.last
        ms = _ms(last.duration) if last is not None and last.ok else None
        if not view.connected:
            why = self._link.last_error or "connecting"
            return Check("connection", _DEGRADED, f"not connected to {view.node}: {why}", ms)
        if view.blocked:
            return Check("connection", _DEGRADED, blocked_text(view.alarm), ms)
        return Check("connection", _OK, f"connected to {view.node}", ms)

    def _topology(self) -> Check:
        view = self._broker.view()
        if not view.connected:
            return Check("channel_and_topology", _DEGRADED, "no channel is open while there is no connection")
        # Other arguments than ours are how many systems are: their queues are used as they are, and it is said here.
        told = "; ".join(f"{each.name}: {each.text}" for each in view.differences)
        if any(each.broken for each in view.differences):
            return Check("channel_and_topology", _DEGRADED, told)
        detail = told or "a channel is open, exchange and queues are as expected"
        return Check("channel_and_topology", _OK, detail)

    def _breaker(self) -> Check:
        state = self._guard.state()
        status = _OK if state is BreakerState.CLOSED else _DEGRADED
        return Check("circuit_breaker", status, f"circuit breaker {state.name.lower().replace('_', '-')}")

    def _route(self) -> Check:
        held = self._routes.told()
        if not held:
            return Check("routes", _OK, "all routes are open")
        return Check("routes", _DEGRADED, "; ".join(held))

    def _spool(self) -> Check:
        gauges = self._gauges
        error = self._watch.error
        ms = None if gauges.seconds is None else _ms(gauges.seconds)
        if error:
            return Check("spool", _FAILED, error, ms)
        return Check("spool", _OK, f"{gauges.spooled_tasks} tasks wait", ms)

    def _spool_fill(self) -> Check:
        fill = self._intake.fill()
        detail = f"{fill:.1%} of its nearest limit (ML_SPOOL_MAX_TASKS, ML_SPOOL_MAX_BYTES, ML_SPOOL_MAX_AGE)"
        if fill >= 1.0 and not self.direct():
            return Check("spool_fill", _FAILED, f"full, and tasks cannot go to the broker: {detail}")
        return Check("spool_fill", _DEGRADED if fill >= FILL_WARNS else _OK, detail)

    def _dead(self) -> Check:
        dead = self._gauges.size.dead
        detail = f"{dead} dead letters to look at" if dead else "no dead letters"
        return Check("dead_letter_queue", _DEGRADED if dead else _OK, detail)

    def _drains(self) -> Check:
        still = self._drain.still_for()
        if self._pipeline.accepting and still > self._batch_limit + DRAIN_STILL:
            return Check("drain", _DEGRADED, f"it has begun nothing for {still:.0f} s: what waits stays in the spool")
        batches = self._drain.batches
        return Check("drain", _OK, f"{batches} batches under way" if batches else "idle")

    def _confirms(self, age: float | None) -> Check:
        in_flight = self._broker.view().in_flight
        told = "no confirm yet" if age is None else f"last confirm {age:.1f} s ago"
        if in_flight and age is not None and age > CONFIRM_LATE:
            return Check("last_confirm", _DEGRADED, f"{told}, with {in_flight} tasks in flight")
        return Check("last_confirm", _OK, told)

    def _blob_store(self, error: str, seconds: float | None) -> Check:
        if error:
            # Small tasks go on without it.
            return Check("blob_store", _DEGRADED, f"it did not take the last large payload: {error}")
        ms = None if seconds is None else _ms(seconds)
        return Check("blob_store", _OK, "it took the last large payload" if seconds else "not used yet", ms)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
