"""How routes share what there is: the window of new tasks, and the leases of the drain. A route of weight 3 gets three
times what one of weight 1 gets, where both want more than there is.

**The window.** A route may have in flight at most `EAGERNESS` times what is free, times its weight. This is the dynamic
threshold by which switches share one buffer over many ports (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM ToN 6, 1998): routes whose weights are W together, and that take all they may,
come to rest at Ew / (1 + EW) of the window each, and 1 / (1 + EW) stays free for whoever comes next, without anybody
knowing W. A process that has one route only has the whole window.

**The leases.** The drain divides its room by weight. What does not divide (a room of one, a slow start, a low rate)
goes to the route that had least for its weight so far: stride scheduling (Waldspurger and Weihl, MIT/LCS/TM-528, 1995).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

EAGERNESS: Final = 2
"""A flooded route may have two thirds of the window: 3,333 of the 5,000 that are the default, which is far more than a
broker that answers needs. Six that flood one after the other, before the first is found out, leave 7 to the next."""
MOST_WEIGHT: Final = 10
"""A flooded route of this weight leaves a twenty-first of the window free: 238 of 5,000."""


def within_share(taken: int, free: int, weight: int = 1) -> bool:
    """May a route that has `taken` of the window take more, with so much `free`?"""
    return taken < EAGERNESS * weight * free


def most_more(taken: int, free: int, weight: int = 1) -> int:
    """How much more it may take."""
    # Each that it takes is one less that is free: taken + n <= E * w * (free - n).
    eagerness = EAGERNESS * weight
    return max(0, min(free, (eagerness * free - taken) // (1 + eagerness)))


@dataclass(slots=True)
class Turns:
    """Who is first. A route that comes (back) begins where the last one that was served stands: what it did not ask for
    it does not get later, and however many come, they come behind who waits. What it had in advance it owes.
    """

    _had: dict[str, float] = field(default_factory=dict)
    """Rows by weight: of who waits, and of who owes."""
    _waits: frozenset[str] = frozenset()
    _now: float = 0.0

    def order(self, routes: Iterable[str]) -> list[str]:
        """Those that want some now, the one that had least first."""
        had = {key: self._had[key] if key in self._waits else max(self._had.get(key, 0), self._now) for key in routes}
        self._had = {key: rows for key, rows in self._had.items() if rows > self._now} | had
        self._waits = frozenset(had)
        return sorted(had, key=lambda key: (had[key], key))

    def took(self, rows: Mapping[str, int], weights: Mapping[str, int]) -> None:
        """How many rows each of them got."""
        for key, count in rows.items():
            self._had[key] = self._had.get(key, self._now) + count / weights[key]
        self._now = max(self._now, min((self._had[key] for key in rows), default=0))


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
