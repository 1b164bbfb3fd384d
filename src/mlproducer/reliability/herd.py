"""Scenario: 1,000 producers lose the same broker in the same moment. When do they come back?

Pure: virtual time, the engine's own back-off, no broker. Producers that count alike come back alike, and a broker that
has just started meets all of them at once; random jitter on each wait spreads them, the more the longer it lasts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

from mlproducer.core.backoff import Backoff
from mlproducer.reliability.book import Book
from mlproducer.reliability.stage import OwnSettings, Scale

AWAY: Final = 60.0
"""Seconds of virtual time until the broker answers again."""
WINDOW: Final = 0.1
"""Seconds in which reconnects count as simultaneous."""
_SPREAD: Final = 10
"""Jitter is worth its name if it divides the peak at the broker's return by this or more."""
_BAR: Final = 24


@dataclass(frozen=True, slots=True)
class Round:
    """All producers' attempts of one number. `after` is the earliest one's moment, in seconds."""

    attempt: int
    after: float
    peak: int
    """The most that fell into one window."""


@dataclass(frozen=True, slots=True)
class Herd:
    rounds: tuple[Round, ...]
    at_return: int
    """The most attempts that found the broker back in one window."""

    @property
    def peaks(self) -> dict[int, int]:
        return {each.attempt: each.peak for each in self.rounds}


def herd(backoff: Backoff, producers: int, away: float, rand: Callable[[], float]) -> Herd:
    """The attempts of `producers` that lost the link at 0, until each was answered: the first at `away` or after."""
    moments: dict[int, list[float]] = {}
    answered = []
    for _ in range(producers):
        now, attempt = 0.0, 0
        while now < away:
            attempt += 1
            now += backoff.delay(attempt, rand())
            moments.setdefault(attempt, []).append(now)
        answered.append(now)
    rounds = (Round(attempt, min(times), _peak(times)) for attempt, times in sorted(moments.items()))
    return Herd(tuple(rounds), _peak(answered))


def _peak(times: list[float]) -> int:
    return max(Counter(math.floor(time / WINDOW) for time in times).values())


def thundering_herd(book: Book, scale: Scale) -> None:
    """The default back-off, with its jitter and without."""
    settings = OwnSettings.load()
    first, cap, jitter = settings.ml_reconnect_first, settings.ml_reconnect_cap, settings.ml_reconnect_jitter
    book.step(f"{scale.producers:,} producers reconnect in virtual time")
    random = Random(1)  # the same picture each time
    alike = herd(Backoff(first, cap, 0.0), scale.producers, AWAY, random.random)
    spread = herd(Backoff(first, cap, jitter), scale.producers, AWAY, random.random)
    book.plot = plot(alike, spread, jitter)
    without, with_jitter = alike.at_return, spread.at_return
    book.extra = {
        "producers": scale.producers,
        "window": WINDOW,
        "peak_without_jitter": without,
        "peak_with_jitter": with_jitter,
        "peaks_by_attempt_without_jitter": list(alike.peaks.values()),
        "peaks_by_attempt_with_jitter": list(spread.peaks.values()),
    }
    book.saw(
        f"a broker that is back after {AWAY:.0f} s meets {with_jitter:,} producers at most in {WINDOW * 1000:.0f} ms "
        f"with jitter, and {without:,} without",
        ok=with_jitter * _SPREAD <= without,
    )


def plot(alike: Herd, spread: Herd, jitter: float) -> tuple[str, ...]:
    """Both herds side by side, a line an attempt."""
    most = max(alike.peaks.values())
    head = f"{'attempt':<8}{'from':>7}   {'without jitter':<{_BAR + 8}}with up to {jitter * 100:.0f} % jitter"
    return (
        head,
        *(
            f"{each.attempt:<8}{each.after:>5.1f} s   {_bar(each.peak, most):<{_BAR + 8}}"
            f"{_bar(spread.peaks.get(each.attempt, 0), most)}".rstrip()
            for each in alike.rounds
        ),
    )


def _bar(count: int, most: int) -> str:
    eighths = math.ceil(count / most * _BAR * 8)
    full, rest = divmod(eighths, 8)
    return f"{'█' * full}{' ▏▎▍▌▋▊▉'[rest].strip()} {count:,}"
