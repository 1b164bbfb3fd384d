"""What was spent against what may be spent: in the running hour and day, of UTC, because the counters are of its hours.

Nothing is refused for a budget: tasks that were accepted cost what they cost. It tells who has to decide.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final

from mlproducer.core.counting import HOUR, Kind
from mlproducer.core.results import amount_of
from mlproducer.rows import Counts

DAY_HOURS: Final = 24


class BudgetState(StrEnum):
    """From best to worst."""

    UNLIMITED = "unlimited"
    OK = "ok"
    WARN = "warn"
    EXCEEDED = "exceeded"


@dataclass(frozen=True, slots=True)
class Limits:
    """None: no limit. `warn` is the share of a limit from which on its state is `warn`."""

    hourly: Decimal | None
    daily: Decimal | None
    warn: Decimal


@dataclass(frozen=True, slots=True)
class Spent:
    """One budget. Amounts have no currency: they are in the one that workers report in. Times are Unix seconds."""

    state: BudgetState
    spent: Decimal
    limit: Decimal | None
    left: Decimal | None
    """Below zero once it is exceeded."""
    share: float | None
    """Of the limit; above 1 once it is exceeded."""
    since: float
    resets_at: float


@dataclass(frozen=True, slots=True)
class Budget:
    """`state` is the worse of the two."""

    state: BudgetState
    warn_share: float
    hourly: Spent
    daily: Spent


def first_hour_of_day(hour: int) -> int:
    return hour - hour % DAY_HOURS


def budget_of(counts: Counts, hour: int, limits: Limits) -> Budget:
    """`counts` by hour, from `first_hour_of_day(hour)` on; `hour` is the running one."""
    costs = {key: number for key, number in counts.items() if key.kind == Kind.COST}
    day = first_hour_of_day(hour)
    this_hour = (number for key, number in costs.items() if key.hour == hour)
    hourly = _spent(this_hour, limits.hourly, limits.warn, hour, 1)
    daily = _spent(costs.values(), limits.daily, limits.warn, day, DAY_HOURS)
    order = list(BudgetState)
    return Budget(max(hourly.state, daily.state, key=order.index), float(limits.warn), hourly, daily)


def _spent(numbers: Iterable[int], limit: Decimal | None, warn: Decimal, first: int, hours: int) -> Spent:
    spent = amount_of(sum(numbers))
    left = None if limit is None else limit - spent
    share = float(spent / limit) if limit else None
    return Spent(_state(spent, limit, warn), spent, limit, left, share, first * HOUR, (first + hours) * HOUR)


def _state(spent: Decimal, limit: Decimal | None, warn: Decimal) -> BudgetState:
    if limit is None:
        return BudgetState.UNLIMITED
    if spent > limit:
        return BudgetState.EXCEEDED
    return BudgetState.WARN if spent and spent >= limit * warn else BudgetState.OK
