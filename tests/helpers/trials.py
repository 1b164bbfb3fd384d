"""What the tests of faults share: quick settings, the judge's question, and the bound on duplicates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlproducer.delivery.drain import LANES
from mlproducer.reliability.judge import Ledger, Verdict, judge
from mlproducer.reliability.judge import Places as Found
from places import final_places
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


def nothing_lost(told: Told, url: str, spool: Path | str, *, kills: int, faults: Sequence[float] = ()) -> Verdict:
    """After the last producer drained the spool: the judge finds no fault, and all is in the queue, which is empty now.

    `faults` are times, to be shown beside those of lost tasks.
    """
    ledger = ledger_of(told, kills)
    where = final_places(url, spool)
    verdict = judge(ledger, Found(where.messages))
    whole = {message.task_id for message in where.messages if ledger.is_whole(message)}
    lost = {each: (told.accepted[each], told.accepted_at[each]) for each in told.accepted.keys() - whole}
    say(
        f"{kills} kills: {len(told.called)} called, {verdict.accepted} accepted, {verdict.lost} lost, "
        f"{verdict.duplicated} duplicates, {told.unsure.total()} unsure attempts {dict(told.causes)}"
    )
    assert told.accepted
    assert not where.spool
    assert not where.dead
    assert not verdict.faults(), f"lost, what their callers were told, and when: {lost}; faults at {faults}"
    assert verdict.duplicated <= kills * IN_FLIGHT + told.unsure.total(), "no more than were in flight at each kill"
    return verdict


def ledger_of(told: Told, kills: int) -> Ledger:
    """Each kill may have met an attempt of a task that waited in the spool or was not answered, whoever drained it; of
    one that was confirmed to its first caller it cannot.
    """
    ledger = Ledger()
    for task_id, digest in told.called.items():
        ledger.called(task_id, digest)
    for task_id in told.accepted.keys() - told.doubtful:
        ledger.told(task_id, told.accepted[task_id])
    for _ in range(kills):
        ledger.interrupted()
    for task_id, state in told.accepted.items():
        ledger.told(task_id, state)
    for task_id in told.confirmed:
        ledger.confirmed_later(task_id)
    for task_id in told.unsure.elements():
        ledger.unsure(task_id)
    return ledger
