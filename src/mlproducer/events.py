"""One frozen dataclass per fact. The engine tells them to its listeners (metrics, logs); nobody answers.

Durations and ages are seconds, sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from mlproducer.errors import ErrorType
from mlproducer.outcome import Outcome


class ConnectionState(IntEnum):
    """The values of `ml_producer_connection_state`."""

    DISCONNECTED = 0
    CONNECTING = 1
    CONNECTED = 2
    CLOSING = 3
    CLOSED = 4


class BreakerState(IntEnum):
    """The values of `ml_producer_circuit_breaker_state`."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


@dataclass(frozen=True, slots=True)
class TaskAccepted:
    """A receipt is about to be given: the task is confirmed or committed in the spool."""

    task_id: str
    task_type: str
    size: int


@dataclass(frozen=True, slots=True)
class TaskRefused:
    """Refused before acceptance. `reason` is the error's class name; `task_type` is "unknown" if it is not known."""

    task_type: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptSettled:
    """One attempt has its outcome. `duration` is from the start of the attempt."""

    task_id: str
    task_type: str
    outcome: Outcome
    duration: float
    size: int


@dataclass(frozen=True, slots=True)
class TaskConfirmed:
    task_id: str
    task_type: str
    since_accept: float


@dataclass(frozen=True, slots=True)
class TaskSpooled:
    """Committed in the spool. `cause` is a value of `NotSentCause`/`UnsureCause`, or nacked, returned, eta."""

    task_id: str
    task_type: str
    cause: str


@dataclass(frozen=True, slots=True)
class TaskRetried:
    """An attempt from the spool starts; `attempt` counts from 1 the attempts already spent plus this one."""

    task_id: str
    task_type: str
    attempt: int


@dataclass(frozen=True, slots=True)
class TaskDeadLettered:
    """`reason` is from a small closed set: nacked, returned, channel_refused, too_large, expired."""

    task_id: str
    task_type: str
    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class TasksReplayed:
    count: int


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """`node` is `host:port`, never a URL with a password."""

    state: ConnectionState
    node: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionFailed:
    """A connect failed or a connection was lost."""

    error_type: ErrorType
    node: str
    text: str


@dataclass(frozen=True, slots=True)
class ReconnectScheduled:
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True)
class ReconnectsExhausted:
    attempts: int


@dataclass(frozen=True, slots=True)
class BlockedChanged:
    """connection.blocked (memory or disk alarm) or unblocked."""

    blocked: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BreakerChanged:
    state: BreakerState
    failures: int


@dataclass(frozen=True, slots=True)
class ConfirmsTimedOut:
    count: int


@dataclass(frozen=True, slots=True)
class HealthChecked:
    ok: bool
    duration: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class SpoolFailed:
    """The spool could not be read or written; the loops try again."""

    text: str


@dataclass(frozen=True, slots=True)
class TopologyDiffers:
    """An existing exchange or queue has other arguments than ours; publishing goes on."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class SpoolMeasured:
    tasks: int
    bytes: int
    oldest_age: float
    dead: int


@dataclass(frozen=True, slots=True)
class FlightMeasured:
    in_flight: int
    breaker_failures: int
    reconnect_attempts: int


@dataclass(frozen=True, slots=True)
class QueueMeasured:
    queue: str
    depth: int


Event = (
    TaskAccepted
    | TaskRefused
    | AttemptSettled
    | TaskConfirmed
    | TaskSpooled
    | TaskRetried
    | TaskDeadLettered
    | TasksReplayed
    | ConnectionChanged
    | ConnectionFailed
    | ReconnectScheduled
    | ReconnectsExhausted
    | BlockedChanged
    | BreakerChanged
    | ConfirmsTimedOut
    | HealthChecked
    | SpoolFailed
    | TopologyDiffers
    | SpoolMeasured
    | FlightMeasured
    | QueueMeasured
)
