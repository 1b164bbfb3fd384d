"""What the engine says of itself: `Status` for tools, `Health` for orchestrators. No secrets in either."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum


class CheckStatus(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One part's health. `seconds` is what the last active check of it took; None where none was needed."""

    name: str
    status: CheckStatus
    detail: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """`failed`: new tasks are refused. `degraded`: they are accepted into the spool. `ok`: they are confirmed."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> CheckStatus:
        found = {check.status for check in self.checks}
        for status in (CheckStatus.FAILED, CheckStatus.DEGRADED):
            if status in found:
                return status
        return CheckStatus.OK

    def as_dict(self) -> dict[str, object]:
        return {"status": self.status.value, "checks": [asdict(check) for check in self.checks]}


@dataclass(frozen=True, slots=True)
class Status:
    """One moment of the engine. Sizes in bytes, ages and uptime in seconds, times in Unix seconds."""

    accepting: bool
    ready: bool
    """A new task would be accepted now: published, or spooled."""
    reasons: tuple[str, ...]
    """Why it is not ready, or not publishing directly."""
    connection: str
    node: str
    blocked: bool
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
