"""How routes share the leases of the drain.

Each route that has something due gets the same share of the room, and what is left over goes round. A share that a
route does not use is there again in the next round, which comes at once.
"""

from __future__ import annotations

from collections.abc import Sequence


def shares(routes: Sequence[str], room: int, turn: int) -> dict[str, int]:
    """Share `room` over `routes`, none of which starves: with less room than routes, each has its turn as `turn`
    counts up. Those that get nothing are left out.
    """
    if not routes:
        return {}
    each, over = divmod(room, len(routes))
    first = turn * max(1, over) % len(routes)
    order = (*routes[first:], *routes[:first])
    return {route: size for at, route in enumerate(order) if (size := each + (at < over))}
