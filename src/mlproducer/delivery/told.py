"""What is told of a verdict that the store has committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import assert_never

from mlproducer.events import TaskConfirmed, TaskDeadLettered
from mlproducer.ports import Clock, Listener
from mlproducer.rows import Again, Bury, Done, SpoolRow, Verdict


class Told:
    """`record` keeps recent receipts up to date; `tell` hears after it."""

    def __init__(self, clock: Clock, tell: Listener, record: Callable[[SpoolRow, Verdict], None]) -> None:
        self._clock = clock
        self._tell = tell
        self._record = record

    def __call__(self, row: SpoolRow, verdict: Verdict) -> None:
        """`row` as it was before the verdict."""
        self._record(row, verdict)
        task_id, task_type = row.envelope.task_id, row.envelope.task_type
        match verdict:
            case Done():
                since = max(0.0, self._clock.now() - row.accepted_at)
                self._tell(TaskConfirmed(task_id, task_type, since, row.attempts + 1))
            case Bury(reason=reason, text=text, attempts=attempts):
                self._tell(TaskDeadLettered(task_id, task_type, reason, text, attempts))
            case Again():
                pass
            case _:
                assert_never(verdict)
