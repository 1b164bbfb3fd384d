"""Whose turn it is among the routes that have something due. How much each gets, the store says: `Spool.lease`."""

from __future__ import annotations

from collections.abc import Iterable


def in_order(routes: Iterable[str], turn: int) -> list[str]:
    """The routes, beginning with another one each time that `turn` counts up: where there is less room than routes, the
    first ones get it, and so none starves.
    """
    order = sorted(routes)
    first = turn % len(order) if order else 0
    return order[first:] + order[:first]
