"""The engine's clock: the time that all producers on a spool share (docs/adr/0015).

A spool on a server has the server's time, and so has whoever uses it: when a task was accepted, confirmed or buried,
whether it has expired, which hour it counts for. Between two measurements our monotonic clock carries it on. A spool of
one machine has the host's time, and so have we.

Whether a row is due or a lease is over is never decided by this, but by the store, in its own statement.
"""

from __future__ import annotations

from typing import Final

from mlproducer.events import ClockJumped
from mlproducer.ports import Clock

STEP: Final = 1.0
"""Seconds by which a clock must have moved by itself to be said to have jumped."""
BAD_ANSWER: Final = 0.5
"""Seconds: an answer that took longer says too little of what time it is now, unless the clock jumped by more."""
APART: Final = 5.0
"""Seconds between the host's clock and the store's that are said in health: most clocks agree to a few milliseconds."""
SHOWN: Final = 900.0
"""Seconds for which health tells of a jump."""


class SpoolTime:
    """A `ports.Clock` over the host's. It is told what time the store has, and tells when a clock jumped."""

    def __init__(self, host: Clock) -> None:
        self._host = host
        self.monotonic = host.monotonic
        self.random = host.random
        self._host_offset = self._read_host()[0]
        """The wall clock less the monotonic one."""
        self._offset: float | None = None
        """The store's clock less the monotonic one; None if the store has the host's time."""
        self._jump: ClockJumped | None = None
        self._jumped_at = 0.0

    def now(self) -> float:
        return self._host.now() if self._offset is None else self._host.monotonic() + self._offset

    @property
    def apart(self) -> float:
        """Seconds by which the host's clock is ahead of the store's; 0 for a store that has the host's."""
        return 0.0 if self._offset is None else self._host_offset - self._offset

    def look(self) -> ClockJumped | None:
        """Whether the host's clock jumped since the last look."""
        offset, doubt = self._read_host()
        moved = offset - self._host_offset
        if abs(moved) <= STEP + doubt:
            return None
        self._host_offset = offset
        return self._jumped(ClockJumped("host", moved))

    def heard(self, at: float, asked: float) -> ClockJumped | None:
        """The store, asked at `asked` on the monotonic clock, answered just now that it was `at`. Whether it jumped."""
        answered = self._host.monotonic()
        doubt, offset = (answered - asked) / 2, at - (asked + answered) / 2
        moved = 0.0 if self._offset is None else offset - self._offset
        jumped = abs(moved) > STEP + doubt
        if self._offset is None or jumped or answered - asked <= BAD_ANSWER:
            self._offset = offset
        return self._jumped(ClockJumped("store", moved)) if jumped else None

    def note(self) -> str:
        """For people: what is to be said of the clocks now; empty if there is nothing."""
        notes: list[str] = []
        if abs(self.apart) > APART:
            way = "ahead of" if self.apart > 0 else "behind"
            notes.append(
                f"this host's clock is {abs(self.apart):,.0f} s {way} the spool's, which decides: an eta or "
                "expires that is computed here is off by as much. Set the host's clock (NTP)"
            )
        since = self.monotonic() - self._jumped_at
        if self._jump is not None and since < SHOWN:
            notes.append(f"{since:,.0f} s ago {in_words(self._jump)}")
        return "; ".join(notes)

    def _jumped(self, jump: ClockJumped) -> ClockJumped:
        self._jump, self._jumped_at = jump, self.monotonic()
        return jump

    def _read_host(self) -> tuple[float, float]:
        """The wall clock less the monotonic one, and by how much that may be wrong: we may be stopped in between."""
        before = self._host.monotonic()
        wall = self._host.now()
        after = self._host.monotonic()
        return wall - (before + after) / 2, (after - before) / 2


def in_words(jump: ClockJumped) -> str:
    whose = "the clock of this host" if jump.clock == "host" else "the clock of the spool's server"
    way = "forward" if jump.seconds > 0 else "back"
    slept = " (or the machine slept)" if jump.clock == "host" and jump.seconds > 0 else ""
    return f"{whose} was set {way} by {abs(jump.seconds):,.1f} s{slept}"
