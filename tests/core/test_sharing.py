from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.sharing import EAGERNESS, MOST_WEIGHT, Turns, divided, most_more, within_share
from mlproducer.spool.turns import quotas

ROUTES = [f"ml.{n}" for n in range(7)]
WEIGHT = st.integers(1, MOST_WEIGHT)
WEIGHTS = st.lists(WEIGHT, min_size=1, max_size=7).map(lambda weights: dict(zip(ROUTES, weights, strict=False)))


def one_round(turns: Turns, weights: dict[str, int], due: list[str], room: int) -> Counter[str]:
    """As the drain and the store do it, where each route has more than it may get."""
    order = turns.order(due)
    shares = divided(room, {key: weights[key] for key in order}, dict.fromkeys(order, room))
    got = Counter(quotas(shares, room))
    turns.took(got, weights)
    return got


# Leases


@given(WEIGHTS, st.lists(st.integers(1, 60), min_size=1, max_size=60))
def test_routes_that_always_want_more_get_by_weight_whatever_the_rooms_are(
    weights: dict[str, int], rooms: list[int]
) -> None:
    turns, had = Turns(), Counter[str]()
    for room in rooms:
        got = one_round(turns, weights, list(weights), room)
        assert got.total() == room, "nothing is left unused"
        had += got
        for key, weight in weights.items():
            fair = had.total() * weight / sum(weights.values())
            assert abs(had[key] - fair) < 2 + weight, "after each round, and not only in the long run"


@given(WEIGHTS, st.integers(1, 3), st.lists(st.sets(st.sampled_from(ROUTES[1:])), min_size=1, max_size=5))
def test_no_route_starves_however_small_the_room_is_and_whoever_comes_and_goes(
    weights: dict[str, int], room: int, absences: list[set[str]]
) -> None:
    turns, waited = Turns(), dict.fromkeys(weights, 0)
    for n in range(100):
        away = absences[n % len(absences)]
        got = one_round(turns, weights, [key for key in weights if key not in away], room)
        for key in weights:
            waited[key] = 0 if got[key] or key in away else waited[key] + 1
            assert waited[key] <= sum(weights.values()) + len(weights)


def test_who_waits_is_served_though_each_round_brings_another_new_route() -> None:
    turns, had = Turns(), Counter[str]()
    for n in range(100):
        had += one_round(turns, {f"new {n}": MOST_WEIGHT, f"new {n + 1}": 1, "waits": 1}, [f"new {n}", "waits"], 1)
    assert had["waits"] >= 100 // (1 + MOST_WEIGHT)


def test_who_was_away_gets_nothing_later_for_it_and_who_had_much_does_not_lose_the_debt_by_going_away() -> None:
    weights = {"a": 1, "b": 1}
    turns = Turns()
    for _ in range(50):
        one_round(turns, weights, ["a"], 1)
    back = [one_round(turns, weights, ["a", "b"], 1) for _ in range(10)]
    assert sum(back, Counter()) == {"a": 5, "b": 5}
    weights = {"a": 1, "b": 10}
    turns = Turns()
    assert one_round(turns, weights, ["a", "b"], 2) == {"a": 1, "b": 1}
    one_round(turns, weights, ["b"], 1)
    assert sum((one_round(turns, weights, ["a", "b"], 1) for _ in range(7)), Counter()) == {"b": 7}


def test_what_is_remembered_is_only_who_wants_some_and_who_had_too_much() -> None:
    turns = Turns()
    for n in range(1_000):
        one_round(turns, {f"r{n}": 1, "b": 1}, [f"r{n}", "b"], 2)
    assert len(turns._had) <= 3


@given(WEIGHTS, st.data(), st.integers(0, 200))
def test_nobody_gets_more_than_it_may_and_what_it_leaves_goes_to_the_others(
    weights: dict[str, int], data: st.DataObject, room: int
) -> None:
    most = {key: data.draw(st.integers(0, 60)) for key in weights}
    shares = divided(room, weights, most)
    assert all(0 <= shares[key] <= most[key] for key in weights)
    assert sum(shares.values()) == min(room, sum(most.values()))
    short = {key for key in weights if shares[key] < most[key]}
    for key in short:
        for other, weight in weights.items():
            fair = shares[key] * weight / weights[key]
            assert shares[other] <= fair + weight + len(weights), "only what others leave is more"


# Window


@given(weights=st.lists(WEIGHT, min_size=1, max_size=20), window=st.integers(100, 2_000))
def test_routes_that_take_all_they_may_side_by_side_come_to_rest_by_weight_and_leave_room_to_the_next_one(
    weights: list[int], window: int
) -> None:
    taken = [0] * len(weights)
    while True:
        free = window - sum(taken)
        able = [n for n, weight in enumerate(weights) if within_share(taken[n], free, weight)]
        if not able:
            break
        taken[min(able, key=lambda n: taken[n] / weights[n])] += 1
    total = EAGERNESS * sum(weights)
    assert window - sum(taken) >= window // (1 + total)
    for count, weight in zip(taken, weights, strict=True):
        assert abs(count - window * EAGERNESS * weight / (1 + total)) <= 1 + EAGERNESS * weight


def test_routes_that_flood_one_after_the_other_leave_room_for_a_seventh() -> None:
    free = 5_000
    for _ in range(6):
        free -= most_more(0, free)
    assert free == 7
    assert within_share(0, free)


@given(taken=st.integers(0, 1_000), free=st.integers(0, 1_000), weight=WEIGHT)
def test_all_that_a_route_may_take_at_once_it_may_take_one_by_one(taken: int, free: int, weight: int) -> None:
    more, free_before = most_more(taken, free, weight), free
    assert more or taken or not free, "who has nothing waits for nobody, however small the window is"
    for n in range(more):
        assert within_share(taken + n, free_before - n, weight)
