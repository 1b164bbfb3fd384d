"""The one module that chooses shells: settings in, a running engine's parts out."""

from __future__ import annotations

import hashlib
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.trace import TracerProvider

from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig, Credentials
from mlproducer.amqp.inspection import inspect
from mlproducer.amqp.reader import reader
from mlproducer.analytics.consumer import CeleryEvents
from mlproducer.analytics.counting import Counting
from mlproducer.analytics.reading import Analytics
from mlproducer.analytics.results import Results
from mlproducer.blobs import BlobStore, open_blobs
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.core.admission import SpoolGate, Window
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Breaker
from mlproducer.core.budget import Limits
from mlproducer.core.pacing import Pace
from mlproducer.core.retry import RetryPolicy
from mlproducer.core.supervisor import Supervisor
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.checks import Checks
from mlproducer.delivery.claims import Claims
from mlproducer.delivery.copies import Copies
from mlproducer.delivery.drain import Drain, DrainTimes
from mlproducer.delivery.gauges import Gauges
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import HealthCheck
from mlproducer.delivery.intake import Intake
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.operations import LastConfirm, Operations
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.delivery.verdicts import Verdicts
from mlproducer.engine import Engine, Parts
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskType, TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.events import ALL_EVENTS, Event
from mlproducer.ports import Broker, Clock, Counters, CountingSpool, Listener, Spool, SpoolRow, Verdict
from mlproducer.settings import Settings
from mlproducer.spool import open_spool
from mlproducer.spool.memory_counts import MemoryCounters
from mlproducer.status import BrokerFacts
from mlproducer.telemetry.books import SpoolFacts
from mlproducer.telemetry.exporting import start_exporting
from mlproducer.telemetry.logger import event_logger
from mlproducer.telemetry.logs import LogListener, configure_logging
from mlproducer.telemetry.metrics import Metrics
from mlproducer.telemetry.tracing import Exemplars, Tracing

GetCredentials = Callable[[], Awaitable[Credentials]]
MakeBroker = Callable[[Callable[[BrokerError], None], Listener], Broker]


_STORES: Final = {"postgres": "postgresql", "postgresql+psycopg": "postgresql", "rediss": "redis"}
"""The other schemes of `ML_SPOOL_URL` that mean the same store."""


class SystemClock:
    """The machine's time and chance; the functions themselves, since they are asked several times a task."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)
    random = staticmethod(random.random)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a test or an application puts in place of a shell; None takes the one that the settings choose."""

    clock: Clock | None = None
    broker: MakeBroker | None = None
    spool: Spool | None = None
    tracer_provider: TracerProvider | None = None
    """None takes the global one of OpenTelemetry, if there is any."""


class Producer(Engine):
    """The library's face: `async with Producer(settings) as p: receipt = await p.publish(task)`.

    `task_types` adds to the built-in ones and to those of `ML_TASK_TYPES`. `listeners` are told every event.
    `credentials` is asked for user and password at each connect, for brokers whose passwords expire.

    Raises: SettingsError.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        task_types: Sequence[TaskType] = (),
        listeners: Sequence[Listener] = (),
        credentials: GetCredentials | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        self.settings = settings if settings is not None else Settings.load()
        self.task_types = registry(self.settings, task_types)
        self.metrics = Metrics(self.task_types.names, self.task_types.queues, spool=spool_facts(self.settings))
        overrides = overrides or Overrides()
        super().__init__(
            _assemble(self.settings, self.task_types, self.metrics, (LogListener(), *listeners), credentials, overrides)
        )

    async def start(self) -> None:
        """As `Engine.start`. Raises: SettingsError too, if `ML_METRICS_DIR` cannot be used."""
        if self.settings.ml_metrics_dir is not None:
            self.metrics.share(self.settings.ml_metrics_dir)
        try:
            await super().start()
        except BaseException:
            self.metrics.unshare()
            raise

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            self.metrics.unshare()


def registry(settings: Settings, extra: Sequence[TaskType] = ()) -> TaskTypes:
    """The built-in task types, the user's TOML file, and those given in code. Raises: SettingsError."""
    types = TaskTypes.builtin(
        preferred_llm=settings.preferred_llm_backend,
        preferred_stt=settings.preferred_stt,
        preferred_embedding=settings.preferred_embedding_backend,
    )
    if settings.ml_task_types is not None:
        types = types.with_(TaskTypes.from_toml(settings.ml_task_types))
    return types.with_(extra)


def spool_for(settings: Settings, *, owner: bool = True) -> CountingSpool:
    """The spool of these settings; `owner=False` looks at it beside a running producer."""
    return open_spool(settings.spool_url, owner=owner)


def spool_facts(settings: Settings) -> SpoolFacts:
    """What the metrics tell of the spool. Its name is a digest of where it is: neither address nor password."""
    url = urlsplit(settings.spool_url)
    store = _STORES.get(url.scheme, url.scheme)
    shared = store in {"postgresql", "redis"}
    # The same path of a file on another machine is another spool.
    where = (url.hostname, url.port, url.path) if shared else (socket.gethostname(), url.path)
    return SpoolFacts(
        store,
        shared,
        hashlib.sha256(repr((store, *where)).encode()).hexdigest()[:12],
        settings.ml_spool_max_tasks,
        settings.ml_spool_max_bytes,
        settings.ml_spool_max_age,
    )


def blobs_for(settings: Settings) -> BlobStore | None:
    """The store of large payloads; None if there is none. Raises: SettingsError."""
    url = settings.ml_blob_url.get_secret_value()
    return open_blobs(url, timeout=settings.ml_blob_timeout) if url else None


def analytics_for(settings: Settings, store: Counters, clock: Clock | None = None) -> Analytics:
    """The questions to the counters of an open store."""
    limits = Limits(settings.ml_budget_hourly, settings.ml_budget_daily, settings.ml_budget_warn)
    return Analytics(store, clock or SystemClock(), limits)


async def look_at_broker(settings: Settings, types: TaskTypes) -> BrokerFacts:
    """What is at the broker, for `mlproducer doctor`; changes nothing there. Raises: BrokerError, SettingsError."""
    return await inspect(AmqpConfig.from_settings(settings, _queues(settings, types)))


def start_logging(settings: Settings) -> None:
    """Log lines on stderr, as the settings say. For our own programs; an application has its own handlers."""
    configure_logging(settings.ml_log_level, settings.ml_log_format)


def start_tracing() -> Callable[[], None]:
    """Export spans as OpenTelemetry's own variables (`OTEL_*`) say; for our own programs. Returns what ends it: call it
    last, because it waits until what is recorded is sent.
    """
    return start_exporting(os.environ)


def tracing_for(
    settings: Settings,
    types: TaskTypes,
    provider: TracerProvider | None = None,
    exemplars: Exemplars | None = None,
) -> Tracing:
    """Spans of a producer with these settings."""
    return Tracing(settings.ml_exchange, types, provider, exemplars)


def _assemble(  # one line a part; splitting it would hide the picture
    settings: Settings,
    types: TaskTypes,
    metrics: Metrics,
    listeners: Sequence[Listener],
    credentials: GetCredentials | None,
    overrides: Overrides,
) -> Parts:
    clock: Clock = overrides.clock or SystemClock()
    last_confirm = LastConfirm(clock)
    tracing = tracing_for(settings, types, overrides.tracer_provider, metrics)
    spool = overrides.spool or spool_for(settings)
    knot = _Knot()
    # A spool of somebody else's may keep no counters.
    counters = spool if isinstance(spool, Counters) else MemoryCounters()
    flush = settings.ml_analytics_flush
    counting = Counting(counters, metrics.task_totals, types.names, clock, knot.tell, interval=flush)
    results = _results(settings, types, counters, clock)
    tell = knot.tells = _announcer((last_confirm, tracing, metrics, counting, *listeners))
    broker = _broker(settings, types, clock, tell, knot, credentials, overrides)
    spool.watch(knot.added)
    breaker = Breaker(settings.ml_breaker_failures, settings.ml_breaker_cooldown)
    guard = Guard(breaker, clock, tell, knot.half_opened)
    window = Window(settings.ml_max_in_flight, settings.ml_max_in_flight_bytes)
    attempts = Attempts(broker, guard, clock, tell, window)
    reconnect = Backoff(settings.ml_reconnect_first, settings.ml_reconnect_cap, settings.ml_reconnect_jitter)
    supervisor = Supervisor(reconnect, settings.ml_reconnect_attempts)
    link = LinkKeeper(broker, supervisor, guard, clock, tell, knot.connected)
    retry = Backoff(settings.ml_retry_first, settings.ml_retry_cap, settings.ml_retry_jitter)
    policy = RetryPolicy(settings.ml_retry_attempts, retry)
    health = HealthCheck(broker, link, clock, tell, settings.ml_health_interval)
    gauges = Gauges(broker, spool, link, guard, clock, tell)
    book = ReceiptBook(settings.ml_receipts_kept)
    verdicts = Verdicts(policy, clock, settings.ml_receipt_retention)
    copies = Copies(
        broker,
        guard,
        clock,
        queue=settings.ml_dlq_queue if settings.ml_dlq_publish else None,
        exchange=settings.ml_exchange,
        confirm_timeout=settings.ml_confirm_timeout,
    )
    pace = Pace(
        batch=settings.ml_drain_batch,
        most=max(1, int(settings.ml_max_in_flight * settings.ml_drain_share)),
        rate=settings.ml_drain_rate,
    )
    drain = Drain(
        spool=spool,
        broker=broker,
        guard=guard,
        attempts=attempts,
        verdicts=verdicts,
        copies=copies,
        pace=pace,
        clock=clock,
        tell=tell,
        tracer=tracing,
        verdict_told=knot.record,
        times=DrainTimes(settings.ml_drain_lease, settings.ml_drain_poll, settings.ml_confirm_timeout),
    )
    gate = SpoolGate(
        settings.ml_spool_max_tasks, settings.ml_spool_max_bytes, settings.ml_spool_max_age, settings.ml_spool_low_mark
    )
    intake = Intake(spool, gate, gauges, clock, waits=settings.ml_spool_overflow == "wait")
    claim_check = _claim_check(settings)
    largest = settings.ml_max_message_bytes if claim_check is None else settings.ml_max_payload_bytes
    encoder = Encoder(types, f"mlproducer@{socket.gethostname()}", largest)
    pipeline = Pipeline(
        encode=encoder.encode,
        claim_check=claim_check,
        attempts=attempts,
        broker=broker,
        verdicts=verdicts,
        claims=Claims(spool, clock, tell, settings.ml_receipt_retention),
        claim_all=settings.ml_receipts == "all",
        intake=intake,
        book=book,
        drain=drain,
        clock=clock,
        tell=tell,
        tracer=tracing,
        confirm_timeout=settings.ml_confirm_timeout,
        accept_timeout=settings.ml_accept_timeout,
    )
    checks = Checks(
        broker=broker,
        link=link,
        guard=guard,
        health=health,
        gauges=gauges,
        intake=intake,
        drain=drain,
        pipeline=pipeline,
        batch_limit=settings.ml_confirm_timeout + settings.ml_drain_lease,
    )
    operations = Operations(
        broker=broker,
        spool=spool,
        clock=clock,
        tell=tell,
        link=link,
        guard=guard,
        checks=checks,
        gauges=gauges,
        book=book,
        drain=drain,
        pipeline=pipeline,
        last_confirm=last_confirm,
        ready_connected=settings.ml_ready_when == "connected",
    )
    knot.tie(link, drain, pipeline)
    return Parts(
        spool=spool,
        guard=guard,
        link=link,
        pipeline=pipeline,
        drain=drain,
        health=health,
        gauges=gauges,
        operations=operations,
        counting=counting,
        analytics=analytics_for(settings, counters, clock),
        results=results,
        celery_events=_celery_events(settings, results, clock, credentials),
        confirm_timeout=settings.ml_confirm_timeout,
        shutdown_timeout=settings.ml_shutdown_timeout,
    )


class _Knot:
    """The calls that go against the direction of construction: broker → link, guard → link, drain → pipeline, and what
    a listener has to tell.
    """

    tells: Listener

    def tell(self, event: Event) -> None:
        self.tells(event)

    def tie(self, link: LinkKeeper, drain: Drain, pipeline: Pipeline) -> None:
        self._link = link
        self._drain = drain
        self._pipeline = pipeline

    def lost(self, error: BrokerError) -> None:
        self._link.lost(error)

    def half_opened(self) -> None:
        self._link.probe()
        self._drain.wake()

    def connected(self) -> None:
        self._drain.connected()

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
    config = AmqpConfig.from_settings(settings, _queues(settings, types), credentials=credentials)
    return AmqpBroker(config, clock, tell, knot.lost)


def _queues(settings: Settings, types: TaskTypes) -> tuple[str, ...]:
    return (*types.queues, settings.ml_dlq_queue) if settings.ml_dlq_publish else types.queues


def _claim_check(settings: Settings) -> ClaimCheck | None:
    store = blobs_for(settings)
    if store is None:
        return None
    limit, timeout = settings.ml_max_message_bytes, settings.ml_blob_timeout
    threshold = min(settings.ml_claim_check_bytes, limit)
    return ClaimCheck(store, threshold=threshold, limit=limit, timeout=timeout)


def _results(settings: Settings, types: TaskTypes, counters: Counters, clock: Clock) -> Results:
    # Of types that share a Celery task, the first one is meant.
    celery_tasks = {route.celery_task: each.name for each in reversed(list(types)) for route in each.routes.values()}
    return Results(counters, types.names, celery_tasks, clock, retention=settings.ml_result_retention)


def _celery_events(
    settings: Settings, results: Results, clock: Clock, credentials: GetCredentials | None
) -> CeleryEvents | None:
    if not settings.ml_celery_events:
        return None
    connect = reader(AmqpConfig.from_settings(settings, (), credentials=credentials))
    log = event_logger()
    return CeleryEvents(connect, settings.ml_celery_events, results, clock, log.warning)


def _announcer(listeners: Sequence[Listener]) -> Listener:
    """Tells each event to those who care. Ours say which they do (`handlers`): tens of thousands of tasks a second tell
    three events each, and a listener that would only look the event up and let it go is not asked.
    """
    told: dict[type[Event], tuple[Listener, ...]] = {
        kind: tuple(found for each in listeners if (found := _handler(each, kind)) is not None) for kind in ALL_EVENTS
    }

    def tell(event: Event) -> None:
        for handle in told[type(event)]:
            handle(event)

    return tell


def _handler(listener: Listener, kind: type[Event]) -> Listener | None:
    handlers: Mapping[type[Event], Listener] | None = getattr(listener, "handlers", None)
    return listener if handlers is None else handlers.get(kind)
