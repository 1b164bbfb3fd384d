"""From what a caller gives to what the known workers take: a bare text becomes an object, and defaults are filled in.

A shape is applied before the fields are checked. A value of a wrong kind is left as it is, so that the check names it;
and the check's path is led back to what the caller gave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlproducer.errors import InvalidTask

if TYPE_CHECKING:
    from mlproducer.envelope.tasktype import Path, Payload

_BACKEND: Final = "backend"


def chosen_backend(payload: Payload) -> str | None:
    """The backend that `options.backend` names, if it does."""
    options = payload.get("options")
    chosen = options.get(_BACKEND) if options and isinstance(options, Mapping) else None
    return chosen if isinstance(chosen, str) else None


@dataclass(frozen=True, slots=True)
class Filled:
    """`share_id`, `content` and `options`. `first` is the field of `content` that a bare text stands for; `content` and
    `options` are defaults.
    """

    first: str
    content: Payload = field(default_factory=dict, hash=False)
    options: Payload = field(default_factory=dict, hash=False)

    def fill(self, payload: Payload, backend: str) -> dict[str, Any]:
        content = payload.get("content")
        filled = {**payload, "options": self._options(payload.get("options", {}), backend)}
        if isinstance(content, str):
            filled["content"] = {self.first: content, **self.content}
        elif isinstance(content, Mapping):
            filled["content"] = {**self.content, **content}
        return filled

    def _options(self, given: object, backend: str) -> object:
        if not isinstance(given, Mapping):
            return given
        chosen = given.get(_BACKEND)
        if chosen is not None and chosen != backend:
            raise InvalidTask(
                f"is another one than {backend!r}, which the task's own `backend` names: give one of them",
                field="payload.options.backend",
            )
        return {**self.options, **given, _BACKEND: backend}

    def given(self, payload: Payload, path: Path) -> Path:
        return path[:1] if path[:1] == ("content",) and isinstance(payload.get("content"), str) else path


@dataclass(frozen=True, slots=True)
class FilledBatch:
    """`tasks`, a list of what `one` takes. `items` is its former name. `options` beside the list hold for all: what a
    task says itself comes first.
    """

    one: Filled

    def fill(self, payload: Payload, backend: str) -> dict[str, Any]:
        rest = dict(payload)
        shared = rest.pop("options", {})
        if not isinstance(shared, Mapping):
            raise InvalidTask("Input should be a valid dictionary", field="payload.options")
        if "tasks" not in rest and "items" in rest:
            rest["tasks"] = rest.pop("items")
        if isinstance(rest.get("tasks"), list | tuple):
            rest["tasks"] = [self._each(payload, *each, shared, backend) for each in enumerate(rest["tasks"])]
        return rest

    def _each(self, payload: Payload, number: int, task: object, shared: Payload, backend: str) -> object:
        if not isinstance(task, Mapping):
            return task
        own = task.get("options", {})
        options = {**shared, **own} if isinstance(own, Mapping) else own
        try:
            return self.one.fill({**task, "options": options}, backend)
        except InvalidTask as fault:
            where = ".".join(map(str, self.given(payload, ("tasks", number, "options", _BACKEND))))
            raise InvalidTask(fault.problem, field=f"payload.{where}") from None

    def given(self, payload: Payload, path: Path) -> Path:
        if path[:1] != ("tasks",) or not {"tasks", "items"} & payload.keys():
            return path
        name = "tasks" if "tasks" in payload else "items"
        if len(path) == 1 or not isinstance(path[1], int) or not isinstance(payload[name][path[1]], Mapping):
            return (name, *path[1:])
        return (name, path[1], *self.one.given(payload[name][path[1]], path[2:]))


@dataclass(frozen=True, slots=True)
class VideoData:
    """As `one`, sent as the one argument `task_data` under the names of its worker."""

    one: Filled

    def fill(self, payload: Payload, backend: str) -> dict[str, Any]:
        rest = self.one.fill(payload, backend)
        return {"task_data": {theirs: rest.pop(ours) for theirs, ours in _VIDEO.items() if ours in rest}, **rest}

    def given(self, payload: Payload, path: Path) -> Path:
        if path[:1] != ("task_data",) or len(path) == 1:
            return path
        return self.one.given(payload, (_VIDEO.get(str(path[1]), path[1]), *path[2:]))


_VIDEO: Final = {"shareId": "share_id", "payload": "content", "options": "options"}
