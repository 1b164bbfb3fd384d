"""What travels: a `Task` as the caller states it, its `Envelope` on the wire, the `Receipt` the caller keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar, Final, NamedTuple

from msgspec import Struct
from pydantic import Field

from mlproducer.ids import new_task_id
from mlproducer.values.given import Content, Given, Moment

MAX_SHORTSTR: Final = 255
"""AMQP 0-9-1 §4.2.5.3: a short string's length is one octet. Ids travel in one."""

Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
"""1 to 128 printable ASCII characters without blanks: safe in an AMQP short string, a log line and a URL."""

Headers = dict[Identifier, Annotated[str, Field(max_length=8192)]]


class Task(Given):
    """One unit of work for a Celery worker.

    `payload` becomes the keyword arguments of the Celery task. Beside JSON it takes the Python values that a worker
    gets back as they were (datetime, date, time, Decimal, UUID, bytes) and those that have an obvious form in JSON
    (Enum, tuple, set, dataclass, pydantic model, scalar of numpy). It is checked against the fields of its task type
    when the task is published: an unknown type or a missing field is refused there.

    Raises: InvalidTask, naming every fault; then nothing was accepted.
    """

    shape: ClassVar[str] = "a task is a JSON object, such as {'task_type': …, 'payload': {…}}"

    task_type: Annotated[str, Field(min_length=1, max_length=64)]
    payload: Content
    backend: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Which of the type's routes to take (`api`, `local`); None takes the preferred one from the settings."""
    id: Identifier = Field(default_factory=new_task_id)
    root_id: Identifier | None = None
    parent_id: Identifier | None = None
    group: Identifier | None = None
    group_index: Annotated[int, Field(ge=0)] | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    eta: Moment | None = None
    """Not before this moment. The task waits in the spool, not in a worker's memory."""
    expires: Moment | None = None
    """Not after this moment: the broker drops it from the queue, the worker refuses it, the spool buries it."""
    headers: Headers = Field(default_factory=dict)
    """Extra top-level message headers, such as `traceparent`."""


class TaskState(StrEnum):
    """Where a task is. `core.lifecycle` holds the table of the moves between these."""

    ACCEPTED = "accepted"
    IN_FLIGHT = "in_flight"
    SPOOLED = "spooled"
    CONFIRMED = "confirmed"
    DEAD = "dead"
    EXPIRED = "expired"


class Flow(NamedTuple):
    """What shares the window and the spool's leases with others of its kind: a tenant's part of a route."""

    route: str
    """The routing key."""
    tenant: str = ""
    """As `Envelope.tenant`."""


class Envelope(Struct, frozen=True, gc=False):
    """An encoded task: every byte that does not change from one attempt to the next.

    An attempt appends to `properties` what is its own: the remaining expiration (only if `expires_at` is set),
    the message id and the timestamp, in this order, which is the order of AMQP 0-9-1's basic properties.
    """

    task_id: str
    task_type: str
    routing_key: str
    properties: bytes
    """Property flags (expiration's bit set iff `expires_at`), content type … correlation id, AMQP-encoded."""
    body: bytes
    expires_at: float | None = None
    """Unix time, seconds."""
    eta: float | None = None
    """Unix time, seconds; None is at once."""
    tenant: str = ""
    """The short key of whose task it is (`envelope.tenants`), and not a name; empty if no header says that."""

    @property
    def flow(self) -> Flow:
        return Flow(self.routing_key, self.tenant)

    @property
    def size(self) -> int:
        """Bytes that the task takes in memory, on the wire and in the spool, without framing."""
        return len(self.body) + len(self.properties)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the caller holds once a task is safe.

    `state` is `confirmed` (RabbitMQ routed it to at least one durable queue and confirmed it) or `spooled` (it is
    committed in the local durable spool). A receipt looked up later may also say `in_flight`, `dead` or `expired`.
    Times are Unix seconds.
    """

    task_id: str
    task_type: str
    state: TaskState
    accepted_at: float
    confirmed_at: float | None = None
    attempts: int = 0
    """Attempts spent on faults of the message or its route; an outage spends none."""
    reason: str | None = None
    """Why it is not confirmed yet, in words for people; None when it is."""
    next_attempt_at: float | None = field(default=None)

    @property
    def confirmed(self) -> bool:
        return self.state is TaskState.CONFIRMED
