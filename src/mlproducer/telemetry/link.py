"""Metrics of the connection, the circuit breaker, the health check, and what is measured once in a while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlproducer.events import (
    PARTS,
    AnsweredLate,
    BlockedChanged,
    BreakerChanged,
    BreakerState,
    ClockJumped,
    ConfirmsTimedOut,
    ConfirmWaitChanged,
    ConnectionChanged,
    ConnectionFailed,
    ConnectionState,
    FlightMeasured,
    HealthChecked,
    PartFailed,
    QueueMeasured,
    QueueMissing,
    ReconnectScheduled,
    ReconnectsExhausted,
    RouteChanged,
    SpoolChanged,
    SpoolFailed,
    SpoolMeasured,
    TasksLeft,
    TopologyDiffers,
    TrafficMeasured,
    TrafficUnknown,
)
from mlproducer.outcome import EVERY_ROUTE, Confirmed
from mlproducer.telemetry.cells import NO_SERIES, Board, Number
from mlproducer.telemetry.labels import ERROR_TYPES, OTHER

CLOCKS: Final = ("host", "store")


class LinkMetrics:
    def __init__(self, board: Board) -> None:
        self._state = board.gauge("connection_state", "0 disconnected, 1 connecting, 2 connected, 3 closing, 4 closed.")
        self._blocked = board.gauge("connection_blocked", "1 while the broker has a memory or disk alarm.")
        self._attempts = board.gauge("reconnect_attempts", "Failed attempts of the present reconnect cycle.")
        self._exhausted = board.counter(
            "max_attempts_reached", "Reconnect cycles that used up their attempts; slow probing follows."
        )
        self._given_up = board.gauge(
            "reconnects_exhausted", "1 from when a cycle's attempts are used up until the link is up again."
        )
        self._breaker = board.gauge("circuit_breaker_state", "0 closed, 1 open, 2 half-open.")
        self._failures = board.gauge("circuit_breaker_failures", "Consecutive failures.")
        self._trips = board.counter("circuit_breaker_trips", "Times that the circuit breaker opened.")
        self._timeouts = board.counter("confirm_timeouts", "Attempts that became unsure: no confirm in time.")
        self._late = board.counter("late_confirms", "Attempts that were given up as unsure and confirmed after all.")
        self._unhealthy = board.counter("health_check_failures", "Health checks that failed.")
        self._topology = board.counter(
            "topology_differences", "Exchanges and queues found with other arguments than ours."
        )
        self._in_flight = board.gauge("in_flight", "Attempts that wait for their confirm.", merge="sum")
        errors = board.counters(
            "connection_errors", "Connects that failed and connections that were lost.", error_type=ERROR_TYPES
        )
        self._errors = {kind: number for (kind,), number in errors.items()}
        parts = board.counters(
            "internal_errors", "Errors that nobody thought of, in a part of the producer.", part=PARTS
        )
        self._parts = {part: number for (part,), number in parts.items()}

    def connection(self, event: ConnectionChanged) -> None:
        self._state.set(event.state)
        if event.state is ConnectionState.CONNECTED:
            self._attempts.set(0)
            self._given_up.set(0)
        else:
            self._blocked.set(0)  # an alarm is told per connection; the next one tells anew

    def connection_failed(self, event: ConnectionFailed) -> None:
        self._errors.get(event.error_type.value, self._errors[OTHER]).inc()

    def reconnect(self, event: ReconnectScheduled) -> None:
        self._attempts.set(event.attempt)
        self._given_up.set(0)  # a fresh cycle; slow probes schedule nothing

    def exhausted(self, event: ReconnectsExhausted) -> None:
        self._attempts.set(event.attempts)
        self._exhausted.inc()
        self._given_up.set(1)

    def blocked(self, event: BlockedChanged) -> None:
        self._blocked.set(event.blocked)

    def breaker(self, event: BreakerChanged) -> None:
        self._breaker.set(event.state)
        self._failures.set(event.failures)
        if event.state is BreakerState.OPEN:
            self._trips.inc()

    def confirms_timed_out(self, event: ConfirmsTimedOut) -> None:
        self._timeouts.inc(event.count)

    def answered_late(self, event: AnsweredLate) -> None:
        if isinstance(event.outcome, Confirmed):
            self._late.inc()

    def health(self, event: HealthChecked) -> None:
        if not event.ok:
            self._unhealthy.inc()

    def topology(self, _event: TopologyDiffers) -> None:
        self._topology.inc()

    def part_failed(self, event: PartFailed) -> None:
        self._parts[event.part].inc()

    def flight(self, event: FlightMeasured) -> None:
        self._in_flight.set(event.in_flight)
        self._failures.set(event.breaker_failures)
        self._attempts.set(event.reconnect_attempts)


class _Traffic:
    """What the management API tells of queues; no series of what it does not."""

    def __init__(self, queues: Sequence[str], board: Board) -> None:
        unacked = board.gauges(
            "queue_unacked",
            "Messages of a broker queue that workers hold (RABBITMQ_MANAGEMENT_URL).",
            merge="max",
            queue_name=queues,
        )
        self._unacked = {queue: number for (queue,), number in unacked.items()}
        self._rates = board.gauges(
            "queue_rate",
            "Messages a second of a broker queue, as RabbitMQ averages them (RABBITMQ_MANAGEMENT_URL).",
            merge="max",
            queue_name=queues,
            what=("published", "delivered", "acked"),
        )
        self.hide()

    def show(self, event: TrafficMeasured) -> None:
        queue = event.queue if event.queue in self._unacked else OTHER
        _set(self._unacked[queue], event.unacked)
        for what, rate in (("published", event.published), ("delivered", event.delivered), ("acked", event.acked)):
            _set(self._rates[queue, what], rate)

    def hide(self) -> None:
        for number in (*self._unacked.values(), *self._rates.values()):
            number.set(NO_SERIES)


def _set(number: Number, value: float | None) -> None:
    number.set(NO_SERIES if value is None else value)


class StoreMetrics:
    """The spool, the dead letter queue, and the broker's queues."""

    def __init__(self, queues: Sequence[str], board: Board) -> None:
        self._tasks = board.gauge("retry_queue_size", "Tasks that wait in the spool.")
        self._bytes = board.gauge("retry_queue_bytes", "Bytes of the tasks that wait in the spool.")
        self._oldest = board.gauge(
            "retry_queue_oldest_age_seconds", "Since the task that is late for longest was first due."
        )
        self._dead = board.gauge("dlq_size", "Dead letters that are kept.")
        self._left = board.gauge(
            "tasks_left", "Tasks that this producer spooled and that stayed in the spool when it stopped."
        )
        self._failed = board.counter("spool_errors", "Times that the spool could not be read or written.")
        self._unavailable = board.gauge(
            "spool_unavailable", "1 from when a call met a spool that fails until it works."
        )
        self._apart = board.gauge(
            "clock_apart_seconds", "By how much this host's clock is ahead of that of the spool's server."
        )
        jumps = board.counters("clock_jumps", "Times that a clock was set by more than a second.", clock=CLOCKS)
        self._jumps = {clock: number for (clock,), number in jumps.items()}
        depth = board.gauges(
            "queue_depth", "Ready messages of a broker queue.", merge="max", queue_name=(*queues, OTHER)
        )
        self._depth = {queue: number for (queue,), number in depth.items()}
        consumers = board.gauges(
            "queue_consumers", "Who reads a broker queue.", merge="max", queue_name=(*queues, OTHER)
        )
        self._consumers = {queue: number for (queue,), number in consumers.items()}
        self._traffic = _Traffic((*queues, OTHER), board)
        routes = board.gauges(
            "route_state",
            "0 open, 1 held (2 while probed), 3 failing past its patience; # is all of the exchange.",
            merge="max",
            routing_key=(*queues, OTHER, EVERY_ROUTE),
        )
        self._routes = {key: number for (key,), number in routes.items()}
        late = board.gauges(
            "route_late", "1 while the confirms of a route come late.", merge="max", routing_key=(*queues, OTHER)
        )
        self._late = {key: number for (key,), number in late.items()}

    def spool(self, event: SpoolMeasured) -> None:
        self._tasks.set(event.tasks)
        self._bytes.set(event.bytes)
        self._oldest.set(event.oldest_age)
        self._dead.set(event.dead)
        self._apart.set(event.apart)

    def clock_jumped(self, event: ClockJumped) -> None:
        self._jumps[event.clock].inc()

    def left(self, event: TasksLeft) -> None:
        self._left.set(event.count)

    def spool_failed(self, _event: SpoolFailed) -> None:
        self._failed.inc()

    def spool_changed(self, event: SpoolChanged) -> None:
        self._unavailable.set(not event.available)

    def route(self, event: RouteChanged) -> None:
        self._routes.get(event.route, self._routes[OTHER]).set(event.state)

    def confirm_wait(self, event: ConfirmWaitChanged) -> None:
        self._late.get(event.route, self._late[OTHER]).set(event.late)

    def queue(self, event: QueueMeasured) -> None:
        # Consumers first: a scrape in between must not see a queue that fills and nobody who reads it.
        self._consumers.get(event.queue, self._consumers[OTHER]).set(event.consumers)
        self._depth.get(event.queue, self._depth[OTHER]).set(event.depth)

    def traffic(self, event: TrafficMeasured) -> None:
        self._traffic.show(event)

    def traffic_unknown(self, _event: TrafficUnknown) -> None:
        self._traffic.hide()

    def queue_missing(self, event: QueueMissing) -> None:
        for numbers in (self._depth, self._consumers):
            if event.queue in numbers:
                numbers[event.queue].set(NO_SERIES)
