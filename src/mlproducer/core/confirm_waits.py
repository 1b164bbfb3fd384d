"""For how long a confirm is waited for: as the setting says, or longer on a route whose answers come late.

The estimator is that of TCP's retransmission timer (RFC 6298): a smoothed time `s` and its mean deviation `d`,

    first late answer, after t      s = t            d = t / 2
    each answer after it            d += (max(0, t - s) - d) / 4, then s += (t - s) / 8
    the wait                        s + 4 d, within the setting and the cap

but for one thing: an answer sooner than expected is no reason to wait longer, so it counts as no deviation.

An answer that comes late says only that the wait was too short; so a route begins to be measured with its first late
one, by the time that it took from the write, and each answer after it counts. Back at the setting, the route is
forgotten: a broker that is well costs nothing. (Karn's rule, not to measure what was sent twice, is kept by itself: a
confirm names its attempt.)

By route and not by broker: a queue on a slow disk is late, and its neighbours' confirms, a thousand a second, would
bring the wait down again between two of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from mlproducer.events import ConfirmWaitChanged

MOST_ROUTES: Final = 10_000
"""Late routes that are remembered; the oldest is forgotten first."""


@dataclass(slots=True)
class _Estimate:
    smoothed: float
    deviation: float

    def measure(self, seconds: float) -> None:
        self.deviation += (max(0.0, seconds - self.smoothed) - self.deviation) / 4
        self.smoothed += (seconds - self.smoothed) / 8

    @property
    def wait(self) -> float:
        return self.smoothed + 4 * self.deviation


@dataclass(slots=True)
class ConfirmWaits:
    """`usual` and `cap` in seconds; a cap under the usual wait is that wait."""

    usual: float
    cap: float
    _late: dict[str, _Estimate] = field(default_factory=dict)

    @property
    def calm(self) -> bool:
        """No route is late: `of` is `usual` for all, and `on_time` changes nothing."""
        return not self._late

    @property
    def longest(self) -> float:
        return max(map(self.of, self._late), default=self.usual)

    def of(self, route: str) -> float:
        """Seconds for an attempt on the route."""
        estimate = self._late.get(route)
        return self.usual if estimate is None else max(self.usual, min(estimate.wait, self.cap))

    def late_routes(self) -> dict[str, float]:
        """Those whose answers come late, and for how long each is waited for now."""
        return {route: self.of(route) for route in self._late}

    def answered_late(self, route: str, seconds: float) -> tuple[ConfirmWaitChanged, ...]:
        """An answer came `seconds` after its write, after its attempt was given up."""
        estimate = self._late.get(route)
        if estimate is not None:
            estimate.measure(seconds)
            return ()
        if len(self._late) >= MOST_ROUTES:
            del self._late[next(iter(self._late))]
        self._late[route] = _Estimate(seconds, seconds / 2)
        return (ConfirmWaitChanged(route, self.of(route), late=True),)

    def answered(self, route: str, seconds: float) -> tuple[ConfirmWaitChanged, ...]:
        """An answer came within its time."""
        estimate = self._late.get(route)
        if estimate is None:
            return ()
        estimate.measure(seconds)
        if estimate.wait > self.usual:
            return ()
        del self._late[route]
        return (ConfirmWaitChanged(route, self.usual, late=False),)
