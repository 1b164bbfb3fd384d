"""How long calls took: the 99th percentile of those with nothing broken, and of those beside something that is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlproducer.reliability.stage import Call

WITHIN: Final = 2.0
"""Times as long as with nothing broken."""
FLOOR: Final = 0.25
"""Seconds that are always well: a machine that does something else for a moment adds as much to any call. A call that
waits for what is broken takes as long as a confirm is waited for, which is seconds."""
BUSY: Final = 0.1
"""Seconds. Undisturbed calls take some milliseconds; where they take as long, the machine does so much else that no two
spans of time can be compared."""


def p99(calls: Iterable[Call]) -> float:
    """Seconds that 99 of 100 took at most; 0 of none."""
    seconds = sorted(call.took for call in calls)
    return round(seconds[int(len(seconds) * 0.99)], 4) if seconds else 0.0


def is_near(disturbed: float, undisturbed: float) -> bool:
    """The one is within `WITHIN` times of the other, or under `FLOOR`, or nobody can tell."""
    return undisturbed > BUSY or disturbed <= max(WITHIN * undisturbed, FLOOR)
