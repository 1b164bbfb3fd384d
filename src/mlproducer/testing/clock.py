"""Clocks for tests: one that stands still until the test moves it, and one that is wrong."""

from __future__ import annotations

from mlproducer.clock import SystemClock


class ManualClock:
    """`ports.Clock` for tests: time moves by `advance`, chance is the number you give."""

    def __init__(self, now: float = 1_800_000_000.0, rand: float = 0.5) -> None:
        self._monotonic = 1_000.0
        self._now = now
        self.rand = rand

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> float:
        return self._now

    def random(self) -> float:
        return self.rand

    def advance(self, seconds: float) -> None:
        """Move both clocks by the same amount."""
        self._monotonic += seconds
        self._now += seconds

    def set_wall(self, by: float) -> None:
        """Somebody sets the wall clock forward by so many seconds, or back; no time passes."""
        self._now += by


class WrongClock(SystemClock):
    """`ports.Clock` of a host whose wall clock is `ahead` by so many seconds; it may be set at any time."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now(self) -> float:
        return SystemClock.now() + self.ahead
