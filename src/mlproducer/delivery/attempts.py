"""One way to start an attempt, for new tasks and for the drain alike: route, publish, measure, judge."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from mlproducer.core.admission import Window, route
from mlproducer.core.breaker import Admission
from mlproducer.delivery.guard import Guard
from mlproducer.events import AttemptSettled
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.ports import Broker, Clock, Listener, Settle
from mlproducer.task import Envelope

_NOT_SENT: Final = {cause: NotSent(cause) for cause in NotSentCause}


class Attempts:
    """Starts attempts on the broker as far as link, breaker and window admit them."""

    def __init__(self, broker: Broker, guard: Guard, clock: Clock, tell: Listener, window: Window) -> None:
        self._broker = broker
        self._guard = guard
        self._monotonic = clock.monotonic
        self._tell = tell
        self._window = window
        # Counted here and not asked of the link: each attempt is settled exactly once, whatever became of its channel.
        self._in_flight = 0
        self._bytes = 0

    def start(
        self, envelope: Envelope, settle: Settle, *, deadline: float, alone: bool = False, attempt: int = 1
    ) -> None:
        """Promise `settle` exactly once; at once with `NotSent` where the attempt is not admitted.

        `attempt` counts from 1 the attempts spent before plus this one.
        """
        size, obstacle = envelope.size, self._broker.obstacle
        # With no link the breaker is not asked: it would be given back what it gave.
        admission = Admission.PASS if self._guard.calm or obstacle is not None else self._guard.admit()
        cause = route(
            obstacle,
            admission,
            in_flight=self._in_flight,
            in_flight_bytes=self._bytes,
            size=size,
            window=self._window,
        )
        if cause is not None:
            self._guard.release(admission)
            settle(_NOT_SENT[cause])
            return
        self._in_flight += 1
        self._bytes += size
        answer = _Attempt(self, envelope, size, settle, admission, self._monotonic(), attempt)
        self._broker.publish(envelope, answer, deadline=deadline, alone=alone)

    def hopeless(self) -> NotSent | None:
        """What an attempt would come to if nothing can be published now, whatever it is."""
        obstacle = self._broker.obstacle
        return None if obstacle is None else _NOT_SENT[obstacle]

    def room(self) -> int:
        """How many more tasks the window takes."""
        return max(0, self._window.max_tasks - self._in_flight)

    def settled(self, attempt: _Attempt, outcome: Outcome) -> None:
        """The broker's answer: for the breaker, for who waits, for the metrics."""
        self._in_flight -= 1
        self._bytes -= attempt.size
        if type(outcome) is not Confirmed or not self._guard.calm:
            self._guard.judge(outcome, attempt.admission)
        envelope, duration, number = attempt.envelope, self._monotonic() - attempt.started, attempt.number
        attempt.settle(outcome)
        self._tell(AttemptSettled(envelope.task_id, envelope.task_type, outcome, duration, attempt.size, number))


class _Attempt(Struct, eq=False):
    """One attempt on the broker; it is its own settle callback, so that an attempt costs one object here."""

    attempts: Attempts
    envelope: Envelope
    size: int
    settle: Settle
    admission: Admission
    started: float
    number: int

    def __call__(self, outcome: Outcome) -> None:
        self.attempts.settled(self, outcome)
