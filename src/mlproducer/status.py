"""What the engine says of itself: `Status` for tools, `Health` for orchestrators; and what `doctor` found at a broker.
No secrets in any.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final

DIRECT: Final = frozenset({"accepting", "connection", "circuit_breaker", "spool"})
"""The checks that tell whether a new task would be confirmed."""


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
    """`failed`: new tasks are refused. `degraded`: they are accepted, perhaps into the spool, and something wants a
    look. `ok`: they are confirmed, and nothing does.
    """

    checks: tuple[Check, ...]

    @property
    def status(self) -> CheckStatus:
        found = {check.status for check in self.checks}
        for status in (CheckStatus.FAILED, CheckStatus.DEGRADED):
            if status in found:
                return status
        return CheckStatus.OK

    @property
    def direct(self) -> bool:
        """New tasks are confirmed directly: connected, not blocked, breaker closed, spool writable."""
        return all(check.status is CheckStatus.OK for check in self.checks if check.name in DIRECT)

    @property
    def summary(self) -> str:
        """One sentence for people."""
        names = ", ".join(each.name for each in self.checks if each.status is self.status)
        match self.status:
            case CheckStatus.FAILED:
                return f"unhealthy: new tasks are refused ({names})"
            case CheckStatus.DEGRADED:
                return f"degraded: tasks are accepted and none is lost, but something wants a look ({names})"
            case CheckStatus.OK:
                return "healthy: tasks are accepted and confirmed"

    def as_dict(self) -> dict[str, object]:
        return {
            "status": self.status.value,
            "healthy": self.direct,
            "summary": self.summary,
            "checks": [asdict(check) for check in self.checks],
        }


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

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


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
    """Why the broker blocks publishers, as far as it says so before the first publish; empty if it does not."""

    @property
    def to_make(self) -> tuple[FoundQueue, ...]:
        """The queues that are not there, and that a producer would make."""
        return tuple(queue for queue in self.queues if queue.made and not queue.exists)
