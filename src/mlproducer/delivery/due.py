"""When tasks that wait in the spool are due, with the earliest at hand: whoever waits for it asks many times."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Final

SPARE: Final = 64
"""Times in the heap that may be of no task any more, beside as many as there are tasks."""


class DueTimes:
    """By task id, in Unix seconds. What changes costs the logarithm of how many there are; a look costs nothing."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due)

    def add(self, task_id: str, due_at: float) -> None:
        """It waits, or it waits for another moment than before."""
        self._due[task_id] = due_at
        heappush(self._heap, (due_at, task_id))
        if len(self._heap) > 2 * len(self._due) + SPARE:
            self._heap = [(each, task_id) for task_id, each in self._due.items()]
            heapify(self._heap)

    def drop(self, task_id: str) -> None:
        """It waits no more."""
        self._due.pop(task_id, None)

    def earliest(self) -> float | None:
        """None if nothing waits."""
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else None
