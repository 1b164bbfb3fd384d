"""Flows take turns: one row of each before a second of any, so that no flow starves another. Pure.

A call that leases by shares asks its store for `quotas` of the flows that are left, chooses `in_turn` among what was
found, and asks again while there is room: a flow that gave fewer rows than its quota has no more, or none that fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from mlproducer.task import Flow

Row = TypeVar("Row")
Key = TypeVar("Key")
"""Of a flow."""


def check_shares(shares: Mapping[Flow, int] | None, *, expired: bool) -> None:
    """Raises: ValueError, if they are given for rows that expired."""
    if shares is not None and expired:
        raise ValueError("rows that expired are leased whatever their flows: give `shares` or `expired`, not both")


def quotas(shares: Mapping[Key, int], limit: int) -> dict[Key, int]:
    """At most `limit` in all and the share of each; as even as the shares allow, the first flows before the last."""
    left = {key: share for key, share in shares.items() if share > 0}
    given: dict[Key, int] = {}
    while left and limit > 0:
        each = max(1, limit // len(left))
        for key, share in list(left.items()):
            more = min(each, share, limit)
            given[key] = given.get(key, 0) + more
            limit -= more
            left[key] -= more
            if not left[key]:
                del left[key]
            if not limit:
                break
    return given


def in_turn(flows: Iterable[Sequence[Row]], size_of: Callable[[Row], int], room: int) -> list[Row]:
    """The first row of each flow, then the second of each, …, as far as their sizes go into `room`. A flow whose next
    row does not fit has no more turns.
    """
    chosen: list[Row] = []
    left = [iter(rows) for rows in flows]
    while left:
        again = []
        for rows in left:
            row = next(rows, None)
            if row is not None and size_of(row) <= room:
                chosen.append(row)
                room -= size_of(row)
                again.append(rows)
        left = again
    return chosen


def room_for(flows: Iterable[Sequence[Row]], size_of: Callable[[Row], int], most: int) -> int:
    """Bytes for one call: `most`, or more if the very first row alone is larger."""
    return next((max(most, size_of(rows[0])) for rows in flows if rows), most)


def left_over(shares: dict[Key, int], asked: Mapping[Key, int], given: Mapping[Key, int]) -> None:
    """Count what was `given` down from the shares; a flow that gave fewer than were `asked` has no more for this call.
    Those that were asked go behind those whose turn did not come.
    """
    for key, quota in asked.items():
        left = shares.pop(key) - quota
        if given.get(key, 0) == quota:
            shares[key] = left
