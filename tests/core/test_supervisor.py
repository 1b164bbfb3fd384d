from __future__ import annotations

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from depth import histories
from mlproducer.core.backoff import Backoff
from mlproducer.core.supervisor import (
    RACES,
    TABLE,
    AttemptsSpent,
    CloseLink,
    Connected,
    ConnectFailed,
    Effect,
    Event,
    Exhausted,
    IllegalEvent,
    LinkClosed,
    LinkLost,
    OpenLink,
    ProbeDue,
    ReconnectAsked,
    Started,
    StartTimer,
    StopAsked,
    StopTimer,
    Supervisor,
    SupervisorState,
    TimerFired,
)

BACKOFF = Backoff(first=0.5, cap=32.0, jitter=0.3)
EVENTS: list[Event] = [
    Started(),
    Connected(),
    ConnectFailed(),
    LinkLost(),
    TimerFired(),
    ProbeDue(),
    ReconnectAsked(),
    StopAsked(),
    LinkClosed(),
]

PATHS: dict[SupervisorState, list[Event]] = {
    SupervisorState.IDLE: [],
    SupervisorState.CONNECTING: [Started()],
    SupervisorState.CONNECTED: [Started(), Connected()],
    SupervisorState.WAITING: [Started(), ConnectFailed()],
    SupervisorState.EXHAUSTED: [Started(), ConnectFailed(), TimerFired(), ConnectFailed()],
    SupervisorState.RECONNECTING: [Started(), Connected(), ReconnectAsked()],
    SupervisorState.CLOSING: [Started(), Connected(), StopAsked()],
    SupervisorState.CLOSED: [StopAsked()],
}


def reached(state: SupervisorState, max_attempts: int = 2) -> Supervisor:
    supervisor = Supervisor(BACKOFF, max_attempts)
    for event in PATHS[state]:
        supervisor.on(event, 0.0)
    assert supervisor.state is state
    return supervisor


def run(supervisor: Supervisor, *events: Event, rand: float = 0.0) -> list[Effect]:
    return [effect for event in events for effect in supervisor.on(event, rand)]


def failures(count: int) -> list[Event]:
    """A connect that fails, `count` times, with the waits between."""
    return [ConnectFailed(), *[each for _ in range(count - 1) for each in (TimerFired(), ConnectFailed())]]


def test_a_start_opens_the_link_and_a_connect_ends_the_cycle() -> None:
    supervisor = Supervisor(BACKOFF, 10)
    assert run(supervisor, Started()) == [OpenLink()]
    assert run(supervisor, Connected()) == []


def test_the_metric_of_the_connection_has_a_value_for_each_state() -> None:
    shown = {state.value: reached(state).connection_state.name.lower() for state in SupervisorState}
    assert shown == {
        "idle": "disconnected",
        "connecting": "connecting",
        "connected": "connected",
        "waiting": "disconnected",
        "exhausted": "disconnected",
        "reconnecting": "closing",
        "closing": "closing",
        "closed": "closed",
    }


def test_a_lost_link_is_opened_again_ten_times_after_half_a_second_doubling_to_thirty_two() -> None:
    supervisor = reached(SupervisorState.CONNECTED, 10)
    effects = run(supervisor, LinkLost(), TimerFired(), *failures(10))
    timers = [(e.delay, e.attempt) for e in effects if isinstance(e, StartTimer)]
    assert timers == list(zip([0.5, 1, 2, 4, 8, 16, 32, 32, 32, 32], range(1, 11), strict=True))
    assert effects.count(OpenLink()) == 10
    assert effects[-1] == Exhausted(10)


def test_a_first_connect_is_tried_ten_times_the_first_at_once() -> None:
    effects = run(Supervisor(BACKOFF, 10), Started(), *failures(10))
    assert effects[0] == OpenLink()
    assert [e.delay for e in effects if isinstance(e, StartTimer)] == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]
    assert effects.count(OpenLink()) == 10
    assert effects[-1] == Exhausted(10)


def test_the_wait_has_its_jitter_from_the_shell() -> None:
    (timer,) = run(reached(SupervisorState.CONNECTED), LinkLost(), rand=0.5)
    assert isinstance(timer, StartTimer)
    assert timer.delay == pytest.approx(0.575)


def test_when_exhausted_each_trigger_gives_one_attempt_and_exhaustion_is_told_once() -> None:
    supervisor = reached(SupervisorState.EXHAUSTED)
    for probes in range(1, 4):
        assert run(supervisor, ProbeDue()) == [OpenLink()]
        assert run(supervisor, ProbeDue(), ConnectFailed()) == []
        assert supervisor.state is SupervisorState.EXHAUSTED
        assert supervisor.attempts == 2 + probes


def test_a_slow_probe_that_connects_ends_the_exhaustion() -> None:
    supervisor = reached(SupervisorState.EXHAUSTED)
    run(supervisor, ProbeDue(), Connected())
    assert supervisor.attempts == 0
    assert run(supervisor, LinkLost()) == [StartTimer(0.5, 1)]


def test_an_operator_starts_a_fresh_cycle_at_once_when_exhausted() -> None:
    supervisor = reached(SupervisorState.EXHAUSTED)
    assert run(supervisor, ReconnectAsked()) == [OpenLink()]
    assert supervisor.attempts == 0
    assert run(supervisor, *failures(2))[-1] == Exhausted(2)


def test_an_operator_cuts_a_wait_short() -> None:
    supervisor = reached(SupervisorState.WAITING)
    assert run(supervisor, ReconnectAsked()) == [StopTimer(), OpenLink()]
    assert supervisor.attempts == 0


def test_an_attempt_under_way_is_the_first_of_the_cycle_that_an_operator_asks_for() -> None:
    """Else a slow probe under way would swallow the request, and the next attempt come in 30 s."""
    supervisor = reached(SupervisorState.EXHAUSTED)
    assert run(supervisor, ProbeDue(), ReconnectAsked()) == [OpenLink()]
    assert (supervisor.attempts, supervisor.promising) == (0, True)
    assert run(supervisor, ConnectFailed()) == [StartTimer(0.5, 2)]


def test_an_operator_can_reconnect_a_working_link_which_is_closed_first() -> None:
    supervisor = reached(SupervisorState.CONNECTED)
    assert run(supervisor, ReconnectAsked()) == [CloseLink()]
    assert run(supervisor, LinkLost(), ReconnectAsked()) == []
    assert run(supervisor, LinkClosed()) == [OpenLink()]


def test_a_stop_closes_what_is_open_and_ends_what_waits() -> None:
    assert run(reached(SupervisorState.IDLE), StopAsked()) == []
    assert run(reached(SupervisorState.CONNECTING), StopAsked(), ConnectFailed(), LinkClosed()) == [CloseLink()]
    assert run(reached(SupervisorState.CONNECTED), StopAsked(), LinkClosed()) == [CloseLink()]
    assert run(reached(SupervisorState.WAITING), StopAsked(), TimerFired()) == [StopTimer()]
    assert run(reached(SupervisorState.EXHAUSTED), StopAsked(), ProbeDue()) == []
    assert run(reached(SupervisorState.RECONNECTING), StopAsked(), LinkClosed()) == []


def test_a_connect_that_comes_up_while_we_stop_is_closed_once_more() -> None:
    supervisor = reached(SupervisorState.CONNECTING)
    assert run(supervisor, StopAsked(), Connected()) == [CloseLink(), CloseLink()]
    assert run(supervisor, LinkClosed(), LinkClosed()) == []
    late = reached(SupervisorState.CONNECTING)
    assert run(late, StopAsked(), LinkClosed(), Connected(), LinkClosed()) == [CloseLink(), CloseLink()]
    assert late.state is SupervisorState.CLOSED


def test_what_is_seen_in_a_debugger_says_the_state() -> None:
    assert repr(reached(SupervisorState.WAITING)) == "<Supervisor waiting failures=1>"


def test_no_pair_is_both_in_the_table_and_a_race() -> None:
    races = {(state, event) for event, states, _ in RACES for state in states}
    assert races.isdisjoint(TABLE)


@pytest.mark.parametrize("state", SupervisorState)
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_each_event_in_each_state_is_in_the_table_or_a_race_or_illegal(state: SupervisorState, event: Event) -> None:
    supervisor = reached(state)
    before = (supervisor.state, supervisor.attempts, supervisor._cycle)
    if (state, type(event)) in TABLE:
        supervisor.on(event, 0.0)
        # max_attempts is 2 and PATHS has one failure at most in CONNECTING, so ConnectFailed is not the last here.
        assert supervisor.state is TABLE[state, type(event)][0]
        return
    if any(type(event) is late and state in states for late, states, _ in RACES):
        assert supervisor.on(event, 0.0) == ()
    else:
        with pytest.raises(IllegalEvent, match=f"{type(event).__name__} cannot happen while {state}"):
            supervisor.on(event, 0.0)
    assert (supervisor.state, supervisor.attempts, supervisor._cycle) == before


def test_only_these_pairs_are_illegal() -> None:
    """A list to read: what the shell must never do."""
    races = {(state, event) for event, states, _ in RACES for state in states}
    legal = races | {pair for pair in TABLE if pair[1] is not AttemptsSpent}
    illegal = {(state, type(event)) for state in SupervisorState for event in EVENTS} - legal
    s = SupervisorState
    assert illegal == {
        *((state, Started) for state in s if state is not s.IDLE),
        *((s.IDLE, type(event)) for event in EVENTS if type(event) not in {Started, StopAsked}),
        *((state, Connected) for state in (s.CONNECTED, s.WAITING, s.EXHAUSTED, s.RECONNECTING)),
        *((state, ConnectFailed) for state in (s.CONNECTED, s.WAITING, s.EXHAUSTED, s.RECONNECTING)),
        *((state, LinkClosed) for state in (s.CONNECTING, s.CONNECTED, s.WAITING, s.EXHAUSTED)),
    }


def leads_to_open_link(supervisor: Supervisor, depth: int = 3) -> bool:
    """Is there a chain of at most `depth` events after which the link is opened?"""
    for event in EVENTS:
        ahead = copy.deepcopy(supervisor)
        try:
            effects = ahead.on(event, 0.0)
        except IllegalEvent:
            continue
        if OpenLink() in effects or (depth > 1 and leads_to_open_link(ahead, depth - 1)):
            return True
    return False


@pytest.mark.parametrize("state", SupervisorState)
def test_it_is_never_dead_for_good_unless_it_was_stopped(state: SupervisorState) -> None:
    stopped = {SupervisorState.CLOSING, SupervisorState.CLOSED}
    assert leads_to_open_link(reached(state)) is (state not in stopped)


class ShellOfTheSupervisor(RuleBasedStateMachine):
    """A shell as asyncio gives it: one connect, one timer, closes, and callbacks that may come a turn too late."""

    def __init__(self) -> None:
        super().__init__()
        self.supervisor = Supervisor(BACKOFF, max_attempts=3)
        self.connecting = False
        self.link_up = False
        self.closes = 0
        self.timer = False
        self.late_timers = 0
        self.asked_to_stop = False
        self.exhausted_told = 0
        self.feed(Started())

    def feed(self, event: Event) -> None:
        for effect in self.supervisor.on(event, 0.0):
            self.perform(effect)

    def perform(self, effect: Effect) -> None:
        match effect:
            case OpenLink():
                assert not self.connecting, "two OpenLinks outstanding"
                assert not self.link_up, "opened over a link that is up"
                assert not self.asked_to_stop, "opened after the stop"
                self.connecting = True
            case CloseLink():
                assert self.connecting or self.link_up, "closed what was never opened"
                self.closes += 1
            case StartTimer(delay=delay, attempt=attempt):
                assert not self.timer, "two timers"
                assert 0.5 <= delay <= 32
                assert attempt == self.supervisor.attempts + 1
                assert attempt <= 3, "a wait after the last attempt"
                self.timer = True
            case StopTimer():
                assert self.timer, "stopped a timer that does not run"
                self.timer = False
                self.late_timers += 1  # its call may be queued already
            case Exhausted(attempts=attempts):
                assert attempts == 3
                self.exhausted_told += 1
                assert self.exhausted_told == 1, "exhaustion told twice in one cycle"

    @precondition(lambda self: self.connecting)
    @rule()
    def connect_succeeds(self) -> None:
        self.connecting, self.link_up = False, True
        self.exhausted_told = 0
        self.feed(Connected())

    @precondition(lambda self: self.connecting)
    @rule()
    def connect_fails(self) -> None:
        self.connecting = False
        self.feed(ConnectFailed())

    @precondition(lambda self: self.link_up)
    @rule(twice=st.booleans())
    def link_breaks(self, twice: bool) -> None:  # noqa: FBT001  # drawn by Hypothesis
        self.link_up = False
        self.feed(LinkLost())
        if twice:  # the reader and the health check
            self.feed(LinkLost())

    @precondition(lambda self: self.timer)
    @rule()
    def timer_fires(self) -> None:
        self.timer = False
        self.feed(TimerFired())

    @precondition(lambda self: self.late_timers and not self.timer)
    @rule()
    def cancelled_timer_fires_all_the_same(self) -> None:
        self.late_timers -= 1
        self.feed(TimerFired())

    @precondition(lambda self: self.closes)
    @rule()
    def close_is_done(self) -> None:
        self.closes -= 1
        self.link_up = False
        self.feed(LinkClosed())

    @rule()
    def health_check_or_breaker(self) -> None:
        self.feed(ProbeDue())

    @rule()
    def operator_reconnects(self) -> None:
        self.exhausted_told = 0
        self.feed(ReconnectAsked())

    @rule()
    def stop(self) -> None:
        self.asked_to_stop = True
        self.feed(StopAsked())

    @invariant()
    def the_state_says_what_is_under_way(self) -> None:
        match self.supervisor.state:
            case SupervisorState.CONNECTING:
                assert self.connecting
            case SupervisorState.CONNECTED:
                assert self.link_up
            case SupervisorState.WAITING:
                assert self.timer
            case SupervisorState.RECONNECTING | SupervisorState.CLOSING:
                assert self.closes
            case SupervisorState.EXHAUSTED:
                assert not any((self.connecting, self.link_up, self.timer))
                assert not self.asked_to_stop
            case SupervisorState.CLOSED:
                assert self.asked_to_stop
                assert not self.timer
            case _:
                pytest.fail("idle after the start")

    @invariant()
    def some_trigger_leads_to_a_connect_unless_it_was_stopped(self) -> None:
        if not self.asked_to_stop:
            assert self.connecting or leads_to_open_link(self.supervisor)

    def teardown(self) -> None:
        """Let everything that is under way come in, and stop: no link is left up, nothing waits."""
        if self.link_up and not self.closes and self.asked_to_stop:
            pytest.fail("a link is up after the stop and nobody closes it")
        self.stop()
        if self.connecting:
            self.connect_succeeds()
        while self.closes:
            self.close_is_done()
        assert self.supervisor.state is SupervisorState.CLOSED
        assert not self.link_up


TestTheSupervisorKeepsOneLinkAndIsNeverDeadForGood = ShellOfTheSupervisor.TestCase
TestTheSupervisorKeepsOneLinkAndIsNeverDeadForGood.settings = histories(50, 40)


def _after(events: list[Event], hosts: int) -> Supervisor:
    supervisor = Supervisor(BACKOFF, 10, hosts=hosts)
    for event in events:
        supervisor.on(event, 0.0)
    return supervisor


@pytest.mark.parametrize(
    ("events", "opening", "promising"),
    [
        ([], False, False),
        ([Started()], True, True),
        ([Started(), ConnectFailed()], True, True),
        ([Started(), ConnectFailed(), TimerFired()], True, True),
        ([Started(), ConnectFailed(), TimerFired(), ConnectFailed()], False, False),
        ([Started(), Connected()], False, True),
        ([Started(), Connected(), LinkLost()], False, True),
        ([Started(), Connected(), LinkLost(), TimerFired(), ConnectFailed()], False, True),
        ([Started(), StopAsked()], False, False),
    ],
)
def test_the_first_connect_is_waited_for_until_each_host_had_its_attempt(
    events: list[Event],
    *,
    opening: bool,
    promising: bool,
) -> None:
    supervisor = _after(events, hosts=2)
    assert (supervisor.opening, supervisor.promising) == (opening, promising)
