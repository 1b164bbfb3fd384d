"""How fast the drain may publish what waited, so that a recovering broker is not flooded.

Three bounds, of which the lowest holds:

    slow start   the first batch after a (re)connect has FIRST_BATCH tasks; each batch that went well doubles the next,
                 one that did not halves it: the broker's answers set the pace, as TCP's do
    rate         `rate` tasks a second, as a bucket that holds at most one second's worth
    share        at most `most` tasks of the drain in flight at once, so that new tasks always find room in the window
"""

from __future__ import annotations

from typing import Final

FIRST_BATCH: Final = 50
"""Tasks. A broker that has just come back takes this many within milliseconds, and doubling reaches 500 in four
batches: nobody waits for the caution."""


class Pace:
    """`rate` in tasks a second, 0 is unbounded; `batch` and `most` in tasks. `now` never goes back."""

    def __init__(self, *, batch: int, most: int, rate: float) -> None:
        self._batch = batch
        self._most = most
        self._rate = rate
        self._size = min(FIRST_BATCH, batch)
        self._in_flight = 0
        self._tokens = max(1.0, rate)
        self._filled_at: float | None = None

    def __repr__(self) -> str:
        return f"<Pace size={self._size} in_flight={self._in_flight} tokens={self._tokens:.1f}>"

    def take(self, now: float) -> int:
        """How many tasks may be leased now; they count as in flight until `returned`."""
        self._fill(now)
        room = min(self._size, max(0, self._most - self._in_flight))
        if self._rate:
            room = min(room, int(self._tokens))
        return room

    def started(self, count: int) -> None:
        """`count` tasks were leased and are being published."""
        self._in_flight += count
        if self._rate:
            self._tokens -= count

    def ended(self, count: int, *, well: bool) -> None:
        """A batch of `count` is settled. `well`: the broker answered for all of them."""
        self._in_flight -= count
        if well:
            self._size = min(self._batch, self._size * 2)
        else:
            self._size = max(1, self._size // 2)

    def restart(self) -> None:
        """The link was made anew: begin slowly again."""
        self._size = min(FIRST_BATCH, self._batch)

    def wait(self, now: float) -> float:
        """Seconds until the rate admits one more task; 0 if it does now."""
        if not self._rate:
            return 0.0
        self._fill(now)
        return max(0.0, (1.0 - self._tokens) / self._rate)

    def _fill(self, now: float) -> None:
        if self._filled_at is not None:
            self._tokens = min(max(1.0, self._rate), self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
