from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.sharing import in_order

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
