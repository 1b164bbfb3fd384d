"""Replay and purge of dead letters, over any spool: for the engine, and for the command line without one.

What to take next and how long to wait is decided in `core.replay`; here it is done. Each chunk is one transaction of
the spool, its audit with it. So wherever this ends (cancelled, the spool lost, the machine off), what was taken is
taken, the rest is dead as before, and the audits say which.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from msgspec import Struct

from mlproducer.core.replay import Chosen, Cursor, as_of, chunk_of, in_words, rest
from mlproducer.ports import Clock, Spool
from mlproducer.rows import Audit, DeadFilter, DeadLetter

MAX_BY: Final = 128
"""Characters of a name in an audit."""

_Meant = tuple[str, ...] | DeadFilter


class Step(Struct, frozen=True):
    """How far it is after a chunk. The first step is before any, and says how many there are."""

    task_ids: tuple[str, ...]
    """This chunk's."""
    found: int
    """How many of this chunk were dead letters still."""
    taken: int
    """Dead letters looked at so far, of `total`."""
    total: int
    done: int
    """How many were found so far: replayed, or removed."""


@dataclass(frozen=True, slots=True)
class _Errand:
    action: Literal["replay", "purge"]
    by: str
    detail: str
    rate: float | None


@dataclass(frozen=True, slots=True)
class Replayer:
    """Works through chosen dead letters. `sleep` takes seconds; tests bring one that does not wait."""

    spool: Spool
    clock: Clock
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def plan(self, chosen: Chosen) -> int:
        """How many dead letters that is now. Changes nothing. Raises: SpoolUnavailable."""
        meant = _meant(chosen)
        if isinstance(meant, DeadFilter):
            return await self.spool.count_dead(as_of(meant, self.clock.now()))
        return len([task_id for task_id in meant if isinstance(await self.spool.find(task_id), DeadLetter)])

    def replay(
        self, chosen: Chosen, *, by: str, rate: float | None = None, limit: int | None = None
    ) -> AsyncGenerator[Step, None]:
        """Back to the retry queue with no attempts spent, a step a chunk.

        `by` goes into the audit; `rate` is in tasks per second; `limit` bounds how many are taken.

        Raises: ValueError, at once, if one of these is wrong; SpoolUnavailable, from a step.
        """
        return self._sweep(
            _meant(chosen), _Errand("replay", checked_by(by), in_words(chosen), _rate(rate)), _limit(limit)
        )

    def purge(self, chosen: Chosen, *, by: str, limit: int | None = None) -> AsyncGenerator[Step, None]:
        """Remove them for good; else as `replay`."""
        return self._sweep(_meant(chosen), _Errand("purge", checked_by(by), in_words(chosen), None), _limit(limit))

    async def _sweep(self, meant: _Meant, errand: _Errand, limit: float) -> AsyncGenerator[Step, None]:
        chunks, total = await self._chunks(meant, errand.rate, limit)
        taken = done = 0
        async with aclosing(chunks):
            yield Step((), 0, taken, total, done)
            async for task_ids in chunks:
                started = self.clock.monotonic()
                found = await self._take(task_ids, errand)
                taken, done = taken + len(task_ids), done + found
                yield Step(task_ids, found, taken, total, done)
                if taken < total:
                    await self.sleep(rest(len(task_ids), self.clock.monotonic() - started, errand.rate))

    async def _chunks(
        self, meant: _Meant, rate: float | None, limit: float
    ) -> tuple[AsyncGenerator[tuple[str, ...], None], int]:
        """The chunks of ids to take, and how many ids they hold at most."""
        if isinstance(meant, DeadFilter):
            where = as_of(meant, self.clock.now())
            total = int(min(limit, await self.spool.count_dead(where)))
            return self._pages(where, total, rate), total
        total = int(min(limit, len(meant)))
        return _slices(meant[:total], rate), total

    async def _pages(self, where: DeadFilter, left: int, rate: float | None) -> AsyncGenerator[tuple[str, ...], None]:
        cursor = Cursor(where)
        while left:
            page = await self.spool.dead(cursor.where, limit=chunk_of(left, rate), offset=cursor.offset)
            if not page:
                return
            if fresh := cursor.fresh(page):
                left -= len(fresh)
                yield fresh

    async def _take(self, task_ids: tuple[str, ...], errand: _Errand) -> int:
        audit = Audit(self.clock.now(), errand.by, errand.action, errand.detail, task_ids)
        match errand.action:
            case "replay":
                return await self.spool.replay(audit)
            case "purge":
                return await self.spool.purge(audit)
            case _:
                assert_never(errand.action)


async def _slices(ids: tuple[str, ...], rate: float | None) -> AsyncGenerator[tuple[str, ...], None]:
    start = 0
    while count := chunk_of(len(ids) - start, rate):
        yield ids[start : start + count]
        start += count


def _meant(chosen: Chosen) -> _Meant:
    """Each id once. Raises: TypeError, for a text, which is a sequence of letters to Python and of ids to nobody."""
    if isinstance(chosen, str):
        raise TypeError("chosen is one text; give a list of task ids, even for one")
    return chosen if isinstance(chosen, DeadFilter) else tuple(dict.fromkeys(chosen))


def _rate(rate: float | None) -> float | None:
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError("rate: tasks per second, more than 0")
    return rate


def _limit(limit: int | None) -> float:
    if limit is not None and limit < 1:
        raise ValueError("limit: 1 or more dead letters")
    return math.inf if limit is None else limit


def checked_by(by: str) -> str:
    """A name for the audit. Raises: ValueError."""
    if not (0 < len(by) <= MAX_BY and by.isprintable() and by.strip()):
        raise ValueError(f"by: who does this, in 1 to {MAX_BY} printable characters")
    return by
