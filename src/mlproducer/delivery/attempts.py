"""One way to start an attempt, for new tasks and for the drain alike: ask for the way, publish, measure, judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from msgspec import Struct

from mlproducer.core.admission import Load, Window, obstacle_to
from mlproducer.core.breaker import Admission
from mlproducer.core.confirm_waits import ConfirmWaits
from mlproducer.core.quiet import EVERY
from mlproducer.core.routes import Route, Tenant
from mlproducer.delivery.guard import Guard
from mlproducer.delivery.route_watch import FREE, RouteWatch, Tried, Ways
from mlproducer.events import AnsweredLate, AttemptSettled, ConfirmWaitChanged
from mlproducer.outcome import (
    Confirmed,
    Failure,
    LateAnswer,
    NotSent,
    NotSentCause,
    Outcome,
    Unsure,
    blocked_text,
)
from mlproducer.ports import Broker, Clock, Listener, Settle
from mlproducer.task import Envelope

_NOT_SENT: Final = {cause: NotSent(cause) for cause in NotSentCause}


class Attempts:
    """Starts attempts on the broker as far as link, breaker, route and window admit them."""

    def __init__(
        self,
        broker: Broker,
        guard: Guard,
        routes: RouteWatch,
        clock: Clock,
        tell: Listener,
        window: Window,
        waits: ConfirmWaits,
    ) -> None:
        self._broker = broker
        self._guard = guard
        self._routes = routes
        self._monotonic = clock.monotonic
        self._tell = tell
        self._window = window
        self._waits = waits
        self.on_time = True
        """No route's answers come late, so that `wait_for` is the same for all."""
        # Counted here and not asked of the link: each attempt is settled exactly once, whatever became of its channel.
        self._load = Load()
        self._begun = 0
        self._heard_at = 0.0
        """When the broker last answered an attempt, or the first one of those in flight began."""
        self._confirmed = 0
        self._answering = 0
        """The last attempt that had begun when `answers` was told."""

    def start(
        self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False, attempt: int = 1
    ) -> None:
        """Promise `settle` exactly once; at once with `NotSent` where the attempt is not admitted.

        `attempt` counts from 1 the attempts spent before plus this one.
        """
        size, obstacle, load = envelope.size, self._broker.obstacle, self._load
        parts = self._routes.parts(envelope)
        route = parts[0]
        # With no link neither route nor breaker is asked: it would be given back what it gave.
        way = FREE if obstacle is not None or self._routes.free(route) else self._routes.admit(route)
        refused = way is not FREE and way.refused
        calm = self._guard.calm or obstacle is not None or refused
        admission = Admission.PASS if calm else self._guard.admit(of_route=way is not FREE)
        cause = obstacle_to(
            obstacle,
            admission,
            route_refused=refused,
            size=size,
            window=self._window,
            all_in_flight=load,
            parts=() if self._routes.alone(parts) else parts,
            quiet=route.hearing.quiet,
        )
        if cause is not None:
            self._guard.release(admission)
            self._routes.release(route, way)
            settle(self._routes.held(route) if cause is NotSentCause.ROUTE_HELD else self._not_sent(cause))
            return
        alone = alone or (way is not FREE and self._routes.goes_alone(route))
        self._begun = turn = self._begun + 1
        now = self._monotonic()
        if not load.tasks:
            self._heard_at = now
        load.add(size)
        if not route.load.tasks:
            route.hearing.heard(now, self._confirmed)
        for part in parts:
            part.load.add(size)
        if not turn % EVERY:
            self._listen()
        answer = _Attempt(self, envelope, size, settle, admission, parts, way, turn, now, attempt)
        self._broker.publish(envelope, answer, deadline=deadline, alone=alone)

    def _listen(self) -> None:
        if not self._routes.lonely and self._routes.fell_quiet(self._confirmed):
            self._broker.move()

    def answers(self) -> None:
        """The broker has opened a channel in the place of one on which it confirmed nothing. Race: some of those on the
        old channel time out before that, and others after it: these are no news of the broker any more.
        """
        self._answering = self._begun
        self._guard.answers()

    def wait_for(self, route: str) -> float:
        """Seconds for which an attempt on it waits for its confirm."""
        return self._waits.of(route)

    def late_routes(self) -> dict[str, float]:
        """Those whose answers come late, and how many seconds each is waited for."""
        return self._waits.late_routes()

    def hopeless(self) -> NotSent | None:
        """What an attempt would come to if nothing can be published now, whatever it is."""
        obstacle = self._broker.obstacle
        return None if obstacle is None else self._not_sent(obstacle)

    def _not_sent(self, cause: NotSentCause) -> NotSent:
        if cause is NotSentCause.BLOCKED:
            return NotSent(cause, text=blocked_text(self._broker.view().alarm))
        return _NOT_SENT[cause]

    def room(self) -> int:
        """How many more tasks the window takes."""
        return max(0, self._window.max_tasks - self._load.tasks)

    def silent_for(self) -> float:
        """Seconds since the broker answered an attempt, while some are in flight; else 0."""
        return self._monotonic() - self._heard_at if self._load.tasks else 0.0

    def settled(self, attempt: _Attempt, outcome: Outcome) -> None:
        """The broker's answer: for route and breaker, for who waits, for the metrics."""
        envelope, size, route = attempt.envelope, attempt.size, attempt.parts[0]
        self._load.remove(size)
        for part in attempt.parts:
            part.load.remove(size)
        now = self._monotonic()
        if type(outcome) is not Unsure:
            self._heard_at = now
        duration, number = now - attempt.started, attempt.number
        if isinstance(outcome, Confirmed):
            self._passed(attempt, route)
            if not self.on_time:
                self._waited(self._waits.answered(route.key, duration))
        else:
            outcome = self._failed(attempt, outcome)
        route.hearing.heard(now, self._confirmed)
        attempt.settle(outcome)
        self._tell(AttemptSettled(envelope.task_id, envelope.task_type, outcome, duration, attempt.size, number))

    def _passed(self, attempt: _Attempt, route: Route) -> None:
        self._confirmed += 1
        route.passed = max(route.passed, attempt.turn)
        if not self._routes.calm:
            self._routes.confirmed(route, attempt.tried)
        if not self._guard.calm:
            self._guard.success()

    def _failed(self, attempt: _Attempt, outcome: Failure) -> Failure:
        # Asked of all routes, so only where the breaker minds it.
        of_route = isinstance(outcome, Unsure) and self._is_of_route(attempt)
        self._guard.judge(outcome, attempt.admission, of_route=of_route)
        outcome = self._routes.judge(attempt.route, attempt.tried, outcome)
        if isinstance(outcome, Unsure) and outcome.late is not None:
            heard, told = outcome.late, LateAnswer(outcome.late.window)
            heard.listen(partial(self._late, attempt, told))
            return replace(outcome, late=told)
        return outcome

    def _is_of_route(self, attempt: _Attempt) -> bool:
        """That nobody answered it tells nothing of the broker: its route was known to fail, or the broker answered
        something that it was asked later.
        """
        return attempt.way is not FREE or attempt.turn <= self._answering or attempt.turn < self._routes.passed

    def _late(self, attempt: _Attempt, told: LateAnswer, outcome: Outcome) -> None:
        """How an attempt that was given up ended after all: judged as any, and told to who has its task."""
        if not isinstance(outcome, Unsure):
            self._heard_at = self._monotonic()
            outcome = self._judged_late(attempt, outcome)
            duration = self._heard_at - attempt.started
            self._waited(self._waits.answered_late(attempt.route.key, duration))
            self._tell(AnsweredLate(attempt.envelope.task_id, attempt.envelope.task_type, outcome, duration))
        told.tell(outcome)

    def _judged_late(self, attempt: _Attempt, outcome: Outcome) -> Outcome:
        # As no probe, whatever it was: that was judged when its time was over.
        tried = Tried(attempt.envelope.task_id, attempt.turn, FREE)
        self._guard.answered_late()
        if not isinstance(outcome, Confirmed):
            return self._routes.judge(attempt.route, tried, outcome)
        self._routes.confirmed_late(attempt.route, tried)
        return outcome

    def _waited(self, changes: Iterable[ConfirmWaitChanged]) -> None:
        self.on_time = self._waits.calm
        for change in changes:
            self._tell(change)


class _Attempt(Struct, eq=False):
    """One attempt on the broker; it is its own settle callback, so that an attempt costs one object here."""

    attempts: Attempts
    envelope: Envelope
    size: int
    settle: Settle
    admission: Admission
    parts: tuple[Route, *tuple[Tenant, ...]]
    way: Ways
    turn: int
    """Its number among all attempts of this process."""
    started: float
    number: int

    def __call__(self, outcome: Outcome) -> None:
        self.attempts.settled(self, outcome)

    @property
    def route(self) -> Route:
        return self.parts[0]

    @property
    def tried(self) -> Tried:
        return Tried(self.envelope.task_id, self.turn, self.way)
