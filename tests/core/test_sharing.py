from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.sharing import EAGERNESS, in_order, most_more, within_share

ROUTES = [f"ml.{n}" for n in range(7)]


def test_another_route_is_the_first_one_each_time() -> None:
    assert [in_order(["b", "c", "a"], turn) for turn in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]
    assert in_order([], 1) == []


@given(count=st.integers(1, 7), room=st.integers(1, 6), first=st.integers(0, 1_000))
def test_no_route_starves_however_small_the_room_is(count: int, room: int, first: int) -> None:
    turns = [in_order(ROUTES[:count], first + n) for n in range(count)]
    assert {route for turn in turns for route in turn[:room]} == set(ROUTES[:count])
    assert all(sorted(turn) == ROUTES[:count] for turn in turns)


@given(stuck=st.integers(1, 20), window=st.integers(1, 2_000))
def test_routes_that_take_all_they_may_side_by_side_leave_their_share_to_the_next_one(stuck: int, window: int) -> None:
    taken = [0] * stuck
    while within_share(least := min(taken), window - sum(taken)):
        taken[taken.index(least)] += 1
    free = window - sum(taken)
    assert free >= window // (1 + stuck * EAGERNESS)


def test_routes_that_flood_one_after_the_other_leave_room_for_a_seventh() -> None:
    free = 5_000
    for _ in range(6):
        free -= most_more(0, free)
    assert free == 7
    assert within_share(0, free)


@given(taken=st.integers(0, 1_000), free=st.integers(0, 1_000))
def test_all_that_a_route_may_take_at_once_it_may_take_one_by_one(taken: int, free: int) -> None:
    more, free_before = most_more(taken, free), free
    for n in range(more):
        assert within_share(taken + n, free_before - n)
