from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.pacing import FIRST_BATCH, Pace


def pace(*, batch: int = 500, most: int = 2_500, rate: float = 0.0) -> Pace:
    return Pace(batch=batch, most=most, rate=rate)


def batches(paced: Pace, count: int, *, well: bool = True) -> list[int]:
    sizes = []
    for _ in range(count):
        size = paced.take(0.0)
        paced.started(size)
        paced.ended(size, well=well)
        sizes.append(size)
    return sizes


def test_a_recovering_broker_is_given_more_with_each_batch_that_goes_well() -> None:
    assert batches(pace(), 6) == [50, 100, 200, 400, 500, 500]


def test_a_batch_that_does_not_go_well_halves_the_next_down_to_one_task() -> None:
    assert batches(pace(), 8, well=False) == [50, 25, 12, 6, 3, 1, 1, 1]


@pytest.mark.parametrize("well", [True, False])
def test_a_batch_gives_its_room_back_however_it_went(*, well: bool) -> None:
    some = pace(most=10)
    some.started(10)
    assert some.take(0.0) == 0
    some.ended(10, well=well)
    assert some.take(0.0) > 0


def test_a_new_link_begins_slowly_again() -> None:
    paced = pace()
    batches(paced, 5)
    paced.restart()
    assert paced.take(0.0) == FIRST_BATCH


def test_a_small_batch_setting_bounds_the_first_batch_too() -> None:
    assert batches(pace(batch=10), 2) == [10, 10]


def test_new_tasks_keep_their_share_of_the_window() -> None:
    paced = pace(most=70)
    paced.started(paced.take(0.0))
    assert paced.take(0.0) == 20
    paced.started(20)
    assert paced.take(0.0) == 0
    paced.ended(20, well=True)
    assert paced.take(0.0) == 20


def test_the_rate_holds_over_any_second() -> None:
    paced = pace(rate=100.0)
    sent: list[tuple[float, int]] = []
    for step in range(1_000):
        now = step / 100
        count = paced.take(now)
        paced.started(count)
        paced.ended(count, well=True)
        sent.append((now, count))
    after_the_first_second = sum(count for now, count in sent if now >= 1)
    assert abs(after_the_first_second - 900) <= 1


@given(st.floats(0.1, 500), st.lists(st.floats(0, 1_000), max_size=20))
def test_a_pause_is_not_made_up_for_however_long(rate: float, pauses: list[float]) -> None:
    """At most one second's worth at once, and one task at least."""
    paced, now = pace(rate=rate, batch=10_000, most=10_000), 0.0
    for pause in pauses:
        now += pause
        count = paced.take(now)
        assert count <= max(1.0, rate)
        paced.started(count)
        paced.ended(count, well=True)


def test_the_wait_is_until_the_rate_admits_one_more() -> None:
    paced = pace(rate=10.0)
    assert paced.wait(0.0) == 0.0
    count = paced.take(0.0)
    paced.started(count)
    assert count == 10
    assert paced.wait(0.0) == 0.1
    assert paced.take(0.1) == 1
    assert pace().wait(0.0) == 0.0, "no rate, no wait"


def test_a_pace_says_what_it_knows() -> None:
    assert repr(pace()) == "<Pace size=50 in_flight=0 tokens=1.0>"


@given(
    st.integers(1, 1_000),
    st.integers(1, 1_000),
    st.lists(st.tuples(st.sampled_from(["start", "well", "badly", "restart"]), st.floats(0, 2)), max_size=60),
)
def test_never_more_than_the_share_is_in_flight_and_never_is_the_drain_stuck(
    batch: int, most: int, steps: list[tuple[str, float]]
) -> None:
    paced = pace(batch=batch, most=most)
    flying: list[int] = []
    now = 0.0
    for step, later in steps:
        now += later
        if step == "start":
            count = paced.take(now)
            paced.started(count)
            flying.append(count)
        elif step == "restart":
            paced.restart()
        elif flying:
            paced.ended(flying.pop(), well=step == "well")
        assert sum(flying) <= most
    while flying:
        paced.ended(flying.pop(), well=False)
    assert 1 <= paced.take(now) <= batch
