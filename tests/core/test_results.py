from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.counting import merged
from mlproducer.core.results import MOST_COST, ResultStatus, TaskResult, amount_of, nanos, plain, tallies_of
from mlproducer.rows import CountKey

HOUR = 500_000
AT = HOUR * 3_600 + 12.5
AMOUNTS = st.decimals(0, MOST_COST, places=9)


@given(AMOUNTS)
def test_money_comes_back_as_it_went_in(amount: Decimal) -> None:
    assert amount_of(nanos(amount)) == amount
    assert Decimal(plain(amount_of(nanos(amount)))) == amount


@given(st.lists(AMOUNTS))
def test_money_adds_up_exactly(amounts: list[Decimal]) -> None:
    assert amount_of(sum(map(nanos, amounts))) == sum(amounts)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (1, "0.000000001"), (4_200_000, "0.0042"), (10_000_000_000, "10"), (10**19, "10000000000")],
)
def test_money_is_shown_without_needless_zeros(number: int, text: str) -> None:
    assert plain(amount_of(number)) == text


@pytest.mark.parametrize("text", ["-0.01", "10000.01", "NaN", "Infinity", "-Infinity", "sNaN"])
def test_what_is_no_cost_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="0 to 10000"):
        nanos(Decimal(text))


def test_less_than_a_nano_is_rounded() -> None:
    assert [nanos(Decimal(text)) for text in ("0.0000000004", "0.0000000005", "0.0000000006")] == [0, 0, 1]


def test_a_finish_and_a_cost_are_tallies_of_their_own() -> None:
    result = TaskResult("t1", "embed_vectors", AT, ResultStatus.SUCCEEDED, 0.3, Decimal("0.0042"), "small", "2")
    finish, cost = tallies_of(result, 5.0)

    def key(kind: str, label: str = "") -> CountKey:
        return CountKey(HOUR, "embed_vectors", kind, label)

    assert (finish.id, cost.id) == ("finish:t1", "cost:t1:2")
    assert finish.keep == cost.keep == 5.0
    assert finish.counts == {key("finished", "succeeded"): 1, key("worked", "0.5"): 1, key("worked_micros"): 300_000}
    assert cost.counts == {key("cost", "small"): 4_200_000, key("charged", "small"): 1}


def test_what_is_not_told_is_not_counted() -> None:
    (finish,) = tallies_of(TaskResult("t1", "embed_vectors", AT, ResultStatus.FAILED), AT)
    assert finish.counts == {CountKey(HOUR, "embed_vectors", "finished", "failed"): 1}
    (cost,) = tallies_of(TaskResult("t1", "embed_vectors", AT, duration=1.0, cost=Decimal(0)), AT)
    assert cost.id == "cost:t1:"
    assert tallies_of(TaskResult("t1", "embed_vectors", AT), AT) == []


def test_the_same_report_makes_the_same_tally() -> None:
    result = TaskResult("t1", "embed_vectors", AT, ResultStatus.FAILED, 2.0, Decimal(1))
    assert tallies_of(result, AT) == tallies_of(result, AT)
    assert sum(merged(each.counts for each in tallies_of(result, AT)).values()) == 1 + 1 + 2_000_000 + 10**9 + 1
