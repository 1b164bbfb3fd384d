"""How routes share what there is: the window of new tasks, and the leases of the drain. A route of weight 3 gets three
times what one of weight 1 gets, where both want more than there is. The tenants of a route share what the route gets in
the same way: so one that is on many routes, or a route that has many tenants, gets no more than another for it.

**The window.** A route may have in flight at most `EAGERNESS` times what is free, times its weight. This is the dynamic
threshold by which switches share one buffer over many ports (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM ToN 6, 1998): routes whose weights are W together, and that take all they may,
come to rest at Ew / (1 + EW) of the window each, and 1 / (1 + EW) stays free for whoever comes next, without anybody
knowing W. A process that has one route only has the whole window.

**The leases.** The drain divides its room by weight. What does not divide (a room of one, a slow start, a low rate)
goes to the route that had least for its weight so far: stride scheduling (Waldspurger and Weihl, MIT/LCS/TM-528, 1995).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from mlproducer.task import Flow

EAGERNESS: Final = 2
"""A flooded route may have two thirds of the window: 3,333 of the 5,000 that are the default, which is far more than a
broker that answers needs. Six that flood one after the other, before the first is found out, leave 7 to the next."""
MOST_WEIGHT: Final = 10
"""A flooded route of this weight leaves a twenty-first of the window free: 238 of 5,000."""


def within_share(taken: int, free: int, weight: int = 1) -> bool:
    """May a route that has `taken` of the window take more, with so much `free`?"""
    return taken < EAGERNESS * weight * free


def most_more(taken: int, free: int, weight: int = 1) -> int:
    """How much more it may take; one, who has nothing and finds anything free, also in a window of one."""
    # Each that it takes is one less that is free: taken + n <= E * w * (free - n).
    eagerness = EAGERNESS * weight
    least = 0 if taken else min(1, free)
    return max(0, least, min(free, (eagerness * free - taken) // (1 + eagerness)))


@dataclass(slots=True)
class Turns:
    """Who is first, of routes or of the tenants of one. Who comes (back) begins where the last one that was served
    stands: what it did not ask for it does not get later, and however many come, they come behind who waits. What it
    had in advance it owes.
    """

    _had: dict[str, float] = field(default_factory=dict)
    """Rows by weight: of who waits, and of who owes."""
    _waits: frozenset[str] = frozenset()
    _now: float = 0.0

    def order(self, keys: Iterable[str]) -> list[str]:
        """Those that want some now, the one that had least first."""
        had = {key: self._had[key] if key in self._waits else max(self._had.get(key, 0), self._now) for key in keys}
        self._had = {key: rows for key, rows in self._had.items() if rows > self._now} | had
        self._waits = frozenset(had)
        return sorted(had, key=lambda key: (had[key], key))

    def took(self, rows: Mapping[str, int], weights: Mapping[str, int]) -> None:
        """How many rows each of them got."""
        for key, count in rows.items():
            self._had[key] = self._had.get(key, self._now) + count / weights[key]
        self._now = max(self._now, min((self._had[key] for key in rows), default=0))


class FlowTurns:
    """Whose turn it is: of the routes, and of the tenants of each route."""

    def __init__(self) -> None:
        self._routes = Turns()
        self._tenants: dict[str, Turns] = {}
        """Of those routes that have something due, and had it of several tenants at once."""

    def order(self, due: Iterable[Flow], ready: Container[str]) -> dict[str, list[str]]:
        """The tenants of each route that is `ready`; who had least is first, among the routes and among the tenants.
        `due` are all, since who waits for a held route loses no turn by it.
        """
        tenants: dict[str, list[str]] = {}
        for route, tenant in due:
            tenants.setdefault(route, []).append(tenant)
        several = (route for route, keys in tenants.items() if len(keys) > 1 or route in self._tenants)
        self._tenants = {route: self._tenants.get(route) or Turns() for route in several}
        routes = self._routes.order(route for route in tenants if route in ready)
        return {route: self._in_order(route, tenants[route]) for route in routes}

    def took(self, rows: Mapping[Flow, int], weights: Mapping[Flow, tuple[int, int]]) -> None:
        """How many rows each flow got; the weights of its route and of its tenant."""
        of_routes = Counter[str]()
        of_tenants: dict[str, dict[str, int]] = {}
        for flow, count in rows.items():
            of_routes[flow.route] += count
            of_tenants.setdefault(flow.route, {})[flow.tenant] = count
        self._routes.took(of_routes, {flow.route: weight for flow, (weight, _) in weights.items()})
        for route, taken in of_tenants.items():
            if route in self._tenants:
                self._tenants[route].took(taken, {key: weights[Flow(route, key)][1] for key in taken})

    def _in_order(self, route: str, tenants: list[str]) -> list[str]:
        return self._tenants[route].order(tenants) if route in self._tenants else tenants


def one_of_each_route(flows: Iterable[Flow], most: int) -> dict[Flow, int]:
    """The first flow of each route, `most` of them at most, with a share of one row."""
    firsts: dict[str, Flow] = {}
    for flow in flows:
        firsts.setdefault(flow.route, flow)
    return dict.fromkeys(islice(firsts.values(), most), 1)


def divided(room: int, weights: Mapping[str, int], most: Mapping[str, int]) -> dict[str, int]:
    """`room` by weight, to each at most its `most`: what it leaves is divided among the others. What does not divide
    goes to the first ones, one each.
    """
    shares = dict.fromkeys(weights, 0)
    left = [key for key in weights if most[key] > 0]
    while room and left:
        total = sum(weights[key] for key in left)
        parts = {key: room * weights[key] // total for key in left}
        for key in left[: room - sum(parts.values())]:
            parts[key] += 1
        for key, part in parts.items():
            given = min(part, most[key] - shares[key])
            shares[key] += given
            room -= given
        left = [key for key in left if shares[key] < most[key]]
    return shares
