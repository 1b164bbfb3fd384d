"""How routes share what there is: the window of new tasks, and the leases of the drain.

**The window.** A route may have in flight at most `EAGERNESS` times what is free. This is the dynamic threshold by
which switches share one buffer over many ports (Choudhury and Hahne, "Dynamic queue length thresholds for
shared-memory packet switches", IEEE/ACM ToN 6, 1998): with k routes that take all they may, each comes to rest at
E / (1 + kE) of the window, and 1 / (1 + kE) stays free for whoever comes next, without anybody knowing k. A process
that has one route only has the whole window.

**The leases.** The routes that have something due take turns to be the first. How much each gets, the store says
(`Spool.lease`): it knows how much each has.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

EAGERNESS: Final = 2
"""A flooded route may have two thirds of the window: 3,333 of the 5,000 that are the default, which is far more than a
broker that answers needs. Six that flood one after the other, before the first is found out, leave 7 to the next."""


def within_share(taken: int, free: int) -> bool:
    """May a route that has `taken` of the window take more, with so much `free`?"""
    return taken < EAGERNESS * free


def most_more(taken: int, free: int) -> int:
    """How much more it may take."""
    # Each that it takes is one less that is free: taken + n <= E * (free - n).
    return max(0, min(free, (EAGERNESS * free - taken) // (1 + EAGERNESS)))


def in_order(routes: Iterable[str], turn: int) -> list[str]:
    """The routes, beginning with another one each time that `turn` counts up: where there is less room than routes, the
    first ones get it, and so none starves.
    """
    order = sorted(routes)
    first = turn % len(order) if order else 0
    return order[first:] + order[:first]
