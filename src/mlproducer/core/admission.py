"""Whether a new attempt may go to the broker, and whether a new task may go into the spool.

The way to the broker is asked in the order of how much is wrong: no link, a link that is blocked, a breaker that is
open, a route that is held, a window that is full. Whatever is wrong, the task is not refused: it takes the detour
through the spool.

The spool's own gate has a high mark and a low one. Without the gap, a full spool that drains would admit and refuse one
task at a time, and callers would meet a refusal at random; with it they meet a spool that is closed until it has room
for a tenth again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlproducer.core.breaker import Admission
from mlproducer.core.sharing import most_more, within_share
from mlproducer.outcome import NotSentCause


@dataclass(frozen=True, slots=True)
class Window:
    """What may be in flight at once."""

    max_tasks: int
    max_bytes: int


@dataclass(eq=False, slots=True)
class Load:
    """What is in flight."""

    tasks: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.tasks += 1
        self.bytes += size

    def remove(self, size: int) -> None:
        self.tasks -= 1
        self.bytes -= size


class Part(Protocol):
    """What has a share: a route of the window, and a tenant of its route's part."""

    @property
    def weight(self) -> int: ...
    @property
    def load(self) -> Load: ...


def obstacle_to(
    link: NotSentCause | None,
    breaker: Admission,
    *,
    route_refused: bool,
    size: int,
    window: Window,
    all_in_flight: Load,
    parts: Sequence[Part],
    quiet: bool = False,
) -> NotSentCause | None:
    """Decide on one attempt of `size` bytes: None publishes it now, a cause sends it into the spool.

    `link` is what the link says: not connected, blocked, or None. `route_refused`: its route is held. `parts` are what
    could crowd out others of their kind: its route, and then its tenant, which has a share of what its route may take.
    `quiet`: its route answers nothing (`core.quiet`), and has no part of the window until it does.
    """
    if link is not None:
        return link
    if breaker is Admission.REFUSED:
        return NotSentCause.BREAKER_OPEN
    if route_refused:
        return NotSentCause.ROUTE_HELD
    free, free_bytes = window.max_tasks - all_in_flight.tasks, window.max_bytes - all_in_flight.bytes
    # One task larger than the whole window still goes when nothing else is in flight, or it would never go.
    if free <= 0 or (all_in_flight.tasks and size > free_bytes):
        return NotSentCause.WINDOW_FULL
    return NotSentCause.WINDOW_FULL if quiet or (parts and not _have_room(parts, free, free_bytes)) else None


def _have_room(parts: Sequence[Part], free: int, free_bytes: int) -> bool:
    whole: Part | None = None
    for part in parts:
        if whole is not None:
            free = most_more(whole.load.tasks, free, whole.weight)
            free_bytes = most_more(whole.load.bytes, free_bytes, whole.weight)
        load, weight = part.load, part.weight
        within = within_share(load.tasks, free, weight) and within_share(load.bytes, free_bytes, weight)
        if load.tasks and not within:
            return False
        whole = part
    return True


class SpoolGate:
    """Closes at the high mark of tasks, bytes or age, opens again when all three are under the low one.

    `max_age` in seconds; `low_mark` as a share of each limit.
    """

    def __init__(self, max_tasks: int, max_bytes: int, max_age: float, low_mark: float) -> None:
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._low_mark = low_mark
        self._closed = False

    def check(self, tasks: int, size: int, age: float, adding: int) -> str | None:
        """None admits a task of `adding` bytes to a spool of `tasks` and `size` bytes whose oldest task was first
        due `age` seconds ago; else why not.
        """
        if self._closed and self._has_room_again(tasks, size, age):
            self._closed = False
        over = self._over(tasks, size, age, adding)
        if not self._closed and over is None:
            return None
        self._closed = True
        return (
            f"{over or 'the spool was full'}, and it opens again under {self._low_mark:.0%} of its limits: is the "
            "broker down? ML_SPOOL_MAX_TASKS, ML_SPOOL_MAX_BYTES and ML_SPOOL_MAX_AGE are the limits"
        )

    def refuses(self, tasks: int, size: int, age: float) -> bool:
        """Whether `check` would refuse the smallest task. Changes nothing."""
        closed = self._closed and not self._has_room_again(tasks, size, age)
        return closed or self._over(tasks, size, age, 1) is not None

    def nearest(self, tasks: int, size: int, age: float) -> tuple[str, float]:
        """The setting whose limit is nearest, and how full by it, as a share; 1 and more refuses."""
        shares = {
            "ML_SPOOL_MAX_TASKS": tasks / self._max_tasks,
            "ML_SPOOL_MAX_BYTES": size / self._max_bytes,
            "ML_SPOOL_MAX_AGE": age / self._max_age,
        }
        return max(shares.items(), key=lambda each: each[1])

    def full_in(self, tasks: int, size: int, age: float, tasks_growth: float, size_growth: float) -> float | None:
        """Seconds until the first limit is reached, if it grows on by so many tasks and bytes a second; None if it does
        not grow. A task that is late grows older by a second each second, as long as the spool does not shrink.
        """
        left = [
            (limit - now) / growth
            for now, limit, growth in (
                (tasks, self._max_tasks, tasks_growth),
                (size, self._max_bytes, size_growth),
                (age, self._max_age, 1.0 if age > 0 and tasks_growth > 0 else 0.0),
            )
            if growth > 0
        ]
        return max(0.0, min(left)) if left else None

    def _has_room_again(self, tasks: int, size: int, age: float) -> bool:
        low = self._low_mark
        return tasks < self._max_tasks * low and size < self._max_bytes * low and age < self._max_age * low

    def _over(self, tasks: int, size: int, age: float, adding: int) -> str | None:
        if tasks + 1 > self._max_tasks or size + adding > self._max_bytes:
            return f"the spool holds {tasks:,} of {self._max_tasks:,} tasks and {size:,} of {self._max_bytes:,} bytes"
        if age > self._max_age:
            return f"a task in the spool has been due for {age:,.0f} s, more than {self._max_age:,.0f}"
        return None
