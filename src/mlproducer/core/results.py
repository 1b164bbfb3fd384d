"""What a worker reports of a task, and what that adds to the counters.

Reports come twice: a worker asks again after an answer that was lost, a task is delivered again, or Celery's events
and the worker's own report tell the same. So a report is a tally with an id of its own. A task finishes once, and costs
once for each part that its worker tells apart; whatever is said again of the same part adds nothing.

Money is a `Decimal` outside and a whole number of nanos (10⁻⁹) where it is added up. Never a float: 0.1 + 0.2 is not
0.3 there. Nanos, because one token of a cheap model costs less than a millionth.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Final

from msgspec import Struct

from mlproducer.core.counting import MICROS, WORK_BOUNDS, Kind, bucket_of, hour_of
from mlproducer.rows import CountKey, Tally

MOST_COST: Final = Decimal(10_000)
"""Of one report: so that a sum of one hour stays far from what 64 bits hold."""
_NANOS: Final = 1_000_000_000


class ResultStatus(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVOKED = "revoked"
    """Not run: it was revoked, or had expired when a worker took it."""


class TaskResult(Struct, frozen=True):
    """`at` is Unix seconds, `duration` seconds of work; without a `status` nothing is said of how it ended."""

    task_id: str
    task_type: str
    at: float
    status: ResultStatus | None = None
    duration: float | None = None
    cost: Decimal | None = None
    model: str = ""
    """Which model or service the cost is of."""
    part: str = ""
    """Which of several costs of the task this one is."""


def tallies_of(result: TaskResult, keep: float) -> list[Tally]:
    """A tally for how it ended and one for what it cost, as far as it tells. `keep`: seconds that they are known."""
    hour, found = hour_of(result.at), []

    def key(kind: Kind, label: str = "") -> CountKey:
        return CountKey(hour, result.task_type, kind, label)

    if result.status is not None:
        counts = {key(Kind.FINISHED, result.status): 1}
        if result.duration is not None:
            counts[key(Kind.WORKED, bucket_of(result.duration, WORK_BOUNDS))] = 1
            counts[key(Kind.WORKED_MICROS)] = round(result.duration * MICROS)
        found.append(Tally(f"finish:{result.task_id}", keep, counts))
    if result.cost is not None:
        counts = {key(Kind.COST, result.model): nanos(result.cost), key(Kind.CHARGED, result.model): 1}
        found.append(Tally(f"cost:{result.task_id}:{result.part}", keep, counts))
    return found


def nanos(amount: Decimal) -> int:
    """To the nearest nano. Raises: ValueError, unless it is 0 to `MOST_COST`."""
    if not (amount.is_finite() and 0 <= amount <= MOST_COST):
        raise ValueError(f"a cost is a number from 0 to {MOST_COST}")
    return int((amount * _NANOS).to_integral_value(ROUND_HALF_EVEN))


def amount_of(number: int) -> Decimal:
    """Nanos as a decimal without needless zeros: 0.0042. For people, `plain` it: Python writes small ones as 1E-9."""
    whole, rest = divmod(number, _NANOS)
    return Decimal(f"{whole}.{rest:09}".rstrip("0").rstrip("."))


def plain(amount: Decimal) -> str:
    """As text without an exponent."""
    return f"{amount:f}"
