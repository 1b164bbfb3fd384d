"""Whether a new attempt may go to the broker, and whether a new task may go into the spool.

The way to the broker is asked in the order of how much is wrong: no link, a link that is blocked, a breaker that is
open, a window that is full. Whatever is wrong, the task is not refused: it takes the detour through the spool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mlproducer.core.breaker import Admission
from mlproducer.outcome import NotSentCause
from mlproducer.ports import LinkView

LOW_MARK: Final = 0.9
"""Of the high mark. Without the gap, a full spool that drains would admit and refuse one task at a time, and callers
would meet a refusal at random; with it they meet a spool that is closed until it has room for a tenth again."""


@dataclass(frozen=True, slots=True)
class Window:
    """What may be in flight at once."""

    max_tasks: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Direct:
    """Publish now."""


@dataclass(frozen=True, slots=True)
class Detour:
    """Into the spool, because of `cause`."""

    cause: NotSentCause


def route(link: LinkView, admission: Admission, *, size: int, window: Window) -> Direct | Detour:
    """Decide on one attempt of `size` bytes."""
    if not link.connected:
        return Detour(NotSentCause.NOT_CONNECTED)
    if link.blocked:
        return Detour(NotSentCause.BLOCKED)
    if admission is Admission.REFUSED:
        return Detour(NotSentCause.BREAKER_OPEN)
    # One task larger than the whole window still goes when nothing else is in flight, or it would never go.
    over = link.in_flight_bytes + size > window.max_bytes and link.in_flight > 0
    if link.in_flight >= window.max_tasks or over:
        return Detour(NotSentCause.WINDOW_FULL)
    return _DIRECT


_DIRECT: Final = Direct()


class SpoolGate:
    """Closes at the high mark, opens again under the low one."""

    def __init__(self, max_tasks: int, max_bytes: int) -> None:
        self._max_tasks = max_tasks
        self._max_bytes = max_bytes
        self._closed = False

    def check(self, tasks: int, size: int, adding: int) -> str | None:
        """None admits a task of `adding` bytes to a spool of `tasks` and `size` bytes; else why not."""
        if self._closed and tasks < self._max_tasks * LOW_MARK and size < self._max_bytes * LOW_MARK:
            self._closed = False
        if not self._closed and tasks + 1 <= self._max_tasks and size + adding <= self._max_bytes:
            return None
        self._closed = True
        return (
            f"the spool holds {tasks:,} of {self._max_tasks:,} tasks and {size:,} of {self._max_bytes:,} bytes, and "
            f"opens again under 90 %: is the broker down? ML_SPOOL_MAX_TASKS and ML_SPOOL_MAX_BYTES are the limits"
        )
