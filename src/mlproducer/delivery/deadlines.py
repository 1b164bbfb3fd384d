"""`asyncio.timeout` for callers by the thousand: one timer of the event loop for all of them.

Most deadlines never come, so what counts is what one costs that does not: here a push onto a heap, there a timer that
is made, put into the loop's own heap, and cancelled again. During an outage that was a tenth of the cost of a task.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from mlproducer.ports import Clock

T = TypeVar("T")

_LATE: Final = "mlproducer: the deadline of this call came"
_SLACK: Final = 1_024
"""Deadlines of what is done that may lie in the heap, over as many again as are open."""


def is_late(error: asyncio.CancelledError) -> bool:
    """True if it was a deadline that cancelled what was waited for, and nobody who cancelled the waiting task."""
    return error.args == (_LATE,)


class Deadlines:
    """Cancels what is not done in time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, asyncio.Future[Any]]] = []
        self._number = 0
        self._sweep_at = _SLACK
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def by(self, at: float, work: Awaitable[T]) -> asyncio.Future[T]:
        """The work, to be awaited: it is cancelled at `at`, on the monotonic clock, in seconds, and the CancelledError
        `is_late`. A future costs least: what is none becomes a task.
        """
        waiter = work if isinstance(work, asyncio.Future) else asyncio.ensure_future(work)
        self._number += 1  # two at one moment are not compared
        heapq.heappush(self._heap, (at, self._number, waiter))
        if len(self._heap) > self._sweep_at:
            self._heap = [each for each in self._heap if not each[2].done()]
            heapq.heapify(self._heap)
            self._sweep_at = 2 * len(self._heap) + _SLACK
        if self._timer is None or at < self._rings_at:
            self._set_timer(at)
        return waiter

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        delay = max(0.0, at - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        # Race: the deadline comes, and before the waiting task wakes somebody else cancels that. Then it is theirs:
        # asyncio raises the later of the two in it, which has not our mark.
        self._timer = None
        now, heap = self._clock.monotonic(), self._heap
        try:
            while heap and (heap[0][0] <= now or heap[0][2].done()):
                heapq.heappop(heap)[2].cancel(_LATE)
        finally:
            if heap:  # the others have their deadlines whatever cancelling one of them raised
                self._set_timer(heap[0][0])
