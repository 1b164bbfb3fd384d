"""One way to start an attempt, for new tasks and for the drain alike: route, publish, measure, judge."""

from __future__ import annotations

from dataclasses import dataclass

from mlproducer.core.admission import Detour, Window, route
from mlproducer.core.breaker import Admission
from mlproducer.delivery.guard import Guard
from mlproducer.events import AttemptSettled
from mlproducer.outcome import NotSent, Outcome
from mlproducer.ports import Broker, Clock, Listener, Settle
from mlproducer.task import Envelope


class Attempts:
    """Starts attempts on the broker as far as link, breaker and window admit them."""

    def __init__(self, broker: Broker, guard: Guard, clock: Clock, tell: Listener, window: Window) -> None:
        self._broker = broker
        self._guard = guard
        self._clock = clock
        self._tell = tell
        self._window = window

    def start(self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False) -> None:
        """Promise `settle` exactly once; at once with `NotSent` where the attempt is not admitted."""
        guard = self._guard
        admission = guard.admit()
        way = route(self._broker.view(), admission, size=envelope.size, window=self._window)
        if isinstance(way, Detour):
            guard.release(admission)
            settle(NotSent(way.cause))
            return
        attempt = _Attempt(self, envelope, settle, admission, self._clock.monotonic())
        self._broker.publish(envelope, attempt, deadline=deadline, alone=alone)

    def settled(self, attempt: _Attempt, outcome: Outcome) -> None:
        """The broker's answer: for the breaker, for the metrics, for who waits."""
        self._guard.judge(outcome, attempt.admission)
        envelope, duration = attempt.envelope, self._clock.monotonic() - attempt.started
        self._tell(AttemptSettled(envelope.task_id, envelope.task_type, outcome, duration, envelope.size))
        attempt.settle(outcome)


@dataclass(slots=True)
class _Attempt:
    """One attempt on the broker; it is its own settle callback, so that an attempt costs one object here."""

    attempts: Attempts
    envelope: Envelope
    settle: Settle
    admission: Admission
    started: float

    def __call__(self, outcome: Outcome) -> None:
        self.attempts.settled(self, outcome)
