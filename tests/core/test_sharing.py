from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.sharing import shares

ROUTES = [f"ml.{n}" for n in range(7)]


def test_the_room_is_shared_evenly_and_what_is_over_goes_round() -> None:
    assert shares(["a", "b", "c"], 30, 0) == {"a": 10, "b": 10, "c": 10}
    assert shares(["a", "b"], 3, 0) == {"a": 2, "b": 1}
    assert shares(["a", "b"], 3, 1) == {"b": 2, "a": 1}
    assert shares([], 3, 1) == {}
    assert shares(["a"], 0, 1) == {}


@given(count=st.integers(1, 7), room=st.integers(0, 40), turn=st.integers(0, 1_000))
def test_nothing_of_the_room_is_lost_and_nobody_has_two_more_than_another(count: int, room: int, turn: int) -> None:
    given_to = shares(ROUTES[:count], room, turn)
    assert sum(given_to.values()) == room
    sizes = [given_to.get(route, 0) for route in ROUTES[:count]]
    assert max(sizes) - min(sizes) <= 1


@given(count=st.integers(1, 7), room=st.integers(1, 6), first=st.integers(0, 1_000))
def test_no_route_starves_however_small_the_room_is(count: int, room: int, first: int) -> None:
    turns = [shares(ROUTES[:count], room, first + n) for n in range(count)]
    got = Counter(route for turn in turns for route in turn)
    assert set(got) == set(ROUTES[:count])
