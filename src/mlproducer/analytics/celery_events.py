"""What Celery's task events say, as results. Pure.

A worker with `-E` sends them to the topic exchange `celeryev`: JSON, one event or a list of them a message. Those that
end a task (`task-succeeded`, `task-failed`, `task-revoked`) do not name it; `task-received` does. So names are
remembered by id, the last `MOST_NAMES` of them, also after the end: that may be delivered again. `task-cost` is our
own, sent by `mlproducer.worker.report_cost`; it names its task.

What is not of a task that we publish is passed over, and so is what nobody can read: an event is no task, and
holding up all others for one would help nobody. Results and arguments, which events hold too, are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from mlproducer.core.results import ResultStatus, TaskResult, nanos

MOST_NAMES: Final = 100_000
"""More than what workers take up while a long task runs; about 20 MB."""

_STATUS: Final = {
    "task-succeeded": ResultStatus.SUCCEEDED,
    "task-failed": ResultStatus.FAILED,
    "task-revoked": ResultStatus.REVOKED,
}


class _Event(msgspec.Struct, frozen=True):
    """The fields that we look at."""

    type: str
    uuid: str = ""
    timestamp: float = 0.0
    name: str | None = None
    runtime: float | None = None
    cost: str = ""
    model: str = ""
    part: str = ""


_decode: Final = msgspec.json.Decoder(_Event | list[_Event]).decode


class EventReader:
    """`type_of` gives our task type of a Celery task's name, None for one that is not ours."""

    def __init__(self, type_of: Callable[[str], str | None]) -> None:
        self._type_of = type_of
        self._types: dict[str, str] = {}

    def read(self, body: bytes) -> list[TaskResult]:
        """The results that a message tells."""
        try:
            found: _Event | list[_Event] = _decode(body)
        except msgspec.MsgspecError:
            return []
        events = found if isinstance(found, list) else [found]
        return [result for event in events for result in self._results(event)]

    def _results(self, event: _Event) -> Iterator[TaskResult]:
        if event.type in _STATUS:
            task_type = self._types.get(event.uuid)
            if task_type is not None:
                yield TaskResult(
                    event.uuid, task_type, event.timestamp, _STATUS[event.type], duration=_duration(event.runtime)
                )
        elif event.type == "task-received":
            self._remember(event.uuid, event.name or "")
        elif event.type == "task-cost":
            yield from self._cost(event)

    def _remember(self, task_id: str, name: str) -> None:
        task_type = self._type_of(name)
        if task_type is None:
            return
        self._types.pop(task_id, None)
        self._types[task_id] = task_type  # as the youngest
        if len(self._types) > MOST_NAMES:
            del self._types[next(iter(self._types))]

    def _cost(self, event: _Event) -> Iterator[TaskResult]:
        task_type = self._type_of(event.name or "") or self._types.get(event.uuid)
        try:
            cost = Decimal(event.cost)
            nanos(cost)
        except (InvalidOperation, ValueError):
            return
        if task_type is not None:
            yield TaskResult(event.uuid, task_type, event.timestamp, cost=cost, model=event.model, part=event.part)


def _duration(runtime: float | None) -> float | None:
    return runtime if runtime is not None and 0 <= runtime < float("inf") else None
