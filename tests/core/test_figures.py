from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.counting import Kind, merged
from mlproducer.core.figures import costs_of, delivery_of, hourly_of, latency_of, summary_of, window_of
from mlproducer.rows import CountKey, Counts

HOUR = 500_000
WINDOW = window_of(HOUR, 3)
BUCKETS = ["0.005", "0.1", "+Inf"]
LABELS = {
    Kind.CONFIRMED: BUCKETS,
    Kind.PUBLISHED: BUCKETS,
    Kind.WORKED: ["0.05", "60.0"],
    Kind.DEAD: ["nacked", "returned"],
    Kind.RETRIED: ["nacked", "connection_lost"],
    Kind.FINISHED: ["succeeded", "failed", "revoked"],
    Kind.COST: ["", "small"],
    Kind.CHARGED: ["", "small"],
}


def counted(*facts: tuple[str, str, int] | tuple[str, str, int, str] | tuple[str, str, int, str, int]) -> Counts:
    """kind, label, number, and perhaps task type and hour."""
    return {
        CountKey(hour, task_type, str(kind), label): number
        for kind, label, number, task_type, hour in map(_whole, facts)
    }


def _whole(fact: tuple[object, ...]) -> tuple[Any, ...]:
    return (*fact, *("embed_vectors", HOUR)[len(fact) - 3 :])


def _key(kind: Kind) -> list[CountKey]:
    types = ("a", "transcribe_whisper")
    labels = LABELS.get(kind, [""])
    return [CountKey(HOUR - ago, name, str(kind), label) for ago in range(3) for name in types for label in labels]


HISTORIES = st.dictionaries(
    st.sampled_from([key for kind in Kind for key in _key(kind)]), st.integers(1, 10**9), max_size=15
)


@given(HISTORIES, HISTORIES)
def test_figures_of_two_instances_add_up(a: dict[CountKey, int], b: dict[CountKey, int]) -> None:
    one, two, both = (summary_of(counts, WINDOW).total for counts in (a, b, merged([a, b])))
    for name in ("accepted", "confirmed", "dead_lettered", "refused", "spooled", "retries", "succeeded", "cost"):
        assert getattr(both, name) == getattr(one, name) + getattr(two, name)


@given(HISTORIES)
def test_types_and_hours_each_add_up_to_the_whole(counts: dict[CountKey, int]) -> None:
    found, hourly = summary_of(counts, WINDOW), hourly_of(counts, WINDOW, None)
    costs = costs_of(counts, WINDOW)
    for name in ("accepted", "confirmed", "dead_lettered", "retries", "failed", "revoked", "cost"):
        whole = getattr(found.total, name)
        assert sum(getattr(figures, name) for figures in found.by_type.values()) == whole
        assert sum(getattr(hour.figures, name) for hour in hourly.hours) == whole
    assert [hour.at for hour in hourly.hours] == [(HOUR - 2 + n) * 3_600 for n in range(3)]
    assert costs.total.cost == found.total.cost == sum(cost.cost for cost in costs.by_model.values())
    assert costs.total.cost == sum(each.cost for each in costs.by_hour) == sum(c.cost for c in costs.by_type.values())


@given(HISTORIES)
def test_the_delivery_ratio_is_a_share_and_one_only_if_nothing_is_missing(counts: dict[CountKey, int]) -> None:
    found = delivery_of(counts, WINDOW).total
    if found.delivery_ratio is None:
        assert found.accepted == found.confirmed == found.dead_lettered == 0
    else:
        assert 0 <= found.delivery_ratio <= 1
        if found.delivery_ratio == 1:
            assert found.pending == found.dead_lettered == 0


def test_tasks_that_wait_lower_the_ratio_while_they_wait() -> None:
    found = summary_of(counted((Kind.ACCEPTED, "", 10), (Kind.CONFIRMED, "0.005", 7), (Kind.DEAD, "nacked", 1)), WINDOW)
    assert (found.total.pending, found.total.delivery_ratio) == (2, 0.7)


def test_confirms_of_what_the_window_did_not_see_accepted_do_not_raise_it_above_one() -> None:
    found = delivery_of(counted((Kind.CONFIRMED, "0.005", 9), (Kind.DEAD, "expired", 1)), WINDOW)
    assert (found.total.pending, found.total.delivery_ratio) == (0, 0.9)


def test_reasons_are_listed_the_most_frequent_first() -> None:
    counts = counted(
        (Kind.RETRIED, "nacked", 2),
        (Kind.RETRIED, "connection_lost", 9),
        (Kind.DEAD, "returned", 1),
        (Kind.SPOOLED, "eta", 3),
        (Kind.REFUSED, "InvalidTask", 4, "unknown"),
    )
    found = delivery_of(counts, WINDOW)
    assert list(found.total.retries.items()) == [("connection_lost", 9), ("nacked", 2)]
    assert found.total.dead_letters == {"returned": 1}
    assert found.by_type["embed_vectors"].spooled == {"eta": 3}
    assert found.by_type["embed_vectors"].refused == {}
    assert list(found.by_type) == ["embed_vectors", "unknown"]
    assert found.total.refused == {"InvalidTask": 4}


def test_latency_tells_three_times_apart() -> None:
    counts = counted(
        (Kind.PUBLISHED, "0.005", 10),
        (Kind.PUBLISHED_MICROS, "", 40_000),
        (Kind.CONFIRMED, "60.0", 10),
        (Kind.CONFIRMED_MICROS, "", 10 * 45_000_000),
        (Kind.WORKED, "10.0", 1),
    )
    found = latency_of(counts, WINDOW).by_type["embed_vectors"]
    assert found.publish.average == pytest.approx(0.004)
    assert found.accept_to_confirm.average == 45
    assert found.accept_to_confirm.p99 is not None
    assert 30 < found.accept_to_confirm.p99 <= 60
    assert found.work.count == 1


def test_hourly_can_be_of_one_task_type() -> None:
    counts = counted((Kind.ACCEPTED, "", 1, "a", HOUR), (Kind.ACCEPTED, "", 2, "b", HOUR - 1))
    assert [hour.figures.accepted for hour in hourly_of(counts, WINDOW, "b").hours] == [0, 2, 0]


def test_costs_are_of_the_types_that_are_asked_for() -> None:
    nano = 1_000_000_000
    counts = counted(
        (Kind.COST, "large", 3 * nano, "transcribe_whisper", HOUR - 1),
        (Kind.CHARGED, "large", 2, "transcribe_whisper", HOUR - 1),
        (Kind.COST, "", nano // 2, "embed_vectors", HOUR),
        (Kind.CHARGED, "", 1, "embed_vectors", HOUR),
    )
    found = costs_of(counts, WINDOW)
    assert found.total.cost == Decimal("3.5")
    assert {name: str(cost.cost) for name, cost in found.by_model.items()} == {
        "embed_vectors": "0.5",
        "transcribe_whisper/large": "3",
    }
    assert found.by_type["transcribe_whisper"].average == Decimal("1.5")
    assert [(each.at // 3_600, str(each.cost)) for each in found.by_hour] == [(HOUR - 1, "3"), (HOUR, "0.5")]
    only = costs_of(counts, WINDOW, lambda name: name.startswith("transcribe"))
    assert (str(only.total.cost), only.total.reports, list(only.by_type)) == ("3", 2, ["transcribe_whisper"])
    assert costs_of({}, WINDOW).total.average is None


def test_a_window_ends_with_the_running_hour() -> None:
    assert (WINDOW.since, WINDOW.until, WINDOW.hours) == ((HOUR - 2) * 3_600, (HOUR + 1) * 3_600, 3)
