"""What the tests of faults share: quick settings, and the bound on duplicates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlproducer.delivery.drain import LANES
from places import Places, final_places
from producers import Told

CALLERS = 50
BATCH = 50
IN_FLIGHT = CALLERS + LANES * BATCH
"""Tasks that one producer has under way: one a caller, and the drain's batches."""

FAST: dict[str, Any] = {
    "ml_reconnect_first": 0.05,
    "ml_reconnect_cap": 0.2,
    "ml_reconnect_attempts": 1_000,
    "ml_breaker_failures": 1_000,
    "ml_retry_first": 0.05,
    "ml_retry_cap": 0.1,
    "ml_drain_poll": 0.05,
    "ml_drain_batch": BATCH,
}
SHARED: dict[str, Any] = {
    # The dead leave leases and claims in a shared spool; they end when their time is over.
    "ml_confirm_timeout": 2.0,
    "ml_drain_lease": 2.5,
    "ml_accept_timeout": 2.5,
}


def say(text: str) -> None:
    """Figures, for who runs pytest with -s."""
    sys.stdout.write(f"\n{text}\n")


def nothing_lost(told: Told, url: str, spool: Path | str, *, kills: int, faults: Sequence[float] = ()) -> Places:
    """After the last producer drained the spool: each accepted task is in the queue, which is empty now.

    `faults` are times, to be shown beside those of lost tasks.
    """
    where = final_places(url, spool)
    lost = {each: (told.accepted[each], told.accepted_at[each]) for each in where.lost(told.accepted)}
    say(
        f"{kills} kills: {len(told.called)} called, {len(told.accepted)} accepted, {len(lost)} lost, "
        f"{where.duplicates} duplicates"
    )
    assert told.accepted
    assert not lost, f"what their callers were told, and when; faults at {faults}"
    assert not where.spool
    assert not where.dead
    assert set(where.queues) <= told.called, "nothing that nobody asked for, and duplicates have their first's id"
    assert where.duplicates <= kills * IN_FLIGHT, "no more than were in flight at each kill"
    return where
