"""What a task type is: the routes that it may take and the fields that its payload must have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from mlproducer.envelope.queues import Arguments
from mlproducer.errors import SettingsError
from mlproducer.task import MAX_SHORTSTR

if TYPE_CHECKING:
    from pydantic import BaseModel

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")
"""Names become metric labels, TOML tables and URLs, so they stay plain."""

NAME_RULE: Final = "a name starts with a letter and has at most 64 letters, digits, `_`, `-` and `.`"
CELERY_NAME: Final = re.compile(r"[^\s\x00-\x1f]{1,255}")


@dataclass(frozen=True, slots=True)
class Route:
    """Where a task goes: the name under which the worker registered the Celery task, and the queue it reads.

    `arguments` are those that the queue is made with, as its worker declares it (AMQP's names; `x-queue-type` among
    them); None is a quorum queue with a delivery limit of 5. `declare=False` leaves the queue to others. `at_start`
    makes it when the producer connects; else its first task does.
    """

    celery_task: str
    queue: str
    arguments: Arguments | None = field(default=None, hash=False)
    declare: bool = True
    at_start: bool = False

    def __post_init__(self) -> None:
        if not CELERY_NAME.fullmatch(self.celery_task):
            raise SettingsError(
                f"Celery task name {self.celery_task!r}: 1 to 255 characters without blanks, "
                "such as `llm_service.tasks.summarize_content`"
            )
        _check_queue(self.queue)


Payload = Mapping[str, Any]
Path = tuple[int | str, ...]
"""Keys and indexes, from the payload inwards."""


class Shape(Protocol):
    """Makes what a worker takes of what a caller gives. A type that has one also takes its backend from the payload's
    `options.backend`.
    """

    def fill(self, payload: Payload, backend: str) -> Payload:
        """For the fields to check. Raises: InvalidTask."""
        ...

    def given(self, payload: Payload, path: Path) -> Path:
        """Where in what the caller gave the fault is that the fields found at `path`."""
        ...


@dataclass(frozen=True, slots=True)
class TaskType:
    """A kind of task.

    `routes` maps a backend's name to its route; `preferred` names the one for tasks that do not choose. `fields` is a
    pydantic model of the payload; what it validates to, defaults included, becomes the keyword arguments of the
    Celery task. Give the model `extra="forbid"` to have a misspelt field refused instead of dropped.

    Raises: SettingsError, if the parts do not fit each other.
    """

    name: str
    routes: Mapping[str, Route] = field(hash=False)
    fields: type[BaseModel]
    preferred: str = "api"
    shape: Shape | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise SettingsError(f"task type {self.name!r}: {NAME_RULE}")
        if not self.routes:
            raise SettingsError(f"task type {self.name}: needs at least one route")
        for backend in self.routes:
            if not NAME.fullmatch(backend):
                raise SettingsError(f"task type {self.name}: backend {backend!r}: {NAME_RULE}")
        if self.preferred not in self.routes:
            raise SettingsError(
                f"task type {self.name}: the preferred backend {self.preferred!r} has no route; "
                f"there are {', '.join(self.routes)}"
            )
        object.__setattr__(self, "routes", MappingProxyType(dict(self.routes)))


def _check_queue(queue: str) -> None:
    try:
        size = len(queue.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MAX_SHORTSTR or not queue.isprintable():
        raise SettingsError(f"queue {queue!r}: a name has 1 to {MAX_SHORTSTR} bytes of printable text")
    if queue.startswith("amq."):
        raise SettingsError(f"queue {queue!r}: names that start with `amq.` belong to the broker")
