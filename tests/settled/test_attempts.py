"""Whatever an attempt comes to, it gives back all that it took: its place in the window, in its route's share, and the
permits of breaker and route.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlproducer.core.admission import Load, Window
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Breaker
from mlproducer.core.confirm_waits import ConfirmWaits
from mlproducer.core.retry import cause_of
from mlproducer.core.routes import Routes
from mlproducer.delivery.attempts import Attempts
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.route_watch import FREE, RouteWatch, Tried
from mlproducer.events import AttemptSettled, BreakerState, Event, RouteState
from mlproducer.outcome import (
    EVERY_ROUTE,
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
from mlproducer.ports import Settle
from mlproducer.task import Envelope
from mlproducer.testing.broker import FakeBroker
from mlproducer.testing.clock import ManualClock

EVERY: list[Outcome] = [
    Confirmed(),
    Nacked(),
    Returned(312, "NO_ROUTE"),
    *(Unsure(cause) for cause in UnsureCause),
    *(NotSent(cause) for cause in NotSentCause),
    OF_ALL := NotSent(NotSentCause.CHANNEL_REFUSED, 403, "no right to write", route=EVERY_ROUTE),
]
"""Each kind, so that a new one is tried too."""
KEYS = ("ml.embed", "ml.summarize", "ml.transcribe")
PATIENCES = (0.0, 300.0)


class KeepingBroker(FakeBroker):
    """Keeps each attempt until the test answers it."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Settle] = []
        self.in_the_way: NotSentCause | None = None

    @property
    def obstacle(self) -> NotSentCause | None:
        return self.in_the_way

    def publish(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        del envelope, deadline, alone
        self.kept.append(settle)


@dataclass
class Desk:
    """Attempts with all that they ask, on a clock that stands still."""

    patience: float
    window: Window
    threshold: int = 3
    clock: ManualClock = field(default_factory=ManualClock)
    broker: KeepingBroker = field(default_factory=KeepingBroker)
    events: list[Event] = field(default_factory=list)
    answers: list[list[Outcome]] = field(default_factory=list)
    """Of each attempt."""

    def __post_init__(self) -> None:
        self.guard = Guard(Breaker(self.threshold, 30.0), self.clock, self.events.append, lambda: None)
        self.machine = Routes(Backoff(1.0, 10.0, 0.0), self.patience)
        self.exchange = Routes(Backoff(1.0, 10.0, 0.0), self.patience)
        self.routes = RouteWatch(self.machine, self.exchange, self.clock, self.events.append, None)
        waits = ConfirmWaits(5.0, 30.0)
        self.attempts = Attempts(
            self.broker, self.guard, self.routes, self.clock, self.events.append, self.window, waits
        )

    def start(self, key: str, size: int) -> None:
        answers: list[Outcome] = []
        envelope = Envelope(f"t{len(self.answers)}", "embed_vectors", key, b"", b"x" * size)
        self.answers.append(answers)
        self.attempts.start(envelope, answers.append, deadline=self.clock.monotonic() + 5)

    def loads(self) -> list[Load]:
        return [self.attempts._load, *(self.machine.of(key).load for key in KEYS)]

    def check_nothing_is_kept(self) -> None:
        assert [len(answers) for answers in self.answers] == [1] * len(self.answers), "each is told its outcome once"
        assert [(load.tasks, load.bytes) for load in self.loads()] == [(0, 0)] * len(self.loads())
        assert self.attempts.room() == self.window.max_tasks
        routes = [self.exchange.of(EVERY_ROUTE), *map(self.machine.of, KEYS)]
        assert not any(route.state is RouteState.PROBING for route in routes), "its permit came back"

    def check_a_probe_may_go(self) -> None:
        """After whatever wait, the next attempt of each route is let through: nobody sits on a permit."""
        self.clock.advance(3_600)
        for key in KEYS:
            self.start(key, 1)
            for settle in self.take():
                settle(Confirmed())
            assert self.answers[-1] == [Confirmed()], key
        assert self.guard.state() is BreakerState.CLOSED

    def take(self) -> list[Settle]:
        taken, self.broker.kept = self.broker.kept, []
        return taken


@pytest.mark.parametrize("patience", PATIENCES)
@pytest.mark.parametrize("outcome", EVERY, ids=cause_of)
async def test_an_attempt_gives_back_its_place_whatever_it_comes_to(outcome: Outcome, patience: float) -> None:
    desk = Desk(patience, Window(10, 1_000))
    desk.start("ml.embed", 7)
    assert (desk.attempts.room(), desk.attempts._load.bytes) == (9, 7)
    for settle in desk.take():
        settle(outcome)
    desk.check_nothing_is_kept()
    desk.check_a_probe_may_go()
    desk.guard.stop()


@pytest.mark.parametrize("outcome", EVERY, ids=cause_of)
async def test_a_probe_of_the_breaker_and_of_a_route_is_given_back_whatever_it_comes_to(outcome: Outcome) -> None:
    desk = Desk(300.0, Window(10, 1_000))
    for _ in range(desk.threshold):
        desk.guard.failure()
    desk.routes.judge(desk.machine.of("ml.embed"), Tried("other", 0, FREE), Nacked())
    desk.clock.advance(60)
    desk.start("ml.embed", 7)
    (probe,) = desk.take()
    desk.start("ml.embed", 7)
    assert not desk.take(), "one at a time"
    probe(outcome)
    desk.check_nothing_is_kept()
    desk.check_a_probe_may_go()
    desk.guard.stop()


@given(data=st.data(), patience=st.sampled_from(PATIENCES))
def test_after_any_history_of_attempts_nothing_is_kept_and_each_was_answered_once(
    data: st.DataObject, patience: float
) -> None:
    asyncio.run(_any_history(data, patience))


async def _any_history(data: st.DataObject, patience: float) -> None:
    """Small windows, so that they are full at times; the breaker opens, routes are held, the link comes and goes."""
    desk = Desk(patience, Window(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 30))))
    out: list[Settle] = []
    for _ in range(data.draw(st.integers(1, 25))):
        match data.draw(st.sampled_from(["start", "start", "answer", "wait", "link"])):
            case "start":
                desk.start(data.draw(st.sampled_from(KEYS)), data.draw(st.integers(0, 20)))
                out += desk.take()
            case "answer" if out:
                out.pop(data.draw(st.integers(0, len(out) - 1)))(data.draw(st.sampled_from(EVERY)))
            case "wait":
                desk.clock.advance(data.draw(st.sampled_from([0.5, 2.0, 31.0])))
            case _:
                desk.broker.in_the_way = data.draw(st.sampled_from([None, None, NotSentCause.BLOCKED]))
        assert desk.attempts._load.tasks == len(out) <= desk.window.max_tasks
    while out:
        out.pop()(data.draw(st.sampled_from(EVERY)))
    desk.check_nothing_is_kept()
    desk.broker.in_the_way = None
    desk.check_a_probe_may_go()
    told = sum(isinstance(event, AttemptSettled) for event in desk.events)
    assert told <= len(desk.answers)
    desk.guard.stop()


@pytest.mark.parametrize("held_by", [Nacked(), OF_ALL], ids=["a route", "all of the exchange"])
@pytest.mark.parametrize("full_of", [Window(1, 10**9), Window(10**9, 1)], ids=["tasks", "bytes"])
async def test_an_attempt_that_a_full_window_turns_away_keeps_no_probe_of_breaker_or_route(
    full_of: Window, held_by: Failure
) -> None:
    desk = Desk(300.0, full_of)
    desk.start("ml.embed", 5)
    (held,) = desk.take()  # in flight, and the window is full of it
    for _ in range(3):
        desk.guard.failure()
    desk.routes.judge(desk.machine.of("ml.summarize"), Tried("other", 0, FREE), held_by)
    desk.clock.advance(60)
    assert desk.guard.state() is BreakerState.HALF_OPEN
    desk.start("ml.summarize", 5)
    (turned_away,) = desk.answers[-1]
    assert turned_away == NotSent(NotSentCause.WINDOW_FULL)
    held(Unsure(UnsureCause.CONNECTION_LOST))
    desk.check_nothing_is_kept()
    desk.check_a_probe_may_go()
    desk.guard.stop()
