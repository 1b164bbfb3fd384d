"""What happened of late: listeners."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from mlproducer.core.verdict import WINDOW
from mlproducer.events import Event, TaskConfirmed, TaskRefused, TaskSpooled
from mlproducer.ports import Clock, Listener


class Refusals:
    """Counts by second, so that a flood of refusals takes no memory."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._seconds: deque[tuple[float, Counter[str]]] = deque()
        self._accepted_at: float | None = None
        self.handlers: dict[type[Event], Listener] = {TaskRefused: self, TaskSpooled: self._accepted}

    def __call__(self, event: Event) -> None:
        if not isinstance(event, TaskRefused):
            return
        now = self._monotonic()
        self._forget(now)
        if not self._seconds or now - self._seconds[-1][0] >= 1:
            self._seconds.append((now, Counter()))
        self._seconds[-1][1][event.reason] += 1

    def within(self) -> tuple[tuple[str, int], ...]:
        """Of the last `WINDOW` seconds, by reason, the most frequent first."""
        self._forget(self._monotonic())
        total: Counter[str] = Counter()
        for _, counts in self._seconds:
            total += counts
        return tuple(total.most_common())

    def spooled(self) -> bool:
        """A task was accepted into the spool within the window."""
        return self._accepted_at is not None and self._monotonic() - self._accepted_at <= WINDOW

    def _accepted(self, _event: Event) -> None:
        self._accepted_at = self._monotonic()

    def _forget(self, now: float) -> None:
        while self._seconds and now - self._seconds[0][0] > WINDOW:
            self._seconds.popleft()


class LastConfirm:
    """A listener of confirms: remembers when a task was last confirmed (Unix seconds)."""

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self.at: float | None = None
        self.handlers: dict[type[Event], Listener] = {TaskConfirmed: self}

    def __call__(self, _event: Event) -> None:
        self.at = self._now()

    def age(self) -> float | None:
        """Seconds since; None if there was none."""
        return None if self.at is None else max(0.0, self._now() - self.at)

    def within(self, seconds: float) -> bool:
        """There was one that lately."""
        age = self.age()
        return age is not None and age < seconds


@dataclass(frozen=True, slots=True)
class Recent:
    """Both."""

    last_confirm: LastConfirm
    refusals: Refusals
