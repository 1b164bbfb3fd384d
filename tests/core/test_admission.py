from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from depth import histories
from mlproducer.core.admission import Load, Part, SpoolGate, Window, obstacle_to
from mlproducer.core.breaker import Admission
from mlproducer.core.routes import Route, Tenant
from mlproducer.outcome import NotSentCause

WINDOW = Window(max_tasks=10, max_bytes=1_000)


def way(
    obstacle: NotSentCause | None = None,
    admission: Admission = Admission.PASS,
    *,
    in_flight: int = 0,
    in_flight_bytes: int = 0,
    size: int = 100,
    route: Admission = Admission.PASS,
    parts: Sequence[Part] = (),
    quiet: bool = False,
) -> NotSentCause | None:
    all_in_flight = Load(in_flight, in_flight_bytes)
    return obstacle_to(
        obstacle,
        admission,
        route_refused=route is Admission.REFUSED,
        size=size,
        window=WINDOW,
        all_in_flight=all_in_flight,
        parts=parts,
        quiet=quiet,
    )


def of_route(tasks: int, size: int) -> list[Part]:
    return [Route("r", load=Load(tasks, size))]


@pytest.mark.parametrize("admission", [Admission.PASS, Admission.PROBE])
def test_a_working_link_with_room_is_published_to_at_once(admission: Admission) -> None:
    assert way(None, admission, in_flight=9, in_flight_bytes=900) is None


@pytest.mark.parametrize(
    ("obstacle", "admission", "in_flight", "in_flight_bytes", "cause"),
    [
        (NotSentCause.NOT_CONNECTED, Admission.REFUSED, 10, 0, NotSentCause.NOT_CONNECTED),
        (NotSentCause.BLOCKED, Admission.REFUSED, 10, 0, NotSentCause.BLOCKED),
        (None, Admission.REFUSED, 10, 0, NotSentCause.BREAKER_OPEN),
        (None, Admission.PASS, 10, 0, NotSentCause.WINDOW_FULL),
        (None, Admission.PROBE, 1, 901, NotSentCause.WINDOW_FULL),
    ],
)
def test_of_several_things_wrong_the_one_nearest_to_the_broker_is_the_cause(
    obstacle: NotSentCause | None, admission: Admission, in_flight: int, in_flight_bytes: int, cause: NotSentCause
) -> None:
    assert way(obstacle, admission, in_flight=in_flight, in_flight_bytes=in_flight_bytes) is cause


def test_a_route_that_is_held_sends_its_own_into_the_spool() -> None:
    assert way(route=Admission.REFUSED) is NotSentCause.ROUTE_HELD
    assert way(None, Admission.REFUSED, route=Admission.REFUSED) is NotSentCause.BREAKER_OPEN
    assert way(route=Admission.PROBE) is None


def test_a_route_that_answers_nothing_has_no_part_of_the_window() -> None:
    assert way(quiet=True) is NotSentCause.WINDOW_FULL
    assert way(quiet=True, route=Admission.REFUSED) is NotSentCause.ROUTE_HELD


def test_a_route_leaves_room_for_others_where_there_are_any() -> None:
    """It may have twice what is free."""
    assert way(in_flight=7, parts=of_route(5, 0)) is None
    assert way(in_flight=7, parts=of_route(6, 0)) is NotSentCause.WINDOW_FULL
    assert way(in_flight=8, parts=of_route(3, 0)) is None
    assert way(in_flight=2, in_flight_bytes=890, size=100, parts=of_route(1, 220)) is NotSentCause.WINDOW_FULL
    assert way(in_flight=2, in_flight_bytes=890, size=100, parts=of_route(1, 219)) is None
    assert way(in_flight=9, parts=of_route(0, 0)) is None


def test_a_tenant_leaves_room_for_others_of_its_route_also_where_that_is_the_only_one() -> None:
    for (tasks, size), passes in (((5, 0), True), ((6, 0), False), ((5, 2_000), False)):
        parts = [Tenant(load=Load(tasks, size))]
        assert (way(in_flight=7, parts=parts) is None) is passes, "twice what is free"


def test_a_tenant_has_a_share_of_what_its_route_may_take_and_not_of_the_window() -> None:
    """A route with 1 in flight may take (2 * 8 - 1) // 3 = 5 more, and one of weight 4, (8 * 8 - 1) // 9 = 7."""
    for weight, tasks, passes in ((1, 9, True), (1, 10, False), (4, 13, True), (4, 14, False)):
        parts: list[Part] = [Route("r", weight, Load(1, 0)), Tenant(load=Load(tasks, 0))]
        assert (way(in_flight=2, parts=parts) is None) is passes
    assert way(in_flight=2, parts=[Route("r", load=Load(1, 0)), Tenant(2, Load(19, 0))]) is None, "twice its own"
    full, new = Route("r", load=Load(6, 0)), Tenant()
    assert way(in_flight=6, parts=[full, new]) is None, "who has nothing yet is let in as long as the route is"
    assert way(in_flight=7, parts=[full, new]) is NotSentCause.WINDOW_FULL


def test_a_load_counts_tasks_and_bytes() -> None:
    load = Load()
    for size in (3, 4):
        load.add(size)
    load.remove(3)
    assert (load.tasks, load.bytes) == (1, 4)


def test_a_task_larger_than_the_window_goes_when_nothing_else_is_in_flight() -> None:
    assert way(size=5_000) is None
    assert way(size=5_000, in_flight=1, in_flight_bytes=1) is NotSentCause.WINDOW_FULL


@settings(deadline=None)
@given(st.lists(st.integers(1, 1_500), max_size=40))
def test_the_window_is_never_exceeded_but_by_one_task_alone(sizes: list[int]) -> None:
    flying: list[int] = []
    for size in sizes:
        if way(in_flight=len(flying), in_flight_bytes=sum(flying), size=size) is None:
            flying.append(size)
    assert len(flying) <= WINDOW.max_tasks
    assert sum(flying) <= WINDOW.max_bytes or len(flying) == 1


def gate_of(max_tasks: int, max_bytes: int, max_age: float = 100.0) -> SpoolGate:
    return SpoolGate(max_tasks, max_bytes, max_age, low_mark=0.9)


def test_the_gate_closes_at_the_high_mark_and_opens_under_the_low_one() -> None:
    gate = gate_of(100, 10_000)
    assert gate.check(99, 99, 0.0, adding=1) is None
    assert gate.check(100, 100, 0.0, adding=1) is not None
    assert gate.check(90, 90, 0.0, adding=1) is not None, "the low mark itself is still closed"
    assert gate.check(89, 89, 0.0, adding=1) is None
    assert gate.check(95, 95, 0.0, adding=1) is None, "open again up to the high mark"


def test_the_gate_closes_on_bytes_as_well() -> None:
    gate = gate_of(100, 10_000)
    assert gate.check(1, 9_000, 0.0, adding=1_000) is None
    assert gate.check(2, 9_001, 0.0, adding=1_000) is not None
    assert gate.check(2, 9_000, 0.0, adding=1) is not None
    assert gate.check(2, 8_999, 0.0, adding=1) is None


def test_the_gate_closes_on_the_age_of_the_oldest_task_as_well() -> None:
    gate = gate_of(100, 10_000, max_age=60)
    assert gate.check(1, 1, 60.0, adding=1) is None
    why = gate.check(1, 1, 61.0, adding=1)
    assert why is not None
    assert "61 s" in why
    assert "ML_SPOOL_MAX_AGE" in why
    assert gate.check(1, 1, 54.0, adding=1) is not None, "the low mark itself is still closed"
    assert gate.check(1, 1, 53.9, adding=1) is None


def test_a_closed_gate_says_that_the_spool_was_full() -> None:
    gate = gate_of(100, 10_000)
    gate.check(100, 0, 0.0, adding=1)
    assert "was full" in (gate.check(95, 0, 0.0, adding=1) or "")


def test_a_refusal_says_how_full_the_spool_is_the_likely_cause_and_the_settings() -> None:
    why = gate_of(1_000, 5_000_000).check(1_000, 2_500_000, 0.0, adding=700)
    assert why is not None
    for words in ("1,000 of 1,000", "2,500,000 of 5,000,000", "broker", "ML_SPOOL_MAX_TASKS", "ML_SPOOL_MAX_BYTES"):
        assert words in why


def test_a_spool_of_one_task_opens_again_when_it_is_empty() -> None:
    gate = gate_of(1, 1_000)
    assert [gate.check(tasks, 0, 0.0, adding=1) is None for tasks in (0, 1, 0)] == [True, False, True]


class SpoolThatFillsAndDrains(RuleBasedStateMachine):
    HIGH_TASKS = 20
    HIGH_BYTES = 2_000
    HIGH_AGE = 100.0

    def __init__(self) -> None:
        super().__init__()
        self.gate = gate_of(self.HIGH_TASKS, self.HIGH_BYTES, self.HIGH_AGE)
        self.rows: list[int] = []
        self.refused_at_high_mark = False
        self.age = 0.0

    @rule(age=st.floats(0, 150))
    def grow_old(self, age: float) -> None:
        self.age = age

    @rule(size=st.integers(1, 400), times=st.integers(1, 12))
    def add(self, size: int, times: int) -> None:
        for _ in range(times):
            self.add_one(size)

    def add_one(self, size: int) -> None:
        tasks, held = len(self.rows), sum(self.rows)
        admitted = self.gate.check(tasks, held, self.age, size) is None
        fits = tasks + 1 <= self.HIGH_TASKS and held + size <= self.HIGH_BYTES and self.age <= self.HIGH_AGE
        under_low_mark = (
            tasks < 0.9 * self.HIGH_TASKS and held < 0.9 * self.HIGH_BYTES and self.age < 0.9 * self.HIGH_AGE
        )
        if under_low_mark:
            assert admitted is fits, "under the low mark only a task that does not fit is refused"
        elif self.refused_at_high_mark:
            assert not admitted, "between the marks a closed gate stays closed"
        else:
            assert admitted is fits
        self.refused_at_high_mark = not admitted
        if admitted:
            self.rows.append(size)

    @rule(count=st.integers(1, 5))
    def drain(self, count: int) -> None:
        del self.rows[:count]

    @invariant()
    def what_it_says_it_would_do_is_what_it_does(self) -> None:
        tasks, held = len(self.rows), sum(self.rows)
        refuses = self.gate.refuses(tasks, held, self.age)
        assert refuses is self.gate.refuses(tasks, held, self.age), "to ask changes nothing"
        admitted = self.gate.check(tasks, held, self.age, 1) is None
        assert admitted is not refuses
        self.refused_at_high_mark = not admitted

    @invariant()
    def the_spool_is_never_over_its_limits(self) -> None:
        assert len(self.rows) <= self.HIGH_TASKS
        assert sum(self.rows) <= self.HIGH_BYTES


TestTheGateClosesAtTheHighMarkAndOpensUnderTheLowOne = SpoolThatFillsAndDrains.TestCase
TestTheGateClosesAtTheHighMarkAndOpensUnderTheLowOne.settings = histories(40, 40)


def test_the_fill_of_a_spool_is_that_of_its_nearest_limit() -> None:
    gate = SpoolGate(max_tasks=100, max_bytes=1_000, max_age=60.0, low_mark=0.9)
    assert gate.nearest(10, 100, 0.0) == ("ML_SPOOL_MAX_TASKS", 0.1)
    assert gate.nearest(10, 900, 3.0) == ("ML_SPOOL_MAX_BYTES", 0.9)
    assert gate.nearest(0, 0, 120.0) == ("ML_SPOOL_MAX_AGE", 2.0)


@pytest.mark.parametrize(
    ("age", "tasks_growth", "size_growth", "expected"),
    [
        (0.0, 0.0, 0.0, None),
        (0.0, -5.0, -1.0, None),
        (0.0, 2.0, 0.0, 45.0),
        (0.0, 2.0, 90.0, 10.0),
        (55.0, 1.0, 0.0, 5.0),
        (55.0, -1.0, 0.0, None),
        (120.0, 1.0, 0.0, 0.0),
    ],
)
def test_the_time_until_a_spool_is_full_is_that_of_the_limit_that_it_meets_first(
    age: float, tasks_growth: float, size_growth: float, expected: float | None
) -> None:
    gate = SpoolGate(max_tasks=100, max_bytes=1_000, max_age=60.0, low_mark=0.9)
    assert gate.full_in(10, 100, age, tasks_growth, size_growth) == (
        None if expected is None else pytest.approx(expected)
    )
