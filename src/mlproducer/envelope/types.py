"""The registry of task types: which there are, and which route a task takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

from mlproducer.envelope.builtin import builtin_types
from mlproducer.envelope.queues import QueuePlan, plans_of
from mlproducer.envelope.shapes import chosen_backend
from mlproducer.envelope.tasktype import Route, TaskType
from mlproducer.envelope.toml import read_task_types
from mlproducer.errors import InvalidTask, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mlproducer.task import Task

__all__ = ["QueuePlan", "Route", "TaskType", "TaskTypes"]


class Choices(Protocol):
    """What the settings say of task types."""

    @property
    def ml_builtin_types(self) -> bool: ...

    @property
    def preferred_llm_backend(self) -> str: ...

    @property
    def preferred_stt(self) -> str: ...

    @property
    def preferred_embedding_backend(self) -> str: ...

    @property
    def ml_task_types(self) -> Path | None: ...


class TaskTypes:
    """An immutable registry of task types, in the order in which they were given."""

    __slots__ = ("_plans", "_types")

    def __init__(self, types: Iterable[TaskType]) -> None:
        found: dict[str, TaskType] = {}
        for each in types:
            if each.name in found:
                raise SettingsError(f"task type {each.name}: given twice")
            found[each.name] = each
        self._types = found
        self._plans = plans_of(route for each in found.values() for route in each.routes.values())

    @classmethod
    def builtin(
        cls, *, preferred_llm: str = "api", preferred_stt: str = "api", preferred_embedding: str = "api"
    ) -> Self:
        """Raises: SettingsError, if a preferred backend does not exist."""
        return cls(
            builtin_types(
                preferred_llm=preferred_llm, preferred_stt=preferred_stt, preferred_embedding=preferred_embedding
            )
        )

    @classmethod
    def chosen(cls, settings: Choices, extra: Iterable[TaskType] = ()) -> Self:
        """The built-in types, unless they are left out; over them the user's TOML file; over these `extra`.

        Raises: SettingsError.
        """
        types = cls(())
        if settings.ml_builtin_types:
            types = cls.builtin(
                preferred_llm=settings.preferred_llm_backend,
                preferred_stt=settings.preferred_stt,
                preferred_embedding=settings.preferred_embedding_backend,
            )
        if settings.ml_task_types is not None:
            types = types.with_(cls.from_toml(settings.ml_task_types))
        return types.with_(extra)

    @staticmethod
    def from_toml(path: Path) -> list[TaskType]:
        """The types of a user's TOML file (see `envelope.toml`). Raises: SettingsError, naming file, table and key."""
        return read_task_types(path)

    def with_(self, types: Iterable[TaskType]) -> Self:
        """This registry and `types`. A type of a known name takes its place, so that a system whose workers
        registered other names can redirect a built-in type. Raises: SettingsError, if `types` has a name twice.
        """
        added = type(self)(types)
        return type(self)({each.name: each for registry in (self, added) for each in registry}.values())

    def resolve(self, task: Task) -> tuple[TaskType, Route]:
        """Raises: InvalidTask, naming `task_type` or the backend."""
        found = self._types.get(task.task_type)
        route = None if found is None else found.routes.get(_backend(found, task) or found.preferred)
        if found is None or route is None:
            raise self.refusal(task)
        return found, route

    def refusal(self, task: Task) -> InvalidTask:
        """Why there is no route for the task: its type or its backend is unknown."""
        found = self._types.get(task.task_type)
        if found is None:
            known = f"known are {', '.join(self._types)}" if self._types else "none is known"
            return InvalidTask(
                f"there is no task type {task.task_type!r}; {known} (ML_TASK_TYPES names a TOML file with more, and "
                "ML_BUILTIN_TYPES=no leaves the built-in ones out)",
                field="task_type",
            )
        field = "payload.options.backend" if task.backend is None else "backend"
        backend = _backend(found, task)
        return InvalidTask(f"{found.name} has no backend {backend!r}; it has {', '.join(found.routes)}", field=field)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._types)

    @property
    def queues(self) -> tuple[str, ...]:
        """Every queue that some route leads to, once."""
        return tuple(plan.name for plan in self._plans)

    @property
    def plans(self) -> tuple[QueuePlan, ...]:
        """The same, and how each is made."""
        return self._plans

    def __iter__(self) -> Iterator[TaskType]:
        return iter(self._types.values())

    def __getitem__(self, name: str) -> TaskType:
        return self._types[name]

    def __contains__(self, name: object) -> bool:
        return name in self._types

    def __len__(self) -> int:
        return len(self._types)

    def __repr__(self) -> str:
        return f"TaskTypes({', '.join(self._types)})"


def _backend(found: TaskType, task: Task) -> str | None:
    return chosen_backend(task.payload) if task.backend is None and found.shape is not None else task.backend
