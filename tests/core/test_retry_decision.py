from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from depth import histories
from mlproducer.core.backoff import Backoff
from mlproducer.core.retry import Dead, RetryPolicy, Settled, Wait, cause_of, decide
from mlproducer.outcome import (
    Confirmed,
    Failure,
    Nacked,
    NotSent,
    NotSentCause,
    Outcome,
    Returned,
    Unsure,
    UnsureCause,
)

POLICY = RetryPolicy(3, Backoff(first=1.0, cap=10.0, jitter=0.3))
NOW = 1_700_000_000.0

FAULTS: dict[Outcome, str] = {
    Nacked(): "nacked",
    Returned(312, "NO_ROUTE"): "returned",
    NotSent(NotSentCause.CHANNEL_REFUSED, 404, "no exchange 'ml.tasks'"): "channel_refused",
    NotSent(NotSentCause.TOO_LARGE): "too_large",
}
OUTAGES: list[Outcome] = [
    *(Unsure(cause, "reset by peer") for cause in UnsureCause),
    *(
        NotSent(cause, None, "waits for the link")
        for cause in NotSentCause
        if cause not in {NotSentCause.CHANNEL_REFUSED, NotSentCause.TOO_LARGE}
    ),
]


def ask(outcome: Outcome, *, attempts: int = 0, expires_at: float | None = None) -> Settled | Wait | Dead:
    return decide(outcome, attempts=attempts, policy=POLICY, now=NOW, rand=0.5, expires_at=expires_at)


@pytest.mark.parametrize("attempts", [0, 2, 3, 99])
def test_a_confirmed_task_is_settled_however_often_it_failed_before(attempts: int) -> None:
    assert ask(Confirmed(), attempts=attempts) == Settled()


@pytest.mark.parametrize("outage", OUTAGES, ids=cause_of)
@pytest.mark.parametrize("attempts", [0, 2])
def test_an_outage_spends_no_attempt_and_the_task_is_due_at_once(outage: Outcome, attempts: int) -> None:
    decision = ask(outage, attempts=attempts)
    assert isinstance(decision, Wait)
    assert (decision.delay, decision.attempts, decision.cause) == (0.0, attempts, cause_of(outage))
    assert decision.text


@pytest.mark.parametrize(
    "fault",
    [
        Nacked(),
        Returned(312, "NO_ROUTE"),
        NotSent(NotSentCause.CHANNEL_REFUSED, 404),
        Unsure(UnsureCause.CONFIRM_TIMEOUT),
        NotSent(NotSentCause.ROUTE_HELD),
    ],
    ids=cause_of,
)
@pytest.mark.parametrize("attempts", [0, 2, 99])
def test_a_fault_of_the_route_spends_none_and_its_message_comes_after_those_that_were_not_tried(
    fault: Failure, attempts: int
) -> None:
    decision = ask(replace(fault, held_for=7.0), attempts=attempts)
    assert isinstance(decision, Wait)
    tried = fault != NotSent(NotSentCause.ROUTE_HELD)
    assert (decision.delay, decision.attempts, decision.cause) == (7.0 * tried, attempts, cause_of(fault))


@pytest.mark.parametrize("fault", FAULTS, ids=cause_of)
def test_a_fault_of_the_message_spends_an_attempt_and_waits_longer_each_time(fault: Outcome) -> None:
    first, second = ask(fault, attempts=0), ask(fault, attempts=1)
    assert isinstance(first, Wait)
    assert isinstance(second, Wait)
    assert [first.attempts, second.attempts] == [1, 2]
    assert [first.delay, second.delay] == pytest.approx([1.15, 2.3])
    assert first.cause == FAULTS[fault]
    assert first.text


@pytest.mark.parametrize("fault", FAULTS, ids=cause_of)
def test_the_third_fault_of_the_message_buries_it_with_its_reason(fault: Outcome) -> None:
    decision = ask(fault, attempts=2)
    assert isinstance(decision, Dead)
    assert (decision.reason, decision.attempts) == (FAULTS[fault], 3)
    assert decision.text


def test_a_dead_letter_keeps_the_reply_code_and_text() -> None:
    decision = ask(Returned(312, "NO_ROUTE"), attempts=2)
    assert decision == Dead("returned", 312, "no queue is bound for its routing key (312 NO_ROUTE)", 3)
    refused = ask(NotSent(NotSentCause.CHANNEL_REFUSED, 404, "no exchange 'x'"), attempts=2)
    assert refused == Dead("channel_refused", 404, "no exchange 'x'", 3)


@pytest.mark.parametrize("outcome", [*FAULTS, *OUTAGES], ids=cause_of)
def test_only_a_message_that_closed_or_may_have_closed_its_channel_goes_alone(outcome: Outcome) -> None:
    decision = ask(outcome)
    assert isinstance(decision, Wait)
    assert decision.alone is (cause_of(outcome) == "channel_refused")


@pytest.mark.parametrize("outcome", [*FAULTS, *OUTAGES], ids=cause_of)
def test_an_expired_task_that_is_not_confirmed_is_dead_as_expired_and_says_what_came_before(outcome: Outcome) -> None:
    decision = ask(outcome, attempts=1, expires_at=NOW)
    assert isinstance(decision, Dead)
    assert (decision.reason, decision.attempts) == ("expired", 2 if outcome in FAULTS else 1)
    assert cause_of(outcome) in decision.text


def test_a_task_confirmed_after_its_expiry_is_settled() -> None:
    assert ask(Confirmed(), expires_at=NOW - 1) == Settled()


def test_a_task_that_expires_later_is_tried_again() -> None:
    assert isinstance(ask(Nacked(), expires_at=NOW + 1), Wait)


def test_causes_are_the_labels_of_the_metrics() -> None:
    assert {cause_of(outcome) for outcome in [Confirmed(), *FAULTS, *OUTAGES]} == {
        "confirmed",
        "nacked",
        "returned",
        *UnsureCause,
        *NotSentCause,
    }


@settings(deadline=None)
@given(
    st.sampled_from([Confirmed(), *FAULTS, *OUTAGES]),
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.floats(0, 1, exclude_max=True),
)
def test_whatever_happened_a_wait_is_in_bounds_and_death_needs_all_attempts(
    outcome: Outcome, attempts: int, max_attempts: int, rand: float
) -> None:
    policy = RetryPolicy(max_attempts, POLICY.backoff)
    decision = decide(outcome, attempts=attempts, policy=policy, now=NOW, rand=rand, expires_at=None)
    match decision:
        case Settled():
            assert outcome == Confirmed()
        case Wait():
            assert 0.0 <= decision.delay <= 13.0
            assert decision.attempts == attempts + (outcome in FAULTS)
            assert outcome not in FAULTS or decision.attempts < max_attempts
        case Dead():
            assert outcome in FAULTS
            assert decision.attempts == attempts + 1 >= max_attempts


class OneTaskThroughTheMill(RuleBasedStateMachine):
    """One task is tried again for as long as the decision says so; then comes the next."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.next_task()

    @precondition(lambda self: self.end is not None)
    @rule()
    def next_task(self) -> None:
        self.expires_at = self.now + 1_000
        self.faults = 0
        self.row = Wait(0.0, 0, "", "", alone=False)
        self.end: Settled | Dead | None = None

    def attempt(self, outcome: Outcome) -> None:
        self.now += self.row.delay
        decision = decide(
            outcome, attempts=self.row.attempts, policy=POLICY, now=self.now, rand=0.1, expires_at=self.expires_at
        )
        if isinstance(decision, Wait):
            assert decision.delay >= 0.0
            self.row = decision
        else:
            self.end = decision

    @precondition(lambda self: self.end is None)
    @rule(seconds=st.integers(0, 300))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.end is None)
    @rule(outage=st.sampled_from(OUTAGES))
    def outage(self, outage: Outcome) -> None:
        before = self.row.attempts
        self.attempt(outage)
        if self.end is None:
            assert self.row.attempts == before == self.faults
        else:
            self.check_expired()

    @precondition(lambda self: self.end is None)
    @rule(fault=st.sampled_from(list(FAULTS)))
    def fault(self, fault: Outcome) -> None:
        self.faults += 1
        self.attempt(fault)
        if isinstance(self.end, Dead) and self.end.reason != "expired":
            assert self.faults == self.end.attempts == POLICY.max_attempts
            assert self.end.reason == FAULTS[fault]
        elif self.end is None:
            assert self.row.attempts == self.faults < POLICY.max_attempts
        else:
            self.check_expired()

    @precondition(lambda self: self.end is None)
    @rule()
    def confirm(self) -> None:
        self.attempt(Confirmed())
        assert self.end == Settled()

    def check_expired(self) -> None:
        assert isinstance(self.end, Dead)
        assert self.end.reason == "expired"
        assert self.now >= self.expires_at

    def teardown(self) -> None:
        """Whatever came before, three faults at most end it: nothing is retried for ever."""
        for _ in range(POLICY.max_attempts):
            if self.end is None:
                self.attempt(Nacked())
        assert self.end is not None


TestATaskIsTriedAgainUntilItIsConfirmedExpiredOrFaultedThreeTimes = OneTaskThroughTheMill.TestCase
TestATaskIsTriedAgainUntilItIsConfirmedExpiredOrFaultedThreeTimes.settings = histories(50, 30)
