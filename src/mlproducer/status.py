"""What the engine says of itself: `Status` for tools, `Health` for orchestrators; and what `doctor` found at a broker.
No secrets in any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from mlproducer.core.facts import HeldRoute, SeenQueue
from mlproducer.core.verdict import Cause, Level, Verdict
from mlproducer.ports import QueueTraffic


class CheckStatus(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One part's health. `ms` is what the last active look at it took; None where none was needed."""

    name: str
    status: CheckStatus
    detail: str
    ms: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict by parts. `failed`: new tasks are refused. `degraded`: something wants a look. `ok`: nothing does."""

    checks: tuple[Check, ...]
    verdict: Verdict

    @property
    def status(self) -> CheckStatus:
        if self.verdict.refuses:
            return CheckStatus.FAILED
        return CheckStatus.DEGRADED if self.verdict.causes else CheckStatus.OK

    @property
    def direct(self) -> bool:
        """New tasks go to the broker at once: connected, not blocked, breaker closed, spool writable."""
        return self.verdict.direct

    @property
    def summary(self) -> str:
        """One sentence for people."""
        word = {CheckStatus.FAILED: "unhealthy", CheckStatus.DEGRADED: "degraded", CheckStatus.OK: "healthy"}
        names = ", ".join(check.name for check in self.checks if check.status is self.status is not CheckStatus.OK)
        return f"{word[self.status]}: {self.verdict.promise}" + (f" ({names})" if names else "")

    def as_dict(self) -> dict[str, object]:
        return {
            "status": self.status.value,
            "healthy": self.direct,
            "summary": self.summary,
            "level": self.verdict.level.value,
            "new_tasks": self.verdict.new_tasks.name.lower(),
            "checks": [asdict(check) for check in self.checks],
            "causes": [told(cause) for cause in self.verdict.causes],
        }


def told(cause: Cause) -> dict[str, object]:
    """A cause as JSON has it."""
    return asdict(cause) | {"new_tasks": cause.new_tasks.name.lower()}


@dataclass(frozen=True, slots=True)
class RefusedRate:
    """Calls refused per second, of late. `reason` is the error's class name."""

    reason: str
    rate: float


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of the engine. Sizes in bytes, ages and uptime in seconds, times in Unix seconds."""

    accepting: bool
    ready: bool
    """A new task would be accepted now: published, or spooled; with `ML_READY_WHEN=connected`, published."""
    reasons: tuple[str, ...]
    """Why it is not ready, or not publishing directly."""
    connection: str
    node: str
    blocked: bool
    alarm: str
    """Why the broker blocks publishers, in its words; empty if it does not, or does not say."""
    last_error: str
    reconnect_attempts: int
    breaker: str
    breaker_failures: int
    in_flight: int
    spool_tasks: int
    spool_bytes: int
    spool_oldest_age: float | None
    dead: int
    last_confirm_at: float | None
    uptime: float
    level: Level
    new_tasks: str
    """What becomes of a new task: confirmed, some_kept, kept, some_refused, refused."""
    title: str
    """What is worst, in a few words without numbers."""
    promise: str
    """`new_tasks`, as a sentence."""
    causes: tuple[Cause, ...]
    """All that is wrong, the worst first."""
    next_attempt_in: float | None
    """Seconds until the next connect; None if none waits for its time."""
    breaker_probe_in: float | None
    spool_fill: float
    """A share of the limit that is nearest, which `spool_limit` names."""
    spool_limit: str
    spool_full_in: float | None
    """Seconds until it is full, as it grew within the last minute; None if it does not grow."""
    refused: tuple[RefusedRate, ...]
    routes: tuple[HeldRoute, ...]
    """Those that are not open."""
    queues: tuple[SeenQueue, ...]
    """As the last health check found them (ML_HEALTH_INTERVAL)."""
    traffic_note: str
    """Why what workers hold (`unacked`) and the rates of queues are not shown; empty if they are."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"causes": [told(cause) for cause in self.causes]}


@dataclass(frozen=True, slots=True)
class FoundQueue:
    """A queue as the broker has it. `differs`: in plain words; empty if it is as we would make it.

    `made`: as what we would make it, if it were missing; empty if that is left to others. `named`: the settings name
    it, so it is made at the connect; else with its first task.
    """

    name: str
    exists: bool
    messages: int = 0
    consumers: int = 0
    differs: str = ""
    made: str = ""
    named: bool = False


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """One moment of a broker. `exchange_problem` is empty if tasks can be published to the exchange."""

    node: str
    product: str
    version: str
    frame_max: int
    """Bytes."""
    exchange_exists: bool
    exchange_problem: str
    queues: tuple[FoundQueue, ...]
    blocked: str = ""
    """Why the broker blocks publishers, in its words; empty if it does not."""

    @property
    def to_make(self) -> tuple[FoundQueue, ...]:
        """The queues that are not there, and that a producer would make."""
        return tuple(queue for queue in self.queues if queue.made and not queue.exists)


@dataclass(frozen=True, slots=True)
class BoundTo:
    """What is bound to the exchange: a queue, or another exchange, which may lead anywhere."""

    name: str
    key: str
    queue: bool


@dataclass(frozen=True, slots=True)
class QueueRules:
    """What a queue does with messages that it took, by its arguments and policies."""

    durable: bool
    passing: bool
    """It goes with its last consumer, or with its connection."""
    bounded: bool
    overflow: str
    expires: bool
    """Messages do, after a time."""
    vanishes: bool
    """It is deleted when nobody used it for a time."""
    keeps_dead: bool
    """What it gives up goes to a dead letter exchange."""


@dataclass(frozen=True, slots=True)
class Behind:
    """What AMQP does not show, as the management API tells it."""

    alternate: str
    """The exchange's alternate one; empty if it has none."""
    bound: tuple[BoundTo, ...]
    queues: Mapping[str, QueueRules]
    """All of the virtual host, by name."""
    alarms: tuple[str, ...]
    traffic: Mapping[str, QueueTraffic] = field(default_factory=dict)
    """Of the same queues."""
