from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from depth import histories
from mlproducer.core.breaker import TABLE, Admission, Breaker, Changes, Signal
from mlproducer.events import BreakerChanged, BreakerState

OPENED = BreakerChanged(BreakerState.OPEN, 10)
HALF_OPENED = BreakerChanged(BreakerState.HALF_OPEN, 10)
CLOSED = BreakerChanged(BreakerState.CLOSED, 0)


def opened(at: float = 0.0) -> Breaker:
    breaker = Breaker(threshold=10, cooldown=30.0)
    changes = [breaker.failure(at) for _ in range(10)]
    assert changes == [()] * 9 + [(OPENED,)]
    return breaker


def probing() -> Breaker:
    """Half-open, with its probe on the way, at 30 s."""
    breaker = opened()
    assert breaker.admit(30.0) == (Admission.PROBE, (HALF_OPENED,))
    return breaker


def test_a_closed_breaker_lets_everything_pass() -> None:
    breaker = Breaker(10, 30.0)
    assert [breaker.admit(0.0) for _ in range(20)] == [(Admission.PASS, ())] * 20
    assert breaker.half_opens_at is None


def test_ten_failures_in_a_row_open_it_and_nothing_is_admitted_for_thirty_seconds() -> None:
    breaker = opened()
    assert breaker.half_opens_at == 30.0
    assert breaker.admit(29.9) == (Admission.REFUSED, ())
    assert breaker.state(29.9) is BreakerState.OPEN


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker(10, 30.0)
    for _ in range(9):
        breaker.failure(0.0)
    assert breaker.success(0.0) == ()
    assert breaker.failures == 0
    assert breaker.failure(0.0) == ()


def test_after_the_cool_down_one_probe_is_admitted_and_no_second_until_it_ends() -> None:
    breaker = opened()
    assert breaker.state(30.0) is BreakerState.HALF_OPEN
    assert breaker.admit(30.0) == (Admission.PROBE, (HALF_OPENED,))
    assert breaker.admit(31.0) == (Admission.REFUSED, ())
    assert breaker.admit(1e9) == (Admission.REFUSED, ())


def test_a_probe_that_succeeds_closes_it() -> None:
    breaker = probing()
    assert breaker.success(31.0) == (CLOSED,)
    assert breaker.admit(31.0) == (Admission.PASS, ())
    assert breaker.failures == 0


def test_a_probe_that_fails_opens_it_for_a_new_cool_down() -> None:
    breaker = probing()
    assert breaker.failure(35.0) == (BreakerChanged(BreakerState.OPEN, 11),)
    assert breaker.half_opens_at == 65.0


def test_each_cool_down_ends_with_a_probe_of_its_own() -> None:
    breaker = probing()
    breaker.failure(35.0)
    assert breaker.admit(65.0) == (Admission.PROBE, (BreakerChanged(BreakerState.HALF_OPEN, 11),))
    assert breaker.admit(65.0) == (Admission.REFUSED, ())


def test_a_probe_that_never_reached_the_broker_gives_its_permit_back() -> None:
    breaker = probing()
    assert breaker.abandon_probe(31.0) == ()
    assert breaker.admit(31.0) == (Admission.PROBE, ())


def test_a_late_success_while_open_is_ignored() -> None:
    breaker = opened()
    assert breaker.success(5.0) == ()
    assert breaker.state(5.0) is BreakerState.OPEN
    assert breaker.failures == 10


def test_a_late_failure_while_open_does_not_lengthen_the_cool_down() -> None:
    breaker = opened()
    assert breaker.failure(29.0) == ()
    assert breaker.half_opens_at == 30.0
    assert breaker.failures == 10


def test_an_answer_after_the_cool_down_counts_whoever_it_comes_from() -> None:
    assert opened().success(30.0) == (HALF_OPENED, CLOSED)
    assert opened().failure(30.0) == (HALF_OPENED, BreakerChanged(BreakerState.OPEN, 11))


def test_abandoning_after_the_cool_down_tells_that_it_is_over() -> None:
    assert opened().abandon_probe(30.0) == (HALF_OPENED,)


def test_an_operator_closes_it_from_any_state() -> None:
    assert opened().reset(1.0) == (CLOSED,)
    assert probing().reset(31.0) == (CLOSED,)
    closed = Breaker(10, 30.0)
    closed.failure(0.0)
    assert closed.reset(0.0) == ()
    assert closed.failures == 0


def test_it_is_calm_only_while_closed_with_no_failure_counted() -> None:
    failed = Breaker(10, 30.0)
    failed.failure(0.0)
    recovered = Breaker(10, 30.0)
    recovered.failure(0.0)
    recovered.success(0.0)
    assert [each.is_calm for each in (Breaker(10, 30.0), recovered)] == [True, True]
    assert [each.is_calm for each in (failed, opened(), probing())] == [False, False, False]


def test_a_connection_that_comes_up_ends_the_cool_down() -> None:
    breaker = opened()
    assert breaker.connected(1.0) == (HALF_OPENED,)
    assert breaker.half_opens_at is None
    assert breaker.admit(1.0) == (Admission.PROBE, ())
    assert breaker.connected(2.0) == (CLOSED,), "and in half-open it is the answer that is waited for"
    failing = Breaker(10, 30.0)
    failing.failure(0.0)
    assert failing.connected(0.0) == ()
    assert failing.is_calm


def test_half_open_a_held_route_tries_beside_the_probe_and_open_it_does_not() -> None:
    assert probing().admit(31.0, of_route=True) == (Admission.PASS, ())
    assert opened().admit(30.0, of_route=True) == (Admission.PASS, (HALF_OPENED,))
    assert opened().admit(29.0, of_route=True) == (Admission.REFUSED, ())
    halfway = probing()
    halfway.admit(31.0, of_route=True)
    assert halfway.abandon_probe(31.0) == ()
    assert halfway.admit(31.0) == (Admission.PROBE, ()), "the permit is the breaker's own"
    assert halfway.success(32.0) == (CLOSED,), "whoever it comes from"


def test_what_is_seen_in_a_debugger_says_the_state() -> None:
    assert repr(probing()) == "<Breaker HALF_OPEN failures=10 probing=True>"


def test_the_table_has_every_signal_that_can_come_in_each_state() -> None:
    answers = {Signal.SUCCESS, Signal.FAILURE, Signal.CONNECTED, Signal.RESET}
    assert {signal for state, signal in TABLE if state is BreakerState.CLOSED} == answers | {Signal.TRIP}
    assert {signal for state, signal in TABLE if state is BreakerState.OPEN} == answers | {Signal.COOLED}
    assert {signal for state, signal in TABLE if state is BreakerState.HALF_OPEN} == answers


class BreakerUnderFire(RuleBasedStateMachine):
    """Attempts of every kind come and go. What is checked is said in words below, not computed a second time."""

    THRESHOLD = 3
    COOLDOWN = 10

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(self.THRESHOLD, self.COOLDOWN)
        self.now = 0.0
        self.told = BreakerState.CLOSED
        self.opened_at: float | None = None
        self.probe_out = False
        self.connected_at: float | None = None

    def hear(self, changes: Changes) -> None:
        for change in changes:
            assert change.state is not self.told, "told twice"
            if change.state is BreakerState.HALF_OPEN:
                assert self.told is BreakerState.OPEN
                assert self.opened_at is not None
                cooled = self.now >= self.opened_at + self.COOLDOWN
                assert cooled or self.connected_at == self.now, "half-open before the cool-down was over"
            if change.state is BreakerState.OPEN:
                assert change.failures >= self.THRESHOLD
                self.opened_at = self.now
            self.told = change.state
            self.probe_out = False

    @rule(seconds=st.sampled_from([0, 1, 4, 9.999, 10, 25]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def admit(self) -> None:
        admission, changes = self.breaker.admit(self.now)
        self.hear(changes)
        match self.told:
            case BreakerState.CLOSED:
                assert admission is Admission.PASS
            case BreakerState.OPEN:
                assert admission is Admission.REFUSED
            case BreakerState.HALF_OPEN:
                assert admission is (Admission.REFUSED if self.probe_out else Admission.PROBE), "one probe at a time"
                self.probe_out = True

    @rule()
    def success(self) -> None:
        self.hear(self.breaker.success(self.now))
        assert self.told is not BreakerState.HALF_OPEN, "an answer ends the half-open state"
        if self.told is BreakerState.CLOSED:
            assert self.breaker.failures == 0

    @rule()
    def connected(self) -> None:
        """It never leaves the broker alone for the fault of a connection that is no more."""
        self.connected_at = self.now
        self.hear(self.breaker.connected(self.now))
        self.connected_at = None
        assert self.told is not BreakerState.OPEN

    @rule()
    def calm_means_that_admit_passes_and_success_is_no_news(self) -> None:
        if self.breaker.is_calm:
            assert self.breaker.admit(self.now) == (Admission.PASS, ())
            assert self.breaker.success(self.now) == ()

    @rule(times=st.integers(1, 3))
    def failures(self, times: int) -> None:
        for _ in range(times):
            self.failure()

    def failure(self) -> None:
        before = self.breaker.failures
        was_open = self.breaker.state(self.now) is BreakerState.OPEN
        self.hear(self.breaker.failure(self.now))
        assert self.told is not BreakerState.HALF_OPEN, "an answer ends the half-open state"
        assert self.breaker.failures == before + (not was_open)

    @rule()
    def abandon(self) -> None:
        if self.probe_out:
            self.hear(self.breaker.abandon_probe(self.now))
            self.probe_out = False

    @rule()
    def reset(self) -> None:
        self.hear(self.breaker.reset(self.now))
        assert self.told is BreakerState.CLOSED

    @invariant()
    def a_closed_breaker_is_under_its_threshold_and_an_open_one_says_until_when(self) -> None:
        if self.told is BreakerState.CLOSED:
            assert self.breaker.failures < self.THRESHOLD
        until = None if self.opened_at is None else self.opened_at + self.COOLDOWN
        assert self.breaker.half_opens_at == (until if self.told is BreakerState.OPEN else None)

    @invariant()
    def asking_for_the_state_tells_the_truth_and_changes_nothing(self) -> None:
        state = self.breaker.state(self.now)
        cooled = self.told is BreakerState.OPEN and self.now >= (self.opened_at or 0.0) + self.COOLDOWN
        assert state is (BreakerState.HALF_OPEN if cooled else self.told)
        assert self.breaker.state(self.now) is state

    def teardown(self) -> None:
        """It is never shut for good: after a cool-down, and with no probe on the way, the next attempt is admitted."""
        self.now += self.COOLDOWN
        self.abandon()
        assert self.breaker.admit(self.now)[0] is not Admission.REFUSED


TestTheBreakerAdmitsOneProbeAndIsNeverShutForGood = BreakerUnderFire.TestCase
TestTheBreakerAdmitsOneProbeAndIsNeverShutForGood.settings = histories(50, 40)


@pytest.mark.parametrize("threshold", [1, 2])
def test_the_threshold_is_a_setting(threshold: int) -> None:
    breaker = Breaker(threshold, 30.0)
    changes = [change for _ in range(threshold) for change in breaker.failure(0.0)]
    assert changes == [BreakerChanged(BreakerState.OPEN, threshold)]
