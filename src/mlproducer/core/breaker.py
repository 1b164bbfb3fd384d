"""The circuit breaker: after ten failures in a row, leave the broker alone for a while.

    state      success             failure                      cool-down over   admit
    CLOSED     failures = 0        failures + 1; at the          –                PASS
                                   threshold → OPEN
    OPEN       ignored (late)      ignored (late)                → HALF_OPEN      REFUSED
    HALF_OPEN  → CLOSED            → OPEN, a new cool-down       –                PROBE for one, then REFUSED

In HALF_OPEN one probe at a time is admitted. A probe that never reached the broker gives its permit back
(`abandon_probe`), or the breaker would wait for ever for an answer that nobody asked for. A success or failure that
comes in HALF_OPEN counts whoever it comes from: an attempt that was admitted before the breaker opened and is answered
now is as good a sign as the probe.
"""

from __future__ import annotations

from enum import Enum, auto

from mlproducer.events import BreakerChanged, BreakerState

Changes = tuple[BreakerChanged, ...]


class Admission(Enum):
    PASS = auto()
    PROBE = auto()
    REFUSED = auto()


class Breaker:
    """`threshold` in failures, `cooldown` in seconds on the clock that `now` comes from."""

    def __init__(self, threshold: int, cooldown: float) -> None:
        self._threshold = threshold
        self._cooldown = cooldown
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._until = 0.0
        self._probing = False

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    @property
    def half_opens_at(self) -> float | None:
        """When the cool-down ends; None unless open."""
        return self._until if self._state is BreakerState.OPEN else None

    def state(self, now: float) -> BreakerState:
        """The state as of `now`: an open breaker whose cool-down is over counts as half-open."""
        if self._state is BreakerState.OPEN and now >= self._until:
            return BreakerState.HALF_OPEN
        return self._state

    def admit(self, now: float) -> tuple[Admission, Changes]:
        """May an attempt go to the broker? A PROBE must end in success, failure or abandon_probe."""
        if self._state is BreakerState.CLOSED:
            return Admission.PASS, ()
        changes = self._cooled(now)
        if self._state is BreakerState.OPEN or self._probing:
            return Admission.REFUSED, changes
        self._probing = True
        return Admission.PROBE, changes

    def success(self, now: float) -> Changes:
        changes = self._cooled(now)
        if self._state is BreakerState.HALF_OPEN:
            return changes + self._enter(BreakerState.CLOSED, failures=0)
        if self._state is BreakerState.CLOSED:
            self._failures = 0
        return changes

    def failure(self, now: float) -> Changes:
        changes = self._cooled(now)
        if self._state is BreakerState.OPEN:
            return changes
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN or self._failures >= self._threshold:
            self._until = now + self._cooldown
            return changes + self._enter(BreakerState.OPEN, failures=self._failures)
        return changes

    def abandon_probe(self, now: float) -> Changes:
        """The probe never reached the broker: another may try."""
        changes = self._cooled(now)
        self._probing = False
        return changes

    def reset(self, now: float) -> Changes:
        """An operator closes the breaker."""
        del now
        if self._state is BreakerState.CLOSED:
            self._failures = 0
            return ()
        return self._enter(BreakerState.CLOSED, failures=0)

    def _cooled(self, now: float) -> Changes:
        if self._state is BreakerState.OPEN and now >= self._until:
            return self._enter(BreakerState.HALF_OPEN, failures=self._failures)
        return ()

    def _enter(self, state: BreakerState, *, failures: int) -> Changes:
        self._state = state
        self._failures = failures
        self._probing = False
        return (BreakerChanged(state, failures),)
