"""The circuit breaker's shell: it asks the clock, tells the changes, and wakes the link when a probe is allowed.

What counts (docs/adr/0002): the breaker judges the *broker*, not the message. Any definite answer (ack, nack,
return, a refusal of this one message) is a success. A confirm timeout or a lost channel is a failure. A lost or
failed connection is one failure, however many tasks were in flight on it: a thousand tasks on one broken
connection are one piece of news, and must not open the breaker for 30 s when the broker is back in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import assert_never

from mlproducer.core.breaker import Admission, Breaker
from mlproducer.events import BreakerChanged, BreakerState, PartFailed
from mlproducer.jobs import Jobs
from mlproducer.outcome import (
    Confirmed,
    Nacked,
    NotSent,
    NotSentCause,
    Outcome,
    Returned,
    Unsure,
    UnsureCause,
)
from mlproducer.ports import Clock, Listener


class Guard:
    """Asked before each attempt, told after it. `half_opened` is called when the cool-down is over."""

    def __init__(self, breaker: Breaker, clock: Clock, tell: Listener, half_opened: Callable[[], None]) -> None:
        self._breaker = breaker
        self._clock = clock
        self._tell = tell
        self._half_opened = half_opened
        self._jobs = Jobs(lambda error: tell(PartFailed("breaker", error)))
        self._timer: asyncio.TimerHandle | None = None
        self.calm = True
        """`Breaker.is_calm`, at hand: asked twice a publish, so that a healthy broker costs neither call nor clock."""

    @property
    def failures(self) -> int:
        return self._breaker.failures

    def state(self) -> BreakerState:
        return self._breaker.state(self._clock.monotonic())

    @property
    def probe_in(self) -> float | None:
        """Seconds until an open breaker lets a probe pass; None if it is not open."""
        at = self._breaker.half_opens_at
        return None if at is None else max(0.0, at - self._clock.monotonic())

    def admit(self, *, of_route: bool) -> Admission:
        """`of_route`: its route is not open, and let it pass."""
        admission, changes = self._breaker.admit(self._clock.monotonic(), of_route=of_route)
        self._announce(changes)
        return admission

    def judge(self, outcome: Outcome, admission: Admission, *, of_route: bool = False) -> None:
        """Feed the breaker with what an admitted attempt came to. `of_route`: that nobody answered it tells of its
        route, if of anything, and not of the broker.
        """
        match outcome:
            case Confirmed() | Nacked() | Returned():
                self.success()
            case Unsure(cause=UnsureCause.CONFIRM_TIMEOUT | UnsureCause.CHANNEL_LOST) if of_route:
                self.release(admission)  # the breaker does not judge routes
            case Unsure(cause=cause):
                self._judge_unsure(cause, admission)
            case NotSent(cause=NotSentCause.CHANNEL_REFUSED | NotSentCause.TOO_LARGE):
                self.success()
            case NotSent():
                self.release(admission)
            case _:
                assert_never(outcome)

    def _judge_unsure(self, cause: UnsureCause, admission: Admission) -> None:
        match cause:
            case UnsureCause.CHANNEL_REFUSED:
                self.success()
            case UnsureCause.CONFIRM_TIMEOUT | UnsureCause.CHANNEL_LOST:
                self.failure()
            case UnsureCause.CONNECTION_LOST | UnsureCause.BLOCKED:
                # The link keeper counts the lost connection, once; an alarm is said by the broker itself. If this was
                # the probe, it never got its answer: give the permit back, so that the next attempt may probe.
                self.release(admission)
            case _:
                assert_never(cause)

    def release(self, admission: Admission) -> None:
        """An admitted attempt that the broker never answered."""
        if admission is Admission.PROBE:
            self._announce(self._breaker.abandon_probe(self._clock.monotonic()))

    def success(self) -> None:
        self._announce(self._breaker.success(self._clock.monotonic()))

    def failure(self) -> None:
        self._announce(self._breaker.failure(self._clock.monotonic()))

    def connected(self) -> None:
        """The handshake, the channels and the topology were answered: that is a definite answer of the broker."""
        self._announce(self._breaker.connected(self._clock.monotonic()))

    def answered_late(self) -> None:
        """A definite answer to an attempt that was given up: slow as it is, the broker answers now."""
        was = self.state()
        self.connected()
        if was is BreakerState.OPEN:
            self._half_opened()

    def answers(self) -> None:
        """It has opened a channel in the place of one on which it confirmed nothing. That alone closes no breaker."""
        if self.state() is BreakerState.OPEN:
            self.answered_late()

    def reset(self) -> None:
        self._announce(self._breaker.reset(self._clock.monotonic()))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _announce(self, changes: tuple[BreakerChanged, ...]) -> None:
        """After every call that may have changed the breaker."""
        self.calm = self._breaker.is_calm
        if any(change.state is BreakerState.OPEN for change in changes):
            self._set_alarm()
        for change in changes:
            self._tell(change)

    def _set_alarm(self) -> None:
        self.stop()
        at = self._breaker.half_opens_at
        if at is not None:
            delay = max(0.0, at - self._clock.monotonic())
            self._timer = self._jobs.later(delay, self._ring)

    def _ring(self) -> None:
        # The loop's timer may fire a hair before the clock says so; then the breaker is still open: set it again.
        self._timer = None
        if self.state() is BreakerState.OPEN:
            self._set_alarm()
        else:
            self._half_opened()
