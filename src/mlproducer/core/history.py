"""The history of a row: what each attempt came to, bounded.

The first attempt says how the trouble began, the last ones say what it is now; what is between is let go, because a
task that waits through a long outage would else carry a line for each lost connection.
"""

from __future__ import annotations

from typing import Final

from mlproducer.outcome import NotSent, Outcome, Returned
from mlproducer.rows import Attempted, History

HISTORY_KEPT: Final = 20
TEXT_KEPT: Final = 300
"""Characters of an error in one entry; the row itself keeps the last one whole."""


def attempted(outcome: Outcome, label: str, text: str, *, at: float) -> Attempted:
    """One attempt's line. `label` and `text` are what the retry decision said of it."""
    code = outcome.code if isinstance(outcome, Returned | NotSent) else None
    return Attempted(at, label, code, text[:TEXT_KEPT])


def with_attempt(history: History, attempt: Attempted) -> History:
    """`history` and `attempt`, at most `HISTORY_KEPT` long: the first stays, the oldest after it goes."""
    if len(history) < HISTORY_KEPT:
        return (*history, attempt)
    return (history[0], *history[2:], attempt)
