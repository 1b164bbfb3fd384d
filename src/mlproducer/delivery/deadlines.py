"""`asyncio.timeout` for callers by the thousand: one timer of the event loop for all of them.

Most deadlines never come, so what counts is what one costs that does not: here a push onto a heap, there a timer that
is made, put into the loop's own heap, and cancelled again. During an outage that was a tenth of the cost of a task.
"""

from __future__ import annotations

import asyncio
import heapq
from types import TracebackType
from typing import Final

from mlproducer.ports import Clock

_SLACK: Final = 1_024
"""Deadlines of calls that are over which may lie in the heap, over as many again as are open."""


class Deadlines:
    """`with deadlines.by(at): await …` raises TimeoutError at `at`, on the monotonic clock, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, _Bound]] = []
        self._number = 0
        self._open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0

    def by(self, at: float) -> _Bound:
        """A context manager, for one use in the task that enters it."""
        return _Bound(self, at)

    def opened(self, bound: _Bound) -> None:
        self._open += 1
        self._number += 1  # two bounds at one moment are not compared
        heapq.heappush(self._heap, (bound.at, self._number, bound))
        if len(self._heap) > 2 * self._open + _SLACK:
            self._heap = [each for each in self._heap if each[2].task is not None]
            heapq.heapify(self._heap)
        if self._timer is None or bound.at < self._rings_at:
            self._set_timer(bound.at)

    def closed(self) -> None:
        self._open -= 1

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        delay = max(0.0, at - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        now, heap = self._clock.monotonic(), self._heap
        while heap and (heap[0][0] <= now or heap[0][2].task is None):
            heapq.heappop(heap)[2].expire()
        if heap:
            self._set_timer(heap[0][0])


class _Bound:
    __slots__ = ("_cancelling", "_deadlines", "_expired", "at", "task")

    def __init__(self, deadlines: Deadlines, at: float) -> None:
        self._deadlines = deadlines
        self.at = at
        self.task: asyncio.Task[object] | None = None
        """Who waits; None before and after."""
        self._cancelling = 0
        self._expired = False

    def __enter__(self) -> None:
        self.task = task = asyncio.current_task()
        assert task is not None  # noqa: S101  # it is entered in a coroutine
        self._cancelling = task.cancelling()
        self._deadlines.opened(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self.task = self.task, None
        self._deadlines.closed()
        # Race: the deadline comes, and before the task wakes somebody else cancels it too. Then it is theirs: only a
        # cancellation that was ours alone becomes a timeout. This is what `asyncio.timeout` does.
        ours = self._expired and task is not None and task.uncancel() <= self._cancelling
        if ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def expire(self) -> None:
        if self.task is not None:
            self._expired = True
            self.task.cancel()
