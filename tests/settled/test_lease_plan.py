"""What the drain may lease of which route: one probe of a held one, a turn for each, and no more than there is room."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.backoff import Backoff
from mlproducer.core.routes import Routes, Try
from mlproducer.delivery.route_watch import FREE, RouteWatch, Tried
from mlproducer.events import RouteState
from mlproducer.outcome import Nacked
from mlproducer.task import Flow
from mlproducer.testing.clock import ManualClock

KEYS = ["a", "b", "c", "d"]
DUE = [Flow(key) for key in KEYS]


def watch() -> tuple[RouteWatch, Routes, ManualClock]:
    routes, exchange = (Routes(Backoff(1.0, 10.0, 0.0), 300.0) for _ in range(2))
    clock = ManualClock()
    return RouteWatch(routes, exchange, clock, lambda _: None, None), routes, clock


@given(st.sets(st.sampled_from(KEYS)), st.integers(1, 500), st.integers(0, 500), st.floats(0, 3))
def test_of_a_held_route_a_single_row_is_planned_and_only_when_its_wait_is_over(
    held: set[str], room: int, free: int, later: float
) -> None:
    watched, routes, clock = watch()
    for key in KEYS:
        routes.of(key)
    for number, key in enumerate(sorted(held)):
        routes.failed(routes.of(key), Try(f"t{number}", 1), Nacked(), clock.monotonic(), 0.0)
    clock.advance(later)
    planned = watched.plan(DUE, room, free)
    for key in held:
        assert planned.get(Flow(key), 0) == (1 if later >= 1.0 else 0), "its first wait is a second"
    for key in set(KEYS) - held:
        assert planned.get(Flow(key), 0) <= min(room, free)
    assert all(planned.values())
    waits = watched.wait(DUE)
    assert (waits is None) is (not held)
    assert waits is None or waits == max(0.0, 1.0 - later) or abs(waits - (1.0 - later)) < 1e-6
    assert all(watched.probes(key) is (key in held) for key in KEYS)


@pytest.mark.parametrize("ours", [0, 1], ids=["another process takes its rows", "its rows are ours"])
def test_each_route_is_the_first_in_its_turn(ours: int) -> None:
    watched, _, _ = watch()
    first: Counter[Flow] = Counter()
    for _ in range(3 * len(KEYS)):
        planned = watched.plan(DUE, 1, 100)
        leased = list(planned)[:ours]
        watched.leased(planned, leased)
        first.update(list(planned)[:1])
    assert first == dict.fromkeys(DUE, 3)


def test_it_is_calm_again_when_the_last_held_route_is_open() -> None:
    watched, routes, clock = watch()
    route, calm = routes.of("a"), [watched.calm]
    watched.judge(route, Tried("t", 1, FREE), Nacked())
    calm.append(watched.calm)
    clock.advance(2)
    watched.confirmed(route, Tried("u", 2, watched.admit(route)))
    watched.confirmed(route, Tried("t", 3, FREE))  # its name is cleared
    calm.append(watched.calm)
    assert calm == [True, False, True]
    assert route.state is RouteState.OPEN
