"""One way to start an attempt, for new tasks and for the drain alike: route, publish, measure, judge."""

from __future__ import annotations

from mlproducer.core.admission import Detour, Window, route
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
        match route(self._broker.view(), admission, size=envelope.size, window=self._window):
            case Detour(cause=cause):
                guard.release(admission)
                settle(NotSent(cause))
                return
            case _:
                pass
        clock, tell = self._clock, self._tell
        started = clock.monotonic()

        def settled(outcome: Outcome) -> None:
            guard.judge(outcome, admission)
            tell(
                AttemptSettled(
                    envelope.task_id, envelope.task_type, outcome, clock.monotonic() - started, envelope.size
                )
            )
            settle(outcome)

        self._broker.publish(envelope, settled, deadline=deadline, alone=alone)
