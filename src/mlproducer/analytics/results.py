"""Results of workers into the store's counters, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from mlproducer.analytics.counting import OTHER, RETENTION_HOURS, UNKNOWN
from mlproducer.core.counting import HOUR
from mlproducer.core.results import TaskResult, tallies_of
from mlproducer.ports import Clock, Counters

MOST_MODELS: Final = 200
"""Names of models that one process takes; a worker that makes names up must not make as many rows."""

MOST_TEXT: Final = 128
"""Characters of an id or a name."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What of a report was new. None: it told nothing of that."""

    finish: bool | None
    cost: bool | None


class Results:
    """Takes reports. `celery_tasks` maps the names of Celery tasks to our task types.

    `retention`: seconds for which a task that was reported is known, so that it counts once.
    """

    def __init__(
        self,
        store: Counters,
        task_types: tuple[str, ...],
        celery_tasks: Mapping[str, str],
        clock: Clock,
        *,
        retention: float,
    ) -> None:
        self._store = store
        self._types = frozenset(task_types)
        self._celery_tasks = celery_tasks
        self._clock = clock
        self._retention = retention
        self._models: set[str] = set()

    def task_type(self, celery_task: str) -> str:
        """Of a Celery task's name; `unknown` for one that we do not publish."""
        return self._celery_tasks.get(celery_task, UNKNOWN)

    def is_ours(self, celery_task: str) -> bool:
        return celery_task in self._celery_tasks

    async def report(self, results: Sequence[TaskResult]) -> list[Counted]:
        """Count them, in one transaction. For each, what of it was new.

        Raises: SpoolUnavailable; ValueError, for a cost that is none.
        """
        now = self._clock.now()
        parts = [tallies_of(self._bounded(result, now), self._retention) for result in results]
        new = iter(await self._store.count([tally for part in parts for tally in part]))
        return [
            Counted(
                finish=None if result.status is None else next(new),
                cost=None if result.cost is None else next(new),
            )
            for result in results
        ]

    def _bounded(self, result: TaskResult, now: float) -> TaskResult:
        """With a task type and a model of a bounded set, texts that every store takes, and at a time that the figures
        have: a worker's clock may be wrong, and an event may have waited.
        """
        task_id, model, part = (_plain(text) for text in (result.task_id, result.model, result.part))
        if model not in self._models:
            if len(self._models) < MOST_MODELS:
                self._models.add(model)
            else:
                model = OTHER
        task_type = result.task_type if result.task_type in self._types else UNKNOWN
        at = min(now, max(result.at, now - (RETENTION_HOURS - 1) * HOUR))
        return replace(result, task_id=task_id, task_type=task_type, model=model, part=part, at=at)


def _plain(text: str) -> str:
    """Without control characters and halves of characters, and of bounded length."""
    return "".join(filter(str.isprintable, text))[:MOST_TEXT]
