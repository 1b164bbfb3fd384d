"""Metrics of the verdict: alerts ask the same judge as the console."""

from __future__ import annotations

from collections.abc import Sequence

from mlproducer.core.verdict import Code
from mlproducer.events import Judged
from mlproducer.telemetry.cells import Board
from mlproducer.telemetry.labels import OTHER


class VerdictMetrics:
    def __init__(self, queues: Sequence[str], board: Board) -> None:
        self._new_tasks = board.gauge(
            "new_tasks",
            "What becomes of a new task: 0 confirmed, 1 some kept in the spool, 2 kept, 3 some refused, 4 refused.",
            merge="max",
        )
        causes = board.gauges(
            "cause",
            "What is wrong, as health and console have it: 0 not so, 1 amber, 2 red.",
            merge="max",
            cause=tuple(Code),
        )
        self._causes = {code: number for (code,), number in causes.items()}
        missing = board.gauges(
            "queue_missing",
            "1 while tasks cannot get to a broker queue: it is not there, or not bound.",
            merge="max",
            queue_name=(*queues, OTHER),
        )
        self._missing = {queue: number for (queue,), number in missing.items()}

    def judged(self, event: Judged) -> None:
        found = dict(event.causes)
        self._new_tasks.set(event.new_tasks)
        for code, number in self._causes.items():
            number.set(found.get(code, 0))
        missing = {queue if queue in self._missing else OTHER for queue in event.missing}
        for queue, number in self._missing.items():
            number.set(queue in missing)
