"""A clock that stands still until the test moves it."""

from __future__ import annotations


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
