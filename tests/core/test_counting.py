from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.counting import (
    ACCEPT_BOUNDS,
    PUBLISH_BOUNDS,
    WORK_BOUNDS,
    bucket_of,
    growth,
    hour_of,
    merged,
    over_all_hours,
    quantile,
    spread_of,
)
from mlproducer.rows import CountKey

KEYS = [CountKey(hour, name, "dead", label) for hour in range(3) for name in "ab" for label in ("", "x")]
COUNTS = st.dictionaries(st.sampled_from(KEYS), st.integers(1, 10**12), max_size=8)
SECONDS = st.floats(0, 5_000, allow_nan=False)


@given(COUNTS, COUNTS, COUNTS)
def test_sums_are_the_same_in_whatever_order_and_groups_they_are_added(
    a: dict[CountKey, int], b: dict[CountKey, int], c: dict[CountKey, int]
) -> None:
    whole = merged([a, b, c])
    assert merged([merged([a, b]), c]) == merged([a, merged([b, c])]) == merged([c, a, b]) == whole
    assert sum(whole.values()) == sum(a.values()) + sum(b.values()) + sum(c.values())
    assert merged([a, {}]) == a


@given(COUNTS, COUNTS)
def test_what_grew_and_what_was_are_what_is(before: dict[CountKey, int], more: dict[CountKey, int]) -> None:
    after = merged([before, more])
    assert growth(before, after) == more
    assert growth(after, after) == {}


@given(COUNTS, COUNTS)
def test_instances_that_each_sum_over_the_hours_come_to_the_same_sum(
    a: dict[CountKey, int], b: dict[CountKey, int]
) -> None:
    assert over_all_hours(merged([a, b]), 0) == merged([over_all_hours(a, 0), over_all_hours(b, 0)])
    assert {key.hour for key in over_all_hours(a, 7)} <= {7}


@pytest.mark.parametrize(("seconds", "hour"), [(0, 0), (3_599.999, 0), (3_600, 1), (1_800_000_000.5, 500_000)])
def test_hours_begin_with_their_first_second(seconds: float, hour: int) -> None:
    assert hour_of(seconds) == hour


@given(SECONDS)
def test_an_observation_is_in_the_lowest_bucket_that_holds_it(value: float) -> None:
    label = bucket_of(value, WORK_BOUNDS)
    assert value <= float(label)
    assert float(label) == inf or float(label) in WORK_BOUNDS
    assert all(value > bound for bound in WORK_BOUNDS if bound < float(label))


@given(st.lists(SECONDS, min_size=1), st.sampled_from([PUBLISH_BOUNDS, ACCEPT_BOUNDS, WORK_BOUNDS]))
def test_a_spread_tells_count_average_and_ordered_percentiles(values: list[float], bounds: tuple[float, ...]) -> None:
    buckets = merged({bucket_of(value, bounds): 1} for value in values)
    spread = spread_of(buckets, round(sum(values) * 1e6), bounds)
    assert spread.count == len(values)
    assert spread.average == pytest.approx(sum(values) / len(values), abs=1e-5)
    assert spread.p50 is not None
    assert spread.p95 is not None
    assert spread.p99 is not None
    assert spread.p50 <= spread.p95 <= spread.p99
    # The median is in the bucket of the true one, also where the buckets below it are empty and so not stored.
    true = sorted(values)[(len(values) + 1) // 2 - 1]
    low = max((bound for bound in bounds if bound < true), default=0.0)
    assert low <= spread.p50 <= min(float(bucket_of(true, bounds)), bounds[-1])


@given(st.lists(SECONDS, min_size=1), st.lists(SECONDS))
def test_the_spread_of_two_instances_is_that_of_all_observations(a: list[float], b: list[float]) -> None:
    one, two = (merged({bucket_of(value, WORK_BOUNDS): 1} for value in values) for values in (a, b))
    both = merged({bucket_of(value, WORK_BOUNDS): 1} for value in a + b)
    assert spread_of(merged([one, two]), 0, WORK_BOUNDS) == spread_of(both, 0, WORK_BOUNDS)


def test_buckets_of_other_bounds_than_todays_still_count() -> None:
    spread = spread_of({"0.3": 10, "+Inf": 1}, 0, (0.1, 1.0))
    assert spread.count == 11
    assert spread.p50 == pytest.approx(0.1 + 0.2 * 0.55)
    assert spread.p99 == 1.0


def test_nothing_observed_is_nothing_known() -> None:
    spread = spread_of({}, 0, PUBLISH_BOUNDS)
    assert (spread.count, spread.average, spread.p50, spread.p95, spread.p99) == (0, None, None, None, None)
    assert quantile({}, 0.5) is None


def test_a_quantile_is_linear_within_its_bucket_and_bounded_above_all() -> None:
    assert quantile({1.0: 0.0, 2.0: 10.0, inf: 10.0}, 0.5) == 1.5
    assert quantile({1.0: 0.0, inf: 3.0}, 0.5) == 1.0
