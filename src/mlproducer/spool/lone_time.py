"""The time of a store that one machine has for itself (docs/adr/0015).

Its clock has two hands. **Spans** (delays, leases, claims, how long something is kept) are measured by the machine's
monotonic clock, which nobody can set and which all processes of the machine share. **UTC** (an `eta`, an `expires`)
is what the wall clock says, since nothing here knows it better.

What is stored is of the first hand: the monotonic clock and `origin`. When a store is new, that is what the wall clock
says too. If the wall clock is set later, `skew` is how far it is from the store's time: moments that are shown are put
forward by it, moments that come in from outside are put back by it, and rows that wait for their `eta` are put right.
"""

from __future__ import annotations

from typing import Final

from mlproducer.ports import Clock

STEP: Final = 1.0
"""Seconds by which the wall clock must have moved by itself to count as set: less than that no `eta` minds."""


class LoneTime:
    def __init__(self, clock: Clock, origin: float | None = None, skew: float = 0.0) -> None:
        self._clock = clock
        self.origin = clock.now() - clock.monotonic() if origin is None else origin
        self.skew = skew

    def now(self) -> float:
        """Goes on at one pace, whatever happens to the wall clock."""
        return self._clock.monotonic() + self.origin

    def utc(self) -> float:
        """To compare with an `expires_at`, which is stored as it was given."""
        return self._clock.now()

    def kept(self, moment: float) -> float:
        """A moment of the wall clock, as it is stored."""
        return moment - self.skew

    def told(self, moment: float) -> float:
        """A stored moment, as the wall clock has it."""
        return moment + self.skew

    def due(self, delay: float, eta: float | None) -> float:
        """When a row that comes now is due, as it is stored."""
        due = self.now() + delay
        return due if eta is None else max(due, self.kept(eta))

    def step(self) -> float | None:
        """The new skew, if the wall clock was set; else None. Stopped between the two clocks, we look again later."""
        before = self.now()
        skew = self._clock.now() - before
        set_ = abs(skew - self.skew) > STEP
        return skew if set_ and self.now() - before < STEP / 2 else None
