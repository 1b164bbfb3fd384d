from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.budget import Budget, BudgetState, Limits, budget_of, first_hour_of_day
from mlproducer.rows import CountKey

MIDNIGHT = 24 * 20_000
NOON = MIDNIGHT + 12
NANOS = 1_000_000_000


def spent(*costs: tuple[int, str]) -> dict[CountKey, int]:
    """Hour and amount."""
    return {CountKey(hour, f"type {n}", "cost"): int(Decimal(cost) * NANOS) for n, (hour, cost) in enumerate(costs)}


def limits(hourly: str | None = None, daily: str | None = None) -> Limits:
    return Limits(hourly and Decimal(hourly), daily and Decimal(daily), Decimal("0.8"))  # type: ignore[arg-type]  # None


def states(budget: Budget) -> tuple[str, str, str]:
    return budget.state, budget.hourly.state, budget.daily.state


@pytest.mark.parametrize(
    ("amount", "state"), [("0", "ok"), ("7.99", "ok"), ("8", "warn"), ("10", "warn"), ("10.000000001", "exceeded")]
)
def test_a_budget_warns_before_it_is_exceeded(amount: str, state: str) -> None:
    budget = budget_of(spent((NOON, amount)), NOON, limits(hourly="10"))
    assert states(budget) == (state, state, "unlimited")
    assert budget.hourly.left == Decimal(10) - Decimal(amount)
    assert budget.hourly.share == pytest.approx(float(amount) / 10)


def test_the_hour_counts_its_own_costs_and_the_day_all_of_its_hours() -> None:
    counts = spent((MIDNIGHT, "1"), (NOON - 1, "2"), (NOON, "4"))
    counts[CountKey(NOON, "type", "charged")] = 3
    budget = budget_of(counts, NOON, limits(hourly="5", daily="5"))
    assert (budget.hourly.spent, budget.daily.spent) == (Decimal(4), Decimal(7))
    assert states(budget) == ("exceeded", "warn", "exceeded")
    assert budget.daily.left == -2
    assert budget.warn_share == 0.8


def test_the_worse_of_the_two_is_the_state() -> None:
    assert budget_of(spent((NOON, "9")), NOON, limits("5", "100")).state is BudgetState.EXCEEDED
    assert budget_of({}, NOON, limits(None, "100")).state is BudgetState.OK
    assert budget_of({}, NOON, limits()).state is BudgetState.UNLIMITED


def test_without_a_limit_nothing_is_left_or_shared() -> None:
    budget = budget_of(spent((NOON, "9")), NOON, limits())
    assert (budget.daily.spent, budget.daily.limit, budget.daily.left, budget.daily.share) == (
        Decimal(9),
        None,
        None,
        None,
    )


def test_a_budget_of_nothing_is_exceeded_by_anything() -> None:
    nothing = Limits(Decimal(0), None, Decimal("0.8"))
    assert budget_of({}, NOON, nothing).state is BudgetState.OK
    found = budget_of(spent((NOON, "0.000000001")), NOON, nothing).hourly
    assert (found.state, found.share) == (BudgetState.EXCEEDED, None)


@given(st.integers(0, 10**6))
def test_budgets_begin_and_end_with_hours_and_days_of_utc(hour: int) -> None:
    budget = budget_of({}, hour, limits())
    assert budget.hourly.since == hour * 3_600
    assert budget.hourly.resets_at == budget.hourly.since + 3_600
    assert budget.daily.since % 86_400 == 0
    assert budget.daily.since <= budget.hourly.since < budget.daily.resets_at == budget.daily.since + 86_400
    assert first_hour_of_day(hour) * 3_600 == budget.daily.since
