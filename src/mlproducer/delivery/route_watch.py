"""The shell around `core.routes`: it asks the clock, tells the changes, and says what may be leased of which route."""

from __future__ import annotations

from collections.abc import Sequence

from mlproducer.core.breaker import Admission
from mlproducer.core.routes import Changes, Route, Routes, Try
from mlproducer.core.sharing import in_order, most_more
from mlproducer.events import RouteState
from mlproducer.outcome import Confirmed, NotSent, NotSentCause, Outcome
from mlproducer.ports import Clock, Listener


class RouteWatch:
    """Asked before each attempt, told after it."""

    def __init__(self, routes: Routes, clock: Clock, tell: Listener) -> None:
        self._routes = routes
        self._clock = clock
        self._tell = tell
        self._turn = 0
        self.of = routes.of
        self.calm = True
        """`Routes.is_calm`, at hand: asked with each confirm."""

    @property
    def lonely(self) -> bool:
        """No route is known but one, which can crowd out none."""
        return len(self._routes) < 2  # noqa: PLR2004  # one

    @property
    def passed(self) -> int:
        """The highest number of an attempt that was confirmed on any route."""
        return self._routes.passed

    def admit(self, route: Route) -> Admission:
        return self._routes.admit(route, self._clock.monotonic())

    def release(self, route: Route, way: Admission) -> None:
        """An admitted attempt that was not made."""
        if way is Admission.PROBE:
            self._routes.unanswered(route, self._clock.monotonic())

    def held(self, route: Route) -> NotSent:
        """What an attempt comes to that was not admitted."""
        text = f"its route ({route.key}) takes nothing at present: {route.reason}; see ML_ROUTE_PATIENCE"
        left = max(0.0, route.until - self._clock.monotonic())
        return NotSent(NotSentCause.ROUTE_HELD, text=text, held_for=left)

    def confirmed(self, route: Route, tried: Try) -> None:
        self._announce(self._routes.confirmed(route, tried, self._clock.monotonic()))

    def judge(self, route: Route, tried: Try, outcome: Outcome) -> Outcome:
        """The outcome, which says of a fault whether it is the message's own."""
        if isinstance(outcome, Confirmed):
            return outcome
        outcome, changes = self._routes.failed(route, tried, outcome, self._clock.monotonic(), self._clock.random())
        self._announce(changes)
        return outcome

    def hurry(self) -> None:
        """The broker is back."""
        self._routes.hurry(self._clock.monotonic())

    def plan(self, due: Sequence[str], room: int, free: int) -> dict[str, int]:
        """How many rows at most of which of the `due` routes may be leased now, of which `room` in all: of a held one a
        single probe, if it may go. `free` is what is left of the window.
        """
        now = self._clock.monotonic()
        self._turn += 1
        planned: dict[str, int] = {}
        for key in in_order(due, self._turn):
            match self._routes.ready(key, now):
                case Admission.PROBE:
                    planned[key] = 1
                case Admission.PASS:
                    planned[key] = room if self.lonely else min(room, most_more(self.of(key).load.tasks, free))
                case Admission.REFUSED:
                    pass
        return {key: most for key, most in planned.items() if most}

    def probes(self, key: str) -> bool:
        """Only a probe may go on it."""
        return self._routes.ready(key, self._clock.monotonic()) is not Admission.PASS

    def wait(self, due: Sequence[str]) -> float | None:
        """Seconds until the first of the held routes among `due` may be probed; None if none is held."""
        now = self._clock.monotonic()
        return min((max(0.0, route.until - now) for route in self._routes.closed() if route.key in due), default=None)

    def told(self) -> list[str]:
        """Each that is not open, in words."""
        now = self._clock.monotonic()
        return [_in_words(route, now) for route in self._routes.closed()]

    def _announce(self, changes: Changes) -> None:
        self.calm = self._routes.is_calm
        for change in changes:
            self._tell(change)


def _in_words(route: Route, now: float) -> str:
    since = f"{route.key}: {route.reason} for {now - route.broken_at:.0f} s"
    match route.state:
        case RouteState.FAILING:
            return f"{since}, longer than ML_ROUTE_PATIENCE: its tasks spend their attempts"
        case RouteState.PROBING:
            return f"{since}; held, a probe is on its way"
        case _:
            return f"{since}; held, the next probe in {max(0.0, route.until - now):.0f} s"
