"""Whose turn it is among the tenants of a route, and among the routes whatever tenants they have."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.sharing import FlowTurns, one_of_each_route
from mlproducer.task import Flow

TENANTS = [f"t{n}" for n in range(5)]


def one_row(turns: FlowTurns, due: list[Flow], ready: set[str], weights: dict[str, int]) -> Flow:
    """What the drain takes when it has room for one."""
    order = turns.order(due, ready)
    route = next(iter(order))
    flow = Flow(route, order[route][0])
    turns.took({flow: 1}, {flow: (1, weights.get(flow.tenant, 1))})
    return flow


@given(st.sets(st.sampled_from(TENANTS), min_size=1), st.dictionaries(st.sampled_from(TENANTS), st.integers(1, 10)))
def test_a_route_gets_its_half_whatever_tenants_it_has_and_they_get_theirs_of_it(
    tenants: set[str], weights: dict[str, int]
) -> None:
    turns, had = FlowTurns(), Counter[Flow]()
    due = [Flow("r", tenant) for tenant in sorted(tenants)] + [Flow("s", "")]
    for _ in range(200):
        had[one_row(turns, due, {"r", "s"}, weights)] += 1
    assert had[Flow("s", "")] == 100
    total = sum(weights.get(tenant, 1) for tenant in tenants)
    for tenant in tenants:
        weight = weights.get(tenant, 1)
        assert abs(had[Flow("r", tenant)] - 100 * weight / total) < 2 + weight


def test_a_route_that_is_not_ready_has_no_turn_and_its_tenants_lose_none() -> None:
    turns = FlowTurns()
    due = [Flow("held", "a"), Flow("held", "b"), Flow("s", "")]
    first = one_row(turns, due, {"held", "s"}, {})
    assert first == Flow("held", "a")
    assert {one_row(turns, due, {"s"}, {}) for _ in range(20)} == {Flow("s", "")}
    assert one_row(turns, due, {"held"}, {}) == Flow("held", "b")


def test_a_lone_tenant_is_in_nobodys_order_and_one_that_comes_waits_for_no_past() -> None:
    turns = FlowTurns()
    for _ in range(50):
        assert one_row(turns, [Flow("r", "a")], {"r"}, {}) == Flow("r", "a")
    both = [Flow("r", "a"), Flow("r", "b")]
    assert Counter(one_row(turns, both, {"r"}, {}) for _ in range(10)) == dict.fromkeys(both, 5)
    assert turns.order([], {"r"}) == {}


def test_of_each_route_the_first_flow_has_a_row_however_many_tenants_come_before_the_next_route() -> None:
    planned = [Flow("r", tenant) for tenant in TENANTS] + [Flow("s", "x"), Flow("t", ""), Flow("u", "")]
    assert list(one_of_each_route(planned, 3).items()) == [
        (Flow("r", "t0"), 1),
        (Flow("s", "x"), 1),
        (Flow("t", ""), 1),
    ]
