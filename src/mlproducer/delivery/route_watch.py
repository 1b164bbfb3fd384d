"""The shell around `core.routes`: it asks the clock, tells the changes, and says what may be leased of which route."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple

from mlproducer.core.breaker import Admission
from mlproducer.core.facts import HeldRoute
from mlproducer.core.retry import words_of
from mlproducer.core.routes import Changes, Route, Routes, Tenant, Try
from mlproducer.core.sharing import FlowTurns, divided, most_more
from mlproducer.events import RouteState
from mlproducer.outcome import (
    EVERY_ROUTE,
    Failure,
    Nacked,
    NotSent,
    NotSentCause,
    Returned,
    Unsure,
    UnsureCause,
)
from mlproducer.ports import Clock, Listener
from mlproducer.task import Envelope, Flow


class Ways(NamedTuple):
    """What the exchange and the route said to one attempt."""

    exchange: Admission
    route: Admission

    @property
    def refused(self) -> bool:
        return Admission.REFUSED in self


class Tried(NamedTuple):
    """An attempt that was made. `turn` is its number among all attempts."""

    task_id: str
    turn: int
    way: Ways


RENEW_EVERY: Final = 30.0
"""Seconds between two links for new credentials where nothing is held: the patience is over, or there is none."""
NO_ROUTE: Final = 312
"""The code of a message that came back. Another one is of a message that was not sent, as its queue is gone."""
FREE: Final = Ways(Admission.PASS, Admission.PASS)
_REFUSED: Final = Ways(Admission.REFUSED, Admission.REFUSED)
_OPEN: Final = RouteState.OPEN


class RouteWatch:
    """Asked before each attempt, told after it. `exchange` is for the one route that is all of them; `renew` is called
    when that is held, and when its probe is refused: whoever gives our credentials may have new ones.
    """

    def __init__(
        self, routes: Routes, exchange: Routes, clock: Clock, tell: Listener, renew: Callable[[], None] | None
    ) -> None:
        self._routes = routes
        self._exchange = exchange
        self._every = exchange.of(EVERY_ROUTE)
        self._clock = clock
        self._tell = tell
        self._renew = renew
        self._renewed_at = -math.inf
        self._turns = FlowTurns()
        self.of = routes.of
        self.calm = True
        """`Routes.is_calm` of both, at hand: asked with each confirm."""

    def parts(self, envelope: Envelope) -> tuple[Route, *tuple[Tenant, ...]]:
        """Its route, and its tenant's part of that; the route alone as long as it has no tenant."""
        route = self.of(envelope.routing_key)
        if envelope.tenant or route.tenants:
            return route, self._routes.tenant(route, envelope.tenant)
        return (route,)

    @property
    def lonely(self) -> bool:
        """No route is known but one."""
        return self._routes.lonely

    def alone(self, parts: Sequence[Route | Tenant]) -> bool:
        """The route is lonely and has no tenants: it can crowd out nobody."""
        return len(parts) == 1 and self._routes.lonely

    @property
    def passed(self) -> int:
        """The highest number of an attempt that was confirmed on any route."""
        return self._routes.passed

    def free(self, route: Route) -> bool:
        """Nobody need be asked."""
        return route.state is _OPEN and self._every.state is _OPEN

    def admit(self, route: Route) -> Ways:
        """May an attempt go on this route? What is not refused must end in `confirmed`, `judge` or `release`."""
        now = self._clock.monotonic()
        if self._exchange.ready(EVERY_ROUTE, now) is Admission.REFUSED:
            return _REFUSED
        way = self._routes.admit(route, now)
        return _REFUSED if way is Admission.REFUSED else Ways(self._exchange.admit(self._every, now), way)

    def goes_alone(self, route: Route) -> bool:
        """An attempt that may cost its channel."""
        return self._every.goes_alone or route.goes_alone

    def release(self, route: Route, way: Ways) -> None:
        """An admitted attempt that was not made."""
        now = self._clock.monotonic()
        if way.exchange is Admission.PROBE:
            self._exchange.unanswered(self._every, now)
        if way.route is Admission.PROBE:
            self._routes.unanswered(route, now)

    def held(self, route: Route) -> NotSent:
        """What an attempt comes to that was not admitted."""
        held = route if self._every.state is _OPEN else self._every
        text = f"{_named(held)} takes nothing at present: {_why(held)}; see ML_ROUTE_PATIENCE"
        left = max(0.0, held.until - self._clock.monotonic())
        return NotSent(NotSentCause.ROUTE_HELD, text=text, held_for=left)

    def confirmed(self, route: Route, tried: Tried) -> None:
        now, (on_all, on_route) = self._clock.monotonic(), _tries(tried)
        self._announce(
            self._exchange.confirmed(self._every, on_all, now) + self._routes.confirmed(route, on_route, now)
        )

    def confirmed_late(self, route: Route, tried: Tried) -> None:
        now, (on_all, on_route) = self._clock.monotonic(), _tries(tried)
        changes = self._exchange.confirmed(self._every, on_all, now)
        self._announce(changes + self._routes.confirmed_late(route, on_route, now))

    def judge(self, route: Route, tried: Tried, outcome: Failure) -> Failure:
        """The outcome, which says of a fault whether it is the message's own. `route` is that of its routing key."""
        now, rand, (on_all, on_route) = self._clock.monotonic(), self._clock.random(), _tries(tried)
        said = outcome.route if isinstance(outcome, NotSent | Unsure) else None
        if said == EVERY_ROUTE:
            if on_route.probe:
                self._routes.unanswered(route, now)
            outcome, changes = self._exchange.failed(self._every, on_all, outcome, now, rand)
            self._announce(changes)
            self._ask_anew(now, refused_anew=bool(changes) or on_all.probe)
            return outcome
        if said is not None and said != route.key:
            outcome = Unsure(UnsureCause.CHANNEL_LOST, words_of(outcome))  # a neighbour's route cost it its channel
        changes = ()
        if _is_taken(outcome):
            changes = self._exchange.confirmed(self._every, on_all, now)
        elif on_all.probe:
            self._exchange.unanswered(self._every, now)
        outcome, more = self._routes.failed(route, on_route, outcome, now, rand)
        self._announce(changes + more)
        return outcome

    def _ask_anew(self, now: float, *, refused_anew: bool) -> None:
        # Past the patience every attempt is refused, and a new link for each would be a storm.
        if self._renew is not None and (refused_anew or now - self._renewed_at >= RENEW_EVERY):
            self._renewed_at = now
            self._renew()

    def hurry(self) -> None:
        """The broker is back."""
        now = self._clock.monotonic()
        self._routes.hurry(now)
        # Where each refusal makes a new link, to ask for credentials, a new link that hurries would never wait.
        if self._renew is None or self._every.failures < 2:  # noqa: PLR2004  # the first refusal, and no probe's
            self._exchange.hurry(now)

    def plan(self, due: Sequence[Flow], room: int, free: int) -> dict[Flow, int]:
        """How many rows at most of which of the `due` flows may be leased now, of which `room` in all, the first ones
        first: of a held route a single probe, if it may go. `free` is what is left of the window.
        """
        now = self._clock.monotonic()
        whole = self._exchange.ready(EVERY_ROUTE, now)
        if whole is Admission.REFUSED:
            return {}
        ways = {key: self._routes.ready(key, now) for key in dict.fromkeys(flow.route for flow in due)}
        order = self._turns.order(due, {key for key, way in ways.items() if way is not Admission.REFUSED})
        if whole is Admission.PROBE:
            return {Flow(key, tenants[0]): 1 for key, tenants in islice(order.items(), 1)}  # for all of them
        most = {key: 1 if ways[key] is Admission.PROBE else min(room, self._more(key, free)) for key in order}
        weights = {key: self.of(key).weight for key in order}
        # What is of one weight the store divides evenly, and it knows who has less to give than its part. But it
        # divides among flows: a route of many tenants would get more than one of a single tenant.
        if len(set(weights.values())) > 1 or (len(order) > 1 and len(order) < sum(map(len, order.values()))):
            most = divided(room, weights, most)
        planned: dict[Flow, int] = {}
        for key, tenants in order.items():
            planned |= self._of_tenants(self.of(key), tenants, most[key], room, free)
        return {flow: rows for flow, rows in planned.items() if rows}

    def _of_tenants(self, route: Route, tenants: list[str], most: int, room: int, free: int) -> dict[Flow, int]:
        """What each of them may get of the `most` that its route gets of the `room`."""
        if not route.tenants and tenants == [""]:
            return {Flow(route.key): most}
        left = self._more(route.key, free)
        parts = {key: self._routes.tenant(route, key) for key in tenants}
        mosts = {key: min(most, most_more(part.load.tasks, left, part.weight)) for key, part in parts.items()}
        weights = {key: part.weight for key, part in parts.items()}
        if most < room or len(set(weights.values())) > 1:
            mosts = divided(most, weights, mosts)
        return {Flow(route.key, key): rows for key, rows in mosts.items()}

    def fell_quiet(self, confirmed: int) -> list[Route]:
        """Routes that do not answer, of which it was not known. `confirmed`: how many attempts were so far."""
        now = self._clock.monotonic()
        return [each for each in self._routes.known() if each.hearing.listen(each.load.tasks, now, confirmed)]

    def _more(self, key: str, free: int) -> int:
        route = self.of(key)
        if route.hearing.quiet:
            return 0
        alone = not route.tenants and self.lonely
        return free if alone else most_more(route.load.tasks, free, route.weight)

    def leased(self, planned: Iterable[Flow], flows: Iterable[Flow]) -> None:
        """A row of each of `flows` was. The first that was planned had its turn, though another process took its rows
        before us: it is not the first again.
        """
        rows = Counter(flows)
        for first in islice(planned, 1):
            rows[first] = max(rows[first], 1)
        tenants = self._routes.tenant_weights
        self._turns.took(rows, {flow: (self.of(flow.route).weight, tenants.get(flow.tenant, 1)) for flow in rows})

    def probes(self, key: str) -> bool:
        """Only a probe may go on it."""
        now = self._clock.monotonic()
        ways = Ways(self._exchange.ready(EVERY_ROUTE, now), self._routes.ready(key, now))
        return ways != FREE

    def wait(self, due: Sequence[Flow]) -> float | None:
        """Seconds until the first of the held routes among `due` may be probed; None if none is held."""
        now, keys = self._clock.monotonic(), {flow.route for flow in due}
        held = [route for route in self._routes.closed() if route.key in keys]
        return min((max(0.0, route.until - now) for route in (*self._exchange.closed(), *held)), default=None)

    def closed(self) -> tuple[HeldRoute, ...]:
        """Those that are not open."""
        now = self._clock.monotonic()
        return tuple(_held(route, now) for route in (*self._exchange.closed(), *self._routes.closed()))

    def _announce(self, changes: Changes) -> None:
        self.calm = self._routes.is_calm and self._exchange.is_calm
        for change in changes:
            self._tell(change)


def _is_taken(outcome: Failure) -> bool:
    """The broker has taken a message from us for the exchange, whatever came of it there."""
    return isinstance(outcome, Nacked) or (isinstance(outcome, Returned) and outcome.code == NO_ROUTE)


def _tries(tried: Tried) -> tuple[Try, Try]:
    """As the exchange sees it, and as its route does."""
    way = tried.way
    return (
        Try(tried.task_id, tried.turn, way.exchange is Admission.PROBE),
        Try(tried.task_id, tried.turn, way.route is Admission.PROBE),
    )


def _named(route: Route) -> str:
    return "the exchange, with all of its routes," if route.key == EVERY_ROUTE else f"its route ({route.key})"


def _why(route: Route) -> str:
    return f"{route.reason} ({route.text})" if route.text else route.reason


def _held(route: Route, now: float) -> HeldRoute:
    every = route.key == EVERY_ROUTE
    probe_in = max(0.0, route.until - now) if route.state is RouteState.HELD else None
    failing = route.state is RouteState.FAILING
    name = "all routes of the exchange" if every else route.key
    return HeldRoute(name, _why(route), now - route.broken_at, probe_in, failing, every)
