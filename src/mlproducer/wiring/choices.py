"""What the settings choose, one thing at a time."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from opentelemetry.trace import TracerProvider

from mlproducer.amqp.certificates import trust
from mlproducer.amqp.config import AmqpConfig, Credentials
from mlproducer.amqp.inspection import inspect
from mlproducer.amqp.management import Management
from mlproducer.amqp.reader import reader
from mlproducer.analytics.consumer import CeleryEvents
from mlproducer.analytics.reading import Analytics
from mlproducer.analytics.results import Results
from mlproducer.blobs import BlobStore, open_blobs
from mlproducer.blobs.claim_check import ClaimCheck
from mlproducer.clock import SystemClock
from mlproducer.core.admission import SpoolGate
from mlproducer.core.budget import Limits
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.tenants import Tenants
from mlproducer.envelope.types import QueuePlan, TaskTypes
from mlproducer.errors import SettingsError
from mlproducer.ports import AskTraffic, Clock, Counters, CountingSpool, QueueTraffic
from mlproducer.settings import Settings
from mlproducer.spool import open_spool
from mlproducer.status import Behind, BrokerFacts
from mlproducer.telemetry.books import SpoolFacts
from mlproducer.telemetry.exporting import start_exporting
from mlproducer.telemetry.log_queue import QueuedLines
from mlproducer.telemetry.logger import event_logger, queue_logging
from mlproducer.telemetry.tracing import Exemplars, Tracing
from mlproducer.urls.parts import BadUrl, read_url

GetCredentials = Callable[[], Awaitable[Credentials]]

_STORES: Final = {"postgres": "postgresql", "postgresql+psycopg": "postgresql", "rediss": "redis"}
"""The other schemes of `ML_SPOOL_URL` that mean the same store."""


def encoder_for(types: TaskTypes, max_bytes: int, tenants: Tenants | None = None) -> Encoder:
    """What makes messages of tasks; workers and their logs see which host they came from."""
    return Encoder(types, f"mlproducer@{socket.gethostname()}", max_bytes, tenants)


def tenants_for(settings: Settings) -> Tenants | None:
    """How a task says whose it is; None if no header does."""
    header = settings.ml_tenant_header
    return Tenants(header, settings.ml_tenant_weights) if header else None


def spool_for(settings: Settings, *, owner: bool = True, clock: Clock | None = None) -> CountingSpool:
    """The spool of these settings; `owner=False` looks at it beside a running producer."""
    return open_spool(settings.spool_url, owner=owner, clock=clock)


def gate_for(settings: Settings) -> SpoolGate:
    """What a spool of these settings takes."""
    return SpoolGate(
        settings.ml_spool_max_tasks, settings.ml_spool_max_bytes, settings.ml_spool_max_age, settings.ml_spool_low_mark
    )


def spool_facts(settings: Settings) -> SpoolFacts:
    """What the metrics tell of the spool. Its name is a digest of where it is: neither address nor password."""
    scheme, _, rest = settings.spool_url.partition("://")
    store = _STORES.get(scheme, scheme)
    shared = store in {"postgresql", "redis"}
    # The same path of a file on another machine is another spool.
    path = str(Path(rest[1:]).resolve()) if store == "sqlite" else rest
    where = _places(settings.spool_url, scheme) if shared else (socket.gethostname(), path)
    return SpoolFacts(
        store,
        shared,
        hashlib.sha256(repr((store, *where)).encode()).hexdigest()[:12],
        settings.ml_spool_max_tasks,
        settings.ml_spool_max_bytes,
        settings.ml_spool_max_age,
        may_be_shared=store == "sqlite",
    )


def _places(url: str, scheme: str) -> tuple[object, ...]:
    """Hosts, ports and database. Raises: SettingsError."""
    try:
        read = read_url(url, (scheme,), like=f"{scheme}://host/name", several_hosts=True)
    except BadUrl as error:
        raise SettingsError(f"ML_SPOOL_URL: {error}") from None
    return (*(part for host in read.hosts for part in (host.name.lower() or None, host.port)), read.path)


def blobs_for(settings: Settings) -> BlobStore | None:
    """The store of large payloads; None if there is none. Raises: SettingsError."""
    url = settings.ml_blob_url.get_secret_value()
    return open_blobs(url, timeout=settings.ml_blob_timeout) if url else None


def analytics_for(settings: Settings, store: Counters, clock: Clock | None = None) -> Analytics:
    """The questions to the counters of an open store."""
    limits = Limits(settings.ml_budget_hourly, settings.ml_budget_daily, settings.ml_budget_warn)
    return Analytics(store, clock or SystemClock(), limits)


async def look_at_broker(settings: Settings, types: TaskTypes, *, compare: bool = False) -> BrokerFacts:
    """What is at the broker, for `mlproducer check`, and with `compare` for `doctor`; changes nothing there.

    Raises: BrokerError, SettingsError.
    """
    return await inspect(AmqpConfig.from_settings(settings, queues_of(settings, types)), compare=compare)


def look_behind(settings: Settings) -> Behind | None:
    """What the management API tells that AMQP does not, for `mlproducer doctor`; None where no API is named. Blocking.

    Raises: BrokerError, SettingsError.
    """
    management = _management(settings)
    return None if management is None else management.look(settings.brokers[0].vhost, settings.ml_exchange)


def traffic_for(settings: Settings) -> AskTraffic | None:
    """Asks the management API what passes through queues; None where no API is named. Raises: SettingsError."""
    if _management(settings) is None:
        return None

    def look(queues: Collection[str]) -> Mapping[str, QueueTraffic]:
        management = _management(settings)  # each time anew: its certificates may be
        return {} if management is None else management.traffic(settings.brokers[0].vhost, queues)

    async def ask(queues: Collection[str]) -> Mapping[str, QueueTraffic]:
        return await asyncio.to_thread(look, queues)

    return ask


def _management(settings: Settings) -> Management | None:
    """Raises: SettingsError."""
    text = settings.rabbitmq_management_url.get_secret_value()
    if not text:
        return None
    try:
        url = read_url(text, ("http", "https"), like="http://user:password@host:15672")
    except BadUrl as error:
        raise SettingsError(f"RABBITMQ_MANAGEMENT_URL: {error}") from None
    broker = settings.brokers[0]
    login = url if url.user is not None else broker.url
    node = url.host.shown(443 if url.scheme == "https" else 80)
    return Management(
        f"{url.scheme}://{node}{url.path}",
        Credentials(login.user or "guest", login.password or "guest"),
        timeout=settings.ml_health_timeout,
        tls=trust(settings.rabbitmq_ssl_cacert, "RABBITMQ_SSL_CACERT") if url.scheme == "https" else None,
    )


def start_logging(settings: Settings) -> QueuedLines:
    """Log lines on stderr, as the settings say, and Python's warnings with them. For our own programs; an application
    has its own handlers. Call `end` of what it returns at the end of the program.
    """
    logging.captureWarnings(True)  # as the library has it
    return queue_logging(settings.ml_log_level, settings.ml_log_format)


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
    failed: Callable[[BaseException], None] | None = None,
) -> Tracing:
    """Spans of a producer with these settings. `failed` hears of errors of the application's tracer."""
    return Tracing(settings.ml_exchange, types, provider, exemplars, failed)


def queues_of(settings: Settings, types: TaskTypes) -> tuple[QueuePlan, ...]:
    """Those of the types, and that of the copies of dead letters, which the settings name."""
    plans = {plan.name: plan for plan in types.plans}
    if settings.ml_dlq_publish:
        named = plans.get(settings.ml_dlq_queue, QueuePlan(settings.ml_dlq_queue))
        plans[named.name] = replace(named, at_start=True)
    return tuple(plans.values())


def claim_check_for(settings: Settings) -> ClaimCheck | None:
    store = blobs_for(settings)
    if store is None:
        return None
    limit, timeout = settings.ml_max_message_bytes, settings.ml_blob_timeout
    threshold = min(settings.ml_claim_check_bytes, limit)
    return ClaimCheck(store, threshold=threshold, limit=limit, timeout=timeout)


def results_of(settings: Settings, types: TaskTypes, counters: Counters, clock: Clock) -> Results:
    # Of types that share a Celery task, the first one is meant.
    celery_tasks = {route.celery_task: each.name for each in reversed(list(types)) for route in each.routes.values()}
    return Results(counters, types.names, celery_tasks, clock, retention=settings.ml_result_retention)


def celery_events_for(
    settings: Settings, results: Results, clock: Clock, credentials: GetCredentials | None
) -> Iterator[CeleryEvents]:
    """What listens to Celery's events; nothing where they are not asked for."""
    if not settings.ml_celery_events:
        return
    connect = reader(AmqpConfig.from_settings(settings, (), credentials=credentials))
    log = event_logger()
    yield CeleryEvents(connect, settings.ml_celery_events, results, clock, log.warning)
