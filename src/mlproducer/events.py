"""One frozen struct per fact. The engine tells them to its listeners (metrics, logs); nobody answers.

Durations and ages are seconds, sizes are bytes. Why structs and no dataclasses: docs/adr/0006.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal, get_args

from msgspec import Struct

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


class RouteState(IntEnum):
    """The values of `ml_producer_route_state`. See `core.routes`."""

    OPEN = 0
    HELD = 1
    PROBING = 2
    FAILING = 3


Part = Literal["connection", "settle", "link", "breaker", "drain", "health", "gauges", "analytics", "claims", "late"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)


class TaskAccepted(Struct, frozen=True, gc=False):
    """A receipt is about to be given: the task is confirmed or committed in the spool."""

    task_id: str
    task_type: str
    size: int


class TaskRefused(Struct, frozen=True, gc=False):
    """Refused before acceptance. `reason` is the error's class name; `task_type` is "unknown" if it is not known."""

    task_type: str
    reason: str
    task_id: str = ""


class AttemptSettled(Struct, frozen=True, gc=False):
    """One attempt has its outcome. `duration` is from the start of the attempt; `attempt` as in `TaskRetried`."""

    task_id: str
    task_type: str
    outcome: Outcome
    duration: float
    size: int
    attempt: int = 1


class TaskConfirmed(Struct, frozen=True, gc=False):
    """`attempt` as in `TaskRetried`."""

    task_id: str
    task_type: str
    since_accept: float
    attempt: int = 1


class TaskSpooled(Struct, frozen=True, gc=False):
    """Committed in the spool. `cause` is a value of `NotSentCause`/`UnsureCause`, or nacked, returned, eta.

    `attempts` were spent so far: an outage and an eta spend none.
    """

    task_id: str
    task_type: str
    cause: str
    attempts: int = 0


class TaskRetried(Struct, frozen=True, gc=False):
    """An attempt from the spool was made; `attempt` counts from 1 the attempts spent before plus this one.

    `cause`: why the task was in the spool, as in `TaskSpooled`; or outbox, replayed.
    """

    task_id: str
    task_type: str
    attempt: int
    cause: str = ""


class TaskDeadLettered(Struct, frozen=True, gc=False):
    """`reason` is from a closed set: nacked, returned, channel_refused, too_large, expired; `attempts` were spent."""

    task_id: str
    task_type: str
    reason: str
    text: str
    attempts: int = 0


class TasksReplayed(Struct, frozen=True, gc=False):
    count: int


class TasksPurged(Struct, frozen=True, gc=False):
    """Dead letters were removed for good: by this producer, another one on the same spool, or the command line."""

    count: int


class ConnectionChanged(Struct, frozen=True, gc=False):
    """`node` is `host:port`, never a URL with a password."""

    state: ConnectionState
    node: str
    reason: str = ""


class ConnectionFailed(Struct, frozen=True, gc=False):
    """A connect failed or a connection was lost."""

    error_type: ErrorType
    node: str
    text: str


class ReconnectScheduled(Struct, frozen=True, gc=False):
    attempt: int
    delay: float


class ReconnectsExhausted(Struct, frozen=True, gc=False):
    attempts: int


class RouteChanged(Struct, frozen=True, gc=False):
    """A route (its routing key) is held, fails past its patience, or is open again; its probes are not told.

    `route` is `EVERY_ROUTE` for all of the exchange, which is one fault and told once. `reason` is a label as in
    `TaskSpooled.cause`, `text` has the broker's words; `wait` is seconds until its first probe.
    """

    route: str
    state: RouteState
    reason: str = ""
    wait: float = 0.0
    text: str = ""


class BlockedChanged(Struct, frozen=True, gc=False):
    """connection.blocked (memory or disk alarm) or unblocked."""

    blocked: bool
    reason: str = ""


class BreakerChanged(Struct, frozen=True, gc=False):
    state: BreakerState
    failures: int


class ConfirmsTimedOut(Struct, frozen=True, gc=False):
    count: int


class AnsweredLate(Struct, frozen=True, gc=False):
    """The broker answered an attempt that was given up as unsure. `duration` is seconds from its write."""

    task_id: str
    task_type: str
    outcome: Outcome
    duration: float


class ConfirmWaitChanged(Struct, frozen=True, gc=False):
    """A route's answers come `late`, or do so no more; `wait` is for how many seconds one is waited for from now on."""

    route: str
    wait: float
    late: bool


class HealthChecked(Struct, frozen=True, gc=False):
    ok: bool
    duration: float
    text: str = ""


class SpoolFailed(Struct, frozen=True, gc=False):
    """The spool could not be read or written; the loops try again."""

    text: str


class SpoolChanged(Struct, frozen=True, gc=False):
    """The spool cannot be used any more, and why; or it works again, after `lasted` seconds."""

    available: bool
    text: str = ""
    lasted: float = 0.0


class ClockJumped(Struct, frozen=True, gc=False):
    """A clock was set, or its machine slept, or another server took over: it moved by `seconds` more than time did."""

    clock: str
    """`host`: the wall clock of this machine. `store`: that of the spool's server."""
    seconds: float


class PartFailed(Struct, frozen=True):
    """A part of the producer, or the application's code that it called, raised what nobody thought of. It ends what it
    belongs to, and no more: see docs/adr/0013. `part` is one of `PARTS`.
    """

    part: Part
    error: Exception


class TopologyDiffers(Struct, frozen=True, gc=False):
    """An existing exchange or queue has other arguments than ours; publishing goes on."""

    name: str
    text: str
    broken: bool = False
    """It is missing, or not bound: tasks cannot get there."""


class SpoolMeasured(Struct, frozen=True, gc=False):
    tasks: int
    bytes: int
    oldest_age: float
    """Since the task that is late for longest was due for the first time; 0 if none is late."""
    dead: int
    overdue: float = 0.0
    """Since the first task that nobody is publishing became due; 0 if none is."""
    met_others: bool = False
    """See `rows.SpoolSize`."""
    apart: float = 0.0
    """By how much the host's clock is ahead of that of the spool's server; 0 if it has none."""


class FlightMeasured(Struct, frozen=True, gc=False):
    in_flight: int
    breaker_failures: int
    reconnect_attempts: int


class QueueMeasured(Struct, frozen=True, gc=False):
    """`depth`: messages that are ready. `consumers`: who reads it."""

    queue: str
    depth: int
    consumers: int = 0


class TrafficMeasured(Struct, frozen=True, gc=False):
    """What the management API says of a queue, as in `ports.QueueTraffic`: `unacked` messages, and messages a second
    that were published to it, delivered and acknowledged. None: it says nothing of that.
    """

    queue: str
    unacked: int | None = None
    published: float | None = None
    delivered: float | None = None
    acked: float | None = None


class TrafficUnknown(Struct, frozen=True, gc=False):
    """The management API does not answer as it should, and why. Told when that begins or changes."""

    text: str


class Judged(Struct, frozen=True, gc=False):
    """The verdict is another than before: `new_tasks` is a value of `core.verdict.NewTasks`, `causes` has each code
    with how bad it is: 1 amber, 2 red. `missing` names the queues that tasks cannot get to.
    """

    new_tasks: int
    causes: tuple[tuple[str, int], ...]
    missing: tuple[str, ...] = ()


class QueueMissing(Struct, frozen=True, gc=False):
    """A queue that is used is not there, so it has no depth. Told at each health check that finds it so."""

    queue: str


class TasksLeft(Struct, frozen=True, gc=False):
    """A producer stopped, and `count` tasks that it spooled stay in the spool. `durable`: another one finds them there;
    else they are gone with the process.
    """

    count: int
    reason: str
    durable: bool = True


CallbackKind = Literal["listener", "progress", "tracing"]
"""Whose code it was: the values of `ml_producer_listener_errors_total{callback}`."""


class CallbackFailed(Struct, frozen=True, gc=False):
    """Code of the application that we called raised `error`, a class of errors; we went on as if it had not.

    `name` is the module and the qualified name of that code. `traceback` is that of the first of its kind, and empty
    for those after it.
    """

    callback: CallbackKind
    name: str
    error: str
    text: str
    traceback: str = ""


class CallbackSlow(Struct, frozen=True, gc=False):
    """A listener took `seconds` for an event, in which the event loop stood still. `first`: its first time."""

    name: str
    event: str
    seconds: float
    first: bool = False


Event = (
    TaskAccepted
    | TaskRefused
    | AttemptSettled
    | TaskConfirmed
    | TaskSpooled
    | TaskRetried
    | TaskDeadLettered
    | TasksReplayed
    | TasksPurged
    | ConnectionChanged
    | ConnectionFailed
    | ReconnectScheduled
    | ReconnectsExhausted
    | RouteChanged
    | BlockedChanged
    | BreakerChanged
    | ConfirmsTimedOut
    | AnsweredLate
    | ConfirmWaitChanged
    | HealthChecked
    | SpoolFailed
    | SpoolChanged
    | ClockJumped
    | PartFailed
    | TopologyDiffers
    | SpoolMeasured
    | FlightMeasured
    | QueueMeasured
    | TrafficMeasured
    | TrafficUnknown
    | Judged
    | QueueMissing
    | TasksLeft
    | CallbackFailed
    | CallbackSlow
)

ALL_EVENTS: Final[tuple[type[Event], ...]] = get_args(Event)
