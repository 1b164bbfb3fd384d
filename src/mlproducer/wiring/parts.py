"""The engine, put together: from the outside (clock, broker, spool, listeners) inwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from opentelemetry.trace import TracerProvider

from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig
from mlproducer.analytics.counting import Counting
from mlproducer.clock import SystemClock
from mlproducer.core.admission import Window
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Breaker
from mlproducer.core.confirm_waits import ConfirmWaits
from mlproducer.core.pacing import Pace
from mlproducer.core.retry import RetryPolicy
from mlproducer.core.routes import Routes
from mlproducer.core.supervisor import Supervisor
from mlproducer.delivery.assessor import Assessor, Sources
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.callbacks import Callbacks
from mlproducer.delivery.checks import Checks
from mlproducer.delivery.claims import Claims
from mlproducer.delivery.copies import Copies
from mlproducer.delivery.drain import Drain, DrainTimes
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import HealthCheck
from mlproducer.delivery.intake import Intake
from mlproducer.delivery.late import LateAnswers
from mlproducer.delivery.leaving import Leaving
from mlproducer.delivery.link import LinkKeeper, Opening
from mlproducer.delivery.operations import Operations
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.delivery.recent import LastConfirm, Recent, Refusals
from mlproducer.delivery.route_watch import RouteWatch
from mlproducer.delivery.spool_time import SpoolTime
from mlproducer.delivery.spool_watch import SpoolWatch
from mlproducer.delivery.told import Told
from mlproducer.delivery.traffic import Traffic
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.engine import Parts
from mlproducer.envelope.types import TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.events import Event
from mlproducer.ports import Broker, Clock, Counters, Listener, Spool
from mlproducer.rows import SpoolRow, Verdict
from mlproducer.settings import Settings
from mlproducer.spool.memory_counts import MemoryCounters
from mlproducer.telemetry.logs import LogListener
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.tracing import Tracing
from mlproducer.wiring.announce import Announcer
from mlproducer.wiring.choices import (
    GetCredentials,
    analytics_for,
    celery_events_for,
    claim_check_for,
    encoder_for,
    gate_for,
    queues_of,
    results_of,
    spool_for,
    tenants_for,
    tracing_for,
    traffic_for,
)

MakeBroker = Callable[[Callable[[BrokerError], None], Listener], Broker]


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a test or an application puts in place of a shell; None takes the one that the settings choose."""

    clock: Clock | None = None
    broker: MakeBroker | None = None
    spool: Spool | None = None
    tracer_provider: TracerProvider | None = None
    """None takes the global one of OpenTelemetry, if there is any."""


@dataclass(frozen=True, slots=True)
class _Outside:
    """What every part may need."""

    settings: Settings
    types: TaskTypes
    clock: SpoolTime
    tell: Listener
    tracing: Tracing
    watch: SpoolWatch
    spool: Spool
    """As the watch gives it."""
    broker: Broker
    knot: _Knot
    fresh_login: bool
    """Each connect asks the application for credentials."""


def assemble(
    settings: Settings,
    types: TaskTypes,
    metrics: Metrics,
    listeners: Sequence[Listener],
    credentials: GetCredentials | None,
    overrides: Overrides,
) -> Parts:
    """All parts of an engine, none of them started. Raises: SettingsError."""
    host: Clock = overrides.clock or SystemClock()
    clock = SpoolTime(host)
    knot = _Knot()
    recent = Recent(LastConfirm(clock), Refusals(clock))
    tracing = tracing_for(
        settings, types, overrides.tracer_provider, metrics, partial(knot.callbacks.failed, "tracing", "OpenTelemetry")
    )
    spool = overrides.spool or spool_for(settings, clock=host)
    watch = SpoolWatch(spool, clock, knot.tell)
    # A spool of somebody else's may keep no counters.
    counters = watch.spool if isinstance(spool, Counters) else MemoryCounters(clock.monotonic)
    flush = settings.ml_analytics_flush
    counting = Counting(counters, metrics.task_totals, types.names, clock, knot.tell, interval=flush)
    results = results_of(settings, types, counters, clock)
    tell = knot.tells = Announcer(
        (recent.last_confirm, recent.refusals, tracing, metrics, counting),
        LogListener(),
        listeners,
        knot.callbacks,
        clock.monotonic,
    ).tell
    broker = _broker(settings, types, clock, tell, knot, credentials, overrides)
    spool.watch(knot.added)
    out = _Outside(settings, types, clock, tell, tracing, watch, watch.spool, broker, knot, credentials is not None)
    inner = _inner(out, recent)
    return Parts(
        spool=spool,
        watch=watch,
        guard=inner.guard,
        link=inner.link,
        pipeline=inner.pipeline,
        drain=inner.drain,
        gauges=inner.gauges,
        operations=inner.operations,
        leaving=inner.leaving,
        counting=counting,
        analytics=analytics_for(settings, counters, clock),
        results=results,
        callbacks=knot.callbacks,
        tell=tell,
        confirm_timeout=settings.ml_confirm_timeout,
        shutdown_timeout=settings.ml_shutdown_timeout,
        loops=(
            ("health", inner.health),
            ("health", inner.traffic),
            ("gauges", inner.gauges),
            ("gauges", watch),
            ("gauges", inner.assessor),
            ("analytics", counting),
            *(("analytics", each) for each in celery_events_for(settings, results, clock, credentials)),
        ),
    )


@dataclass(frozen=True, slots=True)
class _Inner:
    guard: Guard
    link: LinkKeeper
    pipeline: Pipeline
    drain: Drain
    health: HealthCheck
    traffic: Traffic
    gauges: Gauges
    assessor: Assessor
    operations: Operations
    leaving: Leaving


def _inner(out: _Outside, recent: Recent) -> _Inner:
    """The parts that publish, drain and answer questions, with their knot tied."""
    settings, clock, tell, broker = out.settings, out.clock, out.tell, out.broker
    guard = Guard(
        Breaker(settings.ml_breaker_failures, settings.ml_breaker_cooldown), clock, tell, out.knot.half_opened
    )
    window = Window(settings.ml_max_in_flight, settings.ml_max_in_flight_bytes)
    retry = Backoff(settings.ml_retry_first, settings.ml_retry_cap, settings.ml_retry_jitter)
    patience = settings.ml_route_patience
    renew = out.knot.renew if out.fresh_login else None
    tenants = tenants_for(settings)
    on_routes = Routes(retry, patience, settings.ml_route_weights, {} if tenants is None else tenants.weights)
    routes = RouteWatch(on_routes, Routes(retry, patience), clock, tell, renew)
    waits = ConfirmWaits(settings.ml_confirm_timeout, settings.longest_confirm)
    attempts = Attempts(broker, guard, routes, clock, tell, window, waits)
    reconnect = Backoff(settings.ml_reconnect_first, settings.ml_reconnect_cap, settings.ml_reconnect_jitter)
    supervisor = Supervisor(reconnect, settings.ml_reconnect_attempts, len(settings.broker_nodes))
    link = LinkKeeper(broker, supervisor, guard, clock, tell, out.knot.connected)
    health = HealthCheck(broker, link, clock, tell, settings.ml_health_interval)
    traffic = Traffic(traffic_for(settings), health, tell)
    gauges = Gauges(broker, out.spool, link, guard, clock, tell)
    verdicts = Verdicts(RetryPolicy(settings.ml_retry_attempts, retry), clock, settings.ml_receipt_retention)
    told = Told(clock, tell, out.knot.record)
    late = LateAnswers(out.spool, verdicts, told, tell)
    drain = _drain(out, guard, routes, attempts, verdicts, late, told)
    intake = _intake(out, gauges)
    book = ReceiptBook(settings.ml_receipts_kept)
    pipeline = _pipeline(out, attempts, verdicts, intake, book, drain, late, link.opening)
    sources = Sources(
        broker=broker,
        link=link,
        guard=guard,
        routes=routes,
        attempts=attempts,
        watch=out.watch,
        health=health,
        traffic=traffic,
        gauges=gauges,
        intake=intake,
        drain=drain,
        pipeline=pipeline,
        refusals=recent.refusals,
        last_confirm=recent.last_confirm,
        batch_limit=settings.longest_confirm + settings.ml_drain_lease,
        dlq_queue=settings.ml_dlq_queue,
    )
    assessor = Assessor(sources, clock, tell)
    operations = Operations(
        spool=out.spool,
        clock=clock,
        tell=tell,
        link=link,
        guard=guard,
        assessor=assessor,
        checks=Checks(broker, health, gauges, drain, pipeline),
        gauges=gauges,
        book=book,
        drain=drain,
        last_confirm=recent.last_confirm,
        ready_connected=settings.ml_ready_when == "connected",
    )
    leaving = Leaving(
        broker=broker,
        link=link,
        guard=guard,
        drain=drain,
        late=late,
        spool=out.spool,
        book=book,
        clock=clock,
        tell=tell,
        durable=not settings.spool_url.startswith("memory:"),
    )
    out.knot.tie(link, attempts, drain, pipeline)
    return _Inner(guard, link, pipeline, drain, health, traffic, gauges, assessor, operations, leaving)


def _drain(
    out: _Outside,
    guard: Guard,
    routes: RouteWatch,
    attempts: Attempts,
    verdicts: Verdicts,
    late: LateAnswers,
    told: Told,
) -> Drain:
    settings = out.settings
    copies = Copies(
        out.broker,
        guard,
        out.clock,
        queue=settings.ml_dlq_queue if settings.ml_dlq_publish else None,
        exchange=settings.ml_exchange,
        confirm_timeout=settings.ml_confirm_timeout,
    )
    pace = Pace(
        batch=settings.ml_drain_batch,
        most=max(1, int(settings.ml_max_in_flight * settings.ml_drain_share)),
        rate=settings.ml_drain_rate,
    )
    return Drain(
        spool=out.spool,
        broker=out.broker,
        guard=guard,
        routes=routes,
        attempts=attempts,
        verdicts=verdicts,
        copies=copies,
        late=late,
        pace=pace,
        clock=out.clock,
        tell=out.tell,
        tracer=out.tracing,
        told=told,
        times=DrainTimes(settings.ml_drain_lease, settings.ml_drain_poll),
    )


def _intake(out: _Outside, gauges: Gauges) -> Intake:
    settings = out.settings
    return Intake(out.spool, gate_for(settings), gauges, out.clock, waits=settings.ml_spool_overflow == "wait")


def _pipeline(
    out: _Outside,
    attempts: Attempts,
    verdicts: Verdicts,
    intake: Intake,
    book: ReceiptBook,
    drain: Drain,
    late: LateAnswers,
    opening: Opening,
) -> Pipeline:
    settings = out.settings
    claim_check = claim_check_for(settings)
    largest = settings.ml_max_message_bytes if claim_check is None else settings.ml_max_payload_bytes
    return Pipeline(
        encode=encoder_for(out.types, largest, tenants_for(settings)).encode,
        claim_check=claim_check,
        attempts=attempts,
        broker=out.broker,
        verdicts=verdicts,
        claims=Claims(out.spool, out.clock, out.tell, settings.ml_receipt_retention),
        claim_all=settings.ml_receipts == "all",
        intake=intake,
        book=book,
        drain=drain,
        late=late,
        opening=opening,
        clock=out.clock,
        tell=out.tell,
        tracer=out.tracing,
        confirm_timeout=settings.ml_confirm_timeout,
        accept_timeout=settings.ml_accept_timeout,
        late_for=settings.ml_confirm_cap,
    )


class _Knot:
    """The calls that go against the direction of construction: broker → link, guard → link, drain → pipeline, and what
    a listener has to tell.
    """

    tells: Listener

    def __init__(self) -> None:
        self.callbacks = Callbacks(self.tell)

    def tell(self, event: Event) -> None:
        self.tells(event)

    def tie(self, link: LinkKeeper, attempts: Attempts, drain: Drain, pipeline: Pipeline) -> None:
        self._link = link
        self._attempts = attempts
        self._drain = drain
        self._pipeline = pipeline

    def lost(self, error: BrokerError) -> None:
        self._link.lost(error)

    def answers(self) -> None:
        self._attempts.answers()

    def half_opened(self) -> None:
        self._link.probe()
        self._drain.wake()

    def connected(self) -> None:
        self._drain.connected()

    def renew(self) -> None:
        self._link.reconnect()

    def added(self) -> None:
        self._drain.wake()

    def record(self, row: SpoolRow, verdict: Verdict) -> None:
        self._pipeline.record(row, verdict)


def _broker(
    settings: Settings,
    types: TaskTypes,
    clock: Clock,
    tell: Listener,
    knot: _Knot,
    credentials: GetCredentials | None,
    overrides: Overrides,
) -> Broker:
    if overrides.broker is not None:
        return overrides.broker(knot.lost, tell)
    config = AmqpConfig.from_settings(settings, queues_of(settings, types), credentials=credentials)
    return AmqpBroker(config, clock, tell, knot.lost, knot.answers)
