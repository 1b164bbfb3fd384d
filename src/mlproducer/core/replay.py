"""How many dead letters are replayed (or purged): chunk by chunk, newest first, no faster than asked.

    died_at   long ago ───────────────────────── start ──────> now
                 │ page 3 │ page 2 │ page 1 │      │  dies again meanwhile: not ours
                                   └ cursor ┘

Dead letters are listed newest first, and what a chunk took has left the queue. So the next page is asked for from the
place where the last one ended, and not by an offset, which would skip as many as were taken.

Race: a task is replayed with the first chunk, published, refused and dead again before the last page is read. It died
after the start, and only what died before it is read: it is replayed once. If it died on a machine whose clock is
behind ours it may look older than the start, and then it is still, in all likelihood, newer than the cursor. Were it
not even that, the number counted at the start bounds the whole.

The rate is kept from chunk to chunk: the next one starts no sooner than what the last one took is paid for. A spool
that was slow for a minute is not made up for by a flood afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from mlproducer.rows import DeadEntry, DeadFilter

CHUNK: Final = 500
"""Dead letters in one transaction: enough that commits cost little, few enough that others get their turn."""

Chosen = Sequence[str] | DeadFilter
"""Which dead letters: task ids, or all that a filter lets through. An empty filter lets all through."""


def as_of(where: DeadFilter, now: float) -> DeadFilter:
    """`where`, but only what died before `now` (Unix seconds)."""
    return where if where.older_than is not None and where.older_than <= now else replace(where, older_than=now)


def chunk_of(left: int, rate: float | None) -> int:
    """How many to take at once of `left`: with a rate (tasks per second), at most one second's worth."""
    most = CHUNK if rate is None else max(1, min(CHUNK, math.floor(rate)))
    return min(left, most)


def rest(taken: int, spent: float, rate: float | None) -> float:
    """Seconds to wait after a chunk of `taken` tasks that took `spent` seconds, so that `rate` is kept."""
    return 0.0 if rate is None else max(0.0, taken / rate - spent)


def in_words(chosen: Chosen) -> str:
    """For the audit: what was asked for. The ids themselves are in the audit anyway."""
    if not isinstance(chosen, DeadFilter):
        return "by id"
    moments = (("died before", chosen.older_than), ("died since", chosen.newer_than))
    words = [f"{name} {_moment(at)}" for name, at in moments if at is not None]
    fields = (("type", chosen.task_type), ("reason", chosen.reason), ("text", chosen.text))
    words[:0] = [f"{name} {value!r}" for name, value in fields if value is not None]
    return ", ".join(words) or "all"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")


class Cursor:
    """Where the next page of a filter begins; `where` and `offset` are what to ask for.

    Many die in one moment, so the moment in which the last page ended is read again. What was taken of it is gone by
    then, as a rule. Not always: an id that waits in the retry queue as well cannot be replayed, and stays. Those are
    known here by their ids and passed over, so that they neither hold up the others nor are taken again.
    """

    def __init__(self, where: DeadFilter) -> None:
        self.where = where
        self.offset = 0
        self._moment: float | None = None
        self._taken: set[str] = set()
        """Of `_moment` only."""

    def fresh(self, page: Sequence[DeadEntry]) -> tuple[str, ...]:
        """The ids of `page` that were not taken yet; the cursor moves behind them. None: ask again."""
        fresh = tuple(entry.task_id for entry in page if entry.task_id not in self._taken)
        if not fresh:
            self.offset += len(page)
            return ()
        moment = page[-1].died_at
        if moment != self._moment:
            self._moment, self._taken = moment, set()
            self.where = replace(self.where, older_than=math.nextafter(moment, math.inf))
        self._taken.update(entry.task_id for entry in page if entry.died_at == moment)
        self.offset = 0
        return fresh
