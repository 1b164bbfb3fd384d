"""The tenants of a route share what the route gets, and the routes share the rest as if there were no tenants."""

from __future__ import annotations

from collections import Counter
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from mlproducer.core import routes as core_routes
from mlproducer.core.admission import Load, Window, obstacle_to
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Admission
from mlproducer.core.routes import Routes, Try
from mlproducer.core.sharing import MOST_WEIGHT
from mlproducer.delivery.route_watch import RouteWatch
from mlproducer.outcome import Nacked
from mlproducer.spool.turns import quotas
from mlproducer.task import Envelope, Flow
from mlproducer.testing.clock import ManualClock

FREE = 10**9
ROUTES, TENANTS = ("r", "s", "t"), ("", "a", "b", "c")
FLOWS = st.sets(st.sampled_from([Flow(*each) for each in product(ROUTES, TENANTS)]), min_size=1)
WEIGHT = st.integers(1, MOST_WEIGHT)
OF_ROUTES, OF_TENANTS = (st.dictionaries(st.sampled_from(keys), WEIGHT) for keys in (ROUTES, TENANTS))


class Drained:
    """As the drain and the store do it, where each flow has more rows than it may get."""

    def __init__(self, of_routes: dict[str, int], of_tenants: dict[str, int]) -> None:
        self.routes = Routes(Backoff(1.0, 10.0, 0.0), 300.0, of_routes, of_tenants)
        self.clock = ManualClock()
        exchange = Routes(Backoff(1.0, 10.0, 0.0), 300.0)
        self.watch = RouteWatch(self.routes, exchange, self.clock, lambda _: None, None)
        self.had = Counter[Flow]()

    def round(self, due: list[Flow], room: int, free: int = FREE) -> Counter[Flow]:
        planned = self.watch.plan(due, room, free)
        got = Counter(quotas(planned, room))
        self.watch.leased(planned, got.elements())
        self.had += got
        return got


def of_route(had: Counter[Flow], key: str) -> int:
    return sum(rows for flow, rows in had.items() if flow.route == key)


@given(FLOWS, OF_ROUTES, OF_TENANTS, st.lists(st.integers(1, 60), min_size=1, max_size=40))
def test_a_route_gets_by_its_weight_whatever_tenants_it_has_and_a_tenant_by_its_own_of_that(
    due: set[Flow], of_routes: dict[str, int], of_tenants: dict[str, int], rooms: list[int]
) -> None:
    drained, flows = Drained(of_routes, of_tenants), sorted(due)
    weights = {key: of_routes.get(key, 1) for key in {flow.route for flow in flows}}
    for room in rooms:
        assert drained.round(flows, room).total() == room, "nothing is left unused"
        for key, weight in weights.items():
            fair = drained.had.total() * weight / sum(weights.values())
            assert abs(of_route(drained.had, key) - fair) < 2 + weight
            tenants = {flow: of_tenants.get(flow.tenant, 1) for flow in flows if flow.route == key}
            for flow, share in tenants.items():
                fair = of_route(drained.had, key) * share / sum(tenants.values())
                assert abs(drained.had[flow] - fair) < 2 + share


@given(FLOWS, OF_ROUTES, OF_TENANTS, st.integers(1, 3), st.lists(FLOWS, min_size=1, max_size=5))
def test_no_tenant_starves_however_small_the_room_is_and_whoever_comes_and_goes(
    due: set[Flow], of_routes: dict[str, int], of_tenants: dict[str, int], room: int, others: list[set[Flow]]
) -> None:
    drained, waited = Drained(of_routes, of_tenants), dict.fromkeys(due, 0)
    routes = sum(of_routes.get(key, 1) for key in ROUTES) + len(ROUTES)
    tenants = sum(of_tenants.get(key, 1) for key in TENANTS) + len(TENANTS)
    for n in range(200):
        got = drained.round(sorted(due | others[n % len(others)]), room)
        for flow in due:
            waited[flow] = 0 if got[flow] else waited[flow] + 1
            assert waited[flow] <= routes * tenants


def test_who_waits_is_served_though_each_round_brings_another_new_tenant() -> None:
    drained, waits = Drained({}, {}), Flow("r", "waits")
    for n in range(100):
        drained.round([waits, Flow("r", f"new {n}"), Flow("s", f"new {n}")], 1)
    assert drained.had[waits] >= 24


@given(FLOWS, st.integers(1, 99), st.integers(0, 5_000))
def test_of_a_held_route_one_row_probes_whatever_tenants_it_has_and_the_others_share_the_room(
    due: set[Flow], room: int, free: int
) -> None:
    drained, flows = Drained({}, {}), sorted(due)
    held = flows[0].route
    drained.routes.failed(drained.routes.of(held), Try("t", 1), Nacked(), drained.clock.monotonic(), 0.0)
    assert not of_route(drained.round(flows, room, free), held), "its wait is not over"
    drained.clock.advance(1)
    got = drained.round(flows, room, free)
    assert of_route(got, held) == 1 or free == 0 or (room < len(ROUTES) and of_route(got, held) == 0)
    assert got.total() <= room


def test_a_held_routes_tenants_probe_in_turn() -> None:
    drained, flows = Drained({}, {}), [Flow("r", key) for key in TENANTS]
    route = drained.routes.of("r")
    drained.routes.failed(route, Try("t", 1), Nacked(), drained.clock.monotonic(), 0.0)
    probed = Counter[Flow]()
    for number in range(2, 10):
        assert not drained.round(flows, 9)
        drained.clock.advance(10)
        probed += drained.round(flows, 9)
        drained.routes.admit(route, drained.clock.monotonic())
        probe = Try(f"t{number}", number, probe=True)
        drained.routes.failed(route, probe, Nacked(), drained.clock.monotonic(), 0.0)
    assert probed == dict.fromkeys(flows, 2)


# Window


def taken(window: int, flows: list[Flow], of_tenants: dict[str, int]) -> tuple[Drained, Load]:
    """What is in flight when each of the flows, which take in turn, has all that it may."""
    drained, whole = Drained({}, of_tenants), Load()
    able = dict.fromkeys(flows)
    while able:
        for flow in list(able):
            if attempt(drained, window, whole, flow):
                del able[flow]
    return drained, whole


def attempt(drained: Drained, window: int, whole: Load, flow: Flow) -> object:
    """What stands in its way; nothing if it is in flight now."""
    parts = drained.watch.parts(Envelope("t", "t", flow.route, b"", b"x", tenant=flow.tenant))
    obstacle = obstacle_to(
        None,
        Admission.PASS,
        route_refused=False,
        size=1,
        window=Window(window, 10**9),
        all_in_flight=whole,
        parts=() if drained.watch.alone(parts) else parts,
    )
    if obstacle is None:
        for load in (whole, *(part.load for part in parts)):
            load.add(1)
    return obstacle


@settings(max_examples=30)
@given(
    st.sets(st.sampled_from([Flow("r", key) for key in "-abcdef"])),
    OF_TENANTS,
    st.integers(300, 600),
    st.sampled_from(ROUTES),
)
def test_however_many_tenants_of_a_route_have_all_that_they_may_a_new_one_goes_directly_there_and_elsewhere(
    due: set[Flow], of_tenants: dict[str, int], window: int, route: str
) -> None:
    drained, whole = taken(window, sorted(due), of_tenants)
    assert attempt(drained, window, whole, Flow(route, "new")) is None


def test_one_tenants_flood_leaves_room_to_the_others_of_its_route_and_more_to_other_routes() -> None:
    drained, _ = taken(4_500, [Flow("r", "flood")], {})
    assert drained.routes.of("r").load.tasks == 2_000, "two thirds of two thirds, also on the only route"
    drained, _ = taken(5_000, [Flow("r", "flood"), Flow("s")], {})
    assert [drained.routes.of(key).load.tasks for key in "rs"] == [1_539, 2_308]


def test_what_is_remembered_of_tenants_is_bounded_and_what_is_in_flight_is_not_forgotten() -> None:
    drained = Drained({}, {})
    route = drained.routes.of("r")
    flying = drained.routes.tenant(route, "flying")
    flying.load.add(1)
    for n in range(2 * core_routes.MOST_TENANTS + 50):
        drained.routes.tenant(drained.routes.of("rs"[n % 2]), f"t{n}")
    known = sum(len(drained.routes.of(key).tenants) for key in "rs")
    assert known <= core_routes.MOST_TENANTS
    assert route.tenants["flying"] is flying
    for n in range(300):
        drained.round([Flow("r", f"t{n}"), Flow("r", f"t{n + 1}"), Flow(f"s{n}", "a"), Flow(f"s{n}", "b")], 3)
    turns = drained.watch._turns._tenants
    assert len(turns) <= 2
    assert all(len(each._had) <= 4 for each in turns.values())
