"""Exponential back-off with random jitter added on top.

    delay(attempt, rand) = min(first * 2**(attempt - 1), cap) * (1 + jitter * rand)        rand in [0, 1)

Jitter is added after the cap, so that a thousand producers that have all reached the cap still spread out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_FURTHEST: Final = 1_000
"""Doublings after which any cap is long reached; bounds the exponent, so that attempt 10**6 does not overflow."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first` and `cap` in seconds; `jitter` as a share of the delay, 0.3 is up to 30 % more."""

    first: float
    cap: float
    jitter: float

    def delay(self, attempt: int, rand: float) -> float:
        """Seconds to wait after `attempt` failures, counted from 1. Raises: ValueError below 1."""
        if attempt < 1:
            raise ValueError(f"attempts count from 1, not {attempt}")
        doublings = attempt - 1
        grown = self.cap if doublings > _FURTHEST else self.first * 2.0**doublings
        return min(grown, self.cap) * (1 + self.jitter * rand)
