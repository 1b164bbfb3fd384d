"""The questions, answered from the store alone: by any instance, or by none that runs."""

from __future__ import annotations

from typing import Final

from mlproducer.core.budget import Budget, Limits, budget_of, first_hour_of_day
from mlproducer.core.counting import HOUR, hour_of
from mlproducer.core.figures import (
    Costs,
    Delivery,
    Hourly,
    Latency,
    Summary,
    Window,
    costs_of,
    delivery_of,
    hourly_of,
    latency_of,
    summary_of,
    window_of,
)
from mlproducer.ports import Clock, Counters
from mlproducer.rows import Counts

MOST_HOURS: Final = 720
TRANSCRIPTION: Final = "transcribe"
"""Task types of transcription begin so."""


class Analytics:
    """Each question is about the running hour and the `hours - 1` before it, of UTC; 1 to 720.

    The figures are as old as the last flush of each instance (`ML_ANALYTICS_FLUSH`).

    Raises: SpoolUnavailable; ValueError, for other `hours`.
    """

    def __init__(self, store: Counters, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits

    async def summary(self, hours: int = 24) -> Summary:
        window = self._window(hours)
        return summary_of(await self._counts(window), window)

    async def delivery(self, hours: int = 24) -> Delivery:
        window = self._window(hours)
        return delivery_of(await self._counts(window), window)

    async def latency(self, hours: int = 24) -> Latency:
        window = self._window(hours)
        return latency_of(await self._counts(window), window)

    async def hourly(self, hours: int = 24, *, task_type: str | None = None) -> Hourly:
        window = self._window(hours)
        return hourly_of(await self._counts(window, hourly=True), window, task_type)

    async def costs(self, hours: int = 24) -> Costs:
        window = self._window(hours)
        return costs_of(await self._counts(window, hourly=True), window)

    async def transcription_costs(self, hours: int = 24) -> Costs:
        """Of the task types whose names begin with `transcribe`."""
        window = self._window(hours)
        counts = await self._counts(window, hourly=True)
        return costs_of(counts, window, lambda task_type: task_type.startswith(TRANSCRIPTION))

    async def budget(self) -> Budget:
        hour = hour_of(self._clock.now())
        counts = await self._store.counts(since=first_hour_of_day(hour), until=hour + 1, hourly=True)
        return budget_of(counts, hour, self._limits)

    def _window(self, hours: int) -> Window:
        if not 1 <= hours <= MOST_HOURS:
            raise ValueError(f"hours is from 1 to {MOST_HOURS}")
        return window_of(hour_of(self._clock.now()), hours)

    async def _counts(self, window: Window, *, hourly: bool = False) -> Counts:
        since, until = int(window.since // HOUR), int(window.until // HOUR)
        return await self._store.counts(since=since, until=until, hourly=hourly)
