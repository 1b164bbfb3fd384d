"""A spool in memory. NOT durable: what it holds is gone with the process. For tests and for trying things out."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from mlproducer.ports import (
    Again,
    Bury,
    DeadFilter,
    DeadLetter,
    Done,
    Lease,
    SpoolRow,
    SpoolSize,
    Verdict,
)


@dataclass(slots=True)
class _Held:
    row: SpoolRow
    token: str = ""
    until: float = 0.0

    @property
    def free_at(self) -> float:
        """When it may be leased next: when it is due, or when its lease ends."""
        return self.until if self.token else self.row.due_at


class MemorySpool:
    """`ports.Spool` over two dicts; each call is whole, since none of them waits."""

    def __init__(self) -> None:
        self._rows: dict[str, _Held] = {}
        self._dead: dict[str, DeadLetter] = {}
        self._tokens = itertools.count(1)

    async def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close; the rows stay while the object does."""

    async def put(self, row: SpoolRow) -> bool:
        task_id = row.envelope.task_id
        if task_id in self._rows or task_id in self._dead:
            return False
        self._rows[task_id] = _Held(row)
        return True

    async def lease(self, limit: int, *, now: float, until: float) -> Sequence[Lease]:
        free = sorted((held for held in self._rows.values() if held.free_at <= now), key=lambda held: held.free_at)
        leases = []
        for held in sorted(free[:limit], key=lambda held: held.row.due_at):
            held.token, held.until = str(next(self._tokens)), until
            leases.append(Lease(held.row, held.token))
        return leases

    async def settle(self, lease: Lease, verdict: Verdict) -> bool:
        envelope = lease.row.envelope
        held = self._rows.get(envelope.task_id)
        if held is None or held.token != lease.token:
            return False
        row = held.row
        match verdict:
            case Done():
                del self._rows[envelope.task_id]
            case Again(due_at=due_at, attempts=attempts, cause=cause, text=text, alone=alone):
                again = SpoolRow(envelope, row.accepted_at, due_at, attempts, cause, text, alone)
                self._rows[envelope.task_id] = _Held(again)
            case Bury(died_at=died_at, attempts=attempts, reason=reason, code=code, text=text):
                del self._rows[envelope.task_id]
                letter = DeadLetter(envelope, row.accepted_at, died_at, attempts, reason, code, text)
                self._dead[envelope.task_id] = letter
        return True

    async def measure(self) -> SpoolSize:
        rows = [held.row for held in self._rows.values()]
        return SpoolSize(
            tasks=len(rows),
            bytes=sum(row.envelope.size for row in rows),
            oldest_accepted_at=min((row.accepted_at for row in rows), default=None),
            dead=len(self._dead),
            next_due_at=min((held.free_at for held in self._rows.values()), default=None),
        )

    async def find(self, task_id: str) -> SpoolRow | DeadLetter | None:
        held = self._rows.get(task_id)
        return held.row if held is not None else self._dead.get(task_id)

    async def waiting(self, *, limit: int, offset: int = 0) -> Sequence[SpoolRow]:
        rows = sorted((held.row for held in self._rows.values()), key=lambda row: (row.due_at, row.envelope.task_id))
        return rows[offset : offset + limit]

    async def dead(self, where: DeadFilter, *, limit: int, offset: int = 0) -> Sequence[DeadLetter]:
        letters = sorted(
            (letter for letter in self._dead.values() if _matches(letter, where)),
            key=lambda letter: (-letter.died_at, letter.envelope.task_id),
        )
        return letters[offset : offset + limit]

    async def replay(self, task_ids: Sequence[str], *, now: float) -> int:
        found = [self._dead.pop(task_id) for task_id in dict.fromkeys(task_ids) if task_id in self._dead]
        for letter in found:
            row = SpoolRow(letter.envelope, letter.accepted_at, now, cause="replayed")
            self._rows[letter.envelope.task_id] = _Held(row)
        return len(found)

    async def purge(self, task_ids: Sequence[str]) -> int:
        return sum(self._dead.pop(task_id, None) is not None for task_id in dict.fromkeys(task_ids))


def _matches(letter: DeadLetter, where: DeadFilter) -> bool:
    return (
        (where.task_type is None or letter.envelope.task_type == where.task_type)
        and (where.reason is None or letter.reason == where.reason)
        and (where.older_than is None or letter.died_at < where.older_than)
        and (where.text is None or where.text.lower() in letter.text.lower())
    )
