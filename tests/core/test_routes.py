from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from depth import histories
from mlproducer.core import routes as module
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Admission
from mlproducer.core.routes import TABLE, Changes, Route, Routes, Signal, Try
from mlproducer.events import RouteChanged, RouteState
from mlproducer.outcome import EVERY_ROUTE, Failure, Nacked, NotSent, NotSentCause, Returned, Unsure, UnsureCause

BACKOFF = Backoff(first=1.0, cap=10.0, jitter=0.0)
PATIENCE = 300.0
GONE = NotSent(NotSentCause.CHANNEL_REFUSED, 404, "no exchange")
LATE = Unsure(UnsureCause.CONFIRM_TIMEOUT)
OF_A_ROUTE: list[Failure] = [Nacked(), Returned(312, "NO_ROUTE"), GONE, replace(GONE, code=403), LATE]
OF_NO_ROUTE: list[Failure] = [
    Unsure(UnsureCause.CONNECTION_LOST),
    Unsure(UnsureCause.CHANNEL_LOST),
    Unsure(UnsureCause.CHANNEL_REFUSED),
    NotSent(NotSentCause.TOO_LARGE),
    NotSent(NotSentCause.DEADLINE),
    replace(GONE, code=406),
]


class One:
    """One route, and the attempts on it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self.routes = Routes(BACKOFF, patience)
        self.route = self.routes.of("ml.embed")
        self.turn = 0

    def begin(self, task_id: str = "m", now: float = 0.0) -> Try:
        admission = self.routes.admit(self.route, now)
        assert admission is not Admission.REFUSED
        self.turn += 1
        return Try(task_id, self.turn, admission is Admission.PROBE)

    def fails(self, tried: Try, outcome: Failure = Nacked(), now: float = 0.0) -> Failure:  # noqa: B008  # frozen
        return self.routes.failed(self.route, tried, outcome, now, 0.0)[0]

    def passes(self, tried: Try, now: float = 0.0) -> Changes:
        return self.routes.confirmed(self.route, tried, now)


def held(by: Failure = Nacked()) -> One:  # noqa: B008  # frozen
    """By a fault of m at 0 s; a probe may go at 1 s."""
    one = One()
    assert one.fails(one.begin(), by).held_for == 1.0
    return one


def test_an_open_route_lets_everything_pass() -> None:
    one = One()
    assert [one.routes.admit(one.route, 0.0) for _ in range(20)] == [Admission.PASS] * 20
    assert one.routes.ready("never heard of", 0.0) is Admission.PASS
    assert one.routes.is_calm


@pytest.mark.parametrize("outcome", OF_A_ROUTE, ids=str)
def test_a_fault_with_no_neighbour_that_passes_holds_the_route_and_spends_nothing(outcome: Failure) -> None:
    one = One()
    found, changes = one.routes.failed(one.route, one.begin(), outcome, 0.0, 0.5)
    assert found == replace(outcome, held_for=1.0)
    assert [(each.route, each.state, each.wait) for each in changes] == [("ml.embed", RouteState.HELD, 1.0)]
    assert one.routes.admit(one.route, 0.9) is Admission.REFUSED
    assert one.routes.closed() == [one.route]
    assert not one.routes.is_calm


@pytest.mark.parametrize("outcome", OF_NO_ROUTE, ids=str)
def test_what_tells_nothing_of_the_route_leaves_it_open(outcome: Failure) -> None:
    one = One()
    assert one.fails(one.begin(), outcome) == outcome
    assert one.route.state is RouteState.OPEN


@pytest.mark.parametrize("outcome", OF_A_ROUTE, ids=str)
def test_a_fault_is_the_message_s_own_if_a_neighbour_that_began_later_passed(outcome: Failure) -> None:
    one = One()
    mine, neighbour = one.begin("bad"), one.begin("good")
    assert one.passes(neighbour) == ()
    assert one.fails(mine, outcome) == outcome
    assert one.route.state is RouteState.OPEN


def test_a_neighbour_that_began_before_says_nothing() -> None:
    """An outage begins between the two."""
    one = One()
    neighbour, mine = one.begin("good"), one.begin("m")
    one.passes(neighbour)
    assert one.fails(mine).held_for == 1.0


def test_a_held_route_sends_one_probe_at_a_time_after_a_wait_that_grows() -> None:
    one = held()
    now = 0.0
    for wait in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert one.routes.ready("ml.embed", now + wait - 0.001) is Admission.REFUSED
        now += wait
        probe = one.begin("other", now)
        assert probe.probe
        assert one.routes.admit(one.route, now + 1e9) is Admission.REFUSED
        assert one.fails(probe, now=now).held_for is not None


def test_a_probe_that_passes_opens_the_route() -> None:
    one = held()
    assert one.passes(one.begin("other", 1.0), 1.0) == (RouteChanged("ml.embed", RouteState.OPEN),)
    assert one.routes.admit(one.route, 1.0) is Admission.PASS
    assert one.routes.closed() == []


def test_what_was_taken_before_the_fault_says_nothing_about_now_and_what_began_after_it_does() -> None:
    one = One()
    before, mine, after = one.begin("a"), one.begin("m"), one.begin("b")
    one.fails(mine)
    assert one.passes(before) == ()
    assert one.routes.closed() == [one.route]
    assert one.passes(after) != ()
    assert one.routes.closed() == []


def test_late_faults_spend_nothing_either_and_make_the_wait_no_longer() -> None:
    one = One()
    tries = [one.begin(str(n)) for n in range(500)]
    assert all(one.fails(each, now=0.5).held_for for each in tries)
    assert one.route.failures == 1
    assert one.routes.ready("ml.embed", 1.5) is Admission.PROBE


def test_the_late_pass_of_what_timed_out_last_opens_the_route() -> None:
    one = One()
    tried = one.begin()
    one.fails(tried, LATE)
    changes = one.routes.confirmed_late(one.route, tried, 0.5)
    assert [each.state for each in changes] == [RouteState.OPEN]
    assert one.routes.is_calm


def test_the_late_pass_of_an_older_one_lets_a_probe_go_at_once() -> None:
    one = One()
    older, newer = one.begin("older"), one.begin("newer")
    one.fails(older, LATE)
    one.fails(newer, LATE)
    assert one.routes.confirmed_late(one.route, older, 0.5) == ()
    assert one.routes.admit(one.route, 0.5) is Admission.PROBE


def test_a_late_pass_says_nothing_of_a_route_that_is_held_for_another_reason() -> None:
    one = held(Nacked())
    assert one.routes.confirmed_late(one.route, Try("late", 1), 0.5) == ()
    assert one.routes.admit(one.route, 0.5) is Admission.REFUSED


@pytest.mark.parametrize("outcome", OF_NO_ROUTE, ids=str)
def test_a_probe_without_an_answer_gives_its_permit_back(outcome: Failure) -> None:
    one = held()
    probe = one.begin("other", 1.0)
    assert one.fails(probe, outcome, 1.5) == outcome
    assert one.routes.ready("ml.embed", 1.5) is Admission.PROBE
    one.begin("other", 1.5)
    one.routes.unanswered(one.route, 2.0)
    assert one.routes.ready("ml.embed", 2.0) is Admission.PROBE


def test_giving_back_a_permit_that_was_not_had_changes_nothing() -> None:
    one = held()
    one.routes.unanswered(one.route, 0.5)
    assert one.routes.ready("ml.embed", 0.5) is Admission.REFUSED


def test_a_bad_message_on_a_quiet_route_holds_it_once_and_then_its_faults_are_its_own() -> None:
    one = held()
    one.passes(one.begin("other", 1.0), 1.0)
    for _ in range(3):
        assert one.fails(one.begin("m")) == Nacked()
        assert one.route.state is RouteState.OPEN


def test_a_confirm_clears_its_name() -> None:
    one = held()
    one.passes(one.begin("other", 1.0), 1.0)
    one.passes(one.begin("m"))
    assert one.routes.is_calm
    assert one.fails(one.begin("m")).held_for is not None


@pytest.mark.parametrize("what", ["another failed with it", "a probe failed", "the link was lost", "the link is new"])
def test_nobody_is_convicted_of_what_was_an_outage(what: str) -> None:
    one = One()
    mine, other = one.begin("m"), one.begin("other")
    one.fails(mine)
    now = 1.0
    if what == "another failed with it":
        one.fails(other)
    elif what == "a probe failed":
        one.fails(one.begin("other", now), now=now)
        now = 3.0
    elif what == "the link was lost":
        one.fails(one.begin("other", now), Unsure(UnsureCause.CONNECTION_LOST), now)
    else:
        one.routes.hurry(now)
    one.passes(one.begin("other", now), now)
    assert one.fails(one.begin("m", now), now=now).held_for is not None


@pytest.mark.parametrize("second", ["m", "other"])
def test_a_message_that_is_its_own_probe_is_not_convicted_by_what_passes_a_wait_later(second: str) -> None:
    one = held()
    one.fails(one.begin("m", 1.0), now=1.0)
    one.passes(one.begin(second, 3.0), 3.0)
    assert one.routes.is_calm


def test_a_timeout_convicts_nobody_for_it_may_have_landed() -> None:
    one = held(by=LATE)
    one.passes(one.begin("other", 1.0), 1.0)
    assert one.routes.is_calm


def test_past_its_patience_a_route_lets_all_try_and_spend_their_attempts() -> None:
    one = held()
    now = 0.0
    while one.route.state is not RouteState.FAILING:
        now = max(now, one.route.until)
        probe = one.begin(f"m{now}", now)
        spent, changes = one.routes.failed(one.route, probe, Nacked(), now, 0.0)
        assert (spent == Nacked()) == (now >= PATIENCE) == bool(changes)
    assert 300.0 <= now <= 310.0
    many = [one.begin(str(n), now) for n in range(10)]
    assert [one.fails(each, now=now) for each in many] == [Nacked()] * 10
    assert one.passes(replace(many[0], task_id="late"), now) == (), "it began before the last fault"
    assert one.passes(one.begin("good", now), now) == (RouteChanged("ml.embed", RouteState.OPEN),)


SAID: list[Failure] = [
    replace(GONE, route=EVERY_ROUTE),
    replace(GONE, code=403, route="ml.embed"),
    Unsure(UnsureCause.CHANNEL_REFUSED, "403", route=EVERY_ROUTE),
]


@pytest.mark.parametrize("outcome", SAID, ids=str)
def test_what_the_broker_says_is_the_route_s_is_no_message_s_own_whoever_passes(outcome: Failure) -> None:
    one = One()
    mine, neighbour = one.begin("m"), one.begin("good")
    one.passes(neighbour)
    found, changes = one.routes.failed(one.route, mine, outcome, 0.0, 0.0)
    assert (found.held_for, changes[0].text) == (1.0, outcome.text if isinstance(outcome, NotSent | Unsure) else "")
    assert one.route.goes_alone
    one.passes(one.begin("other", 1.0), 1.0)
    assert one.routes.is_calm, "it convicts nobody"
    assert not one.route.goes_alone


def test_a_route_that_does_not_answer_is_probed_apart_from_the_others() -> None:
    """RabbitMQ's channel waits for a quorum queue before its first message to it, with all that comes after it."""
    assert not held(by=Nacked()).route.goes_alone, "who nacks answers"
    one = held(by=LATE)
    probe = one.begin("probe", 1.0)
    assert one.route.goes_alone
    one.passes(probe, 1.0)
    assert not one.route.goes_alone


@pytest.mark.parametrize("outcome", SAID, ids=str)
def test_what_the_broker_says_spends_attempts_past_the_patience(outcome: Failure) -> None:
    one = held(by=outcome)
    assert one.fails(one.begin("other", PATIENCE), outcome, PATIENCE).held_for is None
    assert one.route.state is RouteState.FAILING
    assert one.fails(one.begin("another", PATIENCE), outcome, PATIENCE) == outcome
    one.passes(one.begin("good", PATIENCE), PATIENCE)
    assert one.routes.is_calm


def test_with_no_patience_each_fault_is_its_message_s_own() -> None:
    one = One(patience=0)
    assert [one.fails(one.begin(), outcome) for outcome in OF_A_ROUTE] == OF_A_ROUTE
    assert one.route.state is RouteState.OPEN


def test_a_new_link_lets_each_held_route_try_at_once() -> None:
    one = held()
    one.fails(one.begin("other", 1.0), now=1.0)
    one.routes.hurry(1.5)
    assert one.begin("other", 1.5).probe
    one.routes.hurry(1.6)
    assert one.routes.ready("ml.embed", 1.6) is Admission.REFUSED, "its probe is on the way"


def test_a_hung_broker_that_answers_on_one_route_is_tried_on_all_that_it_hung_on() -> None:
    routes = Routes(BACKOFF, PATIENCE)
    hung, other, nacked = routes.of("hung"), routes.of("other"), routes.of("nacked")
    faults: list[tuple[Route, Failure]] = [(hung, LATE), (other, LATE), (nacked, Nacked())]
    for n, (route, outcome) in enumerate(faults):
        routes.failed(route, Try(route.key, n), outcome, 0.0, 0.0)
    assert routes.admit(hung, 1.0) is Admission.PROBE
    other.until = nacked.until = 9.0
    routes.confirmed(hung, Try("x", 9, probe=True), 1.0)
    assert routes.ready("other", 1.0) is Admission.PROBE
    assert routes.ready("nacked", 1.0) is Admission.REFUSED


def test_one_route_knows_nothing_of_another() -> None:
    one = held()
    other = one.routes.of("other")
    assert one.routes.of("other") is other
    assert len(one.routes) == 2
    assert one.routes.admit(other, 0.0) is Admission.PASS


def test_calm_routes_are_forgotten_when_there_are_too_many_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_ROUTES", 3)
    one = held()
    busy = one.routes.of("busy")
    busy.load.add(1)
    one.routes.of("calm")
    one.routes.of("new")
    assert len(one.routes) == 3
    assert one.routes.of("busy") is busy
    assert one.routes.of("ml.embed") is one.route


def test_tenants_with_nothing_in_flight_are_forgotten_when_there_are_too_many_and_the_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MOST_TENANTS", 2)
    routes = Routes(BACKOFF, 300.0, tenant_weights={"busy": 3})
    here, there = routes.of("here"), routes.of("there")
    busy = routes.tenant(here, "busy")
    assert busy.weight == 3
    busy.load.add(1)
    idle = routes.tenant(there, "idle")
    assert routes.tenant(there, "idle") is idle
    assert routes.tenant(there, "new").weight == 1
    assert routes.tenant(here, "busy") is busy
    assert list(there.tenants) == ["new"]
    assert {route.key for route in routes.known()} == {"here", "there"}


def test_the_oldest_convictions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CONVICTED", 1)
    one = One()
    first, second, last = one.begin("first"), one.begin("second"), one.begin("last")
    one.passes(last)
    one.fails(first)
    one.fails(second)
    assert one.fails(one.begin("second")) == Nacked()
    assert one.fails(one.begin("first")).held_for is not None


def test_the_highest_number_that_passed_is_that_of_all_routes() -> None:
    one = One()
    assert one.routes.passed == 0
    one.passes(Try("a", 5))
    one.passes(Try("b", 3))
    assert (one.routes.passed, one.route.passed) == (5, 5)


def test_the_table_has_every_signal_that_can_come_in_each_state() -> None:
    answers = {Signal.PASSED, Signal.FAULT}
    signals = {state: {signal for found, signal in TABLE if found is state} for state in RouteState}
    assert signals == {
        RouteState.OPEN: answers,
        RouteState.HELD: answers | {Signal.ADMITTED},
        RouteState.PROBING: answers | {Signal.UNANSWERED, Signal.WORN_OUT},
        RouteState.FAILING: answers,
    }


class RouteUnderFire(RuleBasedStateMachine):
    """A queue that takes messages in order, is away at times, and never takes the bad ones.

    It is away for long enough that it can be told from a bad message: until two messages failed or a probe did.
    """

    GOOD = ("a", "b", "c")
    BAD = ("x", "y")

    def __init__(self) -> None:
        super().__init__()
        self.routes = Routes(BACKOFF, PATIENCE)
        self.route: Route = self.routes.of("r")
        self.now = 0.0
        self.turn = 0
        self.flying: deque[Try] = deque()
        self.away = False
        self.failed_while_away: set[str] = set()
        self.probe_failed = False
        self.spent = dict.fromkeys((*self.GOOD, *self.BAD), 0)

    @rule(seconds=st.sampled_from([0, 0.5, 1, 3, 10]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(task_id=st.sampled_from([*GOOD, *BAD]))
    def begin(self, task_id: str) -> None:
        before = self.route.state
        admission = self.routes.admit(self.route, self.now)
        probing = any(each.probe for each in self.flying)
        match before:
            case RouteState.OPEN | RouteState.FAILING:
                assert admission is Admission.PASS
            case _ if probing or self.now < self.route.until:
                assert admission is Admission.REFUSED, "one probe at a time, and not before its time"
            case _:
                assert admission is Admission.PROBE
        if admission is not Admission.REFUSED:
            self.turn += 1
            self.flying.append(Try(task_id, self.turn, admission is Admission.PROBE))

    @precondition(lambda self: self.flying)
    @rule()
    def answer(self) -> None:
        tried = self.flying.popleft()
        if not self.away and tried.task_id in self.GOOD:
            self.routes.confirmed(self.route, tried, self.now)
            return
        if self.away:
            self.failed_while_away.add(tried.task_id)
            self.probe_failed = self.probe_failed or tried.probe
        outcome, _ = self.routes.failed(self.route, tried, Nacked(), self.now, 0.0)
        if outcome.held_for is None:
            self.spent[tried.task_id] += 1
            assert tried.task_id in self.BAD, "an outage spent an attempt"

    @precondition(lambda self: not self.away)
    @rule()
    def goes_away(self) -> None:
        self.away, self.probe_failed = True, False
        self.failed_while_away.clear()

    @precondition(lambda self: self.away and (self.probe_failed or len(self.failed_while_away) > 1))
    @rule()
    def comes_back(self) -> None:
        self.away = False

    @rule()
    def loses_the_link(self) -> None:
        lost = Unsure(UnsureCause.CONNECTION_LOST)
        while self.flying:
            assert self.routes.failed(self.route, self.flying.popleft(), lost, self.now, 0.0) == (lost, ())
        self.routes.hurry(self.now)

    @invariant()
    def calm_means_open_and_nobody_convicted(self) -> None:
        if self.routes.is_calm:
            assert self.route.state is RouteState.OPEN
        assert (self.route in self.routes.closed()) == (self.route.state is not RouteState.OPEN)

    def teardown(self) -> None:
        """Once the queue is back, all good ones pass within a wait, and a bad one spends its attempts."""
        self.away = False
        while self.flying:
            self.answer()
        self.now += BACKOFF.cap
        self.begin("a")
        self.answer()
        assert self.route.state is RouteState.OPEN
        before = self.spent["x"]
        for _ in range(4):
            self.begin("x")
            self.answer()
            self.now += BACKOFF.cap
            self.begin("a")
            self.answer()
        assert self.spent["x"] >= before + 3


TestNoOutageSpendsAnAttemptAndABadMessageDoes = RouteUnderFire.TestCase
TestNoOutageSpendsAnAttemptAndABadMessageDoes.settings = histories(100, 40)
