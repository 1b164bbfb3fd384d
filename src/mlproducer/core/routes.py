"""The health of routes: a queue that fails holds up its own tasks, and nobody else's.

A route is an exchange and a routing key. An attempt on it passes (it is confirmed), meets a fault (nacked, returned,
refused with 403 or 404, not confirmed in time), or tells nothing of the route (the connection was lost). Whose a fault
is, is seen from the neighbours:

    a neighbour that began later passed before       the message's own: the queue takes messages in order, so it took
                                                     what came after this one, and not this one
    it was *convicted*: see below                    the message's own
    else, as far as anybody knows                    the route's: nothing is spent, and the route is held

    state     a pass    a fault of the route                  admit
    OPEN      –         → HELD                                PASS
    HELD      → OPEN    stays: it began before the hold       REFUSED; once the wait is over PROBE, → PROBING
    PROBING   → OPEN    the probe's: → HELD, for longer;      REFUSED
                        past the patience: → FAILING
    FAILING   → OPEN    counts as the message's own           PASS

Where the broker itself says that a message is not to blame, but its route or all of the exchange (`core.refusals`), the
fault is the route's whoever passes meanwhile: a channel may go on for a while with a right that is gone. All of the
exchange is a route too, `EVERY_ROUTE`, of a machine of its own: it is asked before any other, and one probe at a time
asks for all.

A held route's tasks wait in the spool. One probe at a time goes, after a wait that grows with each that fails; a probe
that was not answered (the link was lost) gives its permit back. A pass counts only if its attempt began after the last
fault: what was taken before that says nothing about now.

**Late answers.** A pass that comes after the attempt's time was over takes its fault back: the queue did take it. If no
later attempt met a fault, the route is open; else it may be probed at once. A late fault counts as it would have in
time; what its attempt was when it began (a probe, perhaps) was judged when its time was over.

**Conviction.** A bad message on a quiet route has no neighbours in flight, so its first fault holds the route. If then
the very first probe, another message, passes, and nothing else failed meanwhile, that message is to blame: its next
fault is its own, and holds up nobody. Were it the route's, a wait later the probe would have failed as well, or other
messages with it: then nobody is convicted. A confirm clears its name.

**Patience.** A route that has been broken for longer begins to spend attempts, so that what goes to a queue that never
was ends as dead letters with the reason. A patience of 0 holds nothing: each fault is the message's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, assert_never

from mlproducer.core.admission import Load
from mlproducer.core.backoff import Backoff
from mlproducer.core.breaker import Admission
from mlproducer.core.quiet import Hearing
from mlproducer.core.retry import cause_of, words_of
from mlproducer.events import RouteChanged, RouteState
from mlproducer.outcome import Failure, Nacked, NotSent, NotSentCause, Returned, Unsure, UnsureCause

Changes = tuple[RouteChanged, ...]

MOST_CONVICTED: Final = 10_000
"""Ids that are remembered; the oldest are forgotten first, which costs each a held route once more."""
MOST_ROUTES: Final = 10_000
"""Routes that are remembered; beyond it, calm ones with nothing in flight are forgotten."""
MOST_TENANTS: Final = 10_000
"""Likewise, of all routes together."""
_COSTS_ITS_CHANNEL: Final = frozenset({NotSentCause.CHANNEL_REFUSED.value, UnsureCause.CONFIRM_TIMEOUT.value})
_PRECONDITION_FAILED: Final = 406
"""AMQP 0-9-1's code for a message that the exchange or the broker would not take as it is, such as a too large one."""


class Signal(StrEnum):
    """What the table is asked with."""

    PASSED = "pass"
    FAULT = "fault"
    ADMITTED = "probe admitted"
    UNANSWERED = "probe not answered"
    WORN_OUT = "fault past the patience"


_S = RouteState

TABLE: Final[dict[tuple[RouteState, Signal], RouteState]] = {
    (_S.OPEN, Signal.PASSED): _S.OPEN,
    (_S.OPEN, Signal.FAULT): _S.HELD,
    (_S.HELD, Signal.PASSED): _S.OPEN,
    (_S.HELD, Signal.FAULT): _S.HELD,
    (_S.HELD, Signal.ADMITTED): _S.PROBING,
    (_S.PROBING, Signal.PASSED): _S.OPEN,
    (_S.PROBING, Signal.FAULT): _S.HELD,
    (_S.PROBING, Signal.UNANSWERED): _S.HELD,
    (_S.PROBING, Signal.WORN_OUT): _S.FAILING,
    (_S.FAILING, Signal.PASSED): _S.OPEN,
    (_S.FAILING, Signal.FAULT): _S.FAILING,
}


@dataclass(eq=False, slots=True)
class Tenant:
    """One tenant's part of a route. It has a share and no health: a queue takes no notice of whose a message is."""

    weight: int = 1
    """How much it gets of what tenants of the route share."""
    load: Load = field(default_factory=Load)


@dataclass(eq=False, slots=True)
class Route:
    """One route. The shell counts what is in flight on it."""

    key: str
    weight: int = 1
    """How much it gets of what routes share (`core.sharing`)."""
    load: Load = field(default_factory=Load)
    hearing: Hearing = field(default_factory=Hearing)
    tenants: dict[str, Tenant] = field(default_factory=dict)
    """Empty as long as nobody has named one."""
    state: RouteState = RouteState.OPEN
    passed: int = 0
    """The highest number of an attempt that was confirmed."""
    fault: int = 0
    """The highest number of an attempt that met a fault of the route, since it is held."""
    failures: int = 0
    """1 for the fault that held it, and one more for each probe that failed."""
    broken_at: float = 0.0
    until: float = 0.0
    """When the next probe may go."""
    suspect: str = ""
    """The only message that failed since the route is held."""
    reason: str = ""
    text: str = ""
    """The broker's words for it."""

    @property
    def goes_alone(self) -> bool:
        """What is tried on it would cost others their channel, if it is as before: so it goes on one of its own. A
        refusal closes the channel. A queue that does not answer stops it: RabbitMQ's channel asks a quorum queue before
        its first message to it, and does nothing else until that answers.
        """
        return self.state is not RouteState.OPEN and self.reason in _COSTS_ITS_CHANNEL


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt that was admitted on a route. Attempts are numbered in the order of their begin, from 1."""

    task_id: str
    number: int
    probe: bool = False


@dataclass(slots=True)
class Routes:
    """`patience` in seconds. `now` is on one clock that never goes back; `rand` is in [0, 1)."""

    backoff: Backoff
    patience: float
    weights: Mapping[str, int] = field(default_factory=dict)
    """Of routes whose weight is not 1."""
    tenant_weights: Mapping[str, int] = field(default_factory=dict)
    """Likewise, on any route."""
    _tenants: int = 0
    """At least as many as are remembered."""
    lonely: bool = True
    """No route is known but one."""
    _routes: dict[str, Route] = field(default_factory=dict)
    _closed: dict[str, Route] = field(default_factory=dict)
    _convicted: dict[str, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._routes)

    def of(self, key: str) -> Route:
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= MOST_ROUTES:
                self._routes = {each.key: each for each in self._routes.values() if not _is_calm(each)}
            found = self._routes[key] = Route(key, self.weights.get(key, 1))
            self.lonely = len(self._routes) == 1
        return found

    def tenant(self, route: Route, key: str) -> Tenant:
        found = route.tenants.get(key)
        if found is None:
            if self._tenants >= MOST_TENANTS:
                self._forget_tenants()
            self._tenants += 1
            found = route.tenants[key] = Tenant(self.tenant_weights.get(key, 1))
        return found

    def _forget_tenants(self) -> None:
        for route in self._routes.values():
            route.tenants = {key: each for key, each in route.tenants.items() if each.load.tasks}
        self._tenants = sum(len(route.tenants) for route in self._routes.values())

    @property
    def is_calm(self) -> bool:
        """All are open and nobody is convicted: a confirm changes nothing but `Route.passed`."""
        return not self._convicted and not self._closed

    @property
    def passed(self) -> int:
        """The highest number of an attempt that was confirmed on any route."""
        return max((route.passed for route in self._routes.values()), default=0)

    def known(self) -> Iterable[Route]:
        return self._routes.values()

    def closed(self) -> list[Route]:
        """Those that are not open."""
        return list(self._closed.values())

    def ready(self, key: str, now: float) -> Admission:
        """What `admit` would say. Changes nothing."""
        route = self._routes.get(key)
        if route is None or route.state in {RouteState.OPEN, RouteState.FAILING}:
            return Admission.PASS
        due = route.state is RouteState.HELD and now >= route.until
        return Admission.PROBE if due else Admission.REFUSED

    def admit(self, route: Route, now: float) -> Admission:
        """May an attempt go on this route? A PROBE must end in `confirmed`, `failed` or `unanswered`."""
        admission = self.ready(route.key, now)
        if admission is Admission.PROBE:
            route.state = TABLE[route.state, Signal.ADMITTED]
        return admission

    def confirmed(self, route: Route, tried: Try, now: float) -> Changes:
        """The attempt passed. While `is_calm`, the shell may note `Route.passed` by itself."""
        route.passed = max(route.passed, tried.number)
        self._convicted.pop(tried.task_id, None)
        if route.state is RouteState.OPEN or tried.number <= route.fault:
            return ()
        if route.failures == 1 and route.suspect not in {"", tried.task_id}:
            self._convict(route.suspect)
        if route.reason == UnsureCause.CONFIRM_TIMEOUT:
            self._hurry_hung(now)
        route.failures, route.fault, route.suspect, route.reason, route.text = 0, 0, "", "", ""
        route.state = TABLE[route.state, Signal.PASSED]
        del self._closed[route.key]
        return (RouteChanged(route.key, route.state),)

    def confirmed_late(self, route: Route, tried: Try, now: float) -> Changes:
        """The attempt passed, after it had `failed` because its time was over."""
        if route.reason == UnsureCause.CONFIRM_TIMEOUT:
            if tried.number >= route.fault:
                route.fault = 0
            route.until = min(route.until, now)
        return self.confirmed(route, tried, now)

    def failed(self, route: Route, tried: Try, outcome: Failure, now: float, rand: float) -> tuple[Failure, Changes]:
        """The attempt came to something else: the outcome as it is, or with `held_for` if the fault is the route's."""
        if not _tells_of_route(outcome):
            if tried.probe:
                self.unanswered(route, now)
            return outcome, ()
        if self._is_own(route, tried, outcome):
            if route.state is RouteState.FAILING:
                route.fault = max(route.fault, tried.number)
            if _may_convict(outcome):
                self._convict(tried.task_id)
            return outcome, ()
        return self._held(route, tried, outcome, now, rand)

    def unanswered(self, route: Route, now: float) -> None:
        """The probe was never sent, or nobody will know what became of it: another may go at once."""
        if route.state is RouteState.PROBING:
            route.state = TABLE[route.state, Signal.UNANSWERED]
            route.until, route.suspect = now, ""

    def hurry(self, now: float) -> None:
        """The broker is back: whatever the routes wait for may be over."""
        for route in self.closed():
            if route.state is RouteState.HELD:
                route.until, route.suspect = min(route.until, now), ""

    def _hurry_hung(self, now: float) -> None:
        """A broker that hung held all of its routes. One of them passes, so the others may."""
        for route in self.closed():
            if route.reason == UnsureCause.CONFIRM_TIMEOUT:
                route.until = min(route.until, now)

    def _is_own(self, route: Route, tried: Try, outcome: Failure) -> bool:
        if not self.patience or route.state is RouteState.FAILING:
            return True
        if _is_said(outcome):
            return False
        if route.passed > tried.number:
            return True
        return route.state is RouteState.OPEN and tried.task_id in self._convicted

    def _held(self, route: Route, tried: Try, outcome: Failure, now: float, rand: float) -> tuple[Failure, Changes]:
        before = route.state
        if before is RouteState.OPEN:
            self._closed[route.key] = route
            route.broken_at, route.suspect = now, tried.task_id if _may_convict(outcome) else ""
        elif route.suspect != tried.task_id:
            route.suspect = ""
        route.fault = max(route.fault, tried.number)
        if before is RouteState.OPEN or tried.probe:
            worn_out = before is RouteState.PROBING and now - route.broken_at >= self.patience
            route.state = TABLE[before, Signal.WORN_OUT if worn_out else Signal.FAULT]
            route.failures += 1
            route.until = now + self.backoff.delay(route.failures, rand)
            route.reason, route.text = cause_of(outcome), words_of(outcome)
            if worn_out:
                return outcome, (RouteChanged(route.key, route.state, route.reason, text=route.text),)
        wait = max(route.until - now, self.backoff.first)
        news = RouteChanged(route.key, route.state, route.reason, wait, route.text)
        return replace(outcome, held_for=wait), (news,) if before is RouteState.OPEN else ()

    def _convict(self, task_id: str) -> None:
        self._convicted[task_id] = None
        if len(self._convicted) > MOST_CONVICTED:
            del self._convicted[next(iter(self._convicted))]


def _is_calm(route: Route) -> bool:
    return route.state is RouteState.OPEN and not route.load.tasks


def _is_said(outcome: Failure) -> bool:
    """The broker says that it is not the message's."""
    return isinstance(outcome, NotSent | Unsure) and outcome.route is not None


def _may_convict(outcome: Failure) -> bool:
    return type(outcome) is not Unsure and not _is_said(outcome)


def _tells_of_route(outcome: Failure) -> bool:
    match outcome:
        case Nacked() | Returned():
            return True
        case Unsure(cause=cause):
            return cause is UnsureCause.CONFIRM_TIMEOUT or _is_said(outcome)
        case NotSent(cause=cause, code=code):
            return cause is NotSentCause.CHANNEL_REFUSED and code != _PRECONDITION_FAILED
        case _:
            assert_never(outcome)
