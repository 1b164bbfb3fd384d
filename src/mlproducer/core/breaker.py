"""The circuit breaker: after ten failures in a row, leave the broker alone for a while.

    state      success          failure                     cool-down over   connected     reset      admit
    CLOSED     failures = 0     failures + 1; the one that  –                failures = 0  stays      PASS
                                meets the threshold → OPEN
    OPEN       ignored, late    ignored, late               → HALF_OPEN      → HALF_OPEN   → CLOSED   REFUSED
    HALF_OPEN  → CLOSED         → OPEN, a new cool-down     –                → CLOSED      → CLOSED   PROBE for one,
                                                                                                      then REFUSED;
                                                                                                      PASS on a route
                                                                                                      that is held

A new connection answers anew, so an open breaker waits no longer for the old one's fault to pass: else a broker that
came back in a second would be left alone for thirty. Two more signs count as `connected`, for the same reason. A late
answer, to an attempt that was given up: the broker is slow, and answers. And a channel that it opens at once in the
place of one on which it confirmed nothing: some queue does not answer, and the broker does.

In HALF_OPEN one probe at a time is admitted. A probe that never reached the broker gives its permit back
(`abandon_probe`), or the breaker would wait for ever for an answer that nobody asked for. A success or failure that
comes in HALF_OPEN counts whoever it comes from: an attempt that was admitted before the breaker opened and is answered
now is as good a sign as the probe.

A route that is held has probes of its own (`core.routes`), which need no other permit in HALF_OPEN. They can but close
the breaker: that a queue still does not answer is no news of the broker. Were the breaker's one probe such a one, a
queue that is stuck could have it each time, and all others would wait.

Time is read only when somebody asks: the end of the cool-down becomes a change with the first call after it, and
before whatever that call does.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto
from typing import Final

from mlproducer.events import BreakerChanged, BreakerState

Changes = tuple[BreakerChanged, ...]


class Admission(Enum):
    PASS = auto()
    PROBE = auto()
    REFUSED = auto()


class Signal(StrEnum):
    """What the table is asked with."""

    SUCCESS = "success"
    FAILURE = "failure"
    TRIP = "failure at the threshold"
    COOLED = "cool-down over"
    CONNECTED = "connected"
    RESET = "reset"


_S = BreakerState

TABLE: Final[dict[tuple[BreakerState, Signal], BreakerState]] = {
    (_S.CLOSED, Signal.SUCCESS): _S.CLOSED,
    (_S.CLOSED, Signal.FAILURE): _S.CLOSED,
    (_S.CLOSED, Signal.TRIP): _S.OPEN,
    (_S.CLOSED, Signal.CONNECTED): _S.CLOSED,
    (_S.CLOSED, Signal.RESET): _S.CLOSED,
    (_S.OPEN, Signal.COOLED): _S.HALF_OPEN,
    (_S.OPEN, Signal.CONNECTED): _S.HALF_OPEN,
    (_S.OPEN, Signal.RESET): _S.CLOSED,
    # Late answers: they tell of the broker as it was before the breaker opened.
    (_S.OPEN, Signal.SUCCESS): _S.OPEN,
    (_S.OPEN, Signal.FAILURE): _S.OPEN,
    (_S.HALF_OPEN, Signal.SUCCESS): _S.CLOSED,
    (_S.HALF_OPEN, Signal.FAILURE): _S.OPEN,
    (_S.HALF_OPEN, Signal.CONNECTED): _S.CLOSED,
    (_S.HALF_OPEN, Signal.RESET): _S.CLOSED,
}


class Breaker:
    """`threshold` in failures, `cooldown` in seconds on the clock that `now` comes from.

    Each call that may change the state returns the changes, in order.
    """

    def __init__(self, threshold: int, cooldown: float) -> None:
        self._threshold = threshold
        self._cooldown = cooldown
        self._state = BreakerState.CLOSED
        self._failures = 0
        self._cool_at = 0.0
        self._probing = False

    def __repr__(self) -> str:
        return f"<Breaker {self._state.name} failures={self._failures} probing={self._probing}>"

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    @property
    def is_calm(self) -> bool:
        """Closed with no failure counted: `admit` would say PASS, `success` would change nothing, whatever the time."""
        return self._failures == 0 and self._state is BreakerState.CLOSED

    @property
    def half_opens_at(self) -> float | None:
        """When the cool-down ends; None unless open."""
        return self._cool_at if self._state is BreakerState.OPEN else None

    def state(self, now: float) -> BreakerState:
        """The state as of `now`: an open breaker whose cool-down is over counts as half-open."""
        return BreakerState.HALF_OPEN if self._has_cooled(now) else self._state

    def admit(self, now: float, *, of_route: bool = False) -> tuple[Admission, Changes]:
        """May an attempt go to the broker? A PROBE must end in success, failure or abandon_probe. `of_route`: its route
        is not open, and let it pass.
        """
        if self._state is BreakerState.CLOSED:
            return Admission.PASS, ()
        changes = self._cool(now)
        if self._state is not BreakerState.OPEN and of_route:
            return Admission.PASS, changes
        if self._state is BreakerState.OPEN or self._probing:
            return Admission.REFUSED, changes
        self._probing = True
        return Admission.PROBE, changes

    def success(self, now: float) -> Changes:
        """The broker gave a definite answer."""
        changes = self._cool(now)
        failures = self._failures if self._state is BreakerState.OPEN else 0
        return changes + self._go(Signal.SUCCESS, failures)

    def failure(self, now: float) -> Changes:
        """The broker gave no answer, or the connection failed."""
        changes = self._cool(now)
        if self._state is BreakerState.OPEN:
            return changes + self._go(Signal.FAILURE, self._failures)
        failures = self._failures + 1
        trips = self._state is BreakerState.CLOSED and failures >= self._threshold
        self._cool_at = now + self._cooldown  # read only if the table opens the breaker
        return changes + self._go(Signal.TRIP if trips else Signal.FAILURE, failures)

    def connected(self, now: float) -> Changes:
        """A connection came up: the handshake was answered."""
        changes = self._cool(now)
        failures = self._failures if self._state is BreakerState.OPEN else 0
        return changes + self._go(Signal.CONNECTED, failures)

    def abandon_probe(self, now: float) -> Changes:
        """The probe never reached the broker: another may try.

        Only for an attempt that got PROBE. Race: probe A is slow; a failure opens the breaker, it cools, B probes,
        and now A gives up. A's call frees B's permit, and a second probe may go: one message too many on a broker
        that has just had a cool-down. Telling probes apart would cost every caller a token to carry.
        """
        changes = self._cool(now)
        self._probing = False
        return changes

    def reset(self, now: float) -> Changes:
        """An operator closes the breaker, whatever it waits for."""
        del now  # the cool-down does not matter any more
        return self._go(Signal.RESET, 0)

    def _has_cooled(self, now: float) -> bool:
        return self._state is BreakerState.OPEN and now >= self._cool_at

    def _cool(self, now: float) -> Changes:
        return self._go(Signal.COOLED, self._failures) if self._has_cooled(now) else ()

    def _go(self, signal: Signal, failures: int) -> Changes:
        before, self._state = self._state, TABLE[self._state, signal]
        self._failures = failures
        if self._state is before:
            return ()
        self._probing = False
        return (BreakerChanged(self._state, failures),)
