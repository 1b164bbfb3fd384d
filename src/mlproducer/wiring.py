"""The one module that chooses shells: settings in, a running engine's parts out."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mlproducer.amqp.broker import AmqpBroker
from mlproducer.amqp.config import AmqpConfig, Credentials
from mlproducer.core.admission import SpoolGate, Window
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Breaker
from mlproducer.core.retry import RetryPolicy
from mlproducer.core.supervisor import Supervisor
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.drain import Drain
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.health import Gauges, HealthCheck
from mlproducer.delivery.link import LinkKeeper
from mlproducer.delivery.operations import LastConfirm, Operations
from mlproducer.delivery.pipeline import Pipeline
from mlproducer.delivery.receipts import ReceiptBook
from mlproducer.engine import Engine, Parts
from mlproducer.envelope.encode import Encoder
from mlproducer.envelope.types import TaskType, TaskTypes
from mlproducer.errors import BrokerError
from mlproducer.events import Event
from mlproducer.ports import Broker, Clock, Listener, Spool, SpoolRow, Verdict
from mlproducer.settings import Settings
from mlproducer.spool import open_spool
from mlproducer.telemetry.logs import LogListener, configure_logging
from mlproducer.telemetry.metrics import Metrics

GetCredentials = Callable[[], Awaitable[Credentials]]
MakeBroker = Callable[[Callable[[BrokerError], None], Listener], Broker]


class SystemClock:
    """The machine's time and chance."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> float:
        return time.time()

    def random(self) -> float:
        return random.random()


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a test or an application puts in place of a shell; None takes the one that the settings choose."""

    clock: Clock | None = None
    broker: MakeBroker | None = None
    spool: Spool | None = None


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
        self.metrics = Metrics(self.task_types.names, self.task_types.queues)
        told: tuple[Listener, ...] = (self.metrics, LogListener(), *listeners)
        super().__init__(_assemble(self.settings, self.task_types, told, credentials, overrides or Overrides()))


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


def spool_for(settings: Settings, *, owner: bool = True) -> Spool:
    """The spool of these settings; `owner=False` looks at it beside a running producer."""
    return open_spool(settings.spool_url, owner=owner)


def start_logging(settings: Settings) -> None:
    """Log lines on stderr, as the settings say. For our own programs; an application has its own handlers."""
    configure_logging(settings.ml_log_level, settings.ml_log_format)


def _assemble(  # one line a part; splitting it would hide the picture
    settings: Settings,
    types: TaskTypes,
    listeners: Sequence[Listener],
    credentials: GetCredentials | None,
    overrides: Overrides,
) -> Parts:
    clock: Clock = overrides.clock or SystemClock()
    last_confirm = LastConfirm(clock)
    tell = _announcer((last_confirm, *listeners))
    knot = _Knot()
    broker = _broker(settings, types, clock, tell, knot, credentials, overrides)
    spool = overrides.spool or spool_for(settings)
    breaker = Breaker(settings.ml_breaker_failures, settings.ml_breaker_cooldown)
    guard = Guard(breaker, clock, tell, knot.half_opened)
    window = Window(settings.ml_max_in_flight, settings.ml_max_in_flight_bytes)
    attempts = Attempts(broker, guard, clock, tell, window)
    reconnect = Backoff(settings.ml_reconnect_first, settings.ml_reconnect_cap, settings.ml_reconnect_jitter)
    supervisor = Supervisor(reconnect, settings.ml_reconnect_attempts)
    link = LinkKeeper(broker, supervisor, guard, clock, tell, knot.wake)
    retry = Backoff(settings.ml_retry_first, settings.ml_retry_cap, settings.ml_retry_jitter)
    policy = RetryPolicy(settings.ml_retry_attempts, retry)
    health = HealthCheck(broker, link, clock, tell, settings.ml_health_interval)
    gauges = Gauges(broker, spool, link, guard, clock, tell)
    book = ReceiptBook(settings.ml_receipts_kept)
    drain = Drain(
        spool=spool,
        broker=broker,
        attempts=attempts,
        policy=policy,
        clock=clock,
        tell=tell,
        verdict_told=knot.record,
        batch=settings.ml_drain_batch,
        lease=settings.ml_drain_lease,
        poll=settings.ml_drain_poll,
        confirm_timeout=settings.ml_confirm_timeout,
    )
    encoder = Encoder(types, f"mlproducer@{socket.gethostname()}", settings.ml_max_message_bytes)
    pipeline = Pipeline(
        encode=encoder.encode,
        attempts=attempts,
        broker=broker,
        spool=spool,
        gate=SpoolGate(settings.ml_spool_max_tasks, settings.ml_spool_max_bytes),
        gauges=gauges,
        policy=policy,
        book=book,
        drain=drain,
        clock=clock,
        tell=tell,
        confirm_timeout=settings.ml_confirm_timeout,
    )
    operations = Operations(
        broker=broker,
        spool=spool,
        clock=clock,
        tell=tell,
        link=link,
        guard=guard,
        health=health,
        gauges=gauges,
        book=book,
        drain=drain,
        pipeline=pipeline,
        last_confirm=last_confirm,
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
        confirm_timeout=settings.ml_confirm_timeout,
        shutdown_timeout=settings.ml_shutdown_timeout,
    )


class _Knot:
    """The calls that go against the direction of construction: broker → link, guard → link, drain → pipeline."""

    def tie(self, link: LinkKeeper, drain: Drain, pipeline: Pipeline) -> None:
        self._link = link
        self._drain = drain
        self._pipeline = pipeline

    def lost(self, error: BrokerError) -> None:
        self._link.lost(error)

    def half_opened(self) -> None:
        self._link.probe()
        self._drain.wake()

    def wake(self) -> None:
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
    config = AmqpConfig.from_settings(settings, types.queues, credentials=credentials)
    return AmqpBroker(config, clock, tell, knot.lost)


def _announcer(listeners: Sequence[Listener]) -> Listener:
    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
